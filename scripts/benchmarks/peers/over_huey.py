"""huey on SQLite with fsync: a consumer with two worker processes, a client that enqueues and waits for the results.

Both sides look for news every few milliseconds, far more often than by default; workers with nothing to do look ever less
often, as they are not to take the processor from the others' rounds.
"""

from __future__ import annotations

import argparse
import asyncio
import time
from pathlib import Path
from typing import Any

from huey import SqliteHuey

from scripts.benchmarks.rounds import PAYLOAD, answer, serve

POLL = 0.002  # seconds
IDLE_POLL = 0.05


def workers(huey: Any) -> None:
    """The agents of tasks."""
    consumer = huey.create_consumer(
        workers=2, worker_type="process", periodic=False, initial_delay=POLL, backoff=1.15, max_delay=IDLE_POLL
    )
    print("ready", flush=True)
    consumer.run()


def client(huey: Any, echo: Any) -> None:
    """The client of tasks: `at_once` enqueued, then their results."""

    def work(count: int, at_once: int) -> dict[str, Any]:
        latencies: list[float] = []
        began = time.perf_counter()
        for start in range(0, count, at_once):
            asked = time.perf_counter()
            for result in [echo(PAYLOAD) for _ in range(min(at_once, count - start))]:
                if result.get(blocking=True, timeout=60, backoff=1.0, max_delay=POLL) != PAYLOAD:
                    raise AssertionError("a task brought back something else")
            if at_once == 1:
                latencies.append(time.perf_counter() - asked)
        return answer(time.perf_counter() - began, latencies)

    async def round_of(kind: str, count: int, at_once: int) -> dict[str, Any]:
        return await asyncio.to_thread(work, count, at_once)

    asyncio.run(serve(round_of))


if __name__ == "__main__":
    parser = argparse.ArgumentParser()
    parser.add_argument("role", choices=("workers", "client"))
    parser.add_argument("--folder", type=Path, required=True)
    arguments = parser.parse_args()
    store = SqliteHuey("bench", filename=str(arguments.folder / "huey.db"), fsync=True, timeout=30)

    @store.task()
    def echo(data: bytes) -> bytes:
        """Gives back what it gets."""
        return data

    if arguments.role == "workers":
        workers(store)
    else:
        client(store, echo)
