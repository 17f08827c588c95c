"""Edges and the hub as machines: the product's own composition on a simulated disk and network, booted, killed and paused."""

from __future__ import annotations

import functools
import os
import random
import shutil
import sqlite3
from collections.abc import Callable
from contextlib import AsyncExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from cryptography import x509

from edgenode.api.enrollment.v1 import enrollment_service_pb2
from edgenode.api.sync.v1 import sync_service_pb2
from edgenode.link.errors import EdgenodeError, Unavailable
from edgenode.link.identity.peers import read_client_certificate
from edgenode.link.protocol.registry import RegistryLog
from edgenode.link.store.quarantine import note_path
from edgenode.node import backup as edge_backup
from edgenode.node.config import NodeConfig
from edgenode.node.host import Host
from edgenode.node.local_server import Services
from edgenode.node.node import Node
from hub.config import HubConfig
from hub.services.alarm import Alarm
from hub.services.core import Core
from hub.services.enrollment import EnrollmentService
from hub.services.uplink import ParentPorts
from hub.store import backup as hub_backup
from hub.store.schema import open_database
from tests.simulation import skew
from tests.simulation.disk import MARK, Disk, Files
from tests.simulation.fleet import HUB, WALL, fleet
from tests.simulation.loop import Process
from tests.simulation.network import Channel, Road
from tests.simulation.rpc import Direct, Rpc
from tests.simulation.skew import has_skew

if TYPE_CHECKING:
    from tests.simulation.world import World

HUB_CERTIFICATE_LIFE = 200 * 86_400.0
STOP_SECONDS = 60.0  # an orderly stop takes at most so long
ENROLL_PORT = "7444"


class MachineClock:
    """The clocks of one machine: the monotonic one is the world's, the wall clock can be set."""

    def __init__(self, world: World) -> None:
        self._world = world
        self.offset = 0.0

    def monotonic(self) -> float:
        """See Clock."""
        return self._world.loop.now

    def wall(self) -> float:
        """See Clock."""
        return WALL + self._world.loop.now + self.offset


class Machine:
    """What edge and hub have in common."""

    config: Any  # the product's own, of an edge or a hub

    def __init__(self, world: World, name: str, store: str, template: bytes) -> None:
        self.world = world
        self.name = name
        self.directory = world.directory / name
        self.directory.mkdir(parents=True)
        self.clock = MachineClock(world)
        self.disk = Disk(world.loop, self.directory / store, world.random(f"{name} disk"))
        self.disk.put({"": template})
        # The first boot of each would write its megabytes; that is most of what a disk costs here.
        os.link(fleet().ballast, f"{self.disk.path}.ballast")
        self.process: Process | None = None
        self.version = skew.first_version(world.random(f"{name} version")) if has_skew(world.seed) else skew.PRESENT
        self.boots = 0
        self.serving = False
        self._stopping = False
        self._boot_after_stop = False
        self._template = template

    @property
    def up(self) -> bool:
        """Whether it runs, ready or not."""
        return self.process is not None and self.process.alive

    def boot(self) -> None:
        """Start the service; if it cannot start it is started again after a while."""
        if self.up:
            self._boot_after_stop = self._stopping
            return
        self._stopping = self._boot_after_stop = False
        self.boots += 1
        self.world.note(self.name, "boots", self.boots)
        self.process = Process(self.world.loop, f"{self.name}/{self.boots}")
        rng = self.world.random(f"{self.name} {self.boots}")
        self.process.start(self._run(self.process, rng))

    async def _run(self, process: Process, rng: random.Random) -> None:
        try:
            await self._start(process, rng)
        except EdgenodeError as error:
            self.world.note(self.name, "does not start", error)
            self.world.refused_starts[error.reason] += 1
            if error.reason == "STATE_DAMAGED":
                self.world.loop.soon(self.world.damages.refused, self)
                return
            self.world.loop.later(1.0, self._try_again, process)
        else:
            self.serving = True
            self.world.note(self.name, "serves")

    def _try_again(self, process: Process) -> None:
        if self.process is process and process.alive:
            self.crash(power=False, silent=False)
            self.boot()

    async def _start(self, process: Process, rng: random.Random) -> None:
        raise NotImplementedError

    def crash(self, *, power: bool, silent: bool) -> None:
        """The process is gone. `power`: the machine as well; `silent`: nobody is told by the network."""
        process, self.process = self.process, None
        if process is None or not process.alive:
            return
        process.kill()
        self.serving = False
        fate = self.disk.crash(power=power)
        disk = self.disk
        disk.slow, disk.failing_commits, disk.page_limit, disk.trap = 1.0, 0, 0, None
        self.world.fates[fate] += 1
        self.world.note(self.name, "dies", f"power={power} silent={silent} disk: {fate}")
        self._forget(process, silent=silent)

    def _forget(self, process: Process, *, silent: bool) -> None:
        raise NotImplementedError

    def restore(self, files: Files, *, by_command: bool) -> None:
        """Put an old copy of the disk in the place of the disk: as it is, or as the restore command does."""
        self.crash(power=False, silent=False)
        note_path(self.disk.path).unlink(missing_ok=True)
        self.disk.put({suffix: data for suffix, data in files.items() if suffix != MARK or not by_command})
        self.world.note(self.name, "is restored", "by command" if by_command else "as it was")
        if by_command:
            sql = sqlite3.connect(self.disk.path, isolation_level=None)
            sql.execute("BEGIN IMMEDIATE")
            epochs = self.world.random(f"{self.name} restored {self.boots}")
            self._begin_anew(sql, self.clock.wall(), lambda: f"r{epochs.getrandbits(64):016x}")
            sql.execute("COMMIT")
            sql.close()
        self.world.oracle.restored(self)

    def _begin_anew(self, sql: sqlite3.Connection, now_time: float, new_epoch: Callable[[], str]) -> None:
        raise NotImplementedError

    def stop(self) -> None:
        """An orderly stop; `boot` may come at once after it is over."""
        process = self.process
        if process is not None and process.alive and self.serving:
            self.world.note(self.name, "is stopped")
            self.serving = False
            self._stopping = True
            task = process.start(self._stop())
            task.add_done_callback(lambda _: self.world.loop.soon(self._stopped, process))
            self.world.loop.later(STOP_SECONDS, self._stop_over, process)

    async def _stop(self) -> None:
        raise NotImplementedError

    def _stopped(self, process: Process) -> None:
        if self.process is process and process.alive:
            left = [task.get_name() for task in process.tasks if not task.done()]
            self.world.check(not left, f"{self.name} leaves tasks behind when it stops: {left}")
            process.kill()
            self.process = None
            self.world.fates[self.disk.crash(power=False)] += 1
            self._forget(process, silent=False)
            if self._boot_after_stop:
                self.boot()

    def _stop_over(self, process: Process) -> None:
        self.world.check(not process.alive or process.paused, f"{self.name} does not stop")


@dataclass
class Served:
    """What an edge serves while it does."""

    services: Services
    calls: list[Rpc]


class LocalDoor:
    """The node's socket: `edgenode.node.host.Server`."""

    port = 0

    def __init__(self, edge: Edge, services: Services) -> None:
        self._edge = edge
        self._services = services

    async def start(self) -> None:
        """See Server."""
        self._edge.served = Served(self._services, [])

    async def ready(self) -> None:
        """See Server."""

    async def drain(self) -> None:
        """See Server."""

    async def stop(self, grace: float) -> None:
        """See Server."""
        served, self._edge.served = self._edge.served, None
        if served is not None:
            for call in served.calls:
                call.break_off()


class Edge(Machine):
    """An edge node that has joined the hub."""

    def __init__(self, world: World, name: str, road: Road, hub: Hub, **settings: Any) -> None:
        super().__init__(world, name, "node.db", fleet().edge_store)
        shutil.copytree(hub.fleet.directory / name / "identity", self.directory / "identity")
        self.road = road
        self.hub = hub
        self.config = NodeConfig(state_dir=self.directory, log_level="error", **settings)
        self.node: Node | None = None
        self.served: Served | None = None

    async def _start(self, process: Process, rng: random.Random) -> None:
        host = Host(
            connect=self.disk.connect,
            open_channel=self._open_channel,  # type: ignore[arg-type]
            make_server=lambda _config, services: LocalDoor(self, services),
        )
        self.node = node = Node(self.config, clock=self.clock, rng=rng, host=host)
        await node.start()

    def registry_log(self) -> RegistryLog:
        """What it tells its hub of its agents."""
        assert self.node is not None
        return self.node.rooms.registry.log

    async def _stop(self) -> None:
        assert self.node is not None
        await self.node.stop()

    def _begin_anew(self, sql: sqlite3.Connection, now_time: float, new_epoch: Callable[[], str]) -> None:
        edge_backup.begin_anew(sql, now_time, new_epoch)

    def _forget(self, process: Process, *, silent: bool) -> None:
        served, self.served, self.node = self.served, None, None
        for call in served.calls if served is not None else ():
            call.break_off(tell_server=False)
        leave(self.world, self.road, silent=silent)

    def _open_channel(self, target: str, credentials: Any = None, *, settings: Any = None) -> Channel:
        assert credentials is not None
        return dial(self, self.hub, self.road, self.directory, target)

    def call(
        self, method: Callable[[Services], Any], request_type: Any, response_type: Any, request: Any = None
    ) -> Rpc | None:
        """Call a method of the node as a program on its device; None while nobody listens."""
        if self.served is None or self.process is None:
            return None
        delay = self.world.local_rng.uniform(0.0001, 0.001)
        rpc = Rpc(
            self.world.loop,
            self.process,
            (Direct(delay), Direct(delay)),
            (request_type.FromString, response_type.FromString),
            on_defect=self.world.defect,
        )
        calls = self.served.calls
        if len(calls) > 50:
            calls[:] = [call for call in calls if not call.done()]
        calls.append(rpc)
        handler = method(self.served.services)
        if request is None:
            return rpc.serve(handler)

        async def unary(_: Any, context: Any) -> None:
            await context.write(await handler(request, context))

        return rpc.serve(unary)


@functools.lru_cache(maxsize=64)
def _begin_time(certificate: bytes) -> float:
    return x509.load_pem_x509_certificate(certificate).not_valid_before_utc.timestamp()


class _SyncDoor:
    """network.Listener of the hub's sync port."""

    def __init__(self, hub: Hub) -> None:
        self._hub = hub

    @property
    def process(self) -> Process | None:
        return self._hub.process if self._hub.serving else None

    def trusts(self, certificate: bytes) -> bool:
        begin = _begin_time(certificate)
        return begin <= self._hub.clock.wall() <= read_client_certificate(certificate).expire_time

    def method(self, name: str) -> tuple[Any, Any]:
        return self._hub.sync_service.Sync, sync_service_pb2.SyncRequest.FromString


class _EnrollmentDoor(_SyncDoor):
    """network.Listener of the hub's enrollment port."""

    def trusts(self, certificate: bytes) -> bool:
        return True

    def method(self, name: str) -> tuple[Any, Any]:
        return getattr(self._hub.enrollment_service, name), getattr(enrollment_service_pb2, f"{name}Request").FromString


class Hub(Machine):
    """The hub."""

    def __init__(self, world: World, name: str = HUB, **settings: Any) -> None:
        self.fleet = fleet(name)
        super().__init__(world, name, "edgehub.db", self.fleet.hub_store)
        self.fleet.clock.time = self.clock.wall
        self.config = HubConfig(state_dir=self.directory, log_level="error", **settings)
        self.sync = _SyncDoor(self)
        self.enrollment = _EnrollmentDoor(self)
        self.core: Core | None = None
        self.sync_service: Any = None
        self.enrollment_service: Any = None
        self._closing = AsyncExitStack()

    async def _start(self, process: Process, rng: random.Random) -> None:
        authority = self.fleet.authority
        database = await open_database(self.config.store_path, self.config.store_bytes, self.disk.connect)
        alarm = Alarm(self.clock)
        core = Core(self.config, authority, database, self.clock, rng, alarm, self._parent(rng))
        self._closing = AsyncExitStack()
        self._closing.push_async_callback(database.close)
        self._closing.callback(alarm.close)
        self._closing.push_async_callback(core.stop)
        await core.start()
        self.core = core
        self.sync_service = core.sync_service()
        self.enrollment_service = EnrollmentService(authority, core.enrollment, self.clock, 7443)
        await self._join_tree(core)

    def _parent(self, rng: random.Random) -> ParentPorts | None:
        return None

    async def _join_tree(self, core: Core) -> None:
        """It has no parent."""

    def _begin_anew(self, sql: sqlite3.Connection, now_time: float, new_epoch: Callable[[], str]) -> None:
        hub_backup.begin_anew(sql, now_time, new_epoch)

    async def _stop(self) -> None:
        assert self.core is not None
        self.core.calls.close()
        problem = Unavailable("SHUTDOWN", "the hub is stopping", retry_after=1.0).problem
        for link in list(self.core.links.connections.values()):
            link.set_pace(1.0, 0)
        await self.core.end.close_all(problem)
        try:
            await self._closing.aclose()
        except EdgenodeError as error:
            self.world.note(self.name, "stops badly", error)

    def _forget(self, process: Process, *, silent: bool) -> None:
        self.core = None
        for dialer in self.world.dialers:
            for channel in dialer.road.connections[:] if dialer.hub is self else ():
                if silent:
                    channel.lame = [True, True]
                else:
                    channel.break_off(tell_server=False)


def dial(machine: Machine, hub: Hub, road: Road, identity: Path, target: str) -> Channel:
    """What a node opens to one of its hub's listeners; `identity` is the state directory it joined with."""

    def trusts_hub() -> bool:
        return WALL - 3600 <= machine.clock.wall() <= WALL + HUB_CERTIFICATE_LIFE

    enrolls = target.endswith(ENROLL_PORT)
    listener = hub.enrollment if enrolls else hub.sync
    certificate = b"" if enrolls else hub.fleet.certificate(identity)
    defect = machine.world.defect
    return Channel(
        machine.world.loop,
        road,
        listener,
        certificate,
        trusts_hub,
        defect,
        lambda: (machine.version, hub.version),
    )


def leave(world: World, road: Road, *, silent: bool) -> None:
    """Who dialed over this road is gone."""
    for channel in road.connections[:]:
        if silent:
            channel.lame = [True, True]
            road.connections.remove(channel)
        else:
            world.loop.later(road.delay(), channel.break_off)


def remove(directory: Path) -> None:
    """A run's files are not needed any more."""
    shutil.rmtree(directory, ignore_errors=True)
