"""Tombstones collected while an edge was long away: a full resync, and nothing that was removed comes back.

An edge tells its hub of a removal by a tombstone, and forgets tombstones when there are too many. A hub that was away for so
long, or that was restored, still lists what is gone. Two protections bring it up to date: it is sent the whole registry where
a delta cannot say what is missing, and it finds by digests what differs. Each alone is enough; with neither, the removed come
back.
"""

from __future__ import annotations

import shutil
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from edgenode.api.registry.v1 import registry_pb2, registry_service_pb2, registry_service_pb2_grpc
from edgenode.link.protocol.registry import RegistryLog
from edgenode.link.protocol.registry_sync import RegistrySink
from tests.faults.pair import Pair, until

TOMBSTONES = 4

pytestmark = pytest.mark.timeout(60)


@pytest.fixture
async def pair(folder: Path, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Pair]:
    monkeypatch.setattr("edgenode.node.registry.MAX_TOMBSTONES", TOMBSTONES)
    made = Pair(folder)
    await made.start()
    try:
        yield made
    finally:
        await made.stop()


async def register(pair: Pair, *names: str) -> None:
    async with pair.client("edge") as client:
        stub = registry_service_pb2_grpc.RegistryServiceStub(client.channel)
        for name in names:
            card = registry_pb2.AgentCard(name=name, skills=[registry_pb2.Skill(id="work")])
            await stub.RegisterAgent(
                registry_service_pb2.RegisterAgentRequest(
                    request_id=client.new_id(), card=card, instance_id=f"{name}-1", incarnation=1
                )
            )


async def deregister(pair: Pair, *names: str) -> None:
    async with pair.client("edge") as client:
        stub = registry_service_pb2_grpc.RegistryServiceStub(client.channel)
        for name in names:
            await stub.DeregisterAgent(
                registry_service_pb2.DeregisterAgentRequest(
                    request_id=client.new_id(), agent=name, instance_id=f"{name}-1"
                )
            )


async def listed(pair: Pair, where: str) -> list[str]:
    async with pair.client(where) as client:
        stub = registry_service_pb2_grpc.RegistryServiceStub(client.channel)
        answer = await stub.ListAgents(registry_service_pb2.ListAgentsRequest())
        return sorted(agent.name.rpartition("/")[2] for agent in answer.agents)


async def alike(pair: Pair) -> bool:
    return await listed(pair, "hub") == await listed(pair, "edge")


async def remove_while_away(pair: Pair, within: float = 20.0) -> bool:
    """Agents come and go while the hub is away, more than there are tombstones; whether it then knows what the edge knows."""
    await register(pair, "stays", "goes", "goes-too")
    assert await until(lambda: alike(pair))
    await pair.stop_hub()
    passing = [f"passing-{number}" for number in range(2 * TOMBSTONES)]
    await deregister(pair, "goes", "goes-too")
    await register(pair, *passing)
    await deregister(pair, *passing)
    await register(pair, "new")
    await pair.start_hub()
    assert await until(pair.connected)
    return await until(lambda: alike(pair), within)


async def test_tombstones_collected_while_an_edge_was_long_away(pair: Pair) -> None:
    assert await remove_while_away(pair)
    assert await listed(pair, "hub") == ["new", "stays"]
    # ... and what was removed stays removed over the next sessions and restarts of either side.
    await pair.stop_edge()
    await pair.start_edge()
    await pair.stop_hub()
    await pair.start_hub()
    assert await until(pair.connected)
    assert await until(lambda: alike(pair))
    assert await listed(pair, "hub") == ["new", "stays"]


async def test_a_hub_restored_from_before_the_removals_lists_nothing_that_is_gone(pair: Pair, folder: Path) -> None:
    await register(pair, "stays", "goes")
    assert await until(lambda: alike(pair))
    await pair.stop_hub()
    shutil.copytree(pair.hub_state, folder / "backup")
    await pair.start_hub()
    await deregister(pair, "goes")
    assert await until(lambda: alike(pair))
    await pair.stop_hub()
    shutil.rmtree(pair.hub_state)
    shutil.copytree(folder / "backup", pair.hub_state)
    await pair.start_hub()
    assert await until(pair.connected)
    assert await until(lambda: alike(pair))
    assert await listed(pair, "hub") == ["stays"]


async def test_digests_alone_find_what_a_delta_left_behind(pair: Pair, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(RegistryLog, "needs_snapshot", lambda *_: False)
    assert await remove_while_away(pair)


async def test_without_both_protections_the_removed_come_back(pair: Pair, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(RegistryLog, "needs_snapshot", lambda *_: False)
    monkeypatch.setattr(RegistrySink, "compared", lambda *_: None)

    async def has_what_is_new() -> bool:
        return "new" in await listed(pair, "hub")

    assert not await remove_while_away(pair, within=0.0)
    assert await until(has_what_is_new)
    assert await listed(pair, "hub") == ["goes", "goes-too", "new", "stays"]
