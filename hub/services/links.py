"""The hub's side of its links: what belongs to each node, and who is connected."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol

from google.protobuf.message import DecodeError

from edgenode.api.registry.v1 import registry_pb2
from edgenode.api.sync.v1 import sync_pb2
from edgenode.link.errors import Aborted, EdgenodeError, InvalidArgument, PermissionDenied
from edgenode.link.model.agent import RegistryEntry
from edgenode.link.model.frames import AgentLoad, Hello, RegistryDelta
from edgenode.link.model.lanes import Applied, Gap, Lane, LaneCursor, LaneHead, Segment
from edgenode.link.model.names import parse_agent_resource
from edgenode.link.model.problem import Problem
from edgenode.link.ports import Clock, Outbox
from edgenode.link.protocol.events import MOVE_GRACE, MOVED
from edgenode.link.protocol.greeting import by_lane
from edgenode.link.protocol.registry import RegistryChanges, RegistryReplica
from edgenode.link.protocol.timers import Timer
from edgenode.link.wire.accepting import Child
from edgenode.link.wire.agents import agent_view
from edgenode.link.wire.connection import LinkConnection, LinkEvents
from hub.services.alarm import Alarm
from hub.services.background import Background
from hub.services.view import FleetView, KnownAgent
from hub.store.ports import FleetStore, LinkStore
from hub.store.records import AgentRow, Intake, NodeRow
from hub.store.restating import TaskLane

_log = logging.getLogger(__name__)


class AppendableOutbox(Outbox, Protocol):
    """An outbox that is told of what others appended to its logs."""

    def appended(self, lane: Lane, last: int) -> None:
        """The log of `lane` was committed up to `last`."""
        ...


class LinkHandlers(Protocol):
    """What the services do about a node's frames and comings and goings."""

    async def ask_again(self, node: str, restate_id: str) -> None:
        """A session begins, and the node is to say again what tasks it has."""
        ...

    async def reconcile(self, node: str, grants: bool) -> None:
        """A session begins, and the node, a hub, or this one lacks what the other said; `grants`: the node does."""
        ...

    def node_connected(self, node: str, applied_version: int) -> None:
        """A session was established."""
        ...

    def session_began(self, node: str) -> None:
        """Any session was established, also one that follows a move."""
        ...

    def session_ended(self, node: str) -> None:
        """Any session ended, also one that another follows at once."""
        ...

    def node_disconnected(self, node: str, problem: Problem) -> None:
        """It ended, and no other follows at once."""
        ...

    def link_has_room(self, node: str) -> None:
        """What did not fit on the link to the node may fit now."""
        ...

    def blobs(self, node: str, message: sync_pb2.BlobExchange) -> None:
        """What the node asks, answers or tells of blobs."""
        ...

    async def calls(self, node: str, batch: sync_pb2.CallBatch) -> None:
        """Calls, answers and cancellations."""
        ...

    async def notices(self, node: str, batch: sync_pb2.NoticeBatch) -> None:
        """Progress of tasks the node holds."""
        ...

    async def find(self, node: str, exchange: sync_pb2.FindExchange) -> None:
        """A question to the fleet's registry."""
        ...

    async def desired_report(self, node: str, report: sync_pb2.DesiredStateReport) -> None:
        """What the node did with its desired state."""
        ...

    def admin_answer(self, node: str, answer: sync_pb2.AdminExchange) -> None:
        """The node's answer to a question to its administration."""
        ...


Apply = Callable[[Intake], Awaitable[Applied]]


@dataclass(frozen=True, slots=True)
class _Move:
    """A node between two sessions. `boot_id` tells the process that moved from one that was started meanwhile."""

    boot_id: str
    problem: Problem
    timer: Timer


MAX_WAITING = 1000  # frames kept for a node that changes its channel


class Links:
    """Gives the accepting end what belongs to each node, and the services a way to reach a node that is connected.

    A node that says MOVED as it goes is believed to come back at once: it counts as connected for MOVE_GRACE seconds.
    """

    def __init__(
        self,
        fleet: FleetStore,
        store: LinkStore,
        view: FleetView,
        clock: Clock,
        make_outbox: Callable[[str], AppendableOutbox],
        lanes: Mapping[Lane, Apply],
        handlers: LinkHandlers,
        lease: float,
        alarm: Alarm,
        outdated: Callable[[str, str, Hello], Awaitable[None]],
        answered: Callable[[str, str], None],
    ) -> None:
        """`outdated` refuses a process after which another one (its boot id) was let in, or returns: let it in after all.

        `answered` is told of a node's boot id that said something after it was let in.
        """
        self._outdated = outdated
        self._answered = answered
        self._alarm = alarm
        self._background = Background()
        self._moving: dict[str, _Move] = {}
        # What was sent to a node while its session ended: the session that follows a move takes it.
        self._waiting: dict[str, list[sync_pb2.Frame]] = {}
        self._fleet = fleet
        self._store = store
        self._view = view
        self._clock = clock
        self._make_outbox = make_outbox
        self._lanes = lanes
        self._handlers = handlers
        self._lease = lease
        self._outboxes: dict[str, AppendableOutbox] = {}
        self._connections: dict[str, LinkConnection] = {}
        self._unwelcome: dict[str, Problem] = {}
        self.rows: dict[str, NodeRow] = {}

    @property
    def connections(self) -> Mapping[str, LinkConnection]:
        """The live sessions by node."""
        return self._connections

    async def stop(self) -> None:
        """Wait for what the sessions had begun."""
        await self._background.close()

    async def open_child(self, node: str) -> Child:
        """What the accepting end needs for a node."""
        # Whether it may come was just looked up. What is said of it from here on holds for this session as well.
        self._unwelcome.pop(node, None)
        outbox = self._outboxes.get(node)
        if outbox is None:
            outbox = self._outboxes[node] = self._make_outbox(node)
        return Child(
            outbox=outbox,
            inbox=NodeInbox(node, self._store, self._lanes),
            replica=_NodeReplica(node, self._fleet, self._view, self.rows, self._background),
            events=_NodeEvents(node, self),
            admit=lambda hello: self._admit(node, hello),
        )

    def appended(self, node: str, lane: Lane, last: int) -> None:
        """A node's log was committed up to `last`."""
        outbox = self._outboxes.get(node)
        if outbox is not None:
            outbox.appended(lane, last)

    def reaches(self, node: str) -> bool:
        """Whether a node has a session, or is about to have the next one."""
        return node in self._connections or node in self._moving

    def moving(self, node: str) -> bool:
        """Whether the node has said that its next session follows at once."""
        return node in self._moving

    def send(self, node: str, frame: sync_pb2.Frame) -> bool:
        """Send best effort; False if the node is not connected or its link is full."""
        link = self._connections.get(node)
        if link is not None and link.established:
            return link.send(frame)
        waiting = self._waiting.setdefault(node, []) if link is not None or node in self._moving else None
        if waiting is None or len(waiting) >= MAX_WAITING:
            return False
        waiting.append(frame)
        return True

    def end(self, node: str, problem: Problem) -> None:
        """End the node's session, and any that is being let in and not up yet."""
        self._unwelcome[node] = problem
        link = self._connections.get(node)
        if link is not None:
            link.close(problem)

    async def _admit(self, node: str, hello: Hello) -> int:
        # A hub below this one has tasks of its own to tell apart from those of its nodes: its word is not waited for.
        lane = TaskLane(by_lane(hello.heads).get(Lane.TASK), by_lane(hello.cursors).get(Lane.TASK))
        tasks = None if hello.hub else lane
        while True:
            row = await self._fleet.open_session(
                node, hello.boot_id, hello.generation, hello.software, self._clock.wall(), hello.hub, tasks
            )
            if row is not None:
                break
            await self._outdated(node, self.rows[node].boot_id, hello)
        self.rows[node] = row
        if row.restate_id and tasks is not None:
            await self._handlers.ask_again(node, row.restate_id)
        elif tasks is None:
            here, there = await self._fleet.lacks_tasks(node, lane, self._clock.wall())
            if here or there:
                await self._handlers.reconcile(node, there)
        return row.fence

    def established(self, node: str, link: LinkConnection) -> None:
        """A session is up."""
        move = self._moving.pop(node, None)
        if move is not None:
            move.timer.cancel()
            if move.boot_id != link.peer.boot_id:  # it knows nothing of what the other one waited for
                self._gone(node, move.problem)
        self._connections[node] = link
        self._view.connected(node, self._clock.monotonic())
        self._handlers.node_connected(node, link.peer.applied_version)
        self._handlers.session_began(node)
        unwelcome = self._unwelcome.get(node)
        if unwelcome is not None:
            link.close(unwelcome)
        if move is not None:
            # On the next turn: the session counts as up only once this returned.
            asyncio.get_running_loop().call_soon(self._send_waiting, node)

    def answered(self, node: str, link: LinkConnection) -> None:
        """The node's process lived when it was let in."""
        self._answered(node, link.peer.boot_id)

    def _send_waiting(self, node: str) -> None:
        for frame in self._waiting.pop(node, ()):
            self.send(node, frame)

    def _move_failed(self, node: str, problem: Problem) -> None:
        if self._moving.pop(node, None) is not None:
            self._gone(node, problem)

    def closed(self, node: str, link: LinkConnection, problem: Problem) -> None:
        """A session ended."""
        if self._connections.get(node) is not link:
            return
        del self._connections[node]
        self._handlers.session_ended(node)
        if problem.reason == MOVED:
            timer = self._alarm.after(MOVE_GRACE, lambda: self._move_failed(node, problem))
            self._moving[node] = _Move(link.peer.boot_id, problem, timer)
        else:
            self._gone(node, problem)

    def path_changed(self) -> None:
        """This hub's place in the tree is another one: the hubs below dial again, to be told or to be refused."""
        for node, link in list(self._connections.items()):
            if self.rows[node].hub:
                problem = Aborted(
                    "PATH_CHANGED", "other hubs are above now", hint="none needed: it dials again"
                ).problem
                link.close(problem)

    def _gone(self, node: str, problem: Problem) -> None:
        self._waiting.pop(node, None)
        now = self._clock.monotonic()
        # A session that ended for silence has been silent for a lease.
        last_heard = now - self._lease if problem.reason == "LEASE_EXPIRED" else now
        self._view.disconnected(node, last_heard, now)
        self._handlers.node_disconnected(node, problem)

    @property
    def handlers(self) -> LinkHandlers:
        """Where frames go."""
        return self._handlers

    @property
    def view(self) -> FleetView:
        """The fleet."""
        return self._view


class _NodeEvents(LinkEvents):
    """Events of one node's sessions."""

    def __init__(self, node: str, links: Links) -> None:
        self._node = node
        self._links = links

    def established(self, link: LinkConnection) -> None:
        self._links.established(self._node, link)

    def answered(self, link: LinkConnection) -> None:
        self._links.answered(self._node, link)

    def closed(self, link: LinkConnection, problem: Problem) -> None:
        self._links.closed(self._node, link, problem)

    def room(self, link: LinkConnection) -> None:
        self._links.handlers.link_has_room(self._node)

    async def on_calls(self, link: LinkConnection, message: sync_pb2.CallBatch) -> None:
        await self._links.handlers.calls(self._node, message)

    async def on_notices(self, link: LinkConnection, message: sync_pb2.NoticeBatch) -> None:
        await self._links.handlers.notices(self._node, message)

    async def on_find(self, link: LinkConnection, message: sync_pb2.FindExchange) -> None:
        await self._links.handlers.find(self._node, message)

    async def on_desired_state_report(self, link: LinkConnection, message: sync_pb2.DesiredStateReport) -> None:
        await self._links.handlers.desired_report(self._node, message)

    async def on_admin(self, link: LinkConnection, message: sync_pb2.AdminExchange) -> None:
        if message.WhichOneof("request") is None:
            self._links.handlers.admin_answer(self._node, message)
        else:
            await super().on_admin(link, message)

    async def on_blobs(self, link: LinkConnection, message: sync_pb2.BlobExchange) -> None:
        self._links.handlers.blobs(self._node, message)

    async def on_heartbeat_loads(self, link: LinkConnection, loads: Sequence[AgentLoad]) -> None:
        self._links.view.loads(self._node, loads)


class NodeInbox:
    """edgenode.link.ports.Inbox of one node, or of the parent; each lane has its own store."""

    def __init__(self, node: str, store: LinkStore, lanes: Mapping[Lane, Apply]) -> None:
        self._node = node
        self._store = store
        self._lanes = lanes

    async def cursors(self, heads: Sequence[LaneHead] = ()) -> Sequence[LaneCursor]:
        """See Inbox."""
        return await self._store.cursors(self._node, heads)

    async def apply(self, lane: Lane, epoch: str, base: int, segments: Sequence[Segment], gap: Gap | None) -> Applied:
        """See Inbox."""
        if gap is not None:
            _log.warning(
                "%s does not hold what is missing before entry %d of its %s lane (%s): counted as a gap",
                self._node,
                base,
                lane.name.lower(),
                gap.reason,
            )
        intake = Intake(self._node, lane, epoch, base, tuple(segments), gap)
        take = self._lanes.get(lane)
        if take is None:
            return await self._store.refuse(intake, "LANE_NOT_SERVED", f"the hub takes nothing on lane {lane.name}")
        return await take(intake)


class _NodeReplica:
    """edgenode.link.wire.accepting.ReplicaStore of one node."""

    def __init__(
        self, node: str, fleet: FleetStore, view: FleetView, rows: Mapping[str, NodeRow], background: Background
    ) -> None:
        self._background = background
        self._node = node
        self._fleet = fleet
        self._view = view
        self._rows = rows

    async def load(self) -> RegistryReplica:
        """See ReplicaStore."""
        row = self._rows[self._node]
        known = self._view.node(self._node)
        agents = [] if known is None else list(known.agents.values())
        entries = [RegistryEntry(agent.view.name, agent.incarnation, agent.version, agent.payload) for agent in agents]
        return RegistryReplica(row.registry_epoch, row.registry_version, entries)

    async def commit(self, delta: RegistryDelta, changes: RegistryChanges) -> None:
        """See ReplicaStore. A record that cannot be taken is left out by itself: the link has more to carry."""
        agents: list[KnownAgent] = []
        gone = list(changes.removals)
        for entry in changes.upserts:
            try:
                agents.append(known_agent(self._node, entry))
            except EdgenodeError as error:
                _log.warning("an agent of %s is left out: %s", self._node, error)
                gone.append(entry.name)  # what was known of it before is not so any more
        own = [name for name in gone if _is_of(self._node, name)]
        await self._background.finish(self._commit(changes, agents, own), "registry change")

    async def _commit(self, changes: RegistryChanges, agents: Sequence[KnownAgent], gone: Sequence[str]) -> None:
        rows = [
            AgentRow(self._node, agent.view.name, agent.incarnation, agent.version, agent.payload, agent_text(agent))
            for agent in agents
        ]
        await self._fleet.apply_registry(self._node, changes.epoch, changes.version, rows, gone)
        self._view.apply(agents, gone)


def _is_of(node: str, name: str) -> bool:
    """Whether an agent is the node's own or, where the node is a hub, of a node below it."""
    return name.startswith(f"nodes/{node}/")


def known_agent(node: str, entry: RegistryEntry) -> KnownAgent:
    """An agent as its node sent it. Raises InvalidArgument (BAD_AGENT), PermissionDenied (FOREIGN_AGENT)."""
    if not _is_of(node, entry.name):
        raise PermissionDenied(
            "FOREIGN_AGENT",
            f"{node} sent an agent named {entry.name!r}",
            hint="a node speaks for its own agents only, a hub for those below it",
        )
    payload = entry.payload or b""
    try:
        parse_agent_resource(entry.name, "")
        view = agent_view(registry_pb2.Agent.FromString(payload))
    except (DecodeError, EdgenodeError) as error:
        raise InvalidArgument(
            "BAD_AGENT", f"the record of {entry.name} cannot be read: {error}", hint="compare the versions"
        ) from error
    return KnownAgent(node, view, payload, entry.incarnation, entry.version, in_flight=view.in_flight)


def agent_text(agent: KnownAgent) -> str:
    """What free text is matched to: names, descriptions, tags."""
    card = registry_pb2.Agent.FromString(agent.payload).card
    words = [card.name, card.description]
    for skill in card.skills:
        words += [skill.id, skill.id.replace(".", " "), skill.name, skill.description, *skill.tags]
    return "\n".join(word for word in words if word)
