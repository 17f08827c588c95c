"""One answer to one request, with patience for a node that is away for a moment."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from typing import Any, TypeVar

import grpc

from edgenode.link.errors import EdgenodeError
from edgenode.link.ports import Clock, Rng
from edgenode.link.wire.status import from_rpc_error
from edgenode.sdk.streams import pause, unreachable

ANSWER_TIMEOUT = 30.0
AWAY = frozenset({"UNREACHABLE", "NODE_STOPPING"})
_MAX_PAGE = 1000

Answer = TypeVar("Answer")


class Attempts:
    """How often it was tried, and until when it may be tried again."""

    def __init__(self, patience: Patience) -> None:
        self._patience = patience
        self.begin()

    def begin(self) -> None:
        """Something worked: the count and the time start anew."""
        self._count = 0
        self._give_up_at = self._patience.clock.monotonic() + self._patience.timeout

    async def wait(self, error: EdgenodeError) -> None:
        """Waits before another attempt after `error`. Raises Unavailable (UNREACHABLE) when the time is over."""
        patience = self._patience
        wait = pause(self._count, patience.rng)
        if patience.clock.monotonic() + wait >= self._give_up_at:
            raise unreachable(patience.timeout, error)
        self._count += 1
        await asyncio.sleep(wait)


class Patience:
    """Tries rpcs that may be repeated until `timeout` seconds have passed."""

    def __init__(self, timeout: float, clock: Clock, rng: Rng) -> None:
        self.timeout = timeout
        self.clock = clock
        self.rng = rng

    async def unary(self, method: Callable[..., Awaitable[Answer]], request: Any, timeout: float) -> Answer:
        """The answer; each attempt may take `timeout` seconds. Raises what the node refuses, Unavailable (UNREACHABLE)."""
        attempts = Attempts(self)
        while True:
            try:
                return await method(request, timeout=timeout)
            except grpc.aio.AioRpcError as rpc_error:
                error = from_rpc_error(rpc_error)
                if error.reason not in AWAY:
                    raise error from rpc_error
            await attempts.wait(error)

    async def pages(
        self, method: Callable[..., Awaitable[Any]], request: Any, items: Callable[[Any], Sequence[Answer]], limit: int
    ) -> list[Answer]:
        """What all pages hold together, at most `limit`."""
        found: list[Answer] = []
        while len(found) < limit:
            request.page_size = min(limit - len(found), _MAX_PAGE)
            page = await self.unary(method, request, ANSWER_TIMEOUT)
            found.extend(items(page))
            if not page.next_page_token:
                break
            request.page_token = page.next_page_token
        return found
