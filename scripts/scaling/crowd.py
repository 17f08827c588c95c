"""A hub's core behind streams that are only lists, and edges that say what an idle edge says.

The hub is the product's own: `hub.services.core.Core` with its store in SQLite, its accepting end, and for each edge a link
session under its driver. What is missing is gRPC, TLS and the network, and what reading a certificate costs. An edge is a
few prepared frames, so that what is measured is the hub's.
"""

from __future__ import annotations

import asyncio
import random
from collections import deque
from collections.abc import AsyncIterator, Sequence
from pathlib import Path
from typing import Any

from edgenode.api.registry.v1 import registry_pb2
from edgenode.api.sync.v1 import sync_pb2, sync_service_pb2
from edgenode.link.errors import Unavailable
from edgenode.link.store.database import Database
from hub.ca.authority import Authority, init_authority
from hub.config import HubConfig
from hub.services.alarm import Alarm
from hub.services.core import Core
from hub.store.schema import open_database
from scripts.scaling.virtual import VirtualLoop, connect_inline

AT_ONCE = 500  # edges that greet together while the crowd gathers
NARROW = 10  # agents that share a rare skill
SITES = 100  # values of the label `site`
EVERYWHERE = "sensor.read"  # a skill that every edge has
WINDOW = sync_pb2.LaneCredit(added_bytes=4 << 20, added_count=32_768)


def rare_skill(number: int) -> str:
    """A skill that this edge and nine others have."""
    return f"rare.skill-{number // NARROW}"


class Edge:
    """One edge: what it sends waits in a list, what it gets is counted. It is the hub's request iterator and context."""

    __slots__ = (
        "_ended",
        "_number",
        "_outgoing",
        "_version",
        "_waiter",
        "greeted",
        "heard",
        "name",
        "task",
    )

    def __init__(self, number: int) -> None:
        self._number = number
        self.name = f"edge-{number:06d}"
        self._outgoing: deque[sync_service_pb2.SyncRequest] = deque()
        self._waiter: asyncio.Future[None] | None = None
        self._ended = False
        self._version = 1
        self.greeted = 0
        self.heard: dict[str, int] = {}
        self.task: asyncio.Task[None] | None = None

    @property
    def agent(self) -> str:
        """The full name of its one agent."""
        return f"nodes/{self.name}/agents/worker"

    # --- what it says -------------------------------------------------------------------------------------------------

    def send(self, *frames: sync_pb2.Frame) -> None:
        """One message for the hub."""
        self._outgoing.append(sync_service_pb2.SyncRequest(frames=frames))
        waiter, self._waiter = self._waiter, None
        if waiter is not None and not waiter.done():
            waiter.set_result(None)

    def hello(self) -> None:
        """Greet."""
        epoch = f"epoch-{self._number}"
        hello = sync_pb2.Hello(
            node=self.name,
            boot_id=f"boot-{self._number}",
            generation=1,
            heads=[
                sync_pb2.LaneHead(lane=lane, epoch=epoch, first_sequence=1, last_sequence=0)
                for lane in (sync_pb2.LANE_TASK, sync_pb2.LANE_MESSAGE)
            ],
            registry_epoch=epoch,
            registry_version=self._version,
            min_protocol_version=1,
            max_protocol_version=1,
            software="edgenode/0",
        )
        for lane in (sync_pb2.LANE_CONTROL, sync_pb2.LANE_TASK):
            hello.credits.add(lane=lane, added_bytes=WINDOW.added_bytes, added_count=WINDOW.added_count)
        self.send(sync_pb2.Frame(hello=hello))

    def tell_registry(self, *, health_reason: str = "", snapshot: bool = False) -> None:
        """Its agent, as a snapshot or as a change."""
        if not snapshot:
            self._version += 1
        agent = registry_pb2.Agent(
            name=self.agent,
            version=self._version,
            card=registry_pb2.AgentCard(
                name="worker",
                description="reads a sensor and tells what it saw",
                skills=[
                    registry_pb2.Skill(id=EVERYWHERE, name="read a sensor", tags=["sensor"]),
                    registry_pb2.Skill(id=rare_skill(self._number), name="what few can do"),
                ],
            ),
            runtime=registry_pb2.AgentRuntime(
                instance_id="instance",
                incarnation=1,
                node=self.name,
                health=registry_pb2.HEALTH_DEGRADED if health_reason else registry_pb2.HEALTH_READY,
                health_reason=health_reason,
                capacity_count=4,
                labels={"site": f"site-{self._number % SITES}"},
            ),
        )
        delta = sync_pb2.RegistryDelta(
            epoch=f"epoch-{self._number}", version=self._version, agents=[agent], snapshot=snapshot
        )
        self.send(sync_pb2.Frame(registry_delta=delta))

    def beat(self, in_flight: int | None = None) -> None:
        """A heartbeat, perhaps with the load of its agent."""
        beat = sync_pb2.Heartbeat(number=1)
        if in_flight is not None:
            beat.loads.add(agent=self.agent, in_flight_count=in_flight)
        self.send(sync_pb2.Frame(heartbeat=beat))

    def leave(self) -> None:
        """End the stream."""
        self._ended = True
        waiter, self._waiter = self._waiter, None
        if waiter is not None and not waiter.done():
            waiter.set_result(None)

    # --- the request iterator -----------------------------------------------------------------------------------------

    def __aiter__(self) -> AsyncIterator[Any]:
        return self

    async def __anext__(self) -> Any:
        while not self._outgoing:
            if self._ended:
                raise StopAsyncIteration
            self._waiter = asyncio.get_running_loop().create_future()
            await self._waiter
        return self._outgoing.popleft()

    # --- the context --------------------------------------------------------------------------------------------------

    async def write(self, response: sync_service_pb2.SyncResponse) -> None:
        """What the hub says."""
        for frame in response.frames:
            kind = frame.WhichOneof("frame") or ""
            self.heard[kind] = self.heard.get(kind, 0) + 1
            if kind == "welcome":
                self.greeted += 1
                if frame.welcome.registry_version < self._version:
                    self.tell_registry(snapshot=True)
            elif kind == "calls" and frame.calls.calls:
                results = [sync_pb2.CallResult(call_id=call.call_id) for call in frame.calls.calls]
                self.send(sync_pb2.Frame(calls=sync_pb2.CallBatch(results=results)))

    def begin(self) -> None:
        """A new stream."""
        self._ended = False
        self._outgoing.clear()


class Fleet:
    """A hub and its edges. `await start()` once; the edges come with `gather`."""

    def __init__(self, loop: VirtualLoop, folder: Path, count: int) -> None:
        self.loop = loop
        self.folder = folder
        self.edges = [Edge(number) for number in range(count)]
        self.rng = random.Random(1)
        self.core: Core
        self.database: Database

    async def start(self) -> None:
        """The hub, with an empty store."""
        state = self.folder / "hub"
        init_authority(state, "fleet.example", "hub", self.loop)
        # Long, so that what an edge costs while it is silent can be told from what its heartbeats cost.
        self.config = HubConfig(state_dir=state, log_level="error", heartbeat_seconds=600.0, lease_seconds=1800.0)
        self.database = await open_database(self.config.store_path, 64 << 30, connect_inline)
        self.core = Core(
            self.config,
            Authority.load(state, self.loop),
            self.database,
            self.loop,
            self.rng,
            Alarm(self.loop),
        )
        await self.core.start()

    async def stop(self) -> None:
        """Every session ends, then the hub."""
        self.core.calls.close()
        problem = Unavailable("SHUTDOWN", "the hub is stopping").problem
        for edge in self.edges:
            edge.leave()
        await self.core.end.close_all(problem)
        await asyncio.gather(*(edge.task for edge in self.edges if edge.task is not None), return_exceptions=True)
        await self.core.stop()
        await self.database.close()

    def dial(self, edge: Edge) -> None:
        """Open a stream and greet."""
        edge.begin()
        edge.hello()
        edge.task = asyncio.create_task(self.core.end.serve(edge.name, edge, edge))  # type: ignore[arg-type]

    async def gather(self, edges: Sequence[Edge]) -> None:
        """These come, some at a time, and each is up and has told of its agent before the next come."""
        for first in range(0, len(edges), AT_ONCE):
            group = edges[first : first + AT_ONCE]
            for edge in group:
                self.dial(edge)
            await asyncio.sleep(1.0)

    async def part(self, edges: Sequence[Edge]) -> None:
        """These end their streams."""
        for edge in edges:
            edge.leave()
        await asyncio.gather(*(edge.task for edge in edges if edge.task is not None), return_exceptions=True)

    @property
    def staying(self) -> list[Edge]:
        """Those whose stream is open."""
        return [edge for edge in self.edges if edge.task is not None and not edge.task.done()]

    def heard(self, kind: str) -> int:
        """How many frames of a kind the edges got from the hub."""
        return sum(edge.heard.get(kind, 0) for edge in self.edges)

    def drawn(self, count: int) -> list[Edge]:
        """So many of them, by chance."""
        return self.rng.sample(self.edges, min(count, len(self.edges)))

    @property
    def store_bytes(self) -> int:
        """The store's file and its log."""
        return self.database.file_bytes()
