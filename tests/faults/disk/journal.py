"""What the library wrote down, read back."""

from __future__ import annotations

import struct
from collections.abc import Iterator
from dataclasses import dataclass
from enum import IntEnum

_HEAD = struct.Struct("=IIQQII")
_MAGIC = 0x4B534944


class Kind(IntEnum):
    """What happened."""

    CREATE = 1
    OPEN = 2
    WRITE = 3
    TRUNCATE = 4
    SYNC = 5
    SYNC_FAILED = 6
    RENAME = 7
    UNLINK = 8
    MAKE_DIRECTORY = 9
    SYNC_DIRECTORY = 10


@dataclass(frozen=True, slots=True)
class Record:
    """One operation. `end` is the journal's length behind it; `offset` the new length of a TRUNCATE."""

    kind: Kind
    inode: int
    offset: int
    path: str
    to: str  # of a RENAME
    data: bytes
    end: int


def read_journal(journal: bytes) -> Iterator[Record]:
    """All records, in order. Raises ValueError where the journal is not one."""
    position = 0
    while position < len(journal):
        magic, kind, inode, offset, path_bytes, data_bytes = _HEAD.unpack_from(journal, position)
        if magic != _MAGIC:
            raise ValueError(f"no record at {position}")
        position += _HEAD.size
        path, _, to = journal[position : position + path_bytes].decode().partition("\0")
        position += path_bytes
        data = journal[position : position + data_bytes]
        position += data_bytes
        yield Record(Kind(kind), inode, offset, path, to, data, position)
