"""Where clients reach the node's MCP server: at the other end of this process's pipes, or on this machine over HTTP."""

from __future__ import annotations

import asyncio
import contextlib
import socket
import sys
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import dataclass
from typing import Any

from mcp.server.stdio import stdio_server
from mcp.server.streamable_http_manager import StreamableHTTPASGIApp, StreamableHTTPSessionManager
from starlette.applications import Starlette
from starlette.routing import Route

from edgenode.bridges.access import Authenticator
from edgenode.bridges.http import MAX_BODY_BYTES, Gate, listen, serve
from edgenode.bridges.mcp.serving import Serving

PATH = "/mcp"
MAX_LINE_BYTES = 4 * MAX_BODY_BYTES
STOP_SECONDS = 1.0  # what is under way then can be asked for again


async def over_pipes(serving: Serving) -> None:
    """Serves the program at the other end of stdin and stdout until it closes them. Cancel it to stop before."""
    try:
        async with _lines() as lines, stdio_server(stdin=lines) as (reading, writing):
            await serving.server.run(reading, writing, serving.server.create_initialization_options())
    finally:
        serving.stop()


@contextlib.asynccontextmanager
async def _lines() -> AsyncIterator[Any]:
    """Lines of stdin as they come. The SDK would read them in a thread, which nothing ends but the client."""
    reader = asyncio.StreamReader(limit=MAX_LINE_BYTES)
    loop = asyncio.get_running_loop()
    try:
        transport, _ = await loop.connect_read_pipe(lambda: asyncio.StreamReaderProtocol(reader), sys.stdin.buffer)
    except ValueError:  # a file
        yield None
        return

    async def read() -> AsyncIterator[str]:
        while line := await reader.readline():
            yield line.decode(errors="replace")

    try:
        yield read()
    finally:
        transport.close()


@dataclass(frozen=True)
class Place:
    """Where a server is reached: a URL, on a Unix socket where `socket` names one."""

    url: str
    socket: str = ""


@contextlib.asynccontextmanager
async def over_http(serving: Serving, target: str, access: Authenticator) -> AsyncIterator[Place]:
    """Serves on a loopback HOST:PORT, port 0 for any, or on `unix:PATH`.

    Raises InvalidArgument (PLAINTEXT_REFUSED, BAD_ADDRESS), FailedPrecondition (PORT_TAKEN).
    """
    listener, url = listen(target)
    place = Place(url + PATH, target.removeprefix("unix:") if target.startswith("unix:") else "")
    try:
        manager = StreamableHTTPSessionManager(serving.server, max_request_body_size=MAX_BODY_BYTES)
        async with _running(manager):
            stop = await _serve(manager, listener, access)
            try:
                yield place
            finally:
                serving.stop()
                await stop()
    finally:
        listener.close()


async def _serve(
    manager: StreamableHTTPSessionManager, listener: socket.socket, access: Authenticator
) -> Callable[[], Awaitable[None]]:
    application = Starlette(routes=[Route(PATH, endpoint=StreamableHTTPASGIApp(manager))])
    return await serve(Gate(application, access), listener, STOP_SECONDS)


@contextlib.asynccontextmanager
async def _running(manager: StreamableHTTPSessionManager) -> AsyncIterator[None]:
    """The manager's scope has to be entered and left by one task, whoever starts and stops the bridge."""
    started, stopping = asyncio.Event(), asyncio.Event()

    async def run() -> None:
        async with manager.run():
            started.set()
            await stopping.wait()

    task = asyncio.create_task(run(), name="mcp-sessions")
    await started.wait()
    try:
        yield
    finally:
        stopping.set()
        await asyncio.wait([task])
