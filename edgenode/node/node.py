"""The composition root of the edge: makes the rooms, wires them, starts and stops them in order.

Start: state directory, identity, store, registry, messages, tasks, sockets, link. What cannot start undoes what was
started before it. Nothing on the way needs the hub or the network.

Stop: refuse new work and say so to health checks; let running attempts end, for at most `drain_seconds`; end the link, the
streams, the rooms, the store. A stop while the start is under way ends the start. Each may be called again at any time.
"""

from __future__ import annotations

import asyncio
import socket
import sqlite3
import sys
from contextlib import AsyncExitStack
from dataclasses import replace
from enum import Enum
from functools import partial
from pathlib import Path

from edgenode.api.admin.v1 import admin_pb2
from edgenode.link import telemetry
from edgenode.link.blobs.room import Blobs
from edgenode.link.blobs.service import BlobService
from edgenode.link.errors import Cancelled, FailedPrecondition
from edgenode.link.failpoints import Failpoint, reach
from edgenode.link.identity.files import make_private_directory
from edgenode.link.model.dead_letter import DeadLetter
from edgenode.link.model.lanes import Lane
from edgenode.link.model.names import make_id
from edgenode.link.parent.identity import NodeIdentity, load_identity
from edgenode.link.ports import Clock, Rng, SystemClock, system_rng
from edgenode.link.store import dead_letters, logs
from edgenode.link.store.database import Database
from edgenode.link.wire.tasks import TaskLimits
from edgenode.node import backup
from edgenode.node.admin import AdminService, NodeFacts
from edgenode.node.admin_exchange import answers
from edgenode.node.agent_text import AgentText
from edgenode.node.config import NodeConfig, name_from_host
from edgenode.node.desired import DesiredSettings, DesiredStates
from edgenode.node.host import Host, Server
from edgenode.node.hub_link import HubLink, verifier
from edgenode.node.local_server import Services
from edgenode.node.message_log import MessageLog
from edgenode.node.message_rules import MessageRules
from edgenode.node.messages import MessageService
from edgenode.node.mounts import BRIDGES, Mounts
from edgenode.node.registry import AgentRegistry
from edgenode.node.registry_service import RegistryService
from edgenode.node.rooms import Rooms
from edgenode.node.store import count_boot, open_store, other_node, retention
from edgenode.node.subscriptions import LogSubscriptions
from edgenode.node.supervisor import Program, Supervisor
from edgenode.node.task_book import TASK_LOG, TaskSettings
from edgenode.node.task_service import TaskService
from edgenode.node.task_state import LiveTask
from edgenode.node.tasks import TaskEngine

STOP_GRACE = 1.0  # seconds that rpcs have to end by themselves once everything they wait for has ended

_log = telemetry.logger("node")


class _Phase(Enum):
    NEW = "new"
    STARTING = "starting"
    RUNNING = "running"
    STOPPING = "stopping"
    STOPPED = "stopped"


class Node:
    """One edge node. `start` once, `stop` whenever; `name` and `socket_path` say where it is found."""

    def __init__(
        self, config: NodeConfig, *, clock: Clock | None = None, rng: Rng | None = None, host: Host | None = None
    ) -> None:
        self.config = config
        self.name = config.node
        self.socket_path: Path = config.socket_path
        self._clock = clock or SystemClock()
        self._rng = rng or system_rng()
        self._host = host or Host()
        self._phase = _Phase.NEW
        self._damaged = asyncio.Event()
        self._starting: asyncio.Task[None] | None = None
        self._stopping: asyncio.Task[None] | None = None
        self._stack = AsyncExitStack()
        self._rooms: Rooms | None = None
        self._link: HubLink | None = None
        self._server: Server | None = None

    @property
    def rooms(self) -> Rooms:
        """The rooms, for programs that hold the node in their own process. Raises FailedPrecondition before they stand."""
        if self._rooms is None:
            raise FailedPrecondition("NOT_STARTED", "the node was not started", hint="await start() first")
        return self._rooms

    @property
    def port(self) -> int:
        """The loopback port; 0 where it does not listen there."""
        return self._server.port if self._server is not None else 0

    async def damaged(self) -> None:
        """Returns when the store was found damaged. Stop the node then; another one sets it aside and goes on."""
        await self._damaged.wait()

    # --- start and stop -----------------------------------------------------------------------------------------------

    async def start(self) -> None:
        """Returns when the node serves.

        Raises FailedPrecondition (STATE_IN_USE, STATE_OF_OTHER_NODE, PORT_TAKEN, ALREADY_STARTED), DataLoss,
        InvalidArgument, Unavailable; Cancelled (NODE_STOPPING) when `stop` came first.
        """
        if self._phase is not _Phase.NEW:
            raise FailedPrecondition(
                "ALREADY_STARTED", f"the node is {self._phase.value}", hint="make another Node to start again"
            )
        self._phase = _Phase.STARTING
        self._starting = asyncio.create_task(self._start(), name="node-start")
        try:
            await asyncio.shield(self._starting)
        except asyncio.CancelledError:
            if not self._starting.done():  # our caller was cancelled
                await self.stop()
                raise
            raise Cancelled("NODE_STOPPING", "the node was stopped while it started", hint="start it again") from None
        except BaseException:
            await self.stop()
            raise

    async def stop(self) -> None:
        """Drain and end; returns when everything is closed. Safe at any time, and twice."""
        if self._phase is _Phase.NEW:
            return
        if self._stopping is None:
            self._stopping = asyncio.create_task(self._stop(), name="node-stop")
        await asyncio.shield(self._stopping)

    async def _stop(self) -> None:
        starting = self._starting
        if starting is not None and not starting.done():
            starting.cancel()
            await asyncio.wait([starting])
        running = self._phase is _Phase.RUNNING
        self._phase = _Phase.STOPPING
        if running:
            _log.info(telemetry.NODE_DRAINING, node=self.name)
            if not self._damaged.is_set():  # no outcome could be stored
                await self._drain()
            reach(Failpoint.NODE_DRAINED)
        await self._stack.aclose()
        self._phase = _Phase.STOPPED
        if running:
            _log.info(telemetry.NODE_STOPPED, node=self.name)

    async def _drain(self) -> None:
        """Refuse new work; wait for attempts under way."""
        if self._server is not None:
            await self._server.drain()
        engine = self.rooms.engine
        engine.stop_accepting()
        ended = asyncio.Event()
        waiting = {live for live in engine.book.live.values() if live.sink is not None or live.call}

        def note(live: LiveTask) -> None:
            waiting.discard(live)
            if not waiting:
                ended.set()

        if not waiting:
            return
        for live in waiting:
            live.listeners.append(note)
        try:
            async with asyncio.timeout(self.config.drain_seconds):
                await ended.wait()
        except TimeoutError:
            _log.warning(telemetry.NODE_DRAINING, node=self.name, left=len(waiting))

    # --- the rooms ----------------------------------------------------------------------------------------------------

    async def _start(self) -> None:
        config, stack = self.config, self._stack
        start_time = self._clock.wall()
        _log.info(telemetry.NODE_STARTING, state_dir=str(config.state_dir))
        identity: NodeIdentity | None = None
        if not config.in_memory:
            make_private_directory(config.state_dir)
            identity = load_identity(config.state_dir)
        if identity is not None and config.node and config.node != identity.node:
            raise other_node(identity.node, config.node)

        database = await open_store(config, self._host.connect)
        stack.push_async_callback(database.close)
        database.on_damage = lambda _error: self._damaged.set()
        if database.damage is not None:
            self._damaged.set()
        joined = identity.node if identity is not None else ""
        boot = await database.write(
            lambda connection: count_boot(connection, joined, config.node, name_from_host(socket.gethostname()))
        )
        reach(Failpoint.BOOT_COUNTED)
        self.name = boot.name
        boot_id = self._new_id()
        rooms = self._rooms = await self._make_rooms(database, boot_id, boot.number)
        reach(Failpoint.ROOMS_MADE)
        if identity is not None:
            self._link = HubLink(
                config, identity, boot_id, rooms, self._clock, self._rng, self._new_id, self._host.open_channel
            )
            await self._link.prepare()
        await rooms.engine.start(self._link.uplink if self._link is not None else None)
        await self._serve(rooms, start_time)
        reach(Failpoint.NODE_SERVING)
        if self._link is not None:
            stack.push_async_callback(self._link.stop)
            await self._link.start()
        self._phase = _Phase.RUNNING
        _log.info(telemetry.NODE_READY, node=self.name, socket=str(self.socket_path))

    async def _make_rooms(self, database: Database, boot_id: str, boot_number: int) -> Rooms:
        config, stack = self.config, self._stack
        registry = AgentRegistry(database, self._clock, self.name, boot_id, boot_number, config.lease_seconds)
        stack.push_async_callback(registry.close)
        await registry.load()

        retained = retention(config, database, self._clock)
        messages = MessageLog(database, retained[Lane.MESSAGE])
        stack.push_async_callback(messages.close)
        await messages.open(self._new_id())
        subscriptions = LogSubscriptions(database, messages, self.name, retained[Lane.MESSAGE])

        await database.write(lambda connection: logs.open_log(connection, TASK_LOG, self._new_id()))
        blobs = Blobs(database, config.blob_folder, config.blob_limits, self._clock)
        stack.push_async_callback(blobs.close)
        await blobs.load()
        engine = self._make_engine(database, registry)
        engine.lacks_blobs = blobs.lacks
        stack.push_async_callback(engine.stop)

        verify = verifier(lambda: self._link.identity if self._link is not None else None, self._clock)
        desired = DesiredStates(database, self.name, verify, lambda settings: self._apply(database, engine, settings))
        await desired.load()
        mounts = Mounts(database, registry, self._clock)
        await mounts.load()
        return Rooms(database, registry, messages, subscriptions, engine, desired, mounts, blobs)

    def _make_engine(self, database: Database, registry: AgentRegistry) -> TaskEngine:
        config = self.config

        def keep(connection: sqlite3.Connection, letter: DeadLetter) -> None:
            dead_letters.add(connection, [letter], config.dead_letter_bounds)

        return TaskEngine(
            node=self.name,
            database=database,
            registry=registry,
            clock=self._clock,
            rng=self._rng,
            settings=TaskSettings(
                max_queued=config.max_queued_tasks,
                attempt_timeout=config.attempt_timeout_seconds,
                call_timeout=config.call_timeout_seconds,
                lost_grace=config.lease_seconds,
                retention=config.task_retention_seconds,
                limits=TaskLimits(config.max_input_bytes, config.max_output_bytes),
            ),
            on_dead_letter=keep,
        )

    async def _serve(self, rooms: Rooms, start_time: float) -> None:
        config = self.config
        registry_service = RegistryService(rooms.registry, AgentText(rooms.database, rooms.registry))
        if self._link is not None:
            registry_service.fleet_find = self._link.uplink.find
            registry_service.fleet_list = self._link.uplink.list_agents
        message_service = MessageService(
            rooms.messages, rooms.subscriptions, MessageRules(config.max_message_bytes), self._clock
        )
        task_service = TaskService(rooms.engine, rooms.registry)
        facts = NodeFacts(
            node=self.name,
            start_time=start_time,
            identity=lambda: str(self._link.identity.name) if self._link is not None else "",
            certificate_expire_time=lambda: self._link.identity.expire_time if self._link is not None else None,
            draining=lambda: self._phase is _Phase.STOPPING,
            applied_version=lambda: rooms.desired.applied_version,
            link=lambda: self._link.status() if self._link is not None else admin_pb2.LinkStatus(state="disabled"),
            back_up=partial(backup.back_up, rooms.database, config.state_dir, clock=self._clock),
            replay_task=task_service.replay,
            blob_folder=config.blob_folder,
        )
        admin = AdminService(rooms.database, rooms.registry, rooms.messages, rooms.mounts, self._clock, facts)
        if self._link is not None:
            self._link.uplink.answer_admin = answers(admin)
        blob_service = BlobService(rooms.blobs, self.name, self._clock)
        services = Services(registry_service, task_service, message_service, blob_service, admin)
        server = self._server = self._host.make_server(config, services)

        async def end_streams() -> None:
            registry_service.stop()
            message_service.stop()
            rooms.mounts.stop()
            await rooms.engine.stop()
            await server.stop(STOP_GRACE)

        self._stack.push_async_callback(end_streams)
        await server.start()
        await server.ready()
        self._supervise_bridges(rooms.mounts)

    def _supervise_bridges(self, mounts: Mounts) -> None:
        """Keep the bridge of each kind of mounts running while there are any."""
        supervisors: dict[admin_pb2.MountKind, Supervisor] = {}
        for kind, bridge in BRIDGES.items():
            arguments = ["--socket", str(self.socket_path), "--state", str(self.config.state_dir)]
            arguments += ["--event-loop", self.config.event_loop]
            program = Program(bridge.name, [sys.executable, "-P", "-m", bridge.module, *arguments])
            supervisors[kind] = Supervisor(program, self._clock, self._rng, self._host.spawn)
            self._stack.push_async_callback(supervisors[kind].close)

        def want(kinds: set[admin_pb2.MountKind]) -> None:
            for kind, supervisor in supervisors.items():
                if kind in kinds:
                    supervisor.want()
                else:
                    supervisor.unwant()

        mounts.on_change = want
        want(mounts.kinds)

    async def _apply(self, database: Database, engine: TaskEngine, settings: DesiredSettings) -> None:
        """Put desired settings in force; what they leave out is as configured."""
        config, limits = self.config, settings.limits
        telemetry.set_level(settings.log_level or config.log_level)
        await database.set_limit(limits.get("store_bytes", config.store_bytes))
        book = engine.book
        book.settings = replace(
            book.settings,
            max_queued=limits.get("max_queued_tasks", config.max_queued_tasks),
            limits=replace(book.settings.limits, max_input_bytes=limits.get("max_input_bytes", config.max_input_bytes)),
        )
        if self._link is not None:
            self._link.set_weights(settings.lane_weights)

    def _new_id(self) -> str:
        return make_id(self._clock.wall(), self._rng.getrandbits(80))
