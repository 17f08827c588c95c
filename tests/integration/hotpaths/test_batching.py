"""A thousand awaited at once share frames and commits. Counted, not timed: what costs is a gRPC message or an fsync, and
one of either for each item would make any of these paths ten times slower."""

from __future__ import annotations

import asyncio
import shutil
import tempfile
from collections import Counter
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

import pytest

from edgenode.node.config import NodeConfig
from edgenode.node.node import Node
from edgenode.sdk import Agent, Client
from edgenode.sdk.publisher import Publisher
from edgenode.sdk.submitter import Submitter
from edgenode.sdk.worker import Worker

COUNT = 1000
PAYLOAD = bytes(256)


@pytest.fixture
async def node() -> AsyncIterator[Node]:
    directory = Path(tempfile.mkdtemp(prefix="en", dir="/tmp"))
    node = Node(NodeConfig(state_dir=directory, node="hot"))
    try:
        await node.start()
        yield node
    finally:
        await node.stop()
        shutil.rmtree(directory, ignore_errors=True)


@pytest.fixture
async def client(node: Node) -> AsyncIterator[Client]:
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
    counted: Counter[str] = Counter()

    def count(kind: type[Any], method: str, key: str) -> None:
        original: Callable[..., Any] = getattr(kind, method)

        def counting(self: Any, *arguments: Any) -> Any:
            result = original(self, *arguments)
            counted[key] += method == "received" or result is not None
            return result

        monkeypatch.setattr(kind, method, counting)

    for kind in (Publisher, Submitter, Worker):
        count(kind, "next_frame", f"{kind.__name__} sent")
        count(kind, "received", f"{kind.__name__} got")
    return counted


async def test_publishing(node: Node, frames: Counter[str], client: Client) -> None:
    await client.publish("hot.path", PAYLOAD)
    frames.clear()
    commits = node.rooms.database.commits
    receipts = await asyncio.gather(*(client.publish("hot.path", PAYLOAD) for _ in range(COUNT)))
    assert len({receipt.sequence for receipt in receipts}) == COUNT
    assert 0 < node.rooms.database.commits - commits <= 10
    assert 0 < frames.total() <= 20


async def test_publishing_many_at_once(node: Node, frames: Counter[str], client: Client) -> None:
    await client.publish("hot.path", PAYLOAD)
    frames.clear()
    commits = node.rooms.database.commits
    receipts = await client.publish_many("hot.path", [PAYLOAD] * COUNT)
    assert [receipt.sequence for receipt in receipts] == list(range(2, COUNT + 2))
    assert 0 < node.rooms.database.commits - commits <= 4
    assert 0 < frames.total() <= 8


@pytest.mark.usefixtures("agents")
async def test_calls(node: Node, frames: Counter[str], client: Client) -> None:
    assert await client.call("echo", PAYLOAD) == PAYLOAD
    frames.clear()
    commits = node.rooms.database.commits
    answers = await asyncio.gather(*(client.call("echo", PAYLOAD) for _ in range(COUNT)))
    assert answers == [PAYLOAD] * COUNT
    assert node.rooms.database.commits == commits
    assert len(frames) == 4
    assert frames.total() <= 60


@pytest.mark.usefixtures("agents")
async def test_a_burst_of_calls_goes_in_two_halves(frames: Counter[str], client: Client) -> None:
    """So that client, node and agents work at the same time; a few calls stay together."""
    assert await client.call("echo", PAYLOAD) == PAYLOAD
    for count, sent in ((20, 1), (64, 2)):
        frames.clear()
        await asyncio.gather(*(client.call("echo", PAYLOAD) for _ in range(count)))
        assert frames["Submitter sent"] == sent


@pytest.mark.usefixtures("agents")
async def test_tasks(node: Node, frames: Counter[str], client: Client) -> None:
    async def task() -> bytes:
        handle = await client.submit("echo", PAYLOAD)
        result: bytes = await handle.result()
        return result

    assert await task() == PAYLOAD
    frames.clear()
    commits = node.rooms.database.commits
    answers = await asyncio.gather(*(task() for _ in range(COUNT)))
    assert answers == [PAYLOAD] * COUNT
    assert 0 < node.rooms.database.commits - commits <= 20
    assert len(frames) == 4
    assert frames.total() <= 100


async def test_the_counting_counts(frames: Counter[str], client: Client, monkeypatch: pytest.MonkeyPatch) -> None:
    """One message a frame is what the tests above would notice."""
    monkeypatch.setattr("edgenode.sdk.publisher.MAX_FRAME_COUNT", 1)
    await asyncio.gather(*(client.publish("hot.path", PAYLOAD) for _ in range(100)))
    assert frames["Publisher sent"] == 100
