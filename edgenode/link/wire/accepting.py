"""The accepting end: a parent's side of the links to its children, one session for each node at most.

A node's second stream ends its first: the newer one is the living one, for a broken connection can look alive for a whole
lease. The older session is over, its store work included, before the newer one reads where the lanes stand.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Any, Protocol

from edgenode.link.errors import Aborted, PermissionDenied, Unavailable, from_problem
from edgenode.link.model.frames import Hello, RegistryDelta
from edgenode.link.model.lanes import Lane
from edgenode.link.model.problem import Problem
from edgenode.link.ports import Clock, Inbox, Outbox
from edgenode.link.protocol.events import Opened, Role, Standing
from edgenode.link.protocol.registry import RegistryChanges, RegistryReplica
from edgenode.link.protocol.session import LinkSession, Local
from edgenode.link.wire.connection import LinkConnection, LinkEvents
from edgenode.link.wire.driver import DriverSettings, Ports, SessionDriver
from edgenode.link.wire.status import Context
from edgenode.link.wire.streams import AcceptedStream

_log = logging.getLogger(__name__)


class ReplicaStore(Protocol):
    """Where a parent keeps its picture of one child's registry."""

    async def load(self) -> RegistryReplica:
        """The picture as stored. The session changes the object it gets as its commits succeed."""
        ...

    async def commit(self, delta: RegistryDelta, changes: RegistryChanges) -> None:
        """Stores entries, epoch and version of `changes` in one transaction."""
        ...


@dataclass(frozen=True, slots=True, kw_only=True)
class Child:
    """What a parent has for one of its nodes.

    `admit` checks the greeting (generation, boot id) and returns a fence above all earlier ones of this node; it raises
    EdgenodeError to refuse, and then an older session of the node goes on undisturbed.
    """

    outbox: Outbox
    inbox: Inbox
    replica: ReplicaStore
    events: LinkEvents
    admit: Callable[[Hello], Awaitable[int]]
    weights: Mapping[Lane, int] = field(default_factory=dict)


@dataclass(frozen=True, slots=True, kw_only=True)
class AcceptingSettings:
    """Durations in seconds."""

    driver: DriverSettings = field(default_factory=DriverSettings)
    supersede_timeout: float = 10.0  # for the older session to end; then the newer one is sent away to try again
    retry_after: float = 1.0  # what it is told then


class AcceptingEnd:
    """Serves the Sync rpc. `open_child` gives what belongs to a node; the same outbox object for the same log each time."""

    def __init__(
        self,
        *,
        node: str,
        boot_id: str,
        open_child: Callable[[str], Awaitable[Child]],
        clock: Clock,
        settings: AcceptingSettings | None = None,
        software: str = "",
        path: Callable[[], tuple[str, ...]] = tuple,
    ) -> None:
        """`path` gives the ids of the hubs from the root of the tree down to this one."""
        self._local = Local(node, boot_id, software=software, path=path)
        self._open_child = open_child
        self._clock = clock
        self._settings = settings or AcceptingSettings()
        self._drivers: set[SessionDriver] = set()
        self._current: dict[str, SessionDriver] = {}
        self._connections: dict[str, LinkConnection] = {}
        self._doors: dict[str, asyncio.Lock] = {}
        self._relays: dict[str, _Relay] = {}
        self._closing: Problem | None = None

    @property
    def connections(self) -> Mapping[str, LinkConnection]:
        """The established sessions by node; a live view."""
        return MappingProxyType(self._connections)

    async def serve(
        self,
        node_name: str,
        request_iterator: AsyncIterator[Any],
        context: Context,
        opened: Callable[[LinkConnection], None] | None = None,
    ) -> None:
        """One stream, to its end. `node_name` is the one in the verified certificate.

        `opened` is given the handle of this stream's session before anything is heard on it, to end it by.

        Raises EdgenodeError when the session never came up: PermissionDenied (NAME_MISMATCH) and what `admit` raised.
        """
        if self._closing is not None:
            raise from_problem(self._closing)
        child = await self._open_child(node_name)
        session = LinkSession(
            Role.ACCEPTING,
            self._local,
            self._settings.driver.session,
            weights={**self._settings.driver.weights, **child.weights},
        )

        async def admit(hello: Hello) -> Standing:
            return await self._admit(node_name, child, driver, hello)

        ports = Ports(
            outbox=child.outbox,
            inbox=child.inbox,
            events=child.events,
            established=lambda driver: self._established(node_name, driver),
            ended=lambda driver: self._ended(node_name, driver),
            admit=admit,
            commit_registry=child.replica.commit,
        )
        stream = AcceptedStream(request_iterator, context)
        driver = SessionDriver(session, stream, ports, self._clock, self._settings.driver)
        self._drivers.add(driver)
        if opened is not None:
            opened(driver)
        try:
            problem = await driver.run(Opened())
        finally:
            self._drivers.discard(driver)
        if not driver.was_established:
            raise from_problem(problem)

    async def close_all(self, problem: Problem) -> None:
        """Ends every session with `problem` and refuses new ones with it; returns when all have ended."""
        self._closing = problem
        drivers = list(self._drivers)
        for driver in drivers:
            driver.close(problem)
        await asyncio.gather(*(driver.finished() for driver in drivers))

    async def _admit(self, node_name: str, child: Child, driver: SessionDriver, hello: Hello) -> Standing:
        if hello.node != node_name:
            raise PermissionDenied(
                "NAME_MISMATCH",
                f"the certificate names {node_name}, the greeting {hello.node!r}",
                hint="a node speaks for itself only",
            )
        async with self._doors.setdefault(node_name, asyncio.Lock()):
            if driver.over:
                raise Aborted("SUPERSEDED", f"{node_name} left while it was waiting to be let in")
            fence = await child.admit(hello)
            await self._supersede(node_name)
            if driver.over:
                raise Aborted("SUPERSEDED", f"{node_name} left while it was waiting to be let in")
            self._current[node_name] = driver
        self._follow(node_name, child.outbox, driver)
        replica = await child.replica.load()
        heads = tuple(await child.outbox.heads())
        cursors = tuple(await child.inbox.cursors(hello.heads))
        return Standing(heads, cursors, fence=fence, replica=replica)

    async def _supersede(self, node_name: str) -> None:
        older = self._current.get(node_name)
        if older is None:
            return
        older.close(
            Aborted("SUPERSEDED", f"{node_name} opened another stream", hint="only the newest stream counts").problem
        )
        try:
            await asyncio.wait_for(older.finished(), self._settings.supersede_timeout)
        except TimeoutError:
            raise Unavailable(
                "SESSION_ENDING",
                f"the older session of {node_name} has not ended yet",
                hint="try again",
                retry_after=self._settings.retry_after,
            ) from None

    def _follow(self, node_name: str, outbox: Outbox, driver: SessionDriver) -> None:
        relay = self._relays.get(node_name)
        if relay is None or relay.outbox is not outbox:
            relay = self._relays[node_name] = _Relay(outbox)
        relay.driver = driver

    def _established(self, node_name: str, driver: SessionDriver) -> None:
        self._connections[node_name] = driver
        _log.info("%s is connected, fence %d", node_name, driver.fence)

    def _ended(self, node_name: str, driver: SessionDriver) -> None:
        if self._connections.get(node_name) is driver:
            del self._connections[node_name]
        if self._current.get(node_name) is driver:
            del self._current[node_name]
        relay = self._relays.get(node_name)
        if relay is not None and relay.driver is driver:
            relay.driver = None


class _Relay:
    """Tells the current session of a node what its outbox was given; outboxes are subscribed to once and for ever."""

    def __init__(self, outbox: Outbox) -> None:
        self.outbox = outbox
        self.driver: SessionDriver | None = None
        outbox.on_append(self._appended)

    def _appended(self, lane: Lane, last: int) -> None:
        if self.driver is not None:
            self.driver.appended(lane, last)
