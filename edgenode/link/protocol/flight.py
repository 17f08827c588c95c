"""How much a session may have under way, so that a slow link stays a live one.

Theory of operation. What is sent waits in queues that nobody here sees: of the transport, the kernel, the network. On a slow
link whatever comes after it, signs of life included, waits for as long as all that takes, and when that is longer than the
lease the other side gives the session up: the next one sends the same again, and nothing ever arrives. So the bytes that
are sent and not acknowledged are bounded. What a batch's acknowledgement took, and how much was under way when it was sent,
says how fast the link is; as much may be under way as it carries in `patience`. A session begins with little; the bound
doubles with each acknowledgement that comes in half that time, so a fast link is at full speed after a few of them.

At least one segment may always go, whatever its size: a link must carry the largest within the lease.
"""

from __future__ import annotations

from collections import deque

from edgenode.link.model.lanes import Lane

START_BYTES = 32 << 10
LEAST_BYTES = 4 << 10
MOST_BYTES = 16 << 20  # all lanes' windows together


class Flight:
    """The batches under way. `patience` in seconds."""

    def __init__(self, patience: float) -> None:
        self._patience = patience
        self._bound = START_BYTES
        self._batches: dict[Lane, deque[tuple[int, int, int, float]]] = {}  # (end, size, under way then, sent at)
        self.bytes = 0  # under way

    @property
    def room(self) -> int:
        """Bytes that may be sent now."""
        return max(self._bound - self.bytes, 0)

    def of(self, lane: Lane) -> bool:
        """Whether anything of a lane is under way."""
        return bool(self._batches.get(lane))

    def sent(self, lane: Lane, end: int, size: int, now: float) -> None:
        """A batch up to `end` was given to the transport."""
        size = max(size, 1)
        self.bytes += size
        self._batches.setdefault(lane, deque()).append((end, size, self.bytes, now))

    def acknowledged(self, lane: Lane, sequence: int, now: float) -> None:
        """The other side has everything up to `sequence`."""
        batches = self._batches.get(lane)
        newest = None
        while batches and batches[0][0] <= sequence:
            newest = batches.popleft()
            self.bytes -= newest[1]
        if newest is None:
            return
        _, _, under_way, sent_at = newest
        took = now - sent_at
        if took > self._patience:
            self._bound = max(int(under_way * self._patience / took), LEAST_BYTES)
        elif took < self._patience / 2 and under_way >= self._bound / 2:
            self._bound = min(2 * self._bound, MOST_BYTES)
