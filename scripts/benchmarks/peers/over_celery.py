"""Celery on Redis: two worker processes, its Redis result backend, a client that enqueues and waits for the results.

A task is acknowledged after it has run, as a worker that dies would lose it otherwise. Events, gossip, heartbeats and
remote control are off.
"""

from __future__ import annotations

from typing import Any

from celery import Celery
from celery.signals import worker_ready

from scripts.benchmarks.peers.over_redis import listening
from scripts.benchmarks.rounds import TEXT, role_and_folder, serve_blocks

PATIENCE = 60  # seconds for a result


def workers(app: Any) -> None:
    """The agents of tasks: a process that hands out, two that work."""

    @worker_ready.connect(weak=False)
    def ready(**_: Any) -> None:
        print("ready", flush=True)

    quiet = ["--without-gossip", "--without-mingle", "--without-heartbeat", "--loglevel", "error"]
    app.worker_main(["worker", "--pool", "prefork", "--concurrency", "2", *quiet])


def client(echo: Any) -> None:
    """The client of tasks."""
    serve_blocks(lambda: echo.delay(TEXT), lambda sent: sent.get(timeout=PATIENCE) == TEXT)


if __name__ == "__main__":
    role, where = role_and_folder(("workers", "client"))
    url = f"redis+socket://{listening(where)}"
    app = Celery("bench", broker=url, backend=url)
    app.conf.update(
        result_expires=None,
        task_acks_late=True,
        worker_enable_remote_control=False,
        worker_redirect_stdouts=False,
    )

    @app.task(name="echo")
    def echo(text: str) -> str:
        """Gives back what it gets."""
        return text

    if role == "workers":
        workers(app)
    else:
        client(echo)
