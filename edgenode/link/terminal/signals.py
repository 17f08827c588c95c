"""Stopping on SIGTERM or SIGINT: the first asks, the second ends the process at once."""

from __future__ import annotations

import asyncio
import os
import signal
from types import TracebackType

import click

_SIGNALS = (signal.SIGTERM, signal.SIGINT)


class StopSignal:
    """While entered, catches both signals for the running event loop."""

    def __init__(self) -> None:
        self._asked = asyncio.Event()

    def __enter__(self) -> StopSignal:
        loop = asyncio.get_running_loop()
        for number in _SIGNALS:
            loop.add_signal_handler(number, self._caught, number)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        loop = asyncio.get_running_loop()
        for number in _SIGNALS:
            loop.remove_signal_handler(number)

    async def wait(self) -> None:
        """Until the first signal."""
        await self._asked.wait()

    def _caught(self, number: signal.Signals) -> None:
        if self._asked.is_set():
            # What is durable is on disk already; a drain that hangs must not keep its process.
            os._exit(128 + number)
        click.echo(f"{number.name}: stopping; again ends at once", err=True)
        self._asked.set()
