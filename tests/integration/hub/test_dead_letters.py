"""Dead letters at the hub: its own, and those of its edges over the link."""

from __future__ import annotations

from collections.abc import Awaitable
from typing import Any

import grpc
import pytest

from edgenode.api.admin.v1 import admin_pb2, admin_service_pb2
from edgenode.api.fleet.v1 import fleet_service_pb2 as pb
from edgenode.api.fleet.v1 import fleet_service_pb2_grpc
from edgenode.api.sync.v1 import sync_pb2
from edgenode.api.task.v1 import task_pb2, task_service_pb2, task_service_pb2_grpc
from edgenode.link.errors import EdgenodeError
from edgenode.link.wire.connection import LinkConnection
from edgenode.link.wire.status import from_rpc_error
from tests.integration.hub.fake_edge import FakeEdge, until, until_async
from tests.integration.hub.site import Site


def fleet(site: Site) -> Any:
    return fleet_service_pb2_grpc.FleetServiceStub(site.local())


async def letters(site: Site, node: str = "") -> list[admin_pb2.DeadLetter]:
    return list((await fleet(site).ListFleetDeadLetters(pb.ListFleetDeadLettersRequest(node=node))).dead_letters)


async def refused(call: Awaitable[Any]) -> EdgenodeError:
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await call
    return from_rpc_error(caught.value)


async def line(site: Site, hop: str) -> admin_pb2.LedgerLine:
    answer = await fleet(site).GetFleetLedger(pb.GetFleetLedgerRequest())
    (found,) = [found for found in answer.lines if found.hop == hop]
    assert found.balanced
    return found  # type: ignore[no-any-return]


async def verified(site: Site) -> list[str]:
    answer = await fleet(site).VerifyFleetLedger(pb.VerifyFleetLedgerRequest())
    return [f"{found.hop} {found.reason} {found.detail}" for found in answer.findings]


async def submitted(site: Site) -> str:
    stub = task_service_pb2_grpc.TaskServiceStub(site.local())
    spec = task_pb2.TaskSpec(skill="code.metrics", input=b'{"path":"x"}')
    return (await stub.SubmitTask(task_service_pb2.SubmitTaskRequest(spec=spec))).task.task_id  # type: ignore[no-any-return]


async def test_a_task_that_is_given_up_is_kept_shown_replayed_and_dropped(site: Site) -> None:
    await site.start()
    north = await site.edge("north")
    north.register("code", "code.metrics")
    task_id = await submitted(site)
    (grant,) = await north.granted()
    await north.report(grant.task_id, grant.fence, task_pb2.TASK_STATE_DEAD_LETTERED)
    await until_async(lambda: letters(site))
    (letter,) = await letters(site)
    assert (letter.kind, letter.task_id, letter.subject, letter.node) == ("task", task_id, "code.metrics", "north")
    shown = (await fleet(site).GetFleetDeadLetter(pb.GetFleetDeadLetterRequest(dead_letter_id=1))).letter
    assert shown.content == b'{"path":"x"}'
    assert (await line(site, "tasks")).dead_lettered_count == 1
    assert await verified(site) == []

    replay = pb.ReplayFleetDeadLettersRequest(
        letters=admin_service_pb2.ReplayDeadLettersRequest(request_id="r", dead_letter_ids=[1])
    )
    (again,) = (await fleet(site).ReplayFleetDeadLetters(replay)).replayed.task_ids
    assert again != task_id
    assert await letters(site) == []
    grants = await north.granted(2)
    await north.report(again, grants[1].fence, task_pb2.TASK_STATE_DEAD_LETTERED)
    await until_async(lambda: letters(site))
    drop = pb.DropFleetDeadLettersRequest(letters=admin_service_pb2.DropDeadLettersRequest(all=True, reason="OBSOLETE"))
    assert (await fleet(site).DropFleetDeadLetters(drop)).dropped_count == 1
    found = await line(site, "deadletters")
    assert (found.produced_count, found.delivered_count, dict(found.dropped_counts)) == (2, 1, {"OBSOLETE": 1})
    assert await verified(site) == []


async def test_what_a_node_would_not_take_is_kept_and_sent_again(site: Site) -> None:
    """The grant goes elsewhere by itself; the cancellation behind it waits for people."""
    await site.start()
    north = await site.edge("north")
    north.register("code", "code.metrics")
    task_id = await submitted(site)
    await north.granted()
    north.refusing = True
    stub = task_service_pb2_grpc.TaskServiceStub(site.local())
    await stub.CancelTask(task_service_pb2.CancelTaskRequest(task_id=task_id, reason="no more"))
    await until_async(lambda: letters(site))
    (letter,) = await letters(site)
    assert (letter.kind, letter.lane, letter.node, letter.subject) == ("entry", "task", "north", "cancel")
    assert (letter.task_id, letter.problem.reason) == (task_id, "NOT_LIKED")
    assert await verified(site) == []
    north.refusing = False
    replay = pb.ReplayFleetDeadLettersRequest(letters=admin_service_pb2.ReplayDeadLettersRequest(all=True))
    assert (await fleet(site).ReplayFleetDeadLetters(replay)).replayed.entry_count == 1
    await until(lambda: north.of_kind("cancel"))
    assert north.of_kind("cancel")[0].cancel.reason == "no more"
    assert await letters(site) == []
    assert await verified(site) == []


async def test_a_grant_that_is_refused_is_no_letter_for_long(site: Site) -> None:
    await site.start()
    north = await site.edge("north")
    north.refusing = True
    north.register("code", "code.metrics")
    await submitted(site)

    async def settled() -> bool:
        found = await line(site, "deadletters")
        return found.delivered_count > 0 and not found.pending_count

    await until_async(settled)


class Answering(FakeEdge):
    """An edge with two dead letters."""

    silent = False

    async def on_admin(self, link: LinkConnection, message: sync_pb2.AdminExchange) -> None:
        self.asked = message
        if self.silent:
            return
        answer = sync_pb2.AdminExchange(exchange_id=message.exchange_id)
        match message.WhichOneof("request"):
            case "list_dead_letters":
                answer.dead_letters_listed.dead_letters.add(dead_letter_id=2, subject="device.cpu")
                answer.dead_letters_listed.dead_letters.add(dead_letter_id=1, subject="device.cpu")
            case "drop_dead_letters":
                answer.dead_letters_dropped.dropped_count = len(message.drop_dead_letters.dead_letter_ids)
            case "replay_dead_letters":
                answer.dead_letters_replayed.task_ids.append("T")
            case _:
                answer.problem.reason = "UNKNOWN_DEAD_LETTER"
                answer.problem.code = 5
        link.send(sync_pb2.Frame(admin=answer))


async def answering(site: Site) -> Answering:
    edge = await Answering.make("north", site.authority, lambda: site.hub.sync_port if site.hub else 1)
    assert isinstance(edge, Answering)
    site.edges.append(edge)
    await edge.start()
    return edge


async def test_an_edges_letters_are_listed_replayed_and_dropped_from_the_hub(site: Site) -> None:
    await site.start()
    north = await answering(site)
    assert [letter.dead_letter_id for letter in await letters(site, "north")] == [2, 1]
    drop = pb.DropFleetDeadLettersRequest(
        node="north", letters=admin_service_pb2.DropDeadLettersRequest(dead_letter_ids=[1, 2], reason="OBSOLETE")
    )
    assert (await fleet(site).DropFleetDeadLetters(drop)).dropped_count == 2
    assert north.asked.drop_dead_letters.reason == "OBSOLETE"
    replay = pb.ReplayFleetDeadLettersRequest(
        node="north", letters=admin_service_pb2.ReplayDeadLettersRequest(all=True)
    )
    assert list((await fleet(site).ReplayFleetDeadLetters(replay)).replayed.task_ids) == ["T"]
    show = pb.GetFleetDeadLetterRequest(node="north", dead_letter_id=9)
    assert (await refused(fleet(site).GetFleetDeadLetter(show))).reason == "UNKNOWN_DEAD_LETTER"


async def test_an_edge_that_cannot_be_asked_is_told_of(site: Site) -> None:
    await site.start()
    unknown = await refused(fleet(site).ListFleetDeadLetters(pb.ListFleetDeadLettersRequest(node="nobody")))
    assert unknown.reason == "UNKNOWN_NODE"
    north = await answering(site)
    north.silent = True
    asking = fleet(site).ListFleetDeadLetters(pb.ListFleetDeadLettersRequest(node="north"))
    await until(lambda: hasattr(north, "asked"))
    await north.stop()
    lost = await refused(asking)
    assert (lost.reason, lost.problem.code.name) == ("LINK_LOST", "UNAVAILABLE")
    offline = await refused(fleet(site).ListFleetDeadLetters(pb.ListFleetDeadLettersRequest(node="north")))
    assert (offline.reason, offline.problem.code.name) == ("NODE_OFFLINE", "UNAVAILABLE")
