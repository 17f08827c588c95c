"""A TCP listener of loopback that takes everything it accepted with it when it closes; and a relay, for cables that are cut.

In Python 3.11 asyncio.Server leaves open what it accepted, the tasks it makes for handlers are known to nobody, and the socket
of whoever is accepted in the turn of the loop in which it closes is lost. So handlers run in tasks of the listener's own, and
it stops accepting before it closes.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Awaitable, Callable, Coroutine
from typing import Any

HOST = "127.0.0.1"
PIECE = 1 << 16  # bytes that are read at once

Serve = Callable[[asyncio.StreamReader, asyncio.StreamWriter], Coroutine[Any, Any, None]]
Take = Callable[[asyncio.StreamReader], Awaitable[bytes]]


class Listener:
    """Runs `serve(reader, writer)` for each connection, which is closed after it; cancelled by `cut` and `close`."""

    def __init__(self, serve: Serve, limit: int = 1 << 16) -> None:
        """`limit`: bytes that `readuntil` takes at most."""
        self._serve = serve
        self._limit = limit
        self._server: asyncio.Server | None = None
        self._connections: dict[asyncio.Task[None], asyncio.StreamWriter] = {}

    @property
    def is_open(self) -> bool:
        """Whether it listens."""
        return self._server is not None

    async def open(self, port: int = 0) -> int:
        """Listen; returns the port, any that is free for 0. Raises OSError."""
        self._server = await asyncio.start_server(self._accepted, HOST, port, limit=self._limit)
        got: int = self._server.sockets[0].getsockname()[1]
        return got

    async def close(self) -> None:
        """Stop listening and end every connection. Safe to repeat."""
        server, self._server = self._server, None
        if server is None:
            return
        await stop_accepting(server)
        self.cut()
        await asyncio.gather(*self._connections, return_exceptions=True)

    def cut(self) -> None:
        """End every connection, in the middle of whatever it carries."""
        for task, writer in self._connections.items():
            writer.transport.abort()
            task.cancel()

    def _accepted(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.create_task(self._run(reader, writer))
        self._connections[task] = writer
        task.add_done_callback(self._ended)

    async def _run(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await self._serve(reader, writer)
        writer.transport.set_write_buffer_limits(0)
        with contextlib.suppress(OSError):  # the other side did not wait for the rest
            await writer.drain()

    def _ended(self, task: asyncio.Task[None]) -> None:
        self._connections.pop(task).transport.abort()
        if not task.cancelled() and (error := task.exception()) is not None:
            context = {"message": "a connection could not be served", "exception": error, "task": task}
            task.get_loop().call_exception_handler(context)


async def stop_accepting(server: asyncio.Server) -> None:
    """Close `server`; what it accepted stands, and its protocols know of it."""
    for listening in server.sockets:
        server.get_loop().remove_reader(listening.fileno())
    # Who was accepted in this turn has a transport in the next one, and is told of in the one after it.
    await asyncio.sleep(0)
    await asyncio.sleep(0)
    server.close()


async def take(reader: asyncio.StreamReader) -> bytes:
    """What goes through a relay next; empty at the end."""
    return await reader.read(PIECE)


async def relay(
    reader: asyncio.StreamReader, writer: asyncio.StreamWriter, port: int, forth: Take = take, back: Take = take
) -> None:
    """Carry everything to `port` of loopback and `back`, until one side is gone; then the other goes too, as with a cable."""
    try:
        far_reader, far_writer = await asyncio.open_connection(HOST, port)
    except OSError:
        return  # nobody is there
    ways = [
        asyncio.create_task(_carry(reader, forth, far_writer)),
        asyncio.create_task(_carry(far_reader, back, writer)),
    ]
    try:
        await asyncio.wait(ways, return_when=asyncio.FIRST_COMPLETED)
    finally:
        for side in (writer, far_writer):
            side.transport.abort()
        for way in ways:
            way.cancel()
        await asyncio.gather(*ways, return_exceptions=True)


async def _carry(reader: asyncio.StreamReader, take: Take, writer: asyncio.StreamWriter) -> None:
    with contextlib.suppress(OSError):
        while data := await take(reader):
            writer.write(data)
            await writer.drain()
