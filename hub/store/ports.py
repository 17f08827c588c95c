"""What the hub's services need of a store. SQLite is the first to give it; each call is one transaction."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from typing import Protocol

from edgenode.link.model.dead_letter import DeadLetter
from edgenode.link.model.lanes import Applied, LaneCursor, LaneHead
from edgenode.link.store.reading import Reading
from hub.store.records import (
    AgentRow,
    Committed,
    Decide,
    DesiredRow,
    DownlinkCounts,
    Intake,
    LedgerFacts,
    NodeRow,
    Selection,
    SignedDocument,
    TaskFilter,
    TaskRecord,
    UplinkCounts,
    WaitKey,
    Workload,
)
from hub.store.restating import TaskLane


class TaskStore(Protocol):
    """Tasks and the task entries for nodes."""

    async def transact(self, selection: Selection, decide: Decide, intake: Intake | None = None) -> Committed:
        """Read, decide, write: tasks, entries, counters and the intake's cursor in one transaction."""
        ...

    async def get(self, task_id: str) -> TaskRecord | None:
        """A task with its spec."""
        ...

    async def page(self, wanted: TaskFilter) -> Sequence[tuple[int, TaskRecord]]:
        """Tasks without specs, newest first, each with its number."""
        ...

    async def origins(self, task_ids: Sequence[str]) -> Mapping[str, tuple[str, str, int, int]]:
        """(origin, holder, fence, upstream) of each known task that has not ended."""
        ...

    async def workload(self) -> Workload:
        """What is under way; for the start."""
        ...

    async def held_queues(self, node: str) -> Sequence[WaitKey]:
        """The queues that what a node holds would wait in."""
        ...

    async def next_deadline(self) -> float:
        """The earliest deadline of what has not ended; 0 for none."""
        ...

    async def state_counts(self) -> Mapping[str, int]:
        """Tasks by state name."""
        ...

    def check_room(self, size: int) -> None:
        """Refuse new work of `size` bytes when the store is nearly full: ResourceExhausted (STORE_FULL)."""
        ...

    async def pass_time(self, seconds: float) -> float:
        """So much time passed since the last call; the store's running time at that call. See link.store.run_time."""
        ...

    async def sweep(self, ended_before: float, limit: int) -> int:
        """Forget at most `limit` tasks that ended before then, by the store's running time; returns how many."""
        ...


class FleetStore(Protocol):
    """Nodes, their registries and desired states."""

    async def nodes(self) -> Sequence[NodeRow]:
        """All nodes that were ever connected, by name."""
        ...

    async def agents(self) -> Sequence[AgentRow]:
        """All agents of the fleet."""
        ...

    async def open_session(
        self,
        node: str,
        boot_id: str,
        generation: int,
        software: str,
        now: float,
        hub: str = "",
        tasks: TaskLane | None = None,
    ) -> NodeRow | None:
        """A session begins: note who (`hub`: its id if it is one), raise the fence, make the node's logs. Returns the row.

        None, and nothing is changed, for a process after which another one was let in. From `tasks` it is seen whether one
        side has forgotten something; the row's restate_id then says what is asked.
        """
        ...

    async def forget_processes(self, node: str, boot_id: str | None = None) -> None:
        """Whichever process of the node comes next is let in, or only that one; it is the newest then."""
        ...

    async def lacks_tasks(self, node: str, tasks: TaskLane, now: float) -> tuple[bool, bool]:
        """Whether this hub lacks what the node, a hub, has said, and whether the node lacks grants in force.

        Where this hub has forgotten grants, fences begin above them from now on.
        """
        ...

    async def settled(self, node: str, restate_id: str, highest_fence: int) -> int:
        """What the node was asked is known now, and the highest fence it knows; returns what that of every grant is above."""
        ...

    async def give_up(self, nodes: Collection[str]) -> None:
        """Nobody waits for what these nodes are asked any more."""
        ...

    async def fence_base(self) -> int:
        """What the fence of every grant is above."""
        ...

    async def trim(self) -> None:
        """Let go of what nodes acknowledged too long ago; call it now and then."""
        ...

    async def touch(self, last_contacts: Mapping[str, float]) -> None:
        """When nodes were last heard of."""
        ...

    async def apply_registry(
        self, node: str, epoch: str, version: int, upserts: Sequence[AgentRow], removals: Sequence[str]
    ) -> None:
        """Changes to a node's registry and where it then stands."""
        ...

    async def search(self, query: str) -> Mapping[str, float]:
        """Relevance, 0..1, of agents (by name) for free text."""
        ...

    async def desired(self, node: str) -> DesiredRow:
        """A node's desired state."""
        ...

    async def set_desired(self, node: str, sign: Callable[[int], SignedDocument]) -> SignedDocument:
        """Replace it; `sign(version)` makes the document of the next version and must be pure."""
        ...

    async def report_desired(self, node: str, applied: int, refused: int, problem: bytes) -> None:
        """What the node did with it."""
        ...


class MessageStore(Protocol):
    """The hub's one log of messages and its named subscriptions."""

    async def append(self, intake: Intake) -> tuple[Applied, int]:
        """Store what is new of a batch, unread, with its cursor. Returns the outcome and the log's last sequence."""
        ...

    async def read(self, after: int, max_count: int, max_bytes: int) -> Reading:
        """Whole segments that hold entries past `after`, and where the log stood at that moment."""
        ...

    async def bounds(self) -> tuple[int, int]:
        """(first, last) sequence held; first is last + 1 when nothing is."""
        ...

    async def subscribed(self, name: str) -> int | None:
        """The acknowledged sequence of a named subscription; None if there is none."""
        ...

    async def subscribe(self, name: str, after: int) -> int:
        """The acknowledged sequence of a named subscription; a new one starts at `after`."""
        ...

    async def acknowledge(self, name: str, sequence: int) -> None:
        """Everything up to `sequence` is dealt with."""
        ...

    async def sweep(self, keep_bytes: int, drop_bytes: int) -> int:
        """Give space back, boundedly: what everybody acknowledged beyond `keep_bytes`, anything beyond `drop_bytes`.

        0 for `drop_bytes`: nothing that somebody has not acknowledged.

        Returns entries deleted; call again while it is not 0.
        """
        ...


class LinkStore(Protocol):
    """The link's bookkeeping that belongs to no other store."""

    async def cursors(self, node: str, heads: Sequence[LaneHead]) -> Sequence[LaneCursor]:
        """How far each of the node's lanes was applied: see Inbox."""
        ...

    async def refuse(self, intake: Intake, reason: str, message: str) -> Applied:
        """Advance the cursor and reject every entry: a lane that is not served."""
        ...

    async def ledger(self) -> LedgerFacts:
        """The counts of every hop."""
        ...

    async def received(self, node: str) -> Sequence[UplinkCounts]:
        """The cursors of the lanes of the node, or of PARENT, each lane's in the order they moved."""
        ...

    async def sent(self, node: str) -> Sequence[DownlinkCounts]:
        """What became of the logs for the node, or for PARENT."""
        ...


class DeadLetterStore(Protocol):
    """What the hub gave up and keeps."""

    async def page(self, before: int, size: int) -> Sequence[DeadLetter]:
        """At most `size` letters with a number below `before`, newest first, without their payload."""
        ...

    async def find(self, numbers: Sequence[int] | None) -> Sequence[DeadLetter]:
        """Those of these numbers that are kept, all for None."""
        ...

    async def grants(self, node: str, limit: int) -> Sequence[DeadLetter]:
        """Grants the node would not take (any node, for an empty name) that nobody has dealt with, oldest first."""
        ...

    async def drop(self, numbers: Sequence[int] | None, reason: str) -> int:
        """Forget these, all for None, counted under `reason`; returns how many were there."""
        ...

    async def replayed(self, numbers: Sequence[int]) -> None:
        """They were given another chance."""
        ...

    async def send_again(self, letters: Sequence[DeadLetter], log_of: Callable[[str], str]) -> Mapping[str, int]:
        """Append entries to the logs of their nodes again and forget the letters, at once; last sequence by node."""
        ...
