"""What a transaction is made of: writes that wait for their commit, and what became of them."""

from __future__ import annotations

import asyncio
import sqlite3
from collections.abc import Callable
from typing import Any, Generic, TypeVar

from edgenode.link.model.lanes import Lane

T = TypeVar("T")
Statement = Callable[[sqlite3.Connection], T]
Result = tuple[Any, Exception | None]


class Unsure(Exception):
    """A commit failed. `done` has the results of writes that were committed before, `unsure` those of the commit."""

    def __init__(self, done: list[Result], unsure: list[Result], error: sqlite3.Error) -> None:
        super().__init__(error)
        self.done = done
        self.unsure = unsure
        self.error = error


class Write(Generic[T]):
    """A write that waits for its commit."""

    __slots__ = ("function", "future", "lane", "size")

    def __init__(self, function: Statement[T], future: asyncio.Future[T], size: int, lane: Lane) -> None:
        self.function = function
        self.future = future
        self.size = size
        self.lane = lane


def value_of(result: T) -> T | None:
    """What a write returned. A cursor that nobody closes keeps the file open, whoever closes the connection."""
    if isinstance(result, sqlite3.Cursor):
        result.close()
        return None
    return result


def roll_back(connection: sqlite3.Connection) -> None:
    """End a transaction that failed."""
    # Some errors (a full disk) roll back by themselves.
    if connection.in_transaction:
        connection.execute("ROLLBACK")
