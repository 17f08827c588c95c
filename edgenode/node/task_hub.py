"""Tasks between this edge and the hub: offers up, grants down, reports both ways."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Coroutine, Sequence
from typing import Any

from edgenode.api.sync.v1 import sync_pb2
from edgenode.api.task.v1 import task_pb2
from edgenode.link.errors import Unavailable
from edgenode.link.failpoints import Failpoint, reach
from edgenode.link.model.lanes import Rejection
from edgenode.link.model.task import Level, TaskState
from edgenode.link.protocol.tasks import TaskEvent
from edgenode.link.wire import pieces
from edgenode.link.wire.values import problem_from_pb
from edgenode.node import task_entries, task_store
from edgenode.node.dispatch import Dispatcher
from edgenode.node.task_book import AT_HUB, HUB, TaskBook
from edgenode.node.task_state import ASKING, LiveTask

# What a notice may move between: everything else comes in a report.
_ON_ITS_WAY = (TaskState.QUEUED, TaskState.PARKED, TaskState.ASSIGNED, TaskState.WORKING)


class HubTasks:
    """Follows in memory what the transactions of the task lane stored. `cancel` is the engine's."""

    def __init__(self, book: TaskBook, cancel: Callable[[str, str], Coroutine[Any, Any, None]]) -> None:
        self._book = book
        self._cancel = cancel
        self._dispatcher: Dispatcher
        self._offered: deque[tuple[int, LiveTask]] = deque()

    def connect(self, dispatcher: Dispatcher) -> None:
        """The dispatcher that runs what the hub grants; once, before anything else."""
        self._dispatcher = dispatcher

    def note_offer(self, live: LiveTask) -> None:
        """The task was offered at its `offer_sequence`: it is DURABLE_HUB once the hub acknowledges that."""
        self._offered.append((live.offer_sequence, live))

    def take(self, lives: Sequence[LiveTask]) -> None:
        """The hub's turn: of tasks nobody here fits, those of this node are offered, those it was granted given back."""
        offers = [live for live in lives if not live.fence]
        for live in lives:
            self._dispatcher.discard(live)
            if live.fence:
                self._give_back(live)
            else:
                live.holder = HUB
                live.enter(TaskState.QUEUED, self._book.clock.wall(), AT_HUB)
                self._book.tell_watchers(live)
        if offers:
            self._book.spawn(self._store_offers(offers))

    async def _store_offers(self, lives: Sequence[LiveTask]) -> None:
        await self._book.write_offers(lives)
        reach(Failpoint.OFFER_COMMITTED)
        for live in lives:
            self.note_offer(live)

    def _give_back(self, live: LiveTask) -> None:
        why = Unavailable("NO_AGENT", self._dispatcher.why_parked(live.demand), hint="see: edgenode find --explain")
        # The attempts made here count where it goes next.
        entries = [task_entries.report(live, self._book.node)] if live.attempts else []
        entries.append(task_entries.give_back(live.task_id, live.fence, why.problem))
        self._book.spawn(self._book.let_go(live.task_id, live.fence, entries))
        self._gone(live)

    def acknowledged(self, sequence: int) -> None:
        """The hub has committed the task log up to `sequence`."""
        while self._offered and self._offered[0][0] <= sequence:
            _, live = self._offered.popleft()
            self._book.raise_level(live, Level.DURABLE_HUB)

    def rejected(self, rejections: Sequence[Rejection]) -> None:
        """The hub would not take these entries; the tasks among them are stored as FAILED."""
        problems = {rejection.sequence: rejection.problem for rejection in rejections}
        if not problems:
            return
        for sequence, live in [pair for pair in self._offered if pair[0] in problems]:
            # The row took it: an end that was decided here meanwhile and is not stored yet will not be.
            if self._book.live.get(live.task_id) is live:
                live.problem, live.output = problems[sequence], None
                self._end(live, TaskState.FAILED, live.problem.reason)

    def _end(self, live: LiveTask, state: TaskState, reason: str) -> None:
        """Its end is stored already; everyone may know."""
        live.cancel_requested = False
        live.enter(state, self._book.clock.wall(), reason)
        live.finishing = True
        live.level = Level.DONE
        live.clear_timers()
        self._book.forget(live)

    def absorb(self, absorbed: task_entries.Absorbed) -> None:
        """Follow what the transaction stored of the hub's entries."""
        ended: list[LiveTask] = []
        for step in absorbed.steps:
            if isinstance(step, LiveTask):
                self._take_grant(step)
            else:
                self._follow(step, ended)
        if ended:
            # Not awaited: a crash before it costs the changes before the end, not the end.
            self._book.spawn(self._book.database.write(lambda connection: task_store.store_history(connection, ended)))
        self._book.appended(absorbed.last_appended)

    def _follow(self, entry: sync_pb2.TaskEntry, ended: list[LiveTask]) -> None:
        kind = entry.WhichOneof("entry")
        if kind == "report":
            self._follow_report(entry.report.task, ended)
        elif kind == "cancel":
            self._book.spawn(self._cancel(entry.cancel.task_id, entry.cancel.reason))
        elif kind == "revoke":
            self._revoked(entry.revoke)
        elif kind == "answer":
            self._take_answer(entry.answer)

    def _take_grant(self, live: LiveTask) -> None:
        old = self._book.live.get(live.task_id)
        if old is not None:
            # The hub gave this node's own task back to it, or granted it anew. An end that was decided under the older
            # fence and is not stored yet will not be: the row has the new one.
            self._dispatcher.withdraw(old)
            old.clear_timers()
            live.listeners, live.watchers, live.level_waiters = old.listeners, old.watchers, old.level_waiters
            live.sequence = old.sequence + 1
            live.request_id, live.fingerprint, live.replay_of = old.request_id, old.fingerprint, old.replay_of
            live.level = max(live.level, old.level)
        self._book.live[live.task_id] = live
        self._dispatcher.watch_deadline(live)
        self._dispatcher.enqueue(live)

    def _follow_report(self, task: task_pb2.Task, ended: list[LiveTask]) -> None:
        live = self._book.live.get(task.task_id)
        state = TaskState(task.state)
        # The row took this report: an end that was decided here meanwhile and is not stored yet will not be.
        if live is None or (live.finishing and not state.terminal):
            return
        live.attempts, live.agent, live.holder = task.attempt_count, task.agent, task.holder_node or live.holder
        live.output = task.output if task.HasField("output") else None
        live.problem = problem_from_pb(task.problem) if task.HasField("problem") else None
        live.input_request = task.input_request if task.HasField("input_request") else None
        if state.terminal:
            self._end(live, state, task.state_reason)
            ended.append(live)
        else:
            live.enter(state, self._book.clock.wall(), task.state_reason)
            self._book.raise_level(live, Level.DURABLE_HUB)
            self._book.tell_watchers(live)

    def follow_progress(self, task: task_pb2.Task) -> None:
        """A notice of a task that runs elsewhere."""
        live = self._book.live.get(task.task_id)
        if live is not None and live.holder and not live.finishing:
            if task.attempt_count != live.attempts:
                live.progress = None
            live.agent, live.attempts = task.agent, task.attempt_count
            if task.HasField("progress"):
                live.progress = pieces.merge(live.progress, task.progress)
            state = TaskState(task.state)
            if state is not live.state and state in _ON_ITS_WAY and live.state in _ON_ITS_WAY:
                live.enter(state, self._book.clock.wall())
            live.sequence += 1
            self._book.raise_level(live, Level.DELIVERED)
            self._book.tell_watchers(live)

    def _revoked(self, revoke: sync_pb2.TaskRevoke) -> None:
        live = self._book.live.get(revoke.task_id)
        if live is None or live.finishing or live.fence > revoke.fence:
            return
        self._dispatcher.withdraw(live)
        self._gone(live)

    def _gone(self, live: LiveTask) -> None:
        """The hub has it again; only its origin follows it on."""
        live.clear_timers()
        if live.origin == self._book.node:
            live.holder, live.fence = HUB, 0
            live.enter(TaskState.QUEUED, self._book.clock.wall(), AT_HUB)
            self._dispatcher.watch_deadline(live)
        else:
            del self._book.live[live.task_id]
        self._book.tell_watchers(live)

    def _take_answer(self, given: sync_pb2.TaskAnswer) -> None:
        live = self._book.live.get(given.task_id)
        if live is None or live.finishing:
            return
        live.answers[given.key] = given.answer
        if live.state in ASKING and live.input_request is not None and live.input_request.key == given.key:
            live.input_request = None
            live.apply(TaskEvent.BEGIN, self._book.clock.wall())
        if live.sink is not None:
            live.sink.answer(live, given.key, given.answer)
