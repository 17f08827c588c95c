"""A client of the measurements: one SDK client in a process of its own.

Each line of JSON on standard input asks for one round, {"kind": ..., "count": items, "at_once": how many are awaited at the
same time}; its answer is a line with the seconds it took. A round counts only what has come back whole: the receipt of
each message, the answer of each call, the result of each task.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import sys
import time
from collections.abc import Awaitable, Callable
from typing import Any

from edgenode.link.model.task import Level
from edgenode.sdk import Client

PAYLOAD = bytes(range(256))


class Traffic:
    """One round at a time."""

    def __init__(self, client: Client) -> None:
        self._client = client

    async def publish(self) -> None:
        """A message, durable on the node when this returns."""
        receipt = await self._client.publish("bench.readings", PAYLOAD)
        if receipt.level < Level.DURABLE_LOCAL:
            raise AssertionError(f"a receipt says {receipt.level}")

    async def call(self) -> None:
        """A call, answered."""
        if await self._client.call("echo", PAYLOAD) != PAYLOAD:
            raise AssertionError("a call brought back something else")

    async def task(self) -> None:
        """A task: durable, run, its result here."""
        handle = await self._client.submit("echo", PAYLOAD)
        if await handle.result() != PAYLOAD:
            raise AssertionError("a task brought back something else")

    async def round(self, kind: str, count: int, at_once: int) -> dict[str, Any]:
        """Do `count` items, `at_once` awaited at any time."""
        operation: Callable[[], Awaitable[None]] = {"publish": self.publish, "call": self.call, "task": self.task}[kind]
        share, more = divmod(count, at_once)
        latencies: list[float] = []
        clock = time.perf_counter

        async def lone(times: int) -> None:
            for _ in range(times):
                began = clock()
                await operation()
                latencies.append(clock() - began)

        async def one_of_many(times: int) -> None:
            for _ in range(times):
                await operation()

        worker = lone if at_once == 1 else one_of_many
        began = clock()
        async with asyncio.TaskGroup() as group:
            for number in range(at_once):
                group.create_task(worker(share + (number < more)))
        answer: dict[str, Any] = {"seconds": clock() - began}
        if latencies:
            latencies.sort()
            answer["p50_seconds"] = latencies[len(latencies) // 2]
            answer["p99_seconds"] = latencies[len(latencies) * 99 // 100]
        return answer


async def _serve(state: str) -> None:
    loop = asyncio.get_running_loop()
    async with Client(state=state) as client:
        traffic = Traffic(client)
        print("ready", flush=True)
        while line := await loop.run_in_executor(None, sys.stdin.readline):
            print(json.dumps(await traffic.round(**json.loads(line))), flush=True)


if __name__ == "__main__":
    parser = argparse.ArgumentParser()
    parser.add_argument("--state", required=True)
    parser.add_argument("--name", required=True)
    asyncio.run(_serve(parser.parse_args().state))
