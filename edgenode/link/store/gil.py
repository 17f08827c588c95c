"""A thread has the interpreter in the end, however busy the event loop is.

Theory of operation. A thread that comes back from SQLite, or from an fsync, waits for the interpreter's lock. A busy loop
lets go of that lock once a turn, while it looks for events, for a microsecond; the thread is woken, comes tens of microseconds
later, and finds it taken again. Python's own remedy is to ask for the lock after the switch interval. But that counts only
while nobody lets go of it: a loop whose turns are shorter is never asked, and the thread may stand still for seconds.

So while somebody waits for the thread, the loop looks at itself now and then: was it busy all the time, it sleeps for a
moment, in which the thread comes. A loop that is not busy lets the lock be, and looks ever less often.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable

EVERY = 0.001  # seconds between two looks at a busy loop
MOST_EVERY = 0.016  # ... at one that is not
MOMENT = 50e-6  # seconds the lock is let go
BUSY = 0.75  # of a time that the loop used the processor, from which on it is busy


class GivingWay:
    """Who waits for the thread says so by `begin` and `end`. Clocks count seconds; `pause` stops the loop's own thread."""

    __slots__ = ("_clock", "_cpu_clock", "_every", "_pause", "_since", "_timer", "_used", "_waiting")

    def __init__(
        self,
        clock: Callable[[], float] = time.monotonic,
        cpu_clock: Callable[[], float] = time.thread_time,
        pause: Callable[[float], None] = time.sleep,
    ) -> None:
        self._clock, self._cpu_clock, self._pause = clock, cpu_clock, pause
        self._waiting = 0
        self._every = EVERY
        self._timer: asyncio.TimerHandle | None = None
        self._since = self._used = 0.0  # when the last look was, and what the loop's thread had used by then

    def begin(self) -> None:
        """Somebody waits for the thread."""
        self._waiting += 1
        if self._timer is None:
            self._every = EVERY
            self._look_later()

    def end(self) -> None:
        """No more. The timer is left: under load the next begins before it has run out."""
        self._waiting -= 1

    def close(self) -> None:
        """Look no more."""
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def _look_later(self) -> None:
        self._since, self._used = self._clock(), self._cpu_clock()
        self._timer = asyncio.get_running_loop().call_later(self._every, self._look)

    def _look(self) -> None:
        self._timer = None
        if not self._waiting:
            return
        if self._cpu_clock() - self._used < BUSY * (self._clock() - self._since):
            self._every = min(2 * self._every, MOST_EVERY)
        else:
            self._every = EVERY
            self._pause(MOMENT)
        self._look_later()
