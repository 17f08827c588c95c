"""Checks that several messages share. Each returns the value or raises InvalidArgument naming the field."""

from __future__ import annotations

import enum
import math
import re
from collections.abc import Mapping
from functools import lru_cache
from pathlib import Path
from typing import TypeVar

from edgenode.link.errors import InvalidArgument, ResourceExhausted

_E = TypeVar("_E", bound=enum.IntEnum)
_MEDIA_TYPE = re.compile(r"[\x21-\x7e][\x20-\x7e]{0,126}")


def in_range(value: float, low: float, high: float, field: str) -> None:
    """Raises InvalidArgument (OUT_OF_RANGE) unless `low` <= `value` <= `high`; NaN is outside."""
    if not low <= value <= high:
        shown = f"from {low:g} to {high:g}" if math.isfinite(high) else f"{low:g} or more"
        raise InvalidArgument("OUT_OF_RANGE", f"{field} is {value:g}", hint=f"expected {shown}", field=field)


def short(value: str, limit: int, field: str) -> str:
    """Raises InvalidArgument (TOO_LONG) beyond `limit` characters."""
    if len(value) > limit:
        raise InvalidArgument(
            "TOO_LONG", f"{field} has {len(value)} characters", hint=f"at most {limit}", field=field, limit=limit
        )
    return value


def at_most(count: int, limit: int, field: str) -> None:
    """Raises InvalidArgument (TOO_MANY) beyond `limit` items."""
    if count > limit:
        raise InvalidArgument(
            "TOO_MANY", f"{field} has {count} items", hint=f"at most {limit}", field=field, limit=limit
        )


def fits(size: int, limit: int, field: str, reason: str = "TOO_LARGE") -> None:
    """Raises ResourceExhausted (`reason`), not retryable, beyond `limit` bytes."""
    if size > limit:
        raise too_large(size, limit, field, reason)


def too_large(size: int, limit: int, field: str, reason: str) -> ResourceExhausted:
    """The refusal of what has more than `limit` bytes, not retryable."""
    return ResourceExhausted(
        reason, f"{field} has {size} bytes", hint=f"at most {limit}", retryable=False, field=field, limit=limit
    )


@lru_cache(256)
def media_type(value: str, field: str) -> str:
    """Raises InvalidArgument (BAD_MEDIA_TYPE) unless it is empty or up to 127 printable ASCII characters."""
    if value and _MEDIA_TYPE.fullmatch(value) is None:
        raise InvalidArgument("BAD_MEDIA_TYPE", f"{field} is {value[:80]!r}", hint="e.g. application/json", field=field)
    return value


def absolute_path(value: str, field: str) -> Path:
    """Raises InvalidArgument (BAD_PATH) unless it is the absolute path of something that could be there."""
    if len(value) > 4096 or "\0" in value or not Path(value).is_absolute():
        raise InvalidArgument("BAD_PATH", f"{field} is {value[:200]!r}", hint="give an absolute path", field=field)
    return Path(value)


def choice(kind: type[_E], number: int, default: _E, field: str) -> _E:
    """The enum's member, `default` for 0. Raises InvalidArgument (UNKNOWN_VALUE) for a number not known here."""
    if number == 0:
        return default
    try:
        return kind(number)
    except ValueError:
        known = ", ".join(f"{member.value} {member.name}" for member in kind)
        raise InvalidArgument("UNKNOWN_VALUE", f"{field} is {number}", hint=f"expected {known}", field=field) from None


def free_facts(values: Mapping[str, str], field: str) -> None:
    """At most 32 free facts: keys up to 63 characters, values up to 1,024. Raises InvalidArgument."""
    at_most(len(values), 32, field)
    for key, value in values.items():
        short(key, 63, field)
        short(value, 1024, f"{field}[{key}]")
