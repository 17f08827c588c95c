"""How a call really ended that is written to while the other side ends it.

When a write fails because its call is over, grpc.aio puts INTERNAL in the place of the status (`set_internal_error`), before
the status comes or over one that was there: what a refusal said would be lost. Each status that a call gets calls its done
callbacks again, so the first that grpc did not make up is kept here.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Coroutine
from typing import Any, TypeVar

import grpc

from edgenode.link.errors import EdgenodeError, Unavailable
from edgenode.link.wire.status import from_rpc_error

_MADE_UP = (grpc.StatusCode.INTERNAL, "Internal error from Core")
_PATIENCE = 1.0  # seconds for a status that is behind its failed write

Value = TypeVar("Value")


class CallEnd:
    """Make it before the first write; `call` is one that streams both ways."""

    def __init__(self, call: grpc.aio.StreamStreamCall[Any, Any]) -> None:
        self._status: grpc.aio.AioRpcError | None = None
        self._came = asyncio.Event()
        call.add_done_callback(self._done)

    async def error(self, seen: grpc.aio.AioRpcError) -> EdgenodeError:
        """The error the call ended with, where `seen` is what a read or a write raised."""
        if (seen.code(), seen.details()) != _MADE_UP:
            return from_rpc_error(seen)
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(_PATIENCE):
                await self._came.wait()
        return self.known() or from_rpc_error(seen)

    def known(self) -> EdgenodeError | None:
        """The error the call ended with, as far as that is known."""
        if self._status is None:
            return None
        if self._status.code() is grpc.StatusCode.OK:
            return Unavailable("STREAM_ENDED", "the other side ended the stream while it was written to")
        return from_rpc_error(self._status)

    def _done(self, call: Any) -> None:
        code, details = _at_once(call.code()), _at_once(call.details())
        if self._status is None and (code, details) != _MADE_UP:
            trailing = _at_once(call.trailing_metadata())
            self._status = grpc.aio.AioRpcError(code, grpc.aio.Metadata(), trailing, details)
            self._came.set()


def _at_once(coroutine: Coroutine[Any, Any, Value]) -> Value:
    """What a coroutine returns that has nothing to wait for: a callback cannot wait, and later the status is another one."""
    try:
        coroutine.send(None)
    except StopIteration as end:
        value: Value = end.value
        return value
    coroutine.close()
    raise AssertionError("a call that is done has no status")
