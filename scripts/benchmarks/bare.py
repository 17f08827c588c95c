"""The bare limit: what gRPC and SQLite give when nothing of ours stands between them.

Three processes as in the real thing, a server, its agents and a client, on one Unix socket. They pass frames of opaque
bytes, as large as ours with as many items in them, and as many of them under way:

- publish: frame -> stored, one row a frame, commit with fsync -> acknowledgement.
- call: frame -> agent -> frame back. Nothing is stored.
- task: frame -> stored -> agent -> its result stored -> frame back.
- find: a unary call, question and answer as long as ours. Nothing is looked up.
- renew: as find, with an answer as long as that to a sign of life.

Frames that come while a commit is under way share the next one. What the limit leaves out is everything an item costs by
itself: making it, checking it, a future for its caller, and for tasks the receipt before the result.
"""

from __future__ import annotations

import asyncio
import sqlite3
from collections import deque
from collections.abc import AsyncIterator, Awaitable, Callable
from concurrent.futures import ThreadPoolExecutor
from itertools import cycle
from pathlib import Path
from typing import Any, TypeVar

import grpc.aio

from scripts.benchmarks.rounds import PAYLOAD, measure, role_and_folder, serve

ITEM_BYTES = len(PAYLOAD) + 40  # an item in a frame of ours: names, ids and lengths beside its payload
MAX_FRAME_BYTES = 256 * 1024  # as in edgenode.sdk
MAX_FRAME_COUNT = {"publish": 1024, "call": 256, "task": 256}
_ACK = bytes(64)
_RENEWAL = (16).to_bytes(4, "big") + bytes(16)
_CHECKPOINT_BYTES = 16 * 1024 * 1024
_OPTIONS = [("grpc.max_receive_message_length", 4 * 1024 * 1024)]

T = TypeVar("T")
Step = Callable[[bytes], Awaitable[bytes]]


class Journal:
    """Group commit on a database set up like the node's (link/store), on a thread of its own."""

    def __init__(self, path: Path) -> None:
        self._thread = ThreadPoolExecutor(1)
        self._path = path
        self._waiting: list[tuple[bytes, asyncio.Future[bytes]]] = []
        self._writing: asyncio.Task[None] | None = None
        self._uncheckpointed = 0

    async def open(self) -> None:
        """Make the database."""
        await asyncio.get_running_loop().run_in_executor(self._thread, self._open)

    async def run(self, work: Callable[[sqlite3.Connection], T]) -> T:
        """What `work` gives, done on the database's thread."""
        return await asyncio.get_running_loop().run_in_executor(self._thread, lambda: work(self._connection))

    async def commit(self, frame: bytes) -> bytes:
        """Store a frame; the acknowledgement, after the fsync."""
        loop = asyncio.get_running_loop()
        future: asyncio.Future[bytes] = loop.create_future()
        self._waiting.append((frame, future))
        if self._writing is None or self._writing.done():
            self._writing = loop.create_task(self._write_all())
        return await future

    async def _write_all(self) -> None:
        loop = asyncio.get_running_loop()
        while batch := self._waiting:
            self._waiting = []
            await loop.run_in_executor(self._thread, self._write, [frame for frame, _ in batch])
            for _, future in batch:
                future.set_result(_ACK)

    def _open(self) -> None:
        self._connection = sqlite3.connect(self._path, isolation_level=None, check_same_thread=False)
        for pragma in (
            "locking_mode = EXCLUSIVE",
            "page_size = 4096",
            "journal_mode = WAL",
            "synchronous = FULL",
            "wal_autocheckpoint = 0",
            "journal_size_limit = 16777216",
        ):
            self._connection.execute(f"PRAGMA {pragma}").fetchall()
        self._connection.execute("CREATE TABLE IF NOT EXISTS frame (id INTEGER PRIMARY KEY, data BLOB NOT NULL) STRICT")

    def _write(self, frames: list[bytes]) -> None:
        self._connection.execute("BEGIN IMMEDIATE")
        self._connection.executemany("INSERT INTO frame (data) VALUES (?)", [(frame,) for frame in frames])
        self._connection.execute("COMMIT")
        self._uncheckpointed += sum(map(len, frames))
        if self._uncheckpointed >= _CHECKPOINT_BYTES:
            self._uncheckpointed = 0
            self._connection.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchall()


class Stream:
    """Frames out, as many back, in the same order; what `grpc.aio` calls and handlers both do."""

    def __init__(self) -> None:
        self.outgoing: asyncio.Queue[bytes] = asyncio.Queue()
        self._asked: deque[asyncio.Future[bytes]] = deque()

    async def ask(self, frame: bytes) -> bytes:
        """Send a frame, wait for what comes back for it."""
        future: asyncio.Future[bytes] = asyncio.get_running_loop().create_future()
        self._asked.append(future)
        self.outgoing.put_nowait(frame)
        return await future

    async def sending(self) -> AsyncIterator[bytes]:
        """What is to be sent, without end."""
        while True:
            yield await self.outgoing.get()

    async def receive(self, frames: AsyncIterator[bytes]) -> None:
        """Take what comes back, until its end."""
        async for frame in frames:
            self._asked.popleft().set_result(frame)


class Server:
    """The node's place."""

    def __init__(self, journal: Journal) -> None:
        self._journal = journal
        self._agents: list[Stream] = []
        self._turns = cycle(self._agents)

    def handler(self) -> grpc.GenericRpcHandler:
        """The streams it serves; frames are bytes."""
        steps: dict[str, Step] = {"publish": self._journal.commit, "call": self._work, "task": self._task}
        streams = {kind: self._stream(step) for kind, step in steps.items()} | {"work": self._attach}
        handlers = {name: grpc.stream_stream_rpc_method_handler(stream) for name, stream in streams.items()}
        handlers["find"] = grpc.unary_unary_rpc_method_handler(_find)
        return grpc.method_handlers_generic_handler("bare", handlers)

    def _stream(self, step: Step) -> Callable[..., AsyncIterator[bytes]]:
        async def serve_stream(frames: AsyncIterator[bytes], _context: object) -> AsyncIterator[bytes]:
            answers: asyncio.Queue[asyncio.Task[bytes] | None] = asyncio.Queue()

            async def read() -> None:
                async for frame in frames:
                    answers.put_nowait(asyncio.ensure_future(step(frame)))  # type: ignore[arg-type]
                answers.put_nowait(None)

            reading = asyncio.create_task(read())
            try:
                while (answer := await answers.get()) is not None:
                    yield await answer
            finally:
                reading.cancel()

        return serve_stream

    async def _attach(self, frames: AsyncIterator[bytes], _context: object) -> AsyncIterator[bytes]:
        agent = Stream()
        self._agents.append(agent)
        self._turns = cycle(self._agents)
        receiving = asyncio.create_task(agent.receive(frames))
        try:
            async for frame in agent.sending():
                yield frame
        finally:
            receiving.cancel()

    def _work(self, frame: bytes) -> Awaitable[bytes]:
        return next(self._turns).ask(frame)

    async def _task(self, frame: bytes) -> bytes:
        await self._journal.commit(frame)
        result = await self._work(frame)
        await self._journal.commit(result)
        return result


async def _find(question: bytes, _context: object) -> bytes:
    """As many bytes as the question's first four say; the rest of it is as long as a real one."""
    return bytes(int.from_bytes(question[:4], "big"))


async def _serve_node(folder: Path) -> None:
    journal = Journal(folder / "bare.db")
    await journal.open()
    server = grpc.aio.server(options=_OPTIONS)
    server.add_generic_rpc_handlers((Server(journal).handler(),))
    server.add_insecure_port(address(folder))
    await server.start()
    print("ready", flush=True)
    await server.wait_for_termination()


async def _serve_agent(folder: Path) -> None:
    async with grpc.aio.insecure_channel(address(folder), options=_OPTIONS) as channel:
        call: Any = channel.stream_stream("/bare/work")()
        await channel.channel_ready()
        print("ready", flush=True)
        while (frame := await call.read()) is not grpc.aio.EOF:
            await call.write(frame)


class Client:
    """The client: rounds counted in items, sent in frames."""

    def __init__(self, channel: grpc.aio.Channel) -> None:
        self._channel = channel
        self._find: Any = channel.unary_unary("/bare/find")

    async def round(self, kind: str, count: int, at_once: int) -> dict[str, Any]:
        """Like Traffic.round; `count` is rounded up to whole frames."""
        if kind == "renew":
            return await measure(self._renew, count, at_once)
        size = frame_items(kind, at_once)
        frame = bytes(ITEM_BYTES * size)
        stream = Stream()
        call: Any = self._channel.stream_stream(f"/bare/{kind}")(stream.sending())
        receiving = asyncio.create_task(stream.receive(call))

        async def operation() -> None:
            if not await stream.ask(frame):
                raise AssertionError("an empty answer")

        frames = -(-count // size)
        try:
            told = await measure(operation, frames, -(-at_once // size))
        finally:
            receiving.cancel()
            call.cancel()
        told["seconds"] *= count / (frames * size)
        return told

    async def _renew(self) -> None:
        if not await self._find(_RENEWAL):
            raise AssertionError("an empty answer")


def frame_items(kind: str, at_once: int) -> int:
    """Items in a frame of ours with so many awaited: full ones, but a burst of calls or tasks goes in two halves."""
    most = min(MAX_FRAME_COUNT[kind], MAX_FRAME_BYTES // ITEM_BYTES)
    return min(most, at_once if kind == "publish" else max(at_once // 2, 1))


async def _serve_client(folder: Path) -> None:
    async with grpc.aio.insecure_channel(address(folder), options=_OPTIONS) as channel:
        await serve(Client(channel).round)


def address(folder: Path) -> str:
    """Where the bare node serves."""
    return f"unix:{folder / 'bare.sock'}"


if __name__ == "__main__":
    roles = {"node": _serve_node, "agent": _serve_agent, "client": _serve_client}
    role, where = role_and_folder(roles)
    asyncio.run(roles[role](where))
