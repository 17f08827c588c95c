"""A task engine with a real store, a clock that is turned by hand, and agents that do what the test says."""

from __future__ import annotations

import asyncio
import random
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

from edgenode.api.registry.v1 import registry_service_pb2
from edgenode.api.sync.v1 import sync_pb2
from edgenode.api.task.v1 import task_pb2
from edgenode.link.model.problem import Code, Problem
from edgenode.link.model.task import TaskSpec, TaskState
from edgenode.link.store import logs
from edgenode.link.store.database import Database
from edgenode.link.wire.tasks import TaskLimits, task_spec_from_proto
from edgenode.node import registry, task_store
from edgenode.node.store import MIGRATIONS
from edgenode.node.task_book import TASK_LOG, TaskSettings
from edgenode.node.task_state import LiveTask
from edgenode.node.tasks import NewTask, Submitted, TaskEngine

FLAKY = Problem(Code.UNAVAILABLE, "FLAKY", "try again", retryable=True)


class HandClock:
    """Both clocks stand until they are turned."""

    def __init__(self) -> None:
        self.now = 1_000.0

    def monotonic(self) -> float:
        return self.now

    def wall(self) -> float:
        return self.now + 1_700_000_000.0


class Agent:
    """Stands in for an agent's stream: keeps what it was told."""

    def __init__(self, engine: TaskEngine, name: str) -> None:
        self.engine = engine
        self.name = name
        self.assigned: list[LiveTask] = []
        self.cancelled: list[str] = []
        self.answered: list[tuple[str, bytes]] = []

    def assign(self, live: LiveTask, timeout: float) -> None:
        self.assigned.append(live)

    def cancel(self, live: LiveTask) -> None:
        self.cancelled.append(live.task_id)

    def allow(self, live: LiveTask, size: int) -> None:
        pass

    def over(self, live: LiveTask) -> None:
        pass

    def answer(self, live: LiveTask, key: str, answer: task_pb2.TaskOutput) -> None:
        self.answered.append((key, answer.data))

    def agent_changed(self) -> None:
        pass

    def replaced(self) -> None:
        pass

    async def finish(
        self,
        live: LiveTask,
        state: TaskState = TaskState.COMPLETED,
        problem: Problem | None = None,
        data: bytes = b"out",
    ) -> None:
        output = task_pb2.TaskOutput(data=data) if state is TaskState.COMPLETED else None
        if self.engine.dispatcher.result(live, state, output, problem):
            await self.engine.book.commit_outcomes([live])


class Link:
    """Stands in for the link to the hub."""

    def __init__(self) -> None:
        self.last = 0
        self.calls: list[LiveTask] = []
        self.cancelled: list[LiveTask] = []
        self.up = True

    def appended(self, last: int) -> None:
        self.last = last

    def send_call(self, live: LiveTask, timeout: float) -> bool:
        if self.up:
            self.calls.append(live)
        return self.up

    def cancel_call(self, live: LiveTask) -> None:
        self.cancelled.append(live)

    def allow_pieces(self, live: LiveTask, size: int) -> None:
        pass

    def send_progress(self, live: LiveTask) -> None:
        pass


class House:
    """One engine on one store; `restart` makes the next one on the same file."""

    def __init__(self, path: Path, link: Link | None) -> None:
        self.path = path
        self.link = link
        self.clock = HandClock()
        self.dead: list[str] = []
        self.engine: TaskEngine
        self.database: Database
        self.registry: registry.AgentRegistry
        self._boots = 0

    async def open(self) -> None:
        self._boots += 1
        self.database = await Database.open(self.path, MIGRATIONS, application_id=1)
        await self.database.write(lambda connection: logs.ensure_log(connection, TASK_LOG, "epoch"))
        self.registry = registry.AgentRegistry(self.database, self.clock, "north", f"boot{self._boots}", self._boots)
        await self.registry.load()
        self.engine = TaskEngine(
            node="north",
            database=self.database,
            registry=self.registry,
            clock=self.clock,
            rng=random.Random(self._boots),
            settings=TaskSettings(max_queued=50, limits=TaskLimits(max_input_bytes=1000, max_output_bytes=1000)),
            on_dead_letter=lambda connection, live: self.dead.append(live.task_id),
        )
        await self.engine.start(self.link)

    async def close(self) -> None:
        await self.engine.stop()
        await self.registry.close()
        await self.database.close()

    async def restart(self) -> None:
        await self.close()
        await self.open()

    async def agent(
        self,
        name: str,
        *skills: str,
        credit: int = 8,
        cost: float = 0.0,
        attach: bool = True,
        instance: str = "i",
        attempts_stored: bool = False,
    ) -> Agent:
        request = registry_service_pb2.RegisterAgentRequest(
            instance_id=instance, incarnation=1 + (instance != "i"), cost=cost
        )
        request.card.name = name
        for skill in skills:
            request.card.skills.add(id=skill, name=skill, attempts_stored=attempts_stored)
        await self.registry.register(request)
        agent = Agent(self.engine, name)
        if attach:
            self.engine.dispatcher.attach(name, agent)
            self.engine.dispatcher.add_credits(name, agent, credit)
        return agent

    def spec(self, skill: str = "work", **fields: object) -> TaskSpec:
        message = task_pb2.TaskSpec(skill=skill, **fields)  # type: ignore[arg-type]
        limits = self.engine.book.settings.limits
        return task_spec_from_proto(message, limits=limits, now=None, node="north")

    async def submit(
        self, skill: str = "work", request_id: str = "", fingerprint: bytes = b"", **fields: object
    ) -> Submitted:
        (result,) = await self.engine.submit([NewTask(self.spec(skill, **fields), request_id, fingerprint)])
        return result

    async def accepted(self, skill: str = "work", **fields: object) -> LiveTask:
        (submitted,) = await self.engine.submit([NewTask(self.spec(skill, **fields))])
        assert submitted.live is not None
        return submitted.live

    async def turn(self, seconds: float = 0.0) -> None:
        """Turn the clock, ring what is due, and let the loop and the store come to rest."""
        self.clock.now += seconds
        self.engine.book.ring()
        calm = 0
        while calm < 3:
            await self.database.read(lambda connection: None)
            calm = calm + 1 if self.database._committer is None else 0

    async def stored(self, task_id: str) -> task_pb2.Task:
        task = await self.database.read(lambda connection: task_store.fetch(connection, task_id, "north"))
        assert task is not None
        return task

    async def accepted_count(self) -> int:
        """How many tasks the ledger says were accepted."""
        return await self.database.read(
            lambda connection: logs.counters(connection, task_store.COUNTER).get(task_store.ACCEPTED, 0)
        )

    async def state(self, task_id: str) -> TaskState:
        return TaskState((await self.stored(task_id)).state)

    async def absorb(self, *entries: sync_pb2.TaskEntry) -> None:
        """Entries of the hub come."""
        numbered = list(enumerate(entries, 1))
        applied = await self.database.write(
            lambda connection: self.engine.applier.apply(connection, numbered, self.clock.wall())
        )
        self.engine.hub.absorb(applied)
        await self.turn()

    async def entries(self) -> list[str]:
        """Kinds of entries in the task log, in order."""
        return [str(entry.WhichOneof("entry")) for entry in await self.log_entries()]

    async def log_entries(self) -> list[sync_pb2.TaskEntry]:
        """The entries themselves."""
        log = await self.database.read(lambda connection: logs.log_state(connection, TASK_LOG))
        chunk = await self.database.read(lambda connection: logs.read(connection, log.log_id, 0, 10_000, 1 << 30))
        batches = [sync_pb2.TaskEntryBatch.FromString(segment.payload) for segment in chunk.segments]
        return [entry for batch in batches for entry in batch.entries]


def grant(task_id: str, fence: int, **fields: object) -> sync_pb2.TaskEntry:
    """An entry of the hub: work for this node."""
    granted = sync_pb2.TaskGrant(task_id=task_id, fence=fence, origin_node="south", **fields)  # type: ignore[arg-type]
    granted.spec.skill = "work"
    return sync_pb2.TaskEntry(grant=granted)


@asynccontextmanager
async def house(path: Path, link: Link | None = None) -> AsyncIterator[House]:
    """An engine for one test."""
    made = House(path / "edge.db", link)
    await made.open()
    try:
        yield made
    finally:
        await made.close()


def ended(live: LiveTask) -> asyncio.Future[LiveTask]:
    future: asyncio.Future[LiveTask] = asyncio.get_running_loop().create_future()
    live.listeners.append(future.set_result)
    return future
