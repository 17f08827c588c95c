"""Both ends of a link over real gRPC on loopback, with stores in memory and times cut short."""

import asyncio
import random
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any

import grpc

from edgenode.api.sync.v1 import sync_pb2, sync_service_pb2_grpc
from edgenode.link.errors import EdgenodeError, Unavailable
from edgenode.link.model.frames import AgentLoad, Hello
from edgenode.link.model.lanes import Lane
from edgenode.link.model.problem import Problem
from edgenode.link.ports import SystemClock
from edgenode.link.protocol.registry import RegistryLog
from edgenode.link.protocol.session import SessionConfig
from edgenode.link.wire.accepting import AcceptingEnd, AcceptingSettings, Child
from edgenode.link.wire.channels import bind, create_server, open_channel
from edgenode.link.wire.connection import LinkConnection, LinkEvents
from edgenode.link.wire.dialing import DialingEnd, DialingSettings
from edgenode.link.wire.driver import DriverSettings
from edgenode.link.wire.interceptors import ServiceInterceptor
from edgenode.link.wire.listening import Listener, relay, take
from tests.integration.link.memory import MemoryInbox, MemoryOutbox, MemoryReplica

DRIVER = DriverSettings(
    session=SessionConfig(heartbeat=0.2, lease=2.0, greeting_timeout=5.0, closing_timeout=1.0, batch_count=200),
    finish_timeout=0.5,
)
DIALING = DialingSettings(driver=DRIVER, initial_backoff=0.02, max_backoff=0.2, stable_after=60.0, connect_timeout=5.0)


async def eventually(condition: Callable[..., Any], *arguments: Any, timeout: float = 15.0) -> None:
    """Waits until `condition(*arguments)` holds."""
    async with asyncio.timeout(timeout):
        while not condition(*arguments):  # noqa: ASYNC110 - what is waited for happens in grpc, without an event
            await asyncio.sleep(0.005)


class Recorder(LinkEvents):
    """Keeps what it is told."""

    def __init__(self) -> None:
        self.links: list[LinkConnection] = []
        self.problems: list[Problem] = []
        self.calls: list[sync_pb2.CallBatch] = []
        self.notices: list[sync_pb2.NoticeBatch] = []
        self.loads: list[AgentLoad] = []
        self.rooms = 0

    def established(self, link: LinkConnection) -> None:
        self.links.append(link)

    def room(self, link: LinkConnection) -> None:
        self.rooms += 1

    def closed(self, link: LinkConnection, problem: Problem) -> None:
        assert link in self.links
        self.problems.append(problem)

    async def on_calls(self, link: LinkConnection, message: sync_pb2.CallBatch) -> None:
        self.calls.append(message)

    async def on_notices(self, link: LinkConnection, message: sync_pb2.NoticeBatch) -> None:
        self.notices.append(message)

    async def on_heartbeat_loads(self, link: LinkConnection, loads: Sequence[AgentLoad]) -> None:
        self.loads += loads


@dataclass
class Side:
    """The stores and events of one end."""

    outbox: MemoryOutbox = field(default_factory=MemoryOutbox)
    inbox: MemoryInbox = field(default_factory=MemoryInbox)
    events: Recorder = field(default_factory=Recorder)


class Hub:
    """An accepting end and its server; every stream comes with the certificate of `certified`."""

    def __init__(self, settings: AcceptingSettings | None = None) -> None:
        self.sides: dict[str, Side] = {}
        self.replicas: dict[str, MemoryReplica] = {}
        self.fences: dict[str, int] = {}
        self.hellos: list[Hello] = []
        self.refusal: EdgenodeError | None = None
        self.end = AcceptingEnd(
            node="hub",
            boot_id="hub-boot",
            open_child=self._open_child,
            clock=SystemClock(),
            settings=settings or AcceptingSettings(driver=DRIVER),
        )
        self.certified = "north"
        self.port = 0
        self.server: grpc.aio.Server | None = None

    def side(self, node: str) -> Side:
        return self.sides.setdefault(node, Side())

    async def _open_child(self, node: str) -> Child:
        side = self.side(node)

        async def admit(hello: Hello) -> int:
            self.hellos.append(hello)
            if self.refusal is not None:
                raise self.refusal
            self.fences[node] = self.fences.get(node, 0) + 1
            return self.fences[node]

        replica = self.replicas.setdefault(node, MemoryReplica())
        return Child(outbox=side.outbox, inbox=side.inbox, replica=replica, events=side.events, admit=admit)

    async def start(self) -> None:
        hub = self

        class Servicer(sync_service_pb2_grpc.SyncServiceServicer):
            async def Sync(self, request_iterator: Any, context: Any) -> None:
                await hub.end.serve(hub.certified, request_iterator, context)

        self.server = create_server(ServiceInterceptor())
        sync_service_pb2_grpc.add_SyncServiceServicer_to_server(Servicer(), self.server)
        self.port = bind(self.server, f"127.0.0.1:{self.port}", plaintext_loopback=True)
        await self.server.start()

    async def stop(self) -> None:
        """Like a kill: the server goes, nobody says goodbye."""
        if self.server is not None:
            server, self.server = self.server, None
            await server.stop(0)


class Proxy:
    """A TCP proxy that can cut its connections, or keep them open and pass nothing on."""

    def __init__(self, port: Callable[[], int]) -> None:
        self._target = port
        self._listener = Listener(self._serve)
        self.port = 0
        self.passing = asyncio.Event()
        self.passing.set()
        self.accepted = 0

    async def start(self) -> None:
        self.port = await self._listener.open()

    async def stop(self) -> None:
        await self._listener.close()

    def cut(self) -> None:
        """Closes every connection."""
        self._listener.cut()

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.accepted += 1
        await relay(reader, writer, self._target(), self._take, self._take)

    async def _take(self, reader: asyncio.StreamReader) -> bytes:
        data = await take(reader)
        await self.passing.wait()
        return data


class Edge:
    """A dialing end that dials `target()`."""

    def __init__(
        self,
        target: Callable[[], str],
        node: str = "north",
        settings: DialingSettings = DIALING,
        registry: RegistryLog | None = None,
        seed: int = 1,
    ) -> None:
        self.side = Side()
        self.channels = 0
        self.unready: Callable[[], Awaitable[None]] | None = None
        self._target = target
        self.end = DialingEnd(
            node=node,
            boot_id=f"{node}-boot",
            generation=lambda: 7,
            registry=registry,
            outbox=self.side.outbox,
            inbox=self.side.inbox,
            events=self.side.events,
            open_channel=self._open,
            clock=SystemClock(),
            rng=random.Random(seed),
            settings=settings,
            software="edgenode/test",
        )

    async def _open(self) -> grpc.aio.Channel:
        if self.unready is not None:
            await self.unready()
        self.channels += 1
        return open_channel(self._target(), plaintext_loopback=True)

    @property
    def up(self) -> bool:
        return self.end.connection is not None


@dataclass
class Rig:
    """A hub, a proxy before it, and an edge behind that."""

    hub: Hub
    proxy: Proxy
    edge: Edge


@asynccontextmanager
async def linked(
    hub: Hub | None = None, settings: DialingSettings = DIALING, registry: RegistryLog | None = None
) -> AsyncIterator[Rig]:
    """The rig, with the link up."""
    hub = hub or Hub()
    await hub.start()
    proxy = Proxy(lambda: hub.port)
    await proxy.start()
    edge = Edge(lambda: f"127.0.0.1:{proxy.port}", settings=settings, registry=registry)
    await edge.end.start()
    try:
        await eventually(lambda: edge.up and hub.end.connections)
        yield Rig(hub, proxy, edge)
    finally:
        proxy.passing.set()
        await edge.end.stop()
        await hub.end.close_all(Unavailable("SHUTDOWN", "the hub stops").problem)
        await hub.stop()
        await proxy.stop()


def fill(outbox: MemoryOutbox, lane: Lane, start: int, count: int, segment: int = 10) -> list[bytes]:
    """Appends entries `start` to `start + count - 1`; returns them."""
    entries = [b"%d:%d" % (lane, number) for number in range(start, start + count)]
    for index in range(0, count, segment):
        outbox.append(lane, entries[index : index + segment])
    return entries
