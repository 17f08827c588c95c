"""A node that is killed again and again under load: what was acknowledged is there, once, and everything goes on."""

from __future__ import annotations

import asyncio
from pathlib import Path

from edgenode.sdk import Agent, Client
from tests.integration.node_process import start_node

MESSAGES = 3000
TASKS = 300


async def test_nothing_acknowledged_is_lost_or_doubled(state: Path) -> None:
    agent = Agent("worker", concurrency=8)

    @agent.skill()
    async def square(n: int) -> int:
        await asyncio.sleep(0.005)
        return n * n

    process = await start_node(state)
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
                    process = await start_node(state)
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
