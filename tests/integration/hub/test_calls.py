from __future__ import annotations

import asyncio
from typing import cast

import grpc
import pytest

from edgenode.api.sync.v1 import sync_pb2
from edgenode.api.task.v1 import task_pb2, task_service_pb2, task_service_pb2_grpc
from edgenode.link.wire.driver import SessionDriver
from edgenode.link.wire.values import duration_to_pb
from tests.integration.hub.fake_edge import FakeEdge, until
from tests.integration.hub.site import Site


def _call(edge: FakeEdge, call_id: int, skill: str = "code.metrics", seconds: float = 10.0) -> None:
    call = sync_pb2.Call(call_id=call_id, spec=task_pb2.TaskSpec(skill=skill), timeout_duration=duration_to_pb(seconds))
    assert edge.link is not None
    assert edge.link.send(sync_pb2.Frame(calls=sync_pb2.CallBatch(calls=[call])))


def _answer(edge: FakeEdge, call_id: int, data: bytes) -> None:
    result = sync_pb2.CallResult(
        call_id=call_id, output=task_pb2.TaskOutput(data=data), agent="nodes/north/agents/code"
    )
    assert edge.link is not None
    assert edge.link.send(sync_pb2.Frame(calls=sync_pb2.CallBatch(results=[result])))


async def _pair(site: Site) -> tuple[FakeEdge, FakeEdge]:
    await site.start()
    north, south = await site.edge("north"), await site.edge("south")
    north.register("code", "code.metrics")
    await _known(site)
    return north, south


async def _known(site: Site) -> None:
    stub = task_service_pb2_grpc.TaskServiceStub(site.local())
    probe = task_service_pb2.SubmitTaskRequest(spec=task_pb2.TaskSpec(skill="code.metrics"))
    await stub.SubmitTask(probe)
    await site.edges[0].granted()


async def test_a_call_crosses_the_hub_and_the_answer_finds_back(site: Site) -> None:
    north, south = await _pair(site)
    _call(south, 7)
    _call(south, 8)
    await until(lambda: len(north.calls) == 2)
    for call in reversed(north.calls):
        _answer(north, call.call_id, b"%d" % call.call_id)
    await until(lambda: len(south.results) == 2)
    assert {result.call_id for result in south.results} == {7, 8}
    by_id = {result.call_id: result.output.data for result in south.results}
    assert by_id[7] == b"%d" % north.calls[0].call_id


async def test_a_number_that_is_in_use_is_refused_and_nothing_breaks(site: Site) -> None:
    north, south = await _pair(site)
    _call(south, 7)
    _call(south, 7)
    await until(lambda: len(south.results) == 1)
    assert (south.results[0].call_id, south.results[0].problem.reason) == (7, "CALL_ID_IN_USE")
    _answer(north, north.calls[0].call_id, b"42")
    await until(lambda: len(south.results) == 2)
    assert south.results[1].output.data == b"42"


async def test_a_call_nobody_can_take_is_refused_at_once(site: Site) -> None:
    _, south = await _pair(site)
    _call(south, 1, "no.such.skill")
    await until(lambda: len(south.results) == 1)
    assert south.results[0].problem.reason == "UNKNOWN_SKILL"
    _call(site.edges[0], 1)  # the only one who fits is the caller itself
    await until(lambda: len(site.edges[0].results) == 1)
    assert site.edges[0].results[0].problem.reason == "NO_AGENT"


async def test_the_loss_of_the_node_that_runs_a_call_is_told_at_once(site: Site) -> None:
    north, south = await _pair(site)
    _call(south, 1)
    await until(lambda: len(north.calls) == 1)
    await north.stop()
    await until(lambda: len(south.results) == 1)
    assert south.results[0].problem.reason == "AGENT_LOST"


async def test_deadlines_and_cancels_reach_the_node_that_runs_it(site: Site) -> None:
    north, south = await _pair(site)
    _call(south, 1, seconds=0.1)
    await until(lambda: len(south.results) == 1)
    assert south.results[0].problem.reason == "DEADLINE_PASSED"
    _call(south, 2)
    await until(lambda: len(north.calls) == 2)
    assert south.link is not None
    south.link.send(sync_pb2.Frame(calls=sync_pb2.CallBatch(cancel_call_ids=[2])))
    await until(lambda: len(north.cancelled_calls) == 2)
    assert north.cancelled_calls == [call.call_id for call in north.calls]


async def test_the_hub_calls_for_its_own_callers(site: Site) -> None:
    north, _ = await _pair(site)
    stub = task_service_pb2_grpc.TaskServiceStub(site.local())
    request = task_service_pb2.CallAgentRequest(spec=task_pb2.TaskSpec(skill="code.metrics"))
    call = asyncio.ensure_future(stub.CallAgent(request, timeout=10))
    await until(lambda: len(north.calls) == 1)
    _answer(north, north.calls[0].call_id, b"42")
    response = await call
    assert response.output.data == b"42"
    with pytest.raises(grpc.aio.AioRpcError):
        await stub.CallAgent(request, timeout=0.2)
    await until(lambda: len(north.cancelled_calls) == 1)


async def test_submissions_over_a_stream_come_back_as_outcomes(site: Site) -> None:
    north, _ = await _pair(site)
    stub = task_service_pb2_grpc.TaskServiceStub(site.local())
    stream = stub.SubmitTasks()
    spec = task_pb2.TaskSpec(skill="code.metrics")
    frame = task_service_pb2.SubmitTasksRequest(
        submissions=[
            task_service_pb2.Submission(correlation_id=1, spec=spec, want_outcome=True),
            task_service_pb2.Submission(correlation_id=2, spec=spec, call=True),
            task_service_pb2.Submission(correlation_id=3, spec=task_pb2.TaskSpec(skill="Bad Skill")),
        ]
    )
    await stream.write(frame)
    await stream.done_writing()
    await until(lambda: len(north.calls) == 1)
    _answer(north, north.calls[0].call_id, b"call")
    grant = (await north.granted(2))[1]
    await north.report(grant.task_id, grant.fence, task_pb2.TASK_STATE_COMPLETED, b"task")
    receipts, outcomes = [], {}
    async for response in stream:
        receipts += response.receipts
        outcomes.update({outcome.correlation_id: outcome for outcome in response.outcomes})
    assert [receipt.correlation_id for receipt in receipts] == [1]
    assert outcomes[1].output.data == b"task"
    assert outcomes[2].output.data == b"call"
    assert outcomes[3].problem.reason == "BAD_NAME"


def _read_along(edge: FakeEdge, call_id: int) -> None:
    call = sync_pb2.Call(call_id=call_id, spec=task_pb2.TaskSpec(skill="code.metrics"), piece_room_bytes=1000)
    assert edge.link is not None
    assert edge.link.send(sync_pb2.Frame(calls=sync_pb2.CallBatch(calls=[call])))


def _give(edge: FakeEdge, call_id: int) -> None:
    given = sync_pb2.CallPieces(call_id=call_id, pieces=[task_pb2.TaskPiece(index=1, data=b"1")])
    assert edge.link is not None
    assert edge.link.send(sync_pb2.Frame(calls=sync_pb2.CallBatch(pieces=[given])))


async def test_pieces_go_to_the_caller_and_allowances_to_the_node(site: Site) -> None:
    north, south = await _pair(site)
    _read_along(south, 7)
    await until(lambda: len(north.calls) == 1)
    (call,) = north.calls
    assert call.piece_room_bytes == 1000
    _give(south, call.call_id)  # from somebody who does not run it
    _give(north, call.call_id)
    await until(lambda: len(south.pieces) == 1)
    assert (south.pieces[0].call_id, south.pieces[0].pieces[0].data) == (7, b"1")
    assert south.link is not None
    allowance = sync_pb2.CallAllowance(call_id=7, room_bytes=65)
    south.link.send(sync_pb2.Frame(calls=sync_pb2.CallBatch(allowances=[allowance])))
    await until(lambda: len(north.allowances) == 1)
    assert (north.allowances[0].call_id, north.allowances[0].room_bytes) == (call.call_id, 65)


async def test_what_does_not_fit_on_the_link_ends_the_call_on_both_sides(
    site: Site, monkeypatch: pytest.MonkeyPatch
) -> None:
    north, south = await _pair(site)
    _read_along(south, 7)
    await until(lambda: len(north.calls) == 1)
    send = SessionDriver.send
    monkeypatch.setattr(SessionDriver, "send", lambda link, frame: not frame.calls.pieces and send(link, frame))
    batch = sync_pb2.CallBatch(pieces=[sync_pb2.CallPieces(call_id=north.calls[0].call_id)])
    assert north.link is not None
    send(cast("SessionDriver", north.link), sync_pb2.Frame(calls=batch))
    await until(lambda: len(south.results) == 1)
    assert (south.results[0].call_id, south.results[0].problem.reason) == (7, "LINK_FULL")
    await until(lambda: north.cancelled_calls == [north.calls[0].call_id])
