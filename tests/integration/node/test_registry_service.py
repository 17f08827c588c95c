import asyncio
from typing import Any

import grpc
import pytest

from edgenode.api.admin.v1 import admin_service_pb2
from edgenode.api.registry.v1 import registry_pb2, registry_service_pb2
from edgenode.link.errors import EdgenodeError
from edgenode.link.wire.status import from_rpc_error
from tests.integration.node.house import House, house, short_directory

GetAgent = registry_service_pb2.GetAgentRequest
List = registry_service_pb2.ListAgentsRequest
Renew = registry_service_pb2.RenewLeaseRequest
Watch = registry_service_pb2.WatchAgentsRequest


async def refused(call: Any) -> EdgenodeError:
    with pytest.raises(grpc.aio.AioRpcError) as error:
        await call
    return from_rpc_error(error.value)


async def health_becomes(h: House, name: str, health: registry_pb2.Health) -> None:
    """Follows the registry until the agent has that health."""
    call = h.registry.WatchAgents(Watch(), timeout=10)
    try:
        async for frame in call:
            if any(a.card.name == name and a.runtime.health == health for a in frame.agents):
                return
    finally:
        call.cancel()


async def test_register_get_list_find_and_remove() -> None:
    with short_directory() as directory:
        async with house(directory) as h:
            for name, load in (("one", 4), ("two", 8)):
                await h.register(name, capacity_count=load, labels={"zone": name}, description="counts branches")
            await h.register("three", skills=("other",), cost=5.0)
            got = (await h.registry.GetAgent(GetAgent(name="one"))).agent
            assert (got.name, got.runtime.node, got.runtime.capacity_count) == ("nodes/north/agents/one", "north", 4)
            assert (await h.registry.GetAgent(GetAgent(name=got.name))).agent.card.name == "one"
            first = await h.registry.ListAgents(List(page_size=2))
            second = await h.registry.ListAgents(List(page_size=2, page_token=first.next_page_token))
            assert [a.card.name for page in (first, second) for a in page.agents] == ["one", "three", "two"]
            assert second.next_page_token == ""
            found = await h.find(skill="code.metrics")
            assert [c.agent.card.name for c in found.candidates] == ["one", "two"]
            assert found.candidates[0].reasons[0] == "load 0/4 in flight: +1.00"
            assert not found.candidates[0].HasField("staleness_duration")
            assert [c.agent.card.name for c in (await h.find(selector="zone=two")).candidates] == ["two"]
            assert [c.agent.card.name for c in (await h.find(query="branch")).candidates] == ["one", "two"]
            explained = await h.find(skill="code.metrics", selector="zone=two", max_cost=1.0, explain=True)
            assert {e.name.rpartition("/")[2]: e.reason for e in explained.exclusions} == {
                "one": "SELECTOR",
                "three": "NO_SKILL",
            }
            fleet = await h.find(scope=registry_service_pb2.SCOPE_FLEET)
            assert (len(fleet.candidates), fleet.fleet_included) == (3, False)
            request = registry_service_pb2.DeregisterAgentRequest(agent="one", instance_id="i1", request_id="r1")
            await h.registry.DeregisterAgent(request)
            await h.register("one", incarnation=2, instance_id="i2")
            await h.registry.DeregisterAgent(registry_service_pb2.DeregisterAgentRequest(agent="one", request_id="r1"))
            assert (await h.registry.GetAgent(GetAgent(name="one"))).agent.runtime.instance_id == "i2"


async def test_a_repeated_registration_does_nothing_twice() -> None:
    with short_directory() as directory:
        async with house(directory) as h:
            first = await h.register(request_id="r1")
            await h.register(incarnation=2, instance_id="i2")
            assert (await h.register(request_id="r1")).version == first.version
            assert (await h.registry.GetAgent(GetAgent(name="device"))).agent.runtime.incarnation == 2


@pytest.mark.parametrize(
    ("method", "request_", "code", "reason"),
    [
        ("GetAgent", GetAgent(name="nobody"), "NOT_FOUND", "UNKNOWN_AGENT"),
        ("GetAgent", GetAgent(name="nodes/south/agents/x"), "NOT_FOUND", "UNKNOWN_AGENT"),
        ("GetAgent", GetAgent(name="../../etc"), "INVALID_ARGUMENT", "BAD_NAME"),
        ("GetAgent", GetAgent(), "INVALID_ARGUMENT", "BAD_NAME"),
        ("ListAgents", List(page_size=1001), "INVALID_ARGUMENT", "OUT_OF_RANGE"),
        ("ListAgents", List(page_size=-1), "INVALID_ARGUMENT", "OUT_OF_RANGE"),
        ("ListAgents", List(page_token="' OR 1=1"), "INVALID_ARGUMENT", "BAD_NAME"),
        ("RenewLease", Renew(agent="nobody", instance_id="i"), "NOT_FOUND", "UNKNOWN_AGENT"),
        ("RenewLease", Renew(agent="nobody"), "INVALID_ARGUMENT", "BAD_NAME"),
        (
            "FindAgents",
            registry_service_pb2.FindAgentsRequest(selector="zone=="),
            "INVALID_ARGUMENT",
            "BAD_SELECTOR",
        ),
        ("FindAgents", registry_service_pb2.FindAgentsRequest(skill="No Skill"), "INVALID_ARGUMENT", "BAD_NAME"),
        ("FindAgents", registry_service_pb2.FindAgentsRequest(query="x" * 257), "INVALID_ARGUMENT", "TOO_LONG"),
        ("FindAgents", registry_service_pb2.FindAgentsRequest(query="?"), "INVALID_ARGUMENT", "BAD_QUERY"),
        (
            "FindAgents",
            registry_service_pb2.FindAgentsRequest(max_cost=float("nan")),
            "INVALID_ARGUMENT",
            "OUT_OF_RANGE",
        ),
        ("RegisterAgent", registry_service_pb2.RegisterAgentRequest(), "INVALID_ARGUMENT", "BAD_NAME"),
        ("DeregisterAgent", registry_service_pb2.DeregisterAgentRequest(agent="A"), "INVALID_ARGUMENT", "BAD_NAME"),
    ],
)
async def test_bad_requests_are_refused_with_reason_and_hint(
    method: str, request_: Any, code: str, reason: str
) -> None:
    with short_directory() as directory:
        async with house(directory) as h:
            error = await refused(getattr(h.registry, method)(request_, timeout=10))
            assert (error.problem.code.name, error.reason) == (code, reason)
            assert error.problem.hint


async def test_a_lease_runs_out_and_a_renewal_brings_the_agent_back() -> None:
    with short_directory() as directory:
        async with house(directory) as h:
            await h.register(lease_duration={"seconds": 1})
            await health_becomes(h, "device", registry_pb2.HEALTH_UNREACHABLE)
            explained = await h.find(skill="code.metrics", explain=True)
            assert [e.reason for e in explained.exclusions] == ["UNREACHABLE"]
            await h.registry.RenewLease(Renew(agent="device", instance_id="i1", health=registry_pb2.HEALTH_DRAINING))
            await health_becomes(h, "device", registry_pb2.HEALTH_DRAINING)
            await h.register(instance_id="i2", incarnation=2)
            error = await refused(h.registry.RenewLease(Renew(agent="device", instance_id="i1")))
            assert error.reason == "SUPERSEDED"


async def test_registrations_are_there_again_after_a_restart() -> None:
    with short_directory() as directory:
        async with house(directory) as h:
            await h.register(labels={"zone": "a"})
        async with house(directory) as h:
            agent = (await h.registry.GetAgent(GetAgent(name="device"))).agent
            assert agent.runtime.health == registry_pb2.HEALTH_UNREACHABLE
            assert agent.runtime.labels == {"zone": "a"}
            await h.registry.RenewLease(Renew(agent="device", instance_id="i1"))
            assert len((await h.find(skill="code.metrics")).candidates) == 1


async def test_a_watcher_sees_state_then_changes_and_resumes() -> None:
    with short_directory() as directory:
        async with house(directory) as h:
            await h.register("one")
            await h.register("two")
            call = h.registry.WatchAgents(Watch(), timeout=10)
            frame = await call.read()
            assert frame.snapshot
            assert [a.card.name for a in frame.agents] == ["one", "two"]
            await h.register("three")
            frame = await call.read()
            assert ([a.card.name for a in frame.agents], frame.snapshot) == (["three"], False)
            seen = frame.version
            call.cancel()
            await h.registry.DeregisterAgent(registry_service_pb2.DeregisterAgentRequest(agent="one"))
            call = h.registry.WatchAgents(Watch(after_version=seen), timeout=10)
            frame = await call.read()
            assert [t.name for t in frame.removals] == ["nodes/north/agents/one"]
            assert not frame.snapshot
            call.cancel()
        async with house(directory) as h:
            call = h.registry.WatchAgents(Watch(after_version=frame.version), timeout=10)
            frame = await call.read()
            assert frame.snapshot
            assert [a.card.name for a in frame.agents] == ["three", "two"]
            waiting = asyncio.create_task(call.read())
            await h.node.stop()
            with pytest.raises(grpc.aio.AioRpcError) as ended:
                await waiting
            assert from_rpc_error(ended.value).reason == "NODE_STOPPING"


async def test_a_large_registry_is_watched_in_pages() -> None:
    with short_directory() as directory:
        async with house(directory) as h:
            await asyncio.gather(*(h.register(f"a{number:04}") for number in range(1200)))
            call = h.registry.WatchAgents(Watch(), timeout=20)
            names: list[str] = []
            frames = 0
            while len(names) < 1200:
                frame = await call.read()
                assert frame.snapshot is (frames == 0)
                frames += 1
                names += [a.card.name for a in frame.agents]
            assert (frames, len(set(names))) == (3, 1200)
            resumed = h.registry.WatchAgents(Watch(after_version=frame.version), timeout=10)
            await h.register("last")
            assert [a.card.name for a in (await resumed.read()).agents] == ["last"]
            resumed.cancel()
            call.cancel()


async def test_loopback_serves_agents_and_not_administration() -> None:
    with short_directory() as directory:
        async with (
            house(directory, listen="127.0.0.1:0") as h,
            grpc.aio.insecure_channel(f"127.0.0.1:{h.node.port}") as channel,
        ):
            there = House(h.node, channel)
            await there.register()
            error = await refused(there.admin.GetStatus(admin_service_pb2.GetStatusRequest(), timeout=10))
            assert error.problem.code.name == "UNIMPLEMENTED"
