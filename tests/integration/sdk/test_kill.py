"""A node that is killed again and again under load: what was acknowledged is there, once, and everything goes on."""

from __future__ import annotations

import asyncio
import os
import shutil
import sys
import tempfile
from asyncio.subprocess import PIPE, Process
from collections.abc import Iterator
from pathlib import Path

import pytest

from edgenode.sdk import Agent, Client

ROOT = Path(__file__).resolve().parents[3]
MESSAGES = 3000
TASKS = 300
_NODE = """
import asyncio, sys
from pathlib import Path
from edgenode.node.config import NodeConfig
from edgenode.node.node import Node

async def main():
    await Node(NodeConfig(state_dir=Path(sys.argv[1]), node="north")).start()
    print("ready", flush=True)
    await asyncio.Event().wait()

asyncio.run(main())
"""


@pytest.fixture
def state() -> Iterator[Path]:
    directory = Path(tempfile.mkdtemp(prefix="sdk"))
    yield directory
    shutil.rmtree(directory, ignore_errors=True)


async def start(state: Path) -> Process:
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-c", _NODE, str(state), stdout=PIPE, env=environment
    )
    assert process.stdout is not None
    assert await asyncio.wait_for(process.stdout.readline(), 30) == b"ready\n"
    return process


async def test_nothing_acknowledged_is_lost_or_doubled(state: Path) -> None:
    agent = Agent("worker", concurrency=8)

    @agent.skill()
    async def square(n: int) -> int:
        await asyncio.sleep(0.005)
        return n * n

    process = await start(state)
    async with Client(state=state, connect_timeout=30) as client:
        run = asyncio.create_task(agent.run(state=state))
        try:

            async def publish() -> list[int]:
                sequences: list[int] = []
                for first in range(0, MESSAGES, 100):
                    numbers = range(first, first + 100)
                    receipts = await asyncio.gather(*(client.publish("n", number) for number in numbers))
                    sequences += [receipt.sequence for receipt in receipts]
                    await asyncio.sleep(0.02)
                return sequences

            async def work(n: int) -> int:
                handle = await client.submit("square", {"n": n})
                result: int = await handle.result()
                return result

            async with asyncio.timeout(55):
                publishing = asyncio.create_task(publish())
                working = [asyncio.create_task(work(n)) for n in range(TASKS)]
                for _ in range(2):
                    await asyncio.sleep(0.3)
                    process.kill()
                    await process.wait()
                    process = await start(state)
                assert await publishing == list(range(1, MESSAGES + 1))
                assert await asyncio.gather(*working) == [n * n for n in range(TASKS)]
                async with client.subscribe("n", position="start") as subscription:
                    found = [(await anext(subscription)).value() for _ in range(MESSAGES)]
                assert found == list(range(MESSAGES))
        finally:
            await agent.stop(grace=1)
            run.cancel()
            await asyncio.wait([run])
            process.kill()
            await process.wait()
