"""The serving end of direct connections: a gRPC server's servicers, for methods that stream both ways (see direct)."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import socket
from collections.abc import AsyncIterator, Callable, Iterable, Mapping
from pathlib import Path
from typing import Any, NoReturn

import grpc
from google.protobuf.message import DecodeError
from google.rpc import code_pb2, status_pb2
from grpc_status import rpc_status

from edgenode.link.errors import EdgenodeError, InvalidArgument, Unimplemented
from edgenode.link.wire.direct import DirectConnection, Kind, direct_path, receive_buffer
from edgenode.link.wire.interceptors import Handler, ServiceInterceptor
from edgenode.link.wire.listening import stop_accepting
from edgenode.link.wire.status import problem_to_status

_BACKLOG = 1024
_GOODBYE = 1.0  # seconds for callers to take their status once the server has stopped

_log = logging.getLogger(__name__)


class DirectServer:
    """Stands in for a grpc.aio.Server where servicers are added. Then `start` listens and `stop` ends."""

    def __init__(self, interceptor: ServiceInterceptor) -> None:
        self._interceptor = interceptor
        self._handlers: dict[str, Handler] = {}
        self._shared = receive_buffer()
        self._rpcs: set[_Rpc] = set()
        self._server: asyncio.Server | None = None
        self._path: Path | None = None

    def add_generic_rpc_handlers(self, handlers: Iterable[Any]) -> None:
        """See grpc.aio.Server. Not looked at: the same are registered by name."""

    def add_registered_method_handlers(self, service: str, handlers: Mapping[str, Handler]) -> None:
        """See grpc.aio.Server."""
        for name, handler in handlers.items():
            if handler.request_streaming and handler.response_streaming:
                method = f"/{service}/{name}"
                self._handlers[method] = self._interceptor.wrap(handler, method)

    async def start(self, socket_path: Path) -> None:
        """Listens beside the gRPC socket, which the caller holds. Where it cannot, that is logged, and callers use gRPC."""
        path = Path(direct_path(str(socket_path)))
        listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM | socket.SOCK_NONBLOCK)
        try:
            path.unlink(missing_ok=True)
            listener.bind(os.fspath(path))
            path.chmod(0o600)
            self._server = await asyncio.get_running_loop().create_unix_server(
                self._accept, sock=listener, backlog=_BACKLOG
            )
            self._path = path
        except OSError as error:
            listener.close()
            _log.warning("nobody is served at %s, local streams go by gRPC, which is slower: %s", path, error)

    async def stop(self, grace: float) -> None:
        """Ends; rpcs under way have `grace` seconds. Safe to call twice and before `start`."""
        server, self._server = self._server, None
        if server is None or self._path is None:
            return
        self._path.unlink(missing_ok=True)
        await stop_accepting(server)
        await self._all(_Rpc.served, grace)
        for rpc in self._rpcs:
            rpc.end()
        await self._all(_Rpc.served, None)
        await self._all(_Rpc.gone, _GOODBYE)
        for rpc in self._rpcs:
            rpc.connection.abort()
        await self._all(_Rpc.gone, None)

    async def _all(self, awaited: Callable[[_Rpc], asyncio.Future[None]], timeout: float | None) -> None:
        if waiting := [awaited(rpc) for rpc in self._rpcs]:
            await asyncio.wait(waiting, timeout=timeout)

    def _accept(self) -> DirectConnection:
        rpc = _Rpc(self._shared, self._handlers)
        self._rpcs.add(rpc)
        rpc.gone().add_done_callback(lambda _: self._rpcs.discard(rpc))
        return rpc.connection


class _Rpc:
    """One rpc, and its context: what servicers and the interceptor use of grpc.aio.ServicerContext."""

    def __init__(self, shared: memoryview, handlers: Mapping[str, Handler]) -> None:
        loop = asyncio.get_running_loop()
        self.connection = DirectConnection(shared, self._lost)
        self._gone: asyncio.Future[None] = loop.create_future()
        self._task = loop.create_task(self._run(handlers), name="direct-rpc")
        self._handler: Handler | None = None
        self._read_all = False
        self._status = b""
        self._finished = False
        self._cancelled = False  # the caller has gone

    def served(self) -> asyncio.Future[None]:
        """Done once its status is said."""
        return self._task

    def gone(self) -> asyncio.Future[None]:
        """Done once its connection is."""
        return self._gone

    def end(self) -> None:
        """The server stops."""
        self._task.cancel()

    async def _run(self, handlers: Mapping[str, Handler]) -> None:
        try:
            await self._serve(handlers)
        except asyncio.CancelledError:  # by the caller's end, or the server's
            stopped = status_pb2.Status(code=code_pb2.UNAVAILABLE, message="the node stopped")
            self._status = stopped.SerializeToString()
        self._finished = True
        if not self._cancelled:
            await self.connection.write(Kind.STATUS, self._status)
            self.connection.finish()

    async def _serve(self, handlers: Mapping[str, Handler]) -> None:
        try:
            first = await self.connection.read()
            if first is None:
                return
            kind, name = first
            self._handler = handler = handlers.get(name.decode("utf-8", "replace")) if kind == Kind.OPEN else None
            if handler is None:
                raise Unimplemented("NOT_SERVED", f"{name[:100]!r} is not served here", hint="compare the versions")
        except EdgenodeError as error:
            self._status = problem_to_status(error.problem).SerializeToString()
            return
        serve: Any = handler.stream_stream
        with contextlib.suppress(grpc.aio.AbortError):  # its status is kept
            await serve(self._requests(), self)

    async def _requests(self) -> AsyncIterator[Any]:
        while (request := await self.read()) is not grpc.aio.EOF:
            yield request

    def _lost(self) -> None:
        self._gone.set_result(None)
        if not self._finished:
            self._cancelled = True
            self._task.cancel()

    # --- see grpc.aio.ServicerContext -------------------------------------------------------------------------------

    async def read(self) -> Any:
        """The next request; EOF after the last. Raises InvalidArgument (BAD_MESSAGE), and what the connection does."""
        frame = None if self._read_all else await self.connection.read()
        if frame is None or frame[0] != Kind.MESSAGE:
            self._read_all = True
            return grpc.aio.EOF
        assert self._handler is not None
        deserialize: Any = self._handler.request_deserializer
        try:
            return deserialize(frame[1])
        except DecodeError as error:
            raise InvalidArgument("BAD_MESSAGE", f"a request cannot be read: {error}") from error

    async def write(self, message: Any) -> None:
        """Sends a response; one to a caller that has gone goes nowhere, and the rpc is being cancelled."""
        assert self._handler is not None
        serialize: Any = self._handler.response_serializer
        await self.connection.write(Kind.MESSAGE, serialize(message))

    async def abort_with_status(self, status: Any) -> NoReturn:
        """Ends the rpc with a `rpc_status.to_status(...)`."""
        self._status = dict(status.trailing_metadata)[rpc_status.GRPC_DETAILS_METADATA_KEY]
        raise grpc.aio.AbortError

    def done(self) -> bool:
        """Whether it has ended."""
        return self._finished or self._cancelled

    def cancelled(self) -> bool:
        """Whether the caller has gone."""
        return self._cancelled

    def peer(self) -> str:
        """Somebody on this machine."""
        return "unix:"

    def auth_context(self) -> dict[str, Any]:
        """Nothing: the file's mode says who may call."""
        return {}
