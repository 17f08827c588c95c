from __future__ import annotations

import asyncio
import random
import sqlite3
import time
from collections.abc import AsyncIterator, Callable
from typing import Any

import msgspec
import pytest

from edgenode.api.sync.v1 import sync_pb2
from edgenode.api.task.v1 import task_pb2
from edgenode.link.errors import DeadlineExceeded, ResourceExhausted
from edgenode.link.model.agent import AgentView
from edgenode.link.model.lanes import Lane, Segment
from edgenode.link.model.task import OnLost, TaskState
from edgenode.link.ports import SystemClock
from edgenode.link.protocol.scheduler import Demand
from edgenode.link.store import logs
from edgenode.link.store.database import Database
from edgenode.link.store.seals import TASK_DAMAGED, TaskDamaged
from edgenode.link.wire.tasks import TaskLimits
from hub.services.alarm import Alarm
from hub.services.dispatcher import Dispatcher, DispatcherSettings
from hub.services.entries import EntryCodec, EntryReader, pack
from hub.services.mover import Mover
from hub.services.placement import Placement
from hub.services.recovery import Recovery
from hub.services.view import FleetView, KnownAgent
from hub.store.fleet import SqliteFleetStore
from hub.store.records import PARENT, Committed, Intake, Selection, TaskFilter, TaskRecord
from hub.store.schema import open_database
from hub.store.tasks import SqliteTaskStore, task_log
from tests.unit.hub.letters import keeper

AVOID_SECONDS = 0.1
REASSIGN_SECONDS = 0.2


class Desk:
    """A dispatcher over a store in memory, with the fleet it knows."""

    def __init__(self, database: Database) -> None:
        clock = SystemClock()
        rng = random.Random(1)
        self.database = database
        self.view = FleetView(lease=15.0)
        self.placement = Placement(self.view, rng)
        self.alarm = Alarm(clock)
        self.store = SqliteTaskStore(database, pack(clock), lambda: f"{rng.getrandbits(64):016x}", keeper())
        self.dispatcher = Dispatcher(
            self.store,
            Mover("hub", EntryCodec("hub"), AVOID_SECONDS),
            self.placement,
            self.view,
            EntryReader(TaskLimits()),
            clock,
            self.alarm,
            lambda node, lane, last: None,
            DispatcherSettings(reassign_after=REASSIGN_SECONDS, retention=-1.0, sweep_interval=3600.0),
            Recovery(self.alarm, REASSIGN_SECONDS, lambda node: True, lambda nodes: None),
            SqliteFleetStore(database, lambda: "epoch", keeper()).settled,
        )
        self._sent: dict[str, int] = {}

    def join(self, node: str, skill: str = "code.metrics") -> None:
        """The node has a session and an agent."""
        self.view.connected(node, time.monotonic())
        view = AgentView(f"nodes/{node}/agents/code", frozenset({skill}))
        self.view.apply([KnownAgent(node, view, b"", 1, 1)], [])
        self.dispatcher.node_back(node)

    def lose(self, node: str) -> None:
        """The node's lease runs out."""
        now = time.monotonic()
        self.view.disconnected(node, now - 60.0, now)
        self.view.expire(now)
        self.dispatcher.node_unreachable(node)

    async def take(self, node: str, *entries: sync_pb2.TaskEntry) -> None:
        """Entries of the node's task lane."""
        base = self._sent.get(node, 0) + 1
        self._sent[node] = base + len(entries) - 1
        payload = sync_pb2.TaskEntryBatch(entries=entries).SerializeToString()
        await self.dispatcher.apply(Intake(node, Lane.TASK, f"of-{node}", base, (Segment(len(entries), payload, 1.0),)))

    async def offer(self, task_id: str, origin: str = "south", **spec: object) -> None:
        wanted = task_pb2.TaskSpec(**{"skill": "code.metrics", **spec})  # type: ignore[arg-type]
        await self.take(origin, sync_pb2.TaskEntry(offer=sync_pb2.TaskOffer(task_id=task_id, spec=wanted)))

    async def give_back(self, node: str, task_id: str, fence: int) -> None:
        await self.take(node, sync_pb2.TaskEntry(returned=sync_pb2.TaskReturn(task_id=task_id, fence=fence)))

    async def task(self, task_id: str) -> TaskRecord:
        return await self.dispatcher.get(task_id)

    async def until(self, task_id: str, condition: Callable[[TaskRecord], object]) -> TaskRecord:
        """Wait until the task is as wanted; fails after ten seconds."""
        deadline = time.monotonic() + 10.0
        while not condition(task := await self.task(task_id)):
            assert time.monotonic() < deadline, f"it never came so far: {task}"
            await asyncio.sleep(0.005)
        return task

    async def told(self, node: str) -> list[sync_pb2.TaskEntry]:
        """Entries in the node's log."""

        def read(connection: object) -> list[Segment]:
            log = logs.ensure_log(connection, task_log(node), "none")  # type: ignore[arg-type]
            return list(logs.read(connection, log.log_id, 0, 1 << 20, 1 << 30).segments)  # type: ignore[arg-type]

        segments = await self.database.write(read)
        return [entry for part in segments for entry in sync_pb2.TaskEntryBatch.FromString(part.payload).entries]


@pytest.fixture
async def desk() -> AsyncIterator[Desk]:
    database = await open_database(None, 1 << 26)
    made = Desk(database)
    await made.dispatcher.start(has_parent=False)
    try:
        yield made
    finally:
        await made.dispatcher.stop()
        made.alarm.close()
        await database.close()


async def test_a_task_whose_submitter_left_during_the_commit_is_moved_all_the_same(desk: Desk) -> None:
    desk.join("north")
    record = TaskRecord("t", "hub", Demand("code.metrics"), 5, submit_time=time.time(), spec=b"")
    submitting = asyncio.create_task(desk.dispatcher.submit([record]))
    await asyncio.sleep(0)  # by now the transaction is on its way
    submitting.cancel()
    await asyncio.wait({submitting})
    assert submitting.cancelled()
    assert (await desk.until("t", lambda task: task.holder)).holder == "north"


@pytest.mark.parametrize("on_lost", [OnLost.RETRY, OnLost.WAIT])
async def test_a_task_of_a_node_that_is_gone_for_good_can_be_cancelled(desk: Desk, on_lost: OnLost) -> None:
    desk.join("north")
    await desk.offer("t", on_lost=int(on_lost))
    await desk.until("t", lambda task: task.holder)
    desk.lose("north")
    await until(lambda: desk.dispatcher._lost.get("north") == desk.view.version)
    assert (await desk.task("t")).held, "nobody else may have it"
    await desk.dispatcher.cancel("t", "enough")
    await desk.until("t", lambda task: task.state is TaskState.CANCELED)
    reports = [entry.report.task for entry in await desk.told("south") if entry.HasField("report")]
    assert reports[-1].state == task_pb2.TASK_STATE_CANCELED


async def test_each_absence_of_a_node_is_waited_for_in_full(desk: Desk) -> None:
    desk.join("north")
    before = len(desk.alarm)
    for _ in range(3):
        desk.lose("north")
        assert len(desk.alarm) == before + 1
        desk.join("north")
        assert len(desk.alarm) == before


async def damage(desk: Desk, task_id: str, table: str, column: str) -> None:
    """Flip the lowest bit of a blob's first byte."""

    def flip(connection: sqlite3.Connection) -> None:
        mine = "task_number = (SELECT task_number FROM task WHERE task_id = ?)"
        (stored,) = connection.execute(f"SELECT {column} FROM {table} WHERE {mine}", (task_id,)).fetchone()
        flipped = bytes([stored[0] ^ 1]) + stored[1:]
        connection.execute(f"UPDATE {table} SET {column} = ? WHERE {mine}", (flipped, task_id))

    await desk.database.write(flip)


async def test_a_task_that_is_not_what_was_stored_fails_instead_of_being_granted(desk: Desk) -> None:
    await desk.offer("hit")
    await desk.offer("whole")
    await damage(desk, "hit", "task_spec", "spec")
    with pytest.raises(TaskDamaged):
        await desk.task("hit")
    desk.join("north")
    await desk.until("whole", lambda task: task.holder)
    grants = [entry.grant.task_id for entry in await desk.told("north") if entry.HasField("grant")]
    assert grants == ["whole"]
    reports = [entry.report.task for entry in await desk.told("south") if entry.HasField("report")]
    ended = [task for task in reports if task.state == task_pb2.TASK_STATE_FAILED]
    assert [(task.task_id, task.problem.reason) for task in ended] == [("hit", TASK_DAMAGED)]
    shown = await desk.task("hit")
    assert (shown.state, shown.state_reason, shown.spec) == (TaskState.FAILED, TASK_DAMAGED, b"")
    assert desk.placement.pending_count == 1


async def test_an_outcome_that_is_not_what_was_stored_is_never_told(desk: Desk) -> None:
    desk.join("north")
    await desk.offer("t")
    granted = await desk.until("t", lambda task: task.holder)
    done = task_pb2.Task(task_id="t", state=task_pb2.TASK_STATE_COMPLETED, fence=granted.fence)
    done.output.data = b"right"
    await desk.take("north", sync_pb2.TaskEntry(report=sync_pb2.TaskReport(task=done)))
    await damage(desk, "t", "task", "outcome")
    with pytest.raises(TaskDamaged):
        await desk.task("t")
    await desk.offer("t")  # its origin has lost what it knew
    reports = [entry.report.task for entry in await desk.told("south") if entry.HasField("report")]
    assert (reports[-1].state, reports[-1].problem.reason) == (task_pb2.TASK_STATE_FAILED, TASK_DAMAGED)
    (row,) = await desk.store.page(TaskFilter())
    assert row[1].state is TaskState.COMPLETED, "an end never changes"


async def test_answers_that_are_not_what_was_stored_end_the_task_where_it_is(desk: Desk) -> None:
    desk.join("north")
    await desk.offer("t")
    await desk.until("t", lambda task: task.holder)
    given = sync_pb2.TaskAnswer(task_id="t", key="k", answer=task_pb2.TaskOutput(data=b"v"))
    await desk.take("south", sync_pb2.TaskEntry(answer=given))
    await damage(desk, "t", "task", "answers")
    await desk.give_back("north", "t", 1)
    assert (await desk.task("t")).state_reason == TASK_DAMAGED
    assert "revoke" in [entry.WhichOneof("entry") for entry in await desk.told("north")]


async def test_the_same_submission_of_a_damaged_task_is_refused(desk: Desk) -> None:
    record = TaskRecord("t", "hub", Demand("code.metrics"), 5, submit_time=time.time(), spec=b"s", idempotency_key="k")
    await desk.dispatcher.submit([record])
    await damage(desk, "t", "task_spec", "spec")
    (answer,) = await desk.dispatcher.submit([msgspec.structs.replace(record, task_id="u")])
    assert isinstance(answer, TaskDamaged)
    assert (await desk.task("t")).state is TaskState.FAILED


@pytest.mark.parametrize("key", ["idempotency_key", "request_id"])
async def test_what_was_submitted_in_time_is_known_after_its_deadline_and_nothing_new_is_taken(
    desk: Desk, key: str
) -> None:
    deadline = time.time() + 0.2
    record = TaskRecord("t", "hub", Demand("code.metrics"), 5, submit_time=1.0, spec=b"s", deadline=deadline)
    record = msgspec.structs.replace(record, **{key: "k"})
    (first,) = await desk.dispatcher.submit([record])
    await desk.until("t", lambda task: task.state is TaskState.EXPIRED)
    again = msgspec.structs.replace(record, task_id="u")
    late = msgspec.structs.replace(record, task_id="v", **{key: "other"})
    known, refused, unkeyed = await desk.dispatcher.submit([again, late, msgspec.structs.replace(late, **{key: ""})])
    assert isinstance(first, TaskRecord)
    assert isinstance(known, TaskRecord)
    assert known.task_id == first.task_id == "t"
    for problem in (refused, unkeyed):
        assert isinstance(problem, DeadlineExceeded)
        assert problem.reason == "PAST_DEADLINE"
    assert [row.task_id for _, row in await desk.store.page(TaskFilter())] == ["t"]


async def test_tasks_given_back_one_after_the_other_are_all_granted_again(desk: Desk) -> None:
    desk.join("north")
    await desk.offer("a")
    await desk.offer("b")
    await desk.until("b", lambda task: task.holder)
    await desk.give_back("north", "a", 1)
    await asyncio.sleep(AVOID_SECONDS / 2)
    await desk.give_back("north", "b", 1)
    for task_id in "ab":
        await desk.until(task_id, lambda task: task.fence == 2)


async def test_a_full_store_forgets_what_ended_although_nothing_can_be_granted(
    desk: Desk, monkeypatch: pytest.MonkeyPatch
) -> None:
    await desk.offer("ended")
    await desk.dispatcher.cancel("ended", "enough")
    await desk.offer("waits")

    async def full(*_: object) -> None:
        raise ResourceExhausted("STORE_FULL", "full", retry_after=5.0)

    monkeypatch.setattr(desk.store, "transact", full)
    desk.join("north")
    desk.dispatcher.sweep_soon()
    await until_none(desk, "ended")


@pytest.mark.parametrize("has_parent", [True, False])
async def test_what_a_full_store_could_not_hand_up_or_park_is_looked_at_again(
    desk: Desk, monkeypatch: pytest.MonkeyPatch, has_parent: bool
) -> None:
    monkeypatch.setattr("hub.services.dispatcher.RETRY_SECONDS", 0.01)
    honest = desk.store.transact
    refused: list[Selection] = []

    async def full(selection: Selection, *rest: Any) -> Committed:
        if (selection.not_parked and has_parent) or (selection.waiting and not refused):
            refused.append(selection)
            raise ResourceExhausted("STORE_FULL", "no room")
        return await honest(selection, *rest)

    monkeypatch.setattr(desk.store, "transact", full)
    if has_parent:
        desk.dispatcher.parent_back()
    await desk.offer("t", skill="nobody.can")
    await desk.until("t", lambda task: task.holder == PARENT if has_parent else task.state is TaskState.PARKED)
    assert refused


async def until(condition: Callable[[], object]) -> None:
    """Wait for a condition that something else brings about; fails after ten seconds."""
    deadline = time.monotonic() + 10.0
    while not condition():
        assert time.monotonic() < deadline, "the condition never held"
        await asyncio.sleep(0.005)


async def until_none(desk: Desk, task_id: str) -> None:
    """Wait until the task is forgotten."""
    deadline = time.monotonic() + 10.0
    while await desk.store.get(task_id) is not None:
        assert time.monotonic() < deadline, "it was never forgotten"
        await asyncio.sleep(0.005)
