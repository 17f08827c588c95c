"""Blobs that say whether they are what was stored: the contents of tasks.

SQLite does not notice a flipped bit in a value. A segment of a log never changes, and has a column for its checksum (`logs`).
A task's row is written in parts by many statements, so each of its blobs carries its own: four bytes behind the content, over
the content and over where it belongs, so that what stands in another task or column is not taken for it either. What is empty
stays empty.

Whoever reads a blob opens it here, before anything is made of it. What does not match is never handed out: a task that has not
ended fails with TASK_DAMAGED, one that has is refused with it to whoever asks.
"""

from __future__ import annotations

from typing import Final
from zlib import crc32

from edgenode.link.errors import DataLoss

SEAL_BYTES: Final = 4
TASK_DAMAGED: Final = "TASK_DAMAGED"

_COLUMNS = ("spec", "output", "problem", "input_request", "answers", "history", "outcome")
_STARTS = {column: crc32(column.encode()) for column in _COLUMNS}


class TaskDamaged(DataLoss):
    """What is stored of a task is not what was stored."""

    def __init__(self, task_id: str) -> None:
        super().__init__(
            TASK_DAMAGED,
            f"what is stored of task {task_id} is not what was stored",
            hint="the disk changed what was written to it: check it; submit the task again if it may run twice",
            task_id=task_id,
        )


def checksum(task_id: str, column: str, content: bytes) -> int:
    """Over a blob of a task and its place."""
    return crc32(content, crc32(task_id.encode(), _STARTS[column]))


def seal(task_id: str, column: str, content: bytes) -> bytearray:
    """The blob to store; a bytearray, as `sqlite3` looks for an adapter of bytes, which costs more than to bind them."""
    return bytearray(content + checksum(task_id, column, content).to_bytes(SEAL_BYTES, "big") if content else b"")


def is_whole(task_id: str, column: str, stored: bytes | None) -> bool:
    """Whether a stored blob, if there is one, is what was stored."""
    if not stored:
        return True
    return checksum(task_id, column, stored[:-SEAL_BYTES]) == int.from_bytes(stored[-SEAL_BYTES:], "big")


def unseal(task_id: str, column: str, stored: bytes) -> bytes:
    """The content of a stored blob. Raises TaskDamaged."""
    if not is_whole(task_id, column, stored):
        raise TaskDamaged(task_id)
    return stored[:-SEAL_BYTES]
