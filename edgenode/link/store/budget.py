"""How much of a store each kind of work may fill.

A store has a limit in bytes. A tenth of it is kept back: new work is refused before it would touch that, so that
acknowledgements, deletions, cancellations, results and the control lane, which nobody asks about, always find room. Of the
rest, messages have a share and tasks have one, so that a flood of the one never starves the other.

Messages are measured by what their log takes; whatever else is in the file counts as tasks. So nothing has to be counted
row by row, and the two add up to the pages in use. What was admitted and is not committed yet counts as if it were.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

from edgenode.link.config import MOST_SHARES
from edgenode.link.errors import ResourceExhausted
from edgenode.link.model.lanes import Lane, LaneUsage

# Kept free of new work, so that acknowledgements, deletes and the control lane always find room.
RESERVE_SHARE = 1 - MOST_SHARES
RETRY_SECONDS = 5.0
STORE_FULL = "STORE_FULL"
LANE_FULL = "LANE_FULL"
# What the files may take beyond the limit while they are being written: the write-ahead log, and a transaction in it.
DISK_SLACK_BYTES = 32 * 1024 * 1024


@dataclass(frozen=True, slots=True)
class Measured:
    """What a store's owner says of it after a commit: bytes that messages take, and the next sequences of its logs."""

    message_bytes: int = 0
    positions: Mapping[int, int] = field(default_factory=dict)


Measure = Callable[[sqlite3.Connection], Measured]


class Budget:
    """`note` what a commit left; `check` before new work is taken. `shares` of the limit by lane: MESSAGE, TASK or none."""

    def __init__(self, limit_bytes: int, shares: Mapping[Lane, float] | None = None) -> None:
        self.limit_bytes = limit_bytes
        self.used_bytes = 0
        self._shares = dict(shares or {})
        self._message_bytes = 0
        self._admitted = {Lane.MESSAGE: 0, Lane.TASK: 0}

    @property
    def nearly_full(self) -> bool:
        """Whether only the reserve is left."""
        return self.used_bytes >= self.limit_bytes * (1 - RESERVE_SHARE)

    def note(self, used_bytes: int, message_bytes: int) -> None:
        """A commit left pages in use of this size, of which messages take a part."""
        self.used_bytes = used_bytes
        self._message_bytes = message_bytes

    def admit(self, lane: Lane, size: int) -> None:
        """Work of `size` bytes is on its way into the store; a negative size: it has arrived, or failed."""
        self._admitted[lane] += size

    def check(self, lane: Lane, size: int) -> None:
        """Refuse new work of `size` bytes where it does not fit: ResourceExhausted (LANE_FULL, STORE_FULL)."""
        used = self._used(lane)
        limit = self._limit(lane)
        if lane in self._shares and used + size > limit:
            raise ResourceExhausted(
                LANE_FULL,
                f"{lane.name.lower()}s take {used} of the {limit} bytes they may have of the store",
                hint=f"wait until some have gone, or raise store_bytes or {lane.name.lower()}_share",
                retry_after=RETRY_SECONDS,
                lane=lane.name.lower(),
                limit_bytes=limit,
            )
        used = self.used_bytes + sum(self._admitted.values())
        if used + size > self.limit_bytes * (1 - RESERVE_SHARE):
            raise ResourceExhausted(
                STORE_FULL,
                f"the store holds {used} of {self.limit_bytes} bytes",
                hint="wait until the backlog has drained, or raise store_bytes",
                retry_after=RETRY_SECONDS,
                limit_bytes=self.limit_bytes,
            )

    def scarce(self, lane: Lane) -> bool:
        """Whether a lane has more than half of what it may have: nothing is kept then that everybody has."""
        return self._used(lane) > self._limit(lane) // 2

    def usage(self) -> list[LaneUsage]:
        """Of each lane with a share."""
        return [LaneUsage(lane, self._used(lane), self._limit(lane)) for lane in self._shares]

    def _limit(self, lane: Lane) -> int:
        return int(self.limit_bytes * self._shares.get(lane, 1.0))

    def _used(self, lane: Lane) -> int:
        held = self._message_bytes if lane is Lane.MESSAGE else max(self.used_bytes - self._message_bytes, 0)
        return held + self._admitted[lane]
