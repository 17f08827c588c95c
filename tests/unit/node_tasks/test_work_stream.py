"""An agent's stream from its first frame: what is confirmed to it, and when."""

import asyncio
import threading
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any, cast

import grpc
import pytest

from edgenode.api.task.v1 import task_pb2, task_service_pb2
from edgenode.link.errors import Aborted, InvalidArgument
from edgenode.link.model.task import TaskState
from edgenode.link.protocol.tasks import TaskEvent
from edgenode.link.wire.status import Context
from edgenode.link.wire.values import problem_to_pb, timestamp_to_pb
from edgenode.node import work
from edgenode.node.task_state import LiveTask
from edgenode.node.turns import SLICE
from edgenode.node.work import WorkStream
from tests.unit.node_tasks.harness import FLAKY, Agent, House, house

WAIT, FAIL = 2, 3
Request = task_service_pb2.WorkTasksRequest


class Wire:
    """The agent's end of the stream: `requests` go in, what the node wrote gathers in `told`."""

    def __init__(self) -> None:
        self.requests: asyncio.Queue[Any] = asyncio.Queue()
        self.told = task_service_pb2.WorkTasksResponse()
        self.heard = asyncio.Event()

    async def read(self) -> Any:
        return await self.requests.get()

    async def write(self, frame: task_service_pb2.WorkTasksResponse) -> None:
        self.told.MergeFrom(frame)
        self.heard.set()

    def cancelled(self) -> bool:
        return False

    async def until(self, condition: Callable[[], object]) -> None:
        async with asyncio.timeout(5):
            while not condition():
                self.heard.clear()
                await self.heard.wait()


@asynccontextmanager
async def stream(
    h: House, instance: str = "i", *attempts: task_service_pb2.AttemptKey
) -> AsyncIterator[tuple[Wire, WorkStream]]:
    await h.agent("worker", "work", attach=False, instance=instance)
    wire = Wire()
    attach = task_service_pb2.WorkAttach(agent="worker", instance_id=instance, attempts=attempts)
    served = WorkStream(h.engine, h.registry, cast(Context, wire), attach)
    run = asyncio.create_task(served.run(Request(attach=attach, credit_count=4)))
    await wire.until(lambda: wire.told.HasField("attached"))
    try:
        yield wire, served
    finally:
        wire.requests.put_nowait(grpc.aio.EOF)
        await run


def failure(key: task_service_pb2.AttemptKey) -> Request:
    result = task_service_pb2.AttemptResult(key=key, state=task_pb2.TASK_STATE_FAILED, problem=problem_to_pb(FLAKY))
    return Request(results=[result])


async def test_a_failed_attempt_is_confirmed_only_once_it_is_stored(tmp_path: Path) -> None:
    async with house(tmp_path) as h, stream(h) as (wire, _):
        live = await h.accepted(on_lost=WAIT)
        await wire.until(lambda: wire.told.assignments)
        key = wire.told.assignments[0].key
        gate = threading.Event()
        held = asyncio.create_task(h.database.read(lambda connection: gate.wait(5)))
        live.watchers.append(lambda _: wire.heard.set())
        wire.requests.put_nowait(failure(key))
        await wire.until(lambda: live.state is TaskState.RETRY_WAIT)
        # What the stream writes next would take a confirmation along.
        h.engine.start_call(h.spec(), lambda _: None)
        await wire.until(lambda: len(wire.told.assignments) == 2)
        assert not wire.told.confirmations
        gate.set()
        await held
        await wire.until(lambda: wire.told.confirmations)
        assert await h.state(live.task_id) is TaskState.RETRY_WAIT


async def test_of_an_agent_no_more_results_are_read_than_may_wait_for_their_commit(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(work, "UNCOMMITTED_BYTES", 1)
    async with house(tmp_path) as h, stream(h) as (wire, _):
        for _ in range(4):
            await h.accepted(on_lost=WAIT)
        await wire.until(lambda: len(wire.told.assignments) == 4)
        gate = threading.Event()
        held = asyncio.create_task(h.database.read(lambda connection: gate.wait(5)))
        for assignment in wire.told.assignments:
            wire.requests.put_nowait(failure(assignment.key))
        for _ in range(100):
            await asyncio.sleep(0)
        assert wire.requests.qsize() == 3
        gate.set()
        await held
        await wire.until(lambda: len(wire.told.confirmations) == 4)


async def test_a_prompt_result_overtakes_a_frame_of_others_that_waits_for_its_turns(tmp_path: Path) -> None:
    async with house(tmp_path) as h, stream(h) as (wire, _):
        lives = [await h.accepted(on_lost=WAIT) for _ in range(3)]
        answered = asyncio.Event()
        h.engine.start_call(h.spec(), lambda _: answered.set())
        await wire.until(lambda: len(wire.told.assignments) == 4)
        *bulk, prompt = sorted(wire.told.assignments, key=lambda assignment: assignment.prompt)
        turns = h.engine.book.turns
        assert turns.free(turns.size)
        gone = [asyncio.create_task(turns.take(turns.size)) for _ in range(50)]  # before them in the queue
        frame = Request(results=[failure(assignment.key).results[0] for assignment in bulk], credit_count=3)
        wire.requests.put_nowait(frame)
        wire.requests.put_nowait(failure(prompt.key))
        async with asyncio.timeout(5):
            await answered.wait()
        assert not any(live.state is TaskState.RETRY_WAIT for live in lives)
        await asyncio.gather(*gone)
        await wire.until(lambda: len(wire.told.confirmations) == 4)
        assert all(live.state is TaskState.RETRY_WAIT for live in lives)


async def by_turns(h: House, wire: Wire) -> list[asyncio.Task[None]]:
    """A frame of results, with credit for three, that waits for its turns: behind those that are returned."""
    for _ in range(3):
        await h.accepted(on_lost=WAIT)
    await wire.until(lambda: len(wire.told.assignments) == 3)
    turns = h.engine.book.turns
    turns.urgent()
    before = [asyncio.create_task(turns.take(turns.size)) for _ in range(50)]
    await asyncio.sleep(0)
    results = [failure(assignment.key).results[0] for assignment in wire.told.assignments]
    wire.requests.put_nowait(Request(results=results, credit_count=3))
    return before


async def test_what_goes_wrong_with_results_that_waited_for_their_turns_ends_the_stream(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def serve(h: House) -> None:
        async with stream(h) as (wire, _):
            monkeypatch.setattr(WorkStream, "_take_results", lambda *_: 1 // 0)
            await asyncio.gather(*await by_turns(h, wire))

    async with house(tmp_path) as h:
        with pytest.raises(ZeroDivisionError):
            await serve(h)


async def test_credit_that_waited_for_its_turns_is_none_of_the_next_stream(tmp_path: Path) -> None:
    async def serve(h: House) -> None:
        async with stream(h) as (wire, _):
            before = await by_turns(h, wire)
            wire.requests.put_nowait(grpc.aio.EOF)
            for _ in range(8):  # both are read, and the stream drains
                await asyncio.sleep(0)
            h.engine.dispatcher.attach("worker", Agent(h.engine, "worker"))
            await asyncio.gather(*before)
            for _ in range(20):
                await h.turn()

    async with house(tmp_path) as h:
        with pytest.raises(Aborted, match="REPLACED"):
            await serve(h)
        assert h.engine.dispatcher._scheduler.worker("worker").credits == 0


async def test_a_call_for_an_idle_agent_does_not_wait_behind_slices_for_bulk_work_that_is_older(tmp_path: Path) -> None:
    async with house(tmp_path) as h:
        busy, idle = await h.agent("busy", "work", credit=0), await h.agent("idle", "rest", credit=1)
        for _ in range(SLICE + 8):
            await h.accepted()
        turns = h.engine.book.turns
        turns.urgent()
        slices = [asyncio.create_task(turns.take(turns.size)) for _ in range(50)]
        h.engine.dispatcher.add_credits("busy", busy, 4 * SLICE)
        h.engine.start_call(h.spec("rest"), lambda _: None)
        for _ in range(20):
            await asyncio.sleep(0)
        assert idle.assigned
        assert not slices[-1].done()
        await asyncio.gather(*slices)


async def test_attempts_that_are_given_up_are_forgotten_though_the_agent_says_nothing(tmp_path: Path) -> None:
    async with house(tmp_path) as h, stream(h) as (wire, served):
        expired = await h.accepted(deadline_time=timestamp_to_pb(h.clock.wall() + 5))
        slow = await h.accepted()
        call = h.engine.start_call(h.spec(), lambda _: None)
        await wire.until(lambda: len(wire.told.assignments) == 3)
        assert served.attempt_count == 3
        h.engine.cancel_call(call)
        assert served.attempt_count == 2
        await h.turn(6)
        assert expired.state is TaskState.EXPIRED
        await h.turn(300)
        assert slow.state is TaskState.RETRY_WAIT
        assert served.attempt_count == 0


async def noted(h: House, on_lost: int, restarted: bool) -> LiveTask:
    """A task that was noted as handed to the agent, which never heard of it: the node or the stream went first."""
    agent = await h.agent("worker", "work")
    live = await h.accepted(on_lost=on_lost)
    await h.turn()
    assert agent.assigned == [live]
    assert await h.state(live.task_id) is TaskState.ASSIGNED
    if restarted:
        await h.restart()
    else:
        h.engine.dispatcher.detach("worker", agent)
    return h.engine.book.live[live.task_id]


@pytest.mark.parametrize("on_lost", [WAIT, FAIL])
@pytest.mark.parametrize("restarted", [True, False])
async def test_work_its_agent_never_saw_is_assigned_again_when_the_agent_is_back(
    tmp_path: Path, on_lost: int, restarted: bool
) -> None:
    async with house(tmp_path) as h:
        live = await noted(h, on_lost, restarted)
        async with stream(h) as (wire, _):
            await wire.until(lambda: wire.told.assignments)
            (assignment,) = wire.told.assignments
            assert (assignment.key.task_id, assignment.key.attempt_number) == (live.task_id, 1)
            result = task_service_pb2.AttemptResult(key=assignment.key, state=task_pb2.TASK_STATE_COMPLETED)
            wire.requests.put_nowait(Request(results=[result]))
            await wire.until(lambda: wire.told.confirmations)
        assert await h.state(live.task_id) is TaskState.COMPLETED


@pytest.mark.parametrize("restarted", [True, False])
async def test_work_that_its_agent_names_goes_on_there(tmp_path: Path, restarted: bool) -> None:
    async with house(tmp_path) as h:
        live = await noted(h, WAIT, restarted)
        key = task_service_pb2.AttemptKey(task_id=live.task_id, attempt_number=1)
        async with stream(h, "i", key) as (wire, served):
            await h.turn(100)
            assert served.attempt_count == 1
            assert not wire.told.assignments


@pytest.mark.parametrize("restarted", [True, False])
async def test_work_an_agent_started_again_knows_nothing_of_fails(tmp_path: Path, restarted: bool) -> None:
    """The process before it may have done the work: it must not run twice, and nobody comes with the result."""
    async with house(tmp_path) as h:
        live = await noted(h, WAIT, restarted)
        async with stream(h, "another") as (wire, _):
            await h.turn()
            assert not wire.told.assignments
        assert await h.state(live.task_id) is TaskState.FAILED
        assert (await h.stored(live.task_id)).problem.reason == "AGENT_LOST"


async def test_work_its_agent_spoke_of_and_does_not_name_is_not_assigned_again(tmp_path: Path) -> None:
    async with house(tmp_path) as h:
        live = await noted(h, WAIT, restarted=False)
        live.apply(TaskEvent.BEGIN, h.clock.wall())
        async with stream(h) as (wire, _):
            await h.turn()
            assert not wire.told.assignments
        assert await h.state(live.task_id) is TaskState.FAILED


async def test_a_cancelled_task_its_agent_never_saw_ends(tmp_path: Path) -> None:
    async with house(tmp_path) as h:
        live = await noted(h, WAIT, restarted=False)
        live.cancel_requested = True
        async with stream(h) as (wire, _):
            await h.turn()
            assert not wire.told.assignments
        assert await h.state(live.task_id) is TaskState.CANCELED


async def test_credits_add_up(tmp_path: Path) -> None:
    async with house(tmp_path) as h:
        with pytest.raises(InvalidArgument, match="unused") as refused:  # noqa: PT012
            async with stream(h) as (wire, _):
                wire.requests.put_nowait(Request(credit_count=work.MAX_CREDIT - 4))
                wire.requests.put_nowait(Request(credit_count=1))
        assert refused.value.reason == "OUT_OF_RANGE"


@pytest.mark.parametrize("bounded", [True, False])
async def test_an_agent_that_does_not_read_is_not_heard_for_long(
    tmp_path: Path, bounded: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Unread(Wire):
        taken, reads = 0, asyncio.Event()

        async def read(self) -> Any:
            if self.taken:
                keys = [task_service_pb2.AttemptKey(task_id="x", attempt_number=n) for n in range(100)]
                self.taken += 1
                await asyncio.sleep(0)
                return Request(results=[task_service_pb2.AttemptResult(key=key) for key in keys])
            await self.heard.wait()
            self.taken += 1
            return Request()

        async def write(self, frame: task_service_pb2.WorkTasksResponse) -> None:
            self.heard.set()
            await self.reads.wait()

    monkeypatch.setattr(work, "FRAME_BYTES", 1000)
    monkeypatch.setattr(work, "UNSENT_FRAMES", 4 if bounded else 1 << 40)
    async with house(tmp_path) as h:
        await h.agent("worker", "work", attach=False, instance="i")
        wire = Unread()
        attach = task_service_pb2.WorkAttach(agent="worker", instance_id="i")
        serving = asyncio.create_task(WorkStream(h.engine, h.registry, cast(Context, wire), attach).run(Request()))
        for _ in range(200):
            await h.turn()
        assert (wire.taken < 10) is bounded
        before = wire.taken
        wire.reads.set()
        for _ in range(200):
            await h.turn()
        assert wire.taken > before + 10
        serving.cancel()
        await asyncio.wait([serving])
