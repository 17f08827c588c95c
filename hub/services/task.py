"""TaskService of the hub: tasks for the whole fleet."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import AsyncIterator

from edgenode.api.receipt.v1 import receipt_pb2
from edgenode.api.sync.v1 import sync_pb2
from edgenode.api.task.v1 import task_pb2
from edgenode.api.task.v1 import task_service_pb2 as pb
from edgenode.api.task.v1 import task_service_pb2_grpc as pb_grpc
from edgenode.link.errors import EdgenodeError, InvalidArgument, from_problem
from edgenode.link.model.task import Level, TaskSpec, TaskState
from edgenode.link.ports import Clock
from edgenode.link.wire import checks, pieces
from edgenode.link.wire.status import Context
from edgenode.link.wire.tasks import TaskLimits, check_output, task_spec_from_proto
from edgenode.link.wire.values import duration_from_pb, problem_from_pb, timestamp_to_pb
from hub.services.calls import DEFAULT_TIMEOUT, MAX_TIMEOUT, CallRouter
from hub.services.dispatcher import Dispatcher
from hub.services.pages import make_token, page_size, read_token
from hub.services.placement import Placement
from hub.services.registry import attach_to_an_edge
from hub.services.submissions import SubmissionStream
from hub.services.task_desk import TaskDesk
from hub.services.task_view import level_of, level_to_pb, shown_state, state_to_pb, task_to_pb
from hub.store.ports import TaskStore
from hub.store.records import TaskFilter, TaskRecord

DEFAULT_WAIT = 30.0
MAX_WAIT = 3600.0
WAITING = frozenset({TaskState.QUEUED, TaskState.PARKED})


class TaskService(pb_grpc.TaskServiceServicer):
    """What is accepted here is durable on the hub at once."""

    def __init__(
        self,
        desk: TaskDesk,
        dispatcher: Dispatcher,
        store: TaskStore,
        placement: Placement,
        calls: CallRouter,
        hub: str,
        clock: Clock,
    ) -> None:
        self._desk = desk
        self._dispatcher = dispatcher
        self._store = store
        self._placement = placement
        self._calls = calls
        self._hub = hub
        self._clock = clock
        self._limits = TaskLimits()
        self._streams = 0  # calls that are read along

    async def SubmitTask(self, request: pb.SubmitTaskRequest, context: Context) -> pb.SubmitTaskResponse:
        """Store a task; with a wait level, answer when it is reached or the wait is over."""
        wanted = checks.choice(Level, request.wait_level, Level.DURABLE_LOCAL, "wait_level")
        wait = DEFAULT_WAIT
        if request.HasField("wait_duration"):
            wait = duration_from_pb(request.wait_duration, "wait_duration")
            checks.in_range(wait, 0, MAX_WAIT, "wait_duration")
        (answer,) = await self._desk.submit([self._desk.record(request.spec, request.request_id)])
        if isinstance(answer, EdgenodeError):
            raise answer
        if wanted > Level.DURABLE_HUB:
            answer = await self._desk.wait_for_level(answer.task_id, wanted, wait)
        receipt = receipt_pb2.Receipt(
            level=level_to_pb(level_of(answer)), node=self._hub, commit_time=timestamp_to_pb(answer.update_time)
        )
        return pb.SubmitTaskResponse(task=self._message(answer), receipt=receipt)

    async def SubmitTasks(
        self, request_iterator: AsyncIterator[pb.SubmitTasksRequest], context: Context
    ) -> AsyncIterator[pb.SubmitTasksResponse]:
        """Many tasks and calls over one stream."""
        stream = SubmissionStream(self._desk, self._dispatcher, self._calls, self._clock, self._hub)
        async for response in stream.run(request_iterator):
            yield response

    async def CallAgent(self, request: pb.CallAgentRequest, context: Context) -> pb.CallAgentResponse:
        """Run a task without storing it."""
        spec, timeout = self._call_spec(request.spec, context)
        answer: asyncio.Future[sync_pb2.CallResult] = asyncio.get_running_loop().create_future()

        def deliver(result: sync_pb2.CallResult) -> None:
            if not answer.done():
                answer.set_result(result)

        number = self._calls.call(spec, timeout, deliver)
        try:
            result = await answer
        finally:
            if not answer.done() or answer.cancelled():
                self._calls.cancel("", [number])
        if result.HasField("problem"):
            raise from_problem(problem_from_pb(result.problem))
        return pb.CallAgentResponse(output=result.output, agent=result.agent)

    async def StreamCall(self, request: pb.StreamCallRequest, context: Context) -> AsyncIterator[pb.StreamCallResponse]:
        """Run a task without storing it; its caller reads along."""
        if self._streams >= pieces.MAX_STREAMS:
            raise pieces.streams_full()
        spec, timeout = self._call_spec(request.spec, context)
        reader = pieces.PieceReader()
        answer: list[sync_pb2.CallResult] = []

        def deliver(result: sync_pb2.CallResult) -> None:
            answer.append(result)
            reader.end()

        def give(given: sync_pb2.CallPieces) -> bool:
            reader.put(given.pieces)
            return True

        number = self._calls.call(spec, timeout, deliver, give)
        self._streams += 1
        try:
            async for ready in reader.read(lambda size: self._calls.allow("", number, size)):
                yield pb.StreamCallResponse(pieces=ready)
            (result,) = answer
            if result.HasField("problem"):
                raise from_problem(problem_from_pb(result.problem))
            yield pb.StreamCallResponse(output=result.output, agent=result.agent)
        finally:
            self._streams -= 1
            self._calls.cancel("", [number])

    def _call_spec(self, message: task_pb2.TaskSpec, context: Context) -> tuple[TaskSpec, float]:
        """(the checked spec of a call, seconds it may take)."""
        now = self._clock.wall()
        spec = task_spec_from_proto(message, limits=self._limits, now=now, node=self._hub)
        timeout = min(context.time_remaining() or DEFAULT_TIMEOUT, MAX_TIMEOUT)
        return spec, min(timeout, spec.deadline - now) if spec.deadline else timeout

    async def GetTask(self, request: pb.GetTaskRequest, context: Context) -> pb.GetTaskResponse:
        """One task."""
        return pb.GetTaskResponse(task=self._message(await self._dispatcher.get(request.task_id)))

    async def ListTasks(self, request: pb.ListTasksRequest, context: Context) -> pb.ListTasksResponse:
        """Tasks, newest first. A page may hold fewer than asked for and still not be the last."""
        size = page_size(request.page_size)
        states = frozenset(checks.choice(TaskState, state, TaskState.QUEUED, "states") for state in request.states)
        # Whether a waiting task is parked is a matter of its queue, not of its row.
        stored = states | WAITING if states & WAITING else states
        wanted = TaskFilter(stored, request.skill, request.context_id, _number(request.page_token), size)
        rows = await self._store.page(wanted)
        response = pb.ListTasksResponse(next_page_token=make_token(str(rows[-1][0])) if len(rows) == size else "")
        for _, task in rows:
            if not states or shown_state(task, self._placement.parked)[0] in states:
                response.tasks.append(task_to_pb(task, self._hub, self._placement.parked, contents=False))
        return response

    async def WatchTask(self, request: pb.WatchTaskRequest, context: Context) -> AsyncIterator[pb.WatchTaskResponse]:
        """The task as it is, then its changes as they come. The hub keeps no history: what went before is a gap."""
        changes = _Changes()
        with self._desk.watch(request.task_id, changes.put):
            task = await self._dispatcher.get(request.task_id)
            sequence = task.sequence
            first = pb.WatchTaskResponse(task=self._message(task), gap=sequence > request.after_sequence + 1)
            if sequence > request.after_sequence:
                first.events.append(self._event(task, None))
            yield first
            while not task.state.terminal:
                task, notice = await changes.take()
                if task.sequence <= sequence and notice is None:
                    continue
                gap = task.sequence > sequence + 1
                sequence = max(sequence, task.sequence)
                response = pb.WatchTaskResponse(events=[self._event(task, notice)], gap=gap)
                if task.state.terminal:
                    response.task.CopyFrom(self._message(await self._dispatcher.get(request.task_id)))
                yield response

    async def CancelTask(self, request: pb.CancelTaskRequest, context: Context) -> pb.CancelTaskResponse:
        """Ask for a task's end."""
        checks.short(request.reason, 1024, "reason")
        await self._dispatcher.get(request.task_id)
        task = await self._dispatcher.cancel(request.task_id, request.reason)
        return pb.CancelTaskResponse(task=self._message(task))

    async def ProvideTaskInput(
        self, request: pb.ProvideTaskInputRequest, context: Context
    ) -> pb.ProvideTaskInputResponse:
        """Answer an agent's question."""
        if not request.key:
            raise InvalidArgument("NO_KEY", "the question's key is missing", hint="see input_request.key", field="key")
        check_output(request.answer, limits=self._limits, field="answer")
        await self._dispatcher.get(request.task_id)
        answer = request.answer.SerializeToString()
        task = await self._dispatcher.answer(request.task_id, request.key, answer)
        return pb.ProvideTaskInputResponse(task=self._message(task))

    async def ReplayTask(self, request: pb.ReplayTaskRequest, context: Context) -> pb.ReplayTaskResponse:
        """Submit a finished task's spec again."""
        task = await self._desk.replay(request.task_id, request.request_id)
        return pb.ReplayTaskResponse(task=self._message(task))

    async def WorkTasks(
        self, request_iterator: AsyncIterator[pb.WorkTasksRequest], context: Context
    ) -> AsyncIterator[pb.WorkTasksResponse]:
        """Not here."""
        raise attach_to_an_edge("WorkTasks")
        yield pb.WorkTasksResponse()  # makes it a generator

    def _message(self, task: TaskRecord) -> task_pb2.Task:
        return task_to_pb(task, self._hub, self._placement.parked)

    def _event(self, task: TaskRecord, notice: task_pb2.Task | None) -> task_pb2.TaskEvent:
        state, reason = shown_state(task, self._placement.parked)
        event = task_pb2.TaskEvent(
            sequence=task.sequence,
            event_time=timestamp_to_pb(task.update_time if notice is None else self._clock.wall()),
            state=state_to_pb(state),
            state_reason=reason,
            attempt_count=task.attempt_count,
            agent=task.agent,
        )
        if notice is not None:
            event.state = notice.state
            if notice.HasField("progress"):
                event.progress.CopyFrom(notice.progress)
        return event


class _Changes:
    """What a watcher has not seen yet. A slow one costs no memory: of progress the newest waits, of pieces what is bounded."""

    def __init__(self) -> None:
        self._waiting: deque[tuple[TaskRecord, task_pb2.Task | None]] = deque()
        self._filled = asyncio.Event()

    def put(self, task: TaskRecord, notice: task_pb2.Task | None) -> None:
        """A change of the row, or progress."""
        if notice is not None and self._waiting and (last := self._waiting[-1][1]) is not None:
            self._waiting.pop()
            if last.progress.pieces and last.attempt_count == notice.attempt_count:
                merged = task_pb2.Task()
                merged.CopyFrom(notice)
                merged.progress.CopyFrom(pieces.merge(pieces.since(last.progress, 0), notice.progress))
                notice = merged
        self._waiting.append((task, notice))
        self._filled.set()

    async def take(self) -> tuple[TaskRecord, task_pb2.Task | None]:
        """The next one, once there is one."""
        while not self._waiting:
            self._filled.clear()
            await self._filled.wait()
        return self._waiting.popleft()


def _number(token: str) -> int:
    text = read_token(token)
    if text and not text.isdecimal():
        raise InvalidArgument("BAD_PAGE_TOKEN", "the page token is not of this listing", hint="start anew")
    return int(text or 0)
