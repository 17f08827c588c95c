"""Pieces of a result that forms: how many of them are held, and what of them somebody has not seen.

They are numbered within an attempt. Nobody stores them: each holder keeps the newest within a bound, and a reader that misses
a number knows it, and has the result.
"""

from __future__ import annotations

from edgenode.api.task.v1 import task_pb2

MAX_PIECE_BYTES = 64 * 1024
MAX_HELD_BYTES = 256 * 1024
MAX_HELD_COUNT = 4096


def merge(held: task_pb2.TaskProgress | None, told: task_pb2.TaskProgress) -> task_pb2.TaskProgress:
    """Progress after `told`: its newest words, and the pieces of both within the bounds. `held` may be changed."""
    if held is None or not held.pieces:
        held = told
    else:
        held.MergeFrom(told)
    pieces = held.pieces
    if not pieces:
        return held
    excess = len(pieces) - MAX_HELD_COUNT
    size = held.ByteSize()
    if excess > 0 or size > MAX_HELD_BYTES:
        first = 0
        while first < len(pieces) and (first < excess or size > MAX_HELD_BYTES):
            size -= pieces[first].ByteSize()
            first += 1
        del pieces[:first]
    return held


def newest(progress: task_pb2.TaskProgress | None) -> int:
    """Number of the newest piece, 0 where there is none."""
    return progress.pieces[-1].index if progress is not None and progress.pieces else 0


def words(progress: task_pb2.TaskProgress) -> task_pb2.TaskProgress:
    """A copy without any piece."""
    fraction = progress.fraction if progress.HasField("fraction") else None
    return task_pb2.TaskProgress(fraction=fraction, message=progress.message)


def since(progress: task_pb2.TaskProgress, seen: int) -> task_pb2.TaskProgress:
    """A copy without the pieces up to number `seen`."""
    copy = task_pb2.TaskProgress()
    copy.CopyFrom(progress)
    first = 0
    while first < len(copy.pieces) and copy.pieces[first].index <= seen:
        first += 1
    del copy.pieces[:first]
    return copy
