"""Results that form piece by piece: a skill that is a generator, and whoever reads it while it runs.

Each value a generator yields is a piece, numbered within the attempt, told to the node with the next frame and held by nobody
for long. What they make together is the task's result, which is as durable as any: texts and bytes joined, other values as a
list. So a reader who misses a piece is told so, and has lost nothing.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from typing import TYPE_CHECKING, Any

from edgenode.api.task.v1 import task_pb2, task_service_pb2
from edgenode.link.errors import ResourceExhausted, Unavailable
from edgenode.link.model.task import TaskState
from edgenode.link.wire.pieces import MAX_PIECE_BYTES
from edgenode.sdk.encoding import MAX_PAYLOAD_BYTES, decode, write_json
from edgenode.sdk.signature import PieceType

if TYPE_CHECKING:
    from edgenode.sdk.handle import TaskUpdate

_PAUSE_BYTES = 64 * 1024  # a generator waits when this much waits to be sent


class PieceWriter:
    """The pieces of one attempt, as its worker gives them."""

    def __init__(
        self,
        key: task_service_pb2.AttemptKey,
        tell: Callable[[task_service_pb2.AttemptUpdate], None],
        piece: PieceType,
    ) -> None:
        self._key = key
        self._tell = tell
        self._piece = piece
        self._given: list[Any] = []
        self._size = 0
        self._unsent = 0

    def add(self, value: Any) -> bool:
        """Tells a piece; True when its giver should wait until updates went out.

        Raises FailedPrecondition (BAD_RESULT), ResourceExhausted (PIECE_TOO_LARGE, RESULT_TOO_LARGE).
        """
        data, content_type = self._piece.output(value)
        if len(data) > MAX_PIECE_BYTES:
            raise _too_large("PIECE_TOO_LARGE", "a piece", len(data), MAX_PIECE_BYTES, "yield smaller ones")
        self._size += len(data)
        if self._size > MAX_PAYLOAD_BYTES:
            hint = "give it as an artifact instead: await ctx.artifact(...)"
            raise _too_large("RESULT_TOO_LARGE", "the result so far", self._size, MAX_PAYLOAD_BYTES, hint)
        self._given.append(value)
        self._send(data, content_type)
        self._unsent += len(data) + 16
        if self._unsent < _PAUSE_BYTES:
            return False
        self._unsent = 0
        return True

    def end(self) -> Any:
        """Tells that there are no more; the result as a whole."""
        self._send(b"", "", last=True)
        return self._piece.join(self._given)

    def _send(self, data: bytes, content_type: str, last: bool = False) -> None:
        update = task_service_pb2.AttemptUpdate(key=self._key)
        index = len(self._given) + last
        update.progress.pieces.add(index=index, data=data, content_type=content_type, last=last)
        self._tell(update)


async def read_pieces(
    updates: AsyncIterator[TaskUpdate], result_of: Callable[[task_pb2.Task], Any], expected: Any
) -> AsyncIterator[Any]:
    """See TaskHandle.stream. `result_of` gives an ended task's result, or raises its problem."""
    attempt, index, complete = 0, 0, False
    async for update in updates:
        for piece in update.pieces:
            if update.attempt != attempt:
                if index:
                    raise _interrupted(f"attempt {update.attempt} began")
                attempt = update.attempt
            if piece.index <= index:
                continue  # told again by a new stream
            if piece.index != index + 1:
                raise _interrupted(f"pieces {index + 1} to {piece.index - 1} are gone")
            index, complete = piece.index, piece.last
            if not piece.last:
                yield decode(piece.data, piece.content_type, expected)
        if update.task is not None and TaskState(update.task.state).terminal:
            result = result_of(update.task)
            if complete:
                return
            if index:
                raise _interrupted("the end came before the last piece")
            for value in result if isinstance(result, list) else [result]:
                yield value if isinstance(value, bytes) else decode(write_json(value), "", expected)
            return


def _interrupted(why: str) -> Unavailable:
    return Unavailable("STREAM_INTERRUPTED", why, hint="await result() to have it whole")


def _too_large(reason: str, what: str, size: int, limit: int, hint: str) -> ResourceExhausted:
    return ResourceExhausted(
        reason, f"{what} has {size} bytes", hint=f"at most {limit}: {hint}", retryable=False, limit=limit
    )
