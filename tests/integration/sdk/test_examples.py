"""The examples as processes of their own, against a real node."""

from __future__ import annotations

import asyncio
import hashlib
import os
import shutil
import signal
import sys
import tempfile
from asyncio.subprocess import PIPE, STDOUT, Process
from collections.abc import AsyncIterator, Sequence
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from pathlib import Path

import pytest

from edgenode.link.errors import EdgenodeError
from edgenode.node.config import NodeConfig
from edgenode.node.node import Node
from edgenode.sdk import Client
from tests import npm

ROOT = Path(__file__).resolve().parents[3]


@pytest.fixture
async def state() -> AsyncIterator[Path]:
    directory = Path(tempfile.mkdtemp(prefix="sdk"))
    node = Node(NodeConfig(state_dir=directory, node="north", drain_seconds=0.2))
    try:
        await node.start()
        yield directory
    finally:
        await node.stop()
        shutil.rmtree(directory, ignore_errors=True)


@asynccontextmanager
async def started(state: Path, *command: str) -> AsyncIterator[Process]:
    environment = {**os.environ, "EDGENODE_STATE": str(state), "PYTHONPATH": str(ROOT)}
    process = await asyncio.create_subprocess_exec(*command, stdout=PIPE, stderr=STDOUT, env=environment)
    try:
        yield process
    finally:
        if process.returncode is None:
            process.kill()
        await process.wait()


def example(state: Path, name: str, *arguments: str) -> AbstractAsyncContextManager[Process]:
    return started(state, sys.executable, str(ROOT / "examples" / name), *arguments)


async def attached(client: Client, agent: str) -> None:
    async with asyncio.timeout(30):
        while agent not in [found.card.name for found in await client.agents()]:  # noqa: ASYNC110
            await asyncio.sleep(0.02)


async def test_hello_agent(state: Path) -> None:
    async with Client(state=state) as client, example(state, "hello_agent.py") as process:
        await attached(client, "hello")
        assert await (await client.submit("greet", {"name": "Ada"})).result(20) == "Hello, Ada!"
        process.send_signal(signal.SIGTERM)
        assert await asyncio.wait_for(process.wait(), 20) == 0
        assert await client.agents() == []


async def test_raw_stub_agent(state: Path) -> None:
    socket = str(state / "edgenode.sock")
    async with (
        Client(state=state) as client,
        example(state, "raw_stub_agent.py", "--socket", socket, "--name", "raw", "--count", "3") as process,
        client.subscribe("raw.done", position="start") as subscription,
    ):
        await attached(client, "raw")
        handles = await asyncio.gather(*(client.submit("upper", f"word {n}") for n in range(3)))
        assert [await handle.result(20) for handle in handles] == ["WORD 0", "WORD 1", "WORD 2"]
        async with asyncio.timeout(20):
            done = {(await anext(subscription)).payload.decode() for _ in range(3)}
        assert done == {handle.task_id for handle in handles}
        assert await asyncio.wait_for(process.wait(), 20) == 0
        assert await client.agents() == []


async def test_raw_stub_agent_outlives_its_node(state: Path) -> None:
    await outlives_its_node(state, "raw", "upper", sys.executable, str(ROOT / "examples" / "raw_stub_agent.py"))


async def outlives_its_node(state: Path, name: str, skill: str, *command: str) -> None:
    socket = state / "other.sock"
    settings = NodeConfig(state_dir=state / "other", node="south", socket=str(socket), drain_seconds=0.2)
    node = Node(settings)
    await node.start()
    try:
        async with (
            Client(socket=socket) as client,
            started(state, *command, "--socket", str(socket), "--count", "2") as process,
        ):
            await attached(client, name)
            await (await client.submit(skill, "one")).result(30)
            await node.stop()
            node = Node(settings)
            await node.start()
            await (await client.submit(skill, "two")).result(30)
            assert await asyncio.wait_for(process.wait(), 20) == 0
    finally:
        await node.stop()


@pytest.fixture(scope="session")
def node_agent() -> tuple[str, ...]:
    """The command of the agent in JavaScript, its packages installed beside a copy of it."""
    folder = npm.installed(ROOT / "examples" / "node_agent")
    return npm.NODE, str(folder / "agent.js"), "--proto", str(ROOT / "proto")


async def test_agent_in_javascript(state: Path, node_agent: Sequence[str]) -> None:
    socket = str(state / "edgenode.sock")
    async with (
        Client(state=state) as client,
        started(state, *node_agent, "--socket", socket, "--count", "9") as process,
        client.subscribe("js.done", position="start") as subscription,
    ):
        await attached(client, "js")
        words = [f"word {n}" for n in range(8)]  # twice as many as it gives credits
        handles = await asyncio.gather(*(client.submit("sha256", word) for word in words))
        digests = [await handle.result(30) for handle in handles]
        assert digests == [hashlib.sha256(word.encode()).hexdigest() for word in words]
        with pytest.raises(EdgenodeError, match="it is a number") as refused:
            await (await client.submit("sha256", 7)).result(30)
        assert refused.value.reason == "BAD_INPUT"
        async with asyncio.timeout(30):
            done = [(await anext(subscription)).payload.decode() for _ in range(9)]
        assert len(set(done)) == 9
        assert {handle.task_id for handle in handles} < set(done)
        assert await asyncio.wait_for(process.wait(), 30) == 0
        assert await client.agents() == []


async def test_agent_in_javascript_outlives_its_node(state: Path, node_agent: Sequence[str]) -> None:
    await outlives_its_node(state, "js", "sha256", *node_agent)
