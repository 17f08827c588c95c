"""The dialing end: keeps a node's link to its parent up, for ever, and moves it when asked to.

Every dial opens a channel of its own, so that it uses the credentials of that moment. What ends a session never ends the
dialing: a parent that refuses is asked again, at the pace of the backoff or its own, and the refusal stands in `status()`.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, field

import grpc

from edgenode.link.errors import Cancelled, EdgenodeError, Internal, Unavailable
from edgenode.link.model.frames import AgentLoad, Pace
from edgenode.link.model.lanes import Lane
from edgenode.link.model.problem import Problem
from edgenode.link.ports import Clock, Inbox, Outbox, Rng
from edgenode.link.protocol import events as protocol
from edgenode.link.protocol.backoff import ReconnectBackoff
from edgenode.link.protocol.events import CHALLENGE, Role, SessionState, Standing
from edgenode.link.protocol.registry import RegistryLog
from edgenode.link.protocol.session import LinkSession, Local
from edgenode.link.wire.connection import LinkConnection, LinkEvents
from edgenode.link.wire.driver import DriverSettings, Ports, SessionDriver
from edgenode.link.wire.streams import DialedStream

_log = logging.getLogger(__name__)

_STATES = {
    SessionState.OPENING: "dialing",
    SessionState.GREETING: "greeting",
    SessionState.ESTABLISHED: "established",
    SessionState.CLOSING: "closing",
    SessionState.CLOSED: "closing",
}


@dataclass(frozen=True, slots=True, kw_only=True)
class DialingSettings:
    """Durations in seconds."""

    driver: DriverSettings = field(default_factory=DriverSettings)
    initial_backoff: float = 1.0
    max_backoff: float = 300.0
    stable_after: float = 30.0  # a session this long counts as a success and starts the backoff anew
    connect_timeout: float = 20.0
    store_timeout: float = 30.0  # for reading where the lanes stand
    stop_timeout: float = 15.0  # for an orderly end; then what is left is cancelled


@dataclass(frozen=True, slots=True)
class DialingStatus:
    """`state` is waiting, dialing, greeting, established, closing, or stopped; `since` its wall clock."""

    state: str
    since: float
    last_problem: Problem | None  # why the last session or attempt ended
    next_dial: float | None  # seconds until the next attempt, while waiting
    session_count: int  # sessions established so far


class DialingEnd:
    """Start it once everything it is given works; all methods run on the event loop."""

    def __init__(
        self,
        *,
        node: str,
        boot_id: str,
        generation: Callable[[], int],
        registry: RegistryLog | None,
        outbox: Outbox,
        inbox: Inbox,
        events: LinkEvents,
        open_channel: Callable[[], Awaitable[grpc.aio.Channel]],
        clock: Clock,
        rng: Rng,
        settings: DialingSettings | None = None,
        applied_version: Callable[[], int] = lambda: 0,
        software: str = "",
        hub: str = "",
        unreachable: Callable[[], None] = lambda: None,
    ) -> None:
        """`open_channel` makes a fresh channel with the present credentials and may raise EdgenodeError.

        `hub` is the id of the hub that dials, empty for an edge. `unreachable` is told when a channel cannot be made to stand.
        """
        self._unreachable = unreachable
        self._node = node
        self._boot_id = boot_id
        self._generation = generation
        self._registry = registry
        self._outbox = outbox
        self._inbox = inbox
        self._events = events
        self._open_channel = open_channel
        self._clock = clock
        self._settings = settings or DialingSettings()
        self._applied_version = applied_version
        self._software = software
        self._hub = hub
        self._backoff = ReconnectBackoff(
            rng,
            initial=self._settings.initial_backoff,
            maximum=self._settings.max_backoff,
            stable_after=self._settings.stable_after,
        )
        self._task: asyncio.Task[None] | None = None
        self._control = asyncio.Lock()  # start and stop, one at a time
        self._moving = asyncio.Lock()  # redials, one at a time
        self._wake = asyncio.Event()
        self._stopping = False
        self._interruptible = False
        self._driver: SessionDriver | None = None
        self._prepared: grpc.aio.Channel | None = None
        self._state = "stopped"
        self._since = clock.wall()
        self._next_dial: float | None = None
        self._last_problem: Problem | None = None
        self._session_count = 0
        outbox.on_append(self._appended)

    # --- for the node -------------------------------------------------------------------------------------------------

    @property
    def connection(self) -> LinkConnection | None:
        """The established session, if there is one now."""
        driver = self._driver
        return driver if driver is not None and driver.established else None

    def status(self) -> DialingStatus:
        """How the link is."""
        wait = None if self._next_dial is None else max(0.0, self._next_dial - self._clock.monotonic())
        return DialingStatus(self._state, self._since, self._last_problem, wait, self._session_count)

    def registry_changed(self) -> None:
        """The registry log has something new."""
        self._post(protocol.RegistryChanged())

    def report_loads(self, loads: Sequence[AgentLoad]) -> None:
        """These agents' loads are new; the session sends the newest, not each."""
        self._post(protocol.LoadsChanged(tuple(loads)))

    async def start(self) -> None:
        """Begins to dial; does nothing when started already."""
        async with self._control:
            if self._task is None or self._task.done():
                self._stopping = False
                self._wake.clear()
                self._task = asyncio.create_task(self._run(), name="link dialing")

    async def stop(self) -> None:
        """Says goodbye and ends, within `stop_timeout`; does nothing when not started. It may be started again."""
        async with self._control:
            task = self._task
            if task is None or task.done():
                return
            self._stopping = True
            self._wake.set()
            if self._driver is not None:
                self._driver.close(
                    Cancelled("SHUTDOWN", f"{self._node} is stopping", hint="it will dial again").problem
                )
            if self._interruptible:
                task.cancel()
            _, late = await asyncio.wait({task}, timeout=self._settings.stop_timeout)
            if late:
                _log.warning("the link did not end within %g s and is cut", self._settings.stop_timeout)
                task.cancel()
                await asyncio.wait({task})

    async def redial(self) -> None:
        """Moves the link to a fresh channel, e.g. after the certificate was renewed.

        The old session goes on until the new channel stands; then it ends in-band and the next begins at once from what both
        sides have committed. Without a session it dials now. Raises EdgenodeError when the new channel does not stand; the
        old session is then untouched.
        """
        async with self._moving:
            driver = self._driver
            if driver is None or not driver.established:
                self._wake.set()
                return
            channel = await self._open_channel()
            try:
                if not await self._connect(channel):
                    raise Unavailable("UNREACHABLE", "the parent could not be reached over a new channel")
            except BaseException:
                await channel.close()
                raise
            if self._stopping:
                await channel.close()
                return
            await self._drop_prepared()
            self._prepared = channel
            self._wake.set()
            driver.close(Cancelled("MOVED", f"{self._node} moves to another connection", hint="none needed").problem)

    # --- the loop -----------------------------------------------------------------------------------------------------

    async def _run(self) -> None:
        try:
            while not self._stopping:
                self._enter("dialing")
                before = self._session_count
                problem = await self._dial()
                self._last_problem = problem
                if self._session_count == before:
                    self._events.refused(problem)
                self._backoff.pace(problem.retry_after or 0.0)
                if self._stopping:
                    return
                if self._prepared is None:
                    _log.info("the link to the parent is down: %s", problem)
                    await self._wait()
        finally:
            self._interruptible = False
            self._next_dial = None
            self._enter("stopped")
            await self._drop_prepared()

    async def _wait(self) -> None:
        delay = self._backoff.next_delay(self._clock.monotonic())
        self._next_dial = self._clock.monotonic() + delay
        self._enter("waiting")
        self._interruptible = True
        try:
            await asyncio.wait_for(self._wake.wait(), delay)
        except TimeoutError:
            pass
        finally:
            self._interruptible = False
            self._next_dial = None

    async def _dial(self) -> Problem:
        """One attempt and, if it succeeds, the whole session; returns why it ended."""
        self._wake.clear()
        channel, self._prepared = self._prepared, None
        self._interruptible = True
        try:
            if channel is None:
                channel = await self._open_channel()
            if not await self._connect(channel):  # the rpc will fail as well, and say why
                self._unreachable()
            return await self._session(channel)
        except EdgenodeError as error:
            return error.problem
        except Exception as error:
            _log.exception("dialing the parent failed")
            return Internal("LINK_DEFECT", f"dialing failed: {error!r}", hint="this node's log has the details").problem
        finally:
            self._interruptible = False
            self._driver = None
            if channel is not None:
                await channel.close()

    async def _connect(self, channel: grpc.aio.Channel) -> bool:
        """Whether `channel` stands; False once it failed. Raises Unavailable (UNREACHABLE) when that takes too long."""
        try:
            async with asyncio.timeout(self._settings.connect_timeout):
                state = channel.get_state(try_to_connect=True)
                while state not in (grpc.ChannelConnectivity.READY, grpc.ChannelConnectivity.TRANSIENT_FAILURE):
                    await channel.wait_for_state_change(state)
                    state = channel.get_state(try_to_connect=True)
        except TimeoutError:
            raise Unavailable(
                "UNREACHABLE",
                f"the parent did not answer within {self._settings.connect_timeout:g} s",
                hint="check its address and the network",
            ) from None
        return state is grpc.ChannelConnectivity.READY

    async def _session(self, channel: grpc.aio.Channel) -> Problem:
        session = LinkSession(
            Role.DIALING,
            Local(
                self._node,
                self._boot_id,
                self._generation(),
                self._software,
                self._hub,
                "" if self._last_problem is None else self._last_problem.metadata.get(CHALLENGE, ""),
            ),
            self._settings.driver.session,
            registry=self._registry,
            weights=self._settings.driver.weights,
        )
        stream = DialedStream(channel)
        ports = Ports(
            outbox=self._outbox,
            inbox=self._inbox,
            events=self._events,
            changed=self._changed,
            established=self._established,
            paced=self._paced,
        )
        driver = SessionDriver(session, stream, ports, self._clock, self._settings.driver)
        self._driver = driver  # from here on it notes what is appended, so that nothing falls between
        try:
            standing = await self._standing()
            self._interruptible = False
            return await driver.run(protocol.Opened(standing))
        finally:
            stream.cancel()

    async def _standing(self) -> Standing:
        try:
            async with asyncio.timeout(self._settings.store_timeout):
                heads = tuple(await self._outbox.heads())
                cursors = tuple(await self._inbox.cursors())
        except TimeoutError:
            raise Unavailable("STORE_SLOW", "the store did not say in time where the lanes stand") from None
        return Standing(heads, cursors, applied_version=self._applied_version())

    async def _drop_prepared(self) -> None:
        channel, self._prepared = self._prepared, None
        if channel is not None:
            await channel.close()

    def _established(self, driver: SessionDriver) -> None:
        self._session_count += 1
        self._backoff.established(self._clock.monotonic())
        _log.info("the link to %s is up, fence %d", driver.peer.node, driver.fence)

    def _paced(self, pace: Pace) -> None:
        self._backoff.pace(pace.retry_after)

    def _changed(self, state: SessionState) -> None:
        self._enter(_STATES[state])

    def _enter(self, state: str) -> None:
        if state != self._state:
            self._state = state
            self._since = self._clock.wall()

    def _appended(self, lane: Lane, last: int) -> None:
        if self._driver is not None:
            self._driver.appended(lane, last)

    def _post(self, event: protocol.Event) -> None:
        if self._driver is not None:
            self._driver.post(event)
