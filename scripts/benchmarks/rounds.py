"""One round of a measurement, the same for every client of it: ours, the bare limit's and the peers'.

It needs the standard library alone, as the peers' programs run in an environment of their own.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import sys
import time
from collections.abc import Awaitable, Callable, Collection
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

Operation = Callable[[], Awaitable[None]]

PAYLOAD = bytes(range(256))
TEXT = "x" * len(PAYLOAD)  # for those who send JSON


async def measure(operation: Operation, count: int, at_once: int) -> dict[str, Any]:
    """Do `operation` `count` times, `at_once` awaited at any time: seconds, and percentiles when each is alone."""
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
    return answer(clock() - began, latencies)


async def measure_batches(batch: Operation, size: int, count: int, at_once: int) -> dict[str, Any]:
    """As `measure`, where an operation has `size` items: the seconds `count` items take."""
    batches = max(count // size, 1)
    told = await measure(batch, batches, max(at_once // size, 1))
    told["seconds"] *= count / (batches * size)
    return told


def measure_blocks(
    submit: Callable[[], Any], returned: Callable[[Any], bool], threads: int, count: int, at_once: int
) -> dict[str, Any]:
    """As `measure`, for tasks of a library that waits: `at_once` are submitted, then each has to have `returned`."""
    latencies: list[float] = []
    with ThreadPoolExecutor(threads) as pool:
        each = map if at_once == 1 else pool.map  # a lone task does not pay for waking a thread
        began = time.perf_counter()
        for start in range(0, count, at_once):
            asked = time.perf_counter()
            tasks = list(each(lambda _: submit(), range(start, min(start + at_once, count))))
            if not all(each(returned, tasks)):
                raise AssertionError("a task brought back something else")
            if at_once == 1:
                latencies.append(time.perf_counter() - asked)
        return answer(time.perf_counter() - began, latencies)


def answer(seconds: float, latencies: list[float]) -> dict[str, Any]:
    """What a client says of a round."""
    told: dict[str, Any] = {"seconds": seconds}
    if latencies:
        latencies.sort()
        told["p50_seconds"] = latencies[len(latencies) // 2]
        told["p99_seconds"] = latencies[len(latencies) * 99 // 100]
    return told


async def serve(round_of: Callable[..., Awaitable[dict[str, Any]]]) -> None:
    """Say ready, then answer each line of JSON on standard input with `round_of(**it)`, until the input ends."""
    loop = asyncio.get_running_loop()
    print("ready", flush=True)
    while line := await loop.run_in_executor(None, sys.stdin.readline):
        print(json.dumps(await round_of(**json.loads(line))), flush=True)


def serve_blocks(submit: Callable[[], Any], returned: Callable[[Any], bool], threads: int = 1) -> None:
    """`serve` rounds of `measure_blocks`."""

    async def round_of(kind: str, count: int, at_once: int) -> dict[str, Any]:
        return await asyncio.to_thread(measure_blocks, submit, returned, threads, count, at_once)

    asyncio.run(serve(round_of))


def role_and_folder(roles: Collection[str]) -> tuple[str, Path]:
    """What a program with several parts is started with: which of them it is, and the folder they share."""
    parser = argparse.ArgumentParser()
    parser.add_argument("role", choices=roles)
    parser.add_argument("--folder", type=Path, required=True)
    arguments = parser.parse_args()
    return arguments.role, arguments.folder
