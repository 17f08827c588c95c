"""One Sync stream as the driver sees it, from either end. One task reads, one task writes, and neither is ever hurried.

A cancelled read loses the stream: on the client it cancels the rpc, on the server the next read would tell of a false end.
So reads are cancelled only once the session is over, and time limits stand elsewhere.

Frames to write are serialised already. To put one into a request protobuf would write and read it once more, and a batch is
a quarter of a mebibyte; so what stands around them is written here.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Sequence
from typing import Any, Protocol

import grpc

from edgenode.api.sync.v1 import sync_pb2, sync_service_pb2
from edgenode.link.errors import EdgenodeError, Unavailable
from edgenode.link.wire.call_end import CallEnd
from edgenode.link.wire.status import Context
from edgenode.link.wire.varints import varint

_SYNC = "/edgenode.api.sync.v1.SyncService/Sync"
_FRAMES_TAG = b"\x0a"  # of SyncRequest.frames and SyncResponse.frames
SyncCall = grpc.aio.StreamStreamCall[Any, Any]


def joined(frames: Sequence[bytes]) -> bytes:
    """A SyncRequest or SyncResponse with serialised frames, serialised."""
    parts: list[bytes] = []
    for frame in frames:
        parts += _FRAMES_TAG + varint(len(frame)), frame
    return b"".join(parts)


class Stream(Protocol):
    """A stream of frames."""

    async def read(self) -> Sequence[sync_pb2.Frame]:
        """The next frames. Raises EdgenodeError when the stream has ended or broken."""
        ...

    async def write(self, frames: Sequence[bytes]) -> None:
        """Sends serialised frames as one message; returns when the transport took it.

        Raises EdgenodeError when the stream is gone.
        """
        ...

    async def finish(self) -> bool:
        """Nothing more will be written; call once, with no write under way. True: the other side will end it now."""
        ...

    def cancel(self) -> None:
        """Gives everything back; needed in any case."""
        ...


class DialedStream:
    """The dialing side's stream."""

    def __init__(self, channel: grpc.aio.Channel) -> None:
        sync: Any = channel.stream_stream(
            _SYNC, request_serializer=joined, response_deserializer=sync_service_pb2.SyncResponse.FromString
        )
        self._call: SyncCall = sync()
        self._end = CallEnd(self._call)

    async def read(self) -> Sequence[sync_pb2.Frame]:
        """See Stream."""
        try:
            response: Any = await self._call.read()
        except grpc.aio.AioRpcError as error:
            raise await self._end.error(error) from error
        if response is grpc.aio.EOF:
            raise _ended("the parent")
        frames: Sequence[sync_pb2.Frame] = response.frames
        return frames

    async def write(self, frames: Sequence[bytes]) -> None:
        """See Stream."""
        try:
            await self._call.write(frames)
        except grpc.aio.AioRpcError as error:
            raise await self._end.error(error) from error
        except asyncio.InvalidStateError as error:  # it was over before
            raise self._end.known() or _ended("the parent") from error

    async def finish(self) -> bool:
        """See Stream."""
        if self._call.done():
            return False
        await self._call.done_writing()
        return True

    def cancel(self) -> None:
        """See Stream."""
        self._call.cancel()


class AcceptedStream:
    """The accepting side's stream; it ends when the servicer's method returns."""

    def __init__(self, requests: AsyncIterator[Any], context: Context) -> None:
        self._requests = requests
        self._context = context

    async def read(self) -> Sequence[sync_pb2.Frame]:
        """See Stream."""
        try:
            request = await anext(self._requests)
        except StopAsyncIteration:
            raise _ended("the node") from None
        except Exception as error:
            raise _broken(error) from error
        frames: Sequence[sync_pb2.Frame] = request.frames
        return frames

    async def write(self, frames: Sequence[bytes]) -> None:
        """See Stream."""
        try:
            await self._context.write(sync_service_pb2.SyncResponse.FromString(joined(frames)))
        except Exception as error:  # grpc's internal errors have no public class
            raise _broken(error) from error

    async def finish(self) -> bool:
        """See Stream."""
        return False

    def cancel(self) -> None:
        """See Stream."""


def _ended(who: str) -> EdgenodeError:
    return Unavailable("STREAM_ENDED", f"{who} ended the stream", hint="it will be dialed again")


def _broken(error: Exception) -> EdgenodeError:
    return Unavailable("STREAM_BROKEN", f"the stream broke: {error!r}", hint="it will be dialed again")
