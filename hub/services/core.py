"""Everything behind the hub's listeners, wired: stores, engines, desks, servicers."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

import grpc

import edgenode
from edgenode.api.admin.v1 import admin_pb2
from edgenode.api.blob.v1 import blob_service_pb2_grpc
from edgenode.api.fleet.v1 import fleet_service_pb2_grpc
from edgenode.api.message.v1 import message_service_pb2_grpc
from edgenode.api.registry.v1 import registry_service_pb2_grpc
from edgenode.api.sync.v1 import sync_pb2
from edgenode.api.task.v1 import task_service_pb2_grpc
from edgenode.link.backup.making import make_backup
from edgenode.link.blobs.exchange import BlobExchange
from edgenode.link.blobs.room import Blobs
from edgenode.link.errors import EdgenodeError
from edgenode.link.failpoints import Failpoint, reach
from edgenode.link.model.agent import RegistryEntry
from edgenode.link.model.lanes import Lane, LaneUsage, Rejection
from edgenode.link.ports import Clock, Rng, SteadyClock
from edgenode.link.protocol.admission import AdmissionGate
from edgenode.link.protocol.session import SessionConfig
from edgenode.link.store.database import Database
from edgenode.link.store.retention import Retention
from edgenode.link.wire.accepting import AcceptingEnd, AcceptingSettings
from edgenode.link.wire.driver import DriverSettings
from edgenode.link.wire.tasks import TaskLimits
from hub.ca.authority import Authority
from hub.config import HubConfig
from hub.services.above import FromParent
from hub.services.alarm import Alarm
from hub.services.background import Background
from hub.services.backup import SCOPE
from hub.services.blob import HubBlobService
from hub.services.calls import CallRouter
from hub.services.clones import CloneWatch
from hub.services.desired import DesiredDesk
from hub.services.dispatcher import Dispatcher, DispatcherSettings
from hub.services.entries import EntryCodec, EntryReader
from hub.services.finder import Finder
from hub.services.fleet import FleetService, HubFacts
from hub.services.handlers import FleetHandlers
from hub.services.letters import FleetLetters
from hub.services.links import AppendableOutbox, Links, NodeInbox, known_agent
from hub.services.message import MessageDesk, MessageService
from hub.services.mover import Mover
from hub.services.node_admin import NodeAdmin
from hub.services.parent_entries import ParentReader
from hub.services.placement import Placement
from hub.services.recovery import Recovery
from hub.services.registry import RegistryService
from hub.services.stores import make_stores
from hub.services.sync import SyncService
from hub.services.task import TaskService
from hub.services.task_desk import TaskDesk
from hub.services.uplink import ParentPorts, Uplink
from hub.services.verify import FleetAuditor
from hub.services.view import FleetView
from hub.store.audit import audit_store
from hub.store.messages import SqliteMessageStore
from hub.store.records import PARENT
from hub.store.tasks import task_log

# So much of their share messages may fill before even those that a subscription has not read go, where that is asked for.
FULL = 0.9
SWEEP_SECONDS = 60.0


def _message_desk(config: HubConfig, store: SqliteMessageStore) -> MessageDesk:
    drop_bytes = int(config.store_bytes * config.message_share * FULL) if config.unread_messages == "drop" else 0
    return MessageDesk(store, config.message_retention_bytes, drop_bytes)


class Core:
    """Made in one go and without effects; `start` reads what the store knows, `stop` ends what runs."""

    def __init__(
        self,
        config: HubConfig,
        authority: Authority,
        database: Database,
        clock: Clock,
        rng: Rng,
        alarm: Alarm,
        parent: ParentPorts | None = None,
    ) -> None:
        """`parent` is given for a hub that has joined one."""
        self.name = authority.hub
        self.id = hub_id(authority)
        self.uplink: Uplink | None = None
        self._parent = parent
        self._rng = rng
        self._state = config.state_dir
        self._database = database
        self._authority = authority
        self._clock = clock
        self._alarm = alarm
        self._background = Background()

        def new_epoch() -> str:
            return f"{rng.getrandbits(64):016x}"

        self._steady = SteadyClock(clock, authority.begin_time)
        retention = Retention(
            0,
            config.ack_retention_bytes,
            config.ack_retention_seconds,
            self._steady.wall,
            lambda: database.budget.scarce(Lane.TASK),
        )
        self._trim_interval = retention.interval
        self._boot_id = new_epoch()
        child = parent.child if parent is not None else ""
        stores = self._stores = make_stores(config, database, clock, retention, new_epoch)
        self.enrollment = stores.enrollment
        self._messages = _message_desk(config, stores.messages)

        self.view = FleetView(config.lease_seconds)
        self._placement = Placement(self.view, rng)
        self._recovery = self._make_recovery(config)
        self._dispatcher = self._make_dispatcher(config, child)
        self._desk = TaskDesk(self._dispatcher, self.name, clock, rng)
        self._finder = Finder(self.view, self._stores.fleet, clock, self._boot_id)
        self.calls = CallRouter(
            self.view,
            self._placement,
            clock,
            alarm,
            self._send_calls,
            lambda node: self.links.reaches(node),
            parent=lambda: self.uplink is not None and self.uplink.connected,
        )
        self._desired = DesiredDesk(self._stores.fleet, authority.sign_document, self._send)
        self._nodes = NodeAdmin(self._send)
        self._blob_folder = config.blob_folder
        self._blobs = Blobs(database, self._blob_folder, config.blob_limits, clock)
        self._exchange = BlobExchange(database, self._blobs, self._send, clock)
        self._dispatcher.on_references = self._exchange.want
        self._handlers = self._make_handlers(child)
        self.links = self._make_links(config)
        self._clones = CloneWatch(self.enrollment, self._stores.fleet, clock, new_epoch, self.links.end)
        self.end = self._make_end(config)
        self.gate = AdmissionGate(config.admissions_per_second)
        self._message_service = MessageService(self._messages)

    def _make_handlers(self, child: str) -> FleetHandlers:
        return FleetHandlers(
            self.view,
            self._stores.fleet,
            self._stores.tasks,
            self._dispatcher,
            self._desk,
            self.calls,
            self._finder,
            self._desired,
            self._clock,
            self._alarm,
            self._send,
            self.name,
            self._stores.letters,
            self._nodes,
            self._exchange,
            child,
        )

    def _make_recovery(self, config: HubConfig) -> Recovery:
        return Recovery(
            self._alarm,
            config.reassign_after_seconds,
            lambda node: node in self.links.connections,
            lambda nodes: self._background.start(self._stores.fleet.give_up(nodes), "nodes that do not answer"),
        )

    def _make_dispatcher(self, config: HubConfig, child: str) -> Dispatcher:
        return Dispatcher(
            self._stores.tasks,
            Mover(
                self.name,
                EntryCodec(self.name, child),
                fence_base=lambda: self._recovery.fence_base,
                forgetful=lambda: not self._recovery.complete,
                home=f"{PARENT}/{child}" if child else None,
            ),
            self._placement,
            self.view,
            EntryReader(TaskLimits()),
            self._steady,
            self._alarm,
            self._appended,
            DispatcherSettings(
                reassign_after=config.reassign_after_seconds,
                retention=config.task_retention_seconds,
                sweep_interval=min(SWEEP_SECONDS, max(config.task_retention_seconds / 10, 1.0)),
                max_pending=config.max_queued_tasks,
            ),
            self._recovery,
            self._stores.fleet.settled,
        )

    def _make_links(self, config: HubConfig) -> Links:
        return Links(
            self._stores.fleet,
            self._stores.link,
            self.view,
            self._clock,
            self._outbox,
            {Lane.TASK: self._dispatcher.apply, Lane.MESSAGE: self._messages.apply},
            self._handlers,
            config.lease_seconds,
            self._alarm,
            lambda node, newest, hello: self._clones.outdated(node, newest, hello),
            lambda node, boot_id: self._clones.answered(node, boot_id),
        )

    def _make_end(self, config: HubConfig) -> AcceptingEnd:
        session = SessionConfig(heartbeat=config.heartbeat_seconds, lease=config.lease_seconds)
        return AcceptingEnd(
            node=self.name,
            boot_id=self._boot_id,
            open_child=self.links.open_child,
            clock=self._clock,
            settings=AcceptingSettings(driver=DriverSettings(session=session)),
            software=f"edgehub/{edgenode.__version__}",
            path=self.path,
        )

    def _outbox(self, node: str) -> AppendableOutbox:
        outbox = self._stores.fleet.outbox(node)

        def acknowledged(lane: Lane, sequence: int, rejections: Sequence[Rejection]) -> None:
            if rejections:
                self._handlers.rejected(node, rejections)

        outbox.on_acknowledged(acknowledged)
        return outbox

    def path(self) -> tuple[str, ...]:
        """Ids of the hubs from the root of the tree down to this one, as far as it knows."""
        return (*self.uplink.path, self.id) if self.uplink is not None else (self.id,)

    def _appended(self, node: str, lane: Lane, last: int) -> None:
        if node != PARENT:
            self.links.appended(node, lane, last)
        elif self.uplink is not None:
            self.uplink.appended(lane, last)

    def _send(self, node: str, frame: sync_pb2.Frame) -> bool:
        if node == PARENT:
            return self.uplink is not None and self.uplink.send(frame)
        return self.links.send(node, frame)

    def _send_calls(self, node: str, batch: sync_pb2.CallBatch) -> bool:
        return self._send(node, sync_pb2.Frame(calls=batch))

    async def _make_uplink(self, parent: ParentPorts) -> Uplink:
        reader = ParentReader(TaskLimits(), parent.child)
        uplink = Uplink(
            parent,
            hub_id=self.id,
            boot_id=self._boot_id,
            outbox=await self._stores.fleet.parent_outbox(),
            inbox=NodeInbox(
                PARENT, self._stores.link, {Lane.TASK: lambda intake: self._dispatcher.apply_parent(intake, reader)}
            ),
            view=self.view,
            above=FromParent(self._dispatcher, self.calls, self._handlers, self.links),
            clock=self._clock,
            rng=self._rng,
            alarm=self._alarm,
            acknowledged=self._parent_acknowledged,
        )
        self._messages.listen(lambda: uplink.appended(Lane.MESSAGE, self._messages.last_sequence))
        self._handlers.find_above = uplink.find
        return uplink

    def _parent_acknowledged(self, lane: Lane, sequence: int, rejections: Sequence[Rejection]) -> None:
        if lane is Lane.MESSAGE:
            self._messages.parent_acknowledged(sequence)
        if rejections:
            self._handlers.rejected(PARENT, rejections)

    def store_usage(self) -> tuple[tuple[LaneUsage, ...], int, int]:
        """(what each lane has of the store, bytes of its files, the bound on them)."""
        return tuple(self._database.budget.usage()), self._database.file_bytes(), self._database.limit_bytes

    async def start(self) -> None:
        """Read what the store knows and begin to move tasks."""
        await self._stores.messages.prepare()
        await self._stores.fleet.prepare()
        if self._parent is not None:
            self.uplink = await self._make_uplink(self._parent)
        else:
            await self._stores.fleet.forget_parent()
        await self._messages.start()
        await self._restore_fleet()
        await self._blobs.load()
        await self._exchange.look()
        reach(Failpoint.HUB_RESTORED)
        await self._dispatcher.start(has_parent=self._parent is not None)
        self._handlers.start()
        self._trim_later()

    def _trim_later(self) -> None:
        self._alarm.after(self._trim_interval, lambda: self._background.start(self._trim(), "old acknowledged entries"))

    async def _trim(self) -> None:
        try:
            await self._stores.fleet.trim()
        finally:
            self._trim_later()

    async def join_tree(self) -> None:
        """Dial the parent, if there is one; once the nodes can dial this hub."""
        if self.uplink is not None:
            await self.uplink.start()

    async def redial(self) -> None:
        """The identity toward the parent is a new one. Raises Unavailable when the new channel does not stand."""
        if self.uplink is not None:
            await self.uplink.redial()

    async def _restore_fleet(self) -> None:
        rows = await self._stores.fleet.nodes()
        self._recovery.start(rows, await self._stores.fleet.fence_base())
        self.links.rows.update({row.node: row for row in rows})
        wall = self._clock.wall()
        agents = []
        for row in await self._stores.fleet.agents():
            try:
                agents.append(known_agent(row.node, RegistryEntry(row.name, row.incarnation, row.version, row.payload)))
            except EdgenodeError:  # written by a newer version; its node sends it again when the digests differ
                continue
        self.view.restore({row.node: wall - row.last_contact for row in rows}, agents, self._clock.monotonic())

    async def stop(self) -> None:
        """End what runs. The links to the nodes are closed by then."""
        if self.uplink is not None:
            await self.uplink.stop()
        await self.links.stop()
        await self._exchange.stop()
        await self._blobs.close()
        await self._dispatcher.stop()
        await self._handlers.stop()
        await self._background.close()
        await self._messages.stop()
        now = self._clock.monotonic()
        ages = {node.name: self.view.staleness(node.name, now) for node in self.view.nodes()}
        if ages:
            await self._stores.fleet.touch({node: self._clock.wall() - age for node, age in ages.items()})

    async def _back_up(self, target: Path) -> admin_pb2.Backup:
        return await make_backup(self._database, SCOPE, self._state, self.name, target, self._clock)

    def troubles(self) -> tuple[str, ...]:
        """Why the hub is not well; empty when it is."""
        if self._database.trouble:
            return (self._database.trouble,)
        if self._database.budget.nearly_full:
            return ("the store is full: new work is refused until some has drained",)
        return ()

    def sync_service(self) -> SyncService:
        """What edges dial."""
        return SyncService(
            self.end, self._authority, self.enrollment, self._clock, self._alarm, self.gate, self.links.moving
        )

    def add_local_services(self, server: grpc.aio.Server, facts: Callable[[], HubFacts]) -> None:
        """What the local socket serves."""
        fleet = FleetService(
            facts,
            self._authority,
            self.enrollment,
            self._stores.fleet,
            self._stores.link,
            self._stores.tasks,
            self.view,
            self._placement,
            self._messages,
            self._desired,
            self._clones,
            self._clock,
            lambda: self.uplink,
            self._back_up,
            self.gate,
            FleetLetters(self._stores.letters, self._stores.tasks, self._desk, self._nodes, task_log, self._appended),
            self._auditor(),
        )
        registry = RegistryService(self.view, self._finder, self._clock)
        task = TaskService(
            self._desk, self._dispatcher, self._stores.tasks, self._placement, self.calls, self.name, self._clock
        )
        blobs = HubBlobService(self._blobs, self.name, self._clock)
        fleet_service_pb2_grpc.add_FleetServiceServicer_to_server(fleet, server)
        blob_service_pb2_grpc.add_BlobServiceServicer_to_server(blobs, server)
        registry_service_pb2_grpc.add_RegistryServiceServicer_to_server(registry, server)
        task_service_pb2_grpc.add_TaskServiceServicer_to_server(task, server)
        message_service_pb2_grpc.add_MessageServiceServicer_to_server(self._message_service, server)

    def _auditor(self) -> FleetAuditor:
        return FleetAuditor(
            lambda: audit_store(self._database, self._blob_folder),
            lambda node: self._stores.fleet.outbox(node).heads(),
            self._stores.fleet,
            self._stores.link,
            self.enrollment,
            self._nodes,
            self.view,
            self._clock,
            lambda: self.uplink.ports.address if self.uplink is not None else "",
        )

    def end_subscriptions(self) -> None:
        """Tell subscribers that the hub stops."""
        self._message_service.stop()


def hub_id(authority: Authority) -> str:
    """What a hub is called in the path of a tree. Names and domains may be given twice, a root's hash is not."""
    return f"{authority.hub}@{authority.trust_domain}#{authority.root_hash.hex()[:12]}"
