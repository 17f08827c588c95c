"""The hub's link to its parent: the dialing end of an edge, over the hub's own logs.

Theory of operation. Up go the one message log, of which the parent is a consumer like any subscription, the task log that
`upstream` fills, and the registry of the whole fleet, each agent named with its path. Down come tasks. So a hub adds
nothing to the protocol; what it adds is its place in the tree: the Welcome says which hubs are above, and when that changes
the hubs below are sent away to dial again and learn it in turn. Whoever finds itself above itself refuses the link with
LOOP_IN_TREE (`greeting`), so a circle lives no longer than the path needs to run around it. Meanwhile nothing circles in it:
messages are known by the key of their origin, tasks by their id, and names have a bound on their length. A hub remembers
its path while its parent is out of reach, so that nobody below is disturbed; one that was refused for a loop takes itself for
a root, and chance decides which link of a circle is the one that stays away.

While the parent is out of reach, everything within the fleet goes on. Messages wait in the log, which holds up its edges once
it is full; tasks that nobody here fits wait here.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass

import grpc

import edgenode
from edgenode.api.admin.v1 import admin_pb2
from edgenode.api.registry.v1 import registry_service_pb2
from edgenode.api.sync.v1 import sync_pb2
from edgenode.link.model.frames import AgentLoad
from edgenode.link.model.lanes import Lane
from edgenode.link.model.names import below, seen_from
from edgenode.link.model.problem import Problem
from edgenode.link.parent.membership import link_status
from edgenode.link.ports import Clock, Inbox, Rng
from edgenode.link.protocol.events import MOVE_GRACE, MOVED
from edgenode.link.protocol.greeting import LOOP_IN_TREE
from edgenode.link.protocol.timers import Timer
from edgenode.link.store.outbox import OnAcknowledged, SqliteOutbox
from edgenode.link.wire.connection import LinkConnection, LinkEvents
from edgenode.link.wire.dialing import DialingEnd, DialingSettings
from hub.services.alarm import Alarm
from hub.services.upward_registry import UpwardRegistry
from hub.services.view import FleetView, KnownAgent

FIND_TIMEOUT = 2.0  # seconds; less than an edge waits for its hub

_log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True, kw_only=True)
class ParentPorts:
    """What a hub that has joined a parent knows of it; the composition gives it.

    `child` is the name by which the parent knows this hub, `identity` the name in its certificate, `address` HOST:PORT.
    """

    child: str
    identity: str
    address: str
    open_channel: Callable[[], Awaitable[grpc.aio.Channel]]
    unreachable: Callable[[], None]
    refusal: Callable[[], Problem | None]
    generation: Callable[[], int]
    settings: DialingSettings


class Above(LinkEvents):
    """What the services do about the parent's comings, goings and frames; see LinkEvents."""

    def path_changed(self, path: tuple[str, ...]) -> None:
        """These hubs are above, from the root down to the parent."""

    def up(self) -> None:
        """The session that was established counts as up: what is sent goes out."""

    def lost(self) -> None:
        """What lives as long as a session is lost."""


class Uplink(LinkEvents):
    """`start` once everything works, `stop` before it ends; `path` is the way from the root of the tree to this hub."""

    def __init__(
        self,
        ports: ParentPorts,
        *,
        hub_id: str,
        boot_id: str,
        outbox: SqliteOutbox,
        inbox: Inbox,
        view: FleetView,
        above: Above,
        clock: Clock,
        rng: Rng,
        alarm: Alarm,
        acknowledged: OnAcknowledged,
    ) -> None:
        """`acknowledged` is told of what the parent has, and of what it would not take."""
        self.ports = ports
        self.path: tuple[str, ...] = ()
        self._outbox = outbox
        self._view = view
        self._above = above
        self._alarm = alarm
        self._registry = UpwardRegistry(view, ports.child, boot_id)
        self._following = False
        self._moving: Timer | None = None
        self._exchanging = ""  # boot id of the parent's process that knows of what is asked, here and there
        self._finds: dict[int, asyncio.Future[registry_service_pb2.FindAgentsResponse | None]] = {}
        self._find_number = 0
        outbox.on_acknowledged(acknowledged)
        self._dialing = DialingEnd(
            node=ports.child,
            boot_id=boot_id,
            generation=ports.generation,
            registry=self._registry.log,
            outbox=outbox,
            inbox=inbox,
            events=self,
            open_channel=ports.open_channel,
            unreachable=ports.unreachable,
            clock=clock,
            rng=rng,
            settings=ports.settings,
            software=f"edgehub/{edgenode.__version__}",
            hub=hub_id,
        )

    # --- for the composition ------------------------------------------------------------------------------------------

    async def start(self) -> None:
        """Begin to dial."""
        self._registry.follow()
        self._view.on_change(self._follow_soon)
        self._view.on_load(self._loads_changed)
        await self._dialing.start()

    async def stop(self) -> None:
        """Say goodbye and end. Safe to call twice."""
        await self._dialing.stop()
        self._end_move()

    async def redial(self) -> None:
        """Move to a fresh channel, e.g. after the certificate was renewed."""
        await self._dialing.redial()

    def status(self) -> admin_pb2.LinkStatus:
        """How the link is."""
        return link_status(self.ports.address, self._dialing.status(), self.ports.refusal())

    @property
    def connected(self) -> bool:
        """Whether the parent can be asked now."""
        return self._dialing.connection is not None

    # --- up -----------------------------------------------------------------------------------------------------------

    def appended(self, lane: Lane, last: int) -> None:
        """A log for the parent was committed up to `last`."""
        self._outbox.appended(lane, last)

    def send(self, frame: sync_pb2.Frame) -> bool:
        """Best effort, as LinkConnection.send; agents in answers to calls are named as the parent names them."""
        connection = self._dialing.connection
        if connection is None:
            return False
        for result in frame.calls.results:
            if result.agent:
                result.agent = below(self.ports.child, result.agent)
        return connection.send(frame)

    async def find(
        self, request: registry_service_pb2.FindAgentsRequest
    ) -> registry_service_pb2.FindAgentsResponse | None:
        """What the parent finds outside this fleet; None when it cannot be asked now."""
        self._find_number += 1
        number = self._find_number
        answer: asyncio.Future[registry_service_pb2.FindAgentsResponse | None] = (
            asyncio.get_running_loop().create_future()
        )
        self._finds[number] = answer
        try:
            if not self.send(sync_pb2.Frame(find=sync_pb2.FindExchange(find_id=number, request=request))):
                return None
            async with asyncio.timeout(FIND_TIMEOUT):
                found = await answer
        except TimeoutError:
            _log.warning("the parent did not answer a find within %g s", FIND_TIMEOUT)
            return None
        finally:
            del self._finds[number]
        if found is not None:
            own = f"nodes/{self.ports.child}/"
            others = [candidate for candidate in found.candidates if not candidate.agent.name.startswith(own)]
            del found.candidates[:]
            found.candidates.extend(others)
        return found

    def _follow_soon(self) -> None:
        if not self._following:
            self._following = True
            asyncio.get_running_loop().call_soon(self._follow)

    def _follow(self) -> None:
        self._following = False
        if self._registry.follow():
            self._dialing.registry_changed()

    def _loads_changed(self, agents: Sequence[KnownAgent]) -> None:
        if self.connected:
            self._dialing.report_loads(
                [
                    AgentLoad(below(self.ports.child, agent.view.name), agent.in_flight, agent.queue_depth)
                    for agent in agents
                ]
            )

    # --- what the link tells ------------------------------------------------------------------------------------------

    def established(self, link: LinkConnection) -> None:
        """See LinkEvents."""
        self._end_move()
        if self._exchanging not in ("", link.peer.boot_id):  # this one knows nothing of it, and has numbers of its own
            self._lost()
        self._exchanging = link.peer.boot_id
        self._move_to(link.peer.path)
        self._above.established(link)
        # On the next turn: the session counts as up only once this returned.
        asyncio.get_running_loop().call_soon(self._up, link)

    def refused(self, problem: Problem) -> None:
        """See LinkEvents. In a circle what everybody remembers of its path would keep everybody out for ever."""
        if problem.reason == LOOP_IN_TREE:
            self._move_to(())

    def _move_to(self, path: tuple[str, ...]) -> None:
        if path != self.path:
            self.path = path
            self._above.path_changed(path)

    def _up(self, link: LinkConnection) -> None:
        if link.established:
            self._above.up()

    def room(self, link: LinkConnection) -> None:
        """See LinkEvents."""
        self._above.room(link)

    def closed(self, link: LinkConnection, problem: Problem) -> None:
        """See LinkEvents."""
        self._above.closed(link, problem)
        if problem.reason == MOVED:
            self._end_move()
            self._moving = self._alarm.after(MOVE_GRACE, self._move_failed)
        else:
            self._lost()

    def _end_move(self) -> None:
        if self._moving is not None:
            self._moving.cancel()
            self._moving = None

    def _move_failed(self) -> None:
        self._moving = None
        self._lost()

    def _lost(self) -> None:
        self._exchanging = ""
        self._above.lost()
        for answer in self._finds.values():
            if not answer.done():
                answer.set_result(None)

    async def on_calls(self, link: LinkConnection, message: sync_pb2.CallBatch) -> None:
        """See LinkEvents: calls for agents here, answers to calls from here."""
        for call in message.calls:
            if call.spec.agent:
                call.spec.agent = seen_from(self.ports.child, call.spec.agent)
        await self._above.on_calls(link, message)

    async def on_blobs(self, link: LinkConnection, message: sync_pb2.BlobExchange) -> None:
        """See LinkEvents."""
        await self._above.on_blobs(link, message)

    async def on_notices(self, link: LinkConnection, message: sync_pb2.NoticeBatch) -> None:
        """See LinkEvents."""
        await self._above.on_notices(link, message)

    async def on_find(self, link: LinkConnection, message: sync_pb2.FindExchange) -> None:
        """See LinkEvents."""
        answer = self._finds.get(message.find_id)
        if answer is None or message.HasField("request") or message.HasField("list_request"):
            await super().on_find(link, message)
        elif not answer.done():
            answer.set_result(message.response if message.HasField("response") else None)
