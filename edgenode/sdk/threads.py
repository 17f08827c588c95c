"""Threads for sync skills."""

from __future__ import annotations

import asyncio
import contextlib
import contextvars
import threading
from collections.abc import Callable
from typing import Any

from edgenode.link.gil import giving_way


async def in_thread(function: Callable[..., Any], context: tuple[Any, ...], arguments: dict[str, Any]) -> Any:
    """Runs a sync handler in a thread of its own. Cancelled, it still waits for the thread: its slot is taken until then.

    The thread is a daemon: one that never ends must not keep the process from ending.
    """
    loop = asyncio.get_running_loop()
    future: asyncio.Future[Any] = loop.create_future()
    variables = contextvars.copy_context()

    def settle(result: Any, error: BaseException | None) -> None:
        if not future.done():
            if error is None:
                future.set_result(result)
            else:
                future.set_exception(error)

    def target() -> None:
        try:
            outcome: tuple[Any, BaseException | None] = variables.run(function, *context, **arguments), None
        except StopIteration as error:
            outcome = None, RuntimeError(f"the handler raised StopIteration: {error}")
        except Exception as error:
            outcome = None, error
        with contextlib.suppress(RuntimeError):  # the loop was closed meanwhile
            loop.call_soon_threadsafe(settle, *outcome)

    threading.Thread(target=target, name=f"skill-{function.__name__}", daemon=True).start()
    with giving_way():
        try:
            return await asyncio.shield(future)
        except asyncio.CancelledError:
            await asyncio.wait([future])
            if not future.cancelled():
                future.exception()
            raise
