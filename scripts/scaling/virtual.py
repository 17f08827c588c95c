"""Time that jumps: asyncio's own event loop, whose clock goes on to the next timer as soon as nothing is ready to run."""

from __future__ import annotations

import asyncio
import selectors
import sqlite3
from collections.abc import Callable, Sequence
from typing import Any, TypeVar

T = TypeVar("T")

WALL = 1_800_000_000.0  # what the wall clock says at the beginning
COMMIT_SECONDS = 0.0005  # of simulated time, in which others join the transaction


class _Jump(selectors.SelectSelector):
    """Instead of waiting it moves the clock."""

    def __init__(self) -> None:
        super().__init__()
        self.now = 0.0

    def select(self, timeout: float | None = None) -> list[tuple[selectors.SelectorKey, int]]:
        if timeout is None:
            raise RuntimeError("nothing will ever happen again")
        self.now += max(timeout, 0.0)
        return super().select(0)


class VirtualLoop(asyncio.SelectorEventLoop):
    """Runs everything as fast as it can; also the Clock of what runs on it."""

    def __init__(self) -> None:
        self._jump = _Jump()
        super().__init__(self._jump)

    def time(self) -> float:
        """See AbstractEventLoop."""
        return self._jump.now

    def monotonic(self) -> float:
        """See Clock."""
        return self._jump.now

    def wall(self) -> float:
        """See Clock."""
        return WALL + self._jump.now


class _InlineConnection:
    """A connection without a thread: what it costs shows where everything else shows."""

    def __init__(self, connection: sqlite3.Connection) -> None:
        self._connection = connection

    async def run(self, function: Callable[[sqlite3.Connection], T]) -> T:
        await asyncio.sleep(COMMIT_SECONDS)
        return function(self._connection)

    async def close(self) -> None:
        self._connection.close()


async def connect_inline(path: str) -> Any:
    """edgenode.link.store.connector.Connect: SQLite itself, with no thread between."""
    connection = sqlite3.connect(path, isolation_level=None, cached_statements=256)
    return _InlineConnection(connection)


def percentile(values: Sequence[float], share: float) -> float:
    """The value that `share` of them do not exceed."""
    ordered = sorted(values)
    return ordered[min(int(len(ordered) * share), len(ordered) - 1)]
