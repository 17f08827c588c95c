"""How long to wait before trying again. Full jitter: anywhere between nothing and a bound that grows (and may be floored)."""

from __future__ import annotations

from edgenode.link.model.task import RetryPolicy
from edgenode.link.ports import Rng

# On top of what the parent asked for: enough to come apart, little enough to come while a place at its gate is kept.
PACED_JITTER = 5.0


def _bound(initial: float, multiplier: float, maximum: float, failures: int) -> float:
    """min(maximum, initial * multiplier ** failures), without the overflow of a long outage."""
    bound = initial
    for _ in range(failures):
        bound *= multiplier
        if bound >= maximum or multiplier <= 1.0:
            break
    return min(bound, maximum)


def retry_delay(policy: RetryPolicy, attempt: int, rng: Rng) -> float:
    """Seconds to wait after the `attempt`-th attempt (1 is the first) failed."""
    return rng.random() * _bound(policy.initial_backoff, policy.multiplier, policy.max_backoff, attempt - 1)


class ReconnectBackoff:
    """Waits between attempts to reach somebody, by default 1 s to 5 min as for a parent, who may ask for more patience."""

    def __init__(
        self,
        rng: Rng,
        *,
        initial: float = 1.0,
        maximum: float = 300.0,
        multiplier: float = 2.0,
        stable_after: float = 30.0,
    ) -> None:
        """Seconds. A session that stayed up for `stable_after` starts the count anew."""
        self._rng = rng
        self._initial = initial
        self._maximum = maximum
        self._multiplier = multiplier
        self._stable_after = stable_after
        self._failures = 0
        self._floor = 0.0
        self._established_at: float | None = None

    def established(self, now: float) -> None:
        """A session came up."""
        self._established_at = now

    def pace(self, retry_after: float) -> None:
        """The parent asks to wait at least this long before the next attempt; holds for that attempt only."""
        self._floor = max(self._floor, retry_after)

    def next_delay(self, now: float) -> float:
        """Seconds to wait now that an attempt failed or a session ended.

        With a floor the jitter comes on top of it, so that those who were told the same do not come back together. It is
        PACED_JITTER at most then: a parent that answers need not be spared for as long as one that could not be reached.
        """
        if self._established_at is not None and now - self._established_at >= self._stable_after:
            self._failures = 0
        self._established_at = None
        bound = _bound(self._initial, self._multiplier, self._maximum, self._failures)
        if self._floor:
            bound = min(bound, PACED_JITTER)
        self._failures += 1
        delay = self._floor + self._rng.random() * bound
        self._floor = 0.0
        return delay
