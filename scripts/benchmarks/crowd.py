"""The case `hub`: thousands of idle edges on one hub, and what a change of an agent takes to get there."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Sequence
from pathlib import Path

import psutil

from edgenode.api.registry.v1 import registry_pb2, registry_service_pb2, registry_service_pb2_grpc
from edgenode.sdk import Client
from scripts.benchmarks.cases import MB, Effort
from scripts.benchmarks.fleet import EDGE, PATIENCE, Ground, ground, percentile
from scripts.benchmarks.processes import Failed, cpu_seconds
from scripts.benchmarks.results import LIMIT, Budget, Floor, Metric
from tests.faults.crowd import enroll
from tests.faults.proxy import FaultyProxy

CROWD = 2_000
CROWD_PROCESSES = 4
SETTLE_SECONDS = 2.0  # until a crowd that came is idle
IDLE_SECONDS = 4.0  # how long the idle hub is watched
CHANGES = 200
WATCHED = "watched"
OURS = ("tests.faults.crowd",)
BARE = ("scripts.benchmarks.bare_link", "crowd")


def hub(root: Path, effort: Effort) -> list[Metric]:
    """Ours and the bare limit in turn, round by round: each member with a certificate and a connection of its own."""
    return asyncio.run(_hub(root, effort))


async def _hub(root: Path, effort: Effort) -> list[Metric]:
    count = max(int(CROWD * effort.scale), CROWD_PROCESSES)
    memory = Metric(f"hub memory for an idle edge, {count} of them", "kB", budget=Budget(Floor(150, least=False)))
    joined = Metric(f"{count} edges connect at once", "s")
    idle = Metric(f"hub CPU with {count} idle edges", "% of a core")
    change = Metric("registry change to hub: p99", "ms", budget=Budget(Floor(100, least=False)))
    wire = Metric("registry change to hub: bytes on the wire", "B", budget=Budget(Floor(400, least=False)))
    async with ground(root) as place:
        crowd = Crowd(place, count, effort.scale)
        await enroll(place.hub_state, count, crowd.credentials)
        for _ in range(effort.rounds):
            await place.start_hub()
            await place.start_edge()
            seconds, added = await crowd.come(OURS, place.sync_port, place.usage("hub"))
            joined.add(seconds)
            memory.add(added / count / 1e3, **{"hub MB": place.resident("hub") / MB})
            idle.add(await crowd.idle_share(place.usage("hub")) * 100)
            change.add(percentile(await _changes(place, CHANGES), 0.99) * 1e3)
            await crowd.go()
            await place.stop(EDGE)
            up, down = await _carried(place, max(int(CHANGES * effort.scale), 20))
            wire.add(up + down, up=up, down=down)
            await place.stop(EDGE)
            await place.stop("hub")
            seconds, added = await _bare_crowd(place, crowd)
            joined.against(LIMIT, seconds)
            memory.against(LIMIT, added / count / 1e3)
    return [memory, joined, idle, change, wire]


class Crowd:
    """Members that come to a hub, ours or the bare one, all at once, and leave it again."""

    def __init__(self, place: Ground, count: int, scale: float) -> None:
        self.credentials = place.folder / "crowd.json"
        self._place = place
        self._count = count
        self._patience = min(10 * scale, 1)

    async def come(self, program: Sequence[str], port: int, hub: psutil.Process) -> tuple[float, int]:
        """Run `program` for the members; (seconds until all are connected, bytes of memory that took of the hub)."""
        await self._settled(SETTLE_SECONDS)
        before, began = hub.memory_info().rss, time.perf_counter()
        share = -(-self._count // CROWD_PROCESSES)
        async with asyncio.timeout(PATIENCE):
            await asyncio.gather(
                *(
                    self._part(number, [*program, str(self.credentials), str(port)], number * share, share)
                    for number in range(CROWD_PROCESSES)
                )
            )
        seconds = time.perf_counter() - began
        await self._settled(SETTLE_SECONDS)
        return seconds, hub.memory_info().rss - before

    async def _part(self, number: int, program: Sequence[str], first: int, share: int) -> None:
        count = min(share, self._count - first)
        lines = await self._place.spawn(f"crowd{number}", "-m", *program, str(first), str(count))
        up: set[bytes] = set()
        while len(up) < count:
            if not (line := await lines.readline()):
                raise Failed(f"a part of the crowd ended with {len(up)} of {count} connected")
            up.add(line.split()[0])

    async def idle_share(self, hub: psutil.Process) -> float:
        """The share of a core that the hub takes now."""
        before, began = cpu_seconds(hub), time.perf_counter()
        await self._settled(IDLE_SECONDS)
        return (cpu_seconds(hub) - before) / (time.perf_counter() - began)

    async def go(self) -> None:
        """All at once."""
        await asyncio.gather(*(self._place.stop(f"crowd{number}") for number in range(CROWD_PROCESSES)))

    async def _settled(self, seconds: float) -> None:
        await asyncio.sleep(seconds * self._patience)


async def _bare_crowd(place: Ground, crowd: Crowd) -> tuple[float, int]:
    hub = place.start_bare("bare_link", "hub", place.hub_state, place.folder / "bare-hub.db")
    came = await crowd.come(BARE, int(hub.greeting.split()[1]), hub.usage)
    await crowd.go()
    place.end_bare()
    return came


async def _carried(place: Ground, count: int) -> tuple[float, float]:
    """Bytes (up, down) of a TCP connection for each of so many changes: TLS, HTTP/2 and all acknowledgements included."""
    cable = FaultyProxy(place.sync_port)
    await cable.restore()
    try:
        await place.start_edge(port=cable.port)
        await _changes(place, 1)  # the link is up
        before = cable.up_way.carried, cable.down_way.carried
        await _changes(place, count)
        return (cable.up_way.carried - before[0]) / count, (cable.down_way.carried - before[1]) / count
    finally:
        await cable.cut()


async def _changes(place: Ground, count: int) -> list[float]:
    """Seconds from an agent's change of health to the hub's telling of it, one after the other."""
    seen: asyncio.Queue[str] = asyncio.Queue()

    async def watch(client: Client) -> None:
        stub = registry_service_pb2_grpc.RegistryServiceStub(client.channel)
        async for response in stub.WatchAgents(registry_service_pb2.WatchAgentsRequest()):
            for agent in response.agents:
                if agent.name.endswith(f"/{WATCHED}"):
                    seen.put_nowait(agent.runtime.health_reason)

    async with place.client(EDGE) as edge, place.client("hub") as hub_client:
        watching = asyncio.create_task(watch(hub_client))
        stub = registry_service_pb2_grpc.RegistryServiceStub(edge.channel)
        request = registry_service_pb2.RegisterAgentRequest(instance_id="i", incarnation=1)
        request.card.name = WATCHED
        await edge.unary(stub.RegisterAgent, request)
        latencies = []
        for number in range(count):
            said = f"change {number}"
            began = time.perf_counter()
            renewal = registry_service_pb2.RenewLeaseRequest(
                agent=WATCHED, instance_id="i", health=registry_pb2.HEALTH_DEGRADED, health_reason=said
            )
            await edge.unary(stub.RenewLease, renewal)
            async with asyncio.timeout(PATIENCE):
                while await seen.get() != said:
                    pass
            latencies.append(time.perf_counter() - began)
        watching.cancel()
        await asyncio.wait([watching])
    return latencies
