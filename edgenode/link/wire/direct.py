"""Streams of frames between two processes of one device, without HTTP/2 between them.

Theory of operation. Beside the Unix socket NAME.sock of a node's gRPC server listens NAME.direct.sock. Whoever may connect
to the one may connect to the other; who does, and names a method that streams both ways, talks to the same servicer behind
the same interceptor in the same messages: only what carries them differs. It is an optimisation that nothing depends on.
`DirectChannel` is a grpc.aio channel that takes this way for such methods where somebody serves it, and gRPC otherwise.

A connection is one rpc. Each side sends frames of a kind (1 byte), a length (4 bytes, big-endian) and that many bytes. The
caller's first is OPEN with the method's full name, then come its MESSAGEs and at most one END. The other side's are
MESSAGEs and at last a STATUS (google.rpc.Status); then it says no more, and waits for the caller to close. A connection
that ends otherwise is a cancelled rpc to the server, and UNAVAILABLE to the caller. There are no windows: what comes and is
not read stays in the kernel beyond UNREAD_BYTES, whose buffer fills up, and then the other side's writes wait.
"""

from __future__ import annotations

import asyncio
import struct
from collections import deque
from collections.abc import Callable
from enum import IntEnum
from typing import cast

from edgenode.link.errors import EdgenodeError, InvalidArgument, ResourceExhausted
from edgenode.link.wire.channels import MAX_MESSAGE_BYTES

UNREAD_BYTES = 256 * 1024
_UNSENT_BYTES = 64 * 1024  # that the kernel did not take; beyond it a write waits
_RECEIVE_BYTES = 256 * 1024
_LINGER = 5.0  # seconds a caller has to take the status and close
_HEADER = struct.Struct(">BI")


def direct_path(socket_path: str) -> str:
    """Where direct connections are served beside the gRPC socket `socket_path`."""
    return f"{socket_path.removesuffix('.sock')}.direct.sock"


class Kind(IntEnum):
    """What a frame is."""

    MESSAGE = 0
    OPEN = 1
    END = 2
    STATUS = 3


def receive_buffer() -> memoryview:
    """What connections receive into, one after the other: one at rest holds no buffer of its own."""
    return memoryview(bytearray(_RECEIVE_BYTES))


class DirectConnection(asyncio.BufferedProtocol):
    """One connection, either end. One task at a time may read, and one write. `lost` is called when it has ended.

    `shared` is a `receive_buffer`.
    """

    def __init__(self, shared: memoryview, lost: Callable[[], None] | None = None) -> None:
        self._shared = shared
        self._lost = lost
        self._head = b""  # of a header that came in part
        self._rest: bytearray | None = None  # a frame that came in part, as long as the whole
        self._filled = 0  # bytes of it
        self._frames: deque[tuple[int, bytes]] = deque()
        self._unread = 0  # bytes in them
        self._refused: EdgenodeError | None = None  # what came after them
        self._transport: asyncio.Transport | None = None
        self._reading = self._room = True
        self._discarding = False
        self._closed = False  # nothing more will come
        self._lingering: asyncio.TimerHandle | None = None
        self._reader: asyncio.Future[None] | None = None
        self._writer: asyncio.Future[None] | None = None

    async def read(self) -> tuple[int, bytes] | None:
        """The next frame; None after the last. Raises InvalidArgument (NOT_DIRECT), ResourceExhausted (RPC_LIMIT)."""
        while not self._frames:
            if self._refused is not None:
                raise self._refused
            if self._closed:
                return None
            self._reader = asyncio.get_running_loop().create_future()
            await self._reader
        kind, data = self._frames.popleft()
        self._unread -= len(data)
        if not self._reading and self._unread <= UNREAD_BYTES // 2:
            self._resume()
        return kind, data

    async def write(self, kind: Kind, data: bytes) -> bool:
        """Sends a frame; returns when there is room for another. False: the connection has ended."""
        if self._closed or self._transport is None:
            return False
        self._transport.write(_HEADER.pack(kind, len(data)) + data)
        while not (self._room or self._closed):
            self._writer = asyncio.get_running_loop().create_future()
            await self._writer
        return not self._closed

    def finish(self) -> None:
        """Says that no more will come, and waits for the other side to close.

        Closed at once, with something unread, it would break the other side's writes before that has read how it ended.
        """
        if self._closed or self._transport is None:
            return
        self._discarding = True
        self._frames.clear()
        self._resume()
        self._transport.write_eof()
        self._lingering = asyncio.get_running_loop().call_later(_LINGER, self._transport.abort)

    def abort(self) -> None:
        """Ends it now."""
        if self._transport is not None:
            self._transport.abort()

    # --- what the transport calls: see asyncio.BufferedProtocol -------------------------------------------------------

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """The connection stands."""
        self._transport = cast(asyncio.Transport, transport)  # one of uvloop only acts like it
        self._transport.set_write_buffer_limits(high=_UNSENT_BYTES)

    def get_buffer(self, sizehint: int) -> memoryview:
        """Where to receive into."""
        if self._rest is not None:
            return memoryview(self._rest)[self._filled :]
        head = len(self._head)
        self._shared[:head] = self._head
        return self._shared[head:]

    def buffer_updated(self, nbytes: int) -> None:
        """So many bytes came."""
        if self._discarding:
            self._head, self._rest = b"", None
            return
        if self._rest is None:
            self._cut(len(self._head) + nbytes)
        else:
            self._fill(self._rest, nbytes)
        if self._reading and (self._unread > UNREAD_BYTES or self._refused is not None):
            self._reading = False
            assert self._transport is not None
            self._transport.pause_reading()
        if self._frames or self._refused is not None:
            _wake(self._reader)

    def eof_received(self) -> None:
        """The other side says no more: this one closes once what it wrote is sent."""
        self._close()

    def pause_writing(self) -> None:
        """Much waits to be sent."""
        self._room = False

    def resume_writing(self) -> None:
        """Little waits."""
        self._room = True
        _wake(self._writer)

    def connection_lost(self, exc: Exception | None) -> None:
        """The connection has ended."""
        self._close()
        if self._lingering is not None:
            self._lingering.cancel()
        if self._lost is not None:
            self._lost()

    def _cut(self, end: int) -> None:
        """Takes the frames that are in the first `end` bytes of the shared buffer."""
        shared, at, header = self._shared, 0, _HEADER.size
        while end - at >= header:
            kind, size = _HEADER.unpack_from(shared, at)
            if not self._may_come(kind, size):
                return
            start = at + header
            if start + size > end:
                self._head, self._rest, self._filled = b"", bytearray(header + size), end - at
                self._rest[: self._filled] = shared[at:end]
                return
            at = start + size
            self._take(kind, bytes(shared[start:at]))
        self._head = bytes(shared[at:end])

    def _fill(self, rest: bytearray, nbytes: int) -> None:
        self._filled += nbytes
        if self._filled == len(rest):
            self._rest = None
            self._take(rest[0], bytes(memoryview(rest)[_HEADER.size :]))

    def _may_come(self, kind: int, size: int) -> bool:
        if kind > Kind.STATUS:
            self._refused = InvalidArgument(
                "NOT_DIRECT", f"a frame of kind {kind}", hint="use the SDK, or gRPC at the socket without `.direct`"
            )
        elif size > MAX_MESSAGE_BYTES:
            self._refused = ResourceExhausted(
                "RPC_LIMIT", f"a message of {size} bytes", hint=f"at most {MAX_MESSAGE_BYTES}", limit=MAX_MESSAGE_BYTES
            )
        return self._refused is None

    def _take(self, kind: int, data: bytes) -> None:
        self._frames.append((kind, data))
        self._unread += len(data)

    def _resume(self) -> None:
        if not self._reading and not self._closed:
            assert self._transport is not None
            self._reading = True
            self._transport.resume_reading()

    def _close(self) -> None:
        self._closed = True
        _wake(self._reader)
        _wake(self._writer)


def _wake(waiter: asyncio.Future[None] | None) -> None:
    if waiter is not None and not waiter.done():
        waiter.set_result(None)
