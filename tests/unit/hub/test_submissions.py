from __future__ import annotations

import asyncio
import random
from collections.abc import AsyncIterator

import pytest

from edgenode.api.task.v1 import task_pb2
from edgenode.api.task.v1 import task_service_pb2 as pb
from edgenode.link.ports import SystemClock
from edgenode.link.wire import unread
from hub.services.calls import CallRouter
from hub.services.submissions import SubmissionStream
from hub.services.task_desk import TaskDesk
from tests.unit.hub.test_dispatcher import Desk, desk  # noqa: F401 - the fixture


def frame(number: int) -> pb.SubmitTasksRequest:
    submission = pb.Submission(
        correlation_id=number, request_id=f"r-{number}", spec=task_pb2.TaskSpec(skill="code.metrics")
    )
    return pb.SubmitTasksRequest(submissions=[submission])


async def test_a_caller_that_reads_slowly_gets_every_receipt_before_the_end(desk: Desk) -> None:  # noqa: F811
    """The last frame is taken, and the caller's side ended, while a response is on its way."""
    clock = SystemClock()
    tasks = TaskDesk(desk.dispatcher, "hub", clock, random.Random(1))
    calls = CallRouter(desk.view, desk.placement, clock, desk.alarm, lambda *_: False, lambda _: False)
    stream = SubmissionStream(tasks, desk.dispatcher, calls, clock, "hub")
    answered, ended = asyncio.Event(), asyncio.Event()

    async def requests() -> AsyncIterator[pb.SubmitTasksRequest]:
        yield frame(1)
        await answered.wait()
        yield frame(2)
        ended.set()

    receipts = []
    async for response in stream.run(requests()):
        receipts += [receipt.correlation_id for receipt in response.receipts]
        answered.set()
        await asyncio.wait_for(ended.wait(), 10)
        await asyncio.sleep(0)  # the reader's end
    assert receipts == [1, 2]


async def test_an_outcome_that_was_sent_is_watched_for_no_more(desk: Desk) -> None:  # noqa: F811
    clock = SystemClock()
    tasks = TaskDesk(desk.dispatcher, "hub", clock, random.Random(1))
    calls = CallRouter(desk.view, desk.placement, clock, desk.alarm, lambda *_: False, lambda _: False)
    stream = SubmissionStream(tasks, desk.dispatcher, calls, clock, "hub")
    asked: asyncio.Queue[pb.SubmitTasksRequest | None] = asyncio.Queue()

    async def requests() -> AsyncIterator[pb.SubmitTasksRequest]:
        while (request := await asked.get()) is not None:
            yield request

    for number in (1, 2):
        request = frame(number)
        request.submissions[0].want_outcome = True
        asked.put_nowait(request)
    outcomes = []
    async for response in stream.run(requests()):
        for receipt in response.receipts:
            assert tasks.watched(receipt.task_id)
            await desk.dispatcher.cancel(receipt.task_id, "enough")
        for outcome in response.outcomes:
            outcomes.append((outcome.correlation_id, outcome.state))
            assert not tasks.watched(outcome.task_id)
        if len(outcomes) == 2:
            asked.put_nowait(None)
    assert outcomes == [(1, task_pb2.TASK_STATE_CANCELED), (2, task_pb2.TASK_STATE_CANCELED)]


async def test_outcomes_that_are_not_read_wait_in_the_store(desk: Desk, monkeypatch: pytest.MonkeyPatch) -> None:  # noqa: F811
    monkeypatch.setattr(unread, "UNREAD_BYTES", 100)
    clock = SystemClock()
    tasks = TaskDesk(desk.dispatcher, "hub", clock, random.Random(1))
    calls = CallRouter(desk.view, desk.placement, clock, desk.alarm, lambda *_: False, lambda _: False)
    stream = SubmissionStream(tasks, desk.dispatcher, calls, clock, "hub")

    async def requests() -> AsyncIterator[pb.SubmitTasksRequest]:
        request = pb.SubmitTasksRequest()
        for number in range(5):
            request.submissions.append(frame(number).submissions[0])
            request.submissions[-1].want_outcome = True
        yield request

    outcomes, most = [], 0
    async for response in stream.run(requests()):
        for receipt in response.receipts:
            await desk.dispatcher.cancel(receipt.task_id, "enough")
        most = max(most, len(response.outcomes))
        outcomes += [(outcome.correlation_id, outcome.state) for outcome in response.outcomes]
    assert sorted(outcomes) == [(number, task_pb2.TASK_STATE_CANCELED) for number in range(5)]
    assert most <= 2
