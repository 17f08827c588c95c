"""`VerifyFleetLedger`: damage of the hub's tables is found and named, and so is an edge that says otherwise."""

from __future__ import annotations

import sqlite3
from typing import Any

import pytest

from edgenode.api.admin.v1 import admin_pb2
from edgenode.api.fleet.v1 import fleet_service_pb2 as pb
from edgenode.api.fleet.v1 import fleet_service_pb2_grpc
from edgenode.api.sync.v1 import sync_pb2
from edgenode.api.task.v1 import task_pb2
from edgenode.link.errors import EdgenodeError
from edgenode.link.wire.connection import LinkConnection
from hub.services.verify import verify_stopped
from tests.integration.hub.fake_edge import FakeEdge, until_async
from tests.integration.hub.site import Site


async def verify(site: Site, *, everybody: bool = False) -> pb.VerifyFleetLedgerResponse:
    stub = fleet_service_pb2_grpc.FleetServiceStub(site.local())
    return await stub.VerifyFleetLedger(pb.VerifyFleetLedgerRequest(all=everybody))  # type: ignore[no-any-return]


def named(answer: pb.VerifyFleetLedgerResponse) -> list[tuple[str, str, str, int, int]]:
    return [
        (found.node or found.peer, found.hop, found.reason, found.first_sequence, found.last_sequence)
        for found in answer.findings
    ]


async def busy(site: Site) -> FakeEdge:
    """Five messages, a task that ended and one that waits, from north."""
    north = await site.edge("north")
    north.register("code", "code.metrics")
    await north.publish(*["device.cpu"] * 5)
    await north.offer("task-1", "code.metrics")
    await north.offer("task-2", "nobody.has")
    (grant,) = await north.granted()
    await north.report(grant.task_id, grant.fence, task_pb2.TASK_STATE_COMPLETED, b"{}")

    async def settled() -> bool:
        lines = {(line.hop, line.peer): line for line in (await verify(site)).lines}
        return (
            lines["tasks", ""].delivered_count == 1
            and lines["message.log", ""].pending_count == 5
            and not lines["task.downlink", "north"].pending_count
        )

    await until_async(settled)
    return north


@pytest.mark.parametrize(
    ("damage", "found"),
    [
        ("DELETE FROM segment WHERE position >> 44 = (SELECT log_id FROM log WHERE name = 'messages')",
         ("", "messages", "HOLE", 1, 5)),
        ("UPDATE inbox_cursor SET applied_count = 3 WHERE lane = 3", ("north", "message.uplink", "UNBALANCED", 4, 5)),
        ("UPDATE inbox_cursor SET sequence = 9 WHERE lane = 3", ("north", "message cursor", "WRONG_COUNT", 6, 9)),
        ("UPDATE counter SET value = 7 WHERE name = 'message.stored'", ("", "message.log", "UNBALANCED", 0, 0)),
        ("UPDATE counter SET value = 3 WHERE name = 'task.accepted'", ("", "tasks", "UNBALANCED", 0, 0)),
        ("UPDATE counter SET value = 5 WHERE name = 'task.state'", ("", "tasks", "WRONG_COUNT", 0, 0)),
        ("DELETE FROM task_spec WHERE task_number = 1", ("", "tasks", "STRAY", 1, 1)),
        ("UPDATE task_spec SET spec = substr(spec, 2) WHERE task_number = 2", ("", "tasks", "DAMAGED", 2, 2)),
        ("UPDATE task SET outcome = substr(outcome, 2) WHERE task_number = 1", ("", "tasks", "DAMAGED", 1, 1)),
        ("UPDATE consumer SET acked_sequence = 90 WHERE name = 'north'", ("north", "down/north/task", "CURSOR_AHEAD", 0, 90)),
        ("INSERT INTO counter VALUES ('dead_letter', 'ADDED', 2)", ("", "deadletters", "UNBALANCED", 0, 0)),
    ],
)  # fmt: skip
async def test_each_damage_is_found_and_named(site: Site, damage: str, found: tuple[str, str, str, int, int]) -> None:
    await site.start()
    await busy(site)
    assert named(await verify(site)) == []
    await site.stop()
    with pytest.raises(EdgenodeError) as missing:
        await verify_stopped(site.config.state_dir / "other.db")
    assert missing.value.reason == "NO_STORE"
    assert named(await verify_stopped(site.config.store_path)) == []
    connection = sqlite3.connect(site.config.store_path, isolation_level=None)
    assert connection.execute(damage).rowcount >= 1
    connection.close()
    seen = named(await verify_stopped(site.config.store_path))
    assert found[:3] in [item[:3] for item in seen], seen
    assert any(item[:3] == found[:3] and item[4] == found[4] for item in seen), seen


class Honest(FakeEdge):
    """An edge that says how its ledger stands; `said` is what it answers."""

    said: Any = None

    async def on_admin(self, link: LinkConnection, message: sync_pb2.AdminExchange) -> None:
        answer = sync_pb2.AdminExchange(exchange_id=message.exchange_id)
        answer.ledger_verified.CopyFrom(self.said)
        link.send(sync_pb2.Frame(admin=answer))


async def test_each_edge_is_asked_and_what_both_sides_say_is_compared(site: Site) -> None:
    await site.start()
    made = await Honest.make("north", site.authority, lambda: site.hub.sync_port if site.hub else 1)
    site.edges.append(made)
    await made.start()
    assert isinstance(made, Honest)
    await made.publish(*["device.cpu"] * 5)

    async def arrived() -> bool:
        return any(line.hop == "message.log" and line.pending_count == 5 for line in (await verify(site)).lines)

    await until_async(arrived)
    (head,) = [head for head in await made.outbox.heads() if head.lane.name == "MESSAGE"]

    def says(acked: int, rejected: int = 0) -> Any:
        answer = sync_pb2.AdminExchange().ledger_verified
        answer.lines.add(hop="message.uplink", produced_count=9, dead_lettered_count=rejected, balanced=True)
        answer.lanes.add(direction="up", lane="message", epoch=head.epoch, last_sequence=9, acked_sequence=acked)
        return answer

    made.said = says(5)
    answer = await verify(site, everybody=True)
    assert ([(node.node, node.compared) for node in answer.nodes], named(answer)) == ([("north", True)], [])
    made.said = says(3)  # two acknowledgements are on their way
    assert named(await verify(site, everybody=True)) == []
    made.said = says(8)
    assert named(await verify(site, everybody=True)) == [("north", "message.uplink", "NOT_ARRIVED", 6, 8)]
    made.said = says(5, rejected=1)
    assert named(await verify(site, everybody=True)) == [("north", "message.uplink", "COUNTS_DIFFER", 0, 5)]
    made.said = says(5)
    made.said.findings.add(hop="messages", reason="HOLE", first_sequence=2, last_sequence=2)
    assert named(await verify(site, everybody=True)) == [("north", "messages", "HOLE", 2, 2)]

    await made.stop()
    answer = await verify(site, everybody=True)
    (north,) = answer.nodes
    assert (north.compared, north.problem.reason, named(answer)) == (False, "NODE_OFFLINE", [])
    assert north.last_contact_time.seconds > 0
    assert isinstance(answer.lines[0], admin_pb2.LedgerLine)
