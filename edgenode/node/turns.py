"""Turns of the event loop for bulk work, so that what is urgent never waits for more than a slice of it.

One event loop does everything a node does, and what it has begun it ends. So a frame of bulk work is done in slices of `size`
items, and whoever has one to do takes a turn first: the loop does one slice, then whatever else has come in, then the next
one. Turns are given in the order they were asked for. Small pieces share a turn until it has `size` items, and where nobody
else has work there is nothing to wait for, so what is alone pays nothing.

Each slice has its own write, frames and turns of the loop, so small ones cost a bulk task a tenth. Slices are small while
something urgent is about: from the moment it comes, until QUIET turns had nothing of the kind. The first of it waits for one
that is WIDE at most. Steps in between, that a slice goes through, take turns of their own only then (`calm`).

What is urgent takes no turn: it runs between two of them. It goes from callback to callback, and each would wait for a slice;
so when it comes the next HOPS turns are left to it, and then at least as many are for bulk work. While something urgent is
committed bulk work waits as well: the database's thread has the interpreter for itself then, instead of waiting for it at each
step of SQLite. That is HOLD seconds at most, and in all no more than half of the time, but for SPARE seconds; the HOPS turns
after it are left to what is urgent too, and bulk work has one before it waits for another commit.

What bulk work sends waits until no slice does, though not for ever: so it gathers what they add, and a frame has as many items
as if it had been made in one go.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from typing import TypeVar

SLICE = 32  # items, of about 10 to 20 microseconds each, while something urgent is about
WIDE = 256  # while nothing is
FEW = 64  # prompt ones of a frame that need no turns
QUIET = 256  # turns, of about a millisecond under load
GATHER = 16  # turns that what is to be sent waits at most
HOPS = 4  # turns that are left to what is urgent
HOLD = 0.01  # seconds that bulk work waits for the commit of something urgent at most
SPARE = 0.05  # seconds by which such waits may be longer in all than the time between them

T = TypeVar("T")


class Turns:
    """See the module. `size`: how many items a slice has now."""

    def __init__(self) -> None:
        self.size = WIDE
        self._waiting: deque[tuple[int, Callable[[], None]]] = deque()
        self._gathering: deque[tuple[int, Callable[[], None]]] = deque()  # with the turn they go in at the latest
        self._done = 0  # items of this turn
        self._granted = 0  # that were let go on and have not gone on yet: nobody passes them
        self._number = 0  # of this turn
        self._quiet = 0  # the turn from which on slices are wide
        self._ticking = False
        self._given = HOPS  # turns of bulk work since some were left to what is urgent; below zero since a commit was
        self._alone = 0  # turns still left to it
        self._holders = 0  # urgent commits under way
        self._put_off = False  # bulk work is to wait for them once it has had a turn
        self._alarm: asyncio.TimerHandle | None = None  # set while bulk work waits for one: it ends that at the latest
        self._since = 0.0  # when that began or ended
        self._owed = 0.0  # seconds that such waits were longer than the time between them, then

    @property
    def calm(self) -> bool:
        """Whether nothing urgent is about."""
        return self.size == WIDE

    def urgent(self) -> None:
        """Something urgent has come, or has been answered: the next turns are left to it."""
        self.size = SLICE
        self._quiet = self._number + QUIET
        if self._given >= HOPS:
            self._given = 0
            self._alone = HOPS
            self._tick()

    @contextmanager
    def committing(self, *, urgent: bool) -> Iterator[None]:
        """While this is entered something is being committed: bulk work waits for it if it is urgent."""
        if not urgent:
            yield
            return
        self.urgent()
        self._holders += 1
        self._hold()
        try:
            yield
        finally:
            self._holders -= 1
            if not self._holders:
                self._let_go()

    def _hold(self) -> None:
        loop = asyncio.get_running_loop()
        now = loop.time()
        owed = max(self._owed - (now - self._since), 0.0)
        self._put_off = self._given < 0
        if self._alarm is None and owed < SPARE and not self._put_off:
            self._owed, self._since = owed, now
            self._alarm = loop.call_later(HOLD, self._let_go)

    def _let_go(self) -> None:
        if self._alarm is None:
            return
        self._alarm.cancel()
        self._alarm = None
        now = asyncio.get_running_loop().time()
        self._owed += now - self._since
        self._since = now
        if self._waiting or self._gathering:
            self._alone = HOPS  # for what the commit lets go on
            self._given = -1
            self._tick()

    def slices(self, items: Sequence[T]) -> Iterator[Sequence[T]]:
        """The items by turns."""
        start = 0
        while start < len(items):
            end = start + self.size
            yield items[start:end]
            start = end

    def free(self, count: int) -> bool:
        """Whether so many items can be done now: then they have this turn, and `take` is not needed."""
        if self._waiting or self._granted or self._alone or self._alarm or not self._fits(count):
            return False
        self._done += count
        self._tick()
        return True

    async def step(self, count: int) -> None:
        """A step that a slice goes through: `take` while something urgent is about, or others wait that came before."""
        if not (self.calm and not self._waiting and not self._granted):
            await self.take(count)

    async def take(self, count: int) -> None:
        """Returns when it is time to do so many items."""
        if self.free(count):
            return
        turn: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._waiting.append((count, partial(self._grant, turn)))
        self._tick()
        try:
            await turn
        finally:
            self._granted -= turn.done() and not turn.cancelled()

    def soon(self, callback: Callable[[], None]) -> None:
        """Call back when it is time to do a slice; never at once."""
        self._waiting.append((self.size, callback))
        self._tick()

    def gathered(self, callback: Callable[[], None]) -> None:
        """Call back when nobody waits for a turn, after GATHER turns at the latest; never at once."""
        self._gathering.append((self._number + GATHER, callback))
        self._tick()

    def _grant(self, turn: asyncio.Future[None]) -> None:
        if not turn.done():  # else whoever asked is gone
            turn.set_result(None)
            self._granted += 1

    def _fits(self, count: int) -> bool:
        return not self._done or self._done + count <= self.size

    def _tick(self) -> None:
        if not self._ticking:
            self._ticking = True
            asyncio.get_running_loop().call_soon(self._next)

    def _next(self) -> None:
        self._ticking = False
        self._given += bool(self._done)
        self._done = 0
        if self._put_off and self._holders:
            self._hold()
        if self._alarm is not None:
            return  # until that is over
        if self._alone:
            self._alone -= 1
            self._tick()
            return
        self._number += 1
        if self._number == self._quiet:
            self.size = WIDE
        while self._waiting and self._fits(self._waiting[0][0]):
            count, callback = self._waiting.popleft()
            self._done += count
            callback()
        while self._gathering and (not self._done or self._gathering[0][0] <= self._number):
            self._gathering.popleft()[1]()
        if self._done or self._gathering:
            self._tick()  # behind what was just let go on
