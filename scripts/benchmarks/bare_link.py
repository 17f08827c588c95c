"""The bare limit of a link: what gRPC with mutual TLS and SQLite give when nothing of ours stands between them.

    python -m scripts.benchmarks.bare_link hub STATE DATABASE      says `ready PORT`
    python -m scripts.benchmarks.bare_link edge STATE DATABASE PORT
    python -m scripts.benchmarks.bare_link crowd CREDENTIALS PORT FIRST COUNT      says the NAME of each member that is up

Identities, TLS and the options of channels and servers are those of the real thing; frames are opaque bytes, as large as
ours, with as many bytes under way as a lane has credit for.

- A drain: frames are read from the edge's file, pass the stream and are stored by the hub, commit with fsync; what is
  committed is acknowledged, cumulatively, and deleted at the edge, commit with fsync.
- A crowd: each member opens a stream of a channel of its own, hears one byte and is idle from then on.
"""

from __future__ import annotations

import asyncio
import json
import sqlite3
import sys
import time
from base64 import b64decode
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import grpc.aio

from edgenode.link.identity.certificates import certificate_from_der, certificate_to_pem
from edgenode.link.identity.credentials import KeyPair, ServerIdentity, client_credentials
from edgenode.link.identity.names import hub_host
from edgenode.link.parent.identity import load_identity
from edgenode.link.ports import SystemClock
from edgenode.link.wire.channels import MAX_LINK_MESSAGE_BYTES, ChannelSettings, ServerSettings, open_channel
from hub.ca.authority import Authority
from scripts.benchmarks.bare import ITEM_BYTES, Journal, frame_items
from scripts.benchmarks.rounds import answer, serve

WINDOW_BYTES = 4 << 20  # as a lane's credit
READ_FRAMES = 8  # of the edge's file at a time


class Hub:
    """The hub's place."""

    def __init__(self, journal: Journal) -> None:
        self._journal = journal

    def handler(self) -> grpc.GenericRpcHandler:
        """The streams it serves; frames are bytes."""
        streams = {"link": self._link, "hold": self._hold}
        handlers = {name: grpc.stream_stream_rpc_method_handler(stream) for name, stream in streams.items()}
        return grpc.method_handlers_generic_handler("bare", handlers)

    async def _link(self, frames: AsyncIterator[bytes], _context: object) -> AsyncIterator[bytes]:
        committed = told = 0
        news = asyncio.Event()

        async def store(frame: bytes) -> None:
            nonlocal committed
            await self._journal.commit(frame)
            committed += 1
            news.set()

        async def read() -> None:
            async with asyncio.TaskGroup() as group:
                async for frame in frames:
                    group.create_task(store(frame))

        reading = asyncio.create_task(read())
        reading.add_done_callback(lambda _: news.set())
        try:
            while not reading.done() or told < committed:
                await news.wait()
                news.clear()
                if told < committed:
                    told = committed
                    yield told.to_bytes(8, "big")
        finally:
            reading.cancel()

    async def _hold(self, frames: AsyncIterator[bytes], _context: object) -> AsyncIterator[bytes]:
        yield b"."
        async for frame in frames:
            yield frame


class Edge:
    """The edge's place: a backlog in a file, and a way to the hub."""

    def __init__(self, journal: Journal, channel: grpc.aio.Channel) -> None:
        self._journal = journal
        self._channel = channel

    async def round(self, kind: str, count: int, at_once: int) -> dict[str, Any]:
        """Store `count` items in frames of so many as fit with `at_once` awaited, then the seconds their drain takes."""
        if kind != "drain":
            raise ValueError(f"no round of {kind}")
        size = frame_items("publish", at_once)
        frames = -(-count // size)
        first = await self._journal.run(lambda connection: _fill(connection, frames, bytes(ITEM_BYTES * size)))
        began = time.perf_counter()
        await self._drain(first, first + frames - 1, max(WINDOW_BYTES // (ITEM_BYTES * size), 1))
        return answer((time.perf_counter() - began) * count / (frames * size), [])

    async def _drain(self, first: int, last: int, window: int) -> None:
        acked = first - 1
        news, room = asyncio.Event(), asyncio.Event()
        call: Any = self._channel.stream_stream("/bare/link")(wait_for_ready=True)

        async def send() -> None:
            sent = first - 1
            while sent < last:
                for number, frame in await self._journal.run(lambda connection, after=sent: _read(connection, after)):
                    while number - acked > window:
                        room.clear()
                        await room.wait()
                    await call.write(frame)
                    sent = number
            await call.done_writing()

        async def forget() -> None:
            forgotten = first - 1
            while forgotten < last:
                await news.wait()
                news.clear()
                forgotten = acked
                await self._journal.run(
                    lambda connection, upto=acked: connection.execute("DELETE FROM frame WHERE id <= ?", (upto,))
                )

        async with asyncio.TaskGroup() as group:
            group.create_task(send())
            group.create_task(forget())
            while (told := await call.read()) is not grpc.aio.EOF:
                acked = first - 1 + int.from_bytes(told, "big")
                news.set()
                room.set()


def _fill(connection: sqlite3.Connection, count: int, frame: bytes) -> int:
    """Store a frame so many times; the number of the first."""
    (newest,) = connection.execute("SELECT coalesce(max(id), 0) FROM frame").fetchone()
    connection.execute("BEGIN IMMEDIATE")
    connection.executemany("INSERT INTO frame (data) VALUES (?)", ((frame,) for _ in range(count)))
    connection.execute("COMMIT")
    connection.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchall()
    return int(newest) + 1


def _read(connection: sqlite3.Connection, after: int) -> list[tuple[int, bytes]]:
    return connection.execute(
        "SELECT id, data FROM frame WHERE id > ? ORDER BY id LIMIT ?", (after, READ_FRAMES)
    ).fetchall()


async def _serve_hub(state: str, database: str) -> None:
    authority = Authority.load(Path(state), SystemClock())
    journal = Journal(Path(database))
    await journal.open()
    server = grpc.aio.server(options=ServerSettings(max_message_bytes=MAX_LINK_MESSAGE_BYTES).options())
    server.add_generic_rpc_handlers((Hub(journal).handler(),))
    credentials = ServerIdentity(authority.hub_pair()).mutual_credentials(authority.edge_ca_pem)
    port = server.add_secure_port("127.0.0.1:0", credentials)
    await server.start()
    print(f"ready {port}", flush=True)
    await server.wait_for_termination()


async def _serve_edge(state: str, database: str, port: str) -> None:
    identity = load_identity(Path(state))
    if identity is None:
        raise SystemExit(f"{state} has no identity")
    journal = Journal(Path(database))
    await journal.open()
    settings = ChannelSettings(server_name=identity.server_name, max_message_bytes=MAX_LINK_MESSAGE_BYTES)
    async with open_channel(f"127.0.0.1:{port}", identity.channel_credentials(), settings=settings) as channel:
        await serve(Edge(journal, channel).round)


async def _be_crowd(credentials: str, port: str, first: str, count: str) -> None:
    stored = json.loads(Path(credentials).read_text())
    hub_ca = certificate_to_pem(certificate_from_der(b64decode(stored["hub_ca"])))
    settings = ChannelSettings(server_name=hub_host(stored["domain"]))
    members = stored["members"][int(first) : int(first) + int(count)]

    async def connect(member: dict[str, str]) -> object:
        pair = KeyPair(member["key"].encode(), member["chain"].encode())
        channel = open_channel(f"127.0.0.1:{port}", client_credentials(pair, hub_ca), settings=settings)
        call: Any = channel.stream_stream("/bare/hold")(wait_for_ready=True)
        if await call.read() is grpc.aio.EOF:
            raise SystemExit("the hub hung up")
        print(member["name"], flush=True)
        return channel, call

    held = await asyncio.gather(*map(connect, members))
    await asyncio.Event().wait()
    del held  # open until then


if __name__ == "__main__":
    roles = {"hub": _serve_hub, "edge": _serve_edge, "crowd": _be_crowd}
    asyncio.run(roles[sys.argv[1]](*sys.argv[2:]))
