"""One SubmitTasks stream: the handler reads, one task writes.

A frame of submissions is taken in slices (`turns`), each a write of its own, its urgent tasks in one that does not wait for
those before it; meanwhile the next frames are read, so that their commits form a group. Receipts and outcomes gather while
the writer is busy, or bulk work waits for turns, and leave together.

What is held for a caller is bounded, in bytes. Nothing more is read of it while too much waits for its commit, or for the
caller to read. Results of tasks that end beyond that stay in the store until their turn to be sent; those of calls, which
nobody else has, are kept up to a bound of their own and then refused, with ANSWERS_UNREAD.
"""

from __future__ import annotations

import asyncio
import hashlib
from collections import deque
from collections.abc import Awaitable, Callable, Coroutine, Sequence
from contextlib import suppress
from functools import partial
from typing import Any

import grpc
import msgspec

from edgenode.api.task.v1 import task_pb2, task_service_pb2
from edgenode.link.errors import EdgenodeError, FailedPrecondition, InvalidArgument
from edgenode.link.model.problem import Problem
from edgenode.link.model.task import URGENT, Level, TaskSpec
from edgenode.link.wire import checks
from edgenode.link.wire.status import Context
from edgenode.link.wire.unread import UNCOMMITTED_BYTES, Held, Unread, answers_unread
from edgenode.link.wire.values import problem_to_pb
from edgenode.node.task_state import LiveTask
from edgenode.node.tasks import NewTask, TaskEngine
from edgenode.node.turns import FEW

MAX_FRAME = 1024
FRAMES_IN_FLIGHT = 16
OUT_FRAME_BYTES = 1 << 20
CANONICAL_BYTES = 64 * 1024
_SAFE = 2**53  # up to here a double holds every whole number


class SubmitStream:
    """See the module. `read_spec` checks a spec, `read_task` reads a task as it stands."""

    def __init__(
        self,
        engine: TaskEngine,
        context: Context,
        read_spec: Callable[[task_pb2.TaskSpec], TaskSpec],
        read_task: Callable[[str], Awaitable[task_pb2.Task]],
    ) -> None:
        self._engine = engine
        self._read_spec = read_spec
        self._read_task = read_task
        self._context = context
        self._out = task_service_pb2.SubmitTasksResponse()
        self._unread = Unread()
        # (number, task) of those whose outcome is to be read from the store
        self._stored: deque[tuple[int, str]] = deque()
        self._uncommitted = Held(UNCOMMITTED_BYTES)
        self._turns = engine.book.turns
        self._ready = asyncio.Event()
        self._woken = False  # the writer goes on
        self._sending = False  # ... in a turn to come
        self._slots = asyncio.Semaphore(FRAMES_IN_FLIGHT)
        self._frames: set[asyncio.Task[None]] = set()
        self._waiting: dict[int, LiveTask | None] = {}
        self._closing = False

    async def run(self) -> None:
        """Serve until the caller has closed its side and every outcome asked for was sent."""
        writer = asyncio.create_task(self._write(), name="submit-writer")
        try:
            while (request := await self._context.read()) is not grpc.aio.EOF:
                await self._unread.room()
                await self._uncommitted.room()
                await self._slots.acquire()
                await self._take(request)
            if self._frames:
                await asyncio.wait(self._frames)
            self._closing = True
            self._wake()
            await writer
        finally:
            writer.cancel()
            for frame in self._frames:
                frame.cancel()
            await asyncio.gather(writer, *self._frames, return_exceptions=True)
            for live in self._waiting.values():
                if live is not None and live.call:
                    self._engine.cancel_call(live)

    async def _take(self, request: task_service_pb2.SubmitTasksRequest) -> None:
        if len(request.submissions) > MAX_FRAME:
            raise InvalidArgument(
                "TOO_MANY", f"{len(request.submissions)} submissions in a frame", hint=f"at most {MAX_FRAME}"
            )
        size = request.ByteSize()
        stored: list[tuple[int, NewTask]] = []
        few = len(request.submissions) <= FEW
        for submissions in self._turns.slices(request.submissions):
            if not few:
                await self._turns.take(len(submissions))
            for submission in submissions:
                self._accept(submission, stored, few)
        if few:
            self._engine.dispatcher.hand_out()
        cancels = [live for number in request.cancel_correlation_ids if (live := self._waiting.get(number)) is not None]
        if stored or cancels:
            self._uncommitted.add(size)
            self._spawn(self._store(stored, cancels, size))
        else:
            self._slots.release()

    def _accept(self, submission: task_service_pb2.Submission, stored: list[tuple[int, NewTask]], few: bool) -> None:
        """Start a call, one of a `few` or not; a durable task is added to `stored`; one that is refused is answered."""
        number = submission.correlation_id
        if number in self._waiting:
            raise InvalidArgument(
                "DUPLICATE_CORRELATION",
                f"correlation_id {number} still waits for its outcome",
                hint="give each submission of a stream a number of its own",
                field="correlation_id",
            )
        message = submission.spec
        try:
            spec = self._read_spec(message)
            if submission.call:
                self._waiting[number] = self._engine.start_call(spec, partial(self._ended, number), prompt=few)
                return
            request_id = checks.short(submission.request_id, 128, "request_id")
        except EdgenodeError as error:
            self._refused(number, error.problem)
            return
        on_end = None
        if submission.want_outcome:
            self._waiting[number] = None
            on_end = partial(self._ended, number)
        stored.append((number, NewTask(spec, request_id, fingerprint(message), on_end)))

    async def _store(self, stored: list[tuple[int, NewTask]], cancels: list[LiveTask], size: int) -> None:
        try:
            urgent = [entry for entry in stored if entry[1].spec.priority >= URGENT]
            others = [entry for entry in stored if entry[1].spec.priority < URGENT]
            pieces = [*self._turns.slices(urgent), *self._turns.slices(others)]
            if len(pieces) == 1:
                await self._submit(pieces[0])
            elif pieces:
                await asyncio.gather(*map(self._submit, pieces))
            for live in cancels:
                if live.call and not live.finishing:
                    self._engine.dispatcher.withdraw(live)  # whoever works on it stops
                    self._engine.dispatcher.end_call(live, problem=_CANCELLED)
                elif not live.call:
                    await self._engine.cancel(live.task_id, "cancelled by its submitter")
        finally:
            self._uncommitted.remove(size)
            self._slots.release()

    async def _submit(self, stored: Sequence[tuple[int, NewTask]]) -> None:
        urgent = stored[0][1].spec.priority >= URGENT
        if not urgent:
            await self._turns.step(len(stored))
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
            self._unread.answer()
            if new.on_end is None or number not in self._waiting:
                continue
            if submitted.live is not None:
                self._waiting[number] = submitted.live
            else:
                await self._follow_ended(number, submitted.task_id)
        self._send(now=urgent)

    async def _follow_ended(self, number: int, task_id: str) -> None:
        try:
            await self._read_outcome(number, task_id)
        finally:
            self._waiting.pop(number, None)

    async def _read_outcome(self, number: int, task_id: str) -> None:
        try:
            task = await self._read_task(task_id)
        except EdgenodeError as error:
            self._refused(number, error.problem)
            return
        outcome = self._out.outcomes.add(correlation_id=number, task_id=task.task_id, state=task.state)
        if task.HasField("output"):
            outcome.output.CopyFrom(task.output)
        if task.HasField("problem"):
            outcome.problem.CopyFrom(task.problem)
        self._unread.answer(len(outcome.output.data))

    def _ended(self, number: int, live: LiveTask) -> None:
        if number not in self._waiting:
            return
        del self._waiting[number]
        output = live.output
        if output is not None and self._unread.full and self._does_not_fit(number, live):
            return
        outcome = self._out.outcomes.add()
        outcome.correlation_id, outcome.state = number, int(live.state)  # type: ignore[assignment]
        if not live.call:
            outcome.task_id = live.task_id
        if output is not None:
            outcome.output.CopyFrom(output)
            self._unread.answer(len(output.data))
        else:
            outcome.problem.CopyFrom(problem_to_pb(problem_of(live)))
            self._unread.answer()
        if not self._woken and (live.prompt or not self._sending):
            self._send(now=live.prompt)

    def _does_not_fit(self, number: int, live: LiveTask) -> bool:
        """Too much waits for the caller to read: results of tasks wait in the store, in the end those of calls are refused."""
        if not live.call:
            self._stored.append((number, live.task_id))
            self._send(now=live.prompt)
        elif self._unread.overfull:
            self._refused(number, answers_unread(self._unread.size).problem)
        else:
            return False
        return True

    def _refused(self, number: int, problem: Problem) -> None:
        self._out.outcomes.add(correlation_id=number, problem=problem_to_pb(problem))
        self._unread.answer()
        self._send(now=True)

    def _send(self, *, now: bool) -> None:
        """Let the writer go on: now, or behind the bulk work that waits for its turn."""
        if now:
            self._wake()
        elif not self._sending:
            self._sending = True
            self._turns.gathered(self._send_gathered)

    def _send_gathered(self) -> None:
        self._sending = False
        self._wake()

    def _wake(self) -> None:
        self._woken = True
        self._ready.set()

    async def _write(self) -> None:
        while not (self._closing and not self._waiting and not self._unsent()):
            await self._ready.wait()
            self._ready.clear()
            self._woken = False
            while self._unsent():
                while self._stored and not self._unread.full:
                    await self._read_outcome(*self._stored.popleft())
                out, self._out = self._out, task_service_pb2.SubmitTasksResponse()
                size = self._unread.size
                for frame in _bounded(out):
                    await self._context.write(frame)
                self._unread.remove(size)

    def _unsent(self) -> bool:
        return bool(self._out.receipts or self._out.outcomes or self._stored)

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
    """What makes two requests with one idempotency key the same: the spec but for its deadline and trace context.

    JSON is what it says, in whatever order, spacing or notation of whole numbers: the same request may come over protocols
    that keep none of those. Beyond CANONICAL_BYTES it is its bytes, since this holds up the event loop.
    """
    if not message.idempotency_key:
        return b""
    bare = task_pb2.TaskSpec()
    bare.CopyFrom(message)
    for field in ("deadline_time", "traceparent", "tracestate"):
        bare.ClearField(field)
    if bare.content_type == "application/json":
        bare.content_type = ""
    if not bare.content_type and len(bare.input) <= CANONICAL_BYTES:
        with suppress(msgspec.DecodeError, RecursionError):
            bare.input = _canonical.encode(_decoder.decode(bare.input))
    return hashlib.blake2b(bare.SerializeToString(deterministic=True), digest_size=16).digest()


def _number(text: str) -> int | float:
    number = float(text)
    return int(number) if number.is_integer() and abs(number) <= _SAFE else number


_canonical = msgspec.json.Encoder(order="sorted")
_decoder = msgspec.json.Decoder(float_hook=_number)


def problem_of(live: LiveTask) -> Problem:
    """Why a task that ended without a result has none."""
    if live.problem is not None:
        return live.problem
    return FailedPrecondition("NO_RESULT", f"the task ended {live.state.name} without a result").problem


_CANCELLED = FailedPrecondition("CANCELLED", "cancelled by its submitter").problem
