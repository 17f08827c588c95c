"""The one place where a command line opens a channel to its node or hub and asks it something."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any, TypeVar

import grpc

from edgenode.link.errors import Unavailable
from edgenode.link.wire.channels import open_channel, unix_target
from edgenode.link.wire.status import from_rpc_error

ANSWER_TIMEOUT = 30.0
_MAX_PAGE = 1000

T = TypeVar("T")
Answer = TypeVar("Answer")


def run(coroutine: Coroutine[Any, Any, T]) -> T:
    """Run it to its end; an error of grpc becomes the error the other side raised."""
    try:
        return asyncio.run(coroutine)
    except grpc.aio.AioRpcError as error:
        raise from_rpc_error(error) from error


def check_listening(path: Path, reason: str, who: str, start: str) -> str:
    """`unix:PATH` if somebody listens there. Raises Unavailable (`reason`) with the command `start` as hint if not.

    Without this a command would wait out grpc's attempts to connect to say the same.
    """
    target = unix_target(path)
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as probe:
        probe.settimeout(5.0)
        try:
            probe.connect(str(path))
        except OSError as error:
            cause = f"no {who} answers at {path} ({(error.strerror or str(error)).lower()})"
            raise Unavailable(reason, cause, hint=f"start it: {start}", address=path) from error
    return target


@asynccontextmanager
async def channel_to(target: str) -> AsyncIterator[grpc.aio.Channel]:
    """A channel that is closed at the end."""
    channel = open_channel(target)
    try:
        yield channel
    finally:
        await channel.close()


async def ask(method: Callable[..., Awaitable[Answer]], request: object, timeout: float = ANSWER_TIMEOUT) -> Answer:
    """One unary rpc. Raises the error the other side raised, or Unavailable when nobody answers in `timeout` seconds."""
    try:
        return await method(request, timeout=timeout)
    except grpc.aio.AioRpcError as error:
        raise from_rpc_error(error) from error


async def pages(
    method: Callable[..., Awaitable[Any]],
    request: Any,
    field: str,
    limit: int,
    seen: Callable[[Any], None] = lambda _page: None,
) -> list[Any]:
    """At most `limit` items of a paged rpc; `field` names them in each page. `seen` is shown each page."""
    items: list[Any] = []
    while len(items) < limit:
        request.page_size = min(limit - len(items), _MAX_PAGE)
        page = await ask(method, request)
        items.extend(getattr(page, field))
        seen(page)
        if not page.next_page_token:
            break
        request.page_token = page.next_page_token
    return items[:limit]
