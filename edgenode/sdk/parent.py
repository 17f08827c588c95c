"""A parent for nodes under test: the real accepting end of the link over mutual TLS, with stores in memory.

It stores and acknowledges what its one child sends, and keeps it in plain sight. It is no hub: it runs no tasks, so work
offered to the fleet stays offered, and calls that only another node could answer fail as they do when the hub has nobody.
"""

from __future__ import annotations

import asyncio
import itertools
from collections.abc import AsyncIterator, Callable, Sequence
from typing import Any

import grpc

from edgenode.api.message.v1 import message_pb2
from edgenode.api.sync.v1 import sync_pb2, sync_service_pb2_grpc
from edgenode.link.errors import InvalidArgument, Unavailable
from edgenode.link.identity.credentials import ServerIdentity
from edgenode.link.model.agent import RegistryEntry
from edgenode.link.model.frames import Hello, RegistryDelta
from edgenode.link.model.lanes import Applied, Chunk, Gap, Lane, LaneCursor, LaneHead, Rejection, Segment
from edgenode.link.model.problem import Problem
from edgenode.link.ports import SystemClock
from edgenode.link.protocol.registry import RegistryChanges, RegistryReplica
from edgenode.link.wire.accepting import AcceptingEnd, Child
from edgenode.link.wire.channels import bind, create_server
from edgenode.link.wire.connection import LinkConnection, LinkEvents
from edgenode.link.wire.interceptors import ServiceInterceptor
from edgenode.link.wire.listening import Listener, relay
from edgenode.sdk.credentials import ParentCredentials

NAME = "parent"
_LANES = (Lane.TASK, Lane.MESSAGE)


class _NothingToSend:
    """The outbox of a parent that has nothing to say."""

    async def heads(self) -> Sequence[LaneHead]:
        """See Outbox."""
        return [LaneHead(Lane.TASK, "nothing", 1, 0)]

    async def read(self, lane: Lane, after: int, max_count: int, max_bytes: int) -> Chunk:
        """See Outbox."""
        return Chunk(after + 1, ())

    async def acknowledged(self, lane: Lane, epoch: str, sequence: int, rejections: Sequence[Rejection]) -> None:
        """See Outbox."""

    async def renew_epoch(self, lane: Lane) -> LaneHead:
        """See Outbox."""
        return LaneHead(lane, "nothing", 1, 0)

    def on_append(self, notify: Callable[[Lane, int], None]) -> None:
        """See Outbox."""


class _Inbox:
    """Entries by lane with their cursors, decoded as they come; each once."""

    def __init__(self) -> None:
        self.messages: list[message_pb2.Message] = []
        self.task_entries: list[sync_pb2.TaskEntry] = []
        self.duplicates = 0
        self._cursors: dict[Lane, tuple[str, int]] = {}

    async def cursors(self, _heads: Sequence[LaneHead] = ()) -> Sequence[LaneCursor]:
        """See Inbox."""
        return [LaneCursor(lane, *self._cursors.get(lane, ("", 0))) for lane in _LANES]

    async def apply(self, lane: Lane, epoch: str, base: int, segments: Sequence[Segment], gap: Gap | None) -> Applied:
        """See Inbox."""
        known, cursor = self._cursors.get(lane, (epoch, 0))
        if known != epoch:
            cursor = 0
        entries: list[Any] = list(itertools.chain.from_iterable(_decode(lane, segment) for segment in segments))
        if base > cursor + 1 and not gap:
            raise InvalidArgument("MISSING_ENTRIES", f"{lane.name} goes on at {base}, expected {cursor + 1}")
        known_count = min(max(cursor + 1 - base, 0), len(entries))
        self.duplicates += known_count
        kept: list[Any] = self.messages if lane is Lane.MESSAGE else self.task_entries
        kept.extend(entries[known_count:])
        last = max(cursor, base - 1 + len(entries))
        self._cursors[lane] = (epoch, last)
        return Applied(last)


def _decode(lane: Lane, segment: Segment) -> Sequence[Any]:
    if lane is Lane.MESSAGE:
        return message_pb2.MessageBatch.FromString(segment.payload).messages
    return sync_pb2.TaskEntryBatch.FromString(segment.payload).entries


class _Replica:
    """The child's registry."""

    def __init__(self) -> None:
        self.entries: dict[str, RegistryEntry] = {}
        self._epoch = ""
        self._version = 0

    async def load(self) -> RegistryReplica:
        """See ReplicaStore."""
        return RegistryReplica(self._epoch, self._version, self.entries.values())

    async def commit(self, delta: RegistryDelta, changes: RegistryChanges) -> None:
        """See ReplicaStore."""
        for name in changes.removals:
            self.entries.pop(name, None)
        self.entries.update({entry.name: entry for entry in changes.upserts})
        self._epoch, self._version = changes.epoch, changes.version


class _Events(LinkEvents):
    """Tells when the link is up."""

    def __init__(self) -> None:
        self.up = asyncio.Event()

    def established(self, link: LinkConnection) -> None:
        """See LinkEvents."""
        self.up.set()

    def closed(self, link: LinkConnection, problem: Problem) -> None:
        """See LinkEvents."""
        self.up.clear()


class _Wire:
    """What lies between child and parent: connections that can be cut, and refused, in the middle of anything."""

    def __init__(self) -> None:
        self._listener = Listener(self._pass_on)
        self._whole = True
        self._back = 0

    async def start(self) -> int:
        """Listens; returns the port to dial."""
        return await self._listener.open()

    def lead_to(self, port: int) -> None:
        """Where connections go."""
        self._back = port

    async def close(self) -> None:
        """Cuts everything and stops. Safe to repeat."""
        self._whole = False
        await self._listener.close()

    def cut(self) -> None:
        """No connection from now on."""
        self._whole = False
        self._listener.cut()

    def mend(self) -> None:
        """Connections are possible again."""
        self._whole = True

    async def _pass_on(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        if self._whole:
            await relay(reader, writer, self._back)


class Parent(sync_service_pb2_grpc.SyncServiceServicer):
    """See the module. `cut` and `mend` break and restore the link to the node named `child`."""

    def __init__(self, child: str, credentials: ParentCredentials) -> None:
        self._child = child
        self._credentials = credentials
        self._wire = _Wire()
        self._inbox = _Inbox()
        self._replica = _Replica()
        self._outbox = _NothingToSend()
        self._events = _Events()
        self._fence = 0
        self._server: grpc.aio.Server | None = None
        self._end = AcceptingEnd(node=NAME, boot_id="parent-1", open_child=self._open_child, clock=SystemClock())

    @property
    def messages(self) -> list[message_pb2.Message]:
        """The messages that arrived, in order."""
        return self._inbox.messages

    @property
    def task_entries(self) -> list[sync_pb2.TaskEntry]:
        """The entries of the task lane that arrived, in order."""
        return self._inbox.task_entries

    @property
    def duplicates(self) -> int:
        """Entries that came again and were discarded."""
        return self._inbox.duplicates

    @property
    def agents(self) -> set[str]:
        """Full names of the agents the child told of."""
        return set(self._replica.entries)

    @property
    def connected(self) -> bool:
        """Whether the link is up."""
        return self._events.up.is_set()

    async def wait_connected(self, timeout: float) -> None:
        """Waits for the link. Raises Unavailable (LINK_DOWN) after `timeout` seconds."""
        try:
            await asyncio.wait_for(self._events.up.wait(), timeout)
        except TimeoutError:
            raise Unavailable("LINK_DOWN", f"the link was not up within {timeout:g} s") from None

    async def _open_child(self, node: str) -> Child:
        async def admit(hello: Hello) -> int:
            self._fence += 1
            return self._fence

        return Child(outbox=self._outbox, inbox=self._inbox, replica=self._replica, events=self._events, admit=admit)

    async def Sync(self, request_iterator: AsyncIterator[Any], context: Any) -> None:
        """See the contract."""
        await self._end.serve(self._child, request_iterator, context)

    async def start(self) -> str:
        """Takes connections; returns the address (HOST:PORT) to dial."""
        port = await self._wire.start()
        self._server = server = create_server(ServiceInterceptor())
        sync_service_pb2_grpc.add_SyncServiceServicer_to_server(self, server)
        tls = ServerIdentity(self._credentials.pair).mutual_credentials(self._credentials.authority)
        self._wire.lead_to(bind(server, "127.0.0.1:0", tls))
        await server.start()
        return f"127.0.0.1:{port}"

    def cut(self) -> None:
        """Breaks the link in the middle of whatever it carries, and keeps it broken."""
        self._wire.cut()

    def mend(self) -> None:
        """Lets the child connect again; it comes back at its own pace."""
        self._wire.mend()

    async def close(self) -> None:
        """Says goodbye and stops. Safe to repeat."""
        server, self._server = self._server, None
        if server is not None:
            await self._end.close_all(Unavailable("SHUTDOWN", "the parent stops").problem)
        await self._wire.close()
        if server is not None:
            await server.stop(None)
