"""TaskService on the edge: requests in, the engine's answers out."""

from __future__ import annotations

import asyncio
import heapq
from collections.abc import AsyncIterator
from functools import partial

from edgenode.api.receipt.v1 import receipt_pb2
from edgenode.api.task.v1 import task_pb2, task_service_pb2, task_service_pb2_grpc
from edgenode.link.errors import FailedPrecondition, NotFound, from_problem
from edgenode.link.model.task import Level, TaskSpec, TaskState
from edgenode.link.wire import checks, pieces
from edgenode.link.wire.status import Context
from edgenode.link.wire.tasks import SpecReader, check_output, task_spec_from_proto
from edgenode.link.wire.values import duration_from_pb, timestamp_to_pb
from edgenode.node import task_store
from edgenode.node.call_stream import allow_pieces
from edgenode.node.registry import AgentRegistry
from edgenode.node.submissions import SubmitStream, fingerprint, problem_of
from edgenode.node.task_state import HistoryRow, LiveTask, event_pb
from edgenode.node.tasks import NewTask, TaskEngine
from edgenode.node.work import serve_work

MAX_WAIT = 3600.0
_PAGE = 100
_MAX_PAGE = 1000


class TaskService(task_service_pb2_grpc.TaskServiceServicer):
    """See the contract."""

    def __init__(self, engine: TaskEngine, registry: AgentRegistry) -> None:
        self._engine = engine
        self._registry = registry
        self._specs = SpecReader(lambda: engine.book.settings.limits, engine.book.node)
        self._streams = 0  # calls that are read along

    # --- submitting -------------------------------------------------------------------------------------------------

    async def SubmitTask(
        self, request: task_service_pb2.SubmitTaskRequest, context: Context
    ) -> task_service_pb2.SubmitTaskResponse:
        """See the contract."""
        level = checks.choice(Level, request.wait_level, Level.DURABLE_LOCAL, "wait_level")
        wait = duration_from_pb(request.wait_duration, "wait_duration") if request.HasField("wait_duration") else 30.0
        checks.in_range(wait, 0, MAX_WAIT, "wait_duration")
        new = NewTask(
            self.spec(request.spec), checks.short(request.request_id, 128, "request_id"), fingerprint(request.spec)
        )
        (submitted,) = await self._engine.submit([new])
        if submitted.problem is not None:
            raise from_problem(submitted.problem)
        if submitted.live is not None and level > submitted.live.level:
            await wait_for_level(submitted.live, level, wait)
        task = await self.task(submitted.task_id)
        receipt = receipt_pb2.Receipt(
            level=task.level, node=self._engine.book.node, commit_time=timestamp_to_pb(self._engine.book.clock.wall())
        )
        return task_service_pb2.SubmitTaskResponse(task=task, receipt=receipt)

    async def SubmitTasks(self, request_iterator: object, context: Context) -> None:
        """See the contract."""
        await SubmitStream(self._engine, context, self._specs.read, self.task).run()

    async def CallAgent(
        self, request: task_service_pb2.CallAgentRequest, context: Context
    ) -> task_service_pb2.CallAgentResponse:
        """See the contract."""
        ended = asyncio.Event()
        live = self._engine.start_call(self._call_spec(request.spec, context), lambda _live: ended.set())
        try:
            await ended.wait()
        finally:
            self._engine.cancel_call(live)
        if live.output is None:
            raise from_problem(problem_of(live))
        return task_service_pb2.CallAgentResponse(output=live.output, agent=live.agent)

    async def StreamCall(
        self, request: task_service_pb2.StreamCallRequest, context: Context
    ) -> AsyncIterator[task_service_pb2.StreamCallResponse]:
        """See the contract, and `call_stream`."""
        if self._streams >= pieces.MAX_STREAMS:
            raise pieces.streams_full()
        spec = self._call_spec(request.spec, context)
        self._streams += 1
        try:
            reader = pieces.PieceReader()
            live = self._engine.start_call(spec, lambda _live: reader.end(), on_pieces=reader.put)
            try:
                async for given in reader.read(partial(allow_pieces, self._engine.book, live)):
                    yield task_service_pb2.StreamCallResponse(pieces=given)
            finally:
                self._engine.cancel_call(live)
            if live.output is None:
                raise from_problem(problem_of(live))
            yield task_service_pb2.StreamCallResponse(output=live.output, agent=live.agent)
        finally:
            self._streams -= 1

    def _call_spec(self, message: task_pb2.TaskSpec, context: Context) -> TaskSpec:
        """The checked spec of a call, with the rpc's deadline where it has none."""
        remaining = context.time_remaining()
        if not message.HasField("deadline_time") and remaining is not None:
            message.deadline_time.CopyFrom(timestamp_to_pb(self._engine.book.clock.wall() + remaining))
        return self.spec(message)

    def spec(self, message: task_pb2.TaskSpec) -> TaskSpec:
        """The checked spec; whether its deadline has passed is the engine's to look at, which knows what came before."""
        return task_spec_from_proto(
            message,
            limits=self._engine.book.settings.limits,
            now=None,
            node=self._engine.book.node,
        )

    # --- reading ----------------------------------------------------------------------------------------------------

    async def task(self, task_id: str) -> task_pb2.Task:
        """The task as it stands; ends that are not committed yet are not shown. Raises NotFound (UNKNOWN_TASK)."""
        live = self._engine.book.live.get(task_id)
        if live is not None and not live.finishing and not live.call:
            return live.to_pb(self._engine.book.node)
        task = await self._engine.book.database.read(lambda c: task_store.fetch(c, task_id, self._engine.book.node))
        if task is None:
            raise NotFound(
                "UNKNOWN_TASK", f"no task {task_id!r} here", hint="see: edgenode tasks list", task_id=task_id
            )
        return task

    async def GetTask(
        self, request: task_service_pb2.GetTaskRequest, context: Context
    ) -> task_service_pb2.GetTaskResponse:
        """See the contract."""
        return task_service_pb2.GetTaskResponse(task=await self.task(request.task_id))

    async def ListTasks(
        self, request: task_service_pb2.ListTasksRequest, context: Context
    ) -> task_service_pb2.ListTasksResponse:
        """See the contract. Tasks that have not ended are read from memory, ended ones from the store."""
        checks.in_range(request.page_size, 0, _MAX_PAGE, "page_size")
        size = request.page_size or _PAGE
        before = request.page_token
        states = {checks.choice(TaskState, number, TaskState.QUEUED, "states") for number in request.states}
        node = self._engine.book.node
        live = heapq.nlargest(
            size + 1,
            (
                live
                for live in self._engine.book.live.values()
                if not live.call
                and not live.finishing
                and (not before or live.task_id < before)
                and (not states or live.state in states)
                and (not request.skill or live.spec.skill == request.skill)
                and (not request.context_id or live.spec.context_id == request.context_id)
            ),
            key=lambda live: live.task_id,
        )
        tasks = [found.to_pb(node, with_payload=False) for found in live]
        ended = [state for state in states or TaskState if state.terminal]
        if ended:
            tasks += await self._engine.book.database.read(
                lambda connection: task_store.page(
                    connection,
                    node,
                    before=before,
                    size=size + 1,
                    states=ended,
                    skill=request.skill,
                    context_id=request.context_id,
                )
            )
        tasks.sort(key=lambda task: task.task_id, reverse=True)
        token = tasks[size - 1].task_id if len(tasks) > size else ""
        return task_service_pb2.ListTasksResponse(tasks=tasks[:size], next_page_token=token)

    async def WatchTask(
        self, request: task_service_pb2.WatchTaskRequest, context: Context
    ) -> AsyncIterator[task_service_pb2.WatchTaskResponse]:
        """See the contract."""
        checks.in_range(request.after_sequence, 0, 1 << 62, "after_sequence")
        cursor = request.after_sequence
        changed = asyncio.Event()
        first = True
        seen = _SeenPieces()
        followed: LiveTask | None = None

        def wake(_live: LiveTask) -> None:
            changed.set()

        try:
            # Looked up each time: the hub may grant the task anew, and then another object stands for it.
            while (live := self._live(request.task_id)) is not None:
                changed.clear()
                if followed is None:
                    live.watchers.append(wake)
                followed = live
                if not live.finishing:
                    sent = live.sequence  # it may change again while the response is being sent
                    response = self._news(live.history, sent, cursor)
                    told = max(cursor, live.history[-1][0])
                    if live.progress is not None and (sent > told or seen.lacks(live)):
                        response.events.append(seen.progress_event(live))
                    if first:
                        response.task.CopyFrom(live.to_pb(self._engine.book.node))
                    if first or response.events:
                        yield response
                    first = False
                    cursor = max(cursor, sent)
                # A decided end is told once it is committed: the engine forgets the task then, and wakes its watchers.
                await changed.wait()
        finally:
            if followed is not None:
                followed.watchers.remove(wake)
        task = await self.task(request.task_id)
        if followed is not None:
            history = list(followed.history)
        else:
            history = await self._engine.book.database.read(lambda c: task_store.fetch_history(c, request.task_id))
        if not history or history[-1][2] != task.state:
            history.append(
                (task.sequence, _seconds(task), task.state, task.state_reason, task.attempt_count, task.agent)
            )
        response = self._news(history, task.sequence, cursor)
        if followed is not None and response.events and seen.lacks(followed):
            response.events[-1].progress.CopyFrom(seen.progress_event(followed).progress)
        response.task.CopyFrom(task)
        yield response

    def _live(self, task_id: str) -> LiveTask | None:
        live = self._engine.book.live.get(task_id)
        return None if live is None or live.call else live

    def _news(self, history: list[HistoryRow], last: int, cursor: int) -> task_service_pb2.WatchTaskResponse:
        events = [row for row in history if row[0] > cursor]
        gap = bool(cursor and events and events[0][0] > cursor + 1) or (not events and last < cursor)
        return task_service_pb2.WatchTaskResponse(events=map(event_pb, events), gap=gap)

    # --- changing ---------------------------------------------------------------------------------------------------

    async def CancelTask(
        self, request: task_service_pb2.CancelTaskRequest, context: Context
    ) -> task_service_pb2.CancelTaskResponse:
        """See the contract."""
        await self.task(request.task_id)
        await self._engine.cancel(request.task_id, checks.short(request.reason, 256, "reason"))
        return task_service_pb2.CancelTaskResponse(task=await self.task(request.task_id))

    async def ProvideTaskInput(
        self, request: task_service_pb2.ProvideTaskInputRequest, context: Context
    ) -> task_service_pb2.ProvideTaskInputResponse:
        """See the contract."""
        check_output(request.answer, limits=self._engine.book.settings.limits, field="answer")
        task = await self.task(request.task_id)
        if task.state >= TaskState.COMPLETED:
            raise FailedPrecondition("NO_INPUT_REQUESTED", f"the task is {TaskState(task.state).name}")
        await self._engine.provide_input(request.task_id, request.key, request.answer)
        return task_service_pb2.ProvideTaskInputResponse(task=await self.task(request.task_id))

    async def ReplayTask(
        self, request: task_service_pb2.ReplayTaskRequest, context: Context
    ) -> task_service_pb2.ReplayTaskResponse:
        """See the contract."""
        new_id = await self.replay(request.task_id, checks.short(request.request_id, 128, "request_id"))
        return task_service_pb2.ReplayTaskResponse(task=await self.task(new_id))

    async def replay(self, task_id: str, request_id: str) -> str:
        """Submit an ended task's spec again; the new task's id. Raises FailedPrecondition (NOT_TERMINAL), TaskDamaged."""
        task = await self.task(task_id)
        if task.state < TaskState.COMPLETED:
            raise FailedPrecondition(
                "NOT_TERMINAL", f"task {task_id} is {TaskState(task.state).name}", hint="cancel it first"
            )
        await self._engine.book.database.read(lambda connection: task_store.check_spec(connection, task_id))
        message = task.spec
        message.ClearField("deadline_time")
        message.ClearField("idempotency_key")
        (submitted,) = await self._engine.submit([NewTask(self.spec(message), request_id, replay_of=task_id)])
        if submitted.problem is not None:
            raise from_problem(submitted.problem)
        return submitted.task_id

    async def WorkTasks(self, request_iterator: object, context: Context) -> None:
        """See the contract."""
        await serve_work(self._engine, self._registry, context)


async def wait_for_level(live: LiveTask, level: Level, seconds: float) -> None:
    """Return when the task has reached `level` or the time is over."""
    reached = asyncio.Event()

    def check(live: LiveTask) -> None:
        if live.level >= level:
            reached.set()

    live.level_waiters.append(check)
    try:
        async with asyncio.timeout(seconds):
            await reached.wait()
    except TimeoutError:
        return
    finally:
        live.level_waiters.remove(check)


def _seconds(task: task_pb2.Task) -> float:
    return task.update_time.seconds + task.update_time.nanos / 1e9


class _SeenPieces:
    """What a watcher has seen of the pieces of a result."""

    def __init__(self) -> None:
        self._attempt = 0
        self._newest = 0

    def lacks(self, live: LiveTask) -> bool:
        """Whether there are pieces it has not seen."""
        return pieces.newest(live.progress) > (self._newest if live.attempts == self._attempt else 0)

    def progress_event(self, live: LiveTask) -> task_pb2.TaskEvent:
        """How far the task is, with the pieces that are new to this watcher."""
        event = event_pb((live.sequence, live.update_time, live.state, live.reason, live.attempts, live.agent))
        if live.attempts != self._attempt:
            self._attempt, self._newest = live.attempts, 0
        if live.progress is not None:
            event.progress.CopyFrom(pieces.since(live.progress, self._newest))
            self._newest = max(self._newest, pieces.newest(live.progress))
        return event
