"""A bridge's program: runs the servers of one kind that are mounted on a node, as its agents.

The node starts it (`edgenode/node/supervisor.py`), tells it of the mounts by WatchMounts, and holds the other end of its
standard input: when that ends, the node is gone, and the bridge ends what it runs and itself. A mount that changed is ended
and begun anew. One that fails is its own trouble; the others go on.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import logging
import os
import sys
from collections.abc import Awaitable, Callable, Collection, Iterable
from functools import partial
from pathlib import Path
from typing import Protocol

import grpc

from edgenode.api.admin.v1 import admin_pb2, admin_service_pb2, admin_service_pb2_grpc
from edgenode.link.config import EVENT_LOOPS, LOG_LEVELS
from edgenode.link.ports import Rng, system_rng
from edgenode.link.protocol.backoff import ReconnectBackoff
from edgenode.link.telemetry import configure_logging
from edgenode.link.terminal.event_loop import run_on
from edgenode.link.terminal.signals import StopSignal, tune_interpreter
from edgenode.sdk.client import Client

REPORT_TIME = 5.0  # seconds
STOP_TIME = 7.0  # seconds all mounts have to end; the node kills a bridge that takes longer

_log = logging.getLogger(__name__)


Report = Callable[[str, admin_pb2.MountStatus], Awaitable[None]]


class Mounted(Protocol):
    """A mount that runs: `await run()` until it is cancelled or `stop` was called."""

    mount: admin_pb2.Mount

    async def run(self) -> None:
        """Keeps the agent there until `stop`."""
        ...

    def stop(self, *, leave: bool) -> None:
        """Ends the agent, which leaves the node if it is to `leave` for good; `run` returns after that."""
        ...

    def retry(self) -> None:
        """Tries now what waits."""
        ...


Make = Callable[[admin_pb2.Mount, Client, Report, Rng], Mounted]
Tidy = Callable[[Collection[str]], None]  # told once, at the start, which mounts there are


class Mounting:
    """Makes what runs the same as what is mounted."""

    def __init__(self, client: Client, kind: admin_pb2.MountKind, make: Make, tidy: Tidy | None = None) -> None:
        self._client = client
        self._kind = kind
        self._make = make
        self._tidy = tidy
        self._rng = system_rng()
        self._admin = admin_service_pb2_grpc.AdminServiceStub(client.channel)
        self._running: dict[str, tuple[Mounted, asyncio.Task[None]]] = {}
        self._ending: set[asyncio.Task[None]] = set()

    async def run(self) -> None:
        """Follows the mounts for good; a node that is out of reach is waited for."""
        backoff = ReconnectBackoff(self._rng, initial=0.2, maximum=5.0)
        loop = asyncio.get_running_loop()
        while True:
            try:
                async for response in self._admin.WatchMounts(admin_service_pb2.WatchMountsRequest(kind=self._kind)):
                    backoff.established(loop.time())
                    if self._tidy is not None:
                        tidy, self._tidy = self._tidy, None
                        tidy({mount.name for mount in response.mounts})
                    await self.follow({mount.name: mount for mount in response.mounts})
                    for name in response.retried_names:
                        self._running[name][0].retry()
            except grpc.aio.AioRpcError as error:
                _log.info("the node does not tell its mounts: %s", error.details())
            await asyncio.sleep(backoff.next_delay(loop.time()))

    async def follow(self, mounts: dict[str, admin_pb2.Mount]) -> None:
        """Run these and no others."""
        gone = [name for name, (running, _) in self._running.items() if mounts.get(name) != running.mount]
        await self._end(gone, leave=True)
        for name, mount in mounts.items():
            if name not in self._running:
                mounted = self._make(mount, self._client, self._report, self._rng)
                self._running[name] = mounted, asyncio.create_task(mounted.run(), name=f"mount-{name}")

    async def stop(self) -> None:
        """End all, also those whose end was waited for when `run` was cancelled."""
        await self._end(list(self._running), leave=False)
        if self._ending:
            await asyncio.wait(self._ending)

    async def _end(self, names: Iterable[str], *, leave: bool) -> None:
        """Goes on to the end when it is cancelled."""
        ends = [asyncio.create_task(self._end_one(*self._running.pop(name), leave=leave)) for name in names]
        for end in ends:
            self._ending.add(end)
            end.add_done_callback(self._ending.discard)
        if ends:
            await asyncio.wait(ends)

    async def _end_one(self, mounted: Mounted, task: asyncio.Task[None], *, leave: bool) -> None:
        mounted.stop(leave=leave)
        await asyncio.wait([task], timeout=STOP_TIME)
        task.cancel()
        await asyncio.wait([task])
        if not task.cancelled() and (error := task.exception()) is not None:
            _log.error("mount %s failed: %r", mounted.mount.name, error)

    async def _report(self, name: str, status: admin_pb2.MountStatus) -> None:
        request = admin_service_pb2.ReportMountRequest(name=name, status=status)
        try:
            await self._admin.ReportMount(request, timeout=REPORT_TIME)
        except grpc.aio.AioRpcError as error:
            _log.debug("the node was not told of mount %s: %s", name, error.details())


async def serve(socket: str, kind: admin_pb2.MountKind, make: Make, tidy: Tidy | None = None) -> None:
    """Until SIGTERM, SIGINT or the end of standard input."""
    async with Client(socket=socket) as client:
        mounting = Mounting(client, kind, make, tidy)
        with StopSignal() as stop:
            waits = [
                asyncio.ensure_future(mounting.run()),
                asyncio.ensure_future(stop.wait()),
                asyncio.ensure_future(_end_of_input()),
            ]
            try:
                await asyncio.wait(waits, return_when=asyncio.FIRST_COMPLETED)
                if waits[0].done():
                    waits[0].result()
            finally:
                for wait in waits:
                    wait.cancel()
                await asyncio.wait(waits)
                await mounting.stop()


async def _end_of_input() -> None:
    """The other end is the node's, which writes nothing."""
    loop = asyncio.get_running_loop()
    stream = asyncio.StreamReader()
    transport, _ = await loop.connect_read_pipe(
        lambda: asyncio.StreamReaderProtocol(stream), os.fdopen(os.dup(0), "rb")
    )
    try:
        while await stream.read(4096):
            pass
    finally:
        transport.close()


def main(
    program: str,
    kind: admin_pb2.MountKind,
    make: Callable[[Path], Make],
    tidy: Callable[[Path, Collection[str]], None] | None = None,
) -> None:
    """`python -m PROGRAM --socket PATH --state PATH`. `make` and `tidy` are told the node's state directory."""
    parser = argparse.ArgumentParser(prog=program, description="Runs what is mounted on a node.")
    parser.add_argument("--socket", required=True, help="the node's Unix socket")
    parser.add_argument("--state", required=True, type=Path, help="the node's state directory")
    parser.add_argument("--log-level", choices=LOG_LEVELS, default="info")
    parser.add_argument("--event-loop", choices=EVENT_LOOPS, default="asyncio", help="as the node's own setting has it")
    given = parser.parse_args()
    configure_logging(given.log_level)
    tune_interpreter()
    with contextlib.suppress(KeyboardInterrupt):
        clean = partial(tidy, given.state) if tidy is not None else None
        run_on(given.event_loop, lambda: serve(given.socket, kind, make(given.state), clean))
    sys.exit(0)
