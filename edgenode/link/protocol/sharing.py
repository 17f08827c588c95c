"""Who of the lanes sends next, and how fast the link may go.

Weighted deficit round robin: a round gives each lane that wants to send a quantum of bytes in proportion to its weight;
a lane may send while it has some left, and what it sent too much is taken from its next quanta, because a batch's size
is known only after it was read. Within a round the lower lane number goes first, so control waits least; a round ends
only when every waiting lane has spent its quantum, so nobody starves. A lane that falls silent keeps what is left of one
quantum and no more.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping

from edgenode.link.errors import InvalidArgument
from edgenode.link.model.lanes import Lane

DEFAULT_WEIGHTS: Mapping[Lane, int] = {Lane.CONTROL: 8, Lane.TASK: 4, Lane.MESSAGE: 2, Lane.BULK: 1}
MAX_WEIGHT = 1000
MIN_SHARE = 0.05  # of the link, for every lane that wants to send, whatever the weights
_ROUND_BYTES = 1 << 20


class LaneSharing:
    """Shares of one link among its lanes."""

    def __init__(self, weights: Mapping[Lane, int] | None = None, *, round_bytes: int = _ROUND_BYTES) -> None:
        """`round_bytes` is what all lanes together get in one round."""
        self._weights: dict[Lane, int] = dict(DEFAULT_WEIGHTS)
        self._deficit: dict[Lane, float] = dict.fromkeys(Lane, 0.0)
        self._round_bytes = round_bytes
        if weights:
            self.set_weights(weights)

    def set_weights(self, weights: Mapping[Lane, int]) -> None:
        """New weights, 1-1,000; lanes not named keep theirs. Raises InvalidArgument (BAD_WEIGHT) and changes nothing."""
        for lane, weight in weights.items():
            if not 1 <= weight <= MAX_WEIGHT:
                raise InvalidArgument(
                    "BAD_WEIGHT",
                    f"weight of lane {lane.name.lower()} is {weight}",
                    hint=f"1-{MAX_WEIGHT}",
                    field=f"lane_weights.{lane.name.lower()}",
                )
        self._weights.update(weights)

    def choose(self, ready: Collection[Lane]) -> Lane | None:
        """The lane that sends next among those that want to; None if none does."""
        if not ready:
            return None
        if all(self._deficit[lane] <= 0 for lane in ready):
            self._begin_round(ready)
        return min(lane for lane in ready if self._deficit[lane] > 0)

    def _begin_round(self, ready: Collection[Lane]) -> None:
        total = sum(self._weights[lane] for lane in ready)
        shares = {lane: max(self._weights[lane] / total, MIN_SHARE) for lane in ready}
        quanta = {lane: self._round_bytes * shares[lane] for lane in ready}
        # As many rounds at once as the first lane to come out of its debt needs.
        rounds = min(int(-self._deficit[lane] // quanta[lane]) + 1 for lane in ready)
        for lane in ready:
            self._deficit[lane] = min(self._deficit[lane] + rounds * quanta[lane], quanta[lane])

    def charge(self, lane: Lane, size: int) -> None:
        """`lane` sent `size` bytes; a byte at least, so that empty payloads count."""
        self._deficit[lane] -= max(size, 1)


class TokenBucket:
    """A bound on bytes a second; may be overdrawn by one batch, which then delays the next."""

    def __init__(self, now: float) -> None:
        self._rate = 0
        self._tokens = 0.0
        self._updated = now

    def set_rate(self, bytes_per_second: int, now: float) -> None:
        """At most this much from now on; 0 or less lifts the bound. A second's worth may go at once."""
        self._settle(now)
        self._rate = max(0, bytes_per_second)
        self._tokens = min(self._tokens, float(self._rate))

    def _settle(self, now: float) -> None:
        if self._rate:
            self._tokens = min(float(self._rate), self._tokens + (now - self._updated) * self._rate)
        self._updated = max(now, self._updated)

    def ready_at(self, now: float) -> float:
        """When the next batch may go: `now` or later, monotonic seconds."""
        self._settle(now)
        if not self._rate or self._tokens >= 0:
            return now
        return now - self._tokens / self._rate

    def take(self, size: int, now: float) -> None:
        """`size` bytes were sent."""
        self._settle(now)
        if self._rate:
            self._tokens -= size
