"""Many deadlines, one alarm. A heap with lazy deletion that is rebuilt when most of it was cancelled."""

from __future__ import annotations

import heapq
from collections.abc import Callable

_FEW = 64  # cancelled timers that do no harm


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
            self._timers.cancelled += 1
            if self._timers.cancelled > self._timers.few:
                self._timers.tidy()


class Timers:
    """`at` adds, `run_due` fires, `next_due` says when to call it again; `on_earlier` is called when that moves forward."""

    def __init__(self, on_earlier: Callable[[float], None]) -> None:
        self._heap: list[tuple[float, int, Timer]] = []
        self._number = 0  # of the newest timer: those for one time fire in the order they came
        self.cancelled = 0  # of those in the heap
        self.few = _FEW  # of them that are no reason to look
        self._on_earlier = on_earlier

    def at(self, when: float, callback: Callable[[], None]) -> Timer:
        """Call `callback` from the first `run_due` at or after `when`."""
        timer = Timer(self, when, callback)
        first = not self._heap or when < self._heap[0][0]
        self._number += 1
        heapq.heappush(self._heap, (when, self._number, timer))
        if first:
            self._on_earlier(when)
        return timer

    def run_due(self, now: float) -> None:
        """Fire what is due, earliest first."""
        while self._heap and self._heap[0][0] <= now:
            timer = heapq.heappop(self._heap)[2]
            callback, timer.callback = timer.callback, None
            if callback is None:
                self.cancelled -= 1
            else:
                callback()

    def next_due(self) -> float | None:
        """When the next callback is due; None without any."""
        while self._heap and self._heap[0][2].callback is None:
            heapq.heappop(self._heap)
            self.cancelled -= 1
        return self._heap[0][0] if self._heap else None

    def __len__(self) -> int:
        return len(self._heap) - self.cancelled

    def tidy(self) -> None:
        """Build the heap anew if most of it was cancelled."""
        if self.cancelled * 2 > len(self._heap):
            self._heap = [due for due in self._heap if due[2].callback is not None]
            heapq.heapify(self._heap)
            self.cancelled = 0
        self.few = max(len(self._heap) // 2, _FEW)
