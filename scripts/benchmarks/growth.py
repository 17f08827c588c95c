"""The case `growth`: what an operation costs with much there, against what it costs with little.

Each subject has nodes or loads of several sizes, which take their turns within a round, so that what slows the machine slows
all of them. Compared are the CPU time of the node for an operation, which says what it costs, and the time it took.

A node moves its write-ahead log into the file every 8 to 16 MiB, which is a fifth of what a message costs it: what is measured
at a time has more bytes than that, or it would tell who happened to do so meanwhile.
"""

from __future__ import annotations

import asyncio
import itertools
import json
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import grpc.aio

from edgenode.api.registry.v1 import registry_service_pb2, registry_service_pb2_grpc
from edgenode.sdk import Client
from edgenode.sdk.credentials import Issuer
from edgenode.sdk.subscription import Subscription
from scripts.benchmarks import bare
from scripts.benchmarks.cases import Effort
from scripts.benchmarks.fleet import BATCH, PATIENCE, TOPIC, Ground, ground, percentile, publish_batches
from scripts.benchmarks.processes import Failed
from scripts.benchmarks.results import LIMIT, Budget, Floor, Metric
from scripts.benchmarks.rounds import PAYLOAD, measure

FLAT = Budget(Floor(1.2, least=False))
BACKLOGS = (1_000, 100_000, 1_000_000)
AGENTS = (10, 1_000, 10_000)
TOPICS = (1, 1_000, 10_000)
SUBSCRIBERS = (1, 10, 100)
HISTORIES = (0, 10_000, 100_000)
PUBLISHED = 48 * BATCH  # messages of a round, 15 MB
DELIVERIES = 20_000  # of a round, all subscribers together
WAITING = "waiting"  # nodes that joined a hub, which they never reach
TRIAL = 0.1  # a scale below which not all sizes are measured
LEAST_MESSAGES = 2_048  # for each subscriber
QUESTION_BYTES, ANSWER_BYTES = 40, 1_400  # of a find
# Nobody listens where it dials: what waits for a hub waits, and trying again costs nothing meanwhile.
PATIENT = {"EDGENODE_RECONNECT_MIN_SECONDS": "600", "EDGENODE_RECONNECT_MAX_SECONDS": "600"}


@dataclass(frozen=True, slots=True)
class Cost:
    """Of one operation, in seconds: CPU time of the node, and time."""

    cpu: float
    wall: float


Step = Callable[[], Awaitable[Cost]]
Fill = Callable[[str, Client, int], Awaitable[int]]


def growth(root: Path, effort: Effort) -> list[Metric]:
    """Every subject, one after the other."""
    return asyncio.run(_growth(root, effort))


async def _growth(root: Path, effort: Effort) -> list[Metric]:
    metrics: list[Metric] = []
    for subject in (_backlog, _agents, _topics, _subscribers, _history):
        async with ground(root, hub=False) as place, AsyncExitStack() as clients:
            metrics += await subject(Subject(place, effort, clients))
    return metrics


class Subject:
    """Where a subject is measured: its ground, how much to do, and the clients that are open until it ends."""

    def __init__(self, place: Ground, effort: Effort, clients: AsyncExitStack) -> None:
        self.place = place
        self.rounds = effort.rounds
        self._scale = effort.scale
        self._clients = clients

    def scaled(self, count: int, least: int = 10) -> int:
        """The share of `count` that is to be done, of the whole at least `least`."""
        return max(int(count * self._scale), min(count, least))

    def sizes(self, all_sizes: Sequence[int]) -> Sequence[int]:
        """Those to compare: in a trial at a small scale the least and the largest alone, as each may be a node."""
        return all_sizes if self._scale >= TRIAL else (all_sizes[0], all_sizes[-1])

    async def node(self, name: str, *, joined: bool = False) -> Client:
        """Start an edge, and a client of it; with `joined` it has a hub, which it never reaches."""
        if joined:
            Issuer().join(self.place.state(name), name, "hub", f"127.0.0.1:{self.place.sync_port}")
        await self.place.start_edge(name, settings=PATIENT)
        return await self._clients.enter_async_context(self.place.client(name))

    async def nodes(
        self,
        kind: str,
        sizes: Sequence[int],
        fill: Fill,
        count: int,
        work: Callable[[Client], Coroutine[Any, Any, object]],
    ) -> tuple[list[tuple[str, Step]], Client]:
        """(steps, client of the last): a node for each size, with as much there as `fill` brings and tells, and the step that
        measures `count` operations of `work` on it. All are calm."""
        steps: list[tuple[str, Step]] = []
        names = [f"{kind}-{size}" for size in self.sizes(sizes)]
        for name, size in zip(names, self.sizes(sizes), strict=True):
            client = await self.node(name, joined=kind == WAITING)
            there = await fill(name, client, size)

            async def step(name: str = name, client: Client = client) -> Cost:
                return await self.cost(name, count, work(client))

            steps.append((_label(there), step))
        for name in names:
            await self.place.calm(name)
        return steps, client

    async def cost(self, node: str, count: int, work: Coroutine[Any, Any, object]) -> Cost:
        """What each of the `count` operations of `work` costs."""
        before, began = self.place.cpu_seconds(node), time.perf_counter()
        await work
        seconds = time.perf_counter() - began
        return Cost((self.place.cpu_seconds(node) - before) / count, seconds / count)

    async def compare(self, what: str, steps: Sequence[tuple[str, Step]]) -> list[Metric]:
        """Do the steps in turn, from little to much, in one round to warm up and those that count."""
        (least, _), *_, (most, _) = steps
        cpu = Metric(f"{what}: {most} / {least}, CPU of the node", "times", budget=FLAT)
        wall = Metric(f"{what}: {most} / {least}, time", "times", budget=FLAT)
        for number in range(self.rounds + 1):
            costs = [(label, await step()) for label, step in steps]
            if number:
                first, last = costs[0][1], costs[-1][1]
                cpu.add(last.cpu / first.cpu, **{f"{label}, us": cost.cpu * 1e6 for label, cost in costs})
                wall.add(last.wall / first.wall, **{f"{label}, us": cost.wall * 1e6 for label, cost in costs})
        return [cpu, wall]


def _label(size: int) -> str:
    return f"{size:,}"


# --- messages that wait for the hub -----------------------------------------------------------------------------------


async def _backlog(subject: Subject) -> list[Metric]:
    async def fill(_: str, client: Client, size: int) -> int:
        waiting = subject.scaled(size, BATCH)
        await publish_batches(client, waiting)
        return waiting

    count = _batches(subject.scaled(PUBLISHED, BATCH))
    steps, _ = await subject.nodes(WAITING, BACKLOGS, fill, count, lambda client: publish_batches(client, count))
    return await subject.compare("publish with so many waiting", steps)


# --- agents -----------------------------------------------------------------------------------------------------------


async def _agents(subject: Subject) -> list[Metric]:
    async def fill(_: str, client: Client, size: int) -> int:
        agents = subject.scaled(size)
        await _register(client, agents)
        return agents

    finds = subject.scaled(300)
    steps, client = await subject.nodes("agents", AGENTS, fill, finds, lambda client: _finds(client, finds))
    most, _ = steps[-1]
    return [
        *await subject.compare("find among so many agents", steps),
        *await _latency(subject, f"find among {most} agents", client, finds),
    ]


async def _latency(subject: Subject, named: str, client: Client, finds: int) -> list[Metric]:
    """Of finding, beside a bare call with as many bytes each way, and what it takes more than that."""
    found = Metric(f"{named}: p99", "ms")
    more = Metric(f"{named}: p99 above a bare unary call's", "ms", budget=Budget(Floor(1.0, least=False)))
    subject.place.start_bare("bare", "node", "--folder", subject.place.folder)
    async with grpc.aio.insecure_channel(bare.address(subject.place.folder)) as channel:
        for _ in range(subject.rounds):
            ours, theirs = await _finds(client, finds), await _bare_finds(channel, finds)
            medians = {"p50": percentile(ours, 0.5) * 1e3, "bare p50": percentile(theirs, 0.5) * 1e3}
            own, limit = percentile(ours, 0.99) * 1e3, percentile(theirs, 0.99) * 1e3
            found.add(own, **medians)
            found.against(LIMIT, limit)
            more.add(own - limit)
    return [found, more]


async def _register(client: Client, count: int) -> None:
    stub = registry_service_pb2_grpc.RegistryServiceStub(client.channel)

    async def register(number: int) -> None:
        request = registry_service_pb2.RegisterAgentRequest(instance_id="i", incarnation=1)
        request.lease_duration.seconds = 3600  # nobody renews it
        request.card.name = f"agent-{number}"
        request.card.skills.add(id=f"skill-{number // 10}", name="one of ten agents that can do it")
        await client.unary(stub.RegisterAgent, request)

    for start in range(0, count, 500):
        await asyncio.gather(*(register(number) for number in range(start, min(start + 500, count))))


async def _finds(client: Client, count: int) -> list[float]:
    """Seconds each took."""
    latencies = []
    for _ in range(count):
        began = time.perf_counter()
        answer = await client.find("skill-0", limit=10)
        latencies.append(time.perf_counter() - began)
        if len(answer.candidates) != 10:
            raise AssertionError(f"found {len(answer.candidates)} of 10: {json.dumps(str(answer))[:200]}")
    return latencies


async def _bare_finds(channel: grpc.aio.Channel, count: int) -> list[float]:
    """Seconds each took, with a question and an answer as long as those of `_finds`."""
    call: Any = channel.unary_unary("/bare/find")
    question = ANSWER_BYTES.to_bytes(4, "big") + bytes(QUESTION_BYTES - 4)
    latencies = []
    for _ in range(count):
        began = time.perf_counter()
        if len(await call(question)) != ANSWER_BYTES:
            raise AssertionError("an answer of another length")
        latencies.append(time.perf_counter() - began)
    return latencies


# --- topics and subscribers -------------------------------------------------------------------------------------------


async def _topics(subject: Subject) -> list[Metric]:
    count = subject.scaled(PUBLISHED)
    client = await subject.node("topics")
    steps: list[tuple[str, Step]] = []
    for size in subject.sizes(TOPICS):
        topics = [f"bench.topic-{number}" for number in range(subject.scaled(size))]

        async def publish(topics: list[str] = topics) -> Cost:
            names = itertools.cycle(topics)
            return await subject.cost(
                "topics", count, measure(lambda: client.publish(next(names), PAYLOAD), count, min(count, 2048))
            )

        steps.append((_label(len(topics)), publish))
    return await subject.compare("publish to so many topics", steps)


async def _subscribers(subject: Subject) -> list[Metric]:
    stage = _Stage(await subject.node("subscribed"))
    alone = Cost(0, 0)  # what publishing costs with nobody subscribed; taken off below

    async def publish_alone() -> None:
        nonlocal alone
        count = _batches(subject.scaled(DELIVERIES, BATCH))
        alone = await subject.cost("subscribed", count, stage.publish(count))

    steps: list[tuple[str, Step]] = []
    for size in subject.sizes(SUBSCRIBERS):
        count = _batches(subject.scaled(max(DELIVERIES // size, LEAST_MESSAGES), BATCH))

        async def deliver(size: int = size, count: int = count) -> Cost:
            if size == SUBSCRIBERS[0]:
                await publish_alone()
            async with stage.audience(size) as audience:
                spent = await subject.cost("subscribed", count, stage.play(count, audience))
            return Cost((spent.cpu - alone.cpu) / size, spent.wall / size)

        steps.append((_label(size), deliver))
    return await subject.compare("deliver a message to each of so many subscribers", steps)


def _batches(count: int) -> int:
    """So many messages in whole batches."""
    return count // BATCH * BATCH


class _Stage:
    """One topic of a fresh node, all of whose messages come from here: so their number is the position in its log."""

    def __init__(self, client: Client) -> None:
        self._client = client
        self._published = 0

    async def publish(self, count: int) -> None:
        """So many messages: whole batches, or one."""
        await (publish_batches(self._client, count) if count > 1 else self._client.publish(TOPIC, PAYLOAD))
        self._published += count

    async def play(self, count: int, audience: Sequence[Subscription]) -> None:
        """Publish so many messages; returns when everybody has all of them."""
        async with asyncio.timeout(PATIENCE):
            await asyncio.gather(self.publish(count), *(_take(subscription, count) for subscription in audience))

    @asynccontextmanager
    async def audience(self, size: int) -> AsyncIterator[list[Subscription]]:
        """So many subscriptions, all of which are up."""
        subscriptions = [self._client.subscribe(TOPIC, after=self._published) for _ in range(size)]
        try:
            await self.play(1, subscriptions)
            yield subscriptions
        finally:
            await asyncio.gather(*(subscription.aclose() for subscription in subscriptions))


async def _take(subscription: Subscription, count: int) -> None:
    for _ in range(count):
        await anext(subscription)


# --- tasks that are finished ------------------------------------------------------------------------------------------


async def _history(subject: Subject) -> list[Metric]:
    async def fill(name: str, client: Client, size: int) -> int:
        worker = ["-m", "scripts.benchmarks.worker", "--state", str(subject.place.state(name)), "--name", "worker"]
        lines = await subject.place.spawn(f"{name}-worker", *worker)
        if not await lines.readline():
            raise Failed(f"the worker of {name} did not start")
        finished = subject.scaled(size)
        await _run_tasks(client, finished)
        return finished

    count = subject.scaled(2_000)
    steps, _ = await subject.nodes("history", HISTORIES, fill, count, lambda client: _run_tasks(client, count))
    return await subject.compare("task with so many finished", steps)


async def _run_tasks(client: Client, count: int) -> None:
    async def run() -> None:
        handle = await client.submit("echo", PAYLOAD)
        if await handle.result() != PAYLOAD:
            raise AssertionError("a task brought back something else")

    if count:
        await measure(run, count, min(count, 1024))
