"""What an established session does: lanes both ways, the registry, loads, signs of life."""

from __future__ import annotations

from collections.abc import Callable, Iterable

from edgenode.link.errors import FailedPrecondition, Unavailable
from edgenode.link.model import frames as f
from edgenode.link.model.lanes import Lane, LaneCursor
from edgenode.link.protocol import events as e
from edgenode.link.protocol.events import Effect
from edgenode.link.protocol.greeting import Greeting, SessionConfig, by_lane
from edgenode.link.protocol.lanes import LaneReceiver, LaneSender, protocol_error
from edgenode.link.protocol.registry import RegistryChanges, RegistryLog
from edgenode.link.protocol.registry_sync import RegistrySink, RegistrySource
from edgenode.link.protocol.sending import Sending
from edgenode.link.protocol.sharing import LaneSharing

FLIGHT_SHARE = 0.2  # of the lease: how long what is sent may be under way


class Exchange:
    """The state of an established session. `send` and `emit` take frames and effects in order."""

    def __init__(
        self,
        greeting: Greeting,
        config: SessionConfig,
        sharing: LaneSharing,
        send: Callable[[f.Frame], None],
        emit: Callable[[Effect], None],
        now: float,
    ) -> None:
        """The greeting is complete; nothing is sent or emitted yet."""
        assert greeting.standing is not None
        assert greeting.theirs is not None
        self._config = config
        self._send = send
        self._emit = emit
        cursors = by_lane(greeting.standing.cursors)
        self._receivers = {
            head.lane: LaneReceiver(
                head, cursors.get(head.lane, _unseen(head.lane)), config.window_bytes, config.window_count
            )
            for head in greeting.theirs.heads
        }
        self._greeting = greeting
        self._source: RegistrySource | None = None
        self._sink: RegistrySink | None = None
        theirs = greeting.theirs
        timing = theirs if isinstance(theirs, f.Welcome) else config
        self._heartbeat = timing.heartbeat
        self._lease = timing.lease
        self.sending = Sending(sharing, config.batch_count, config.batch_bytes, timing.lease * FLIGHT_SHARE, now)
        self._last_sent = now
        self._last_heard = now
        self._number = 0
        self._loads: dict[str, f.AgentLoad] = {}
        self._loads_due = now

    def begin(self, registry: RegistryLog | None, now: float) -> None:
        """Take up where the cursors say."""
        standing, theirs = self._greeting.standing, self._greeting.theirs
        assert standing is not None
        assert theirs is not None
        cursors, credits = by_lane(theirs.cursors), by_lane(theirs.credits)
        for head in standing.heads:
            cursor = cursors.get(head.lane, _unseen(head.lane))
            sender = LaneSender(head, cursor, credits.get(head.lane, f.Credit(head.lane, 0, 0)))
            sender.appended(self._greeting.appended.get(head.lane, 0))
            self.sending.senders[head.lane] = sender
            # The cursor is an acknowledgement, too: the Ack that said so may have been lost with the last session.
            if sender.acked >= head.first:
                # So far both know the same log; what the cursor rejected beyond belongs to another disk.
                rejections = tuple(known for known in cursor.rejections if known.sequence <= sender.acked)
                self._emit(e.Acknowledge(head.lane, head.epoch, sender.acked, rejections))
        if isinstance(theirs, f.Welcome) and registry is not None:
            self._source = RegistrySource(
                registry,
                theirs.registry_epoch,
                theirs.registry_version,
                now,
                max_count=self._config.registry_count,
                max_bytes=self._config.registry_bytes,
                digest_interval=self._config.digest_interval,
            )
        elif standing.replica is not None:
            self._sink = RegistrySink(standing.replica)

    # --- lanes --------------------------------------------------------------------------------------------------------

    def _sender(self, lane: Lane) -> LaneSender:
        sender = self.sending.senders.get(lane)
        if sender is None:
            raise protocol_error(f"there is no log of lane {lane.name}")
        return sender

    def _receiver(self, lane: Lane) -> LaneReceiver:
        receiver = self._receivers.get(lane)
        if receiver is None:
            raise protocol_error(f"no log of lane {lane.name} was announced")
        return receiver

    def appended(self, lane: Lane, last: int) -> None:
        """A local log grew; one that the greeting did not name waits for the next session."""
        self.sending.appended(lane, last)

    def read_done(self, event: e.ReadDone, now: float) -> None:
        """The outbox was read. Raises FailedPrecondition (SESSION_STATE) if it was not asked to be."""
        batch = self.sending.read_done(event.lane, event.chunk, now)
        if batch is not None:
            self._send(batch)

    def on_batch(self, frame: f.Batch) -> None:
        """Entries came."""
        receiver = self._receiver(frame.lane)
        receiver.received(frame)
        self._apply_next(receiver)

    def _apply_next(self, receiver: LaneReceiver) -> None:
        apply = receiver.next_apply()
        if apply is not None:
            self._emit(apply)

    def applied(self, event: e.Applied) -> None:
        """Entries are committed: now, and not before, acknowledge them."""
        receiver = self._receivers.get(event.lane)
        if receiver is None:
            raise FailedPrecondition("SESSION_STATE", f"nothing is being applied on {event.lane.name}")
        self._send(receiver.applied(event.epoch, event.result))
        self._apply_next(receiver)

    def apply_delayed(self, lane: Lane) -> None:
        """Room for nothing more is a sign of life, too. Raises FailedPrecondition (SESSION_STATE) if nothing is applied."""
        receiver = self._receivers.get(lane)
        if receiver is None or not receiver.applying:
            raise FailedPrecondition("SESSION_STATE", f"nothing is being applied on {lane.name}")
        self._send(f.Credit(lane, 0, 0))

    def on_ack(self, frame: f.Ack) -> None:
        """The other side committed entries of ours."""
        self.sending.acknowledged(frame.lane, frame.sequence, self._last_heard)
        if self._sender(frame.lane).acknowledged(frame):
            self._emit(e.Acknowledge(frame.lane, frame.epoch, frame.sequence, frame.rejections))

    def on_credit(self, frame: f.Credit) -> None:
        """The other side has more room."""
        self._sender(frame.lane).credited(frame)

    # --- registry -----------------------------------------------------------------------------------------------------

    def on_registry_delta(self, frame: f.RegistryDelta) -> None:
        """The node's registry changed."""
        answer = self._registry_sink().received(frame)
        if isinstance(answer, RegistryChanges):
            self._emit(e.ApplyRegistry(frame, answer))
        else:
            self._send(answer)

    def registry_applied(self, event: e.RegistryApplied) -> None:
        """The change is committed."""
        if self._sink is None:
            raise FailedPrecondition("SESSION_STATE", "no registry is being applied")
        self._send(self._sink.applied(event.epoch, event.version))

    def on_registry_digest(self, frame: f.RegistryDigest) -> None:
        """Compare, ask for what differs."""
        request = self._registry_sink().compared(frame)
        if request is not None:
            self._send(request)

    def on_registry_ack(self, frame: f.RegistryAck) -> None:
        """The parent committed a change."""
        self._registry_source().acknowledged(frame)

    def on_registry_digest_request(self, frame: f.RegistryDigestRequest) -> None:
        """The parent's picture differs."""
        self._registry_source().requested(frame)

    def _registry_sink(self) -> RegistrySink:
        if self._sink is None:
            raise protocol_error("this side keeps no registry of the node")
        return self._sink

    def _registry_source(self) -> RegistrySource:
        if self._source is None:
            raise protocol_error("this side has no registry to send")
        return self._source

    # --- signs of life ------------------------------------------------------------------------------------------------

    def heard(self, now: float) -> None:
        """A frame came in."""
        self._last_heard = now

    def sent(self, now: float) -> None:
        """A frame went out."""
        self._last_sent = now

    def loads_changed(self, loads: Iterable[f.AgentLoad]) -> None:
        """Loads to tell with the next heartbeat, which they bring forward."""
        self._loads.update((load.agent, load) for load in loads)

    def on_heartbeat(self, frame: f.Heartbeat) -> None:
        """A sign of life, perhaps with loads."""
        if frame.loads:
            self._emit(e.LoadsReported(frame.loads))
        if frame.reply_wanted:
            self._send(f.Heartbeat(frame.number))

    # --- time ---------------------------------------------------------------------------------------------------------

    def pump(self, now: float, *, writable: bool) -> None:
        """Send and ask for whatever is due. Raises Unavailable when the other side must be given up."""
        if now >= self._last_heard + self._lease:
            raise Unavailable("LEASE_EXPIRED", f"nothing was heard for {self._lease:g} s", hint="check the network")
        stalled_at = self.sending.stalled_at(now, self._config.stall_timeout)
        registry_stalled = self._source is not None and self._source.stalled(now, self._config.stall_timeout)
        if registry_stalled or (stalled_at is not None and now >= stalled_at):
            raise Unavailable(
                "STALLED",
                f"the other side acknowledged nothing for {self._config.stall_timeout:g} s",
                hint="see whether its store is full or slow",
            )
        if self._source is not None:
            frame = self._source.next_frame(now)
            if frame is not None:
                self._send(frame)
        if writable:
            read = self.sending.next_read(now)
            if read is not None:
                self._emit(read)
        if now >= self._heartbeat_due():
            self._beat(now)

    def _beat(self, now: float) -> None:
        self._number += 1
        loads = tuple(self._loads.values())
        self._loads.clear()
        self._loads_due = now + self._config.load_interval
        self._send(f.Heartbeat(self._number, loads=loads))

    def _heartbeat_due(self) -> float:
        silence = self._last_sent + self._heartbeat
        return min(silence, self._loads_due) if self._loads else silence

    def next_deadline(self, now: float, *, writable: bool) -> float:
        """When to pump next."""
        times = [self._last_heard + self._lease, self._heartbeat_due()]
        if self._source is not None:
            times.append(self._source.next_deadline(self._config.stall_timeout))
        if (stalled_at := self.sending.stalled_at(now, self._config.stall_timeout)) is not None:
            times.append(stalled_at)
        if writable and (paced := self.sending.next_deadline(now)) is not None:
            times.append(paced)
        return min(times)


def _unseen(lane: Lane) -> LaneCursor:
    return LaneCursor(lane, "", 0)
