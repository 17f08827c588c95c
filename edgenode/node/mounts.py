"""Servers of other protocols that are agents of this node: which, and how they are.

Which is a row each, committed before whoever asked is answered. The node runs none of them itself: a bridge does, a program
of its own that is kept running while there is a mount (`supervisor.py`), learns of them by WatchMounts, attaches an agent
for each as any program would, and reports how each is. What it reported is in memory, and forgotten when it is gone.
"""

from __future__ import annotations

import asyncio
import contextlib
import importlib.util
import sqlite3
from collections.abc import AsyncIterator, Callable, Mapping
from dataclasses import dataclass

from edgenode.api.admin.v1 import admin_pb2, admin_service_pb2
from edgenode.link.errors import AlreadyExists, FailedPrecondition, NotFound, ResourceExhausted, Unavailable
from edgenode.link.model.names import check_name
from edgenode.link.ports import Clock
from edgenode.link.store.database import Database
from edgenode.link.wire import checks
from edgenode.link.wire.finding import MAX_PAGE
from edgenode.link.wire.mounts import MOUNTED, check_mount, check_mount_status, without_secrets
from edgenode.link.wire.values import timestamp_to_pb
from edgenode.node.registry import AgentRegistry

SCHEMA = """
CREATE TABLE mount (
    name TEXT PRIMARY KEY,
    mount BLOB NOT NULL
) STRICT, WITHOUT ROWID;
"""

MAX_MOUNTS = 256
LEAVE_TIME = 10.0  # seconds the agent of a removed mount may take to finish its calls


@dataclass(frozen=True, slots=True)
class Bridge:
    """The program for one kind of mounts. `name` is also that of the command, the extra and the package it needs."""

    name: str
    module: str  # that is run
    serves: str


BRIDGES: Mapping[admin_pb2.MountKind, Bridge] = {
    admin_pb2.MOUNT_KIND_MCP: Bridge("mcp", "edgenode.bridges.mcp", "MCP servers"),
    admin_pb2.MOUNT_KIND_A2A: Bridge("a2a", "edgenode.bridges.a2a", "A2A agents"),
}


def kind_of(mount: admin_pb2.Mount) -> admin_pb2.MountKind:
    """Which bridge runs it."""
    return admin_pb2.MOUNT_KIND_A2A if mount.HasField("a2a") else admin_pb2.MOUNT_KIND_MCP


def bridge_installed(bridge: Bridge) -> bool:
    """Whether the bridge's program has what it needs; loads nothing."""
    return importlib.util.find_spec(bridge.name) is not None


class Mounts:
    """The mounts of the node. `await load()` once; `on_change` is called with the kinds there are, `stop` ends watches."""

    def __init__(
        self,
        database: Database,
        registry: AgentRegistry,
        clock: Clock,
        installed: Callable[[Bridge], bool] = bridge_installed,
    ) -> None:
        self._database = database
        self._registry = registry
        self._clock = clock
        self._installed = installed
        self._mounts: dict[str, admin_pb2.Mount] = {}
        self._statuses: dict[str, admin_pb2.MountStatus] = {}
        self._watchers: dict[asyncio.Event, admin_pb2.MountKind] = {}
        self._retried: dict[asyncio.Event, set[str]] = {}  # what each watcher is still to be told to try
        self._turn = asyncio.Lock()  # row and memory change together
        self._stopping = False
        self._leaving: dict[str, asyncio.Event] = {}  # of mounts that were removed, until their agent is gone
        registry.on_change(self._note_change)
        self.on_change: Callable[[set[admin_pb2.MountKind]], None] = lambda _kinds: None

    async def load(self) -> None:
        """Read them, and remove agents of mounts that are gone since."""
        rows = await self._database.read(
            lambda connection: connection.execute("SELECT mount FROM mount ORDER BY name").fetchall()
        )
        for (blob,) in rows:
            mount = admin_pb2.Mount.FromString(blob)
            self._mounts[mount.name] = mount
        for agent in list(self._registry.all()):
            if MOUNTED in agent.labels and agent.name not in self._mounts:
                await self._registry.deregister(agent.name)

    async def add(self, request: admin_service_pb2.AddMountRequest) -> admin_service_pb2.AddMountResponse:
        """Stored when it returns. Raises AlreadyExists (MOUNT_EXISTS) and what else AdminService names."""
        checks.short(request.request_id, 128, "request_id")
        check_mount(request.mount)
        mount = admin_pb2.Mount()
        mount.CopyFrom(request.mount)
        async with self._turn:
            held = self._mounts.get(mount.name)
            if held == mount:
                return admin_service_pb2.AddMountResponse()
            self._check_addable(mount, held)
            row = (mount.name, mount.SerializeToString())

            def store(connection: sqlite3.Connection) -> None:
                connection.execute("INSERT INTO mount VALUES (?, ?)", row)

            await self._database.write(store)
            self._mounts[mount.name] = mount
        self._wake()
        self.on_change(self.kinds)
        return admin_service_pb2.AddMountResponse()

    def _check_addable(self, mount: admin_pb2.Mount, held: admin_pb2.Mount | None) -> None:
        name = mount.name
        if held is not None:
            remove = f"edgenode {BRIDGES[kind_of(held)].name} remove {name}"
            raise AlreadyExists("MOUNT_EXISTS", f"{name} is mounted already, and differs", hint=remove, name=name)
        bridge = BRIDGES[kind_of(mount)]
        if not self._installed(bridge):
            raise FailedPrecondition(
                "BRIDGE_NOT_INSTALLED",
                f"this node has no bridge to {bridge.serves}",
                hint=f"pip install 'edgenode[{bridge.name}]' where the node runs",
            )
        if len(self._mounts) >= MAX_MOUNTS:
            raise ResourceExhausted(
                "TOO_MANY_MOUNTS", f"there are {MAX_MOUNTS} mounts", hint="remove one first", retryable=False
            )

    def page(self, request: admin_service_pb2.ListMountsRequest) -> admin_service_pb2.ListMountsResponse:
        """By name, without secrets."""
        checks.in_range(request.page_size, 0, MAX_PAGE, "page_size")
        if request.page_token:
            check_name(request.page_token, "page_token")
        size = request.page_size or 100
        names = sorted(name for name in self._of(request.kind) if name > request.page_token)
        response = admin_service_pb2.ListMountsResponse(next_page_token=names[size - 1] if len(names) > size else "")
        for name in names[:size]:
            status = self._statuses.get(name) or admin_pb2.MountStatus(state=admin_pb2.MOUNT_STATE_PENDING)
            response.mounts.add(mount=without_secrets(self._mounts[name]), status=status)
        return response

    async def remove(self, request: admin_service_pb2.RemoveMountRequest) -> admin_service_pb2.RemoveMountResponse:
        """Gone for good when it returns; its bridge ends the server. Raises NotFound (UNKNOWN_MOUNT)."""
        checks.short(request.request_id, 128, "request_id")
        check_name(request.name, "name")
        async with self._turn:
            if request.name not in self._mounts:
                raise _unknown(request.name)

            def delete(connection: sqlite3.Connection) -> None:
                connection.execute("DELETE FROM mount WHERE name = ?", (request.name,))

            await self._database.write(delete)
            del self._mounts[request.name]
            self._statuses.pop(request.name, None)
        left = self._leaving[request.name] = asyncio.Event()
        try:
            self._wake()
            await self._left(request.name, left)
        finally:
            if self._leaving.get(request.name) is left:
                del self._leaving[request.name]
            self.on_change(self.kinds)
        return admin_service_pb2.RemoveMountResponse()

    def retry(self, request: admin_service_pb2.RetryMountRequest) -> admin_service_pb2.RetryMountResponse:
        """Has its bridge try it now. Raises NotFound (UNKNOWN_MOUNT)."""
        checks.short(request.request_id, 128, "request_id")
        check_name(request.name, "name")
        if request.name not in self._mounts:
            raise _unknown(request.name)
        for watcher, names in self._retried.items():
            names.add(request.name)
            watcher.set()
        return admin_service_pb2.RetryMountResponse()

    async def _left(self, name: str, left: asyncio.Event) -> None:
        """The agent leaves once its calls have ended; one that is not attached, or does not leave, is removed."""
        agent = self._registry.get(name)
        if agent is None or MOUNTED not in agent.labels:
            return
        if self._registry.is_held(agent):
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(left.wait(), LEAVE_TIME)
        if name not in self._mounts:  # nor mounted again meanwhile
            await self._registry.deregister(name)

    def _note_change(self, agent: str) -> None:
        if agent in self._leaving and self._registry.get(agent) is None:
            self._leaving[agent].set()

    def report(self, request: admin_service_pb2.ReportMountRequest) -> admin_service_pb2.ReportMountResponse:
        """How one is, from its bridge. Raises NotFound (UNKNOWN_MOUNT), InvalidArgument."""
        check_name(request.name, "name")
        check_mount_status(request.status)
        if request.name not in self._mounts:
            raise _unknown(request.name)
        status = self._statuses[request.name] = admin_pb2.MountStatus()
        status.CopyFrom(request.status)
        status.state_time.CopyFrom(timestamp_to_pb(self._clock.wall()))
        return admin_service_pb2.ReportMountResponse()

    async def watch(self, kind: admin_pb2.MountKind) -> AsyncIterator[admin_service_pb2.WatchMountsResponse]:
        """All of a kind, now and after each change. Raises Unavailable (NODE_STOPPING) at the end.

        A bridge watches as long as it lives, so what was reported is forgotten when its watch ends.
        """
        changed = asyncio.Event()
        self._watchers[changed] = kind
        retried = self._retried[changed] = set()
        try:
            while not self._stopping:
                changed.clear()
                names = sorted(self._of(kind))
                response = admin_service_pb2.WatchMountsResponse(mounts=[self._mounts[name] for name in names])
                response.retried_names.extend(name for name in names if name in retried)
                retried.clear()
                yield response
                await changed.wait()
        finally:
            del self._watchers[changed], self._retried[changed]
            if kind not in self._watchers.values():
                for name in self._of(kind):
                    self._statuses.pop(name, None)
        raise Unavailable("NODE_STOPPING", "the node is stopping", hint="connect again in a moment", retry_after=1.0)

    def stop(self) -> None:
        """End all watches."""
        self._stopping = True
        self._wake()

    @property
    def kinds(self) -> set[admin_pb2.MountKind]:
        """Those there are mounts of."""
        return {kind_of(mount) for mount in self._mounts.values()}

    def _of(self, kind: admin_pb2.MountKind) -> list[str]:
        """Names of a kind's mounts, of all for none."""
        return [name for name, mount in self._mounts.items() if not kind or kind_of(mount) == kind]

    def _wake(self) -> None:
        for watcher in self._watchers:
            watcher.set()


def _unknown(name: str) -> NotFound:
    return NotFound("UNKNOWN_MOUNT", f"there is no mount {name}", hint="edgenode mcp list", name=name)
