"""A hub as the child of another one: what crosses between the subtrees, and the circle that is refused."""

from __future__ import annotations

import shutil
from dataclasses import replace
from functools import partial
from pathlib import Path

import pytest
from click.testing import CliRunner

from edgenode.api.fleet.v1 import fleet_service_pb2, fleet_service_pb2_grpc
from edgenode.api.registry.v1 import registry_service_pb2, registry_service_pb2_grpc
from edgenode.api.sync.v1 import sync_pb2
from edgenode.api.task.v1 import task_pb2, task_service_pb2, task_service_pb2_grpc
from edgenode.link.wire.connection import LinkConnection
from hub.cli.main import main as edgehub
from hub.services.uplink import Uplink
from tests.integration.hub.edges import moves
from tests.integration.hub.fake_edge import FakeEdge, until, until_async
from tests.integration.hub.forest import Forest, Grown

COMPLETED = task_pb2.TASK_STATE_COMPLETED
PARKED = task_pb2.TASK_STATE_PARKED
ASSIGNED = task_pb2.TASK_STATE_ASSIGNED
CANCELED = task_pb2.TASK_STATE_CANCELED
WORKING = task_pb2.TASK_STATE_WORKING
FLEET = registry_service_pb2.SCOPE_FLEET


class Two:
    """A root with two hubs below, an edge on each: `north` under berlin, `south` under paris."""

    def __init__(self, root: Grown, berlin: Grown, paris: Grown, north: FakeEdge, south: FakeEdge) -> None:
        self.root, self.berlin, self.paris = root, berlin, paris
        self.north, self.south = north, south

    async def skill_in_paris(self) -> None:
        """South can do code.metrics, and the root knows it."""
        self.south.register("code", "code.metrics")
        await self.root.knows(1)


@pytest.fixture
async def two(forest: Forest) -> Two:
    root = forest.plant("root")
    await root.up()
    for name in ("berlin", "paris"):
        hub = forest.plant(name)
        await hub.below(root, name)
        await hub.up()
        await hub.linked()
    berlin, paris = forest.hubs["berlin"], forest.hubs["paris"]
    return Two(root, berlin, paris, await berlin.edge("north"), await paris.edge("south"))


async def test_messages_go_up_under_the_key_of_their_origin(two: Two) -> None:
    await two.north.publish("sensors.door", "sensors.lamp")
    await two.south.publish("sensors.roof")
    seen = {(message.origin_node, message.message.topic) for message in await two.root.messages(3)}
    assert seen == {("berlin/north", "sensors.door"), ("berlin/north", "sensors.lamp"), ("paris/south", "sensors.roof")}
    (mine,) = [m for m in await two.berlin.messages(2) if m.message.topic == "sensors.lamp"]
    (theirs,) = [m for m in await two.root.messages(3) if m.message.topic == "sensors.lamp"]
    assert (mine.origin_epoch, mine.origin_sequence) == (theirs.origin_epoch, theirs.origin_sequence)
    await two.root.balanced()
    line = (await two.berlin.ledger())["message.uplink", (await two.berlin.status()).parent_link.parent]
    assert (line.produced_count, line.delivered_count, line.balanced) == (2, 2, True)


async def test_the_root_sees_every_agent_and_who_is_a_hub(two: Two) -> None:
    await two.skill_in_paris()
    nodes = await fleet_service_pb2_grpc.FleetServiceStub(two.root.local()).ListNodes(
        fleet_service_pb2.ListNodesRequest()
    )
    assert {(node.node, node.kind, node.agent_count) for node in nodes.nodes} == {
        ("berlin", "hub", 0),
        ("paris", "hub", 1),
    }
    stub = registry_service_pb2_grpc.RegistryServiceStub(two.root.local())
    name = "nodes/paris/south/agents/code"
    answer = await stub.GetAgent(registry_service_pb2.GetAgentRequest(name=name))
    assert answer.agent.name == name
    two.south.registry.remove("nodes/south/agents/code", 2)
    two.south.dialing.registry_changed()
    await two.root.knows(0)


async def test_a_task_moves_between_subtrees(two: Two) -> None:
    await two.skill_in_paris()
    await two.north.offer("task-1", "code.metrics", scope=FLEET)
    (grant,) = await two.south.granted()
    assert (grant.task_id, grant.spec.skill) == ("task-1", "code.metrics")
    notice = task_pb2.Task(task_id="task-1", fence=grant.fence, state=WORKING, holder_node="south")
    notice.progress.fraction = 0.5
    assert two.south.link is not None
    two.south.link.send(sync_pb2.Frame(notices=sync_pb2.NoticeBatch(tasks=[notice])))
    await until(lambda: [task for task in two.north.notices if task.progress.fraction == 0.5])
    await two.south.report("task-1", grant.fence, COMPLETED, b"42")
    done = await two.north.told("task-1", COMPLETED)
    assert done.output.data == b"42"
    assert done.agent == "nodes/paris/south/agents/x"
    assert done.holder_node == "paris/south"
    for hub in (two.root, two.berlin, two.paris):
        await until_async(partial(_quiet, hub))
        await hub.balanced()


async def test_questions_answers_and_cancels_cross_the_tree(two: Two) -> None:
    await two.skill_in_paris()
    await two.north.offer("ask", "code.metrics", scope=FLEET)
    (grant,) = await two.south.granted()
    await two.south.report("ask", grant.fence, task_pb2.TASK_STATE_INPUT_REQUIRED)
    await two.north.told("ask", task_pb2.TASK_STATE_INPUT_REQUIRED)
    answer = sync_pb2.TaskAnswer(task_id="ask", key="why", answer=task_pb2.TaskOutput(data=b"because"))
    await two.north.send(sync_pb2.TaskEntry(answer=answer))
    await until(lambda: two.south.of_kind("answer"))
    assert two.south.of_kind("answer")[0].answer.answer.data == b"because"
    await two.north.send(sync_pb2.TaskEntry(cancel=sync_pb2.TaskCancel(task_id="ask", reason="enough")))
    await until(lambda: two.south.of_kind("cancel"))
    await two.south.report("ask", grant.fence, CANCELED)
    await two.north.told("ask", CANCELED)
    await until_async(lambda: _quiet(two.root))


async def test_a_task_nobody_in_the_tree_fits_waits_and_runs_where_it_came_from(two: Two) -> None:
    await two.north.offer("task-1", "code.metrics", scope=FLEET)
    await two.north.told("task-1", PARKED)
    assert (await _task(two.root, "task-1")).state == PARKED
    # Somebody comes in the subtree it is from: the root grants it back.
    east = await two.berlin.edge("east")
    east.register("code", "code.metrics")
    (grant,) = await east.granted()
    await east.report("task-1", grant.fence, COMPLETED, b"home")
    assert (await two.north.told("task-1", COMPLETED)).output.data == b"home"
    await until_async(lambda: _quiet(two.root))
    await two.berlin.balanced()


async def test_what_nobody_fits_any_more_is_given_back(two: Two) -> None:
    await two.skill_in_paris()
    await two.north.offer("task-1", "code.metrics", scope=FLEET)
    (grant,) = await two.south.granted()
    two.south.registry.remove("nodes/south/agents/code", 2)
    two.south.dialing.registry_changed()
    await two.paris.knows(0)
    problem = sync_pb2.TaskReturn(task_id="task-1", fence=grant.fence)
    await two.south.send(sync_pb2.TaskEntry(returned=problem))
    await until_async(lambda: _is(two.root, "task-1", PARKED))
    west = await two.berlin.edge("west")
    west.register("code", "code.metrics")
    (again,) = await west.granted()
    await west.report("task-1", again.fence, COMPLETED, b"moved")
    assert (await two.north.told("task-1", COMPLETED)).output.data == b"moved"
    line = (await two.paris.ledger())["tasks", ""]
    assert (line.dropped_counts["RETURNED"], line.balanced) == (1, True)


@pytest.fixture
def sessions(monkeypatch: pytest.MonkeyPatch) -> dict[str, tuple[Uplink, LinkConnection]]:
    """Those of hubs with their parents, by the child's name."""
    known: dict[str, tuple[Uplink, LinkConnection]] = {}
    began = Uplink.established

    def established(uplink: Uplink, link: LinkConnection) -> None:
        known[uplink.ports.child] = uplink, link
        began(uplink, link)

    monkeypatch.setattr(Uplink, "established", established)
    return known


async def test_calls_and_finds_reach_the_other_subtree(
    sessions: dict[str, tuple[Uplink, LinkConnection]], two: Two
) -> None:
    await two.skill_in_paris()
    assert two.north.link is not None
    question = registry_service_pb2.FindAgentsRequest(skill="code.metrics", scope=FLEET)
    two.north.link.send(sync_pb2.Frame(find=sync_pb2.FindExchange(find_id=1, request=question)))
    await until(lambda: two.north.found)
    names = [candidate.agent.name for candidate in two.north.found[0].response.candidates]
    assert names == ["nodes/paris/south/agents/code"]
    spec = task_pb2.TaskSpec(skill="code.metrics", agent=names[0], input=b"{}")
    calls = [sync_pb2.Call(call_id=number, spec=spec) for number in (7, 8)]
    two.north.link.send(sync_pb2.Frame(calls=sync_pb2.CallBatch(calls=calls)))
    await until(lambda: len(two.south.calls) == 2)
    call = two.south.calls[0]
    assert call.spec.agent == "nodes/south/agents/code"
    result = sync_pb2.CallResult(
        call_id=call.call_id, output=task_pb2.TaskOutput(data=b"ok"), agent="nodes/south/agents/code"
    )
    assert two.south.link is not None
    two.south.link.send(sync_pb2.Frame(calls=sync_pb2.CallBatch(results=[result])))
    await until(lambda: two.north.results)
    assert (two.north.results[0].call_id, two.north.results[0].agent) == (7, names[0])
    uplink, link = sessions["berlin"]
    moves(uplink, link, link.peer.boot_id)
    assert len(two.north.results) == 1
    moves(uplink, link, "another")  # a parent that was started anew meanwhile
    await until(lambda: len(two.north.results) == 2)
    assert (two.north.results[1].call_id, two.north.results[1].problem.reason) == (8, "AGENT_LOST")


async def test_what_the_hub_is_given_for_its_own_fleet_stays_there(two: Two) -> None:
    await two.skill_in_paris()
    stub = task_service_pb2_grpc.TaskServiceStub(two.berlin.local())
    spec = task_pb2.TaskSpec(skill="code.metrics", input=b"{}")
    kept = await stub.SubmitTask(task_service_pb2.SubmitTaskRequest(spec=spec))
    spec.scope = FLEET
    sent = await stub.SubmitTask(task_service_pb2.SubmitTaskRequest(spec=spec))
    (grant,) = await two.south.granted()
    assert grant.task_id == sent.task.task_id
    await two.south.report(grant.task_id, grant.fence, COMPLETED, b"1")
    await until_async(lambda: _is(two.berlin, sent.task.task_id, COMPLETED))
    await until_async(lambda: _is(two.berlin, kept.task.task_id, PARKED))


async def test_three_levels_and_a_circle_that_is_refused(forest: Forest) -> None:
    root, middle, leaf = (forest.plant(name) for name in ("root", "middle", "leaf"))
    await root.up()
    await middle.below(root, "middle")
    await middle.up()
    await middle.linked()
    await leaf.below(middle, "leaf")
    await leaf.up()
    await leaf.linked()
    await until_async(lambda: _depth(leaf, 3))
    edge = await leaf.edge("north")
    await edge.publish("deep")
    assert (await root.messages(1))[0].origin_node == "middle/leaf/north"
    # The root is told to join its own grandchild.
    await root.below(leaf, "root")
    await root.stop()
    await root.up()
    await root.refused("LOOP_IN_TREE")
    await middle.linked()
    await edge.publish("still")
    assert (await root.messages(2))[1].message.topic == "still"
    for hub in (root, middle, leaf):
        await hub.balanced()


async def _quiet(hub: Grown) -> bool:
    """No task is under way."""
    return bool((await hub.ledger())["tasks", ""].pending_count == 0)


async def _task(hub: Grown, task_id: str) -> task_pb2.Task:
    stub = task_service_pb2_grpc.TaskServiceStub(hub.local())
    answer: task_service_pb2.GetTaskResponse = await stub.GetTask(task_service_pb2.GetTaskRequest(task_id=task_id))
    return answer.task


async def _knows(hub: Grown, task_id: str, state: task_pb2.TaskState) -> bool:
    stub = task_service_pb2_grpc.TaskServiceStub(hub.local())
    answer = await stub.ListTasks(task_service_pb2.ListTasksRequest())
    return any(task.task_id == task_id and task.state == state for task in answer.tasks)


async def _is(hub: Grown, task_id: str, state: task_pb2.TaskState) -> bool:
    return bool((await _task(hub, task_id)).state == state)


async def _depth(hub: Grown, depth: int) -> bool:
    return len((await hub.status()).hub_path) == depth


async def test_a_parent_that_comes_back_from_a_backup_learns_what_its_child_has(two: Two, state_dir: Path) -> None:
    await two.skill_in_paris()
    await two.root.stop()
    old = state_dir / "old.db"
    shutil.copy(two.root.config.store_path, old)
    await two.root.up()
    await two.berlin.linked()
    await two.paris.linked()
    await two.north.offer("task-1", "code.metrics", scope=FLEET)
    (grant,) = await two.south.granted()
    await two.root.stop()
    _set_back(two.root, old)
    await two.root.up()
    await until_async(lambda: _knows(two.root, "task-1", ASSIGNED), 30)
    assert (await _task(two.root, "task-1")).origin_node == "berlin"
    await two.south.report("task-1", grant.fence, COMPLETED, b"42")
    assert (await two.north.told("task-1", COMPLETED)).output.data == b"42"
    assert len(two.south.of_kind("grant")) == 1


def _set_back(hub: Grown, old: Path) -> None:
    for path in hub.config.state_dir.glob("edgehub.db*"):
        path.unlink()
    shutil.copy(old, hub.config.store_path)


async def _again(hub: Grown, backup: Path | None = None) -> None:
    """Restart it, its logs keeping nothing that was acknowledged; `backup` becomes a copy of its store."""
    await hub.stop()
    if backup is not None:
        shutil.copy(hub.config.store_path, backup)
    hub.config = replace(hub.config, ack_retention_bytes=0)
    await hub.up()


async def _all_acknowledged(hub: Grown, hop: str, peer: str, count: int) -> None:
    """Wait until `peer` has so many entries of the hub's log for it, and all there are."""

    async def done() -> bool:
        line = (await hub.ledger()).get((hop, peer))
        return line is not None and line.delivered_count >= count and line.pending_count == 0

    await until_async(done, 20)


async def test_a_hub_below_that_comes_back_hears_an_end_that_its_parent_does_not_keep(
    two: Two, state_dir: Path
) -> None:
    await _again(two.root)
    await two.skill_in_paris()
    await two.north.offer("task-1", "code.metrics", scope=FLEET)
    (grant,) = await two.south.granted()
    await _again(two.berlin, state_dir / "old.db")
    await two.berlin.linked()
    await two.north.stop()
    await two.south.report("task-1", grant.fence, COMPLETED, b"42")
    await until_async(lambda: _is(two.berlin, "task-1", COMPLETED), 20)
    await _all_acknowledged(two.root, "task.downlink", "berlin", 1)
    await two.berlin.stop()
    _set_back(two.berlin, state_dir / "old.db")
    await two.berlin.up()
    await two.north.start()
    assert (await two.north.told("task-1", COMPLETED)).output.data == b"42"


async def test_a_parent_that_comes_back_is_offered_again_what_a_hub_below_does_not_keep(
    two: Two, state_dir: Path
) -> None:
    await two.north.offer("task-0", "code.metrics", scope=FLEET)
    await until_async(lambda: _knows(two.root, "task-0", PARKED), 20)
    await _again(two.root, state_dir / "old.db")
    await _again(two.berlin)
    await two.berlin.linked()
    await two.north.offer("task-1", "code.metrics", scope=FLEET)
    await until_async(lambda: _knows(two.root, "task-1", PARKED), 20)
    await _all_acknowledged(two.berlin, "task.uplink", two.root.config.listen, 2)
    await two.root.stop()
    _set_back(two.root, state_dir / "old.db")
    await two.root.up()
    await until_async(lambda: _knows(two.root, "task-1", PARKED), 10)


async def test_a_hub_that_leaves_keeps_nothing_for_its_parent(two: Two) -> None:
    await two.north.offer("task-0", "code.metrics", scope=FLEET)
    await two.north.told("task-0", PARKED)
    await two.root.stop()
    await two.north.publish("sensors.door")
    await two.berlin.messages(1)
    await two.berlin.stop()
    left = CliRunner().invoke(edgehub, ["leave", "--state", str(two.berlin.config.state_dir)])
    assert left.exit_code == 0, left.output
    await two.berlin.up()
    status = await two.berlin.status()
    assert (status.parent_link.parent, len(status.hub_path)) == ("", 1)
    assert all("127.0.0.1" not in peer for _, peer in await two.berlin.ledger())
    two.north.register("code", "code.metrics")
    assert (await two.north.granted())[0].task_id == "task-0"
    await two.berlin.balanced()
