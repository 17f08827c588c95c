"""Frames of the link as the session core sees them: the contract's `sync.proto`, decoded. Durations in seconds."""

from __future__ import annotations

import enum
from dataclasses import dataclass

from edgenode.link.model.agent import RegistryEntry
from edgenode.link.model.lanes import Lane, LaneCursor, LaneHead, Rejection, Segment
from edgenode.link.model.problem import Problem


@dataclass(frozen=True, slots=True)
class Credit:
    """What the other side may send on top on a lane: payload bytes and entries."""

    lane: Lane
    added_bytes: int
    added_count: int


@dataclass(frozen=True, slots=True)
class Hello:
    """First frame of the dialing side. `registry_epoch` is empty where it keeps no registry."""

    node: str
    boot_id: str
    generation: int
    heads: tuple[LaneHead, ...]
    cursors: tuple[LaneCursor, ...]
    credits: tuple[Credit, ...]
    registry_epoch: str = ""
    registry_version: int = 0
    applied_version: int = 0
    min_protocol_version: int = 1
    max_protocol_version: int = 1
    software: str = ""
    hub: str = ""  # id of the hub that dials; empty for an edge
    challenge: str = ""  # what the last refusal asked to be repeated


@dataclass(frozen=True, slots=True)
class Welcome:
    """First frame of the accepting side."""

    node: str
    boot_id: str
    fence: int
    heads: tuple[LaneHead, ...]
    cursors: tuple[LaneCursor, ...]
    credits: tuple[Credit, ...]
    registry_epoch: str
    registry_version: int
    protocol_version: int
    heartbeat: float
    lease: float
    path: tuple[str, ...] = ()  # ids of the hubs from the root of the tree down to the accepting one


@dataclass(frozen=True, slots=True)
class Batch:
    """Consecutive entries of a lane from `base` on. `missing`: so many before it are gone; why is `gap_reason`."""

    lane: Lane
    epoch: str
    base: int
    segments: tuple[Segment, ...]
    missing: int = 0
    gap_reason: str = ""

    @property
    def count(self) -> int:
        """Entries."""
        return sum(segment.count for segment in self.segments)

    @property
    def size(self) -> int:
        """Payload bytes."""
        return sum(len(segment.payload) for segment in self.segments)

    @property
    def end(self) -> int:
        """Sequence of the last entry."""
        return self.base + self.count - 1


@dataclass(frozen=True, slots=True)
class Ack:
    """All entries up to `sequence` are committed, but for `rejections`; `credit` is what may be sent on top."""

    lane: Lane
    epoch: str
    sequence: int
    rejections: tuple[Rejection, ...] = ()
    credit: Credit | None = None


@dataclass(frozen=True, slots=True)
class RegistryDelta:
    """Changes to the sender's registry, tombstones among them (payload None).

    A snapshot names everything there is; `complete_buckets` are digest buckets whose whole content is named.
    """

    epoch: str
    version: int
    entries: tuple[RegistryEntry, ...]
    snapshot: bool = False
    complete_buckets: tuple[int, ...] = ()


@dataclass(frozen=True, slots=True)
class RegistryAck:
    """All changes up to `version` are committed."""

    epoch: str
    version: int


@dataclass(frozen=True, slots=True)
class RegistryDigest:
    """A registry's summary: `root` 16 bytes; `buckets` 256 hashes of 8 bytes, or empty."""

    epoch: str
    version: int
    root: bytes
    buckets: bytes = b""


@dataclass(frozen=True, slots=True)
class RegistryDigestRequest:
    """Asks for these buckets' content; none named asks for the bucket hashes."""

    buckets: tuple[int, ...] = ()


@dataclass(frozen=True, slots=True)
class AgentLoad:
    """Work of one agent: tasks in flight, tasks that wait for one of its skills."""

    agent: str
    in_flight: int
    queue_depth: int


@dataclass(frozen=True, slots=True)
class Heartbeat:
    """A sign of life; one that wants a reply gets the same number back."""

    number: int
    reply_wanted: bool = False
    loads: tuple[AgentLoad, ...] = ()


@dataclass(frozen=True, slots=True)
class GoAway:
    """The session is over."""

    problem: Problem


@dataclass(frozen=True, slots=True)
class Pace:
    """Wait `retry_after` seconds before dialing again; send at most `bytes_per_second` (0: no bound)."""

    retry_after: float = 0.0
    bytes_per_second: int = 0


class Carried(enum.StrEnum):
    """Frames the session passes on unread; values are the field names of the contract's Frame."""

    DESIRED_STATE = "desired_state"
    DESIRED_STATE_REPORT = "desired_state_report"
    CALLS = "calls"
    NOTICES = "notices"
    FIND = "find"
    ADMIN = "admin"
    BLOBS = "blobs"


@dataclass(frozen=True, slots=True)
class Passthrough:
    """A frame for the layers above; `message` is whatever the wire makes of it."""

    kind: Carried
    message: object


Frame = (
    Hello
    | Welcome
    | Batch
    | Ack
    | Credit
    | RegistryDelta
    | RegistryAck
    | RegistryDigest
    | RegistryDigestRequest
    | Heartbeat
    | GoAway
    | Pace
    | Passthrough
)
