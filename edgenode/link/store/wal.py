"""The write-ahead log beside a store: how far it has been written, and when it is moved into the file.

Moving it, a checkpoint, stops the store for as long as that takes: the longer the log, the longer the stop. So it is moved
early, and then written again from its start, which costs less than growing it anew. Its size says nothing any more then, and
SQLite tells nobody how far it is; but each time it begins anew every frame it writes has another salt. So the log is full
once the frame at LOG_BYTES has one that it did not have at the last checkpoint: one read of 8 bytes a commit.
"""

from __future__ import annotations

import os
import sqlite3

from edgenode.link.store.disk import write_again

LOG_BYTES = 2 * 1024 * 1024  # where it is moved into the file
KEPT_BYTES = 16 * 1024 * 1024  # one that a large transaction has made longer is cut to nothing
_HEADER = 32  # bytes before the first frame
_FRAME_HEADER, _SALT, _SALT_BYTES = 24, 8, 8  # bytes before each page; where the salt is in it


class WriteAheadLog:
    """The log of the store at `path`; nothing is opened before it is first asked about."""

    def __init__(self, path: str, page_bytes: int) -> None:
        frame = _FRAME_HEADER + page_bytes
        self._path = path + "-wal"
        self._place = _HEADER + LOG_BYTES // frame * frame + _SALT
        self._moved = b""  # the salt at that place when it was last moved
        self._file: int | None = None

    def size(self) -> int:
        """Bytes it takes on disk."""
        return 0 if (file := self._opened()) is None else os.fstat(file).st_size

    def full(self) -> bool:
        """Whether it is to be moved into the file."""
        salt = self._salt()
        return len(salt) == _SALT_BYTES and salt != self._moved

    def move(self, connection: sqlite3.Connection) -> None:
        """Move it into the file, synced. Raises sqlite3.Error, and then it is full as before."""
        mode = "RESTART" if self.size() <= KEPT_BYTES else "TRUNCATE"
        busy, _, _ = connection.execute(f"PRAGMA wal_checkpoint({mode})").fetchone()
        if not busy:
            self._moved = self._salt()

    def write_again(self) -> None:
        """See `disk`: what is read from it is on disk from here on. Raises sqlite3.OperationalError."""
        try:
            write_again(self._path)
        except OSError as error:
            raise sqlite3.OperationalError(f"the write-ahead log cannot be written: {error}") from error

    def close(self) -> None:
        """Give the file back; another one may be there when it is asked about again."""
        file, self._file = self._file, None
        self._moved = b""
        if file is not None:
            os.close(file)

    def _salt(self) -> bytes:
        return b"" if (file := self._opened()) is None else os.pread(file, _SALT_BYTES, self._place)

    def _opened(self) -> int | None:
        if self._file is None:
            try:
                self._file = os.open(self._path, os.O_RDONLY | os.O_CLOEXEC)
            except FileNotFoundError:
                return None
        return self._file
