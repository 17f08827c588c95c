from __future__ import annotations

import shutil
import time

import grpc
import pytest

from edgenode.api.fleet.v1 import fleet_service_pb2, fleet_service_pb2_grpc
from edgenode.api.receipt.v1 import receipt_pb2
from edgenode.api.sync.v1 import sync_pb2
from edgenode.api.task.v1 import task_pb2, task_service_pb2, task_service_pb2_grpc
from edgenode.link.wire.status import from_rpc_error
from edgenode.link.wire.values import duration_to_pb, timestamp_to_pb
from tests.integration.hub.fake_edge import until, until_async
from tests.integration.hub.site import Site

COMPLETED = task_pb2.TASK_STATE_COMPLETED
WORKING = task_pb2.TASK_STATE_WORKING


async def test_a_task_crosses_the_hub_and_its_result_comes_back(site: Site) -> None:
    await site.start()
    north, south = await site.edge("north"), await site.edge("south")
    north.register("code", "code.metrics")
    await south.offer("task-1", "code.metrics")
    (grant,) = await north.granted()
    assert (grant.task_id, grant.origin_node, grant.fence, grant.spec.skill) == ("task-1", "south", 1, "code.metrics")
    await north.report("task-1", 1, WORKING)
    await north.report("task-1", 1, COMPLETED, b"42")
    await south.told("task-1", WORKING)
    assert (await south.told("task-1", COMPLETED)).output.data == b"42"


async def test_many_tasks_spread_over_the_edges_that_fit(site: Site) -> None:
    await site.start()
    north, east, south = await site.edge("north"), await site.edge("east"), await site.edge("south")
    north.register("code", "code.metrics")
    east.register("code", "code.metrics")
    await until_async(lambda: _agent_count(site, 2))
    count = 1000
    offers = [
        sync_pb2.TaskEntry(
            offer=sync_pb2.TaskOffer(task_id=f"task-{index}", spec=task_pb2.TaskSpec(skill="code.metrics"))
        )
        for index in range(count)
    ]
    await south.send(*offers)
    # Each is given its window and no more; the rest waits at the hub.
    await until(lambda: len(north.of_kind("grant")) == 256 and len(east.of_kind("grant")) == 256)
    answered: dict[str, int] = {}

    async def answer() -> bool:
        for edge in (north, east):
            fresh = [entry.grant for entry in edge.of_kind("grant") if entry.grant.task_id not in answered]
            answered.update((grant.task_id, grant.fence) for grant in fresh)
            if fresh:
                await edge.send(*(_completed(grant) for grant in fresh))
        return len(answered) == count

    await until_async(answer)
    await until(lambda: len([r for r in south.of_kind("report") if r.report.task.state == COMPLETED]) == count)
    await until_async(lambda: _balanced(site))


async def test_a_task_nobody_fits_is_parked_and_runs_once_somebody_does(site: Site) -> None:
    await site.start()
    south = await site.edge("south")
    await south.offer("task-1", "code.metrics")
    (parked,) = await south.reported()
    assert parked.state == task_pb2.TASK_STATE_PARKED
    assert "NO_AGENT" in parked.state_reason
    north = await site.edge("north")
    north.register("code", "code.metrics")
    assert (await north.granted())[0].task_id == "task-1"


async def test_a_report_with_an_outdated_fence_is_discarded(site: Site) -> None:
    await site.start()
    north, south = await site.edge("north"), await site.edge("south")
    north.register("code", "code.metrics")
    await south.offer("task-1", "code.metrics")
    await north.granted()
    east = await site.edge("east")
    east.register("code", "code.metrics")
    await until_async(lambda: _agent_count(site, 2))
    await north.stop()
    (grant,) = await east.granted()
    assert grant.fence == 2
    # North did the work meanwhile and comes back with it.
    await north.report("task-1", 1, COMPLETED, b"late")
    await north.start()
    await until(lambda: bool(north.of_kind("revoke")))
    await east.report("task-1", 2, COMPLETED, b"first")
    assert (await south.told("task-1", COMPLETED)).output.data == b"first"
    task = await _get(site, "task-1")
    assert task.output.data == b"first"
    await until_async(lambda: _balanced(site))


async def test_cancel_follows_the_task(site: Site) -> None:
    await site.start()
    north, south = await site.edge("north"), await site.edge("south")
    north.register("code", "code.metrics")
    await south.offer("task-1", "code.metrics")
    await north.granted()
    await south.send(sync_pb2.TaskEntry(cancel=sync_pb2.TaskCancel(task_id="task-1", reason="changed my mind")))
    await until(lambda: bool(north.of_kind("cancel")))
    await north.report("task-1", 1, task_pb2.TASK_STATE_CANCELED)
    await south.told("task-1", task_pb2.TASK_STATE_CANCELED)


async def test_a_grant_that_an_edge_refuses_goes_to_another(site: Site) -> None:
    await site.start()
    north, south = await site.edge("north"), await site.edge("south")
    north.refusing = True
    north.register("code", "code.metrics")
    await until_async(lambda: _agent_count(site, 1))
    await south.offer("task-1", "code.metrics")
    await until_async(lambda: _refused(site, "north"))
    east = await site.edge("east")
    east.register("code", "code.metrics")
    (grant,) = await east.granted()
    assert grant.fence >= 2
    await until_async(lambda: _balanced(site))


async def test_an_offer_the_hub_cannot_take_ends_at_its_origin_whatever_becomes_of_the_acknowledgement(
    site: Site,
) -> None:
    await site.start()
    south = await site.edge("south")
    await south.offer("too-urgent", "code.metrics", priority=99)
    await south.offer("too-large", "code.metrics", context_id="x" * 1000)
    for task_id, reason in (("too-urgent", "OUT_OF_RANGE"), ("too-large", "TOO_LONG")):
        assert (await south.told(task_id, task_pb2.TASK_STATE_FAILED)).problem.reason == reason
    stub = fleet_service_pb2_grpc.FleetServiceStub(site.local())
    response = await stub.GetFleetLedger(fleet_service_pb2.GetFleetLedgerRequest())
    assert not any(line.dropped_counts.get("REJECTED") for line in response.lines)
    assert all(line.balanced for line in response.lines)


async def test_a_report_that_makes_no_sense_ends_the_task(site: Site) -> None:
    await site.start()
    north, south = await site.edge("north"), await site.edge("south")
    north.register("code", "code.metrics")
    await south.offer("task-1", "code.metrics")
    (grant,) = await north.granted()
    await north.report("task-1", grant.fence, 99)  # type: ignore[arg-type]
    assert (await south.told("task-1", task_pb2.TASK_STATE_FAILED)).problem.reason == "BAD_ENTRY"


async def test_a_deadline_ends_a_task_wherever_it_is(site: Site) -> None:
    await site.start()
    north, south = await site.edge("north"), await site.edge("south")
    north.register("code", "code.metrics")
    soon = timestamp_to_pb(time.time() + 0.5)
    await south.offer("held", "code.metrics", deadline_time=soon)
    await south.offer("parked", "no.such.skill", deadline_time=soon)
    await until(
        lambda: (
            {
                entry.report.task.task_id
                for entry in south.of_kind("report")
                if entry.report.task.state == task_pb2.TASK_STATE_EXPIRED
            }
            == {"held", "parked"}
        )
    )
    await until(lambda: bool(north.of_kind("revoke")))


async def test_a_hub_killed_and_started_again_goes_on_from_its_rows(site: Site) -> None:
    await site.start()
    north, south = await site.edge("north"), await site.edge("south")
    north.register("code", "code.metrics")
    await south.offer("task-1", "code.metrics")
    await south.publish("device.cpu", "device.cpu")
    await north.granted()
    await site.stop()
    await north.report("task-1", 1, COMPLETED, b"42")
    await south.publish("device.cpu")
    await site.start()
    await until(lambda: any(r.report.task.state == COMPLETED for r in south.of_kind("report")))
    assert len(north.of_kind("grant")) == 1
    await until_async(lambda: _messages(site, 3))
    await until_async(lambda: _balanced(site))
    response = await fleet_service_pb2_grpc.FleetServiceStub(site.local()).ListNodes(
        fleet_service_pb2.ListNodesRequest()
    )
    assert [(node.node, node.state) for node in response.nodes] == [("north", "connected"), ("south", "connected")]
    assert [node.agent_count for node in response.nodes] == [1, 0]


async def test_a_hub_that_dies_without_a_word_loses_nothing_it_acknowledged(site: Site) -> None:
    await site.start()
    north, south = await site.edge("north"), await site.edge("south")
    north.register("code", "code.metrics")
    await south.offer("granted", "code.metrics")
    await south.offer("parked", "no.such.skill")
    await south.publish("device.cpu", "device.cpu")
    await north.granted()
    await until_async(lambda: _messages(site, 2))
    await south.told("parked", task_pb2.TASK_STATE_PARKED)
    # What a power cut leaves: the files as they are, nothing closed, the log not yet written back.
    image = site.config.state_dir.with_name(site.config.state_dir.name + "-image")
    shutil.copytree(site.config.state_dir, image, ignore=shutil.ignore_patterns("*.sock"))
    try:
        await site.stop()
        await north.report("granted", 1, COMPLETED, b"42")
        await south.publish("device.cpu")
        await site.start(state_dir=image)
        assert (await south.told("granted", COMPLETED)).output.data == b"42"
        await until_async(lambda: _messages(site, 3))
        assert (await _get(site, "parked")).state == task_pb2.TASK_STATE_PARKED
        assert [grant.task_id for grant in await north.granted()] == ["granted"]
        await until_async(lambda: _balanced(site))
    finally:
        await site.stop()
        shutil.rmtree(image)


async def test_the_hub_takes_tasks_of_its_own_callers(site: Site) -> None:
    await site.start()
    north = await site.edge("north")
    north.register("code", "code.metrics")
    stub = task_service_pb2_grpc.TaskServiceStub(site.local())
    spec = task_pb2.TaskSpec(skill="code.metrics", idempotency_key="once")
    request = task_service_pb2.SubmitTaskRequest(request_id="r-1", spec=spec)
    first = await stub.SubmitTask(request)
    assert first.receipt.level == receipt_pb2.RECEIPT_LEVEL_DURABLE_HUB
    again = await stub.SubmitTask(task_service_pb2.SubmitTaskRequest(request_id="r-2", spec=spec))
    assert again.task.task_id == first.task.task_id
    spec.input = b"other"
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await stub.SubmitTask(task_service_pb2.SubmitTaskRequest(request_id="r-3", spec=spec))
    assert from_rpc_error(caught.value).reason == "IDEMPOTENCY_CONFLICT"
    (grant,) = await north.granted()
    await north.report(grant.task_id, grant.fence, COMPLETED, b"42")
    request.wait_level = receipt_pb2.RECEIPT_LEVEL_DONE
    request.wait_duration.CopyFrom(duration_to_pb(10))
    done = await stub.SubmitTask(request)
    assert done.task.output.data == b"42"
    assert done.receipt.level == receipt_pb2.RECEIPT_LEVEL_DONE
    watched = [response async for response in stub.WatchTask(task_service_pb2.WatchTaskRequest(task_id=grant.task_id))]
    assert watched[-1].task.state == COMPLETED
    replayed = await stub.ReplayTask(task_service_pb2.ReplayTaskRequest(task_id=grant.task_id))
    assert replayed.task.replay_of_task_id == grant.task_id
    listed = await stub.ListTasks(task_service_pb2.ListTasksRequest(page_size=1))
    assert [task.task_id for task in listed.tasks] == [replayed.task.task_id]
    rest = await stub.ListTasks(task_service_pb2.ListTasksRequest(page_size=5, page_token=listed.next_page_token))
    assert [task.task_id for task in rest.tasks] == [grant.task_id]


async def test_progress_reaches_the_hubs_own_callers_and_the_origin(site: Site) -> None:
    await site.start()
    north, south = await site.edge("north"), await site.edge("south")
    north.register("code", "code.metrics")
    await south.offer("far", "code.metrics")
    (far,) = await north.granted()
    stub = task_service_pb2_grpc.TaskServiceStub(site.local())
    submitted = await stub.SubmitTask(task_service_pb2.SubmitTaskRequest(spec=task_pb2.TaskSpec(skill="code.metrics")))
    grant = (await north.granted(2))[1]
    watch = stub.WatchTask(task_service_pb2.WatchTaskRequest(task_id=submitted.task.task_id))
    assert (await watch.read()).task.task_id == grant.task_id
    agent = "nodes/north/agents/code"
    facts = [(far.task_id, far.fence), (grant.task_id, grant.fence), (grant.task_id, grant.fence + 1)]
    notices = [
        task_pb2.Task(
            task_id=task_id,
            fence=fence,
            state=WORKING,
            agent=agent,
            progress=task_pb2.TaskProgress(message=f"at {fence}"),
        )
        for task_id, fence in facts
    ]
    assert north.link is not None
    north.link.send(sync_pb2.Frame(notices=sync_pb2.NoticeBatch(tasks=notices)))
    (event,) = (await watch.read()).events
    assert (event.state, event.agent, event.progress.message) == (WORKING, agent, "at 1")
    await until(lambda: len(south.notices) == 1)
    assert south.notices[0].task_id == "far"
    await north.report(grant.task_id, grant.fence, COMPLETED, b"42")
    last = await watch.read()
    assert last.task.output.data == b"42"
    assert not last.gap
    assert await watch.read() is grpc.aio.EOF


def _completed(grant: sync_pb2.TaskGrant) -> sync_pb2.TaskEntry:
    task = task_pb2.Task(task_id=grant.task_id, fence=grant.fence, state=COMPLETED)
    return sync_pb2.TaskEntry(report=sync_pb2.TaskReport(task=task))


async def _get(site: Site, task_id: str) -> task_pb2.Task:
    stub = task_service_pb2_grpc.TaskServiceStub(site.local())
    response = await stub.GetTask(task_service_pb2.GetTaskRequest(task_id=task_id))
    task: task_pb2.Task = response.task
    return task


async def _agent_count(site: Site, count: int) -> bool:
    stub = fleet_service_pb2_grpc.FleetServiceStub(site.local())
    response = await stub.ListNodes(fleet_service_pb2.ListNodesRequest())
    return bool(sum(node.agent_count for node in response.nodes) == count)


async def _refused(site: Site, node: str) -> bool:
    stub = fleet_service_pb2_grpc.FleetServiceStub(site.local())
    response = await stub.GetFleetLedger(fleet_service_pb2.GetFleetLedgerRequest(node=node))
    return any(line.dead_lettered_count for line in response.lines if line.hop == "task.downlink")


async def _messages(site: Site, count: int) -> bool:
    stub = fleet_service_pb2_grpc.FleetServiceStub(site.local())
    response = await stub.GetHubStatus(fleet_service_pb2.GetHubStatusRequest())
    return int(response.message_sequence) == count


async def _balanced(site: Site) -> bool:
    stub = fleet_service_pb2_grpc.FleetServiceStub(site.local())
    response = await stub.GetFleetLedger(fleet_service_pb2.GetFleetLedgerRequest())
    return bool(response.lines) and all(line.balanced for line in response.lines)
