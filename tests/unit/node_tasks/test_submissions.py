"""A submitter's stream: every number it sends has an end."""

import asyncio
import threading
from pathlib import Path
from typing import Any, cast

import grpc
import pytest

from edgenode.api.task.v1 import task_pb2, task_service_pb2
from edgenode.link.errors import InvalidArgument, Unavailable
from edgenode.link.wire import unread
from edgenode.link.wire.status import Context
from edgenode.node import submissions
from edgenode.node.submissions import SubmitStream
from tests.unit.node_tasks.harness import House, house

Request = task_service_pb2.SubmitTasksRequest


class Wire:
    """The submitter's end of the stream."""

    def __init__(self) -> None:
        self.requests: asyncio.Queue[Any] = asyncio.Queue()
        self.told = task_service_pb2.SubmitTasksResponse()

    async def read(self) -> Any:
        return await self.requests.get()

    async def write(self, frame: task_service_pb2.SubmitTasksResponse) -> None:
        self.told.MergeFrom(frame)


def submission(number: int, **fields: Any) -> Request:
    spec = task_pb2.TaskSpec(skill="work", idempotency_key="k")
    return Request(
        submissions=[task_service_pb2.Submission(correlation_id=number, spec=spec, want_outcome=True, **fields)]
    )


async def submitted(h: House, wire: Wire, *, broken: bool = False) -> None:
    async def task(task_id: str) -> task_pb2.Task:
        if broken:
            raise Unavailable("STORE_FAILED", "the store failed")
        return await h.stored(task_id)

    async with asyncio.timeout(5):
        await SubmitStream(h.engine, cast(Context, wire), lambda _: h.spec(idempotency_key="k"), task).run()


@pytest.mark.parametrize("broken", [False, True])
async def test_a_task_that_ended_before_is_answered_even_if_it_cannot_be_read(tmp_path: Path, broken: bool) -> None:
    async with house(tmp_path) as h:
        wire = Wire()
        wire.requests.put_nowait(submission(1))
        wire.requests.put_nowait(grpc.aio.EOF)
        first = asyncio.create_task(submitted(h, wire))
        agent = await h.agent("worker", "work")
        async with asyncio.timeout(5):
            while not agent.assigned:
                await h.turn()
        await agent.finish(agent.assigned[0])
        await first
        again = Wire()
        again.requests.put_nowait(submission(2))
        again.requests.put_nowait(grpc.aio.EOF)
        await submitted(h, again, broken=broken)
        (outcome,) = again.told.outcomes
        assert (outcome.correlation_id, outcome.problem.reason) == (2, "STORE_FAILED" if broken else "")
        assert len(again.told.receipts) == 1


async def test_a_number_that_is_in_use_ends_the_stream(tmp_path: Path) -> None:
    async with house(tmp_path) as h:
        wire = Wire()
        for _ in range(2):
            wire.requests.put_nowait(submission(1))
        with pytest.raises(InvalidArgument, match="DUPLICATE_CORRELATION"):
            await submitted(h, wire)


class Unread(Wire):
    """A submitter that sends and does not read."""

    def __init__(self) -> None:
        super().__init__()
        self.taken = 0
        self.reads = asyncio.Event()

    async def read(self) -> Any:
        self.taken += 1
        await asyncio.sleep(0)
        return refused(self.taken)

    async def write(self, frame: task_service_pb2.SubmitTasksResponse) -> None:
        await self.reads.wait()


def refused(frame: int) -> Request:
    """A hundred that are refused at once."""
    return Request(
        submissions=[task_service_pb2.Submission(correlation_id=100 * frame + n, call=True) for n in range(100)]
    )


@pytest.mark.parametrize("bounded", [True, False])
async def test_a_submitter_that_does_not_read_is_not_heard_for_long(
    tmp_path: Path, bounded: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(_: task_pb2.TaskSpec) -> Any:
        raise InvalidArgument("BAD", "no")

    monkeypatch.setattr(unread, "UNREAD_BYTES", 10_000 if bounded else 1 << 40)
    async with house(tmp_path) as h:
        wire = Unread()
        serving = asyncio.create_task(SubmitStream(h.engine, cast(Context, wire), refuse, h.stored).run())
        for _ in range(200):
            await h.turn()
        assert (wire.taken < 10) is bounded
        before = wire.taken
        wire.reads.set()
        for _ in range(200):
            await h.turn()
        assert wire.taken > before + 10  # it goes on as soon as the answers are read
        serving.cancel()
        await asyncio.wait([serving])


class Waiting(Wire):
    """A submitter whose first frame goes out at once, and reads on only when told to."""

    def __init__(self) -> None:
        super().__init__()
        self.reads = asyncio.Event()

    async def write(self, frame: task_service_pb2.SubmitTasksResponse) -> None:
        await self.reads.wait()
        await super().write(frame)


@pytest.mark.parametrize("call", [True, False])
async def test_of_what_is_not_read_results_wait_in_the_store_and_answers_are_refused(
    tmp_path: Path, call: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(unread, "UNREAD_BYTES", 2000)
    monkeypatch.setattr(unread, "UNREAD_CALL_BYTES", 2000)
    async with house(tmp_path) as h:
        agent = await h.agent("worker", "work")
        wire, reads = Waiting(), []

        async def read(task_id: str) -> task_pb2.Task:
            reads.append(task_id)
            return await h.stored(task_id)

        numbered = [
            task_service_pb2.Submission(correlation_id=number, want_outcome=not call, call=call) for number in range(6)
        ]
        wire.requests.put_nowait(Request(submissions=numbered))
        wire.requests.put_nowait(grpc.aio.EOF)
        serving = asyncio.create_task(SubmitStream(h.engine, cast(Context, wire), lambda _: h.spec(), read).run())
        async with asyncio.timeout(5):
            while len(agent.assigned) < 6:
                await h.turn()
        for live in agent.assigned:
            await agent.finish(live, data=bytes(1000))
        assert not reads  # nobody reads, so nothing is read for it
        wire.reads.set()
        async with asyncio.timeout(5):
            await serving
    told = sorted(
        (outcome.correlation_id, len(outcome.output.data), outcome.problem.reason) for outcome in wire.told.outcomes
    )
    if call:
        assert told == [(n, 1000, "") for n in range(2)] + [(n, 0, "ANSWERS_UNREAD") for n in range(2, 6)]
    else:
        assert told == [(n, 1000, "") for n in range(6)]
        assert len(reads) == 4


async def test_of_a_submitter_no_more_is_read_than_may_wait_for_its_commit(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(submissions, "UNCOMMITTED_BYTES", 2500)
    async with house(tmp_path) as h:
        busy, go_on = asyncio.Event(), threading.Event()
        loop = asyncio.get_running_loop()

        def hold(_connection: object) -> None:
            loop.call_soon_threadsafe(busy.set)
            assert go_on.wait(10)

        held = asyncio.create_task(h.database.write(hold))
        await busy.wait()
        wire = Wire()
        for number in range(10):
            spec = task_pb2.TaskSpec(skill="work", input=bytes(1000))
            wire.requests.put_nowait(
                Request(submissions=[task_service_pb2.Submission(correlation_id=number, spec=spec)])
            )
        wire.requests.put_nowait(grpc.aio.EOF)
        serving = asyncio.create_task(SubmitStream(h.engine, cast(Context, wire), lambda _: h.spec(), h.stored).run())
        for _ in range(100):
            await asyncio.sleep(0)
        assert wire.requests.qsize() == 7  # three are 3,000 bytes, and the fourth waits
        go_on.set()
        async with asyncio.timeout(5):
            await held
            await serving
    assert [receipt.correlation_id for receipt in wire.told.receipts] == list(range(10))


@pytest.mark.parametrize(("priority", "place"), [(9, 0), (0, 44)])
async def test_an_urgent_task_goes_before_all_that_came_earlier_and_is_not_stored(
    tmp_path: Path, priority: int, place: int
) -> None:
    """It comes last, on a stream of its own; what the store does meanwhile takes it along. One that is not urgent waits."""
    async with house(tmp_path) as h:
        agent = await h.agent("worker", "work", credit=100)
        await h.turn()
        busy, go_on = asyncio.Event(), threading.Event()
        loop, before = asyncio.get_running_loop(), h.database.commits

        def hold(_connection: object) -> None:
            loop.call_soon_threadsafe(busy.set)
            assert go_on.wait(10)

        held = asyncio.create_task(h.database.write(hold))
        await busy.wait()
        streams = []
        for name, count, of in (("bulk", 44, 0), ("last", 1, priority)):
            wire, request = Wire(), Request()
            for number in range(count):
                spec = task_pb2.TaskSpec(skill="work", priority=of)
                request.submissions.add(correlation_id=number, request_id=f"{name} {number}", spec=spec)
            wire.requests.put_nowait(request)
            wire.requests.put_nowait(grpc.aio.EOF)
            stream = SubmitStream(h.engine, cast(Context, wire), lambda m: h.spec(priority=m.priority), h.stored)
            streams.append(asyncio.create_task(stream.run()))
            for _ in range(20):  # turns, until it waits for the store
                await asyncio.sleep(0)
        go_on.set()
        async with asyncio.timeout(5):
            await asyncio.gather(held, *streams)
            while len(agent.assigned) < 45:
                await h.turn()
        assert [live.request_id for live in agent.assigned].index("last 0") == place
        assert h.database.commits == before + 2  # with what held it up, and the rest together
