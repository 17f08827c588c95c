"""The hub: opens the store, starts what is behind the listeners, then the listeners; and stops it all in reverse.

Edges reach a hub only once it knows its fleet. A stopping hub first tells its edges to come back in a while and lets what
they had under way finish, then ends its listeners, then the worker that moves tasks, and closes the store last.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable
from contextlib import AsyncExitStack, suppress
from pathlib import Path

import grpc
from grpc_health.v1 import health

import edgenode
from edgenode.api.blob.v1 import blob_service_pb2
from edgenode.api.enrollment.v1 import enrollment_service_pb2_grpc
from edgenode.api.fleet.v1 import fleet_service_pb2
from edgenode.api.message.v1 import message_service_pb2
from edgenode.api.registry.v1 import registry_service_pb2
from edgenode.api.sync.v1 import sync_service_pb2_grpc
from edgenode.api.task.v1 import task_service_pb2
from edgenode.link.errors import FailedPrecondition, Unavailable
from edgenode.link.failpoints import Failpoint, reach
from edgenode.link.gil import on_thread
from edgenode.link.identity.credentials import ServerIdentity
from edgenode.link.identity.files import make_private_directory
from edgenode.link.model.lanes import Lane
from edgenode.link.parent.identity import load_identity
from edgenode.link.parent.membership import Membership
from edgenode.link.ports import Clock, Rng, SystemClock, system_rng
from edgenode.link.wire.channels import (
    MAX_LINK_MESSAGE_BYTES,
    OpenChannel,
    ServerSettings,
    add_health,
    bind,
    create_server,
    open_channel,
    set_serving,
    unix_target,
)
from edgenode.link.wire.dialing import DialingSettings
from edgenode.link.wire.interceptors import LocalPeersOnly, ServiceInterceptor
from edgenode.link.wire.reflection import add_reflection
from hub.ca.authority import Authority
from hub.config import HubConfig
from hub.services.alarm import Alarm
from hub.services.core import Core
from hub.services.enrollment import AnyCaller, EnrollmentService
from hub.services.fleet import HubFacts
from hub.services.sync import EdgesOnly
from hub.services.uplink import ParentPorts
from hub.store.schema import open_database

# What a stopping hub asks of its edges, so that they do not knock at a closed door.
SHUTDOWN_RETRY_SECONDS = 1.0
SOCKET_GRACE_SECONDS = 1.0
LONGEST_LEAF_WAIT = 60.0  # the wall clock may be set meanwhile

LEAF_RETRY_SECONDS = 60.0

_LOCAL_FILES = (fleet_service_pb2, blob_service_pb2, registry_service_pb2, task_service_pb2, message_service_pb2)
LOCAL_SERVICES = tuple(
    service.full_name for file in _LOCAL_FILES for service in file.DESCRIPTOR.services_by_name.values()
)

_log = logging.getLogger(__name__)


class Hub:
    """One hub. `start` and `stop` may come in any order and more than once; a stopped hub is not started again."""

    def __init__(
        self,
        config: HubConfig,
        *,
        clock: Clock | None = None,
        rng: Rng | None = None,
        open_channel: OpenChannel = open_channel,
    ) -> None:
        """`open_channel` makes the channels to the parent."""
        self._config = config
        self._open_channel = open_channel
        self._clock = clock or SystemClock()
        self._rng = rng or system_rng()
        self._lock = asyncio.Lock()
        self._running = AsyncExitStack()
        self._starting: asyncio.Task[object] | None = None
        self._started = False
        self._stopped = False
        self._start_time = 0.0
        self._damaged = asyncio.Event()
        self.sync_port = 0
        self.enrollment_port = 0

    @property
    def config(self) -> HubConfig:
        """What it was told."""
        return self._config

    @property
    def socket_path(self) -> Path:
        """Where its Unix socket is."""
        return self._config.socket_path

    async def damaged(self) -> None:
        """Returns when the store was found damaged: nothing that is told from it can be trusted any more."""
        await self._damaged.wait()

    async def start(self) -> None:
        """Serve. Raises FailedPrecondition (NOT_INITIALISED, STATE_IN_USE, PORT_TAKEN, HUB_STOPPED) or DataLoss."""
        async with self._lock:
            if self._stopped:
                raise FailedPrecondition("HUB_STOPPED", "this hub was stopped", hint="make another one")
            if self._started:
                return
            self._starting = asyncio.current_task()
            try:
                await self._start()
                self._started = True
            except BaseException:
                await self._running.aclose()
                raise
            finally:
                self._starting = None

    async def stop(self) -> None:
        """End in order. A start that is under way is cancelled."""
        self._stopped = True
        if self._starting is not None:
            self._starting.cancel()
        async with self._lock:
            self._started = False
            await self._running.aclose()

    async def _start(self) -> None:
        config = self._config
        self._start_time = self._clock.wall()
        authority = Authority.load(config.state_dir, self._clock, leaf_life=config.leaf_ttl_seconds)
        await _renew_leaf(authority)
        make_private_directory(config.state_dir)
        database = await open_database(
            config.store_path,
            config.store_bytes,
            shares={Lane.MESSAGE: config.message_share, Lane.TASK: config.task_share},
        )
        self._running.push_async_callback(database.close)
        database.on_damage = lambda _error: self._damaged.set()
        if database.damage is not None:
            self._damaged.set()
        alarm = Alarm(self._clock)
        self._running.callback(alarm.close)
        membership = self._membership(lambda: core)
        parent = None if membership is None else parent_ports(config, membership)
        core = Core(config, authority, database, self._clock, self._rng, alarm, parent)
        self._running.push_async_callback(core.stop)
        await core.start()
        identity = ServerIdentity(authority.hub_pair())
        keeping = asyncio.create_task(self._keep_leaf(authority, identity), name="hub certificate")
        self._running.push_async_callback(_end, keeping)
        await self._serve_edges(core, authority, identity)
        reach(Failpoint.HUB_SERVING)
        await self._serve_enrollment(core, authority, identity)
        await self._serve_socket(core)
        if membership is not None:
            self._running.push_async_callback(membership.stop)
            membership.start()
            await core.join_tree()
        _log.info("hub %s serves edges on port %d", core.name, self.sync_port)

    def _membership(self, core: Callable[[], Core]) -> Membership | None:
        """What ties this hub to its parent; None if it has joined none."""
        identity = load_identity(self._config.parent_dir)
        if identity is None:
            return None

        async def redial() -> None:
            await core().redial()

        return Membership(
            self._config.parent_dir, identity, self._config.parent, self._clock, self._rng, redial, self._open_channel
        )

    async def _keep_leaf(self, authority: Authority, identity: ServerIdentity) -> None:
        """Make the hub a new certificate before the old one ends; connections that are up keep theirs."""
        while True:
            left = authority.hub_renewal_time() - self._clock.wall()
            await asyncio.sleep(min(max(left, 1.0), LONGEST_LEAF_WAIT))
            try:
                await _renew_leaf(authority)
            except Exception:  # the one in use is good for a while; whatever it is, it must not end the keeping
                _log.exception("the hub's certificate could not be renewed")
                await asyncio.sleep(LEAF_RETRY_SECONDS)
            pair = authority.hub_pair()
            if pair != identity.pair:
                identity.replace(pair)

    async def _serve_edges(self, core: Core, authority: Authority, identity: ServerIdentity) -> None:
        settings = ServerSettings(max_message_bytes=MAX_LINK_MESSAGE_BYTES)
        server = create_server(ServiceInterceptor(EdgesOnly(authority.trust_domain)), settings)
        sync_service_pb2_grpc.add_SyncServiceServicer_to_server(core.sync_service(), server)
        self.sync_port = bind(server, self._config.listen, identity.mutual_credentials(authority.edge_ca_pem))
        self._running.push_async_callback(server.stop, 0)
        self._running.push_async_callback(self._drain, core)
        await server.start()

    async def _serve_enrollment(self, core: Core, authority: Authority, identity: ServerIdentity) -> None:
        server = create_server(ServiceInterceptor(AnyCaller()))
        service = EnrollmentService(authority, core.enrollment, self._clock, self.sync_port)
        enrollment_service_pb2_grpc.add_EnrollmentServiceServicer_to_server(service, server)
        self.enrollment_port = bind(server, self._config.enroll_listen, identity.open_credentials())
        self._running.push_async_callback(server.stop, SOCKET_GRACE_SECONDS)
        await server.start()

    async def _serve_socket(self, core: Core) -> None:
        server = create_server(ServiceInterceptor(LocalPeersOnly()))
        core.add_local_services(server, lambda: self._facts(core))
        servicer = add_health(server, LOCAL_SERVICES)
        add_reflection(server, LOCAL_SERVICES)
        bind(server, unix_target(self.socket_path))
        self._running.push_async_callback(_stop_socket, server, servicer, core)
        await server.start()
        self.socket_path.chmod(0o600)
        await set_serving(servicer, True, ("", *LOCAL_SERVICES))

    def _facts(self, core: Core) -> HubFacts:
        return HubFacts(
            core.name,
            edgenode.__version__,
            self._start_time,
            self.sync_port,
            self.enrollment_port,
            core.path(),
            core.troubles(),
            *core.store_usage(),
        )

    async def _drain(self, core: Core) -> None:
        """Tell the edges to come back in a while, and let what they had under way finish."""
        core.calls.close()
        for link in list(core.links.connections.values()):
            link.set_pace(SHUTDOWN_RETRY_SECONDS, 0)
        problem = Unavailable(
            "SHUTDOWN", "the hub is stopping", hint="dial again in a while", retry_after=SHUTDOWN_RETRY_SECONDS
        ).problem
        with suppress(TimeoutError):
            await asyncio.wait_for(core.end.close_all(problem), self._config.drain_seconds)
        reach(Failpoint.HUB_DRAINED)


def parent_ports(config: HubConfig, membership: Membership) -> ParentPorts:
    """What a hub's core needs of its membership."""
    return ParentPorts(
        child=membership.identity.node,
        identity=str(membership.identity.name),
        address=membership.address,
        open_channel=membership.open_channel,
        unreachable=membership.unreachable,
        refusal=lambda: membership.refusal,
        generation=lambda: membership.identity.generation,
        settings=DialingSettings(
            initial_backoff=config.reconnect_min_seconds, max_backoff=config.reconnect_max_seconds
        ),
    )


async def _renew_leaf(authority: Authority) -> None:
    """Renew the hub's certificate if it is time, off the loop: it waits for the disk."""
    try:
        await on_thread(authority.renew_hub_leaf)
    except OSError as error:
        _log.error("the hub's new certificate cannot be kept, it will be made again at the next start: %s", error)


async def _end(task: asyncio.Task[None]) -> None:
    task.cancel()
    await asyncio.wait({task})


async def _stop_socket(server: grpc.aio.Server, servicer: health.aio.HealthServicer, core: Core) -> None:
    await servicer.enter_graceful_shutdown()
    core.end_subscriptions()
    await server.stop(SOCKET_GRACE_SECONDS)
