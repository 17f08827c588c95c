"""How a `Database` gets its connection: the one place where SQLite meets the file system and a thread.

The simulation puts its own in its place (`tests/simulation`), so that every disk fault can be drawn from a seed.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Awaitable, Callable
from typing import Protocol, TypeVar, cast

import aiosqlite

from edgenode.link.gil import giving_way

T = TypeVar("T")


class Connection(Protocol):
    """One open file."""

    async def run(self, function: Callable[[sqlite3.Connection], T]) -> T:
        """Run `function` of the connection after everything that was given before; one hop. Raises what it raises.

        It runs to its end even if the caller is cancelled.
        """
        ...

    async def close(self) -> None:
        """Run what was given, then give the file back."""
        ...


Connect = Callable[[str], Awaitable[Connection]]


class _ThreadConnection:
    """aiosqlite owns the thread; whole functions go to it through its `_execute`, since an await for each statement
    would cost a hop each."""

    __slots__ = ("_aiosqlite", "_execute", "_giving_way")

    def __init__(self, connection: aiosqlite.Connection) -> None:
        self._aiosqlite = connection
        self._execute = connection._execute
        self._giving_way = giving_way()

    async def run(self, function: Callable[[sqlite3.Connection], T]) -> T:
        with self._giving_way:
            return cast(T, await self._execute(function, self._aiosqlite._conn))  # type: ignore[no-untyped-call]

    async def close(self) -> None:
        with self._giving_way:
            await self._aiosqlite.close()


async def connect_on_thread(path: str) -> Connection:
    """Open `path` (or `:memory:`) on a thread of its own; transactions are begun by hand. Raises sqlite3.Error."""
    with giving_way():
        connection = await aiosqlite.connect(path, isolation_level=None, cached_statements=256)
    return _ThreadConnection(connection)
