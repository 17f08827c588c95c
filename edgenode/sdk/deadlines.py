"""Many timeouts, one timer of the event loop.

A TimerHandle for each call costs more than the rest of its bookkeeping. Here a timeout is a time and a key on a heap; what has
ended meanwhile is dropped when its time comes, or when the heap has doubled since it was last cleared. Of what has ended the
heap keeps the key alone, so that its memory is used again at once.
"""

from __future__ import annotations

import asyncio
import heapq
from collections.abc import Callable, Mapping
from typing import Any, Generic, TypeVar

Key = TypeVar("Key", bound=Any)  # keys of one owner compare with each other
Item = TypeVar("Item")

_LEAST = 256


class Deadlines(Generic[Key, Item]):
    """Calls `expire(item)` when the time of its key has come and it is still among `items`. Close it when done."""

    def __init__(self, items: Mapping[Key, Item], expire: Callable[[Item], None]) -> None:
        self._items = items
        self._expire = expire
        self._heap: list[tuple[float, Key]] = []
        self._limit = _LEAST
        self._timer: asyncio.TimerHandle | None = None
        self._loop = asyncio.get_running_loop()

    def add(self, when: float, key: Key) -> None:
        """`when` in the loop's time; the item of `key` is there already."""
        heap = self._heap
        timeout = (when, key)
        heapq.heappush(heap, timeout)
        if heap[0] is timeout:
            self._arm(when)
        elif len(heap) > self._limit:
            items = self._items
            self._heap = heap = [timeout for timeout in heap if timeout[1] in items]
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
            when, key = self._heap[0]
            item = self._items.get(key)
            if item is not None and when > now:
                self._arm(when)
                return
            heapq.heappop(self._heap)
            if item is not None:
                self._expire(item)
