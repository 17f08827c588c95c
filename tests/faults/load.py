"""Mixed load on a fleet, through the public contract alone, and a record of every receipt it was given.

On each edge: a publisher of numbered messages, a submitter of durable tasks for its own agent and for that of the next edge
(through the hub), calls, a durable subscription, and an agent that comes and goes in the registry; while it is there, tasks
wait for it that then have to go elsewhere. At the hub: a durable subscription to everything. Each payload carries its number
and a checksum. The agents keep a journal of every execution.

Whatever is killed meanwhile, the load goes on: the SDK waits for nodes that are away. `oracle` judges the record.
"""

from __future__ import annotations

import asyncio
import hashlib
import os
from collections import Counter
from collections.abc import Coroutine, Sequence
from contextlib import AsyncExitStack
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from edgenode.api.registry.v1 import registry_pb2, registry_service_pb2, registry_service_pb2_grpc
from edgenode.link.errors import EdgenodeError
from edgenode.sdk import Agent, Client, Context, Level, OnLost, Received, RetryPolicy, Scope, TaskHandle, TaskState
from tests.faults.fleet import Rig

WAVE = 8  # messages published together
OUTSTANDING = 24  # tasks of one edge under way
CALL_TIMEOUT = 5.0
MANY_TRIES = RetryPolicy(attempts=100, initial_backoff=0.05, max_backoff=0.5)
ONE_TRY = RetryPolicy(attempts=1)


def _named(work: Coroutine[Any, Any, None]) -> asyncio.Task[None]:
    return asyncio.create_task(work, name=getattr(work, "__qualname__", "load"))


def checksum(text: str) -> str:
    """What goes with a payload, and what the agents answer."""
    return hashlib.sha256(text.encode()).hexdigest()[:16]


@dataclass(slots=True)
class Producer:
    """A publisher's numbers, from 1: how many were sent, which were acknowledged, at which level."""

    name: str
    sent: int = 0
    acked: set[int] = field(default_factory=set)
    at_hub: set[int] = field(default_factory=set)


@dataclass(frozen=True, slots=True)
class Kind:
    """What is asked of a task. `once`: it must not run twice, whatever happens; `cancelled`: as soon as it is accepted."""

    skill: str
    fleet: bool = False
    once: bool = False
    cancelled: bool = False


# In turn. `spare` is what comes and goes.
KINDS = (
    Kind("echo"),
    Kind("echo", fleet=True),
    Kind("once", once=True),
    Kind("spare", fleet=True),
    Kind("once", fleet=True, once=True),
    Kind("slow", fleet=True, cancelled=True),
)


@dataclass(slots=True)
class Job:
    """An accepted task."""

    name: str
    task_id: str
    origin: str
    kind: Kind
    outcome: str = ""  # the state it ended in
    right: bool = True  # whether its result was the expected one


@dataclass(slots=True)
class Seen:
    """What a durable subscription was handed out."""

    where: str
    messages: Counter[tuple[str, int]] = field(default_factory=Counter)
    newest: dict[str, int] = field(default_factory=dict)
    wrong: list[str] = field(default_factory=list)

    def take(self, received: Received) -> None:
        """Note a message; says what is wrong with it."""
        value = received.value()
        name, number = value["producer"], value["number"]
        self.messages[name, number] += 1
        if value["sum"] != checksum(f"{name}:{number}"):
            self.wrong.append(f"{self.where}: {name}:{number} has another checksum")
        if number <= self.newest.get(name, 0):
            self.wrong.append(f"{self.where}: {name}:{number} came after {self.newest[name]}")
        self.newest[name] = max(number, self.newest.get(name, 0))


class Load:
    """`start`, let the faults happen, `settle`; then everything it knows is there to be judged."""

    def __init__(self, rig: Rig, edges: Sequence[str], journal: Path, pause: float = 0.03) -> None:
        self.rig = rig
        self.edges = list(edges)
        self.journal = journal
        self.producers = [Producer(f"{edge}-pub") for edge in edges]
        self.jobs: list[Job] = []
        self.calls: Counter[str] = Counter()
        self.wrong: list[str] = []
        self.seen = {where: Seen(where) for where in (*edges, "hub")}
        self.flux: dict[str, int] = {}  # turn of each edge's coming and going agent
        self._pause = pause
        self._stack = AsyncExitStack()
        self._stopping = asyncio.Event()
        self._clients: dict[str, Client] = {}
        self._loops: list[asyncio.Task[None]] = []  # end when told to stop
        self._followers: set[asyncio.Task[None]] = set()  # end with what they follow
        self._servants: list[asyncio.Task[None]] = []  # cancelled at the end
        self._agents: list[Agent] = []

    # --- for the test -------------------------------------------------------------------------------------------------

    async def start(self) -> None:
        """Begin; returns when the agents are attached."""
        descriptor = os.open(self.journal, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
        self._stack.callback(os.close, descriptor)
        attached = []
        for edge in self.edges:
            client = self._clients[edge] = await self._stack.enter_async_context(self.rig.client(edge))
            agent = _worker(edge, descriptor)
            self._agents.append(agent)
            ready = asyncio.Event()
            attached.append(ready)
            self._serve(agent.attach(client, lambda _node, ready=ready: ready.set()))  # type: ignore[misc]
        self._clients["hub"] = await self._stack.enter_async_context(self.rig.client("hub"))
        async with asyncio.timeout(30):
            await asyncio.gather(*(ready.wait() for ready in attached))
        for where in self.seen:
            self._serve(self._subscribe(where))
        for number, edge in enumerate(self.edges):
            peer = self.edges[(number + 1) % len(self.edges)]
            self._loop(self._publish(edge, self.producers[number]))
            self._loop(self._submit(edge, peer))
            self._loop(self._call(edge, peer))
            self._loop(self._come_and_go(edge))

    async def settle(self, within: float) -> None:
        """Begin nothing more; wait until every receipt and every outcome is there. Says what is not, in `wrong`."""
        self._stopping.set()
        waiting = [*self._loops, *self._followers]
        if waiting:
            _, late = await asyncio.wait(waiting, timeout=within)
            if late:
                self.wrong.append(f"{len(late)} waits did not end within {within:g} s: {late.pop().get_name()}")
        for task in waiting:
            if task.done() and not task.cancelled() and (error := task.exception()) is not None:
                self.wrong.append(f"{task.get_name()} failed: {error!r}")

    async def close(self) -> None:
        """End everything that runs; safe to call at any time."""
        self._stopping.set()
        for agent in self._agents:
            await agent.stop(grace=1)
        tasks = [*self._loops, *self._followers, *self._servants]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        await self._stack.aclose()

    def client(self, node: str) -> Client:
        """The load's own client of a node."""
        return self._clients[node]

    async def reached(self, tasks: int, messages: int, within: float) -> None:
        """Wait until so many tasks and messages were accepted. Raises TimeoutError."""
        async with asyncio.timeout(within):
            while len(self.jobs) < tasks or self.acked < messages:
                await self._breathe()

    @property
    def acked(self) -> int:
        """Messages acknowledged so far."""
        return sum(len(producer.acked) for producer in self.producers)

    # --- what runs ----------------------------------------------------------------------------------------------------

    def _loop(self, work: Coroutine[Any, Any, None]) -> None:
        self._loops.append(_named(work))

    def _serve(self, work: Coroutine[Any, Any, None]) -> None:
        def done(task: asyncio.Task[None]) -> None:
            if not task.cancelled() and (error := task.exception()) is not None:
                self.wrong.append(f"{task.get_name()} failed: {error!r}")

        task = _named(work)
        task.add_done_callback(done)
        self._servants.append(task)

    def _follow(self, work: Coroutine[Any, Any, None]) -> None:
        task = _named(work)
        self._followers.add(task)

        def done(task: asyncio.Task[None]) -> None:
            if not self._stopping.is_set() and not task.cancelled() and task.exception() is None:
                self._followers.discard(task)

        task.add_done_callback(done)

    async def _breathe(self) -> None:
        await asyncio.sleep(self._pause)

    async def _publish(self, edge: str, producer: Producer) -> None:
        wave = 0
        while not self._stopping.is_set():
            wave += 1
            if wave % 10 == 0:
                self._follow(self._publish_one(edge, producer, Level.DURABLE_HUB))
            await asyncio.gather(*(self._publish_one(edge, producer, Level.DURABLE_LOCAL) for _ in range(WAVE)))
            await self._breathe()

    async def _publish_one(self, edge: str, producer: Producer, level: Level) -> None:
        producer.sent += 1
        number = producer.sent
        payload = {"producer": producer.name, "number": number, "sum": checksum(f"{producer.name}:{number}")}
        topic, key = f"load.{edge}", producer.name
        receipt = await self._clients[edge].publish(topic, payload, key=key, level=level, wait=60)
        producer.acked.add(number)
        if receipt.level >= Level.DURABLE_HUB:
            producer.at_hub.add(number)

    async def _submit(self, edge: str, peer: str) -> None:
        room = asyncio.Semaphore(OUTSTANDING)
        number = 0
        while not self._stopping.is_set():
            number += 1
            kind = KINDS[number % len(KINDS)]
            await room.acquire()
            self._follow(self._run_job(f"{edge}-job-{number}", edge, peer if kind.fleet else edge, kind, room))
            await self._breathe()

    async def _run_job(self, name: str, edge: str, worker: str, kind: Kind, room: asyncio.Semaphore) -> None:
        client = self._clients[edge]
        try:
            handle = await client.submit(
                f"{worker}.{kind.skill}",
                {"job": name},
                scope=Scope.FLEET if kind.fleet else Scope.LOCAL,
                retry=ONE_TRY if kind.once else MANY_TRIES,
                on_lost=OnLost.FAIL if kind.once else OnLost.RETRY,
                idempotency_key=name,
            )
            job = Job(name, handle.task_id, edge, kind)
            self.jobs.append(job)
            if kind.cancelled:
                await handle.cancel("as planned")
            await self._await_outcome(client, handle, job)
        finally:
            room.release()

    async def _await_outcome(self, client: Client, handle: TaskHandle, job: Job) -> None:
        while not job.outcome:
            try:
                result = await handle.result()
                job.outcome, job.right = "COMPLETED", result == checksum(job.name)
            except EdgenodeError:
                # Its own problem, or the way to it was broken: the node knows.
                state = TaskState((await client.get_task(job.task_id)).state)
                if state.terminal:
                    job.outcome = state.name
                handle = client.task(job.task_id)

    async def _call(self, edge: str, peer: str) -> None:
        client, number = self._clients[edge], 0
        while not self._stopping.is_set():
            number += 1
            worker = peer if number % 2 else edge
            name = f"{edge}-call-{number}"
            try:
                async with asyncio.timeout(2 * CALL_TIMEOUT):
                    answer = await client.call(f"{worker}.echo", {"job": name}, scope=Scope.FLEET, timeout=CALL_TIMEOUT)
                self.calls["ok"] += 1
                if answer != checksum(name):
                    self.wrong.append(f"call {name} was answered {answer!r}")
            except EdgenodeError as error:
                self.calls[error.reason] += 1
            except TimeoutError:
                self.wrong.append(f"call {name} hung")
            await self._breathe()

    async def _subscribe(self, where: str) -> None:
        seen = self.seen[where]

        def gap(gap: object) -> None:
            seen.wrong.append(f"{where}: {gap}")

        subscription = self._clients[where].subscribe(["load.>"], name=f"watch-{where}", position="start", on_gap=gap)
        async with subscription as messages:
            async for message in messages:
                seen.take(message)

    async def _come_and_go(self, edge: str) -> None:
        """An agent that registers, changes and leaves, again and again; it stays at the end."""
        client = self._clients[edge]
        stub = registry_service_pb2_grpc.RegistryServiceStub(client.channel)
        name, instance = f"flux-{edge}", client.new_id()
        others = [other for other in self.edges if other != edge]
        while True:
            last = self._stopping.is_set()
            turn = self.flux[edge] = self.flux.get(edge, 0) + 1
            skills = [] if last else [registry_pb2.Skill(id=f"{other}.spare", name="spare") for other in others]
            request = registry_service_pb2.RegisterAgentRequest(
                request_id=client.new_id(),
                card=registry_pb2.AgentCard(name=name, skills=skills),
                instance_id=instance,
                incarnation=turn,
                labels={"turn": str(turn)},
                capacity_count=1,
            )
            await client.unary(stub.RegisterAgent, request)
            if last:
                return
            if turn % 3 == 0:
                leave = registry_service_pb2.DeregisterAgentRequest(
                    request_id=client.new_id(), agent=name, instance_id=instance
                )
                await client.unary(stub.DeregisterAgent, leave)
            await asyncio.sleep(10 * self._pause)


def _worker(edge: str, journal: int) -> Agent:
    """The agent of an edge. It writes down each execution before it does anything."""
    agent = Agent(f"worker-{edge}", concurrency=16)

    def note(ctx: Context, job: str) -> None:
        os.write(journal, f"{ctx.task_id} {ctx.attempt} {job}\n".encode())

    async def work(ctx: Context, job: str) -> str:
        note(ctx, job)
        await asyncio.sleep(0.01)
        return checksum(job)

    async def slow(ctx: Context, job: str) -> str:
        note(ctx, job)
        await asyncio.sleep(0.3)
        return checksum(job)

    agent.skill(f"{edge}.echo", idempotent=True)(work)
    agent.skill(f"{edge}.spare", idempotent=True)(work)
    agent.skill(f"{edge}.once", retries=0)(work)
    agent.skill(f"{edge}.slow", idempotent=True)(slow)
    return agent
