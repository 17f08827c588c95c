"""Many timeouts, one timer of the event loop.

A TimerHandle for each call costs more than the rest of its bookkeeping. Here a timeout is a tuple on a heap; what has ended
meanwhile is dropped when its time comes, or when the heap has doubled since it was last cleared.
"""

from __future__ import annotations

import asyncio
import heapq
from collections.abc import Callable
from typing import Generic, TypeVar

Item = TypeVar("Item")

_LEAST = 1024


class Deadlines(Generic[Item]):
    """Calls `expire(item)` when its time has come, unless `over(item)` by then. Close it when done."""

    def __init__(self, over: Callable[[Item], bool], expire: Callable[[Item], None]) -> None:
        self._over = over
        self._expire = expire
        self._heap: list[tuple[float, int, Item]] = []
        self._number = 0
        self._limit = _LEAST
        self._timer: asyncio.TimerHandle | None = None
        self._loop = asyncio.get_running_loop()

    def add(self, when: float, item: Item) -> None:
        """`when` in the loop's time."""
        heap = self._heap
        self._number += 1
        heapq.heappush(heap, (when, self._number, item))
        if heap[0][1] == self._number:
            self._arm(when)
        elif len(heap) > self._limit:
            over = self._over
            self._heap = heap = [entry for entry in heap if not over(entry[2])]
            heapq.heapify(heap)
            self._limit = max(_LEAST, 2 * len(heap))

    def close(self) -> None:
        """Nothing expires any more."""
        self._heap.clear()
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def _arm(self, when: float) -> None:
        if self._timer is not None:
            self._timer.cancel()
        self._timer = self._loop.call_at(when, self._fire)

    def _fire(self) -> None:
        self._timer = None
        now = self._loop.time()
        while self._heap:
            when, _, item = self._heap[0]
            if not self._over(item):
                if when > now:
                    self._arm(when)
                    return
                heapq.heappop(self._heap)
                self._expire(item)
            else:
                heapq.heappop(self._heap)
