"""Pieces of a result that forms: how many of them are held, and what of them somebody has not seen.

They are numbered within an attempt. Nobody stores them: each holder keeps the newest within a bound, and a reader that misses
a number knows it, and has the result.

A call's caller that reads along has nothing but them, so none is dropped: it allows so many bytes at a time, over every hop to
the agent, and each hop holds what is allowed at most.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Iterable, Sequence

from edgenode.api.task.v1 import task_pb2
from edgenode.link.errors import ResourceExhausted

MAX_PIECE_BYTES = 64 * 1024
MAX_HELD_BYTES = 256 * 1024
MAX_HELD_COUNT = 4096
ROOM_BYTES = 64 * 1024  # that a call's caller allows before it has read any
MAX_STREAMS = 256  # callers that read along at one service at any time
_PASS_ON = ROOM_BYTES // 4  # what was read is allowed anew in steps of this
_OVERHEAD = 64  # what a piece counts for beside its data: so small ones are bounded in number


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


def cost(pieces: Iterable[task_pb2.TaskPiece]) -> int:
    """What they take of the room that was allowed."""
    return sum(len(piece.data) + _OVERHEAD for piece in pieces)


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


class PieceReader:
    """What a caller who reads along has not read. Bounded by what was allowed."""

    def __init__(self) -> None:
        self._waiting: list[task_pb2.TaskPiece] = []
        self._ended = False
        self._changed = asyncio.Event()

    def put(self, given: Sequence[task_pb2.TaskPiece]) -> None:
        """These came."""
        self._waiting.extend(given)
        self._changed.set()

    def end(self) -> None:
        """Nothing more comes."""
        self._ended = True
        self._changed.set()

    async def read(self, allow: Callable[[int], None]) -> AsyncIterator[list[task_pb2.TaskPiece]]:
        """What comes, to the end. What was given counts as read once more is asked for, and is allowed anew."""
        read = 0
        while True:
            while self._waiting:
                given, self._waiting = self._waiting, []
                yield given
                read += cost(given)
                if read >= _PASS_ON:
                    allow(read)
                    read = 0
            if self._ended:
                return
            self._changed.clear()
            await self._changed.wait()


def streams_full() -> ResourceExhausted:
    """The error of a caller who would be one too many to read along."""
    return ResourceExhausted(
        "STREAMS_FULL",
        f"{MAX_STREAMS} calls are read along",
        hint="wait for some to end, or submit it: any number of tasks may be read along",
        retry_after=1.0,
        limit=MAX_STREAMS,
    )
