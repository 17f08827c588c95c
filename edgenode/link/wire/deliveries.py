"""Handlers run in the order of arrival, each kind by itself, so that a slow one holds up only its own kind."""

from __future__ import annotations

import asyncio
import logging
from collections import deque
from collections.abc import Callable, Coroutine
from typing import Any

_log = logging.getLogger(__name__)
_Start = Callable[[], Coroutine[Any, Any, None]]


class Deliveries:
    """Bounded: `room()` waits while more than `limit` handlers wait."""

    def __init__(self, limit: int) -> None:
        self._limit = limit
        self._count = 0
        self._queues: dict[str, deque[_Start]] = {}
        self._workers: dict[str, asyncio.Task[None]] = {}
        self._room = asyncio.Event()
        self._room.set()

    def put(self, kind: str, start: _Start) -> None:
        """Runs `start()` after those of the same kind put before."""
        self._queues.setdefault(kind, deque()).append(start)
        self._count += 1
        if self._count > self._limit:
            self._room.clear()
        if kind not in self._workers:
            self._workers[kind] = asyncio.create_task(self._work(kind), name=f"link {kind}")

    async def room(self) -> None:
        """Returns when few enough wait."""
        await self._room.wait()

    async def close(self, timeout: float) -> None:
        """Lets what was put run, for `timeout` seconds; then cancels it."""
        workers = list(self._workers.values())
        if not workers:
            return
        _, late = await asyncio.wait(workers, timeout=timeout)
        for worker in late:
            _log.warning("%s: a handler did not return within %g s and was cancelled", worker.get_name(), timeout)
            worker.cancel()
        if late:
            await asyncio.wait(late, timeout=timeout)

    async def _work(self, kind: str) -> None:
        queue = self._queues[kind]
        try:
            while queue:
                start = queue.popleft()
                try:
                    await start()
                except Exception:
                    _log.exception("the handler of %s failed", kind)
                finally:
                    self._count -= 1
                    if self._count <= self._limit:
                        self._room.set()
        finally:
            del self._workers[kind]
