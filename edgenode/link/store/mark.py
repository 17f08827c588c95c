"""A file beside the store that says how far it had come, so that a store that lost its end is found out.

SQLite takes a write-ahead log that was cut, or whose end does not match its checksums, for one that was never written
further: it opens the file as it stood some commits ago, and says nothing. What was acknowledged in those commits would be
gone unseen, and numbers that were used would be used again.

So each commit raises a number in the store, and once it is durable, the number and where the logs stand are written here,
in one small write and without an fsync. The mark is therefore never ahead of what was acknowledged, whatever is lost of it;
a store whose number is below its mark has lost commits. A mark that is missing, unreadable or another store's says nothing.
"""

from __future__ import annotations

import logging
import os
import struct
import zlib
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from edgenode.link.errors import DataLoss

_MAGIC = b"edgenode mark 1\n"
_HEAD = struct.Struct(">32sQH")
_LOG = struct.Struct(">qq")
_MAX_LOGS = 64

_log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Position:
    """`number` of the newest commit of a store, and the next sequence of its logs by their number."""

    store_id: str  # 32 characters
    number: int
    logs: Mapping[int, int] = field(default_factory=dict)


def mark_path(store: Path | str) -> Path:
    """Where the mark of a store is."""
    return Path(f"{store}-mark")


class Mark:
    """The mark of one store, kept open while that is."""

    def __init__(self, store: Path | str) -> None:
        """Raises OSError."""
        self._file = os.open(mark_path(store), os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)

    def read(self) -> Position | None:
        """What was written last; None where that cannot be told."""
        data = os.pread(self._file, len(_MAGIC) + _HEAD.size + _MAX_LOGS * _LOG.size + 4, 0)
        if not data.startswith(_MAGIC) or len(data) < len(_MAGIC) + _HEAD.size + 4:
            return None
        store_id, number, count = _HEAD.unpack_from(data, len(_MAGIC))
        start = len(_MAGIC) + _HEAD.size
        end = start + min(count, _MAX_LOGS) * _LOG.size
        if data[end : end + 4] != zlib.crc32(data[:end]).to_bytes(4, "big"):
            return None
        return Position(store_id.decode("ascii", "replace"), number, dict(_LOG.iter_unpack(data[start:end])))

    def write(self, position: Position) -> None:
        """Replace it; in the order of the commits."""
        logs = list(position.logs.items())[:_MAX_LOGS]
        head = _HEAD.pack(position.store_id.encode("ascii"), position.number, len(logs))
        data = b"".join((_MAGIC, head, *(_LOG.pack(*pair) for pair in logs)))
        os.pwrite(self._file, data + zlib.crc32(data).to_bytes(4, "big"), 0)

    def close(self) -> None:
        """Nothing is written any more."""
        os.close(self._file)

    def check(self, store_id: str, number: int) -> None:
        """Raises DataLoss (STATE_DAMAGED) where the store, at commit `number`, had come further."""
        marked = self.read()
        if marked is not None and marked.store_id == store_id and marked.number > number:
            raise DataLoss(
                "STATE_DAMAGED",
                f"the store has lost its last {marked.number - number} commits",
                hint="restore a backup, or move the file away",
            )


def open_mark(store: Path) -> Mark | None:
    """The mark of a store; None where there can be none."""
    try:
        return Mark(store)
    except OSError as error:  # what is wrong with the directory shows when the store is opened
        _log.warning("%s has no mark: %s", store, error)
        return None
