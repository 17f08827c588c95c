"""A node, a client and two agents in this process, and what is counted of them."""

from __future__ import annotations

import asyncio
import shutil
import tempfile
from collections import Counter
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import pytest

from edgenode.node.config import NodeConfig
from edgenode.node.node import Node
from edgenode.sdk import Agent, Client
from tests.integration.hotpaths.counting import count_frames, count_hops, count_turns


@pytest.fixture
def folder() -> Iterator[Path]:
    """Below a short path: Unix sockets have room for about a hundred characters."""
    directory = Path(tempfile.mkdtemp(prefix="en"))
    yield directory
    shutil.rmtree(directory, ignore_errors=True)


@pytest.fixture
async def node(folder: Path, counts: Counter[str]) -> AsyncIterator[Node]:
    node = Node(NodeConfig(state_dir=folder / "edge", node="hot"))
    try:
        await node.start()
        yield node
    finally:
        await node.stop()


@pytest.fixture
async def client(node: Node, frames: Counter[str]) -> AsyncIterator[Client]:
    async with Client(socket=node.socket_path) as client:
        yield client


@pytest.fixture
async def agents(node: Node, frames: Counter[str]) -> AsyncIterator[None]:
    """Two agents with the skill `echo`, attached; counted from the start, as streams keep what they call."""
    agents = [Agent(name, concurrency=256) for name in ("one", "two")]
    attached: asyncio.Queue[str] = asyncio.Queue()
    for agent in agents:

        @agent.skill()
        async def echo(data: bytes) -> bytes:
            return data

    running = [
        asyncio.create_task(agent.run(socket=node.socket_path, on_attached=attached.put_nowait)) for agent in agents
    ]
    async with asyncio.timeout(10):
        for _ in agents:
            await attached.get()
    yield
    await asyncio.gather(*(agent.stop() for agent in agents))
    await asyncio.gather(*running)


@pytest.fixture
def frames(monkeypatch: pytest.MonkeyPatch) -> Counter[str]:
    """gRPC messages of all programs so far, by kind and direction: each frame of a conversation is one."""
    return count_frames(monkeypatch)


@pytest.fixture
def counts(monkeypatch: pytest.MonkeyPatch) -> Counter[str]:
    """Hops to the thread of a database, and turns of the event loop, so far."""
    counted: Counter[str] = Counter()
    count_hops(monkeypatch, counted)
    count_turns(monkeypatch, counted)
    return counted
