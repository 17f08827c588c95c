"""dramatiq on Redis: two worker processes and its results backend, a client that enqueues and waits for the results.

Of its middleware only retries and results are on. Its workers look for news 5 ms after there was some and then ever less
often, 50 ms at most, instead of 1 s; they fetch many at a time, as else they would look again between every few. The client
has threads as they have: one fsync of Redis serves all that ask at the same time.
"""

from __future__ import annotations

import signal
from typing import Any

import dramatiq
from dramatiq.brokers.redis import RedisBroker
from dramatiq.middleware import Retries
from dramatiq.results import Results
from dramatiq.results.backends import RedisBackend

from scripts.benchmarks.peers.over_redis import listening
from scripts.benchmarks.rounds import TEXT, role_and_folder, serve_blocks

IDLE_POLL = 50  # milliseconds
PREFETCH = 256
THREADS = 8  # of each worker, and of the client
PATIENCE = 60_000  # milliseconds for a result


def worker(broker: Any) -> None:
    """An agent of tasks."""
    running = dramatiq.Worker(broker, worker_timeout=IDLE_POLL, worker_threads=THREADS)
    running.queue_prefetch = PREFETCH
    ends = {signal.SIGTERM, signal.SIGINT}
    signal.pthread_sigmask(signal.SIG_BLOCK, ends)
    running.start()
    print("ready", flush=True)
    signal.sigwait(ends)
    running.stop()


def client(echo: Any) -> None:
    """The client of tasks."""
    serve_blocks(lambda: echo.send(TEXT), lambda sent: sent.get_result(block=True, timeout=PATIENCE) == TEXT, THREADS)


if __name__ == "__main__":
    role, where = role_and_folder(("worker", "client"))
    url = f"unix://{listening(where)}"
    broker = RedisBroker(url=url, middleware=[Retries(), Results(backend=RedisBackend(url=url), store_results=True)])
    dramatiq.set_broker(broker)

    @dramatiq.actor
    def echo(text: str) -> str:
        """Gives back what it gets."""
        return text

    if role == "worker":
        worker(broker)
    else:
        client(echo)
