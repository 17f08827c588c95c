"""All lanes of one session on the way out: which lane is read next, when, and how much.

A backlog of messages that drains takes whatever the store, the processor and the disk give, and who works with the node at the
same time waits for it. So while others append, a lane that has more to send rests after each batch until the other side has
committed it, and a little longer: meanwhile nothing is done for it here, and where both are on one machine they do not work at
the same time. The rest is short, so that a link or a store that is far or slow is not waited for. With nobody about the lane
goes on at once.
"""

from __future__ import annotations

from edgenode.link.errors import FailedPrecondition
from edgenode.link.model.frames import Batch
from edgenode.link.model.lanes import Chunk, Lane
from edgenode.link.protocol.events import ReadLane
from edgenode.link.protocol.flight import Flight
from edgenode.link.protocol.lanes import LaneSender
from edgenode.link.protocol.sharing import LaneSharing, TokenBucket

RESTING = frozenset((Lane.MESSAGE, Lane.BULK))  # lanes that rest
MOST_REST = 0.01  # seconds
REST = 0.002  # ... after the acknowledgement


class Sending:
    """The senders of a session share one link. One read is under way at most, so that the choice falls when room is there."""

    def __init__(self, sharing: LaneSharing, batch_count: int, batch_bytes: int, patience: float, now: float) -> None:
        """Bounds of one batch in entries and payload bytes; `patience`: seconds what is sent may be under way."""
        self._flight = Flight(patience)
        self.sharing = sharing
        self.bucket = TokenBucket(now)
        self.senders: dict[Lane, LaneSender] = {}
        self._batch_count = batch_count
        self._batch_bytes = batch_bytes
        self._reading: tuple[Lane, int] | None = None  # lane, and what its log held when the read was asked for
        self._others = False  # somebody appended since a lane rested last
        self._rested = dict.fromkeys(Lane, now)  # until when each rests

    def _ready(self) -> list[Lane]:
        return [lane for lane, sender in self.senders.items() if sender.ready]

    def appended(self, lane: Lane, last: int) -> None:
        """A local log was committed up to `last`; one that the greeting did not name waits for the next session."""
        self._others = True
        sender = self.senders.get(lane)
        if sender is not None:
            sender.appended(last)

    def next_read(self, now: float) -> ReadLane | None:
        """The next read, if a lane has something, may send it and the pace allows it."""
        room = self._flight.room
        if self._reading is not None or not room or self.bucket.ready_at(now) > now:
            return None
        lane = self.sharing.choose([lane for lane in self._ready() if self._rested[lane] <= now])
        if lane is None:
            return None
        sender = self.senders[lane]
        self._reading = (lane, sender.last)
        return ReadLane(lane, sender.next - 1, *sender.bounds(self._batch_count, min(self._batch_bytes, room)))

    def read_done(self, lane: Lane, chunk: Chunk, now: float) -> Batch | None:
        """The batch to send. Raises FailedPrecondition (SESSION_STATE) if no such read was under way."""
        if self._reading is None or self._reading[0] is not lane:
            raise FailedPrecondition("SESSION_STATE", f"no read of lane {lane.name} is under way")
        last_when_asked = self._reading[1]
        self._reading = None
        sender = self.senders[lane]
        batch = sender.batch(chunk, last_when_asked)
        if batch is None:
            return None
        if self._others and lane in RESTING and sender.next <= sender.last:
            self._others = False
            self._rested[lane] = now + MOST_REST
        size = batch.size
        self.sharing.charge(lane, size)
        self.bucket.take(size, now)
        self._flight.sent(lane, batch.end, size, now)
        return batch

    def acknowledged(self, lane: Lane, sequence: int, now: float) -> None:
        """The other side committed everything up to `sequence`."""
        self._flight.acknowledged(lane, sequence, now)
        if not self._flight.of(lane):
            self._rested[lane] = min(self._rested[lane], now + REST)

    def next_deadline(self, now: float) -> float | None:
        """When the pace allows the next read, and its lane has rested, if one waits for that."""
        ready = self._ready()
        if self._reading is not None or not ready:
            return None
        ready_at = max(self.bucket.ready_at(now), min(self._rested[lane] for lane in ready))
        return ready_at if ready_at > now else None

    def stalled_at(self, now: float, timeout: float) -> float | None:
        """When the first lane that waits for the receiver gives up."""
        times = [sender.stalled_at(now, timeout) for sender in self.senders.values()]
        return min((time for time in times if time is not None), default=None)
