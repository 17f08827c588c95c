"""The calling end of direct connections: a grpc.aio channel for generated stubs (see direct)."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import AsyncIterator, Callable
from typing import Any

import grpc
from google.protobuf.message import DecodeError
from google.rpc import code_pb2, status_pb2
from grpc_status import rpc_status

from edgenode.link.errors import EdgenodeError
from edgenode.link.wire.direct import DirectConnection, Kind, direct_path, receive_buffer
from edgenode.link.wire.status import problem_to_status

_CODES = {code.value[0]: code for code in grpc.StatusCode}
_OVER = "the call is over: read how it ended"


class DirectChannel(grpc.aio.Channel):
    """`channel`, which dials the Unix socket `path`, but for calls that stream both ways where somebody serves beside it.

    Such a call with more than its method (an iterator of requests, a timeout, metadata) goes over `channel` as well.
    """

    def __init__(self, path: str, channel: grpc.aio.Channel) -> None:
        self._path = direct_path(path)
        self._channel = channel
        self._shared = receive_buffer()
        self._calls: set[DirectCall] = set()

    def stream_stream(
        self,
        method: str,
        request_serializer: Any = None,
        response_deserializer: Any = None,
        _registered_method: bool | None = False,
    ) -> Any:
        """See grpc.aio.Channel."""
        stream_stream: Any = self._channel.stream_stream  # its stubs do not know the last argument
        by_grpc = stream_stream(method, request_serializer, response_deserializer, _registered_method)

        def call(*arguments: Any, **options: Any) -> Any:
            connected = None if arguments or options else self._connect()
            if connected is None:
                return by_grpc(*arguments, **options)
            connection = DirectConnection(self._shared)
            direct = DirectCall(connected, connection, method, request_serializer, response_deserializer)
            self._calls.add(direct)
            direct.add_done_callback(self._calls.discard)
            return direct

        return call

    def _connect(self) -> socket.socket | None:
        """A connection, or None: a Unix socket is connected at once or not at all."""
        connection = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM | socket.SOCK_NONBLOCK)
        try:
            connection.connect(self._path)
        except OSError:
            connection.close()
            return None
        return connection

    def unary_unary(self, *arguments: Any, **options: Any) -> Any:
        """See grpc.aio.Channel."""
        return self._channel.unary_unary(*arguments, **options)

    def unary_stream(self, *arguments: Any, **options: Any) -> Any:
        """See grpc.aio.Channel."""
        return self._channel.unary_stream(*arguments, **options)

    def stream_unary(self, *arguments: Any, **options: Any) -> Any:
        """See grpc.aio.Channel."""
        return self._channel.stream_unary(*arguments, **options)

    def get_state(self, try_to_connect: bool = False) -> grpc.ChannelConnectivity:
        """See grpc.aio.Channel."""
        return self._channel.get_state(try_to_connect)

    async def wait_for_state_change(self, last_observed_state: grpc.ChannelConnectivity) -> None:
        """See grpc.aio.Channel."""
        await self._channel.wait_for_state_change(last_observed_state)

    async def channel_ready(self) -> None:
        """See grpc.aio.Channel."""
        await self._channel.channel_ready()

    async def close(self, grace: float | None = None) -> None:
        """See grpc.aio.Channel."""
        for call in list(self._calls):
            call.cancel()
        await self._channel.close(grace)

    async def __aenter__(self) -> DirectChannel:
        return self

    async def __aexit__(self, *exception: object) -> None:
        await self.close()


class DirectCall:
    """See grpc.aio.StreamStreamCall. It connects when it is first waited for, read or written.

    Not one of its subclasses: whoever closes a channel of grpc.aio, anywhere in the process, looks at all tasks for calls and
    raises InternalError for one that grpc did not make.
    """

    def __init__(
        self,
        connected: socket.socket,
        connection: DirectConnection,
        method: str,
        serialize: Callable[[Any], bytes],
        deserialize: Callable[[bytes], Any],
    ) -> None:
        self._socket: socket.socket | None = connected
        self._connection = connection
        self._method = method
        self._serialize = serialize
        self._deserialize = deserialize
        self._opened: asyncio.Task[None] | None = None
        self._status: asyncio.Future[status_pb2.Status] = asyncio.get_running_loop().create_future()
        self._cancelled = False
        self._callbacks: list[Callable[[Any], None]] = []

    async def wait_for_connection(self) -> None:
        """See grpc.aio.Call."""
        if self._opened is None:
            self._opened = asyncio.get_running_loop().create_task(self._open())
        await self._opened

    async def _open(self) -> None:
        connected, self._socket = self._socket, None
        if connected is None:
            return
        await asyncio.get_running_loop().create_unix_connection(lambda: self._connection, sock=connected)
        if self._cancelled:
            self._connection.abort()
        await self._connection.write(Kind.OPEN, self._method.encode())

    async def read(self) -> Any:
        """See grpc.aio.StreamStreamCall."""
        if not self._status.done():
            if self._opened is None or not self._opened.done():
                await self.wait_for_connection()
            try:
                frame = await self._connection.read()
                if frame is not None and frame[0] == Kind.MESSAGE and not self._cancelled:
                    return self._deserialize(frame[1])
                self._end(_status_in(frame))
            except EdgenodeError as error:
                self._end(problem_to_status(error.problem))
            except DecodeError as error:
                self._end(status_pb2.Status(code=code_pb2.INTERNAL, message=f"a response cannot be read: {error}"))
        if self._cancelled:
            raise asyncio.CancelledError
        status = self._status.result()
        if status.code == code_pb2.OK:
            return grpc.aio.EOF
        raise grpc.aio.AioRpcError(_CODES[status.code], grpc.aio.Metadata(), _trailing(status), status.message)

    async def write(self, request: Any) -> None:
        """See grpc.aio.StreamStreamCall. Raises InvalidStateError once the call is over; `read` tells how it ended."""
        if self._opened is None or not self._opened.done():
            await self.wait_for_connection()
        sent = not self._status.done() and await self._connection.write(Kind.MESSAGE, self._serialize(request))
        if self._cancelled:
            raise asyncio.CancelledError
        if not sent:
            raise asyncio.InvalidStateError(_OVER)

    async def done_writing(self) -> None:
        """See grpc.aio.StreamStreamCall."""
        await self.wait_for_connection()
        await self._connection.write(Kind.END, b"")

    async def _responses(self) -> AsyncIterator[Any]:
        while (response := await self.read()) is not grpc.aio.EOF:
            yield response

    def __aiter__(self) -> AsyncIterator[Any]:
        return self._responses()

    def cancel(self) -> bool:
        """See grpc.aio.Call."""
        if self._status.done():
            return False
        self._cancelled = True
        self._end(status_pb2.Status(code=code_pb2.CANCELLED, message="cancelled by its caller"))
        return True

    def cancelled(self) -> bool:
        """See grpc.aio.Call."""
        return self._cancelled

    def done(self) -> bool:
        """See grpc.aio.Call."""
        return self._status.done()

    def time_remaining(self) -> float | None:
        """See grpc.aio.Call: these calls have no deadline."""
        return None

    def add_done_callback(self, callback: Any) -> None:
        """See grpc.aio.Call."""
        if self._status.done():
            callback(self)
        else:
            self._callbacks.append(callback)

    async def initial_metadata(self) -> grpc.aio.Metadata:
        """See grpc.aio.Call: there are none."""
        return grpc.aio.Metadata()

    async def trailing_metadata(self) -> grpc.aio.Metadata:
        """See grpc.aio.Call."""
        return _trailing(await asyncio.shield(self._status))

    async def code(self) -> grpc.StatusCode:
        """See grpc.aio.Call."""
        return _CODES[(await asyncio.shield(self._status)).code]

    async def details(self) -> str:
        """See grpc.aio.Call."""
        message: str = (await asyncio.shield(self._status)).message
        return message

    def _end(self, status: status_pb2.Status) -> None:
        if self._status.done():
            return
        self._status.set_result(status)
        if self._socket is not None:
            self._socket.close()
            self._socket = None
        self._connection.abort()
        callbacks, self._callbacks = self._callbacks, []
        for callback in callbacks:
            callback(self)


def _status_in(frame: tuple[int, bytes] | None) -> status_pb2.Status:
    """The status a call ended with whose last frame this is."""
    if frame is None or frame[0] != Kind.STATUS:
        return status_pb2.Status(code=code_pb2.UNAVAILABLE, message="the node closed the connection")
    return status_pb2.Status.FromString(frame[1])


def _trailing(status: status_pb2.Status) -> grpc.aio.Metadata:
    if not status.details:
        return grpc.aio.Metadata()
    return grpc.aio.Metadata((rpc_status.GRPC_DETAILS_METADATA_KEY, status.SerializeToString()))
