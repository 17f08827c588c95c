"""A copy of a store that is in use, as it stood at one commit.

Theory of operation. In WAL mode commits go to the log beside the file, and only a checkpoint moves them into the file. So:
between two commits everything that is committed is moved into the file, which happens now and then anyway; from then on
nothing is, until the copy is made. The file stands still and is read at leisure, by another thread and in bounded pieces,
while commits go on as always. The price is a log that grows meanwhile; if it grows too far, work comes first: the log is
moved into the file, and the copy has failed.

What is closed gives up all locks that the process holds on the file, SQLite's own included (POSIX says so). So the file is
opened once for all copies and closed after SQLite has closed it.
"""

from __future__ import annotations

import os
import sqlite3
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from edgenode.link.errors import FailedPrecondition, Unavailable
from edgenode.link.store.database import IN_MEMORY, Database, Statement, T

LOG_LIMIT_BYTES = 512 * 1024 * 1024  # what the write-ahead log may grow to while a copy is made
_PIECE_BYTES = 1024 * 1024


class Snapshot:
    """The file as it stands, to be read on a thread; `note` is what was asked of the store at that moment."""

    def __init__(self, descriptor: int, size: int, database: Database) -> None:
        self.size = size
        self._descriptor = descriptor
        self._database = database
        self._position = 0

    def read(self, count: int = -1) -> bytes:
        """As of a file. Raises Unavailable (BACKUP_FAILED) once the file does not stand still any more."""
        self.check()
        left = self.size - self._position
        piece = os.pread(self._descriptor, min(left if count < 0 else count, left, _PIECE_BYTES), self._position)
        self._position += len(piece)
        return piece

    def check(self) -> None:
        """Raises Unavailable (BACKUP_FAILED) if what was read may not be of one moment."""
        if not self._database.stands_still:
            raise Unavailable(
                "BACKUP_FAILED",
                "the store was changed below the copy: too much was written meanwhile, or it was closed",
                hint="try again when there is less to do",
            )


@asynccontextmanager
async def snapshot(database: Database, note: Statement[T]) -> AsyncIterator[tuple[Snapshot, T]]:
    """The store's file, standing still for as long as the block runs, and what `note` said of it at that moment.

    Raises FailedPrecondition (NOT_DURABLE for a store in memory, BACKUP_UNDER_WAY), Unavailable (STORE_FAILED, ...).
    """
    if database.path == IN_MEMORY:
        raise FailedPrecondition("NOT_DURABLE", "this store is in memory: there is nothing to back up")
    if database.stands_still:
        raise FailedPrecondition("BACKUP_UNDER_WAY", "a backup is being made", hint="wait until it is done")

    def settle(connection: sqlite3.Connection) -> T:
        connection.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchall()
        return note(connection)

    noted = await database.stand_still(settle, LOG_LIMIT_BYTES)
    try:
        descriptor = database.keep_open()
        yield Snapshot(descriptor, os.fstat(descriptor).st_size, database), noted
    finally:
        database.go_on()
