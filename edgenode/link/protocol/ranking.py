"""Agents in the order of what finding thinks of them, so that the best few are found without looking at all.

Theory of operation. A `Ranking` keeps names ordered by a bound: the score an agent would have if it had been heard of this
very moment. Age only lowers a score, so whoever goes through them from the top knows that nobody further down can have more
than the bound there, and stops once it has as many as were asked for that are no worse (`discovery.best`). An agent that
changed is only noted; it is put where it belongs when the order is next asked for, many at once by sorting anew.
"""

from __future__ import annotations

from bisect import bisect_left, insort
from collections.abc import Callable, Iterable, Iterator

# Of how many one may have changed before sorting anew is cheaper than moving each.
RESORT_SHARE = 20


class Ranking:
    """`bound(name)` gives the most an agent can score now, None where it cannot be found at all."""

    def __init__(self, names: Iterable[str], bound: Callable[[str], float | None]) -> None:
        self._bound = bound
        self._keys: dict[str, tuple[float, str]] = {}  # (negative bound, name)
        self._order: list[tuple[float, str]] = []
        self._changed: set[str] = set(names)

    def touch(self, name: str) -> None:
        """The agent changed, came or went."""
        self._changed.add(name)

    def best_first(self) -> Iterator[tuple[float, str]]:
        """(negative bound, name) from the best on; do not touch anything meanwhile."""
        if self._changed:
            changed, self._changed = self._changed, set()
            if len(changed) * RESORT_SHARE > len(self._order):
                self._sort_anew(changed)
            else:
                for name in changed:
                    self._move(name)
        return iter(self._order)

    def _sort_anew(self, changed: Iterable[str]) -> None:
        for name in changed:
            self._put(name)
        self._order = sorted(self._keys.values())

    def _put(self, name: str) -> tuple[float, str] | None:
        bound = self._bound(name)
        if bound is None:
            self._keys.pop(name, None)
            return None
        key = self._keys[name] = -bound, name
        return key

    def _move(self, name: str) -> None:
        before = self._keys.get(name)
        after = self._put(name)
        if before == after:
            return
        if before is not None:
            del self._order[bisect_left(self._order, before)]
        if after is not None:
            insort(self._order, after)
