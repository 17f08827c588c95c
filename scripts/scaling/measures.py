"""What a hub pays for each thing with so many edges connected. Everything done is counted, and the counts must add up."""

from __future__ import annotations

import asyncio
import gc
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable
from contextlib import asynccontextmanager
from pathlib import Path

import psutil

from edgenode.api.registry.v1 import registry_service_pb2
from edgenode.api.sync.v1 import sync_pb2
from edgenode.api.task.v1 import task_pb2
from edgenode.link.errors import EdgenodeError
from edgenode.link.protocol.scheduler import Demand
from hub.services.registry import RegistryService
from scripts.scaling.crowd import EVERYWHERE, NARROW, SITES, Fleet, rare_skill
from scripts.scaling.virtual import VirtualLoop

KIB = 1024.0
SETTLE = 1.0  # simulated seconds in which what was begun is done
MOMENT = 0.01  # between one thing and the next, so that they do not join
PARKED = 10  # queues that wait at the hub for a skill nobody has
PAGE = 20
COLLECT = (20_000, 20, 50)  # as the services have it

Figures = dict[str, float]


class Mismatch(AssertionError):
    """Something did not add up."""


def check(what: str, found: float, expected: float) -> None:
    """Raises Mismatch unless both are the same."""
    if found != expected:
        raise Mismatch(f"{what}: {found:g} instead of {expected:g}")


def measure(folder: Path, count: int, items: int) -> Figures:
    """All measures with `count` edges, each of `items` operations at most; raises Mismatch."""
    loop = VirtualLoop()
    before = gc.get_threshold()
    gc.set_threshold(*COLLECT)
    try:
        return loop.run_until_complete(_measure(loop, folder, count, items))
    finally:
        gc.set_threshold(*before)
        loop.close()


async def _measure(loop: VirtualLoop, folder: Path, count: int, items: int) -> Figures:
    figures: Figures = {}
    fleet = Fleet(loop, folder, count)
    await fleet.start()
    try:
        await _all(fleet, items, figures)
    finally:
        await fleet.stop()
    return figures


async def _all(fleet: Fleet, items: int, figures: Figures) -> None:
    bench = _Bench(fleet, min(items, len(fleet.edges)), figures)
    steps = (
        bench.gather,
        bench.heartbeats,
        bench.changes,
        bench.finds,
        bench.pages,
        bench.calls,
        bench.tasks,
        bench.reconnects,
        bench.leases,
        bench.collection,
    )
    for step in steps:
        await step()


class _Bench:
    """One hub with its edges, and the figures so far: memory in KiB, CPU in microseconds an item."""

    def __init__(self, fleet: Fleet, items: int, figures: Figures) -> None:
        self._fleet = fleet
        self._core = fleet.core
        self._items = items
        self._figures = figures

    async def _cpu(self, name: str, count: int, work: Callable[[], Awaitable[object]]) -> None:
        """CPU of `work`, and of what it set off, for each of `count` items."""
        gc.collect()
        began = time.process_time()
        await work()
        await asyncio.sleep(SETTLE)
        self._figures[f"cpu.{name}"] = (time.process_time() - began) / count * 1e6

    # --- comings and goings -------------------------------------------------------------------------------------------

    async def gather(self) -> None:
        """All edges come for the first time."""
        fleet, edges, view = self._fleet, self._fleet.edges, self._core.view
        gc.collect()
        before, stored, commits = psutil.Process().memory_info().rss, fleet.store_bytes, fleet.database.commits
        await self._cpu("first greeting and registration", len(edges), lambda: fleet.gather(edges))
        gc.collect()
        grown = psutil.Process().memory_info().rss - before
        self._figures["memory.connected edge, all of it but gRPC"] = grown / len(edges) / KIB
        self._figures["memory.rows in the store (disk)"] = (fleet.store_bytes - stored) / len(edges) / KIB
        self._figures["count.commits for a first greeting, 500 at once"] = (fleet.database.commits - commits) / len(
            edges
        )
        check("sessions", len(self._core.links.connections), len(edges))
        check("welcomes", sum(edge.greeted for edge in edges), len(edges))
        check("agents known", len(view.names()), len(edges))
        check("nodes in reach", sum(node.reachable for node in view.nodes()), len(edges))
        rows = await fleet.database.read(lambda sql: sql.execute("SELECT count(*) FROM agent").fetchone()[0])
        check("agents stored", rows, len(edges))

    async def reconnects(self) -> None:
        """Some go and come again, while the others stay."""
        fleet, chosen = self._fleet, self._fleet.drawn(self._items)
        await self._cpu("session ends", len(chosen), lambda: fleet.part(chosen))
        check("sessions left", len(self._core.links.connections), len(fleet.edges) - len(chosen))
        commits = fleet.database.commits

        async def come() -> None:
            for edge in chosen:
                fleet.dial(edge)
                await asyncio.sleep(MOMENT)

        await self._cpu("reconnect greeting", len(chosen), come)
        self._figures["count.commits for a greeting, alone"] = (fleet.database.commits - commits) / len(chosen)
        check("sessions", len(self._core.links.connections), len(fleet.edges))

    async def leases(self) -> None:
        """Some that are gone stay away for a lease."""
        fleet, view = self._fleet, self._core.view
        chosen = fleet.drawn(self._items)
        await fleet.part(chosen)
        wait = fleet.config.lease_seconds
        for edge in fleet.staying:
            edge.beat()
        await asyncio.sleep(SETTLE)
        beats = fleet.heard("heartbeat")
        now = fleet.loop.monotonic()
        for edge in chosen:
            view.disconnected(edge.name, now - wait, now)

        async def expire() -> None:
            check("leases that ran out", len(view.expire(fleet.loop.monotonic())), len(chosen))

        await self._cpu("lease runs out", len(chosen), expire)
        check("heartbeats meanwhile", fleet.heard("heartbeat"), beats)
        check("nodes out of reach", sum(not node.reachable for node in view.nodes()), len(chosen))
        in_reach = len(fleet.edges) - len(chosen)
        await self._find("find, every edge, some out of reach", min(PAGE, in_reach), skill=EVERYWHERE)
        await fleet.gather(chosen)
        check("nodes in reach again", sum(node.reachable for node in view.nodes()), len(fleet.edges))

    # --- what goes on -------------------------------------------------------------------------------------------------

    async def heartbeats(self) -> None:
        """Every edge says that it lives, without and with a load; then so does the hub to each."""
        fleet, edges = self._fleet, self._fleet.edges
        before = fleet.heard("heartbeat")

        async def beat(in_flight: int | None) -> None:
            for edge in edges:
                edge.beat(in_flight)

        await self._cpu("heartbeat of an edge", len(edges), lambda: beat(None))
        await self._cpu("heartbeat with a load", len(edges), lambda: beat(1))
        check("loads", sum(agent.in_flight for agent in self._core.view.with_skill("")), len(edges))
        await beat(0)
        check("no heartbeats of the hub yet", fleet.heard("heartbeat"), before)
        await self._cpu("heartbeat of the hub", len(edges), lambda: asyncio.sleep(fleet.config.heartbeat_seconds))
        check("heartbeats of the hub", fleet.heard("heartbeat"), before + len(edges))

    async def changes(self) -> None:
        """An agent's health changes, while somebody watches the fleet and tasks wait for a skill nobody has."""
        fleet, chosen = self._fleet, self._fleet.drawn(self._items)
        await self._submit(f"nobody.can-{number}" for number in range(PARKED))
        check("tasks parked", self._core._placement.parked_count, PARKED)
        acks = fleet.heard("registry_ack")

        async def change() -> None:
            for edge in chosen:
                edge.tell_registry(health_reason="worn")
                await asyncio.sleep(MOMENT)

        async def change_back() -> None:
            for edge in chosen:
                edge.tell_registry()

        async with self._watching() as seen:
            commits = fleet.database.commits
            await self._cpu("registry change, alone", len(chosen), change)
            self._figures["count.commits for a registry change, alone"] = (fleet.database.commits - commits) / len(
                chosen
            )
            check("changes that a watcher saw", len(seen), len(chosen))
        await self._cpu("registry change, many at once", len(chosen), change_back)
        check("changes acknowledged", fleet.heard("registry_ack") - acks, 2 * len(chosen))

    @asynccontextmanager
    async def _watching(self) -> AsyncIterator[list[str]]:
        service = RegistryService(self._core.view, self._core._finder, self._fleet.loop)
        request = registry_service_pb2.WatchAgentsRequest(after_version=self._core.view.version)
        seen: list[str] = []

        async def watch() -> None:
            async for response in service.WatchAgents(request, None):  # type: ignore[arg-type]
                seen.extend(agent.name for agent in response.agents)

        task = asyncio.create_task(watch())
        await asyncio.sleep(MOMENT)
        try:
            yield seen
        finally:
            task.cancel()
            await asyncio.wait([task])

    async def finds(self) -> None:
        """What few can do, what every edge can do, the same with a label; loads change between two questions."""
        count = len(self._fleet.edges)
        await self._find("find, ten can do it", min(NARROW, count), skill=rare_skill(0))
        await self._find("find, every edge can do it", min(PAGE, count), skill=EVERYWHERE)
        await self._find(
            "find, every edge, with a label",
            min(PAGE, len(range(1, count, SITES))),
            skill=EVERYWHERE,
            selector="site=site-1",
        )

    async def _find(self, name: str, expected: int, **query: str) -> None:
        request = registry_service_pb2.FindAgentsRequest(page_size=PAGE, **query)  # type: ignore[arg-type]
        found: list[int] = []
        times = self._items

        async def find_once() -> None:
            found.append(len((await self._core._finder.find(request)).candidates))

        async def find() -> None:
            for edge in self._fleet.drawn(times):
                edge.beat(in_flight=len(found) % 3)
                await asyncio.sleep(MOMENT)
                await find_once()

        await self._cpu(f"first {name}", 1, find_once)
        await self._cpu(name, times, find)
        check(name, min(found), expected)

    async def pages(self) -> None:
        """An operator goes through the agents page by page."""
        service = RegistryService(self._core.view, self._core._finder, self._fleet.loop)
        seen: list[str] = []
        pages = 0

        async def go() -> None:
            nonlocal pages
            token = ""
            while pages < 20 and (token or not pages):
                request = registry_service_pb2.ListAgentsRequest(page_size=100, page_token=token)
                page = await service.ListAgents(request, None)  # type: ignore[arg-type]
                seen.extend(agent.name for agent in page.agents)
                token, pages = page.next_page_token, pages + 1

        await self._cpu("page of 100 agents", 1, go)
        self._figures["cpu.page of 100 agents"] /= pages
        check("agents listed", len(set(seen)), min(2000, len(self._fleet.edges)))

    async def calls(self) -> None:
        """An edge calls what every edge can do; the hub chooses one, and brings the answer back."""
        await self._cpu("first look at who fits", 1, self._fit)
        fleet, callers = self._fleet, self._fleet.drawn(self._items)
        before = fleet.heard("calls")

        async def call() -> None:
            for caller in callers:
                batch = sync_pb2.CallBatch()
                batch.calls.add(call_id=1, spec=task_pb2.TaskSpec(skill=EVERYWHERE, input=b"{}"))
                caller.send(sync_pb2.Frame(calls=batch))
                await asyncio.sleep(MOMENT)

        await self._cpu("call from edge to edge", len(callers), call)
        check("calls and answers", fleet.heard("calls") - before, 2 * len(callers))
        check("calls under way", len(self._core.calls), 0)

    async def _fit(self) -> None:
        nodes = len(self._core.view.fit(Demand(EVERYWHERE)).nodes)
        check("nodes that fit", nodes, len(self._fleet.edges))

    async def tasks(self) -> None:
        """The hub's own caller submits what every edge can do, one after the other; each is granted to an edge."""
        before = self._core._placement.pending_count
        await self._cpu("task granted, alone", self._items, lambda: self._submit([EVERYWHERE] * self._items))
        check("tasks", self._core._placement.pending_count - before, self._items)
        check("tasks that wait", self._core._placement.waiting_count, PARKED)

    async def _submit(self, skills: Iterable[str]) -> None:
        desk = self._core._desk
        for skill in skills:
            (answer,) = await desk.submit([desk.record(task_pb2.TaskSpec(skill=skill, input=b"{}"))])
            if isinstance(answer, EdgenodeError):
                raise answer
            await asyncio.sleep(MOMENT)

    async def collection(self) -> None:
        """The cyclic collector looks at everything, which stops the process."""
        began = time.process_time()
        gc.collect()
        self._figures["pause.full collection, ms"] = (time.process_time() - began) * 1e3
