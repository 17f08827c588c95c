"""Turns of the event loop for bulk work, so that what is urgent never waits for more than a slice of it.

One event loop does everything a node does, and what it has begun it ends. So a frame of bulk work is done in slices of `size`
items, and whoever has one to do takes a turn first: the loop does one slice, then whatever else has come in, then the next
one. Turns are given in the order they were asked for. Small pieces share a turn until it has `size` items, and where nobody
else has work there is nothing to wait for, so what is alone pays nothing.

Each slice has its own write, frames and turns of the loop, so small ones cost a bulk task a tenth. Slices are small while
something urgent is about: from the moment it comes, until QUIET turns had nothing of the kind. The first of it waits for one
that is WIDE at most.

What is urgent takes no turn: it runs between two of them. What bulk work sends waits until no slice does, though not for ever:
so it gathers what they add, and a frame has as many items as if it had been made in one go.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from typing import TypeVar

SLICE = 64  # items, of about 10 to 20 microseconds each, while something urgent is about
WIDE = 256  # while nothing is
QUIET = 256  # turns, of about a millisecond under load
GATHER = 16  # turns that what is to be sent waits at most

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

    def urgent(self) -> None:
        """Something urgent has come."""
        self.size = SLICE
        self._quiet = self._number + QUIET

    def slices(self, items: Sequence[T]) -> Iterator[Sequence[T]]:
        """The items by turns."""
        start = 0
        while start < len(items):
            end = start + self.size
            yield items[start:end]
            start = end

    async def take(self, count: int) -> None:
        """Returns when it is time to do so many items."""
        if not self._waiting and not self._granted and self._fits(count):
            self._done += count
            self._tick()
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
        self._done = 0
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
