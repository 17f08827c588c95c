"""The bound on what a client has in flight."""

from __future__ import annotations

import asyncio
from collections import deque


class Window:
    """Counts items and bytes that wait for the node; who comes when it is full waits in line.

    Room is taken for a waiter at the moment it is woken, so late comers never overtake. What is too large for
    it always fits into an empty window.
    """

    __slots__ = ("_bytes", "_count", "_max_bytes", "_max_count", "_waiters")

    def __init__(self, max_count: int, max_bytes: int) -> None:
        self._max_count = max_count
        self._max_bytes = max_bytes
        self._count = 0
        self._bytes = 0
        self._waiters: deque[tuple[asyncio.Future[None], int, int]] = deque()

    def take(self, size: int, count: int = 1) -> bool:
        """Takes room for `count` items of `size` bytes together if there is some and nobody waits."""
        # Said twice, here and in `_fits`: this is once for each message, call and task.
        taken = self._count
        if self._waiters or (taken and (taken + count > self._max_count or self._bytes + size > self._max_bytes)):
            return False
        self._count += count
        self._bytes += size
        return True

    async def wait(self, size: int, count: int = 1) -> None:
        """Waits its turn; the room is taken when it returns."""
        if self.take(size, count):
            return
        future: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._waiters.append((future, size, count))
        try:
            await future
        except asyncio.CancelledError:
            if future.done() and not future.cancelled():
                self.give(count, size)  # woken and cancelled in the same turn
            else:
                self._wake()
            raise

    def give(self, count: int, size: int) -> None:
        """Gives back the room of `count` items of `size` bytes together."""
        self._count -= count
        self._bytes -= size
        if self._waiters:
            self._wake()

    def _fits(self, size: int, count: int) -> bool:
        return not self._count or (self._count + count <= self._max_count and self._bytes + size <= self._max_bytes)

    def _wake(self) -> None:
        while self._waiters:
            future, size, count = self._waiters[0]
            if not future.done():
                if not self._fits(size, count):
                    return
                self._count += count
                self._bytes += size
                future.set_result(None)
            self._waiters.popleft()
