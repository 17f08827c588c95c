"""What a store does about a disk that fails it.

A disk that is full. Beside the database lies a file that holds nothing but its place, the ballast. When SQLite finds no room
(and not because the store's own limit is reached), the ballast goes: there is room again for acknowledgements, deletions, ends
of tasks and whatever else nobody asks about, while new work is refused (STORE_FULL). Now and then the ballast is laid down
again; once that works there is room, and new work is taken as before.

A disk that does not sync. What was written before an fsync that failed is still in the page cache and counts as clean: it
is read back as if it were on disk, and no later fsync writes it (see the ATC'20 paper "Can Applications Recover from fsync
Failures?"). SQLite, opening such a file anew, would take up the end of the write-ahead log from the cache and append to it,
and a power cut would then break the log in the middle of what was acknowledged since. So whoever opens a file writes its log
again, byte for byte, and syncs it, before anything rests on it. Pages of the database itself need no such thing: SQLite
forgets no log before a sync of the database has worked that came behind writing all of it.
"""

from __future__ import annotations

import asyncio
import errno
import logging
import os
import sqlite3
from collections.abc import Callable

from edgenode.link.errors import ResourceExhausted
from edgenode.link.store.budget import RETRY_SECONDS, STORE_FULL

BALLAST_BYTES = 16 * 1024 * 1024
REFILL_SECONDS = 5.0  # between attempts to lay the ballast again
_PIECE = 1024 * 1024
_NO_ROOM = (errno.ENOSPC, errno.EDQUOT)

_log = logging.getLogger(__name__)


class Ballast:
    """The place kept beside the file at `path`. `full`: it was given up, and there is no new one yet."""

    def __init__(self, path: str, limit_bytes: int) -> None:
        self._path = path + ".ballast"
        self._size = min(BALLAST_BYTES, limit_bytes // 8)
        self._held = False
        self.full = False

    def lay(self) -> None:
        """Lay it down if it is not there; where there is no room for it the disk is full."""
        if self._held:
            return
        try:
            descriptor = os.open(self._path, os.O_WRONLY | os.O_CREAT | os.O_CLOEXEC, 0o600)
            try:
                if os.fstat(descriptor).st_blocks * 512 < self._size:
                    os.posix_fallocate(descriptor, 0, self._size)
            finally:
                os.close(descriptor)
        except OSError as error:
            if error.errno in _NO_ROOM:
                self._remove()  # what there is of it would only be in the way
                self.full = True
            elif error.errno != errno.EROFS:
                _log.warning("no room can be kept back for a full disk: %s", error)
            return
        if self.full:
            _log.warning("the disk has room again")
        self._held, self.full = True, False

    def give_up(self) -> bool:
        """The disk is full: make room. False if there is none to make."""
        given = self._remove()
        if given:
            self._held, self.full = False, True
            _log.error("the disk is full: new work is refused, what was kept back is used for the rest")
        return given

    def check(self) -> None:
        """Refuse new work while the disk is full: ResourceExhausted (STORE_FULL)."""
        if self.full:
            raise ResourceExhausted(
                STORE_FULL, "the disk is full", hint="free space on the disk of the state", retry_after=RETRY_SECONDS
            )

    def _remove(self) -> bool:
        try:
            os.unlink(self._path)
        except OSError as error:
            if error.errno != errno.ENOENT:
                _log.warning("%s cannot be removed: %s", self._path, error)
            return False
        return True


class Refill:
    """Says when to look whether the ballast can be laid down again: `due`, of which `ask` is told."""

    def __init__(self, ballast: Ballast, ask: Callable[[], None]) -> None:
        self._ballast = ballast
        self._ask = ask
        self._timer: asyncio.TimerHandle | None = None
        self._closed = False
        self.due = False

    def later(self) -> None:
        """In REFILL_SECONDS, if there is none."""
        if self._ballast.full and self._timer is None and not self._closed:
            self._timer = asyncio.get_running_loop().call_later(REFILL_SECONDS, self._soon)

    def _soon(self) -> None:
        self._timer = None
        self.due = True
        self._ask()

    def close(self) -> None:
        """Never again."""
        self._closed = True
        if self._timer is not None:
            self._timer.cancel()


def write_again(path: str) -> None:
    """Write what the file holds once more and sync it; nothing where there is no file. Raises OSError."""
    try:
        descriptor = os.open(path, os.O_RDWR | os.O_CLOEXEC)
    except FileNotFoundError:
        return
    try:
        offset = 0
        while piece := os.pread(descriptor, _PIECE, offset):
            offset += os.pwrite(descriptor, piece, offset)
        if offset:
            os.fsync(descriptor)
    finally:
        os.close(descriptor)


def settle(connection: sqlite3.Connection) -> None:
    """Move the WAL into the file, synced: after an fsync that failed, what is read from it may be on no disk."""
    busy, _, _ = connection.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchone()
    if busy:
        raise sqlite3.OperationalError("the write-ahead log cannot be moved into the file")
