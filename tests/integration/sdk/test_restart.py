"""Client and agent outlive a restart of their node, whose store is on disk."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest

from edgenode.link.errors import Unavailable
from edgenode.node.config import NodeConfig
from edgenode.node.node import Node
from edgenode.sdk import Agent, Client


def config(state: Path) -> NodeConfig:
    return NodeConfig(state_dir=state, node="north", drain_seconds=0.2)


async def test_a_restart_loses_nothing_that_was_acknowledged(state: Path) -> None:
    agent = Agent("worker")
    go = asyncio.Event()

    @agent.skill()
    async def square(n: int) -> int:
        await go.wait()
        return n * n

    node = Node(config(state))
    await node.start()
    attached: asyncio.Queue[str] = asyncio.Queue()
    async with Client(state=state) as client:
        run = asyncio.create_task(agent.run(state=state, on_attached=attached.put_nowait))
        try:
            async with asyncio.timeout(50):
                await attached.get()
                handles = await asyncio.gather(*(client.submit("square", {"n": n}) for n in range(50)))
                call = asyncio.create_task(client.call("square", {"n": 1}))
                await client.publish("a", 0)
                await node.stop()
                with pytest.raises(Unavailable):
                    await call
                publishes = [asyncio.create_task(client.publish("a", n)) for n in range(1, 100)]
                submit = asyncio.create_task(client.submit("square", {"n": 50}))
                node = Node(config(state))
                await node.start()
                await attached.get()
                receipts = await asyncio.gather(*publishes)
                assert [receipt.sequence for receipt in receipts] == list(range(2, 101))
                go.set()
                handles.append(await submit)
                results = await asyncio.gather(*(handle.result() for handle in handles))
                assert results == [n * n for n in range(51)]
                assert await client.call("square", {"n": 7}) == 49
                async with client.subscribe("a", position="start") as subscription:
                    assert [(await anext(subscription)).value() for _ in range(100)] == list(range(100))
        finally:
            await agent.stop(grace=1)
            run.cancel()
            await asyncio.wait([run])
            await node.stop()
