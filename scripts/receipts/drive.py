"""The driving half: publishes, submits, calls and subscribes on every edge, through faults, and notes each receipt.

Nothing here gives up on an error: a refusal is counted by its reason and the next thing is tried. What has no receipt is
promised to nobody.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from dataclasses import dataclass
from itertools import count
from pathlib import Path

import msgspec

from edgenode.api.admin.v1 import admin_service_pb2, admin_service_pb2_grpc
from edgenode.link.errors import EdgenodeError
from edgenode.sdk import Agent, Client, Level, OnLost, RetryPolicy, Scope, TaskHandle
from scripts.receipts import names
from scripts.receipts.journal import Journal
from scripts.receipts.names import Stream

AGENT = "oracle"
SKILL = "oracle.work"
WAIT = 30.0  # seconds a receipt from the hub, an answer or a lost node is waited for
BURST = 16
HUB_EVERY = 5  # every so many bursts of a key one message waits for the hub
ONCE_EVERY = 4  # every so many tasks one must not run twice
QUICK = RetryPolicy(attempts=10, initial_backoff=0.05, max_backoff=1.0)


@dataclass(frozen=True, slots=True)
class Load:
    """What is sent on each edge: rates in a second (0: none), keys of messages, payload bytes."""

    messages: float = 200.0
    tasks: float = 20.0
    calls: float = 5.0
    keys: int = 4
    size: int = 256


class Work(msgspec.Struct):
    """Input and result of the oracle's skill."""

    work: str
    answer: str = ""


def agent(note_run: Callable[[str], None]) -> Agent:
    """The agent that does the oracle's tasks; `note_run` is told of each run before it ends."""
    made = Agent(AGENT, description="Answers with a checksum, for the oracle", concurrency=64)

    @made.skill(SKILL, idempotent=True)
    async def work(work: str) -> Work:
        """Says what only this skill would say of a name."""
        note_run(work)
        return Work(work, names.answer(work))

    return made


async def node_name(socket: Path, patience: float = WAIT) -> str:
    """The name of the edge that listens there. Raises EdgenodeError when none does within `patience` seconds."""
    async with Client(socket=socket, connect_timeout=patience) as client:
        stub = admin_service_pb2_grpc.AdminServiceStub(client.channel)
        status: admin_service_pb2.GetStatusResponse = await client.unary(
            stub.GetStatus, admin_service_pb2.GetStatusRequest()
        )
        return status.node


async def drive(sockets: Sequence[Path], journal: Journal, until: Awaitable[object], load: Load | None = None) -> None:
    """Drive the edges at `sockets` until `until` is done; what is under way then is still waited for, for a while.

    Raises EdgenodeError when an edge cannot be reached at the start; after that nothing but a defect ends it early.
    """
    by_name = {await node_name(socket): socket for socket in sockets}
    stop = asyncio.Event()
    drivers = [_Edge(name, socket, [*by_name], journal, stop, load or Load()) for name, socket in by_name.items()]
    async with asyncio.TaskGroup() as group:
        running = [group.create_task(driver.run(), name=f"drive {driver.name}") for driver in drivers]
        over = asyncio.ensure_future(until)
        await asyncio.wait([over, *running], return_when=asyncio.FIRST_COMPLETED)
        stop.set()
        over.cancel()


class _Edge:
    """Everything that is sent to one edge. Receipts are noted the moment they are there."""

    def __init__(
        self, name: str, socket: Path, edges: Sequence[str], journal: Journal, stop: asyncio.Event, load: Load
    ) -> None:
        self.name = name
        self._socket = socket
        self._edges = edges
        self._journal = journal
        self._stop = stop
        self._load = load
        self._last_seen: dict[Stream, int] = {}
        self._gaps = 0

    async def run(self) -> None:
        serving = asyncio.create_task(self._serve(), name=f"agent on {self.name}")
        load = self._load
        try:
            # A client tries again by itself while its node is away, for `connect_timeout`: the oracle is patient.
            async with Client(socket=self._socket, connect_timeout=WAIT) as client, asyncio.TaskGroup() as group:
                listening = group.create_task(self._listen(client))
                sending = [
                    *(group.create_task(self._publish(client, f"k{key}")) for key in range(load.keys) if load.messages),
                    *(group.create_task(self._submit(client)) for _ in range(1) if load.tasks),
                    *(group.create_task(self._call(client)) for _ in range(1) if load.calls),
                ]
                await asyncio.wait(sending or [group.create_task(self._stop.wait())])
                listening.cancel()
        finally:
            serving.cancel()
            await asyncio.wait([serving])

    async def _turns(self, rate: float) -> AsyncIterator[int]:
        """Numbers from 1, at most `rate` a second, until the stop."""
        for number in count(1):
            if self._stop.is_set():
                return
            yield number
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(self._stop.wait(), 1 / rate)

    def _refused(self, error: EdgenodeError) -> None:
        self._journal.note("refused", error.reason)

    # --- messages -----------------------------------------------------------------------------------------------------

    async def _publish(self, client: Client, key: str) -> None:
        stream = Stream(self._journal.leg, self.name, key)
        numbers = count(1)
        async for turn in self._turns(self._load.messages / self._load.keys / BURST):
            burst = [
                asyncio.create_task(self._publish_one(client, stream, number, hub=place == 0 and turn % HUB_EVERY == 0))
                for place, number in zip(range(BURST), numbers, strict=False)
            ]
            await asyncio.wait(burst)
            for task in burst:
                task.result()

    async def _publish_one(self, client: Client, stream: Stream, number: int, hub: bool) -> None:
        run, size = self._journal.run, self._load.size
        try:
            receipt = await client.publish(
                names.topic(run, stream),
                names.message(run, stream, number, size),
                key=stream.key,
                level=Level.DURABLE_HUB if hub else Level.DURABLE_LOCAL,
                wait=WAIT,
            )
        except EdgenodeError as error:
            self._refused(error)
        else:
            self._journal.note("message", *stream, number, receipt.level.name)

    async def _listen(self, client: Client) -> None:
        """What a subscriber sees: intact, in order, and no acknowledged message passed over without a word."""
        pattern = names.topics(self._journal.run)
        async with client.subscribe(pattern, on_gap=lambda gap: self._last_seen.clear()) as subscription:
            async for received in subscription:
                named = names.read_message(received.payload)
                if named is None:
                    self._journal.note("wrong", f"{self.name} handed out a payload that is not what was published")
                    continue
                _, stream, number = named
                last = self._last_seen.get(stream)
                if last is not None and number <= last:
                    self._journal.note("wrong", f"{self.name} handed out {stream} {number} after {last}")
                elif last is not None:
                    acked = self._journal.receipts.messages[stream]
                    skipped = [n for n in range(last + 1, number) if n in acked]
                    if skipped:
                        self._journal.note("wrong", f"{self.name} did not hand out {stream} {skipped[:5]}")
                self._last_seen[stream] = number

    # --- work ---------------------------------------------------------------------------------------------------------

    async def _serve(self) -> None:
        made = agent(lambda work: self._journal.note("ran", work))
        while True:
            try:
                await made.run(socket=self._socket)
            except EdgenodeError as error:
                self._refused(error)
            await asyncio.sleep(0.5)  # the node may be away for longer than a client waits

    async def _submit(self, client: Client) -> None:
        async with asyncio.TaskGroup() as endings:
            async for number in self._turns(self._load.tasks):
                target = self._edges[number % len(self._edges)]
                work = f"{self._journal.run}-{self._journal.leg}-{self.name}-{number}"
                once = number % ONCE_EVERY == 0
                try:
                    handle = await client.submit(
                        SKILL,
                        {"work": work},
                        agent=f"nodes/{target}/agents/{AGENT}",
                        scope=Scope.LOCAL if target == self.name else Scope.FLEET,
                        on_lost=OnLost.FAIL if once else OnLost.RETRY,
                        retry=QUICK,
                    )
                except EdgenodeError as error:
                    self._refused(error)
                    continue
                self._journal.note("task", handle.task_id, self.name, work, handle.level.name, once)
                endings.create_task(self._await_end(handle, work))

    async def _await_end(self, handle: TaskHandle, work: str) -> None:
        waiting = asyncio.create_task(handle.result(type=Work))
        stopped = asyncio.create_task(self._stop.wait())
        await asyncio.wait([waiting, stopped], return_when=asyncio.FIRST_COMPLETED)
        stopped.cancel()
        if not waiting.done():
            await asyncio.wait([waiting], timeout=WAIT / 3)
        if not waiting.done():
            waiting.cancel()
            return  # the check asks for its end
        error = waiting.exception()
        if error is None:
            self._journal.note("end", handle.task_id, "COMPLETED")
            if waiting.result() != Work(work, names.answer(work)):
                self._journal.note("wrong", f"task {handle.task_id} ended with another's result")
        elif not isinstance(error, EdgenodeError):
            raise error

    async def _call(self, client: Client) -> None:
        async for number in self._turns(self._load.calls):
            target = self._edges[number % len(self._edges)]
            work = f"{self._journal.run}-{self._journal.leg}-{self.name}-call-{number}"
            scope = Scope.LOCAL if target == self.name else Scope.FLEET
            where = f"nodes/{target}/agents/{AGENT}"
            try:
                result = await client.call(SKILL, {"work": work}, agent=where, scope=scope, timeout=WAIT / 3, type=Work)
            except EdgenodeError as error:
                self._journal.note("call", error.reason)
            else:
                self._journal.note("call", "ANSWERED")
                if result != Work(work, names.answer(work)):
                    self._journal.note("wrong", f"call {work} got another's answer")
