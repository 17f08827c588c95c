"""TaskService on the edge: requests in, the engine's answers out."""

from __future__ import annotations

import asyncio
import hashlib
import heapq
from collections.abc import AsyncIterator, Callable, Coroutine
from typing import Any

import grpc

from edgenode.api.receipt.v1 import receipt_pb2
from edgenode.api.task.v1 import task_pb2, task_service_pb2, task_service_pb2_grpc
from edgenode.link.errors import EdgenodeError, FailedPrecondition, InvalidArgument, NotFound, from_problem
from edgenode.link.model.problem import Problem
from edgenode.link.model.task import Level, TaskSpec, TaskState
from edgenode.link.wire import checks
from edgenode.link.wire.status import Context
from edgenode.link.wire.tasks import check_output, task_spec_from_proto
from edgenode.link.wire.values import duration_from_pb, problem_to_pb, timestamp_to_pb
from edgenode.node import task_store
from edgenode.node.registry import AgentRegistry
from edgenode.node.task_state import HistoryRow, LiveTask, event_pb
from edgenode.node.tasks import NewTask, Submitted, TaskEngine
from edgenode.node.work import serve_work

MAX_FRAME = 1024
FRAMES_IN_FLIGHT = 16
OUT_FRAME_BYTES = 1 << 20
MAX_WAIT = 3600.0
_PAGE = 100
_MAX_PAGE = 1000


class TaskService(task_service_pb2_grpc.TaskServiceServicer):
    """See the contract."""

    def __init__(self, engine: TaskEngine, registry: AgentRegistry) -> None:
        self._engine = engine
        self._registry = registry

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
        await SubmitStream(self, context).run()

    async def CallAgent(
        self, request: task_service_pb2.CallAgentRequest, context: Context
    ) -> task_service_pb2.CallAgentResponse:
        """See the contract."""
        message = request.spec
        remaining = context.time_remaining()
        if not message.HasField("deadline_time") and remaining is not None:
            message.deadline_time.CopyFrom(timestamp_to_pb(self._engine.book.clock.wall() + remaining))
        ended = asyncio.Event()
        live = self._engine.start_call(self.spec(message), lambda _live: ended.set())
        try:
            await ended.wait()
        finally:
            self._engine.cancel_call(live)
        if live.output is None:
            raise from_problem(_problem_of(live))
        return task_service_pb2.CallAgentResponse(output=live.output, agent=live.agent)

    def spec(self, message: task_pb2.TaskSpec) -> TaskSpec:
        """The checked spec."""
        return task_spec_from_proto(
            message,
            limits=self._engine.book.settings.limits,
            now=self._engine.book.clock.wall(),
            node=self._engine.book.node,
        )

    @property
    def engine(self) -> TaskEngine:
        """The engine behind it."""
        return self._engine

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
                    response = self._news(live.history, live.sequence, cursor)
                    if live.progress is not None and live.sequence > max(cursor, live.history[-1][0]):
                        response.events.append(_progress_event(live))
                    if first:
                        response.task.CopyFrom(live.to_pb(self._engine.book.node))
                    if first or response.events:
                        yield response
                    first = False
                    cursor = max(cursor, live.sequence)
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
        """Submit an ended task's spec again; the new task's id. Raises FailedPrecondition (NOT_TERMINAL)."""
        task = await self.task(task_id)
        if task.state < TaskState.COMPLETED:
            raise FailedPrecondition(
                "NOT_TERMINAL", f"task {task_id} is {TaskState(task.state).name}", hint="cancel it first"
            )
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


class SubmitStream:
    """One SubmitTasks stream: the handler reads, one task writes."""

    def __init__(self, service: TaskService, context: Context) -> None:
        self._service = service
        self._engine = service.engine
        self._context = context
        self._out = task_service_pb2.SubmitTasksResponse()
        self._ready = asyncio.Event()
        self._slots = asyncio.Semaphore(FRAMES_IN_FLIGHT)
        self._frames: set[asyncio.Task[None]] = set()
        self._waiting: dict[int, LiveTask | None] = {}
        self._closing = False

    async def run(self) -> None:
        """Serve until the caller has closed its side and every outcome asked for was sent."""
        writer = asyncio.create_task(self._write(), name="submit-writer")
        try:
            while (request := await self._context.read()) is not grpc.aio.EOF:
                await self._slots.acquire()
                self._take(request)
            if self._frames:
                await asyncio.wait(self._frames)
            self._closing = True
            self._ready.set()
            await writer
        finally:
            writer.cancel()
            for frame in self._frames:
                frame.cancel()
            await asyncio.gather(writer, *self._frames, return_exceptions=True)
            for live in self._waiting.values():
                if live is not None and live.call:
                    self._engine.cancel_call(live)

    def _take(self, request: task_service_pb2.SubmitTasksRequest) -> None:
        if len(request.submissions) > MAX_FRAME:
            raise InvalidArgument(
                "TOO_MANY", f"{len(request.submissions)} submissions in a frame", hint=f"at most {MAX_FRAME}"
            )
        stored: list[tuple[int, NewTask]] = []
        for submission in request.submissions:
            number = submission.correlation_id
            try:
                spec = self._service.spec(submission.spec)
                if submission.call:
                    self._waiting[number] = None
                    self._waiting[number] = self._engine.start_call(spec, _bind(self._ended, number))
                    continue
                request_id = checks.short(submission.request_id, 128, "request_id")
            except EdgenodeError as error:
                self._waiting.pop(number, None)
                self._refused(number, error.problem)
                continue
            on_end = None
            if submission.want_outcome:
                self._waiting[number] = None
                on_end = _bind(self._ended, number)
            stored.append((number, NewTask(spec, request_id, fingerprint(submission.spec), on_end)))
        cancels = [live for number in request.cancel_correlation_ids if (live := self._waiting.get(number)) is not None]
        if stored or cancels:
            self._spawn(self._store(stored, cancels))
        else:
            self._slots.release()

    async def _store(self, stored: list[tuple[int, NewTask]], cancels: list[LiveTask]) -> None:
        try:
            if stored:
                await self._submit(stored)
            for live in cancels:
                if live.call:
                    self._engine.dispatcher.end_call(live, problem=_CANCELLED)
                else:
                    await self._engine.cancel(live.task_id, "cancelled by its submitter")
        finally:
            self._slots.release()

    async def _submit(self, stored: list[tuple[int, NewTask]]) -> None:
        try:
            results = await self._engine.submit([new for _, new in stored])
        except EdgenodeError as error:
            for number, _ in stored:
                self._waiting.pop(number, None)
                self._refused(number, error.problem)
            return
        for (number, new), submitted in zip(stored, results, strict=True):
            if submitted.problem is not None:
                self._waiting.pop(number, None)
                self._refused(number, submitted.problem)
                continue
            level = submitted.live.level if submitted.live is not None else Level.DONE
            self._out.receipts.add(correlation_id=number, task_id=submitted.task_id, level=int(level))
            if new.on_end is not None and number in self._waiting:
                await self._follow(number, submitted)
        self._ready.set()

    async def _follow(self, number: int, submitted: Submitted) -> None:
        if submitted.live is not None:
            self._waiting[number] = submitted.live
            return
        task = await self._service.task(submitted.task_id)
        self._waiting.pop(number, None)
        outcome = self._out.outcomes.add(correlation_id=number, task_id=task.task_id, state=task.state)
        if task.HasField("output"):
            outcome.output.CopyFrom(task.output)
        if task.HasField("problem"):
            outcome.problem.CopyFrom(task.problem)

    def _ended(self, number: int, live: LiveTask) -> None:
        if number not in self._waiting:
            return
        del self._waiting[number]
        outcome = self._out.outcomes.add(correlation_id=number, state=int(live.state))
        if not live.call:
            outcome.task_id = live.task_id
        if live.output is not None:
            outcome.output.CopyFrom(live.output)
        else:
            outcome.problem.CopyFrom(problem_to_pb(_problem_of(live)))
        self._ready.set()

    def _refused(self, number: int, problem: Problem) -> None:
        self._out.outcomes.add(correlation_id=number, problem=problem_to_pb(problem))
        self._ready.set()

    async def _write(self) -> None:
        while not (self._closing and not self._waiting and not self._unsent()):
            await self._ready.wait()
            self._ready.clear()
            if self._unsent():
                out, self._out = self._out, task_service_pb2.SubmitTasksResponse()
                for frame in _bounded(out):
                    await self._context.write(frame)

    def _unsent(self) -> bool:
        return bool(self._out.receipts or self._out.outcomes)

    def _spawn(self, work: Coroutine[Any, Any, None]) -> None:
        task = asyncio.create_task(work)
        self._frames.add(task)
        task.add_done_callback(self._frames.discard)


def _bounded(out: task_service_pb2.SubmitTasksResponse) -> list[task_service_pb2.SubmitTasksResponse]:
    """`out` in frames of at most about OUT_FRAME_BYTES, so that large outcomes stay below the message limit."""
    if out.ByteSize() <= OUT_FRAME_BYTES:
        return [out]
    frames = [task_service_pb2.SubmitTasksResponse(receipts=out.receipts)]
    size = 0
    for outcome in out.outcomes:
        outcome_size = outcome.ByteSize()
        if size + outcome_size > OUT_FRAME_BYTES and frames[-1].outcomes:
            frames.append(task_service_pb2.SubmitTasksResponse())
            size = 0
        frames[-1].outcomes.append(outcome)
        size += outcome_size
    return frames


def fingerprint(message: task_pb2.TaskSpec) -> bytes:
    """What makes two requests with one idempotency key the same: the spec but for its deadline and trace context."""
    if not message.idempotency_key:
        return b""
    bare = task_pb2.TaskSpec()
    bare.CopyFrom(message)
    for field in ("deadline_time", "traceparent", "tracestate"):
        bare.ClearField(field)
    return hashlib.blake2b(bare.SerializeToString(deterministic=True), digest_size=16).digest()


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


def _bind(function: Callable[[int, LiveTask], None], number: int) -> Callable[[LiveTask], None]:
    return lambda live: function(number, live)


def _problem_of(live: LiveTask) -> Problem:
    if live.problem is not None:
        return live.problem
    return FailedPrecondition("NO_RESULT", f"the task ended {live.state.name} without a result").problem


_CANCELLED = FailedPrecondition("CANCELLED", "cancelled by its submitter").problem


def _seconds(task: task_pb2.Task) -> float:
    return task.update_time.seconds + task.update_time.nanos / 1e9


def _progress_event(live: LiveTask) -> task_pb2.TaskEvent:
    event = event_pb((live.sequence, live.update_time, live.state, live.reason, live.attempts, live.agent))
    if live.progress is not None:
        event.progress.CopyFrom(live.progress)
    return event
