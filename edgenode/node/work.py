"""An agent's WorkTasks stream: assignments out, results in.

One reader (the handler itself) and one writer. What is to be sent gathers in frames while the writer is busy, so a busy
stream carries many items a frame and an idle one sends at once. Results are taken in slices (`turns`), each a write of its
own; the reader goes on meanwhile, so that those of several frames form one group, as long as not too much of them waits.

An agent that does not read what it is sent gets nothing more: what is assigned to it and not written is bounded in bytes
(`Dispatcher`), whatever its credit.
"""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine, Iterable, Sequence
from typing import Any

import grpc

from edgenode.api.task.v1 import task_pb2, task_service_pb2
from edgenode.link.errors import Aborted, EdgenodeError, FailedPrecondition, InvalidArgument
from edgenode.link.failpoints import Failpoint, reach
from edgenode.link.model.problem import Problem
from edgenode.link.model.task import TaskState
from edgenode.link.protocol.overtaking import Overtaking
from edgenode.link.wire import assignments
from edgenode.link.wire.status import Context
from edgenode.link.wire.tasks import check_output
from edgenode.link.wire.unread import UNCOMMITTED_BYTES, Held
from edgenode.link.wire.values import duration_to_pb, problem_from_pb, problem_to_pb
from edgenode.node.registry import AgentRegistry, superseded, unknown_agent
from edgenode.node.task_state import COMPLETED, LiveTask
from edgenode.node.tasks import TaskEngine
from edgenode.node.turns import FEW, Turns

FRAME_BYTES = 1 << 20
UNSENT_FRAMES = 4
UNSENT_CONFIRMATIONS = 10_000
MAX_CREDIT = 10_000  # that an agent has at any time
LINGER = 0.02  # seconds what nobody waits for may wait for a frame to go with
_RECEIVED = Failpoint.RESULT_RECEIVED
_ENDS = {int(state): state for state in (TaskState.COMPLETED, TaskState.FAILED, TaskState.REJECTED)}

AttemptId = tuple[str, int, int]


class _Frame:
    """A frame that fills up. `assignments` are serialised; `load`: what they count for."""

    __slots__ = ("assignments", "load", "message", "size")

    def __init__(self) -> None:
        self.message = task_service_pb2.WorkTasksResponse()
        self.assignments: list[bytes] = []
        self.size = 0
        self.load = 0


class FrameQueue:
    """Frames on their way to one stream. `open` gives the frame to add to; `next` waits for one that may leave.

    What is prompt goes in frames of its own, which overtake the others; those leave once bulk work has had its turns. What
    nobody waits for is given to `later`: it goes with the next frame, or alone after LINGER seconds, because a message costs
    far more than what is in it.
    """

    def __init__(self, turns: Turns) -> None:
        self._turns = turns
        self._frames: Overtaking[_Frame] = Overtaking()
        self._greeting: task_service_pb2.WorkTasksResponse | None = None
        self._confirmed: list[task_service_pb2.AttemptKey] = []
        self.load = 0  # of the frame that was taken last
        self._leaving = False  # the others may leave
        self._due = False  # they may in a turn to come
        self._waiting = asyncio.Event()
        self._taken = asyncio.Event()
        self._closed = False
        self._alarm: asyncio.TimerHandle | None = None

    def greet(self, message: task_service_pb2.WorkTasksResponse) -> None:
        """The first frame of all, whatever else comes before it is written."""
        self._greeting = message
        self._waiting.set()

    def open(self, size: int, *, prompt: bool = False) -> task_service_pb2.WorkTasksResponse:
        """The frame that takes `size` more bytes."""
        return self._open(size, prompt).message

    def assign(self, assignment: bytes, load: int, *, prompt: bool) -> None:
        """Add an `assignment`, serialised, that counts for `load`."""
        frame = self._open(load, prompt)
        frame.assignments.append(assignment)
        frame.load += load

    def _open(self, size: int, prompt: bool) -> _Frame:
        frames = self._frames.prompt if prompt else self._frames.others
        if not frames or frames[-1].size + size > FRAME_BYTES:
            frames.append(_Frame())
            if prompt:
                self._waiting.set()
            elif not self._due:
                self._due = True
                self._turns.gathered(self._leave)
        frame = frames[-1]
        frame.size += size
        return frame

    def _leave(self) -> None:
        self._due = False
        if self._frames.others:
            self._leaving = True
            self._waiting.set()

    def later(self, keys: Iterable[task_service_pb2.AttemptKey]) -> None:
        """Confirm the results of these attempts."""
        self._confirmed.extend(keys)
        if self._alarm is None and not self._waiting.is_set():
            self._alarm = asyncio.get_running_loop().call_later(LINGER, self._waiting.set)

    async def room(self) -> None:
        """Returns once no more than UNSENT_FRAMES wait: an agent that sends and does not read is not heard beyond that."""
        while len(self._frames) > UNSENT_FRAMES or len(self._confirmed) > UNSENT_CONFIRMATIONS:
            self._taken.clear()
            await self._taken.wait()

    def close(self) -> None:
        """Nothing more will come; `next` gives what is left, then None."""
        self._closed = self._leaving = True
        self._waiting.set()

    async def next(self) -> task_service_pb2.WorkTasksResponse | None:
        """The next frame; None after the last."""
        await self._waiting.wait()
        frame, self.load = self._pop()
        if frame is None and not self._confirmed:
            return None
        frame = frame or task_service_pb2.WorkTasksResponse()
        frame.confirmations.extend(self._confirmed)
        self._confirmed.clear()
        if self._alarm is not None:
            self._alarm.cancel()
            self._alarm = None
        self._taken.set()
        self._leaving = self._closed or (self._leaving and bool(self._frames.others))
        if not self._leaving and not self._frames.prompt:
            self._waiting.clear()
        return frame

    def _pop(self) -> tuple[task_service_pb2.WorkTasksResponse | None, int]:
        if self._greeting is not None:
            greeting, self._greeting = self._greeting, None
            return greeting, 0
        frame = self._frames.pop(others=self._leaving)
        if frame is None:
            return None, 0
        if frame.assignments:
            frame.message.MergeFromString(b"".join(frame.assignments))
        return frame.message, frame.load


class WorkStream:
    """One attached agent, from its first frame to its last."""

    def __init__(
        self, engine: TaskEngine, registry: AgentRegistry, context: Context, attach: task_service_pb2.WorkAttach
    ):
        self._engine = engine
        self._registry = registry
        self._context = context
        self.agent = attach.agent
        self.instance_id = attach.instance_id
        self._attempts: dict[AttemptId, LiveTask] = {}
        self._credits = 0  # that are not used
        self._turns = engine.book.turns
        self._frames = FrameQueue(self._turns)
        self._commits: set[asyncio.Task[None]] = set()
        self._uncommitted = Held(UNCOMMITTED_BYTES)  # of results
        self._reader: asyncio.Task[None] | None = None
        self._ended: BaseException | None = None  # why the node ends the stream

    # --- what the engine calls --------------------------------------------------------------------------------------

    def assign(self, live: LiveTask, timeout: float) -> None:
        """See WorkerStream."""
        self._credits -= 1
        rest = assignments.PROMPT if live.prompt else b""
        if live.answers or live.on_pieces is not None:
            more = task_service_pb2.Assignment(answers=live.answers, piece_room_bytes=live.piece_room)
            rest += more.SerializeToString()
        written = assignments.assignment(live.task_id, live.attempts, live.fence, live.spec.wire, timeout, rest)
        self._frames.assign(written, live.load, prompt=live.prompt)
        self._hold(live)

    def cancel(self, live: LiveTask) -> None:
        """See AttemptSink."""
        frame = self._frames.open(64, prompt=live.prompt)
        frame.cancels.add(task_id=live.task_id, attempt_number=live.attempts, fence=live.fence)

    def allow(self, live: LiveTask, size: int) -> None:
        """See AttemptSink."""
        frame = self._frames.open(64, prompt=live.prompt)
        allowance = frame.piece_allowances.add(room_bytes=size)
        key = allowance.key
        key.task_id, key.attempt_number, key.fence = live.task_id, live.attempts, live.fence

    def over(self, live: LiveTask) -> None:
        """See AttemptSink."""
        self._attempts.pop((live.task_id, live.attempts, live.fence), None)

    def answer(self, live: LiveTask, key: str, answer: task_pb2.TaskOutput) -> None:
        """See AttemptSink."""
        frame = self._frames.open(len(answer.data) + 128, prompt=live.prompt)
        given = frame.answers.add(input_key=key, answer=answer)
        given.key.task_id, given.key.attempt_number, given.key.fence = live.task_id, live.attempts, live.fence

    def agent_changed(self) -> None:
        """See WorkerStream."""
        if self._was_superseded():
            self._end(self._superseded())

    def replaced(self) -> None:
        """See WorkerStream."""
        self._end(Aborted("REPLACED", f"{self.agent} opened another work stream", hint="one stream for each agent"))

    def _end(self, error: BaseException) -> None:
        self._ended = error
        if self._reader is not None:
            self._reader.cancel()

    def _hold(self, live: LiveTask) -> None:
        self._attempts[live.task_id, live.attempts, live.fence] = live

    @property
    def attempt_count(self) -> int:
        """Attempts that run here."""
        return len(self._attempts)

    # --- the stream -------------------------------------------------------------------------------------------------

    async def run(self, first: task_service_pb2.WorkTasksRequest) -> None:
        """Serve until the agent drains, goes away or is superseded. Raises Aborted (SUPERSEDED)."""
        agent = self._registry.get(self.agent)
        if agent is None or not self._registry.hold(self.agent, self.instance_id):
            raise unknown_agent(self.agent, "register it first") if agent is None else superseded(agent)
        attached = task_service_pb2.WorkAttached(
            node=self._engine.book.node, lease_duration=duration_to_pb(agent.lease)
        )
        self._frames.greet(task_service_pb2.WorkTasksResponse(attached=attached))
        writer = asyncio.create_task(self._write(), name=f"work-writer-{self.agent}")
        try:
            self._engine.dispatcher.attach(self.agent, self)
            for key in first.attach.attempts:
                live = self._engine.dispatcher.adopt(self.agent, self, key.task_id, key.attempt_number, key.fence)
                if live is None:
                    self._frames.open(64).cancels.append(key)
                else:
                    self._hold(live)
            self._engine.dispatcher.unclaimed(self.agent, self.instance_id)
            self._take(first)
            self._reader = asyncio.create_task(self._read(), name=f"work-reader-{self.agent}")
            await self._reader
            await self._drain()
            self._frames.close()
            await writer
        except asyncio.CancelledError:
            if self._ended is not None and not self._context.cancelled():
                raise self._ended from None
            raise
        finally:
            self._registry.release(self.agent, self.instance_id)
            self._engine.dispatcher.detach(self.agent, self)
            tasks = [task for task in (self._reader, writer, *self._commits) if task is not None]
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)

    async def _drain(self) -> None:
        """The agent takes nothing new; it may still send results on this stream only until it closed its side."""
        while self._commits:
            await asyncio.wait(self._commits)
        if self._ended is not None:
            raise self._ended

    async def _write(self) -> None:
        while (frame := await self._frames.next()) is not None:
            await self._context.write(frame)
            if frame.assignments:
                self._engine.dispatcher.sent(self.agent, self, self._frames.load)
                reach(Failpoint.ASSIGNMENT_SENT)
            if frame.confirmations:
                reach(Failpoint.RESULT_CONFIRMED)

    async def _read(self) -> None:
        while True:
            request = await self._context.read()
            if request is grpc.aio.EOF:
                return
            self._take(request)
            await self._frames.room()
            await self._uncommitted.room()

    def _take(self, request: task_service_pb2.WorkTasksRequest) -> None:
        if not self._registry.touch(self.agent, self.instance_id):
            raise self._superseded()
        if request.credit_count < 0 or self._credits + request.credit_count > MAX_CREDIT:
            raise InvalidArgument(
                "OUT_OF_RANGE",
                f"credit_count is {request.credit_count}, with {self._credits} unused",
                hint=f"together 0 to {MAX_CREDIT}",
                field="credit_count",
            )
        self._credits += request.credit_count
        for update in request.updates:
            self._take_update(update)
        if request.results:
            size = request.ByteSize()
            if not self._at_once(request.results):
                self._uncommitted.add(size)
                self._spawn(self._take_by_turns(request, size))
                return
            self._take_slice(request.results, size)
        self._give_credit(request)

    def _at_once(self, results: Sequence[task_service_pb2.AttemptResult]) -> bool:
        """Whether they need not wait for a turn. Prompt ones come in frames of their own: the first that is known tells."""
        known = (self._attempts.get(_attempt_id(result.key)) for result in results)
        first = next(filter(None, known), None)
        if first is not None and first.prompt:
            self._turns.urgent()
            return len(results) <= FEW
        return len(results) <= self._turns.size and (self._turns.calm or self._turns.free(len(results)))

    async def _take_by_turns(self, request: task_service_pb2.WorkTasksRequest, size: int) -> None:
        """Take the results of a frame slice by slice; prompt ones that are read meanwhile are taken between two of them."""
        try:
            for results in self._turns.slices(request.results):
                await self._frames.room()
                await self._turns.take(len(results))
                self._take_slice(results, size * len(results) // len(request.results))
            self._give_credit(request)
        finally:
            self._uncommitted.remove(size)

    def _take_slice(self, results: Sequence[task_service_pb2.AttemptResult], size: int) -> None:
        self._take_results(results, size)
        self._engine.dispatcher.on_load(self.agent)

    def _give_credit(self, request: task_service_pb2.WorkTasksRequest) -> None:
        if request.credit_count:
            self._engine.dispatcher.add_credits(self.agent, self, request.credit_count)

    def _take_update(self, update: task_service_pb2.AttemptUpdate) -> None:
        live = self._attempts.get(_attempt_id(update.key))
        if live is None or live.sink is not self:
            return
        self._engine.dispatcher.update(live, update.progress if update.HasField("progress") else None)
        if update.HasField("input_request"):
            self._engine.book.spawn(self._engine.dispatcher.ask(live, update.input_request))

    def _take_results(self, results: Sequence[task_service_pb2.AttemptResult], size: int) -> None:
        urgent: tuple[list[task_service_pb2.AttemptKey], list[LiveTask]] = [], []
        others: tuple[list[task_service_pb2.AttemptKey], list[LiveTask]] = [], []
        for result in results:
            key = result.key
            live = self._take_result(key, result)
            keys, changed = others if live is None or not live.urgent else urgent
            keys.append(key)
            if live is not None:
                changed.append(live)
        for keys, changed in (urgent, others):
            if changed:
                self._uncommitted.add(size)  # what of it the other commit has counts twice
                self._spawn(self._confirm(keys, changed, size))
            elif keys:  # calls: their callers have the answers, and the agent has no reason to hurry
                self._frames.later(keys)

    def _take_result(self, key: task_service_pb2.AttemptKey, result: task_service_pb2.AttemptResult) -> LiveTask | None:
        """The task if what this result makes of it must be committed."""
        reach(_RECEIVED)
        live = self._attempts.pop((key.task_id, key.attempt_number, key.fence), None)
        if live is None or live.sink is not self:
            self._refuse(key, Aborted("FENCED", "the attempt is not this stream's any more").problem)
            return None
        state, output, problem = _ENDS.get(result.state), None, None
        try:
            if state is COMPLETED:
                output = result.output
                blobs = check_output(output, limits=self._engine.book.settings.limits)
                if blobs and (lacking := self._engine.lacks_blobs(blobs)) is not None:
                    raise lacking
            elif state is None:
                raise FailedPrecondition("BAD_RESULT", f"state {result.state} does not end an attempt")
            elif result.HasField("problem"):
                problem = problem_from_pb(result.problem)
        except EdgenodeError as error:
            self._refuse(key, error.problem)
            state, output, problem = TaskState.FAILED, None, error.problem
        return live if self._engine.dispatcher.result(live, state, output, problem) else None

    def _refuse(self, key: task_service_pb2.AttemptKey, problem: Problem) -> None:
        self._frames.open(256).result_problems.add(key=key, problem=problem_to_pb(problem))

    async def _confirm(self, keys: list[task_service_pb2.AttemptKey], changed: list[LiveTask], size: int) -> None:
        await self._engine.book.finish(self._engine.book.commit_outcomes(changed))
        self._uncommitted.remove(size)
        self._frames.later(keys)

    def _was_superseded(self) -> bool:
        holder = self._registry.get(self.agent)
        return holder is None or holder.instance_id != self.instance_id

    def _superseded(self) -> EdgenodeError:
        holder = self._registry.get(self.agent)
        return unknown_agent(self.agent, "register it again") if holder is None else superseded(holder)

    def _spawn(self, work: Coroutine[Any, Any, None]) -> None:
        task = asyncio.create_task(work)
        self._commits.add(task)
        task.add_done_callback(self._done)

    def _done(self, task: asyncio.Task[None]) -> None:
        self._commits.discard(task)
        if not task.cancelled() and (error := task.exception()) is not None:
            self._end(error)


def _attempt_id(key: task_service_pb2.AttemptKey) -> AttemptId:
    return key.task_id, key.attempt_number, key.fence


async def serve_work(engine: TaskEngine, registry: AgentRegistry, context: Context) -> None:
    """The handler of WorkTasks."""
    first = await context.read()
    if first is grpc.aio.EOF:
        return
    if not first.HasField("attach"):
        raise InvalidArgument("NOT_ATTACHED", "the first frame has no attach", hint="send attach first", field="attach")
    stream = WorkStream(engine, registry, context, first.attach)
    await stream.run(first)
