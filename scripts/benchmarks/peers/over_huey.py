"""huey on SQLite with fsync: a consumer with two worker processes, a client that enqueues and waits for the results.

Both sides look for news every few milliseconds, far more often than by default; workers with nothing to do look ever less
often, as they are not to take the processor from the others' rounds.
"""

from __future__ import annotations

from typing import Any

from huey import SqliteHuey

from scripts.benchmarks.rounds import PAYLOAD, role_and_folder, serve_blocks

POLL = 0.002  # seconds
IDLE_POLL = 0.05


def workers(huey: Any) -> None:
    """The agents of tasks."""
    consumer = huey.create_consumer(
        workers=2, worker_type="process", periodic=False, initial_delay=POLL, backoff=1.15, max_delay=IDLE_POLL
    )
    print("ready", flush=True)
    consumer.run()


def client(echo: Any) -> None:
    """The client of tasks."""

    def returned(result: Any) -> bool:
        return bool(result.get(blocking=True, timeout=60, backoff=1.0, max_delay=POLL) == PAYLOAD)

    serve_blocks(lambda: echo(PAYLOAD), returned)


if __name__ == "__main__":
    role, where = role_and_folder(("workers", "client"))
    store = SqliteHuey("bench", filename=str(where / "huey.db"), fsync=True, timeout=30)

    @store.task()
    def echo(data: bytes) -> bytes:
        """Gives back what it gets."""
        return data

    if role == "workers":
        workers(store)
    else:
        client(echo)
