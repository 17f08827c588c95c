"""What goes into a link session and what comes out of it.

A driver owns one session per connection. It turns what happens into events, calls `handle(event, now)`, carries out the
effects in the order given, and calls `handle(Tick(), now)` at `next_deadline()`. Reads and applies may take their time;
their outcome comes back as an event. A store that fails is reported as `CloseRequested(problem)`.
`Disconnect` is the last effect of every session and comes exactly once; events after it are ignored.
"""

from __future__ import annotations

import enum
from collections.abc import Mapping
from dataclasses import dataclass

from edgenode.link.model import lanes
from edgenode.link.model.frames import AgentLoad, Frame, Hello, Pace, Passthrough, RegistryDelta
from edgenode.link.model.lanes import Chunk, Gap, Lane, LaneCursor, LaneHead, Rejection, Segment
from edgenode.link.model.problem import Problem
from edgenode.link.protocol.registry import RegistryChanges, RegistryReplica

# Why a session ends when its node changes channel, e.g. for a new certificate: the next one follows at once, so what lives
# as long as a session (calls, answers) waits for it this many seconds instead of being given up.
MOVED = "MOVED"
MOVE_GRACE = 10.0

# Under this name a refusal's metadata may hold a text that the next Hello of the same process is to repeat.
CHALLENGE = "challenge"


class Role(enum.Enum):
    """Which end of the connection this is."""

    DIALING = "dialing"
    ACCEPTING = "accepting"


class SessionState(enum.Enum):
    """Where a session stands."""

    OPENING = "opening"  # dialing: no stream yet; accepting: no Hello yet
    GREETING = "greeting"  # dialing: Hello sent; accepting: Hello shown to the driver, which admits or closes
    ESTABLISHED = "established"
    CLOSING = "closing"  # GoAway is on its way out
    CLOSED = "closed"


@dataclass(frozen=True, slots=True)
class Standing:
    """What one side brings to the greeting, as read from its store.

    `applied_version` (dialing) is the desired state applied last; `fence` and `replica` are the accepting side's.
    """

    heads: tuple[LaneHead, ...]
    cursors: tuple[LaneCursor, ...]
    applied_version: int = 0
    fence: int = 0
    replica: RegistryReplica | None = None


@dataclass(frozen=True, slots=True)
class Peer:
    """The other side of an established session.

    `generation`, `applied_version`, `software` and `hub` (its id, empty for an edge) are a dialing peer's; `path` (ids of the
    hubs from the root down to it) and `heads`, its logs as the session began, are an accepting peer's.
    """

    node: str
    boot_id: str
    fence: int
    protocol_version: int
    generation: int = 0
    applied_version: int = 0
    software: str = ""
    hub: str = ""
    path: tuple[str, ...] = ()
    heads: tuple[LaneHead, ...] = ()


# --- events -----------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Opened:
    """The stream is open. Dialing: `standing` is required; accepting: None, it comes with Admitted."""

    standing: Standing | None = None


@dataclass(frozen=True, slots=True)
class Admitted:
    """Accepting only, answers Admit: the node may come in."""

    standing: Standing


@dataclass(frozen=True, slots=True)
class Received:
    """A frame came in."""

    frame: Frame


@dataclass(frozen=True, slots=True)
class Appended:
    """The local log of `lane` was committed up to `last`."""

    lane: Lane
    last: int


@dataclass(frozen=True, slots=True)
class ReadDone:
    """Answers ReadLane. An empty chunk says that there is nothing after all."""

    lane: Lane
    chunk: Chunk


@dataclass(frozen=True, slots=True)
class Applied:
    """Answers Apply: the transaction is committed."""

    lane: Lane
    epoch: str
    result: lanes.Applied


@dataclass(frozen=True, slots=True)
class ApplyDelayed:
    """In answer to Apply, before Applied: the store has no room now, it is tried again. The sender is told to be patient."""

    lane: Lane


@dataclass(frozen=True, slots=True)
class EpochRenewed:
    """Answers RenewEpoch, or tells of a log that was made anew (quarantine) while the session was up."""

    head: LaneHead


@dataclass(frozen=True, slots=True)
class RegistryChanged:
    """Dialing: the registry log has something new."""


@dataclass(frozen=True, slots=True)
class RegistryApplied:
    """Answers ApplyRegistry: the transaction is committed."""

    epoch: str
    version: int


@dataclass(frozen=True, slots=True)
class LoadsChanged:
    """Dialing: these agents' loads are new."""

    loads: tuple[AgentLoad, ...]


@dataclass(frozen=True, slots=True)
class WeightsChanged:
    """New shares of the link, 1-1,000; lanes not named keep theirs."""

    weights: Mapping[Lane, int]


@dataclass(frozen=True, slots=True)
class Forward:
    """Send this for the layers above. Only when ESTABLISHED: raises FailedPrecondition (LINK_DOWN) otherwise."""

    frame: Passthrough | Pace


@dataclass(frozen=True, slots=True)
class Writable:
    """The transport took `frames` of the frames that Send effects gave to the writer."""

    frames: int


@dataclass(frozen=True, slots=True)
class Tick:
    """Time passed; due at `next_deadline()`, harmless at any other time."""


@dataclass(frozen=True, slots=True)
class Lost:
    """The transport ended or broke."""

    problem: Problem


@dataclass(frozen=True, slots=True)
class CloseRequested:
    """End the session: the other side is told why by GoAway."""

    problem: Problem


Event = (
    Opened
    | Admitted
    | Received
    | Appended
    | ReadDone
    | Applied
    | ApplyDelayed
    | EpochRenewed
    | RegistryChanged
    | RegistryApplied
    | LoadsChanged
    | WeightsChanged
    | Forward
    | Writable
    | Tick
    | Lost
    | CloseRequested
)

# --- effects ----------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Send:
    """Hand the frame to the writer, in order; report it by Writable once the transport took it."""

    frame: Frame


@dataclass(frozen=True, slots=True)
class Admit:
    """Accepting: check the node, end its older session, read its standing; then Admitted or CloseRequested."""

    hello: Hello


@dataclass(frozen=True, slots=True)
class Established:
    """Both sides know each other; entries flow from here on."""

    peer: Peer


@dataclass(frozen=True, slots=True)
class ReadLane:
    """`Outbox.read(...)`, then ReadDone. At most one is under way per session."""

    lane: Lane
    after: int
    max_count: int
    max_bytes: int


@dataclass(frozen=True, slots=True)
class Apply:
    """`Inbox.apply(...)`, then Applied. At most one is under way per lane."""

    lane: Lane
    epoch: str
    base: int
    segments: tuple[Segment, ...]
    gap: Gap | None


@dataclass(frozen=True, slots=True)
class Acknowledge:
    """`Outbox.acknowledged(...)`; nothing to report back."""

    lane: Lane
    epoch: str
    sequence: int
    rejections: tuple[Rejection, ...]


@dataclass(frozen=True, slots=True)
class RenewEpoch:
    """`Outbox.renew_epoch(lane)`, then EpochRenewed: the other side knows entries that this log never had."""

    lane: Lane


@dataclass(frozen=True, slots=True)
class ApplyRegistry:
    """Accepting: commit `changes`, epoch and version of `delta` in one transaction, then RegistryApplied."""

    delta: RegistryDelta
    changes: RegistryChanges


@dataclass(frozen=True, slots=True)
class LoadsReported:
    """Accepting: loads of the node's agents."""

    loads: tuple[AgentLoad, ...]


@dataclass(frozen=True, slots=True)
class Deliver:
    """A frame for the layers above."""

    frame: Passthrough


@dataclass(frozen=True, slots=True)
class PaceGiven:
    """The parent set the pace; give `retry_after` to the reconnect backoff. The byte rate is kept by the session."""

    pace: Pace


@dataclass(frozen=True, slots=True)
class Disconnect:
    """Close the stream without more ado. The last effect."""

    problem: Problem


Effect = (
    Send
    | Admit
    | Established
    | ReadLane
    | Apply
    | Acknowledge
    | RenewEpoch
    | ApplyRegistry
    | LoadsReported
    | Deliver
    | PaceGiven
    | Disconnect
)
