"""Lanes and the ordered logs behind them."""

from __future__ import annotations

import enum
from dataclasses import dataclass

from edgenode.link.model.problem import Problem


class Lane(enum.IntEnum):
    """Kinds of traffic that share a link; numbers as in the contract."""

    CONTROL = 1
    TASK = 2
    MESSAGE = 3
    BULK = 4


@dataclass(frozen=True, slots=True)
class EpochEnd:
    """An earlier epoch of a log and the last sequence that was appended under it."""

    epoch: str
    last: int


@dataclass(frozen=True, slots=True)
class LaneHead:
    """The log of one lane on the sending side. `first` is `last` + 1 when it holds nothing.

    `earlier` are epochs that the log had before, newest first; its sequences went on from each to the next.
    """

    lane: Lane
    epoch: str
    first: int
    last: int
    earlier: tuple[EpochEnd, ...] = ()


@dataclass(frozen=True, slots=True)
class Gap:
    """Why the sender does not hold entries before those it sends. `after`: the last of its log that the receiver had."""

    reason: str
    after: int


@dataclass(frozen=True, slots=True)
class Rejection:
    """An entry the other side could not take."""

    sequence: int
    problem: Problem


@dataclass(frozen=True, slots=True)
class LaneCursor:
    """How far a log was applied: all entries up to `sequence`. Epoch empty: none was ever seen.

    `rejections` are the newest of those that were not taken.
    """

    lane: Lane
    epoch: str
    sequence: int
    rejections: tuple[Rejection, ...] = ()


@dataclass(frozen=True, slots=True)
class Segment:
    """Entries of one origin as they came; nobody on the way reads `payload`.

    `count` entries; `accepted` is the origin's wall clock in seconds; the origin key (node, epoch, sequence of the first
    entry) is empty where the log's owner is the origin.
    """

    count: int
    payload: bytes
    accepted: float = 0.0
    origin_node: str = ""
    origin_epoch: str = ""
    origin_sequence: int = 0


@dataclass(frozen=True, slots=True)
class Chunk:
    """Consecutive segments read from a log: `base` is the first entry's sequence, `end` the last's (base - 1 if empty)."""

    base: int
    segments: tuple[Segment, ...]

    @property
    def end(self) -> int:
        """Sequence of the last entry."""
        return self.base - 1 + sum(segment.count for segment in self.segments)

    @property
    def size(self) -> int:
        """Payload bytes."""
        return sum(len(segment.payload) for segment in self.segments)


@dataclass(frozen=True, slots=True)
class Applied:
    """What a receiver committed: everything up to `sequence`, but for `rejections`."""

    sequence: int
    rejections: tuple[Rejection, ...] = ()


@dataclass(frozen=True, slots=True)
class LaneUsage:
    """Bytes a lane has of a store, and may have."""

    lane: Lane
    used_bytes: int
    limit_bytes: int
