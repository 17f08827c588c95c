"""Results that form piece by piece: a skill that is a generator, and whoever reads it while it runs.

Each value a generator yields is a piece, numbered within the attempt, told to the node with the next frame and held by nobody
for long. What they make together is the task's result, which is as durable as any: texts and bytes joined, other values as a
list. So a reader who misses a piece is told so, and has lost nothing.

A call whose caller reads along (Client.stream) has no other result: its pieces are kept by nobody, there may be any number of
them, and the generator waits for its reader once so much as the reader allowed is on its way.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Iterator
from typing import TYPE_CHECKING, Any

from edgenode.api.task.v1 import task_pb2, task_service_pb2
from edgenode.link.errors import ResourceExhausted, Unavailable
from edgenode.link.model.task import TaskState
from edgenode.link.wire.pieces import MAX_PIECE_BYTES, cost
from edgenode.sdk.encoding import MAX_PAYLOAD_BYTES, Payload, decode, write_json
from edgenode.sdk.signature import PieceType

if TYPE_CHECKING:
    from edgenode.sdk.handle import TaskUpdate

_CALL_AGAIN = "it may have run; call again if that is safe, or submit it and read that along"
_PAUSE_BYTES = 64 * 1024  # a generator waits when this much waits to be sent


class PieceWriter:
    """The pieces of one attempt, as its worker gives them.

    `room`: bytes that the caller who reads along allowed for a start; 0 where nobody does.
    """

    def __init__(
        self,
        key: task_service_pb2.AttemptKey,
        tell: Callable[[task_service_pb2.AttemptUpdate], None],
        piece: PieceType,
        room: int = 0,
    ) -> None:
        self._key = key
        self._tell = tell
        self._piece = piece
        self._given: list[Any] = []  # where that is the result
        self._count = 0
        self._size = 0
        self._unsent = 0
        self.read_along = bool(room)
        self._room = room
        self._allowed = asyncio.Event()

    def add(self, value: Any) -> bool:
        """Tells a piece; True when its giver should wait, until updates went out or, read along, for `allowed`.

        Raises FailedPrecondition (BAD_RESULT), ResourceExhausted (PIECE_TOO_LARGE, RESULT_TOO_LARGE).
        """
        data, content_type = self._piece.output(value)
        if len(data) > MAX_PIECE_BYTES:
            raise _too_large("PIECE_TOO_LARGE", "a piece", len(data), MAX_PIECE_BYTES, "yield smaller ones")
        self._count += 1
        if self.read_along:
            self._room -= cost([self._send(data, content_type)])
            return self._room <= 0
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

    def allow(self, size: int) -> None:
        """So many more bytes may be given; 0 to have it looked at why they are."""
        self._room += size
        self._allowed.set()

    async def allowed(self) -> None:
        """Returns when more may be given, or `allow` was called."""
        self._allowed.clear()
        if self._room <= 0:
            await self._allowed.wait()

    def end(self) -> Any:
        """Tells that there are no more; the result as a whole."""
        self._count += 1
        self._send(b"", "", last=True)
        return self._piece.join(self._given)

    def _send(self, data: bytes, content_type: str, last: bool = False) -> task_pb2.TaskPiece:
        update = task_service_pb2.AttemptUpdate(key=self._key)
        piece = update.progress.pieces.add(index=self._count, data=data, content_type=content_type, last=last)
        self._tell(update)
        return piece


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
            for value in _parts(result, expected):
                yield value
            return


async def read_call(
    responses: AsyncIterator[task_service_pb2.StreamCallResponse], expected: Any
) -> AsyncGenerator[Any, None]:
    """See Client.stream."""
    index, complete = 0, False
    async for response in responses:
        for piece in response.pieces:
            if piece.index != index + 1 or complete:
                raise _interrupted(f"piece {piece.index} came behind {index}", _CALL_AGAIN)
            index, complete = piece.index, piece.last
            if not piece.last:
                yield decode(piece.data, piece.content_type, expected)
        if response.HasField("output"):
            if index and not complete:
                raise _interrupted("the end came before the last piece", _CALL_AGAIN)
            if not index and expected is Payload:
                yield Whole(response.output.data, response.output.content_type)
            elif not index:
                for value in _parts(decode(response.output.data, response.output.content_type), expected):
                    yield value
            return
    raise _interrupted("there was no end", _CALL_AGAIN)


class Whole(Payload):
    """What `read_call` gives to a reader of Payloads where nothing was yielded: the result, which is no piece."""

    __slots__ = ()


def _parts(result: Any, expected: Any) -> Iterator[Any]:
    """A result that came whole, as pieces."""
    for value in result if isinstance(result, list) else [result]:
        yield value if isinstance(value, bytes) else decode(write_json(value), "", expected)


def _interrupted(why: str, hint: str = "await result() to have it whole") -> Unavailable:
    return Unavailable("STREAM_INTERRUPTED", why, hint=hint)


def _too_large(reason: str, what: str, size: int, limit: int, hint: str) -> ResourceExhausted:
    return ResourceExhausted(
        reason, f"{what} has {size} bytes", hint=f"at most {limit}: {hint}", retryable=False, limit=limit
    )
