"""Tasks of the hub's own callers: submitting, waiting for a level, following, replaying."""

from __future__ import annotations

import asyncio
from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress

from msgspec import structs

from edgenode.api.task.v1 import task_pb2
from edgenode.link.errors import EdgenodeError, FailedPrecondition, InvalidArgument
from edgenode.link.model.names import make_id
from edgenode.link.model.task import Level, Scope
from edgenode.link.ports import Clock, Rng
from edgenode.link.store.seals import TaskDamaged
from edgenode.link.wire import checks
from edgenode.link.wire.tasks import TaskLimits, task_spec_from_proto
from hub.services.blob import BLOBS_AT_HUB
from hub.services.dispatcher import Dispatcher
from hub.services.entries import record_of
from hub.services.task_view import level_of
from hub.store.records import Change, TaskRecord

# Called with a task as it stands and, where a holder's notice is the cause and not a change of the row, the notice.
Watcher = Callable[[TaskRecord, task_pb2.Task | None], None]


class TaskDesk:
    """Between TaskService and the dispatcher."""

    def __init__(
        self, dispatcher: Dispatcher, hub: str, clock: Clock, rng: Rng, limits: TaskLimits | None = None
    ) -> None:
        self._dispatcher = dispatcher
        self._hub = hub
        self._clock = clock
        self._rng = rng
        self._limits = limits or TaskLimits()
        self._watchers: dict[str, set[Watcher]] = defaultdict(set)
        dispatcher.on_change(self._changed)

    # --- submitting ---

    def record(
        self, spec: task_pb2.TaskSpec, request_id: str = "", replay_of: str = "", field: str = "spec"
    ) -> TaskRecord:
        """A new task for `spec`, whose deadline may have passed. Raises InvalidArgument or ResourceExhausted."""
        checks.short(request_id, 128, "request_id")
        if spec.agent and "/" not in spec.agent:
            raise InvalidArgument(
                "BAD_NAME",
                f"{field}.agent is {spec.agent!r}",
                hint="a hub has no agents of its own: nodes/NODE/agents/AGENT",
                field=f"{field}.agent",
            )
        now = self._clock.wall()
        checked = task_spec_from_proto(spec, limits=self._limits, now=None, node=self._hub, field=field)
        if checked.blobs:
            raise FailedPrecondition(
                BLOBS_AT_HUB,
                f"{field} refers to blobs, and a hub takes none from its own callers",
                hint="put them to an edge and submit it there",
                field=f"{field}.blobs",
            )
        task_id = make_id(now, self._rng.getrandbits(80))
        record = record_of(task_id, self._hub, checked, now)
        if checked.scope is not Scope.FLEET:
            record = record.as_kept()
        return record.as_submission(request_id, checked.idempotency_key, replay_of)

    async def submit(self, tasks: Sequence[TaskRecord]) -> list[TaskRecord | EdgenodeError]:
        """Store tasks; see Dispatcher.submit."""
        return await self._dispatcher.submit(tasks)

    async def replay(self, task_id: str, request_id: str) -> TaskRecord:
        """Submit a finished task's spec as a new task. Raises FailedPrecondition (NOT_TERMINAL), NotFound, TaskDamaged."""
        first = await self._dispatcher.get(task_id)
        if not first.state.terminal:
            raise FailedPrecondition(
                "NOT_TERMINAL",
                f"task {task_id} is {first.state.name}",
                hint="cancel it first, or wait for its end",
                task_id=task_id,
            )
        if first.damaged:
            raise TaskDamaged(task_id)
        spec = task_pb2.TaskSpec.FromString(first.spec)
        # The key stands for the first task; a deadline that has passed would end the new one at once.
        spec.ClearField("idempotency_key")
        if 0 < first.deadline <= self._clock.wall():
            spec.ClearField("deadline_time")
        (answer,) = await self.submit([self.record(spec, request_id, task_id)])
        if isinstance(answer, EdgenodeError):
            raise answer
        return answer

    # --- following ---

    @contextmanager
    def watch(self, task_id: str, watcher: Watcher) -> Iterator[None]:
        """Call `watcher` with each change and each progress of a task."""
        self._watchers[task_id].add(watcher)
        try:
            yield
        finally:
            watchers = self._watchers[task_id]
            watchers.discard(watcher)
            if not watchers:
                del self._watchers[task_id]

    async def wait_for_level(self, task_id: str, level: Level, seconds: float) -> TaskRecord:
        """The task once it has reached `level`, or as it stands when the wait is over."""
        reached: asyncio.Future[TaskRecord] = asyncio.get_running_loop().create_future()

        def note(task: TaskRecord, _: task_pb2.Task | None) -> None:
            if level_of(task) >= level and not reached.done():
                reached.set_result(task)

        with self.watch(task_id, note):
            task = await self._dispatcher.get(task_id)
            if level_of(task) >= level:
                return task
            with suppress(TimeoutError):
                seen = await asyncio.wait_for(reached, seconds)
                if not seen.state.terminal:
                    return structs.replace(seen, spec=task.spec)
        return await self._dispatcher.get(task_id)

    def noticed(self, task: TaskRecord, notice: task_pb2.Task) -> None:
        """A holder told how far it is; `task` is the row with what the notice adds."""
        for watcher in list(self._watchers.get(task.task_id, ())):
            watcher(task, notice)

    def watched(self, task_id: str) -> bool:
        """Whether anybody follows it."""
        return task_id in self._watchers

    def _changed(self, change: Change) -> None:
        for watcher in list(self._watchers.get(change.after.task_id, ())):
            watcher(change.after, None)
