"""The ground of the cases with a hub, or with much there already: a hub and edges, and what is done with them.

The cases drive the same commands as a user, and ask each process for its own figures.
"""

from __future__ import annotations

import asyncio
import signal
import sys
import time
from collections.abc import AsyncIterator, Iterable, Mapping
from contextlib import asynccontextmanager
from pathlib import Path

import psutil

from edgenode.cli.demo.fleet import DOMAIN, EDGEHUB, EDGENODE, Fleet
from edgenode.link.ports import SystemClock
from edgenode.sdk import Client
from hub.ca.authority import init_authority
from scripts.benchmarks.cases import scratch
from scripts.benchmarks.processes import Child, cpu_seconds, tied
from scripts.benchmarks.rounds import PAYLOAD

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
PATIENCE = 300.0  # seconds for what a case waits for


class Ground:
    """A hub and an edge that joined it, below one folder; each is started when a case needs it."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._fleet = Fleet(folder)
        self._ports = ("127.0.0.1:0", "127.0.0.1:0")
        self._bare: list[Child] = []
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
        self.sync_port = await self._fleet.serve_hub(*self._ports, command=tied(EDGEHUB), environment=OPEN_DOOR)
        self._ports = (f"127.0.0.1:{self.sync_port}", self._fleet.enroll_address)

    async def start_edge(
        self, name: str = EDGE, *, port: int | None = None, settings: Mapping[str, str] | None = None
    ) -> float:
        """Seconds from exec to the ready line. `port`: where it dials, if not the hub itself."""
        began = time.perf_counter()
        environment = {**ROOMY, **(settings or {})}
        await self._fleet.start_edge(
            name, self.sync_port if port is None else port, command=tied(EDGENODE), environment=environment
        )
        return time.perf_counter() - began

    def state(self, name: str) -> Path:
        """The state directory of an edge."""
        return self._fleet.state(name)

    async def spawn(self, name: str, *arguments: str) -> asyncio.StreamReader:
        """Another process; its standard output."""
        child = await self._fleet.spawn(name, tied([sys.executable]), *arguments)
        assert child.process.stdout is not None
        return child.process.stdout

    def start_bare(self, module: str, *arguments: object) -> Child:
        """A part of a bare limit, once it is ready."""
        command = [sys.executable, "-m", f"scripts.benchmarks.{module}", *map(str, arguments)]
        child = Child(f"{module} {arguments[0]}", command, self.folder / f"{module}.log")
        self._bare.append(child)
        return child

    def end_bare(self) -> None:
        """End every part of the bare limits, newest first."""
        while self._bare:
            self._bare.pop().stop()

    async def stop(self, name: str) -> None:
        """By SIGTERM, as a service manager does."""
        await self._fleet.children[name].stop()

    async def end(self) -> None:
        """Everything that still runs, at once."""
        self.end_bare()
        for child in self._fleet.children.values():
            if child.process.returncode is None:
                child.process.send_signal(signal.SIGKILL)
                await child.process.wait()

    def usage(self, name: str) -> psutil.Process:
        """What the system knows of a process."""
        return psutil.Process(self._fleet.children[name].process.pid)

    def cpu_seconds(self, name: str) -> float:
        """CPU time of a process so far."""
        return cpu_seconds(self.usage(name))

    def resident(self, name: str) -> int:
        """Bytes of memory of a process."""
        return int(self.usage(name).memory_info().rss)

    async def calm(self, name: str) -> None:
        """Wait until a process has done what it does behind its answers."""
        async with asyncio.timeout(PATIENCE):
            before = -1.0
            while (now := self.cpu_seconds(name)) - before > CALM_SECONDS / 20:
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
