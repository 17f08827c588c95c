"""Streaming rpcs between processes of the simulation: grpc.aio as the product sees it, without grpc.

What is sent is bytes and arrives as a copy, in order, after the path's delay, unless the path does something else to it.
The two ends are told of an end as grpc tells them: the servicer is cancelled when its caller goes, the caller reads the
servicer's status after everything that was sent before it, and both get UNAVAILABLE when the connection breaks.
"""

from __future__ import annotations

import asyncio
import operator
from collections import deque
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
from functools import partial
from typing import Any, Protocol

import grpc
from grpc_status import rpc_status

from edgenode.link.errors import EdgenodeError
from edgenode.link.model.problem import Code, Problem
from edgenode.link.wire.status import problem_to_status
from tests.simulation.loop import Loop, Process

WINDOW = 256 * 1024  # bytes under way in one direction before a writer waits


class Path(Protocol):
    """One direction of a connection."""

    def arrivals(self, size: int) -> Sequence[float]:
        """Seconds until each copy of a message arrives; none if it is lost."""
        ...

    def in_order(self) -> bool:
        """Whether later messages wait for earlier ones."""
        ...


class Direct:
    """Within one machine."""

    def __init__(self, delay: float) -> None:
        self._delay = delay

    def arrivals(self, size: int) -> Sequence[float]:
        """See Path."""
        return (self._delay,)

    def in_order(self) -> bool:
        """See Path."""
        return True


class _Pipe:
    """One direction of a stream: messages, then an end."""

    def __init__(self, loop: Loop, path: Path, parse: Callable[[bytes], Any]) -> None:
        self._loop = loop
        self._path = path
        self._parse = parse
        self._arrived: deque[bytes] = deque()
        self._last_arrival = 0.0
        self._under_way = 0
        self._reader: asyncio.Future[None] | None = None
        self._writers: list[asyncio.Future[None]] = []
        self.ended = False  # nothing comes after what arrived
        self.broken: grpc.aio.AioRpcError | None = None
        self.on_end: list[Callable[[], None]] = []

    def send(self, data: bytes) -> None:
        """On its way."""
        self._under_way += len(data)
        arrivals = self._path.arrivals(len(data))
        for delay in arrivals:
            self._at(delay, self._arrive, data)

    def end(self, error: grpc.aio.AioRpcError | None = None) -> None:
        """After what was sent."""
        for delay in self._path.arrivals(0)[:1]:
            self._at(delay, self.finish, error)

    def _at(self, delay: float, callback: Callable[..., None], *args: Any) -> None:
        arrival = self._loop.now + delay
        if self._path.in_order():
            arrival = self._last_arrival = max(arrival, self._last_arrival)
        self._loop.later(arrival - self._loop.now, callback, *args)

    def _arrive(self, data: bytes) -> None:
        if not self.ended:
            self._arrived.append(data)
            self._wake()

    def finish(self, error: grpc.aio.AioRpcError | None = None) -> None:
        """Now."""
        if not self.ended:
            self.ended = True
            self.broken = error
            self._wake()
            self._let_write()
            for callback in self.on_end:
                callback()

    def _wake(self) -> None:
        reader, self._reader = self._reader, None
        if reader is not None and not reader.done():
            reader.set_result(None)

    def _let_write(self) -> None:
        writers, self._writers = self._writers, []
        for writer in writers:
            if not writer.done():
                writer.set_result(None)

    async def room(self) -> None:
        """Until more can be sent."""
        while self._under_way > WINDOW and not self.ended:
            future = self._loop.create_future()
            self._writers.append(future)
            await future

    async def read(self) -> Any:
        """The next message; grpc.aio.EOF at the end. Raises what it broke with."""
        while not self._arrived:
            if self.ended:
                if self.broken is not None:
                    raise self.broken
                return grpc.aio.EOF
            self._reader = self._loop.create_future()
            await self._reader
        data = self._arrived.popleft()
        self._under_way -= len(data)
        self._let_write()
        return self._parse(data)


class Rpc:
    """One call of `handler(requests, context)` in `server`. The caller holds it as it would hold grpc.aio's call."""

    def __init__(
        self,
        loop: Loop,
        server: Process,
        paths: tuple[Path, Path],
        parse: tuple[Callable[[bytes], Any], Callable[[bytes], Any]],
        certificate: bytes = b"",
        on_defect: Callable[[str], None] = lambda text: None,
        serialize: Callable[[Any], bytes] = operator.methodcaller("SerializeToString"),
    ) -> None:
        """`paths` and `parse` (of requests, of responses) go up and down; `serialize` is the caller's, for requests."""
        self._loop = loop
        self._server = server
        self._up = _Pipe(loop, paths[0], parse[0])
        self._down = _Pipe(loop, paths[1], parse[1])
        self._paths = paths
        self._task: asyncio.Task[None] | None = None
        self._on_defect = on_defect
        self._serialize = serialize
        self._done_writing = False
        self.context = ServerContext(self, certificate)
        self.over = False  # for the caller

    def serve(self, handler: Callable[[AsyncIterator[Any], Any], Awaitable[None]]) -> Rpc:
        """Begin once the call has arrived."""
        for delay in self._paths[0].arrivals(0)[:1]:
            self._loop.later(delay, self._begin, handler)
        return self

    def _begin(self, handler: Callable[[AsyncIterator[Any], Any], Awaitable[None]]) -> None:
        if self._server.alive and not self._up.ended:
            self._task = self._server.start(self._run(handler))

    async def _run(self, handler: Callable[[AsyncIterator[Any], Any], Awaitable[None]]) -> None:
        error: grpc.aio.AioRpcError | None = None
        try:
            await handler(self.context.requests(), self.context)
        except EdgenodeError as refusal:
            error = rpc_error(refusal.problem)
        except asyncio.CancelledError:
            error = rpc_error(Problem(Code.CANCELLED, "CANCELLED", "cancelled"))
        except Exception as defect:
            if not self._up.ended:
                self._on_defect(f"a servicer failed: {defect!r}")
            error = rpc_error(Problem(Code.INTERNAL, "INTERNAL_ERROR", repr(defect)))
        self._up.finish(error)
        self._down.end(error)

    def break_off(self, *, tell_client: bool = True, tell_server: bool = True) -> None:
        """The connection is gone."""
        error = rpc_error(Problem(Code.UNAVAILABLE, "UNREACHABLE", "connection reset", retryable=True), bare=True)
        if tell_client:
            self._down.finish(error)
        if tell_server:
            self._caller_gone(error)

    def _caller_gone(self, error: grpc.aio.AioRpcError | None) -> None:
        self._up.finish(error)
        if self._task is not None and not self._task.done():
            self.context.gone = True
            self._task.cancel()

    # --- what the caller does -----------------------------------------------------------------------------------------

    async def write(self, request: Any) -> None:
        """See grpc.aio.StreamStreamCall."""
        if self._done_writing or self.done():
            raise self._down.broken or asyncio.InvalidStateError("the rpc is over")
        self._up.send(self._serialize(request))
        await self._up.room()

    async def read(self) -> Any:
        """See grpc.aio.StreamStreamCall."""
        return await self._down.read()

    async def done_writing(self) -> None:
        """See grpc.aio.StreamStreamCall."""
        if not self._done_writing:
            self._done_writing = True
            self._up.end()

    def cancel(self) -> bool:
        """See grpc.aio.StreamStreamCall."""
        if self.over or self._down.ended:
            self.over = True
            return False
        self.over = True
        for delay in self._paths[0].arrivals(0)[:1]:
            self._loop.later(delay, self._caller_gone, None)
        self._down.finish(rpc_error(Problem(Code.CANCELLED, "CANCELLED", "cancelled locally"), bare=True))
        return True

    def add_done_callback(self, callback: Callable[[Any], None]) -> None:
        """See grpc.aio.StreamStreamCall."""
        self._down.on_end.append(partial(callback, self))

    async def code(self) -> grpc.StatusCode:
        """See grpc.aio.StreamStreamCall; for done callbacks, as what follows."""
        return self._down.broken.code() if self._down.broken is not None else grpc.StatusCode.OK

    async def details(self) -> str | None:
        """See grpc.aio.StreamStreamCall."""
        return self._down.broken.details() if self._down.broken is not None else ""

    async def trailing_metadata(self) -> grpc.aio.Metadata | None:
        """See grpc.aio.StreamStreamCall."""
        return self._down.broken.trailing_metadata() if self._down.broken is not None else grpc.aio.Metadata()

    def done(self) -> bool:
        """See grpc.aio.StreamStreamCall."""
        return self.over or (self._down.ended and not self._down._arrived)


class ServerContext:
    """grpc.aio.ServicerContext, as far as the product uses it."""

    def __init__(self, rpc: Rpc, certificate: bytes) -> None:
        self._rpc = rpc
        self._certificate = certificate
        self.gone = False

    async def requests(self) -> AsyncIterator[Any]:
        """The request iterator."""
        while (request := await self.read()) is not grpc.aio.EOF:
            yield request

    async def read(self) -> Any:
        """See ServicerContext."""
        return await self._rpc._up.read()

    async def write(self, response: Any) -> None:
        """See ServicerContext."""
        if self._rpc._up.ended and self._rpc._up.broken is not None:
            raise self._rpc._up.broken
        self._rpc._down.send(response.SerializeToString())
        await self._rpc._down.room()

    def auth_context(self) -> Mapping[str, Sequence[bytes]]:
        """See ServicerContext."""
        return {"x509_pem_cert": [self._certificate]} if self._certificate else {}

    def cancelled(self) -> bool:
        """See ServicerContext."""
        return self.gone

    def done(self) -> bool:
        """See ServicerContext."""
        return self.gone

    def time_remaining(self) -> float | None:
        """See ServicerContext."""
        return None

    def peer(self) -> str:
        """See ServicerContext."""
        return "simulated"


def rpc_error(problem: Problem, *, bare: bool = False) -> grpc.aio.AioRpcError:
    """As grpc.aio raises it; `bare` is grpc's own, without the details a servicer adds."""
    status = rpc_status.to_status(problem_to_status(problem))
    trailing = grpc.aio.Metadata() if bare else grpc.aio.Metadata(*status.trailing_metadata)
    return grpc.aio.AioRpcError(status.code, grpc.aio.Metadata(), trailing, status.details)
