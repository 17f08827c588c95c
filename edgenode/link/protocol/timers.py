"""Many deadlines, one alarm. A heap with lazy deletion that is rebuilt when most of it was cancelled."""

from __future__ import annotations

import heapq
from collections.abc import Callable


class Timer:
    """A callback that is due at `when` (monotonic seconds) unless cancelled."""

    __slots__ = ("_timers", "callback", "when")

    def __init__(self, timers: Timers, when: float, callback: Callable[[], None]) -> None:
        self._timers = timers
        self.when = when
        self.callback: Callable[[], None] | None = callback

    def cancel(self) -> None:
        """Never fire. Safe to call twice and after it fired."""
        if self.callback is not None:
            self.callback = None
            self._timers.cancelled_one()

    def __lt__(self, other: Timer) -> bool:
        return self.when < other.when


class Timers:
    """`at` adds, `run_due` fires, `next_due` says when to call it again; `on_earlier` is called when that moves forward."""

    def __init__(self, on_earlier: Callable[[float], None]) -> None:
        self._heap: list[Timer] = []
        self._cancelled = 0
        self._on_earlier = on_earlier

    def at(self, when: float, callback: Callable[[], None]) -> Timer:
        """Call `callback` from the first `run_due` at or after `when`."""
        timer = Timer(self, when, callback)
        first = not self._heap or when < self._heap[0].when
        heapq.heappush(self._heap, timer)
        if first:
            self._on_earlier(when)
        return timer

    def run_due(self, now: float) -> None:
        """Fire what is due, earliest first."""
        while self._heap and self._heap[0].when <= now:
            timer = heapq.heappop(self._heap)
            callback, timer.callback = timer.callback, None
            if callback is None:
                self._cancelled -= 1
            else:
                callback()

    def next_due(self) -> float | None:
        """When the next callback is due; None without any."""
        while self._heap and self._heap[0].callback is None:
            heapq.heappop(self._heap)
            self._cancelled -= 1
        return self._heap[0].when if self._heap else None

    def __len__(self) -> int:
        return len(self._heap) - self._cancelled

    def cancelled_one(self) -> None:
        """A timer in the heap was cancelled."""
        self._cancelled += 1
        if self._cancelled > 64 and self._cancelled * 2 > len(self._heap):
            self._heap = [timer for timer in self._heap if timer.callback is not None]
            heapq.heapify(self._heap)
            self._cancelled = 0
