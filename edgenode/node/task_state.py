"""A task that has not ended, as the engine holds it in memory, and its form on the wire."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import lru_cache
from typing import Protocol

from edgenode.api.task.v1 import task_pb2
from edgenode.link.errors import Cancelled
from edgenode.link.model import dead_letter
from edgenode.link.model.dead_letter import DeadLetter
from edgenode.link.model.problem import Problem
from edgenode.link.model.task import URGENT, Level, TaskSpec, TaskState
from edgenode.link.protocol.scheduler import Demand, Worker
from edgenode.link.protocol.tasks import TRANSITIONS, TaskEvent, next_state
from edgenode.link.protocol.timers import Timer
from edgenode.link.wire import pieces
from edgenode.link.wire.values import problem_to_pb, timestamp_to_pb

# (sequence, wall time, state, reason, attempt, agent)
HistoryRow = tuple[int, float, int, str, int, str]
HISTORY_LIMIT = 64
OnPieces = Callable[[Sequence[task_pb2.TaskPiece]], None]
ASKING = (TaskState.INPUT_REQUIRED, TaskState.AUTH_REQUIRED)
# Looked at for each attempt. Python 3.11 takes as long to find a member in its enumeration as to call a function.
QUEUED, COMPLETED, FAILED = TaskState.QUEUED, TaskState.COMPLETED, TaskState.FAILED
ASSIGN, SUCCEED = TaskEvent.ASSIGN, TaskEvent.SUCCEED
ACCEPTED, DELIVERED = Level.ACCEPTED, Level.DELIVERED
_LOAD = 64  # bytes of an assignment beside its spec, roughly
# After a restart changes that were not stored are forgotten; the numbers go on far enough for nobody to take a new change
# for one already seen.
SEQUENCE_SKIP = 1 << 16

_demand = lru_cache(1024)(Demand)  # most tasks have one of a few


class AttemptSink(Protocol):
    """Where an attempt runs: an agent's stream."""

    def cancel(self, live: LiveTask) -> None:
        """Tell the agent to stop the attempt."""
        ...

    def allow(self, live: LiveTask, size: int) -> None:
        """Tell the agent that it may give so many more bytes of pieces."""
        ...

    def over(self, live: LiveTask) -> None:
        """The attempt runs there no more; what is still said of it is refused."""
        ...

    def answer(self, live: LiveTask, key: str, answer: task_pb2.TaskOutput) -> None:
        """Hand the submitter's answer to the attempt."""
        ...


class WorkerStream(AttemptSink, Protocol):
    """An attached agent."""

    def assign(self, live: LiveTask, timeout: float) -> None:
        """Hand over an attempt that may run `timeout` seconds."""
        ...

    def agent_changed(self) -> None:
        """The registry's record of the agent changed; another instance may hold the name now."""
        ...

    def replaced(self) -> None:
        """The same agent opened another stream; end this one."""
        ...


class LiveTask:
    """One task in memory. Times named `_time` are wall clock, others monotonic, in seconds.

    `fence` is 0 for a task of this node's own; `holder` is another node's name while that node has it. `finishing` is true
    while a terminal state is being committed: nothing else may happen to the task then.
    """

    __slots__ = (
        "agent",
        "agent_instance",
        "answers",
        "attempts",
        "behind",
        "call",
        "cancel_requested",
        "deadline_timer",
        "demand",
        "fence",
        "fingerprint",
        "finishing",
        "history",
        "holder",
        "input_request",
        "level",
        "level_waiters",
        "listeners",
        "load",
        "next_attempt_time",
        "offer_sequence",
        "on_pieces",
        "origin",
        "output",
        "piece_room",
        "pieces_told",
        "problem",
        "progress",
        "prompt",
        "reason",
        "replay_of",
        "request_id",
        "sequence",
        "sink",
        "spec",
        "started",
        "state",
        "submit_time",
        "task_id",
        "timer",
        "update_time",
        "watchers",
        "worker",
    )

    def __init__(self, task_id: str, spec: TaskSpec, origin: str, now_time: float, *, call: bool = False) -> None:
        self.task_id = task_id
        self.spec = spec
        self.prompt = call or spec.priority >= URGENT  # somebody waits for it now: it goes before others
        self.origin = origin
        self.call = call
        self.load = len(spec.wire) + _LOAD  # what it counts for on its way to an agent: about its bytes
        self.demand = _demand(spec.skill, spec.selector, spec.agent, spec.cost_limit)
        self.state = QUEUED
        self.reason = ""
        self.attempts = 0
        self.behind = 0  # writes of it that wait and are not urgent
        self.agent = ""
        self.agent_instance = ""  # the process of it that the attempt was handed to
        self.holder = ""
        self.fence = 0
        self.sequence = 1
        self.submit_time = now_time
        self.update_time = now_time
        self.next_attempt_time = 0.0
        self.level = ACCEPTED
        self.offer_sequence = 0
        self.cancel_requested = False
        self.output: task_pb2.TaskOutput | None = None
        self.problem: Problem | None = None
        self.progress: task_pb2.TaskProgress | None = None
        self.pieces_told = 0  # number of the newest that went over the link
        self.on_pieces: OnPieces | None = None  # of a call whose caller reads along
        self.piece_room = 0  # bytes of them that are allowed and have not come
        self.input_request: task_pb2.InputRequest | None = None
        self.answers: dict[str, task_pb2.TaskOutput] = {}
        self.history: list[HistoryRow] = []
        self.listeners: list[Callable[[LiveTask], None]] = []
        self.watchers: list[Callable[[LiveTask], None]] = []
        self.level_waiters: list[Callable[[LiveTask], None]] = []
        self.deadline_timer: Timer | None = None
        self.timer: Timer | None = None  # of the present attempt, or of the next
        self.sink: AttemptSink | None = None
        self.worker: Worker | None = None  # of the present attempt, until it is over
        self.started = 0.0
        self.finishing = False
        self.request_id = ""
        self.fingerprint = b""
        self.replay_of = ""

    @property
    def urgent(self) -> bool:
        """Whether its writes go before those of other tasks. One does not overtake another of the same task."""
        return self.spec.priority >= URGENT and not self.behind

    def apply(self, event: TaskEvent, now_time: float, reason: str = "") -> None:
        """Change state by the table and note it. Raises FailedPrecondition where the table has no such change."""
        after = TRANSITIONS[self.state].get(event)
        self.enter(next_state(self.state, event) if after is None else after, now_time, reason)

    def enter(self, state: TaskState, now_time: float, reason: str = "") -> None:
        """Take a state that was decided already (by the table here, or by the holder elsewhere), and note it."""
        self.state = state
        self.reason = reason
        self.sequence += 1
        self.update_time = now_time
        if not self.call:
            self.note()

    def note(self) -> None:
        """Add the present state to the history; calls have none."""
        if len(self.history) >= HISTORY_LIMIT:
            del self.history[1]
        self.history.append((self.sequence, self.update_time, self.state, self.reason, self.attempts, self.agent))

    def clear_timers(self) -> None:
        """Nothing is due for it any more."""
        if self.timer is not None:
            self.timer.cancel()
            self.timer = None
        if self.deadline_timer is not None:
            self.deadline_timer.cancel()
            self.deadline_timer = None

    def dead_letter(self, now_time: float) -> DeadLetter:
        """What is kept of it when it is given up: its row has the rest."""
        problem = self.problem or Cancelled("UNKNOWN", "no reason was noted").problem
        return DeadLetter(
            dead_letter.TASK,
            self.spec.skill,
            problem,
            now_time,
            task_id=self.task_id,
            attempts=self.attempts,
            size=len(self.spec.wire),
        )

    def to_pb(self, node: str, *, with_payload: bool = True) -> task_pb2.Task:
        """The contract's Task. Without payload: no spec input, no output."""
        message = task_pb2.Task(
            task_id=self.task_id,
            state=int(self.state),  # type: ignore[arg-type]
            state_reason=self.reason,
            attempt_count=self.attempts,
            agent=self.agent,
            origin_node=self.origin,
            holder_node=self.holder or node,
            fence=self.fence,
            cancel_requested=self.cancel_requested,
            submit_time=timestamp_to_pb(self.submit_time),
            update_time=timestamp_to_pb(self.update_time),
            sequence=self.sequence,
            level=int(self.level),  # type: ignore[arg-type]
            replay_of_task_id=self.replay_of,
        )
        message.spec.ParseFromString(self.spec.wire)
        if self.progress is not None:
            message.progress.CopyFrom(pieces.words(self.progress))
        if not with_payload:
            message.spec.ClearField("input")
        elif self.output is not None:
            message.output.CopyFrom(self.output)
        if self.problem is not None:
            message.problem.CopyFrom(problem_to_pb(self.problem))
        if self.input_request is not None:
            message.input_request.CopyFrom(self.input_request)
        if self.next_attempt_time:
            message.next_attempt_time.CopyFrom(timestamp_to_pb(self.next_attempt_time))
        return message

    def report_pb(self, node: str) -> task_pb2.Task:
        """What the other side must know of a change: everything but the spec."""
        message = self.to_pb(node)
        message.ClearField("spec")
        return message


def event_pb(row: HistoryRow) -> task_pb2.TaskEvent:
    """A row of history as the contract's TaskEvent."""
    sequence, event_time, state, reason, attempt, agent = row
    return task_pb2.TaskEvent(
        sequence=sequence,
        event_time=timestamp_to_pb(event_time),
        state=state,  # type: ignore[arg-type]
        state_reason=reason,
        attempt_count=attempt,
        agent=agent,
    )
