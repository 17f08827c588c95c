"""Cases with a hub, and cases with much there already: a backlog that drains, a crowd of idle edges, growth.

They drive the same commands as a user, and ask each process for its own figures.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import signal
import statistics
import sys
import time
from collections.abc import AsyncIterator, Iterable
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path

import psutil

from edgenode.api.admin.v1 import admin_service_pb2, admin_service_pb2_grpc
from edgenode.api.registry.v1 import registry_pb2, registry_service_pb2, registry_service_pb2_grpc
from edgenode.cli.demo.fleet import DOMAIN, Fleet
from edgenode.link.ports import SystemClock
from edgenode.sdk import Client
from hub.ca.authority import init_authority
from scripts.benchmarks.cases import MB, Effort, scratch
from scripts.benchmarks.results import Budget, Floor, Metric
from scripts.benchmarks.rounds import PAYLOAD
from tests.faults.crowd import enroll

EDGE = "north"
TOPIC = "bench.readings"
BATCH = 1024
GIB = str(1 << 30)
ROOMY = {"EDGENODE_STORE_BYTES": str(4 << 30), "EDGENODE_MESSAGE_RETENTION_BYTES": GIB, "EDGENODE_LOG_LEVEL": "warning"}
OPEN_DOOR = {
    "EDGEHUB_ADMISSIONS_PER_SECOND": "1000",
    "EDGEHUB_STORE_BYTES": str(8 << 30),
    "EDGEHUB_LOG_LEVEL": "warning",
}
CALM_SECONDS = 0.5
SETTLE_SECONDS = 3.0  # until a crowd that came is idle
PATIENCE = 300.0  # seconds for what a case waits for
CROWD = 2_000
CROWD_PROCESSES = 4
AGENTS = 10_000
CHANGES = 200


class Ground:
    """A hub and an edge that joined it, below one folder; each is started when a case needs it."""

    def __init__(self, folder: Path) -> None:
        self._fleet = Fleet(folder)
        self._ports = ("127.0.0.1:0", "127.0.0.1:0")
        self.sync_port = 1  # where nobody listens

    @property
    def hub_state(self) -> Path:
        """The hub's state directory."""
        return self._fleet.state("hub")

    async def make_hub(self) -> None:
        """The hub's identity, and the edge's."""
        await asyncio.to_thread(init_authority, self.hub_state, DOMAIN, "hub", SystemClock())
        await self.start_hub()
        await self._fleet.join(EDGE)
        await self.stop("hub")

    async def start_hub(self) -> None:
        """On the same ports each time."""
        self.sync_port = await self._fleet.serve_hub(*self._ports, environment=OPEN_DOOR)
        self._ports = (f"127.0.0.1:{self.sync_port}", self._fleet.enroll_address)

    async def start_edge(self) -> float:
        """Seconds from exec to the ready line."""
        began = time.perf_counter()
        await self._fleet.start_edge(EDGE, self.sync_port, environment=ROOMY)
        return time.perf_counter() - began

    async def spawn(self, name: str, *arguments: str) -> asyncio.StreamReader:
        """Another process; its standard output."""
        child = await self._fleet.spawn(name, [sys.executable], *arguments)
        assert child.process.stdout is not None
        return child.process.stdout

    async def stop(self, name: str) -> None:
        """By SIGTERM, as a service manager does."""
        await self._fleet.children[name].stop()

    async def end(self) -> None:
        """Everything that still runs, at once."""
        for child in self._fleet.children.values():
            if child.process.returncode is None:
                child.process.send_signal(signal.SIGKILL)
                await child.process.wait()

    def usage(self, name: str) -> psutil.Process:
        """What the system knows of a process."""
        return psutil.Process(self._fleet.children[name].process.pid)

    def resident(self, name: str) -> int:
        """Bytes of memory of a process."""
        return int(self.usage(name).memory_info().rss)

    async def calm(self, name: str) -> None:
        """Wait until a process has done what it does behind its answers."""
        async with asyncio.timeout(PATIENCE):
            before = -1.0
            while (now := sum(self.usage(name).cpu_times()[:2])) - before > CALM_SECONDS / 20:
                before = now
                await asyncio.sleep(CALM_SECONDS)

    def client(self, name: str) -> Client:
        """A client of the edge or of the hub."""
        return Client(socket=self._fleet.socket(name))


@asynccontextmanager
async def ground(root: Path, *, hub: bool = True) -> AsyncIterator[Ground]:
    """A fresh one, gone at the end; without `hub` the edge is alone."""
    with scratch(root) as folder:
        made = Ground(folder)
        try:
            if hub:
                await made.make_hub()
            yield made
        finally:
            await made.end()


async def publish_batches(client: Client, count: int, at_once: int = 8) -> float:
    """Seconds for about `count` durable messages, in batches."""
    batches = iter(range(max(count // BATCH, 1)))

    async def worker() -> None:
        for _ in batches:
            await client.publish_many(TOPIC, [PAYLOAD] * BATCH)

    began = time.perf_counter()
    await asyncio.gather(*(worker() for _ in range(at_once)))
    return time.perf_counter() - began


async def publish_alone(client: Client, latencies: list[float], count: int) -> None:
    """So many messages, each after the one before; how long each took, in seconds."""
    for _ in range(count):
        began = time.perf_counter()
        await client.publish(TOPIC, PAYLOAD)
        latencies.append(time.perf_counter() - began)


def percentile(values: Iterable[float], share: float) -> float:
    """The value that `share` of them do not exceed."""
    ordered = sorted(values)
    return ordered[min(int(len(ordered) * share), len(ordered) - 1)]


# --- a backlog drains -------------------------------------------------------------------------------------------------


@dataclass(slots=True)
class Drained:
    """What was seen while a backlog went to the hub."""

    rate: float = 0.0  # messages a second
    most_bytes: int = 0  # of the edge's memory
    latency: float = 0.0  # of a message published meanwhile, 99th percentile, seconds


def drain(root: Path, effort: Effort) -> list[Metric]:
    """A million messages that gathered offline go to the hub: fsync on both sides, mutual TLS between."""
    return asyncio.run(_drain(root, effort))


async def _drain(root: Path, effort: Effort) -> list[Metric]:
    count = max(int(1_000_000 * effort.scale), 10 * BATCH)
    rate = Metric(f"drain, {count} messages to the hub", "msg/s", budget=Budget(Floor(80_000)))
    start = Metric("edge start to ready with that backlog", "s", budget=Budget(Floor(1.0, least=False)))
    memory = Metric("edge memory added by draining it", "MB", budget=Budget(Floor(32, least=False)))
    live = Metric("publish p99 while draining / before", "times", budget=Budget(Floor(2, least=False)))
    async with ground(root) as place:
        for number in range(effort.rounds):
            if number:
                await place.stop(EDGE)
                await place.stop("hub")
            await place.start_edge()
            async with place.client(EDGE) as client:
                await publish_batches(client, count)
            await place.stop(EDGE)
            start.add(await place.start_edge())
            async with place.client(EDGE) as client:
                idle: list[float] = []
                await publish_alone(client, idle, max(int(500 * effort.scale), 50))
                before = place.resident(EDGE)
                await place.start_hub()
                seen = await _watch_drain(place, client, count)
            rate.add(seen.rate)
            memory.add(max(seen.most_bytes - before, 0) / MB)
            live.add(
                seen.latency / percentile(idle, 0.99),
                **{"before, ms": percentile(idle, 0.99) * 1e3, "while draining, ms": seen.latency * 1e3},
            )
    return [rate, start, memory, live]


async def _watch_drain(place: Ground, client: Client, count: int) -> Drained:
    stub = admin_service_pb2_grpc.AdminServiceStub(client.channel)
    seen, latencies, points = Drained(), [], []  # type: ignore[var-annotated]
    live = asyncio.create_task(publish_alone(client, latencies, sys.maxsize))
    async with asyncio.timeout(PATIENCE):
        while not points or points[-1][1] > count // 100:
            status = await client.unary(stub.GetStatus, admin_service_pb2.GetStatusRequest())
            pending = next(
                lane.pending_count for lane in status.lanes if (lane.direction, lane.lane) == ("up", "message")
            )
            seen.most_bytes = max(seen.most_bytes, place.resident(EDGE))
            if pending < count or points:
                points.append((time.perf_counter(), pending))
            else:
                latencies.clear()
            await asyncio.sleep(0.02)
    live.cancel()
    with contextlib.suppress(asyncio.CancelledError):
        await live
    (began, first), (ended, last) = points[0], points[-1]
    seen.rate = (first - last) / (ended - began) if ended > began else float(first)
    seen.latency = percentile(latencies, 0.99) if latencies else 0.0
    return seen


# --- a crowd at one hub -----------------------------------------------------------------------------------------------


def hub(root: Path, effort: Effort) -> list[Metric]:
    """Thousands of idle edges on one hub, each with a certificate and a connection of its own."""
    return asyncio.run(_hub(root, effort))


async def _hub(root: Path, effort: Effort) -> list[Metric]:
    count = max(int(CROWD * effort.scale), CROWD_PROCESSES)
    settle = SETTLE_SECONDS * min(10 * effort.scale, 1)
    memory = Metric(f"hub memory for an idle edge, {count} of them", "kB", budget=Budget(Floor(150, least=False)))
    joined = Metric(f"{count} edges connect at once", "s")
    idle = Metric(f"hub CPU with {count} idle edges", "% of a core")
    change = Metric("registry change to hub: p99", "ms", budget=Budget(Floor(100, least=False)))
    async with ground(root) as place:
        credentials = place.hub_state.parent / "crowd.json"
        await enroll(place.hub_state, count, credentials)
        await place.start_hub()
        await place.start_edge()
        await asyncio.sleep(settle)
        before, began = place.resident("hub"), time.perf_counter()
        share = -(-count // CROWD_PROCESSES)
        async with asyncio.timeout(PATIENCE):
            await asyncio.gather(
                *(
                    _crowd(place, number, credentials, number * share, min(share, count - number * share))
                    for number in range(CROWD_PROCESSES)
                )
            )
        joined.add(time.perf_counter() - began)
        await asyncio.sleep(settle)
        memory.add((place.resident("hub") - before) / count / 1e3, **{"hub MB": place.resident("hub") / MB})
        times = place.usage("hub").cpu_times()
        await asyncio.sleep(2 * settle)
        after = place.usage("hub").cpu_times()
        idle.add((after.user + after.system - times.user - times.system) / (2 * settle) * 100)
        change.add(percentile(await _changes(place), 0.99) * 1e3)
    return [memory, joined, idle, change]


async def _crowd(place: Ground, number: int, credentials: Path, first: int, count: int) -> None:
    numbers = [str(value) for value in (place.sync_port, first, count)]
    lines = await place.spawn(f"crowd{number}", "-m", "tests.faults.crowd", str(credentials), *numbers)
    up: set[bytes] = set()
    while len(up) < count and (line := await lines.readline()):
        up.add(line.split()[0])


async def _changes(place: Ground) -> list[float]:
    """Seconds from an agent's change of health to the hub's telling of it, one after the other."""
    name = "watched"
    seen: asyncio.Queue[str] = asyncio.Queue()

    async def watch(client: Client) -> None:
        stub = registry_service_pb2_grpc.RegistryServiceStub(client.channel)
        async for response in stub.WatchAgents(registry_service_pb2.WatchAgentsRequest()):
            for agent in response.agents:
                if agent.name.endswith(f"/{name}"):
                    seen.put_nowait(agent.runtime.health_reason)

    async with place.client(EDGE) as edge, place.client("hub") as hub_client:
        watching = asyncio.create_task(watch(hub_client))
        stub = registry_service_pb2_grpc.RegistryServiceStub(edge.channel)
        request = registry_service_pb2.RegisterAgentRequest(instance_id="i", incarnation=1)
        request.card.name = name
        await edge.unary(stub.RegisterAgent, request)
        latencies = []
        for number in range(CHANGES):
            said = f"change {number}"
            began = time.perf_counter()
            renewal = registry_service_pb2.RenewLeaseRequest(
                agent=name, instance_id="i", health=registry_pb2.HEALTH_DEGRADED, health_reason=said
            )
            await edge.unary(stub.RenewLease, renewal)
            async with asyncio.timeout(PATIENCE):
                while await seen.get() != said:
                    pass
            latencies.append(time.perf_counter() - began)
        watching.cancel()
        await asyncio.wait([watching])
    return latencies


# --- growth -----------------------------------------------------------------------------------------------------------


def growth(root: Path, effort: Effort) -> list[Metric]:
    """What an operation costs with much there, against what it costs with little."""
    return asyncio.run(_growth(root, effort))


async def _growth(root: Path, effort: Effort) -> list[Metric]:
    most, agents = max(int(1_000_000 * effort.scale), 20 * BATCH), max(int(AGENTS * effort.scale), 100)
    flat = Budget(Floor(1.2, least=False))
    backlog = Metric(f"publish with {most} waiting / with {most // 10}", "times", budget=flat)
    calls = Metric(f"find with {agents} agents / with 10", "times", budget=flat)
    found = Metric(f"find among {agents} agents: p99", "ms", budget=Budget(Floor(1.0, least=False)))
    async with ground(root, hub=False) as place:
        await place.start_edge()
        async with place.client(EDGE) as client:
            seconds = [await publish_batches(client, most // 10) for _ in range(11)]
            backlog.add(statistics.median(seconds[-3:]) / statistics.median(seconds[1:4]))
            await _register(client, 0, 10)
            await place.calm(EDGE)
            few = await _finds(client)
            await _register(client, 10, agents)
            await place.calm(EDGE)
            many = await _finds(client)
            calls.add(percentile(many, 0.5) / percentile(few, 0.5), **{"p50 of 10, ms": percentile(few, 0.5) * 1e3})
            found.add(percentile(many, 0.99) * 1e3, p50=percentile(many, 0.5) * 1e3)
    return [backlog, calls, found]


async def _register(client: Client, first: int, last: int) -> None:
    stub = registry_service_pb2_grpc.RegistryServiceStub(client.channel)

    async def register(number: int) -> None:
        request = registry_service_pb2.RegisterAgentRequest(instance_id="i", incarnation=1)
        request.lease_duration.seconds = 3600  # nobody renews it
        request.card.name = f"agent-{number}"
        request.card.skills.add(id=f"skill-{number // 10}", name="one of ten agents that can do it")
        await client.unary(stub.RegisterAgent, request)

    for start in range(first, last, 500):
        await asyncio.gather(*(register(number) for number in range(start, min(start + 500, last))))


async def _finds(client: Client) -> list[float]:
    latencies = []
    for _ in range(500):
        began = time.perf_counter()
        answer = await client.find("skill-0", limit=10)
        latencies.append(time.perf_counter() - began)
        if len(answer.candidates) != 10:
            raise AssertionError(f"found {len(answer.candidates)} of 10: {json.dumps(str(answer))[:200]}")
    return latencies
