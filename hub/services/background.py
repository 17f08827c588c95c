"""Work that a caller may stop waiting for, but that comes to its end."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Coroutine
from typing import Any, TypeVar

from edgenode.link.errors import EdgenodeError

T = TypeVar("T")

_log = logging.getLogger(__name__)


class Background:
    """Tasks under way; `close` waits for them."""

    def __init__(self) -> None:
        self._tasks: set[asyncio.Task[Any]] = set()

    async def finish(self, work: Coroutine[Any, Any, T], name: str) -> T:
        """Run `work` and wait for it; a caller that is cancelled stops waiting, the work goes on.

        For what memory must follow: a transaction once begun commits, whoever gave up waiting for it.
        """
        return await asyncio.shield(self._run(work, name))

    def start(self, work: Coroutine[Any, Any, None], name: str) -> None:
        """Run `work`; what it raises is logged."""
        self._run(self._guarded(work, name), name)

    async def close(self) -> None:
        """Wait for what is under way."""
        while self._tasks:
            await asyncio.wait(self._tasks)

    def _run(self, work: Coroutine[Any, Any, T], name: str) -> asyncio.Task[T]:
        task = asyncio.create_task(work, name=name)
        self._tasks.add(task)
        task.add_done_callback(self._done)
        return task

    def _done(self, task: asyncio.Task[Any]) -> None:
        self._tasks.discard(task)
        if not task.cancelled() and (error := task.exception()) is not None:
            _log.debug("%s: %r", task.get_name(), error)  # whoever waits for it is told; perhaps nobody does any more

    async def _guarded(self, work: Coroutine[Any, Any, None], name: str) -> None:
        try:
            await work
        except EdgenodeError as error:
            _log.warning("%s: %s", name, error)
        except Exception:
            _log.exception("%s failed", name)
