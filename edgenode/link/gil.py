"""A thread has the interpreter in the end, however busy the event loop is.

Theory of operation. A thread that comes back from SQLite, or from the disk, waits for the interpreter's lock. A busy loop
lets go of that lock once a turn, while it looks for events, for a microsecond; the thread is woken, comes tens of microseconds
later, and finds it taken again. Python's own remedy is to ask for the lock after the switch interval. But that counts only
while nobody lets go of it: a loop whose turns are shorter is never asked, and the thread may stand still for seconds.

So while somebody waits for the thread, the loop looks at itself now and then: was it busy all the time, it sleeps for a
moment, in which the thread comes. A loop that is not busy lets the lock be, and looks ever less often.

What a room gives to a thread goes through `on_thread`; the store has a thread of its own (`store/connector.py`).
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from typing import ParamSpec, TypeVar
from weakref import WeakKeyDictionary

P = ParamSpec("P")
T = TypeVar("T")

EVERY = 0.001  # seconds between two looks at a busy loop
MOST_EVERY = 0.064  # ... at one that is not
MOMENT = 50e-6  # seconds the lock is let go
BUSY = 0.75  # of a time that the loop used the processor, from which on it is busy


class GivingWay:
    """Of one loop: whoever waits for a thread does so within `with`. Clocks count seconds; `pause` stops the loop's thread."""

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

    def __enter__(self) -> None:
        self._waiting += 1
        if self._timer is None:
            self._every = EVERY
            self._look_later()

    def __exit__(self, *_: object) -> None:
        self._waiting -= 1  # the timer is left: under load the next begins before it has run out

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


_ways: WeakKeyDictionary[asyncio.AbstractEventLoop, GivingWay] = WeakKeyDictionary()


def giving_way() -> GivingWay:
    """That of the running loop."""
    loop = asyncio.get_running_loop()
    way = _ways.get(loop)
    if way is None:
        way = _ways[loop] = GivingWay()
    return way


def give_way_by(loop: asyncio.AbstractEventLoop, way: GivingWay) -> None:
    """Let `way` be that of a loop whose time and threads are not the machine's."""
    _ways[loop] = way


async def on_thread(function: Callable[P, T], /, *args: P.args, **kwargs: P.kwargs) -> T:
    """As `asyncio.to_thread`; a busy loop gives way to the thread."""
    with giving_way():
        return await asyncio.to_thread(function, *args, **kwargs)
