"""Agents under test: a real node in this process, with a parent whose link can be cut.

    async with agent.test() as bench:
        assert await bench.client.call("greet", {"name": "Ada"}) == "Hello, Ada!"
        with bench.node.offline():
            await bench.client.publish("greeted", "Ada")

The node is the one that runs on devices, behind a real Unix socket, joined to its parent over mutual TLS. Its state is a
directory of the memory file system where there is one (Linux), else a temporary one, and is gone after the test. The parent
(`edgenode.sdk.parent`) stores what it gets and acknowledges it, which makes DURABLE_HUB receipts true.
"""

from __future__ import annotations

import asyncio
import os
import shutil
import tempfile
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from edgenode.node.config import NodeConfig
from edgenode.node.node import Node
from edgenode.sdk.agent import Agent
from edgenode.sdk.client import Client
from edgenode.sdk.credentials import Issuer
from edgenode.sdk.parent import NAME as PARENT
from edgenode.sdk.parent import Parent

_START_TIMEOUT = 10.0


class LocalNode:
    """`async with LocalNode() as node`. `settings` are those of NodeConfig."""

    def __init__(self, name: str = "local", **settings: Any) -> None:
        self.name = name
        self._settings = settings
        self._runs: dict[asyncio.Task[None], Agent] = {}
        self._directory: Path | None = None
        self._issuer = Issuer()
        self.parent = Parent(name, self._issuer.parent(PARENT))
        self.node: Node | None = None

    async def __aenter__(self) -> LocalNode:
        self._directory = directory = _memory_directory()
        settings = {"reconnect_min_seconds": 0.05, "reconnect_max_seconds": 0.5, "drain_seconds": 1.0, **self._settings}
        self._config = NodeConfig(state_dir=directory, node=self.name, **settings)
        self.socket = self._config.socket_path
        try:
            self._issuer.join(directory, self.name, PARENT, await self.parent.start())
            await self._start()
            await self.parent.wait_connected(_START_TIMEOUT)
        except BaseException:
            await self._close()
            raise
        return self

    async def _start(self) -> None:
        self.node = Node(self._config)
        await self.node.start()

    async def restart(self) -> None:
        """Stops the node and starts it again with the state it had."""
        if self.node is not None:
            await self.node.stop()
        await self._start()

    async def __aexit__(self, *_exception: object) -> None:
        try:
            await asyncio.gather(*(agent.stop(grace=1.0) for agent in set(self._runs.values())))
            for task in self._runs:
                task.cancel()
            if self._runs:
                await asyncio.wait(self._runs)
        finally:
            await self._close()

    async def _close(self) -> None:
        try:
            if self.node is not None:
                await self.node.stop()
            await self.parent.close()
        finally:
            shutil.rmtree(self._directory or "", ignore_errors=True)

    def client(self, **options: Any) -> Client:
        """A client of this node, to be used with `async with`."""
        return Client(socket=self.socket, **options)

    async def run(self, agent: Agent) -> asyncio.Task[None]:
        """Runs an agent in this process; returns once it is attached. The task ends as `Agent.run` does."""
        attached = asyncio.Event()
        task = asyncio.create_task(agent.run(socket=self.socket, on_attached=lambda _node: attached.set()))
        self._runs[task] = agent
        waiting = asyncio.create_task(attached.wait())
        try:
            await asyncio.wait([task, waiting], timeout=_START_TIMEOUT, return_when=asyncio.FIRST_COMPLETED)
        finally:
            waiting.cancel()
        if task.done():
            del self._runs[task]
            task.result()
        if not attached.is_set():
            raise TimeoutError(f"agent {agent.name} did not attach within {_START_TIMEOUT:g} s")
        return task

    @contextmanager
    def offline(self) -> Iterator[None]:
        """Without its parent: the link is cut in the middle of whatever it carries, and cannot come back inside."""
        self.parent.cut()
        try:
            yield
        finally:
            self.parent.mend()

    async def linked(self, timeout: float = _START_TIMEOUT) -> None:
        """Waits until the link is up, at most `timeout` seconds."""
        await self.parent.wait_connected(timeout)


def _memory_directory() -> Path:
    """A directory with a short path, as those of sockets are limited to 107 bytes."""
    shared = Path("/dev/shm")
    place = shared if shared.is_dir() and os.access(shared, os.W_OK) else Path("/tmp")
    return Path(tempfile.mkdtemp(prefix="edgenode-", dir=place))


@dataclass(frozen=True, slots=True)
class Bench:
    """What `Agent.test` gives: a node with the agent attached, and a client of it."""

    node: LocalNode
    client: Client


@asynccontextmanager
async def bench(agent: Agent, **settings: Any) -> AsyncIterator[Bench]:
    """See Agent.test. `settings` are those of NodeConfig."""
    async with LocalNode(**settings) as node:
        await node.run(agent)
        async with node.client() as client:
            yield Bench(node, client)
