"""Runs one link session: the sans-IO core on one side, a gRPC stream and two stores on the other.

Theory of operation. Everything happens on one event loop. Whatever occurs becomes an event for the session, and its
effects are carried out at once and in order; an event that arises meanwhile waits in line. Effects that take time (reads,
applies, acknowledgements) run as tasks and come back as events, so that a slow store never stops heartbeats.

Frames to send collect in a queue; the one writer task puts what waits there into one gRPC message, up to a bound: no
lingering, yet a busy link sends few, large messages. The session counts what the writer has not taken and stops reading lanes.
Memory stays bounded on the way in by the credits that the session gave, and by not reading while handlers are behind.
A store that is full is asked again until it has room; meanwhile its lane stands still, and only its lane.

The end comes once, with the session's Disconnect. Then: the stream is finished in-band if it still lives, store work already
begun is waited for (a transaction is never abandoned half-way), handlers run dry, and only then `closed` is told.
"""

from __future__ import annotations

import asyncio
import logging
from collections import deque
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

from edgenode.api.sync.v1 import sync_pb2
from edgenode.link.errors import EdgenodeError, Internal, ResourceExhausted
from edgenode.link.failpoints import Failpoint, reach
from edgenode.link.model.frames import Ack, Hello, Pace, Passthrough, RegistryDelta
from edgenode.link.model.lanes import Lane
from edgenode.link.model.problem import Code, Problem
from edgenode.link.ports import Clock, Inbox, Outbox
from edgenode.link.protocol import events as protocol
from edgenode.link.protocol.events import Standing
from edgenode.link.protocol.registry import RegistryChanges
from edgenode.link.protocol.session import LinkSession, SessionConfig
from edgenode.link.wire import checks
from edgenode.link.wire.connection import LinkEvents
from edgenode.link.wire.deliveries import Deliveries
from edgenode.link.wire.frames import frame_from_pb, frame_to_pb, passthrough
from edgenode.link.wire.outgoing import Acknowledger, FrameQueue
from edgenode.link.wire.streams import Stream

_log = logging.getLogger(__name__)
_SHORTEST_TIMER = 0.001
CARRIED_BYTES = 32 << 20
_FULL_RETRY = 5.0  # seconds until a full store is asked again, if it does not say


@dataclass(frozen=True, slots=True, kw_only=True)
class DriverSettings:
    """Bounds of a driver; durations in seconds."""

    session: SessionConfig = field(default_factory=SessionConfig)
    weights: Mapping[Lane, int] = field(default_factory=dict)  # shares of the link; lanes not named have the default
    message_bytes: int = 1 << 20  # frames waiting are put together up to this
    carried_count: int = 1024  # best-effort frames that may wait at the writer
    carried_bytes: int = CARRIED_BYTES  # and what they may take together; one alone may take more
    delivery_count: int = 256  # handlers that may wait before the link reads no further
    finish_timeout: float = 1.0  # for the other side to end its half of the stream
    drain_timeout: float = 5.0  # for store work and handlers under way at the end


@dataclass(frozen=True, slots=True, kw_only=True)
class Ports:
    """What a session works on, and who wants to know; the last three belong to one role each."""

    outbox: Outbox
    inbox: Inbox
    events: LinkEvents
    changed: Callable[[protocol.SessionState], None] | None = None
    established: Callable[[SessionDriver], None] | None = None  # before the events' `established`
    ended: Callable[[SessionDriver], None] | None = None  # before the events' `closed`
    admit: Callable[[Hello], Awaitable[Standing]] | None = None  # accepting; raises EdgenodeError to refuse
    commit_registry: Callable[[RegistryDelta, RegistryChanges], Awaitable[None]] | None = None  # accepting
    paced: Callable[[Pace], None] | None = None  # dialing


class SessionDriver:
    """Drives one session over one stream; it is also the LinkConnection that the layers above hold."""

    def __init__(
        self, session: LinkSession, stream: Stream, ports: Ports, clock: Clock, settings: DriverSettings
    ) -> None:
        self._session = session
        self._stream = stream
        self._ports = ports
        self._clock = clock
        self._settings = settings
        self._waiting_events: deque[protocol.Event] = deque()
        self._refused = False  # somebody's frame, for want of room
        self._handling = False
        self._timer: asyncio.TimerHandle | None = None
        self._timer_at = 0.0
        self._unwritten = FrameQueue(settings.message_bytes)
        self._work: set[asyncio.Task[None]] = set()
        self._acknowledger = Acknowledger(ports.outbox)
        self._early: dict[Lane, int] | None = {}
        self._state = session.state
        self._deliveries = Deliveries(settings.delivery_count)
        self._peer: protocol.Peer | None = None
        self._answered = False
        self._problem: Problem | None = None
        self._over = asyncio.Event()
        self._finished = asyncio.Event()
        self._effects: dict[type, Callable[[Any], None]] = {
            protocol.Send: self._send,
            protocol.Admit: self._admit,
            protocol.Established: self._established,
            protocol.ReadLane: self._read_lane,
            protocol.Apply: self._apply,
            protocol.Acknowledge: self._acknowledge,
            protocol.RenewEpoch: self._renew_epoch,
            protocol.ApplyRegistry: self._apply_registry,
            protocol.LoadsReported: self._loads_reported,
            protocol.Deliver: self._deliver,
            protocol.PaceGiven: self._pace_given,
            protocol.Disconnect: self._disconnect,
        }

    # --- the handle (LinkConnection) ----------------------------------------------------------------------------------

    @property
    def peer(self) -> protocol.Peer:
        """See LinkConnection."""
        if self._peer is None:
            raise RuntimeError("the session was never established")
        return self._peer

    @property
    def fence(self) -> int:
        """See LinkConnection."""
        return self.peer.fence

    @property
    def established(self) -> bool:
        """See LinkConnection."""
        return self._session.state is protocol.SessionState.ESTABLISHED and self._problem is None

    @property
    def was_established(self) -> bool:
        """Whether it ever came that far."""
        return self._peer is not None

    def send(self, frame: sync_pb2.Frame) -> bool:
        """See LinkConnection."""
        carried = passthrough(frame)
        if not self.established:
            return False
        waiting, size = self._unwritten.carried, self._unwritten.carried_bytes
        full = waiting >= self._settings.carried_count
        if full or (waiting and size + frame.ByteSize() > self._settings.carried_bytes):
            self._refused = True
            return False
        self.post(protocol.Forward(carried))
        return True

    def set_weights(self, weights: Mapping[Lane, int]) -> None:
        """See LinkConnection."""
        for lane, weight in weights.items():
            checks.in_range(weight, 1, 1000, f"weight of lane {lane.name.lower()}")
        self.post(protocol.WeightsChanged(dict(weights)))

    def set_pace(self, retry_after: float, bytes_per_second: int) -> bool:
        """See LinkConnection."""
        if not self.established:
            return False
        self.post(protocol.Forward(Pace(retry_after, bytes_per_second)))
        return True

    def close(self, problem: Problem) -> None:
        """See LinkConnection."""
        self.post(protocol.CloseRequested(problem))

    # --- running ------------------------------------------------------------------------------------------------------

    async def run(self, opened: protocol.Opened) -> Problem:
        """Drives the session to its end; returns why it ended. Cancelling it loses the stream, but still ends in order."""
        reader = asyncio.create_task(self._read(), name="link reader")
        writer = asyncio.create_task(self._write(), name="link writer")
        try:
            self.post(opened)
            if opened.standing is not None:
                self._replay_early()
            await self._over.wait()
        finally:
            if not self._over.is_set():
                self.post(protocol.Lost(Problem(Code.CANCELLED, "STREAM_CANCELLED", "the stream was cancelled")))
            await self._finish(reader, writer)
        assert self._problem is not None
        return self._problem

    @property
    def over(self) -> bool:
        """Whether the session has ended, or is being wound up."""
        return self._over.is_set()

    async def finished(self) -> None:
        """Returns when the session is over and everything it had begun has ended."""
        await self._finished.wait()

    def appended(self, lane: Lane, last: int) -> None:
        """The local log was committed up to `last`; kept until the session knows the heads it must be compared with."""
        if self._early is None:
            self.post(protocol.Appended(lane, last))
        else:
            self._early[lane] = last

    def post(self, event: protocol.Event) -> None:
        """Gives `event` to the session and carries out the effects; after the end it does nothing."""
        self._waiting_events.append(event)
        if self._handling:
            return
        self._handling = True
        try:
            while self._waiting_events:
                self._handle(self._waiting_events.popleft())
        finally:
            self._handling = False
        self._arm_timer()

    def _handle(self, event: protocol.Event) -> None:
        if self._problem is not None:
            return
        try:
            effects = self._session.handle(event, self._clock.monotonic())
        except EdgenodeError as error:
            # A frame that came as the session went down is lost as promised; any other refusal is a defect worth a look.
            level = logging.DEBUG if error.reason == "LINK_DOWN" else logging.WARNING
            _log.log(level, "the link session refused %s: %s", type(event).__name__, error)
            return
        except Exception as error:
            self._fail(error)
            return
        for effect in effects:
            try:
                self._effects[type(effect)](effect)
            except Exception as error:
                self._fail(error)
                return
        if self._session.state is not self._state:
            self._state = self._session.state
            if self._ports.changed is not None:
                self._ports.changed(self._state)

    def _fail(self, error: Exception) -> None:
        _log.error("the link session failed", exc_info=error)
        self._disconnect(protocol.Disconnect(_defect(error)))

    def _arm_timer(self) -> None:
        deadline = self._session.next_deadline() if self._problem is None else None
        if deadline is None or (self._timer is not None and self._timer_at <= deadline):
            return
        if self._timer is not None:
            self._timer.cancel()
        self._timer_at = deadline
        delay = max(_SHORTEST_TIMER, deadline - self._clock.monotonic())
        self._timer = asyncio.get_running_loop().call_later(delay, self._tick)

    def _tick(self) -> None:
        self._timer = None
        deadline = self._session.next_deadline()
        if deadline is not None and deadline <= self._clock.monotonic():
            self.post(protocol.Tick())
        else:
            self._arm_timer()

    async def _finish(self, reader: asyncio.Task[None], writer: asyncio.Task[None]) -> None:
        try:
            if self._timer is not None:
                self._timer.cancel()
            if self._problem is not None and self._problem.reason == protocol.MOVED and not writer.done():
                await self._unwritten.drained(self._settings.finish_timeout)
            idle = not self._unwritten and not writer.done()
            writer.cancel()
            await asyncio.wait({writer})
            if idle and not reader.done():
                await self._finish_stream(reader)
            reader.cancel()
            await asyncio.wait({reader})
            if self._work:
                _, late = await asyncio.wait(self._work, timeout=self._settings.drain_timeout)
                for task in late:
                    _log.warning("%s took too long and was cancelled", task.get_name())
                    task.cancel()
            await self._deliveries.close(self._settings.drain_timeout)
        finally:
            self._stream.cancel()
            self._finished.set()
            if self._ports.ended is not None:
                self._ports.ended(self)
            if self._peer is not None and self._problem is not None:
                self._ports.events.closed(self, self._problem)

    async def _finish_stream(self, reader: asyncio.Task[None]) -> None:
        try:
            ending = await asyncio.wait_for(self._stream.finish(), self._settings.finish_timeout)
        except Exception as error:
            _log.debug("the stream could not be finished in-band: %r", error)
        else:
            if ending:
                await asyncio.wait({reader}, timeout=self._settings.finish_timeout)

    # --- the stream ---------------------------------------------------------------------------------------------------

    async def _read(self) -> None:
        try:
            while True:
                for message in await self._stream.read():
                    self._receive(message)
                await self._deliveries.room()
        except EdgenodeError as error:
            self.post(protocol.Lost(error.problem))
        except Exception as error:
            _log.exception("the link's reader failed")
            self.post(protocol.Lost(_defect(error)))

    def _receive(self, message: sync_pb2.Frame) -> None:
        try:
            frame = frame_from_pb(message)
        except EdgenodeError as error:
            self.close(replace(error.problem, reason="PROTOCOL_ERROR", message=str(error)))
            return
        if frame is None:
            return
        moved = self._problem is not None and self._problem.reason == protocol.MOVED
        if moved and isinstance(frame, Passthrough):
            # The session is over, the stream not yet: answers that were on their way belong to those who wait for them.
            self._deliver(protocol.Deliver(frame))
        else:
            self.post(protocol.Received(frame))
            if not self._answered and self.established:  # not so after a GoAway, which may follow a greeting at once
                self._answered = True
                self._ports.events.answered(self)

    async def _write(self) -> None:
        try:
            await self._unwritten.write_to(self._stream, self._written)
        except EdgenodeError as error:
            self.post(protocol.Lost(error.problem))
        except Exception as error:
            _log.exception("the link's writer failed")
            self.post(protocol.Lost(_defect(error)))

    def _written(self, count: int) -> None:
        self.post(protocol.Writable(count))
        # At half of what may wait, so that those who were refused do not come for each frame that leaves.
        few = 2 * self._unwritten.carried <= self._settings.carried_count
        if self._refused and few and 2 * self._unwritten.carried_bytes <= self._settings.carried_bytes:
            self._refused = False
            if self.established:
                self._ports.events.room(self)

    # --- effects ------------------------------------------------------------------------------------------------------

    def _send(self, effect: protocol.Send) -> None:
        self._unwritten.put(frame_to_pb(effect.frame))
        if isinstance(effect.frame, Ack):
            reach(Failpoint.ACK_DUE)

    def _admit(self, effect: protocol.Admit) -> None:
        self._start(self._admit_node(effect.hello), "link admission")

    async def _admit_node(self, hello: Hello) -> None:
        if self._ports.admit is None:
            raise Internal("NOT_ACCEPTING", "a dialing session was asked to admit a node")
        standing = await self._ports.admit(hello)
        reach(Failpoint.LINK_ADMITTED)
        self.post(protocol.Admitted(standing))
        self._replay_early()

    def _established(self, effect: protocol.Established) -> None:
        self._peer = effect.peer
        reach(Failpoint.LINK_ESTABLISHED)
        if self._ports.established is not None:
            self._ports.established(self)
        self._ports.events.established(self)

    def _read_lane(self, effect: protocol.ReadLane) -> None:
        async def read() -> None:
            chunk = await self._ports.outbox.read(effect.lane, effect.after, effect.max_count, effect.max_bytes)
            if chunk.segments:
                reach(Failpoint.BATCH_READ)
            self.post(protocol.ReadDone(effect.lane, chunk))

        self._start(read(), "link read")

    def _apply(self, effect: protocol.Apply) -> None:
        async def apply() -> None:
            inbox = self._ports.inbox
            reach(Failpoint.BATCH_RECEIVED)
            while not self._over.is_set():
                try:
                    result = await inbox.apply(effect.lane, effect.epoch, effect.base, effect.segments, effect.gap)
                except ResourceExhausted as error:
                    _log.warning("entries of lane %s wait: %s", effect.lane.name.lower(), error)
                    self.post(protocol.ApplyDelayed(effect.lane))
                    await self._pause(error.problem.retry_after or _FULL_RETRY)
                else:
                    reach(Failpoint.BATCH_COMMITTED)
                    self.post(protocol.Applied(effect.lane, effect.epoch, result))
                    return

        self._start(apply(), "link apply")

    def _acknowledge(self, effect: protocol.Acknowledge) -> None:
        reach(Failpoint.ACK_RECEIVED)
        if self._acknowledger.put(effect):
            self._start(self._acknowledger.store(effect.lane), "link acknowledgement")

    def _renew_epoch(self, effect: protocol.RenewEpoch) -> None:
        async def renew() -> None:
            head = await self._ports.outbox.renew_epoch(effect.lane)
            reach(Failpoint.EPOCH_RENEWED)
            self.post(protocol.EpochRenewed(head))

        self._start(renew(), "link epoch")

    def _apply_registry(self, effect: protocol.ApplyRegistry) -> None:
        commit = self._ports.commit_registry
        if commit is None:
            raise RuntimeError("a dialing session was given a registry")

        async def apply() -> None:
            reach(Failpoint.REGISTRY_RECEIVED)
            await commit(effect.delta, effect.changes)
            reach(Failpoint.REGISTRY_COMMITTED)
            self.post(protocol.RegistryApplied(effect.changes.epoch, effect.changes.version))

        self._start(apply(), "link registry")

    def _loads_reported(self, effect: protocol.LoadsReported) -> None:
        self._deliveries.put("loads", lambda: self._ports.events.on_heartbeat_loads(self, effect.loads))

    def _deliver(self, effect: protocol.Deliver) -> None:
        handler = getattr(self._ports.events, f"on_{effect.frame.kind}")
        self._deliveries.put(str(effect.frame.kind), lambda: handler(self, effect.frame.message))

    def _pace_given(self, effect: protocol.PaceGiven) -> None:
        if self._ports.paced is not None:
            self._ports.paced(effect.pace)

    def _disconnect(self, effect: protocol.Disconnect) -> None:
        if self._problem is None:
            self._problem = effect.problem
            self._over.set()

    async def _pause(self, seconds: float) -> None:
        """Wait, at most until the session is over."""
        try:
            await asyncio.wait_for(self._over.wait(), seconds)
        except TimeoutError:
            return

    def _start(self, work: Any, name: str) -> None:
        """Runs store work as a task; what it raises ends the session."""
        task = asyncio.create_task(self._guarded(work, name), name=name)
        self._work.add(task)
        task.add_done_callback(self._work.discard)

    async def _guarded(self, work: Awaitable[None], name: str) -> None:
        try:
            await work
        except EdgenodeError as error:
            self.close(error.problem)
        except Exception as error:
            _log.exception("%s failed", name)
            self.close(_defect(error))

    def _replay_early(self) -> None:
        early, self._early = self._early or {}, None
        for lane, last in early.items():
            self.post(protocol.Appended(lane, last))


def _defect(error: Exception) -> Problem:
    return Internal(
        "LINK_DEFECT", f"the link session failed: {error!r}", hint="this node's log has the details", retryable=True
    ).problem
