"""Running a service until SIGTERM or SIGINT: the first asks it to stop, the second ends the process at once.

A service whose store turns out to be damaged ends by itself. While it serves, the garbage collector leaves alone what
lives as long as the service, and looks at the rest less often: what comes and goes here is nearly all freed by counting.
"""

from __future__ import annotations

import asyncio
import gc
import os
import signal
import sys
from collections.abc import Callable
from types import TracebackType
from typing import Protocol

import click

# Objects made before the young ones are looked at, and how often the older ones are. Python's own (700, 10, 10) cost a quarter
# of the time of a call.
_COLLECT = (20_000, 20, 50)
# A thread that comes back from SQLite waits so long for a busy event loop. Python's own 5 ms, several times a transaction,
# cost a tenth of the tasks a node can do; with 0.1 ms what is urgent on the loop waits for the thread instead.
_SWITCH_SECONDS = 0.001
_SIGNALS = (signal.SIGTERM, signal.SIGINT)


class Service(Protocol):
    """What can be run: `stop` may come at any time, also while `start` is under way, which it then ends."""

    async def start(self) -> None:
        """Returns when it serves."""
        ...

    async def stop(self) -> None:
        """Drains and ends."""
        ...

    async def damaged(self) -> None:
        """Returns when its store is found damaged and must be set aside."""
        ...


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


def tune_interpreter() -> None:
    """What is there now stays for as long as the process: it is not looked at again, and what comes less often. Threads take
    the interpreter from each other sooner."""
    sys.setswitchinterval(_SWITCH_SECONDS)
    gc.collect()
    gc.freeze()
    gc.set_threshold(*_COLLECT)


async def serve(service: Service, ready: Callable[[], str]) -> bool:
    """Start, print the line of `ready()`, wait for the signal, stop; True if it was the signal that ended it."""
    with StopSignal() as signal_:
        asked = asyncio.ensure_future(signal_.wait())
        damaged = asyncio.ensure_future(service.damaged())
        starting = asyncio.ensure_future(service.start())
        try:
            await asyncio.wait([starting, asked, damaged], return_when=asyncio.FIRST_COMPLETED)
            if starting.done() and not damaged.done():
                await starting
                tune_interpreter()
                click.echo(ready())
                await asyncio.wait([asked, damaged], return_when=asyncio.FIRST_COMPLETED)
            return asked.done()
        finally:
            asked.cancel()
            damaged.cancel()
            gc.unfreeze()
            await service.stop()
            starting.cancel()
            await asyncio.wait([starting])
            if not starting.cancelled():
                starting.exception()  # a start that ended because of the stop has nothing more to say
