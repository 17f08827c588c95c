"""Leases: how long to believe in something without hearing from it."""

from __future__ import annotations

import heapq
from collections.abc import Hashable
from typing import Generic, TypeVar

K = TypeVar("K", bound=Hashable)


class LeaseTable(Generic[K]):
    """Keys and when they run out, on a monotonic clock; every operation O(log n) or better, amortised.

    A renewal only notes the new time; the heap holds one item per key, put right when it comes up.
    """

    def __init__(self) -> None:
        self._expiry: dict[K, float] = {}
        self._queued: dict[K, float] = {}
        # (time, number, key): numbers keep keys from being compared.
        self._heap: list[tuple[float, int, K]] = []
        self._number = 0

    def __len__(self) -> int:
        return len(self._expiry)

    def __contains__(self, key: K) -> bool:
        return key in self._expiry

    def renew(self, key: K, duration: float, now: float) -> None:
        """`key` is good for `duration` seconds from now on; a shorter lease than before counts, too."""
        expiry = now + duration
        self._expiry[key] = expiry
        queued = self._queued.get(key)
        if queued is None or expiry < queued:
            self._push(key, expiry)

    def drop(self, key: K) -> bool:
        """Forget `key`; returns whether it was there."""
        return self._expiry.pop(key, None) is not None

    def expiry(self, key: K) -> float | None:
        """When `key` runs out."""
        return self._expiry.get(key)

    def expire(self, now: float) -> list[K]:
        """Take out and return all keys that have run out, first the oldest."""
        expired: list[K] = []
        while (deadline := self.next_deadline()) is not None and deadline <= now:
            _, _, key = heapq.heappop(self._heap)
            del self._queued[key]
            del self._expiry[key]
            expired.append(key)
        return expired

    def next_deadline(self) -> float | None:
        """When the next key runs out; None when there is none."""
        while self._heap:
            time, _, key = self._heap[0]
            if self._queued.get(key) == time and self._expiry.get(key) == time:
                return time
            heapq.heappop(self._heap)
            if self._queued.get(key) != time:
                continue  # a shorter lease was queued in its place
            del self._queued[key]
            expiry = self._expiry.get(key)
            if expiry is not None:
                self._push(key, expiry)
        return None

    def _push(self, key: K, expiry: float) -> None:
        self._number += 1
        self._queued[key] = expiry
        heapq.heappush(self._heap, (expiry, self._number, key))
