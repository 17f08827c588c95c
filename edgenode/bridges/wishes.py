"""What a caller of another protocol says of a task in that protocol's metadata, and the keys under which it is told.

Keys of a request: `dev.edgenode/idempotency-key`, `-tenant`, `-context`, `-priority` (0-9), `-timeout` (seconds), `-scope`
(local or fleet), `-agent`, `-selector`, `-attempts`, `-on-lost` (retry, wait or fail), `-cost-limit`, `-skill` and `-mode`
(task or call), each after the slash, e.g. `dev.edgenode/priority`; `traceparent` and `tracestate` as W3C has them.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from typing import Any

from edgenode.link.errors import InvalidArgument
from edgenode.sdk.spec import SpecOptions

PREFIX = "dev.edgenode/"
SKILL_KEY = PREFIX + "skill"
MODE_KEY = PREFIX + "mode"
TAGS_KEY = PREFIX + "tags"
TASK_KEY = PREFIX + "task"
STATE_KEY = PREFIX + "state"
BLOBS = "edgenode://blobs/"  # and a digest: content that a result refers to, as a URI
REASON_KEY = PREFIX + "reason"

_MODES = ("task", "call")


def _text(value: Any) -> str:
    if not isinstance(value, str):
        raise ValueError("a text")
    return value


def _whole(value: Any) -> int:
    if isinstance(value, bool) or not isinstance(value, int | float) or value != int(value):
        raise ValueError("a whole number")
    return int(value)


def _number(value: Any) -> float:
    if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value) or value < 0:
        raise ValueError("a number of at least 0")
    return float(value)


def _mode(value: Any) -> str:
    if value not in _MODES:
        raise ValueError("task or call")
    return str(value)


_KEYS: dict[str, tuple[str, Callable[[Any], Any]]] = {
    PREFIX + "idempotency-key": ("idempotency_key", _text),
    PREFIX + "tenant": ("tenant", _text),
    PREFIX + "context": ("context_id", _text),
    PREFIX + "priority": ("priority", _whole),
    PREFIX + "scope": ("scope", _text),
    PREFIX + "agent": ("agent", _text),
    PREFIX + "selector": ("selector", _text),
    PREFIX + "attempts": ("retry", _whole),
    PREFIX + "on-lost": ("on_lost", _text),
    PREFIX + "cost-limit": ("cost_limit", _number),
    PREFIX + "timeout": ("timeout", _number),
    MODE_KEY: ("mode", _mode),
    SKILL_KEY: ("skill", _text),
    "traceparent": ("traceparent", _text),
    "tracestate": ("tracestate", _text),
}

# What a node says of a task of its own, as one does that has this node mounted: it is no wish.
_TOLD = frozenset({TASK_KEY, STATE_KEY, REASON_KEY})


class Wishes:
    """A request's metadata, read. `timeout`: seconds, None if it states none; `mode`: "task", "call" or unsaid."""

    def __init__(self, meta: Mapping[str, Any] | None) -> None:
        """Raises InvalidArgument (BAD_META) naming the key."""
        found: dict[str, Any] = {}
        for key, value in (meta or {}).items():
            if key in _TOLD:
                continue
            if key in _KEYS:
                option, read = _KEYS[key]
                try:
                    found[option] = read(value)
                except (ValueError, OverflowError) as error:
                    raise InvalidArgument(
                        "BAD_META", f"{key} is {value!r}", hint=f"expected {error}", field=key
                    ) from None
            elif key.startswith(PREFIX):
                raise InvalidArgument("BAD_META", f"{key} is not known", hint="see docs/agents.md", field=key)
        self.timeout: float | None = found.pop("timeout", None)
        self.mode: str = found.pop("mode", "")
        self.skill: str = found.pop("skill", "")
        self.options: SpecOptions = found  # type: ignore[assignment]

    def for_call(self) -> SpecOptions:
        """The options of a call, which is not stored: nobody tries it again. Raises InvalidArgument (BAD_META) for a key,
        which would not hold."""
        options = self.options.copy()
        if "idempotency_key" in options:
            raise InvalidArgument(
                "BAD_META",
                "a call is not stored, so its idempotency key would not hold",
                hint=f"leave out {PREFIX}idempotency-key, or {MODE_KEY}",
                field=PREFIX + "idempotency-key",
            )
        options.pop("retry", None)
        options.pop("on_lost", None)
        return options
