"""Which processes of one identity are let in, and when they are found to be copies."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import grpc
import pytest

from edgenode.api.fleet.v1 import fleet_service_pb2 as pb
from edgenode.api.fleet.v1 import fleet_service_pb2_grpc
from edgenode.api.problem.v1 import problem_pb2
from edgenode.api.sync.v1 import sync_pb2, sync_service_pb2, sync_service_pb2_grpc
from edgenode.link.wire.status import from_rpc_error
from hub.services.clones import CloneWatch
from hub.store import fleet as fleet_store
from tests.integration.hub.fake_edge import FakeEdge, until, until_async
from tests.integration.hub.site import Site

pytestmark = pytest.mark.usefixtures("quick")


@pytest.fixture
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("hub.services.clones.CHALLENGE_RETRY_SECONDS", 0.01)
    monkeypatch.setattr("hub.ca.lifecycle.QUARANTINE_RETRY_SECONDS", 0.05)


def stub(site: Site) -> fleet_service_pb2_grpc.FleetServiceStub:
    return fleet_service_pb2_grpc.FleetServiceStub(site.local())


async def up(edge: FakeEdge) -> None:
    await until(lambda: edge.link is not None)


async def state(site: Site) -> str:
    answer: pb.GetNodeResponse = await stub(site).GetNode(pb.GetNodeRequest(node="north"))
    assert answer.node.HasField("quarantine_time") is (answer.node.state == "quarantined")
    return str(answer.node.state)


def reason(edge: FakeEdge) -> str:
    problem = edge.dialing.status().last_problem
    return "" if problem is None else problem.reason


async def refused(edge: FakeEdge, why: str) -> None:
    await until(lambda: reason(edge) == why)


async def another(site: Site, edge: FakeEdge, boot_id: str) -> FakeEdge:
    """Another process with the identity of `edge`."""
    made = await FakeEdge.make("north", site.authority, lambda: site.hub.sync_port if site.hub else 1)
    made._credentials = edge._credentials
    made.dialing._boot_id = boot_id
    site.edges.append(made)
    return made


async def test_of_two_processes_that_live_both_are_kept_out_until_one_is_released(site: Site) -> None:
    await site.start()
    original = await site.edge("north")
    copy = await another(site, original, "copy")
    await copy.start()
    await until(lambda: reason(original) == reason(copy) == "CLONED_IDENTITY")
    assert await state(site) == "quarantined"
    sessions = original.dialing.status().session_count + copy.dialing.status().session_count
    assert sessions == 2, "each had one: nobody flapped"

    await site.stop()
    await site.start()
    assert await state(site) == "quarantined", "a hub remembers it"

    await copy.stop()
    answer: pb.ReleaseNodeResponse = await stub(site).ReleaseNode(pb.ReleaseNodeRequest(node="north"))
    assert answer.released
    await up(original)
    assert await state(site) == "connected"
    again: pb.ReleaseNodeResponse = await stub(site).ReleaseNode(pb.ReleaseNodeRequest(node="north"))
    assert not again.released
    assert original.link is not None


async def test_a_release_while_both_live_lasts_until_they_are_found_again(site: Site) -> None:
    await site.start()
    original = await site.edge("north")
    copy = await another(site, original, "copy")
    await copy.start()
    await until(lambda: reason(original) == reason(copy) == "CLONED_IDENTITY")
    await stub(site).ReleaseNode(pb.ReleaseNodeRequest(node="north"))
    await until(lambda: original.link is not None or copy.link is not None)

    async def quarantined() -> bool:
        return await state(site) == "quarantined"

    await until_async(quarantined)


async def test_processes_that_follow_each_other_are_no_copies(site: Site) -> None:
    """Restarts, reconnects and moves to another channel, also over a restart of the hub."""
    await site.start()
    edge = await site.edge("north")
    for number in range(3):
        await edge.dialing.redial()
        await up(edge)
        await edge.stop()
        await edge.start()
        if number == 1:
            await site.stop()
            await site.start()
            await up(edge)
        await edge.stop()
        edge = await another(site, edge, f"boot-{number}")
        await edge.start()
        assert await state(site) == "connected"


async def test_a_greeting_of_a_dead_process_that_was_held_up_changes_nothing(
    site: Site, monkeypatch: pytest.MonkeyPatch
) -> None:
    """However often it comes: it does not know the challenge. The living one is not disturbed."""
    monkeypatch.setattr("hub.services.clones.CHALLENGE_RETRY_SECONDS", 60.0)  # the ghost never gets to repeat it
    await site.start()
    edge = await site.edge("north")
    dead = edge.dialing._boot_id
    await edge.stop()
    living = await another(site, edge, "living")
    await living.start()
    for _ in range(3):
        ghost = await another(site, edge, dead)
        await ghost.dialing.start()
        await refused(ghost, "OUTDATED_PROCESS")
        await ghost.stop()
    assert await state(site) == "connected"
    assert living.dialing.status().session_count == 1


@asynccontextmanager
async def greeted(edge: FakeEdge, boot_id: str, *last_words: sync_pb2.Frame) -> AsyncIterator[None]:
    """The Hello of a process of `edge` that is dead, and what else was on its way: it is let in, nobody hears the Welcome."""
    async with await edge._open() as channel:
        stream = sync_service_pb2_grpc.SyncServiceStub(channel).Sync()
        hello = sync_pb2.Hello(node=edge.node, boot_id=boot_id, generation=1)
        hello.min_protocol_version = hello.max_protocol_version = 1
        await stream.write(sync_service_pb2.SyncRequest(frames=[sync_pb2.Frame(hello=hello)]))
        answer: sync_service_pb2.SyncResponse = await stream.read()
        assert answer.frames[0].HasField("welcome")
        for words in last_words:
            await stream.write(sync_service_pb2.SyncRequest(frames=[words]))
        yield
        stream.cancel()


async def test_a_first_greeting_of_a_dead_process_that_was_held_up_leaves_its_successor_in(site: Site) -> None:
    """The hub never heard of the process before, so it cannot know that it is not the newest; however many there are."""
    await site.start()
    living = await site.edge("north")
    given_up = sync_pb2.Frame(go_away=sync_pb2.GoAway(problem=problem_pb2.Problem(reason="GREETING_TIMEOUT")))
    for number in range(3):
        sessions = living.dialing.status().session_count
        async with greeted(living, f"dead-{number}", *[given_up] * (number == 1)):
            await until(lambda before=sessions: living.dialing.status().session_count > before)  # type: ignore[misc]
        assert await state(site) == "connected"
    assert living.link is not None
    copy = await another(site, living, "copy")
    await copy.dialing.start()
    await until(lambda: reason(living) == reason(copy) == "CLONED_IDENTITY")


async def test_without_evidence_that_the_newest_process_lives_its_dead_predecessor_looks_like_a_copy(
    site: Site, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The protection taken away: a greeting alone is taken for a sign of life."""
    monkeypatch.setattr(CloneWatch, "_newest_lives", lambda *_: True)
    await site.start()
    living = await site.edge("north")
    async with greeted(living, "dead"):
        await refused(living, "CLONED_IDENTITY")


async def test_a_process_forgotten_by_the_hub_is_taken_for_a_new_one_and_found_by_the_other(
    site: Site, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(fleet_store, "KEPT_PROCESSES", 1)
    await site.start()
    original = await site.edge("north")
    await original.stop()
    for number in range(3):
        follower = await another(site, original, f"boot-{number}")
        await follower.start()
        if number < 2:
            await follower.stop()
    await original.start()
    await until(lambda: reason(follower) == "CLONED_IDENTITY")


async def test_who_is_not_known_cannot_be_released(site: Site) -> None:
    await site.start()
    for call in (
        stub(site).GetNode(pb.GetNodeRequest(node="west")),
        stub(site).ReleaseNode(pb.ReleaseNodeRequest(node="west")),
    ):
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await call
        assert from_rpc_error(caught.value).reason == "UNKNOWN_NODE"


async def test_without_the_memory_of_former_processes_copies_flap(site: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    """The protection taken away: each supersedes the other, for ever."""
    monkeypatch.setattr(fleet_store, "_outdated", lambda *_: False)
    await site.start()
    original = await site.edge("north")
    copy = await another(site, original, "copy")
    await copy.start()
    await until(lambda: original.dialing.status().session_count + copy.dialing.status().session_count >= 6)
    assert await state(site) != "quarantined"
