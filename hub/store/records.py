"""What the hub keeps, as values: tasks, nodes, desired states, and what a transaction on tasks reads and writes."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

import msgspec

from edgenode.link.errors import EdgenodeError
from edgenode.link.model.blob import BlobRef
from edgenode.link.model.finding import Finding
from edgenode.link.model.lanes import Applied, Gap, Lane, Segment
from edgenode.link.model.problem import Problem
from edgenode.link.model.task import OnLost, TaskState
from edgenode.link.protocol.scheduler import Demand

# The parent's name among the nodes: holder of tasks, peer of a lane, consumer of a log. No node can be called so. What came
# from there has the origin it has there, seen from here: `../paris`.
PARENT = ".."
# A task that never goes to the parent: it was not submitted for more than this fleet, or was taken back from there.
KEPT = -1


@dataclass(frozen=True, slots=True)
class WaitKey:
    """Tasks that wait for the same thing with the same priority. They are granted in the order they came."""

    demand: Demand
    priority: int


IN_DOUBT_AT_ORIGIN = 1  # whether its origin still waits for it
IN_DOUBT_AT_HOLDER = 2  # whether its holder, or anybody, has it
# No node is avoided for longer, in seconds: what seems to be was noted when the clock said something else.
LONGEST_AVOIDANCE = 60.0


class TaskRecord(msgspec.Struct, frozen=True):
    """A task as the hub's row says. Times are wall clock, seconds; 0 for none.

    A struct and no dataclass because the hub makes several for each task that passes, and these are made in C.

    `holder` is the node it was granted to, empty while it waits here. `outcome` is the contract's Task without its spec,
    serialised: the last report. `answers` are TaskGrant messages that hold answers only, one after the other, which reads
    as one message with all of them. `spec` is empty where it was not asked for. `upstream` is the fence under which the
    parent granted it; 0 where it did not, or KEPT. `damaged`: what was read is not what was stored, and is left empty.
    """

    task_id: str
    origin: str
    demand: Demand
    priority: int
    submit_time: float
    deadline: float = 0.0
    on_lost: OnLost = OnLost.RETRY
    context_id: str = ""
    idempotency_key: str = ""
    request_id: str = ""
    replay_of: str = ""
    spec: bytes = b""
    state: TaskState = TaskState.QUEUED
    state_reason: str = ""
    holder: str = ""
    fence: int = 0
    attempt_count: int = 0
    agent: str = ""
    outcome: bytes = b""
    answers: bytes = b""
    cancel_reason: str | None = None  # None: nobody asked for its end
    avoid: str = ""  # the node that had it last
    avoid_until: float = 0.0
    update_time: float = 0.0
    sequence: int = 1
    doubt: int = 0  # what is not sure since one side forgot: see hub.services.restating
    upstream: int = 0
    damaged: bool = False

    @property
    def waiting(self) -> bool:
        """Whether it waits at the hub for a node."""
        return not self.holder and not self.state.terminal

    @property
    def from_above(self) -> bool:
        """Whether the parent granted it, and it began elsewhere."""
        return self.origin.startswith(PARENT)

    def avoided(self, now: float) -> str:
        """The node that does not get it yet, at a wall-clock time; empty for none."""
        return self.avoid if now < self.avoid_until < now + LONGEST_AVOIDANCE else ""

    @property
    def held(self) -> bool:
        """Whether a node has it."""
        return bool(self.holder) and not self.state.terminal

    def as_submission(self, request_id: str, idempotency_key: str, replay_of: str) -> TaskRecord:
        """The same under the keys of a caller of the hub itself."""
        return msgspec.structs.replace(
            self, request_id=request_id, idempotency_key=idempotency_key, replay_of=replay_of
        )

    def as_granted(self, upstream: int, attempt_count: int, answers: bytes) -> TaskRecord:
        """The same as the parent granted it."""
        return msgspec.structs.replace(self, upstream=upstream, attempt_count=attempt_count, answers=answers)

    def as_kept(self) -> TaskRecord:
        """The same, never to go to the parent."""
        return msgspec.structs.replace(self, upstream=KEPT)

    @property
    def wait_key(self) -> WaitKey:
        """The queue it waits in."""
        return WaitKey(self.demand, self.priority)


@dataclass(frozen=True, slots=True)
class Intake:
    """A batch of a lane as it came over the link."""

    node: str
    lane: Lane
    epoch: str
    base: int
    segments: tuple[Segment, ...]
    gap: Gap | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Selection:
    """Tasks to read before deciding; the parts are read together. Each `limit` bounds its own part."""

    task_ids: Sequence[str] = ()
    request_ids: Sequence[str] = ()  # of tasks submitted on the hub itself
    idempotency_keys: Sequence[str] = ()  # likewise
    waiting: Mapping[WaitKey, int] = field(default_factory=dict)  # how many of each queue, in order
    sole: Mapping[WaitKey, str] = field(default_factory=dict)  # of these, not what avoids this node at `now`
    now: float = 0.0
    not_parked: bool = False  # of `waiting`, only what is not PARKED
    not_kept: bool = False  # of `waiting`, only what is not KEPT
    with_parent: bool = False  # what the parent holds or granted, and has not ended
    due: float | None = None  # not ended, deadline at or before this
    holder: str = ""  # held by this node, after `after_task_id`
    doubtful: str | None = (
        None  # in doubt at this node (empty: held by nobody, and perhaps by somebody), after `after_task_id`
    )
    after_task_id: str = ""
    limit: int = 500
    with_spec: bool = False


@dataclass(slots=True)
class Decision:
    """What a transaction writes: tasks as they are now, entries for nodes, and what was discarded or refused of the intake."""

    tasks: dict[str, TaskRecord] = field(default_factory=dict)
    entries: list[tuple[str, bytes]] = field(default_factory=list)  # (node, task entry), in order
    discarded: Counter[str] = field(default_factory=Counter)  # by reason
    rejected: list[tuple[int, Problem]] = field(default_factory=list)  # (sequence, why)
    refusal: EdgenodeError | None = None  # raised to the caller once the transaction is over; nothing is to be written
    references: Sequence[tuple[str, BlobRef]] = ()  # (task, blob) that entries of the intake speak of
    forgotten: dict[str, str] = field(default_factory=dict)  # task -> why its row goes, before `tasks` are written


Tasks = Mapping[str, TaskRecord]
Decide = Callable[[Tasks, int], Decision]
"""From what was selected (by id, in order of selection) and the last sequence of the intake that was applied before (-1
without an intake). Runs inside the transaction, perhaps more than once and on another thread: must be pure."""


@dataclass(frozen=True, slots=True)
class Change:
    """A task before (None: it is new) and after."""

    before: TaskRecord | None
    after: TaskRecord


@dataclass(frozen=True, slots=True)
class Committed:
    """What a transaction did: the changes, the last sequence of each node's task log that grew, and the intake's outcome."""

    changes: tuple[Change, ...]
    appended: Mapping[str, int]
    applied: Applied | None = None


@dataclass(frozen=True, slots=True)
class TaskFilter:
    """Conditions of a listing; empty ones hold. `before_number` starts behind a page; 0 starts with the newest."""

    states: frozenset[TaskState] = frozenset()
    skill: str = ""
    context_id: str = ""
    before_number: int = 0
    limit: int = 100


@dataclass(frozen=True, slots=True)
class Workload:
    """What is under way, as counted from the rows: tasks waiting by queue, tasks held by node, the earliest deadline."""

    waiting: Mapping[WaitKey, int]
    held: Mapping[str, int]
    next_deadline: float  # 0: none


@dataclass(frozen=True, slots=True)
class NodeRow:
    """A node that was connected at least once. `last_contact` is wall clock, seconds; `hub` its id, if it is one.

    `restate_id` is what it is being asked to say again, empty if nothing: see hub.services.restating.
    """

    node: str
    fence: int
    boot_id: str
    generation: int
    software: str
    last_contact: float
    registry_epoch: str
    registry_version: int
    hub: str = ""
    restate_id: str = ""


@dataclass(frozen=True, slots=True)
class AgentRow:
    """An agent of a node's registry; `payload` is the contract's Agent, serialised. `text` is what free text is matched to."""

    node: str
    name: str
    incarnation: int
    version: int
    payload: bytes
    text: str = ""


@dataclass(frozen=True, slots=True)
class SignedDocument:
    """A desired state: the serialised document, its signature and the signer's chain (DER, leaf first)."""

    version: int
    document: bytes
    signature: bytes
    certificates: tuple[bytes, ...]


@dataclass(frozen=True, slots=True)
class DesiredRow:
    """What the hub wants of a node (None: nothing yet) and what the node said last; `problem` is a serialised Problem."""

    wanted: SignedDocument | None
    applied_version: int = 0
    refused_version: int = 0
    problem: bytes = b""


@dataclass(frozen=True, slots=True)
class UplinkCounts:
    """What came in from a node on a lane and epoch. `start`: entries before this belong to another epoch."""

    node: str
    lane: Lane
    epoch: str
    sequence: int
    start: int
    applied: int
    duplicates: int
    rejected: int
    gap: int
    known: int  # entries that came again under a new epoch


@dataclass(frozen=True, slots=True)
class DownlinkCounts:
    """A log for a node, or for the parent.

    The reader began behind `start`; it was moved past `skipped` entries that a bound on the file took from it. `held` are the
    entries in its segments past `acked`; `oldest` is when the first of them was stored.
    """

    node: str
    lane: Lane
    epoch: str
    last: int
    start: int
    acked: int
    rejected: int
    skipped: int
    lost: int  # that it had not acknowledged
    lost_ahead: int  # of these, past `acked`
    held: int
    held_bytes: int
    oldest: float


@dataclass(frozen=True, slots=True)
class SubscriptionCounts:
    """A consumer of the message log: it began behind `start`, and was moved past `skipped` unread messages."""

    name: str
    start: int
    acked: int
    skipped: int
    lost: int  # that it had not acknowledged
    lost_ahead: int  # of these, past `acked`
    held: int


@dataclass(frozen=True, slots=True)
class LedgerFacts:
    """Everything the ledger needs, taken in one read. Task counts are by state name.

    `to_parent` and `from_parent` are the hop to the parent, in the forms of those to the nodes.
    """

    uplinks: tuple[UplinkCounts, ...]
    downlinks: tuple[DownlinkCounts, ...]
    to_parent: tuple[DownlinkCounts, ...]
    from_parent: tuple[UplinkCounts, ...]
    tasks_accepted: int
    tasks_ended: Mapping[str, int]
    tasks_discarded: Mapping[str, int]
    tasks_pending: int  # counted from the rows
    messages_last: int
    messages_first: int
    messages_held: int
    messages_stored: int  # by the counter kept at intake
    messages_dropped: Mapping[str, int]
    subscriptions: tuple[SubscriptionCounts, ...]  # consumers of the message log
    letters: Mapping[str, int]  # dead letters by what became of them, ADDED among them
    letters_kept: int


@dataclass(frozen=True, slots=True)
class Audit:
    """What a check of everything found, how many entries of logs it looked at, and the ledger's facts after it."""

    findings: tuple[Finding, ...]
    entries: int
    facts: LedgerFacts
