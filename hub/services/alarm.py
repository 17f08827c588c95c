"""Timers on the running loop: one call_later for the earliest of all deadlines."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

from edgenode.link.ports import Clock
from edgenode.link.protocol.timers import Timer, Timers


class Alarm:
    """`at` calls back at a time on the monotonic clock; nothing polls."""

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self._timers = Timers(self._schedule)
        self._handle: asyncio.TimerHandle | None = None
        self._closed = False

    def __len__(self) -> int:
        return len(self._timers)

    def at(self, when: float, callback: Callable[[], None]) -> Timer:
        """Call `callback` at or after `when`, monotonic seconds."""
        return self._timers.at(when, callback)

    def after(self, seconds: float, callback: Callable[[], None]) -> Timer:
        """Call `callback` in `seconds`."""
        return self.at(self._clock.monotonic() + seconds, callback)

    def close(self) -> None:
        """Nothing is called any more."""
        self._closed = True
        if self._handle is not None:
            self._handle.cancel()

    def _schedule(self, when: float) -> None:
        if self._handle is not None:
            self._handle.cancel()
        if not self._closed:
            delay = max(when - self._clock.monotonic(), 0.0)
            self._handle = asyncio.get_running_loop().call_later(delay, self._run)

    def _run(self) -> None:
        self._handle = None
        try:
            self._timers.run_due(self._clock.monotonic())
        finally:  # one that raises is the loop's to report; the others are still to be called
            following = self._timers.next_due()
            if following is not None and self._handle is None:
                self._schedule(following)
