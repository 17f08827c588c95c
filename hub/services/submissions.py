"""One SubmitTasks stream: frames in, receipts and outcomes out, as they come.

What is held for a caller that does not read is bounded as on an edge: nothing more is read of it, results of tasks stay in
the store until they can be sent, those of calls are refused beyond a bound of their own.
"""

from __future__ import annotations

import asyncio
import logging
from collections import deque
from collections.abc import AsyncIterator
from contextlib import ExitStack

from edgenode.api.receipt.v1 import receipt_pb2
from edgenode.api.sync.v1 import sync_pb2
from edgenode.api.task.v1 import task_pb2
from edgenode.api.task.v1 import task_service_pb2 as pb
from edgenode.link.errors import EdgenodeError
from edgenode.link.ports import Clock
from edgenode.link.wire import checks
from edgenode.link.wire.tasks import TaskLimits, task_spec_from_proto
from edgenode.link.wire.unread import Unread, answers_unread
from edgenode.link.wire.values import problem_to_pb
from hub.services.calls import DEFAULT_TIMEOUT, MAX_TIMEOUT, CallRouter
from hub.services.dispatcher import Dispatcher
from hub.services.task_desk import TaskDesk
from hub.services.task_view import level_of, level_to_pb, outcome_parts, state_to_pb
from hub.store.records import TaskRecord

MAX_FRAME = 1024

_log = logging.getLogger(__name__)


class SubmissionStream:
    """A reader task takes frames; `run` writes what has collected since the last response."""

    def __init__(self, desk: TaskDesk, dispatcher: Dispatcher, calls: CallRouter, clock: Clock, hub: str) -> None:
        self._desk = desk
        self._dispatcher = dispatcher
        self._calls = calls
        self._clock = clock
        self._hub = hub
        self._limits = TaskLimits()
        self._response = pb.SubmitTasksResponse()
        self._unread = Unread()
        # (number, task) of those whose outcome is to be read from the store
        self._stored: deque[tuple[int, str]] = deque()
        self._wake = asyncio.Event()
        self._open_calls: dict[int, int] = {}  # correlation id -> the router's number
        self._awaited: dict[int, ExitStack] = {}  # correlation id -> what ends the watching for its outcome
        self._tasks: dict[int, str] = {}  # correlation id -> task
        self._problem: EdgenodeError | None = None
        self._ended = False

    async def run(self, requests: AsyncIterator[pb.SubmitTasksRequest]) -> AsyncIterator[pb.SubmitTasksResponse]:
        """Responses, until the caller closed its side and every outcome asked for was sent."""
        reader = asyncio.create_task(self._read(requests), name="submission reader")
        try:
            while True:
                await self._wake.wait()
                self._wake.clear()
                # More may collect, and the end come, while a response is on its way.
                while self._response.receipts or self._response.outcomes or self._stored:
                    await self._read_outcomes()
                    response, self._response = self._response, pb.SubmitTasksResponse()
                    size = self._unread.size
                    yield response
                    self._unread.remove(size)
                if self._problem is not None:
                    raise self._problem
                if self._ended and not self._open_calls and not self._awaited:
                    return
        finally:
            reader.cancel()
            await asyncio.wait({reader})
            self._calls.cancel("", list(self._open_calls.values()))
            for watching in self._awaited.values():
                watching.close()

    async def _read_outcomes(self) -> None:
        while self._stored and not self._unread.full:
            correlation_id, task_id = self._stored.popleft()
            try:
                self._tell(correlation_id, await self._dispatcher.get(task_id))
            except EdgenodeError as error:
                self._refuse(correlation_id, error)

    async def _read(self, requests: AsyncIterator[pb.SubmitTasksRequest]) -> None:
        try:
            async for request in requests:
                await self._unread.room()
                await self._take(request)
        except EdgenodeError as error:
            self._problem = error
        except Exception as error:  # the stream broke, and with it the other half
            _log.debug("a submitter's stream ended: %r", error)
        finally:
            self._ended = True
            self._wake.set()

    async def _take(self, request: pb.SubmitTasksRequest) -> None:
        checks.at_most(len(request.submissions), MAX_FRAME, "submissions")
        stored: list[tuple[pb.Submission, TaskRecord]] = []
        for submission in request.submissions:
            try:
                if submission.call:
                    self._call(submission)
                else:
                    stored.append((submission, self._desk.record(submission.spec, submission.request_id)))
            except EdgenodeError as error:
                self._refuse(submission.correlation_id, error)
        if stored:
            await self._store(stored)
        for correlation_id in request.cancel_correlation_ids:
            if correlation_id in self._open_calls:
                self._calls.cancel("", [self._open_calls.pop(correlation_id)])
            elif correlation_id in self._tasks:
                await self._dispatcher.cancel(self._tasks[correlation_id], "its submitter asked for its end")
        self._wake.set()

    def _call(self, submission: pb.Submission) -> None:
        now = self._clock.wall()
        spec = task_spec_from_proto(submission.spec, limits=self._limits, now=now, node=self._hub)
        timeout = min(spec.deadline - now, MAX_TIMEOUT) if spec.deadline else DEFAULT_TIMEOUT
        correlation_id = submission.correlation_id

        def deliver(result: sync_pb2.CallResult) -> None:
            self._open_calls.pop(correlation_id, None)
            outcome = pb.SubmissionOutcome(correlation_id=correlation_id)
            if self._unread.overfull and not result.HasField("problem"):
                self._refuse(correlation_id, answers_unread(self._unread.size))
                return
            if result.HasField("problem"):
                outcome.state = task_pb2.TASK_STATE_FAILED
                outcome.problem.CopyFrom(result.problem)
            else:
                outcome.state = task_pb2.TASK_STATE_COMPLETED
                outcome.output.CopyFrom(result.output)
            self._send(outcome)

        self._open_calls[correlation_id] = -1
        try:
            number = self._calls.call(spec, timeout, deliver)
        except EdgenodeError:
            del self._open_calls[correlation_id]
            raise
        if correlation_id in self._open_calls:
            self._open_calls[correlation_id] = number

    async def _store(self, stored: list[tuple[pb.Submission, TaskRecord]]) -> None:
        for submission, task in stored:
            if submission.want_outcome:
                self._watch(submission.correlation_id, task.task_id)
        try:
            answers = await self._desk.submit([task for _, task in stored])
        except EdgenodeError as error:
            answers = [error] * len(stored)
        for (submission, task), answer in zip(stored, answers, strict=True):
            if isinstance(answer, EdgenodeError):
                self._unwatch(submission.correlation_id)
                self._refuse(submission.correlation_id, answer)
            else:
                await self._accepted(submission, task, answer)

    async def _accepted(self, submission: pb.Submission, asked: TaskRecord, task: TaskRecord) -> None:
        self._tasks[submission.correlation_id] = task.task_id
        level = level_of(task)
        if submission.want_outcome and task.task_id != asked.task_id:  # a task submitted before
            self._watch(submission.correlation_id, task.task_id)
            task = await self._dispatcher.get(task.task_id)
            self._ended_task(submission.correlation_id, task)
        self._response.receipts.append(_receipt(submission.correlation_id, task.task_id, level_to_pb(level)))
        self._unread.answer()

    def _watch(self, correlation_id: int, task_id: str) -> None:
        self._unwatch(correlation_id)
        watching = self._awaited[correlation_id] = ExitStack()
        watching.enter_context(self._desk.watch(task_id, lambda task, notice: self._ended_task(correlation_id, task)))

    def _unwatch(self, correlation_id: int) -> bool:
        """No longer wait for the outcome; False if nobody did."""
        watching = self._awaited.pop(correlation_id, None)
        if watching is not None:
            watching.close()
        return watching is not None

    def _ended_task(self, correlation_id: int, task: TaskRecord) -> None:
        if not task.state.terminal or not self._unwatch(correlation_id):
            return
        self._tasks.pop(correlation_id, None)
        if self._unread.full:
            self._stored.append((correlation_id, task.task_id))
            self._wake.set()
        else:
            self._tell(correlation_id, task)

    def _tell(self, correlation_id: int, task: TaskRecord) -> None:
        output, problem = outcome_parts(task)
        self._send(
            pb.SubmissionOutcome(
                correlation_id=correlation_id,
                task_id=task.task_id,
                state=state_to_pb(task.state),
                output=output,
                problem=problem,
            )
        )

    def _refuse(self, correlation_id: int, error: EdgenodeError) -> None:
        self._send(pb.SubmissionOutcome(correlation_id=correlation_id, problem=problem_to_pb(error.problem)))

    def _send(self, outcome: pb.SubmissionOutcome) -> None:
        self._response.outcomes.append(outcome)
        self._unread.answer(len(outcome.output.data))
        self._wake.set()


def _receipt(correlation_id: int, task_id: str, level: receipt_pb2.ReceiptLevel) -> pb.SubmissionReceipt:
    return pb.SubmissionReceipt(correlation_id=correlation_id, task_id=task_id, level=level)
