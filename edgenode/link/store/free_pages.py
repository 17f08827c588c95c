"""Pages of a store that are free: when they go back to the file system, and how many at once.

To give one back, SQLite moves the last page of the file into its place, and both are written. While a backlog drains, the
last pages are of what has yet to drain, and a step holds up whoever writes. So as long as pages become free fast, none is
given back: what is written next takes them. Once it has been calm for CALM_SECONDS, all but a few go, step by step.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable

FREE_PAGES = 1024  # so many are kept, for what comes next; more of them at a time are fast
CALM_SECONDS = 5.0
_FEW_PAGES = 256  # what is left when all others were given back
# For each page SQLite goes through the list of those that are free. So many of a step together: a millisecond or two.
_STEP_LISTED = 600_000
_STEP_PAGES = 4, 64  # of a step, at least and at most


class FreePages:
    """`look` is for the thread of the database, all else for the loop; `calm()` is called once it has been calm again."""

    def __init__(self, calm: Callable[[], None]) -> None:
        self._calm = calm
        self._count = 0
        self.many = False  # more than are kept
        self._most: int | None = None  # so many were free when it was noted last
        self._growing = False
        self._rest: asyncio.TimerHandle | None = None

    @property
    def due(self) -> bool:
        """Whether some are to be given back now."""
        return self.many and self._rest is None

    @property
    def step(self) -> int:
        """How many to give back at once."""
        least, most = _STEP_PAGES
        return max(least, min(most, _STEP_LISTED // max(self._count, 1)))

    def look(self, count: int, *, given_back: bool = False) -> None:
        """So many are free, after a commit or after some were given back."""
        self._count = count
        self.many = count > (_FEW_PAGES if self.many else FREE_PAGES)
        if self._most is None or given_back:
            self._most = count
        elif count > self._most + FREE_PAGES:
            self._most = count
            self._growing = True

    def looked(self) -> None:
        """To be called after a `look`: what has become free fast rests."""
        if self._growing:
            self._growing = False
            self.stop()
            self._rest = asyncio.get_running_loop().call_later(CALM_SECONDS, self._rested)

    def stop(self) -> None:
        """Wait for nothing any more."""
        if self._rest is not None:
            self._rest.cancel()
            self._rest = None

    def give_up(self) -> None:
        """It did not work: not again before the next look."""
        self.many = False

    def _rested(self) -> None:
        self._rest = None
        self._calm()
