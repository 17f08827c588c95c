"""The edge's side of its link: the logs that go up, what comes down, and the exchanges that are not stored.

Durable traffic goes through the lanes: tasks and messages are appended by their own rooms, and the link reads them from
the store; what the hub sends is stored with the lane's cursor in one transaction and then followed in memory. Calls and their
answers (`link_calls`), progress and questions to the hub's registry are frames that live as long as the session: when it ends,
everyone who waits for one is told.
"""

from __future__ import annotations

import asyncio
import logging
import sqlite3
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass

import grpc

from edgenode import __version__
from edgenode.api.registry.v1 import registry_service_pb2
from edgenode.api.sync.v1 import sync_pb2
from edgenode.api.task.v1 import task_pb2
from edgenode.link.blobs.exchange import BlobExchange
from edgenode.link.blobs.room import Blobs
from edgenode.link.errors import EdgenodeError, Unimplemented, from_problem
from edgenode.link.failpoints import Failpoint, reach
from edgenode.link.model.frames import AgentLoad
from edgenode.link.model.lanes import Applied, Gap, Lane, LaneCursor, LaneHead, Rejection, Segment
from edgenode.link.model.problem import Code, Problem
from edgenode.link.ports import Clock, Rng
from edgenode.link.protocol.events import MOVE_GRACE, MOVED
from edgenode.link.protocol.timers import Timer
from edgenode.link.store import inbox
from edgenode.link.store.database import Database
from edgenode.link.store.outbox import OnRejected, SqliteOutbox
from edgenode.link.store.repeats import without_known
from edgenode.link.store.retention import LONGEST_INTERVAL, Retention
from edgenode.link.wire import pieces
from edgenode.link.wire.connection import LinkConnection, LinkEvents
from edgenode.link.wire.dialing import DialingEnd, DialingSettings, DialingStatus
from edgenode.link.wire.values import problem_from_pb
from edgenode.node import task_entries, task_store
from edgenode.node.admin_exchange import Answer, not_served
from edgenode.node.link_calls import LinkCalls
from edgenode.node.registry import AgentRegistry
from edgenode.node.task_book import TASK_LOG
from edgenode.node.task_entries import Absorbed
from edgenode.node.task_state import LiveTask
from edgenode.node.tasks import TaskEngine

PARENT = "parent"  # the link's name among the consumers of a log, and the sender's in the inbox
MESSAGE_LOG = "messages"
FIND_TIMEOUT = 3.0
LOAD_INTERVAL = 1.0  # seconds; loads that change within it go up once

_log = logging.getLogger(__name__)


class EdgeInbox:
    """`edgenode.link.ports.Inbox` of an edge: the task lane, stored and then followed by the engine."""

    def __init__(self, database: Database, engine: TaskEngine, blobs: BlobExchange, clock: Clock) -> None:
        self._database = database
        self._engine = engine
        self._blobs = blobs
        self._clock = clock

    async def cursors(self, heads: Sequence[LaneHead] = ()) -> Sequence[LaneCursor]:
        """See Inbox."""
        return await self._database.read(lambda connection: inbox.inbox_cursors(connection, PARENT, heads))

    async def apply(self, lane: Lane, epoch: str, base: int, segments: Sequence[Segment], gap: Gap | None) -> Applied:
        """See Inbox. It comes to its end even if the session is gone by then: memory must follow the store."""
        return await self._engine.book.finish(self._apply(lane, epoch, base, segments, gap))

    async def _apply(self, lane: Lane, epoch: str, base: int, segments: Sequence[Segment], gap: Gap | None) -> Applied:
        if gap is not None:
            _log.warning(
                "the hub does not hold what is missing before entry %d of its %s lane (%s): counted as a gap",
                base,
                lane.name.lower(),
                gap.reason,
            )
        now_time = self._clock.wall()

        def store(connection: sqlite3.Connection) -> tuple[Absorbed, list[Rejection]]:
            fresh = inbox.accept(connection, PARENT, lane, epoch, base, segments, gap)
            fresh = without_known(connection, PARENT, lane, epoch, fresh)
            if lane is Lane.TASK:
                entries, rejections = task_entries.unpack(fresh)
            else:
                entries, rejections = [], _refuse_all(lane, fresh)
            absorbed = self._engine.applier.apply(connection, entries, now_time)
            rejections = sorted([*rejections, *absorbed.rejections], key=lambda rejection: rejection.sequence)
            if rejections:
                inbox.reject(connection, PARENT, lane, epoch, rejections)
            return absorbed, rejections

        size = sum(len(segment.payload) for segment in segments)
        absorbed, rejections = await self._database.write(store, size=size)
        reach(Failpoint.ENTRIES_COMMITTED)
        self._engine.hub.absorb(absorbed)
        if absorbed.blobs:
            self._blobs.want(PARENT, absorbed.blobs)
        last = base - 1 + sum(segment.count for segment in segments)
        return Applied(last, tuple(rejections))


def _refuse_all(lane: Lane, fresh: inbox.Fresh) -> list[Rejection]:
    problem = Unimplemented("LANE_NOT_SERVED", f"an edge takes nothing on lane {lane.name}").problem
    count = sum(segment.count for segment in fresh.segments)
    return [Rejection(fresh.base + number, problem) for number in range(fresh.skip, count)]


@dataclass(frozen=True, slots=True)
class UplinkPorts:
    """What the composition gives the uplink.

    `on_rejected` dead-letters what the hub would not take; `on_desired_state` applies a document and returns the report;
    `messages_acknowledged` gets the position up to which the hub has the message log.
    """

    open_channel: Callable[[], Awaitable[grpc.aio.Channel]]
    unreachable: Callable[[], None]
    generation: Callable[[], int]
    on_rejected: OnRejected
    on_desired_state: Callable[[sync_pb2.DesiredState], Awaitable[sync_pb2.DesiredStateReport]]
    applied_version: Callable[[], int]
    messages_acknowledged: Callable[[int], None]
    new_epoch: Callable[[], str]


class Uplink(LinkEvents):
    """The link to the hub. `prepare` once in a transaction, then `start`; it also is the engine's TaskUplink."""

    def __init__(
        self,
        *,
        node: str,
        boot_id: str,
        database: Database,
        engine: TaskEngine,
        registry: AgentRegistry,
        blobs: Blobs,
        clock: Clock,
        rng: Rng,
        ports: UplinkPorts,
        settings: DialingSettings | None = None,
        retention: Mapping[Lane, Retention] | None = None,
    ) -> None:
        self._engine = engine
        self._registry = registry
        self._clock = clock
        self._ports = ports
        self.outbox = SqliteOutbox(
            database,
            {Lane.TASK: TASK_LOG, Lane.MESSAGE: MESSAGE_LOG},
            PARENT,
            ports.new_epoch,
            self._store_rejections,
            retention,
        )
        self.blobs = BlobExchange(database, blobs, self._send, clock)
        self._trim_interval = min((rule.interval for rule in (retention or {}).values()), default=LONGEST_INTERVAL)
        self.outbox.on_acknowledged(self._acknowledged)
        self._dialing = DialingEnd(
            node=node,
            boot_id=boot_id,
            generation=ports.generation,
            registry=registry.log,
            outbox=self.outbox,
            inbox=EdgeInbox(database, engine, self.blobs, clock),
            events=self,
            open_channel=ports.open_channel,
            unreachable=ports.unreachable,
            clock=clock,
            rng=rng,
            settings=settings,
            applied_version=ports.applied_version,
            software=f"edgenode/{__version__}",
        )
        self._calls = LinkCalls(engine, registry.node, clock, self._flush_soon)
        self._numbers = 0
        self._finds: dict[int, asyncio.Future[sync_pb2.FindExchange | None]] = {}
        self._progress: dict[str, LiveTask] = {}
        self._flushing = False
        self.answer_admin: Answer = not_served  # what the hub asks of the node's administration
        self._moving: Timer | None = None  # runs while the link changes its channel
        self._exchanging = ""  # boot id of the hub's process that knows of what is asked, here and there
        self._loaded: set[str] = set()
        engine.dispatcher.on_load = self._load_changed

    # --- for the composition ------------------------------------------------------------------------------------------

    def prepare(self, connection: sqlite3.Connection) -> None:
        """Make the logs and the link's place among their consumers."""
        self.outbox.ensure(connection)

    async def start(self) -> None:
        """Begin to dial."""
        await self.blobs.look()
        self._registry.on_change(lambda _agent: self._dialing.registry_changed())
        self._trim_later()
        await self._dialing.start()

    def _trim_later(self) -> None:
        self._engine.book.after(self._trim_interval, self._trim_soon)

    def _trim_soon(self) -> None:
        self._engine.book.spawn(self._trim())

    async def _trim(self) -> None:
        try:
            await self.outbox.trim()
        except EdgenodeError as error:
            _log.warning("could not let go of old acknowledged entries: %s", error)
        self._trim_later()

    async def stop(self) -> None:
        """Say goodbye and end."""
        await self._dialing.stop()
        await self.blobs.stop()

    async def redial(self) -> None:
        """Move to a fresh channel, e.g. after the certificate was renewed; calls wait meanwhile."""
        self._begin_move()
        try:
            await self._dialing.redial()
        except EdgenodeError:
            self._end_move()
            self._flush_soon()
            raise

    def _begin_move(self) -> None:
        self._end_move()
        self._moving = self._engine.book.after(MOVE_GRACE, self._move_failed)

    def _end_move(self) -> None:
        if self._moving is not None:
            self._moving.cancel()
            self._moving = None

    def status(self) -> DialingStatus:
        """How the link is."""
        return self._dialing.status()

    @property
    def connection(self) -> LinkConnection | None:
        """The established session, if there is one now."""
        return self._dialing.connection

    def message_appended(self, last: int) -> None:
        """A commit appended to the message log."""
        self.outbox.appended(Lane.MESSAGE, last)

    def _store_rejections(self, connection: sqlite3.Connection, lane: Lane, rejections: Sequence[Rejection]) -> None:
        if lane is Lane.TASK:
            task_store.fail_offers(connection, rejections)
        self._ports.on_rejected(connection, lane, rejections)

    def _acknowledged(self, lane: Lane, sequence: int, rejections: Sequence[Rejection]) -> None:
        if lane is Lane.TASK:
            self._engine.hub.rejected(rejections)
            self._engine.hub.acknowledged(sequence)
        elif lane is Lane.MESSAGE:
            self._ports.messages_acknowledged(sequence)

    # --- for the engine -----------------------------------------------------------------------------------------------

    def appended(self, last: int) -> None:
        """See TaskUplink."""
        self.outbox.appended(Lane.TASK, last)

    def send_call(self, live: LiveTask, timeout: float) -> bool:
        """See TaskUplink."""
        if self.connection is None and self._moving is None:
            return False
        self._calls.send(live, timeout)
        return True

    def cancel_call(self, live: LiveTask) -> None:
        """See TaskUplink."""
        self._calls.cancel(live)

    def allow_pieces(self, live: LiveTask, size: int) -> None:
        """See TaskUplink."""
        self._calls.allow(live, size)

    def send_progress(self, live: LiveTask) -> None:
        """See TaskUplink. Of several in one turn the newest counts."""
        self._progress[live.task_id] = live
        self._flush_soon()

    async def find(
        self, request: registry_service_pb2.FindAgentsRequest
    ) -> registry_service_pb2.FindAgentsResponse | None:
        """Ask the hub's registry; None when it cannot be asked now."""
        answer = await self._ask(sync_pb2.FindExchange(request=request))
        return answer.response if answer is not None and answer.HasField("response") else None

    async def list_agents(
        self, request: registry_service_pb2.ListAgentsRequest
    ) -> registry_service_pb2.ListAgentsResponse | None:
        """A page of the hub's registry; None when it cannot be asked now. Raises InvalidArgument, e.g. for a token of another
        listing.
        """
        answer = await self._ask(sync_pb2.FindExchange(list_request=request))
        if answer is not None and answer.HasField("problem"):
            problem = problem_from_pb(answer.problem)
            if problem.code is Code.INVALID_ARGUMENT:
                raise from_problem(problem)
        return answer.list_response if answer is not None and answer.HasField("list_response") else None

    async def _ask(self, question: sync_pb2.FindExchange) -> sync_pb2.FindExchange | None:
        connection = self.connection
        if connection is None:
            return None
        self._numbers += 1
        number = question.find_id = self._numbers
        answer: asyncio.Future[sync_pb2.FindExchange | None] = asyncio.get_running_loop().create_future()
        self._finds[number] = answer
        try:
            if not connection.send(sync_pb2.Frame(find=question)):
                return None
            async with asyncio.timeout(FIND_TIMEOUT):
                return await answer
        except TimeoutError:
            _log.warning("the hub did not answer a question to its registry within %g s", FIND_TIMEOUT)
            return None
        finally:
            del self._finds[number]

    def _load_changed(self, agent: str) -> None:
        if not self._loaded and self.connection is not None:
            self._engine.book.after(LOAD_INTERVAL, self._report_loads)
        if self.connection is not None:
            self._loaded.add(agent)

    def _report_loads(self) -> None:
        agents, self._loaded = self._loaded, set()
        loads = []
        for agent in agents:
            in_flight, queued, _ = self._engine.dispatcher.load_of(agent)
            loads.append(AgentLoad(agent, in_flight, queued))
        self._dialing.report_loads(loads)

    def _flush_soon(self) -> None:
        if not self._flushing:
            self._flushing = True
            asyncio.get_running_loop().call_soon(self._flush)

    def _flush(self) -> None:
        self._flushing = False
        if self.connection is None and self._moving is not None:
            return  # `established` or the end of the grace comes back to it
        progress, self._progress = self._progress, {}
        connection = self.connection
        self._calls.flush(connection)
        if progress and connection is not None:
            notices = sync_pb2.NoticeBatch(tasks=[_notice(live, self._registry.node) for live in progress.values()])
            if connection.send(sync_pb2.Frame(notices=notices)):
                for live in progress.values():
                    live.pieces_told = pieces.newest(live.progress) or live.pieces_told

    # --- what the link tells ------------------------------------------------------------------------------------------

    def established(self, link: LinkConnection) -> None:
        """See LinkEvents."""
        self.blobs.established(PARENT)
        if self._moving is not None:
            self._end_move()
            if self._exchanging not in ("", link.peer.boot_id):  # this one has numbers of its own
                self._exchanges_lost("the hub was started anew")
            # On the next turn: the session counts as up only once this returned.
            self._flush_soon()
        self._exchanging = link.peer.boot_id

    def room(self, link: LinkConnection) -> None:
        """See LinkEvents."""
        self.blobs.room(PARENT)
        self._flush_soon()

    def closed(self, link: LinkConnection, problem: Problem) -> None:
        """See LinkEvents: nobody waits for what the session carried, unless another follows at once."""
        self.blobs.closed(PARENT)
        if problem.reason == MOVED:
            self._begin_move()
        else:
            self._exchanges_lost(problem.reason)

    def _move_failed(self) -> None:
        self._moving = None
        if self.connection is None:
            self._exchanges_lost("NOT_BACK")

    def _exchanges_lost(self, reason: str) -> None:
        self._exchanging = ""
        self._calls.lost(reason)
        for answer in self._finds.values():
            if not answer.done():
                answer.set_result(None)

    async def on_calls(self, link: LinkConnection, message: sync_pb2.CallBatch) -> None:
        """See LinkEvents."""
        self._calls.receive(message)

    async def on_notices(self, link: LinkConnection, message: sync_pb2.NoticeBatch) -> None:
        """See LinkEvents."""
        for task in message.tasks:
            self._engine.hub.follow_progress(task)

    async def on_find(self, link: LinkConnection, message: sync_pb2.FindExchange) -> None:
        """See LinkEvents."""
        answer = self._finds.get(message.find_id)
        if answer is None or message.HasField("request") or message.HasField("list_request"):
            await super().on_find(link, message)
        elif not answer.done():
            answer.set_result(message)

    async def on_admin(self, link: LinkConnection, message: sync_pb2.AdminExchange) -> None:
        """See LinkEvents. What takes long must not hold up the frames behind it."""
        if message.WhichOneof("request") is None:
            await super().on_admin(link, message)
        else:
            self._engine.book.spawn(self._answer_admin(link, message))

    async def _answer_admin(self, link: LinkConnection, message: sync_pb2.AdminExchange) -> None:
        answer = await self.answer_admin(message)
        if not link.send(sync_pb2.Frame(admin=answer)):
            _log.warning("the hub's question %d was answered when its link was gone", message.exchange_id)

    async def on_blobs(self, link: LinkConnection, message: sync_pb2.BlobExchange) -> None:
        """See LinkEvents."""
        self.blobs.receive(PARENT, message)

    def _send(self, _peer: str, frame: sync_pb2.Frame) -> bool:
        connection = self.connection
        return connection is not None and connection.send(frame)

    async def on_desired_state(self, link: LinkConnection, message: sync_pb2.DesiredState) -> None:
        """See LinkEvents."""
        report = await self._ports.on_desired_state(message)
        link.send(sync_pb2.Frame(desired_state_report=report))


def _notice(live: LiveTask, node: str) -> task_pb2.Task:
    task = task_pb2.Task(
        task_id=live.task_id,
        state=live.state.value,  # type: ignore[arg-type]  # the numbers are the contract's
        fence=live.fence,
        attempt_count=live.attempts,
        agent=live.agent,
        holder_node=node,
    )
    if live.progress is not None:
        task.progress.CopyFrom(pieces.since(live.progress, live.pieces_told))
    return task
