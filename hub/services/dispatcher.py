"""Carries out what `mover` decides and `placement` plans: the one door to the hub's tasks.

Every change of a task goes through one transaction of the store; what was committed is then counted, announced to the
links (their logs grew) and to whoever watches. One worker grants, parks, expires and takes back, a bounded batch for each
transaction; it sleeps until something that concerns it changes or a deadline comes.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass

from edgenode.link.errors import EdgenodeError, NotFound, ResourceExhausted
from edgenode.link.failpoints import Failpoint, reach
from edgenode.link.model.blob import BlobRef
from edgenode.link.model.lanes import Applied, Lane, LaneHead
from edgenode.link.ports import Clock
from edgenode.link.protocol.tasks import is_past, past_deadline
from edgenode.link.protocol.timers import Timer
from edgenode.link.store.seals import TASK_DAMAGED, TaskDamaged
from hub.services.alarm import Alarm
from hub.services.background import Background
from hub.services.entries import EntryReader
from hub.services.mover import Mover, Submissions, conflict
from hub.services.moves import Asked, Entry, Granted, Offered, ParentMove, Restated, Returned, references
from hub.services.parent_entries import ParentReader
from hub.services.placement import Placement
from hub.services.recovery import Recovery
from hub.services.view import FleetView
from hub.store.ports import TaskStore
from hub.store.records import PARENT, Change, Committed, Decide, Decision, Intake, Selection, TaskRecord, Tasks, WaitKey
from hub.store.restating import NOT_WAITED_FOR, describe, forgetful_hub

GRANT_BATCH = 512
SWEEP_BATCH = 500
RETRY_SECONDS = 1.0

_log = logging.getLogger(__name__)

Appended = Callable[[str, Lane, int], None]


@dataclass(frozen=True, slots=True, kw_only=True)
class DispatcherSettings:
    """Durations in seconds."""

    reassign_after: float = 30.0
    retention: float = 7 * 86_400.0
    sweep_interval: float = 60.0
    max_pending: int = 1_000_000


class Dispatcher:
    """`appended(node, lane, last)` is told of each log that grew. Call `start` before anything else, `stop` at the end."""

    def __init__(
        self,
        store: TaskStore,
        mover: Mover,
        placement: Placement,
        view: FleetView,
        reader: EntryReader,
        clock: Clock,
        alarm: Alarm,
        appended: Appended,
        settings: DispatcherSettings,
        recovery: Recovery,
        settled: Callable[[str, str, int], Awaitable[int]],
    ) -> None:
        """`settled(node, restate_id, highest_fence)` notes that a node's answer was taken in; see FleetStore."""
        self._recovery = recovery
        self._note_settled = settled
        recovery.on_change = lambda: self._wake.set()
        self._store = store
        self._mover = mover
        self._placement = placement
        self._view = view
        self._reader = reader
        self._clock = clock
        self._alarm = alarm
        self._appended = appended
        self._settings = settings
        self._listeners: list[Callable[[Change], None]] = []
        # Told of blobs that committed entries of a node refer to.
        self.on_references: Callable[[str, Sequence[BlobRef]], None] = lambda _node, _refs: None
        self._background = Background()
        self._wake = asyncio.Event()
        self._worker: asyncio.Task[None] | None = None
        self._deadline = 0.0
        self._deadline_timer: Timer | None = None
        self._retry_timer: Timer | None = None
        self._expiry_due = False
        self._sweep_due = False
        self._swept = clock.monotonic()
        self._absent: dict[str, Timer] = {}  # nodes out of reach that keep their tasks until then
        self._up = False  # whether tasks go to a parent now
        self._parent_last = 0  # entry of the parent's task log as its session began
        self._look_everywhere = True  # for tasks that go there, not in `_changed_queues` only
        self._changed_queues: set[WaitKey] = set()
        self._lost: dict[str, int] = {}  # node -> version of the fleet when it was last looked at

    # --- life ---

    async def start(self, *, has_parent: bool) -> None:
        """Read what is under way and begin to grant."""
        workload = await self._store.workload()
        self._placement.restore(workload)
        self._watch_deadline(workload.next_deadline)
        self._view.on_change(self._fleet_changed)
        self._schedule_sweep()
        if not has_parent:
            await self._commit(Selection(with_parent=True), self._mover.orphans(self._clock.wall()))
        elif self._placement.held(PARENT):
            self.node_unreachable(PARENT)  # until it is heard of
        self._wake.set()
        self._worker = asyncio.create_task(self._work(), name="dispatcher")

    async def stop(self) -> None:
        """Finish the batch under way and stop. Safe to call twice, and before `start`."""
        worker, self._worker = self._worker, None
        if worker is not None:
            worker.cancel()
            await asyncio.wait({worker})
        await self._background.close()

    def _fleet_changed(self) -> None:
        self._look_everywhere = True
        self._wake.set()

    def on_change(self, listener: Callable[[Change], None]) -> None:
        """Call `listener` for each committed change."""
        self._listeners.append(listener)

    # --- from the links ---

    async def apply(self, intake: Intake) -> Applied:
        """Entries of a node's task lane. Raises what the store raises; nothing was applied then."""
        entries, task_ids = self._reader.read(intake.node, intake.base, intake.segments, self._clock.wall())
        new_bytes = sum(len(entry.task.spec) for _, entry in entries if isinstance(entry, Offered))
        if new_bytes:
            self._store.check_room(new_bytes)
        asked = self._recovery.hearing(intake.node)
        decide = self._mover.intake(intake.node, entries, self._placement.parked, self._clock.wall(), asked)
        committed = await self._commit(Selection(task_ids=task_ids), _referring(decide, entries), intake)
        assert committed.applied is not None
        self._tell_references(intake.node, entries)
        answers = (entry for _, entry in entries if isinstance(entry, Restated) and entry.restate_id == asked)
        if asked and (answer := next(answers, None)) is not None:
            self._recovery.answered(intake.node)
            settling = self._settle(intake.node, asked, answer.highest_fence)
            self._background.start(settling, f"what {intake.node} said again")
        return committed.applied

    async def ask(self, node: str, restate_id: str, fence_base: int) -> None:
        """A session begins, and one side has forgotten something: the node is to say again what it has."""
        self._recovery.ask(node, restate_id, fence_base)
        _log.warning("%s is asked what tasks it has: %s", node, describe(restate_id))
        await self._commit(Selection(), self._mover.ask(node, restate_id, self._clock.wall()))

    async def reconcile(self, node: str, grants: bool, fence_base: int) -> None:
        """This hub or one below, `node`, came back with an older disk, and the log's retained entries do not heal it.

        `grants`: the one below may lack what it holds, or hold it under fences that this hub has forgotten.
        """
        self._recovery.begin_above(fence_base)
        _log.warning("this hub or %s came back with an older disk: tasks are told again", node)
        if grants:
            await self._go_through(
                lambda after: Selection(holder=node, after_task_id=after, limit=SWEEP_BATCH, with_spec=True),
                lambda: self._mover.grant_again(node, self._clock.wall()),
                lambda: True,
            )
        # What it offers again makes the row that is missing here, or is answered with the end that it does not know.
        await self._commit(Selection(), self._mover.ask(node, NOT_WAITED_FOR, self._clock.wall()))

    async def _settle(self, node: str, asked: str, highest_fence: int) -> None:
        """The node has said all: decide what is still in doubt."""
        await self._settle_doubts(node, asked)
        if self._recovery.asked(node) != asked:
            return
        self._recovery.settled(node, await self._note_settled(node, asked, highest_fence))
        if forgetful_hub(asked) and self._recovery.complete:
            await self._settle_doubts("", asked)

    async def _settle_doubts(self, node: str, asked: str) -> None:
        await self._go_through(
            lambda after: Selection(doubtful=node, after_task_id=after, limit=SWEEP_BATCH),
            lambda: self._mover.settle(node, asked, self._clock.wall()),
            lambda: self._recovery.asked(node) == asked or not node,
        )

    async def apply_parent(self, intake: Intake, reader: ParentReader) -> Applied:
        """Entries of the parent's task lane; as `apply`."""
        entries, task_ids = reader.read(intake.base, intake.segments, self._clock.wall())
        new_bytes = sum(len(entry.task.spec) for _, entry in entries if isinstance(entry, Granted))
        if new_bytes:
            self._store.check_room(new_bytes)
        decide = self._mover.from_parent(entries, self._clock.wall(), self._parent_last)
        asked = any(isinstance(entry, Asked) for _, entry in entries)
        selection = Selection(task_ids=task_ids, with_parent=asked, with_spec=asked)
        committed = await self._commit(selection, _referring(decide, entries), intake)
        assert committed.applied is not None
        self._tell_references(intake.node, entries)
        return committed.applied

    def _tell_references(self, node: str, entries: Sequence[tuple[int, Entry | ParentMove]]) -> None:
        if found := references(entries):
            self.on_references(node, [ref for _, ref in found])

    def parent_session(self, heads: Sequence[LaneHead]) -> None:
        """A session with the parent begins; its logs are at `heads`: what it grants from now on nobody ever had."""
        self._parent_last = max((head.last for head in heads if head.lane is Lane.TASK), default=0)

    def parent_back(self) -> None:
        """The parent can be reached: what nobody here fits goes to it."""
        self._up = True
        self._look_everywhere = True
        self.node_back(PARENT)

    def parent_gone(self) -> None:
        """The parent cannot be reached: nothing goes to it, and after a while what it holds is taken back where that helps."""
        self._up = False
        self.node_unreachable(PARENT)

    async def refused(self, node: str, grants: Sequence[tuple[str, int]], reason: str) -> None:
        """The node would not take these grants, (task, fence): they go elsewhere."""
        entries = [(0, Returned(task_id, fence, reason)) for task_id, fence in grants]
        decide = self._mover.intake(node, entries, {}, self._clock.wall())
        await self._commit(Selection(task_ids=[task_id for task_id, _ in grants]), decide)

    def node_unreachable(self, node: str) -> None:
        """The node's lease ran out: after a while others get its tasks."""
        self._forgive(node)
        self._absent[node] = self._alarm.after(self._settings.reassign_after, lambda: self._give_up(node))

    def node_back(self, node: str) -> None:
        """The node has a session."""
        self._forgive(node)
        self._lost.pop(node, None)
        self._wake.set()

    def _forgive(self, node: str) -> None:
        timer = self._absent.pop(node, None)
        if timer is not None:
            timer.cancel()

    def _give_up(self, node: str) -> None:
        self._absent.pop(node, None)
        self._look_at_lost(node)

    def _look_at_lost(self, node: str) -> None:
        self._lost[node] = -1
        self._wake.set()

    def sweep_soon(self) -> None:
        """Forget what ended long enough ago."""
        self._sweep_due = True
        self._wake.set()

    # --- from the hub's own callers ---

    async def submit(self, tasks: Sequence[TaskRecord]) -> list[TaskRecord | EdgenodeError]:
        """Store tasks; each answer is the task (an earlier one for a known key) or why it was refused.

        Raises ResourceExhausted (QUEUE_FULL, STORE_FULL).
        """
        pending = self._placement.pending_count
        if pending + len(tasks) > self._settings.max_pending:
            raise ResourceExhausted(
                "QUEUE_FULL",
                f"the fleet has {pending} tasks under way",
                hint="wait until some are done, or raise max_queued_tasks",
                retry_after=5.0,
                limit=self._settings.max_pending,
            )
        self._store.check_room(sum(len(task.spec) for task in tasks))
        selection = Selection(
            request_ids=[task.request_id for task in tasks if task.request_id],
            idempotency_keys=[task.idempotency_key for task in tasks if task.idempotency_key],
            with_spec=True,
        )
        known: list[TaskRecord] = []
        now = self._clock.wall()
        decide = self._mover.submit(tasks, now)

        def remember(rows: Tasks, applied: int) -> Decision:
            known[:] = rows.values()
            return decide(rows, applied)

        committed = await self._commit(selection, remember)
        known += [change.after for change in committed.changes]
        submissions = Submissions(known)
        answers: list[TaskRecord | EdgenodeError] = []
        for task in tasks:
            first = submissions.first(task)
            if first is None:
                answers.append(past_deadline(task.deadline, now) if is_past(task.deadline, now) else task)
            elif first.damaged:
                answers.append(TaskDamaged(first.task_id))
            else:
                answers.append(first if first.spec == task.spec else conflict(first))
        return answers

    async def cancel(self, task_id: str, reason: str) -> TaskRecord:
        """Ask for a task's end. Raises NotFound (UNKNOWN_TASK)."""
        await self._commit(Selection(task_ids=[task_id]), self._mover.cancel(task_id, reason, self._clock.wall()))
        return await self.get(task_id)

    async def answer(self, task_id: str, key: str, answer: bytes) -> TaskRecord:
        """Answer a question. Raises NotFound (UNKNOWN_TASK), FailedPrecondition (NO_INPUT_REQUESTED)."""
        decide = self._mover.answer(task_id, key, answer, self._clock.wall())
        await self._commit(Selection(task_ids=[task_id]), decide)
        return await self.get(task_id)

    async def get(self, task_id: str) -> TaskRecord:
        """A task with its spec.

        Raises NotFound (UNKNOWN_TASK), TaskDamaged where it is not what was stored; one that ended for that has no spec.
        """
        task = await self._store.get(task_id)
        if task is None:
            raise NotFound(
                "UNKNOWN_TASK",
                f"the hub has no task {task_id}",
                hint="it was never offered to the hub, or it ended long ago",
                task_id=task_id,
            )
        if task.damaged and task.state_reason != TASK_DAMAGED:
            raise TaskDamaged(task_id)
        return task

    # --- committing ---

    async def _commit(self, selection: Selection, decide: Decide, intake: Intake | None = None) -> Committed:
        """One transaction, and memory after it, also when the caller is gone by then: a row nobody counted waits for ever."""
        return await self._background.finish(self._transact(selection, decide, intake), "task transaction")

    async def _transact(self, selection: Selection, decide: Decide, intake: Intake | None) -> Committed:
        decide = self._mover.spare_damaged(selection, decide, self._clock.wall())
        committed = await self._store.transact(selection, decide, intake)
        reach(Failpoint.TASKS_COMMITTED)
        if intake is None and committed.appended:
            reach(Failpoint.GRANT_COMMITTED)
        self._placement.note(committed.changes)
        for node, last in committed.appended.items():
            self._appended(node, Lane.TASK, last)
        now = self._clock.wall()
        for change in committed.changes:
            after = change.after
            if change.before is None and after.deadline and not after.state.terminal:
                self._watch_deadline(after.deadline)
            if after.waiting and after.avoided(now):
                self._retry_after(after.avoid_until - now)
            if after.held and after.cancel_reason is not None and after.holder in self._lost:
                self._look_at_lost(after.holder)
            if self._up and after.waiting:
                self._changed_queues.add(after.wait_key)
            for listener in self._listeners:
                listener(change)
        if committed.changes:
            self._wake.set()
        return committed

    def _watch_deadline(self, deadline: float) -> None:
        if not deadline or (self._deadline and self._deadline <= deadline):
            return
        self._deadline = deadline
        if self._deadline_timer is not None:
            self._deadline_timer.cancel()
        self._deadline_timer = self._alarm.after(max(deadline - self._clock.wall(), 0.0), self._deadline_passed)

    def _deadline_passed(self) -> None:
        self._expiry_due = True
        self._wake.set()

    def _retry_after(self, seconds: float) -> None:
        if self._retry_timer is None or self._retry_timer.callback is None:
            self._retry_timer = self._alarm.after(seconds, self._wake.set)

    def _schedule_sweep(self) -> None:
        def due() -> None:
            self.sweep_soon()
            self._schedule_sweep()

        self._alarm.after(self._settings.sweep_interval, due)

    # --- the worker ---

    async def _work(self) -> None:
        while True:
            await self._wake.wait()
            self._wake.clear()
            # Each by itself: a full store stops granting, and forgetting what ended is what makes room.
            for step in (self._expire, self._take_back, self._hand_up, self._park, self._grant, self._sweep):
                try:
                    await step()
                except EdgenodeError as error:
                    _log.warning("tasks cannot be moved now: %s", error)
                    self._alarm.after(RETRY_SECONDS, self._wake.set)
                except Exception:
                    _log.exception("the dispatcher failed; it goes on with what comes next")
                    self._alarm.after(RETRY_SECONDS, self._wake.set)

    async def _expire(self) -> None:
        while self._expiry_due:
            now = self._clock.wall()
            committed = await self._commit(Selection(due=now, limit=SWEEP_BATCH), self._mover.expire(now))
            if not committed.changes:
                self._expiry_due = False
                self._deadline = 0.0
                self._watch_deadline(await self._store.next_deadline())

    async def _take_back(self) -> None:
        for node in self._placement.holding(self._lost):
            await self._take_back_from(node)

    async def _take_back_from(self, node: str) -> None:
        """Look at what a lost node holds, once for each version of the fleet: somebody who fits may have come."""
        version = self._view.version
        if self._lost.get(node) == version or not self._placement.held(node):
            return
        movable = self._placement.movable(node, await self._store.held_queues(node))
        await self._go_through(
            lambda after: Selection(holder=node, after_task_id=after, limit=SWEEP_BATCH),
            lambda: self._mover.lost(node, movable, self._clock.wall()),
            lambda: node in self._lost,
        )
        if node in self._lost:
            self._lost[node] = version

    async def _go_through(
        self, select: Callable[[str], Selection], decide: Callable[[], Decide], wanted: Callable[[], bool]
    ) -> None:
        """Decide about batch after batch, each behind the task that `select` is given, for as long as it is `wanted`."""
        after = ""
        while wanted():
            seen: list[str] = []
            decide_now = decide()

            def note(rows: Tasks, applied: int, decide_now: Decide = decide_now, seen: list[str] = seen) -> Decision:
                seen[:] = rows
                return decide_now(rows, applied)

            committed = await self._commit(select(after), note)
            if any(change.after.damaged for change in committed.changes):
                continue  # they have ended, and were not seen: once more
            if len(seen) < SWEEP_BATCH:
                return
            after = seen[-1]

    async def _hand_up(self) -> None:
        """What nobody here fits goes to the parent; what stays all the same is looked at again when its queue changes."""
        if self._recovery.waiting:
            return  # somebody here may have it already
        changed, self._changed_queues = self._changed_queues, set()
        if not self._up:
            return
        everywhere, self._look_everywhere = self._look_everywhere, False
        try:
            for key, reason in self._placement.unfit(None if everywhere else changed).items():
                while True:
                    selection = Selection(waiting={key: GRANT_BATCH}, not_kept=True, with_spec=True)
                    committed = await self._commit(selection, self._mover.hand_up(reason, self._clock.wall()))
                    if len(committed.changes) < GRANT_BATCH:
                        break
        except Exception:
            self._changed_queues |= changed
            self._look_everywhere |= everywhere
            raise

    async def _park(self) -> None:
        newly = self._placement.park()
        try:
            for key in newly:
                while (reason := self._placement.parked.get(key)) is not None:
                    decide = self._mover.park({key: reason}, self._clock.wall())
                    committed = await self._commit(Selection(waiting={key: SWEEP_BATCH}, not_parked=True), decide)
                    if not committed.changes:
                        break
        except Exception:
            for key in newly:  # of what is stored by now the next time changes nothing
                self._placement.parked.pop(key, None)
            raise

    async def _grant(self) -> None:
        while not self._recovery.waiting:
            plan = self._placement.plan(self._clock.monotonic(), GRANT_BATCH).without(self._recovery.asked)
            if not plan.slots:
                return
            now = self._clock.wall()
            selection = Selection(
                waiting={key: len(nodes) for key, nodes in plan.slots.items()},
                sole=plan.sole(),
                now=now,
                with_spec=True,
            )
            committed = await self._commit(selection, self._mover.grant(plan.slots, plan.spares, now))
            if not committed.changes:
                self._retry_after(self._mover.terms.avoid_seconds)
                return  # all of them avoid the nodes that are free

    async def _sweep(self) -> None:
        if not self._sweep_due:
            return
        now = self._clock.monotonic()
        passed, self._swept = now - self._swept, now
        before = await self._store.pass_time(passed) - self._settings.retention
        while self._sweep_due:
            self._sweep_due = await self._store.sweep(before, SWEEP_BATCH) == SWEEP_BATCH


def _referring(decide: Decide, entries: Sequence[tuple[int, Entry | ParentMove]]) -> Decide:
    """`decide`, and what the entries refer to is noted with it."""
    found = references(entries)

    def run(known: Tasks, applied_before: int) -> Decision:
        decision = decide(known, applied_before)
        decision.references = found
        return decision

    return run if found else decide
