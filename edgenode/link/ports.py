"""What the cores and drivers need from outside. Time and chance come in through here and nowhere else."""

from __future__ import annotations

import random
import secrets
import time
from collections.abc import Callable, Sequence
from typing import Protocol

from edgenode.link.model.lanes import Applied, Chunk, Gap, Lane, LaneCursor, LaneHead, Rejection, Segment


class Clock(Protocol):
    """Two clocks: `monotonic` for waiting, `wall` for stamps and deadlines, both in seconds."""

    def monotonic(self) -> float:
        """Never goes back; its zero means nothing."""
        ...

    def wall(self) -> float:
        """Seconds since 1970; may jump."""
        ...


class Rng(Protocol):
    """Chance."""

    def random(self) -> float:
        """In [0, 1)."""
        ...

    def getrandbits(self, k: int, /) -> int:
        """`k` random bits."""
        ...


class Outbox(Protocol):
    """The logs one side of a link sends from."""

    async def heads(self) -> Sequence[LaneHead]:
        """Every lane's log."""
        ...

    async def read(self, lane: Lane, after: int, max_count: int, max_bytes: int) -> Chunk:
        """Whole segments from `after` + 1 on, at least one if there is any; `base` > `after` + 1 where entries are gone."""
        ...

    async def acknowledged(self, lane: Lane, epoch: str, sequence: int, rejections: Sequence[Rejection]) -> None:
        """The other side committed everything up to `sequence`; an older epoch or sequence changes nothing."""
        ...

    async def renew_epoch(self, lane: Lane) -> LaneHead:
        """Start the lane's log anew under a fresh epoch, keeping what it holds."""
        ...

    def on_append(self, notify: Callable[[Lane, int], None]) -> None:
        """Call `notify(lane, last_sequence)` on the event loop after each commit that appended."""
        ...


class Inbox(Protocol):
    """Where one side of a link puts what the other sends."""

    async def cursors(self, heads: Sequence[LaneHead] = ()) -> Sequence[LaneCursor]:
        """How far each lane was applied; of a lane whose `heads` are given, how far that log or one it continues was."""
        ...

    async def apply(self, lane: Lane, epoch: str, base: int, segments: Sequence[Segment], gap: Gap | None) -> Applied:
        """Commit entries and cursor in one transaction; entries at or below the cursor are counted and discarded.

        `gap` says that the sender does not hold what is missing before `base`.
        """
        ...


class SystemClock:
    """The machine's clocks."""

    monotonic = staticmethod(time.monotonic)
    wall = staticmethod(time.time)


class SteadyClock:
    """A Clock whose wall time passes as monotonic time does, wherever the machine's clock is set meanwhile: for what ends
    by it, which must not end all at once.

    It begins with the machine's wall clock. One that says less than `not_before`, a time that has passed for certain, is
    believed once it says more.
    """

    def __init__(self, clock: Clock, not_before: float = 0.0) -> None:
        self._clock = clock
        self._not_before = not_before
        self._offset = clock.wall() - clock.monotonic()

    def monotonic(self) -> float:
        """See Clock."""
        return self._clock.monotonic()

    def wall(self) -> float:
        """See Clock; it does not jump."""
        now = self._clock.monotonic() + self._offset
        if now < self._not_before <= (said := self._clock.wall()):
            self._offset = said - self._clock.monotonic()
            return said
        return now


def system_rng() -> Rng:
    """A generator seeded by the machine; ids drawn from it are not secrets."""
    return random.Random(secrets.randbits(128))
