from __future__ import annotations

import asyncio
import errno
import socket
import ssl

import grpc
import pytest

from edgenode.api.fleet.v1 import fleet_service_pb2, fleet_service_pb2_grpc
from edgenode.api.registry.v1 import registry_pb2, registry_service_pb2, registry_service_pb2_grpc
from edgenode.api.sync.v1 import sync_pb2, sync_service_pb2, sync_service_pb2_grpc
from edgenode.link.errors import FailedPrecondition
from edgenode.link.identity.certificates import certificate_from_der, certificate_to_pem
from edgenode.link.identity.documents import verify_document
from edgenode.link.ports import SystemClock
from edgenode.link.wire.status import from_rpc_error
from hub.app import Hub
from hub.ca import authority
from hub.ca.authority import Authority
from hub.store.enrollment import SqliteEnrollmentStore
from hub.store.schema import open_database
from tests.integration.hub.fake_edge import Credentials, FakeEdge, until, until_async
from tests.integration.hub.site import Site


def _fleet(site: Site) -> fleet_service_pb2_grpc.FleetServiceStub:
    return fleet_service_pb2_grpc.FleetServiceStub(site.local())


def _registry(site: Site) -> registry_service_pb2_grpc.RegistryServiceStub:
    return registry_service_pb2_grpc.RegistryServiceStub(site.local())


async def _agents(site: Site) -> list[registry_pb2.Agent]:
    response = await _registry(site).ListAgents(registry_service_pb2.ListAgentsRequest())
    return list(response.agents)


async def _count(site: Site, count: int) -> bool:
    return len(await _agents(site)) == count


async def test_a_node_out_of_reach_stays_listed_and_is_found_no_more(site: Site) -> None:
    await site.start()
    north, south = await site.edge("north"), await site.edge("south")
    north.register("code", "code.metrics", zone="a")
    south.register("code", "code.metrics", zone="b")
    await until_async(lambda: _count(site, 2))
    find = registry_service_pb2.FindAgentsRequest(skill="code.metrics", explain=True)
    found = await _registry(site).FindAgents(find)
    assert len(found.candidates) == 2
    await north.stop()

    async def unreachable() -> bool:
        return [agent.runtime.health for agent in await _agents(site)] == [
            registry_pb2.HEALTH_UNREACHABLE,
            registry_pb2.HEALTH_READY,
        ]

    await until_async(unreachable)
    found = await _registry(site).FindAgents(find)
    assert [candidate.agent.name for candidate in found.candidates] == ["nodes/south/agents/code"]
    assert [(left.name, left.reason) for left in found.exclusions] == [("nodes/north/agents/code", "UNREACHABLE")]
    agent = await _registry(site).GetAgent(registry_service_pb2.GetAgentRequest(name="nodes/north/agents/code"))
    assert agent.staleness_duration.ToTimedelta().total_seconds() >= 1.0


async def test_an_agent_that_cannot_be_taken_is_left_out_and_the_link_stays(
    site: Site, caplog: pytest.LogCaptureFixture
) -> None:
    await site.start()
    north = await site.edge("north")
    north.register("odd", "code.metrics")
    await until_async(lambda: _count(site, 1))
    link = north.link
    foreign = registry_pb2.Agent(name="nodes/south/agents/code")
    odd = registry_pb2.Agent(name="nodes/north/agents/odd")
    odd.runtime.latency_duration.nanos = -5
    for agent in (foreign, odd):
        north.registry.put(agent.name, 1, agent.SerializeToString())
    north.register("code", "code.metrics")

    async def names() -> list[str]:
        return [agent.name for agent in await _agents(site)]

    async def as_expected() -> bool:
        return await names() == ["nodes/north/agents/code"]

    await until_async(as_expected)
    assert north.link is link
    assert "FOREIGN_AGENT" in caplog.text
    assert "BAD_AGENT" in caplog.text


async def test_edges_ask_the_hub_for_agents_of_the_fleet(site: Site) -> None:
    await site.start()
    north, south = await site.edge("north"), await site.edge("south")
    north.register("code", "code.metrics")
    await until_async(lambda: _count(site, 1))
    request = registry_service_pb2.FindAgentsRequest(query="metrics")
    assert south.link is not None
    south.link.send(sync_pb2.Frame(find=sync_pb2.FindExchange(find_id=5, request=request)))
    await until(lambda: len(south.found) == 1)
    assert south.found[0].find_id == 5
    assert [candidate.agent.name for candidate in south.found[0].response.candidates] == ["nodes/north/agents/code"]
    bad = registry_service_pb2.FindAgentsRequest(selector="((")
    south.link.send(sync_pb2.Frame(find=sync_pb2.FindExchange(find_id=6, request=bad)))
    await until(lambda: len(south.found) == 2)
    assert south.found[1].problem.reason == "BAD_SELECTOR"


async def test_a_restarted_hub_still_knows_the_fleet(site: Site) -> None:
    await site.start()
    north = await site.edge("north")
    north.register("code", "code.metrics")
    await until_async(lambda: _count(site, 1))
    await north.stop()
    await site.stop()
    await site.start()
    assert [agent.name for agent in await _agents(site)] == ["nodes/north/agents/code"]
    (node,) = (await _fleet(site).ListNodes(fleet_service_pb2.ListNodesRequest())).nodes
    assert (node.state, node.software) == ("unreachable", "fake/1")


async def test_agents_are_watched(site: Site) -> None:
    await site.start()
    north = await site.edge("north")
    north.register("one", "a.b")
    await until_async(lambda: _count(site, 1))
    watch = _registry(site).WatchAgents(registry_service_pb2.WatchAgentsRequest())
    first = await watch.read()
    assert first.snapshot
    assert [agent.card.name for agent in first.agents] == ["one"]
    north.register("two", "a.b")
    names: list[str] = []
    while "two" not in names:
        change = await watch.read()
        assert not change.snapshot
        names += [agent.card.name for agent in change.agents]
    watch.cancel()


async def test_a_desired_state_reaches_its_node_signed_and_is_reported_back(site: Site) -> None:
    await site.start()
    north = await site.edge("north")
    document = sync_pb2.DesiredDocument(node="north", log_level="debug", lane_weights={"task": 10})
    answer = await _fleet(site).SetDesiredState(fleet_service_pb2.SetDesiredStateRequest(document=document))
    assert answer.version == 1
    await until(lambda: len(north.desired) == 1)
    state = north.desired[0]
    root = certificate_to_pem(certificate_from_der(site.authority.root_certificate))
    signer = verify_document(
        state.document, state.signature, state.certificates, root, "fleet.example", SystemClock().wall()
    )
    assert signer.node == "hub"
    assert sync_pb2.DesiredDocument.FromString(state.document).version == 1
    # Not applied yet: it comes again with the next session.
    await north.stop()
    await north.start()
    await until(lambda: len(north.desired) == 2)
    assert north.link is not None
    report = sync_pb2.DesiredStateReport(applied_version=1)
    north.link.send(sync_pb2.Frame(desired_state_report=report))

    async def applied() -> bool:
        request = fleet_service_pb2.GetDesiredStateRequest(node="north")
        return bool((await _fleet(site).GetDesiredState(request)).report.applied_version == 1)

    await until_async(applied)
    for bad, reason in (
        (sync_pb2.DesiredDocument(node="nobody"), "UNKNOWN_NODE"),
        (sync_pb2.DesiredDocument(node="north", log_level="loud"), "UNKNOWN_VALUE"),
        (sync_pb2.DesiredDocument(node="north", lane_weights={"task": 0}), "OUT_OF_RANGE"),
    ):
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await _fleet(site).SetDesiredState(fleet_service_pb2.SetDesiredStateRequest(document=bad))
        assert from_rpc_error(caught.value).reason == reason


async def test_a_revoked_node_is_kept_out(site: Site) -> None:
    await site.start()
    north = await site.edge("north")
    await site.stop()
    database = await open_database(site.config.store_path, site.config.store_bytes)
    await SqliteEnrollmentStore(database).revoke("north")
    await database.close()
    hub = await site.start()
    channel = north._credentials.channel(hub.sync_port)
    call = sync_service_pb2_grpc.SyncServiceStub(channel).Sync()
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await call.read()
    assert from_rpc_error(caught.value).reason == "REVOKED"
    await channel.close()


async def test_a_node_cannot_speak_for_another(site: Site) -> None:
    await site.start()
    impostor = FakeEdge("south", Credentials(site.authority, "north"), lambda: 0)
    made = await FakeEdge.make("south", site.authority, lambda: site.hub.sync_port if site.hub else 1)
    site.edges.append(made)
    made._credentials = impostor._credentials
    await made.dialing.start()
    await until(lambda: made.dialing.status().last_problem is not None)
    problem = made.dialing.status().last_problem
    assert problem is not None
    assert problem.reason == "NAME_MISMATCH"


async def test_a_session_ends_with_its_own_certificate(site: Site, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level("INFO", "hub")
    hub = await site.start()
    brief = Authority.load(site.config.state_dir, SystemClock(), leaf_life=2.0)
    edge = await FakeEdge.make("north", brief, lambda: hub.sync_port)
    site.edges.append(edge)
    await edge.start()
    first = edge.link
    # A newer stream with a certificate that is good for longer, which never gets so far as to count.
    channel = Credentials(site.authority, "north").channel(hub.sync_port)
    await channel.channel_ready()
    silent = sync_service_pb2_grpc.SyncServiceStub(channel).Sync()
    await silent.wait_for_connection()
    await silent.write(sync_service_pb2.SyncRequest())
    assert edge.link is first
    await until(lambda: edge.link is not first)
    assert "certificate of north has expired" in caplog.text
    silent.cancel()
    await channel.close()


async def test_the_sync_listener_serves_the_link_and_nothing_else(site: Site) -> None:
    hub = await site.start()
    channel = Credentials(site.authority, "north").channel(hub.sync_port)
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await fleet_service_pb2_grpc.FleetServiceStub(channel).GetHubStatus(fleet_service_pb2.GetHubStatusRequest())
    assert caught.value.code() is grpc.StatusCode.UNIMPLEMENTED
    await channel.close()


async def test_what_only_edges_serve_is_said_so(site: Site) -> None:
    await site.start()
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await _registry(site).RegisterAgent(registry_service_pb2.RegisterAgentRequest())
    assert from_rpc_error(caught.value).reason == "ATTACH_TO_AN_EDGE"


async def test_start_and_stop_in_any_order(site: Site) -> None:
    never = Hub(site.config)
    await never.stop()
    with pytest.raises(FailedPrecondition, match="stopped"):
        await never.start()
    hub = Hub(site.config)
    await asyncio.gather(hub.start(), hub.start())
    with pytest.raises(FailedPrecondition) as caught:
        await Hub(site.config).start()
    assert caught.value.reason == "STATE_IN_USE"
    await asyncio.gather(hub.stop(), hub.stop())
    await hub.stop()
    interrupted = Hub(site.config)
    starting = asyncio.create_task(interrupted.start())
    await asyncio.sleep(0)
    await asyncio.sleep(0)
    await interrupted.stop()
    with pytest.raises((asyncio.CancelledError, FailedPrecondition)):
        await starting
    # Nothing was left behind: the state can be used again.
    await site.start()


async def test_a_port_that_is_taken_is_a_clear_error(site: Site) -> None:
    with socket.socket() as other:
        other.bind(("127.0.0.1", 0))
        other.listen()
        with pytest.raises(FailedPrecondition) as caught:
            await site.start(listen=f"127.0.0.1:{other.getsockname()[1]}")
    assert caught.value.reason == "PORT_TAKEN"
    await site.start(listen="127.0.0.1:0")


class Ahead(SystemClock):
    """A wall clock that goes some days ahead."""

    def wall(self) -> float:
        return super().wall() + 5 * 86_400.0


async def test_a_certificate_that_cannot_be_written_keeps_no_hub_from_serving(
    site: Site, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    before = site.authority.hub_pair()

    def full(path: object, data: bytes) -> None:
        raise OSError(errno.ENOSPC, "no space left on device")

    monkeypatch.setattr(authority, "write_private_file", full)
    site.hub = Hub(site.config, clock=Ahead())
    await site.hub.start()
    assert "no space left on device" in caplog.text
    shown = await asyncio.to_thread(ssl.get_server_certificate, ("127.0.0.1", site.hub.enrollment_port))
    assert shown not in before.certificate_chain.decode(), "it serves with the new one"
