"""Label selectors: `key=value`, `key!=value`, `key in (a,b)`, `key`, `!key`, joined by commas; all must hold.

`key!=value` also holds where the label is missing, as it does elsewhere in the world of labels.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from functools import lru_cache

from edgenode.link.errors import InvalidArgument

MAX_LENGTH = 1024

_WORD = r"[A-Za-z0-9._/-]{1,63}"
_REQUIREMENT = re.compile(
    rf"\s*(?:(?P<absent>!\s*{_WORD})"
    rf"|(?P<key>{_WORD})\s*(?:(?P<operator>!?=)\s*(?P<value>{_WORD})"
    rf"|\sin\s*\(\s*(?P<values>{_WORD}(?:\s*,\s*{_WORD})*)\s*\))?)\s*(?P<end>,|\Z)"
)
_HINT = "expected key=value, key!=value, key in (a,b), key or !key, joined by commas"


@dataclass(frozen=True, slots=True)
class Requirement:
    """One condition: the label's value is among `values` (None: it exists), or with `negated` the opposite."""

    key: str
    values: frozenset[str] | None
    negated: bool

    def holds(self, labels: Mapping[str, str]) -> bool:
        """Whether `labels` meet it."""
        value = labels.get(self.key)
        met = value is not None and (self.values is None or value in self.values)
        return met is not self.negated

    def __str__(self) -> str:
        if self.values is None:
            return f"!{self.key}" if self.negated else self.key
        if self.negated:
            return f"{self.key}!={min(self.values)}"
        if len(self.values) == 1:
            return f"{self.key}={min(self.values)}"
        return f"{self.key} in ({','.join(sorted(self.values))})"


@dataclass(frozen=True, slots=True)
class Selector:
    """Conditions that must all hold; none hold always."""

    requirements: tuple[Requirement, ...] = ()

    def matches(self, labels: Mapping[str, str]) -> bool:
        """Whether all conditions hold for `labels`."""
        return all(requirement.holds(labels) for requirement in self.requirements)

    def failure(self, labels: Mapping[str, str]) -> str:
        """The first condition that does not hold and why, e.g. `zone=a: label zone is b`; empty when all hold."""
        for requirement in self.requirements:
            if not requirement.holds(labels):
                value = labels.get(requirement.key)
                have = f"label {requirement.key} is " + ("missing" if value is None else value)
                return f"{requirement}: {have}"
        return ""

    def __str__(self) -> str:
        return ",".join(str(requirement) for requirement in self.requirements)


@lru_cache(maxsize=1024)
def parse(text: str, field: str = "selector") -> Selector:
    """The selector written as `text`; empty text selects everything. Raises InvalidArgument (BAD_SELECTOR)."""
    if len(text) > MAX_LENGTH:
        raise _refusal(field, f"{field} has {len(text)} characters", f"at most {MAX_LENGTH}")
    if not text.strip():
        return Selector()
    requirements = []
    position = 0
    while True:
        match = _REQUIREMENT.match(text, position)
        if match is None:
            raise _refusal(
                field, f"{field} cannot be read at character {position + 1}: {text[position:][:40]!r}", _HINT
            )
        requirements.append(_requirement(match))
        position = match.end()
        if match["end"] == "":
            return Selector(tuple(requirements))


def _requirement(match: re.Match[str]) -> Requirement:
    if match["absent"]:
        return Requirement(match["absent"][1:].strip(), None, negated=True)
    if match["values"]:
        return Requirement(match["key"], frozenset(re.split(r"\s*,\s*", match["values"])), negated=False)
    if match["operator"]:
        return Requirement(match["key"], frozenset((match["value"],)), negated=match["operator"] == "!=")
    return Requirement(match["key"], None, negated=False)


def _refusal(field: str, message: str, hint: str) -> InvalidArgument:
    return InvalidArgument("BAD_SELECTOR", message, hint=hint, field=field)
