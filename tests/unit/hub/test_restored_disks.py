"""Disks that are set back: an edge's log and the hub's store, with the link between them reduced to its arithmetic."""

from __future__ import annotations

import shutil
import sqlite3
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from edgenode.api.message.v1 import message_pb2
from edgenode.link.model.lanes import Gap, Lane, LaneCursor, LaneHead, Segment
from edgenode.link.model.task import OnLost
from edgenode.link.protocol.lanes import ahead, resume_point
from edgenode.link.protocol.scheduler import Demand
from edgenode.link.store import inbox, logs
from edgenode.link.store.database import Database
from edgenode.link.store.outbox import SqliteOutbox
from edgenode.link.store.retention import Retention
from hub.services.entries import cut_messages
from hub.services.ledger import ledger_lines
from hub.store import backup
from hub.store.fleet import SqliteFleetStore
from hub.store.link import SqliteLinkStore
from hub.store.messages import SqliteMessageStore
from hub.store.records import IN_DOUBT_AT_HOLDER, Decision, Intake, Selection, TaskRecord
from hub.store.restating import TaskLane
from hub.store.schema import MESSAGE_LOG, open_database
from hub.store.tasks import SqliteTaskStore, task_log
from tests.unit.hub.letters import keeper

KEEP_ALL = Retention(acked_bytes=1 << 20, acked_seconds=3600)


class Epochs:
    """Every epoch has a name of its own."""

    number = 0

    def __call__(self) -> str:
        Epochs.number += 1
        return f"e{Epochs.number}"


class World:
    """`north` and `hub`, each a file; `open` is a start of the process, `copy` and `set_back` are what people do to disks."""

    def __init__(self, folder: Path, retention: Retention) -> None:
        self.folder = folder
        self.retention = retention
        self.epochs = Epochs()
        self.published = 0

    async def open(self) -> World:
        self.north = await Database.open(self.folder / "north.db", [logs.SCHEMA], application_id=7)
        self.outbox = SqliteOutbox(
            self.north, {Lane.MESSAGE: "log"}, "parent", self.epochs, lambda *_: None, {Lane.MESSAGE: self.retention}
        )
        await self.north.write(lambda connection: logs.open_log(connection, "log", self.epochs()))
        await self.north.write(self.outbox.ensure)
        self.hub = await open_database(self.folder / "hub.db", 1 << 26)
        self.messages = SqliteMessageStore(self.hub, cut_messages, self.epochs)
        await self.messages.prepare()
        self.fleet = SqliteFleetStore(self.hub, self.epochs, keeper())
        await self.fleet.prepare()
        return self

    async def close(self) -> None:
        await self.north.close()
        await self.hub.close()

    async def copy(self, name: str) -> None:
        await self.close()
        shutil.copy(self.folder / f"{name}.db", self.folder / f"{name}.copy")
        await self.open()

    async def set_back(self, name: str) -> None:
        await self.close()
        for beside in self.folder.glob(f"{name}.db*"):
            beside.unlink()
        shutil.copy(self.folder / f"{name}.copy", self.folder / f"{name}.db")
        await self.open()

    async def publish(self, count: int) -> None:
        for _ in range(count):
            batch = message_pb2.MessageBatch(messages=[message_pb2.Message(topic="t", key=str(self.published))])
            segment = Segment(1, batch.SerializeToString(), 1.0)
            self.published += 1
            await self.north.write(
                lambda c, segment=segment: logs.append(c, logs.log_state(c, "log").log_id, [segment])  # type: ignore[misc]
            )

    async def sync(self) -> None:
        """A session: greeting, everything that is missing, acknowledgement."""
        (head,) = await self.outbox.heads()
        cursors = await self.hub.read(lambda connection: inbox.inbox_cursors(connection, "north", [head]))
        cursor = next((cursor for cursor in cursors if cursor.lane is Lane.MESSAGE), LaneCursor(Lane.MESSAGE, "", 0))
        if ahead({Lane.MESSAGE: head}, {}, {Lane.MESSAGE: cursor}):
            head = await self.outbox.renew_epoch(Lane.MESSAGE)
        after = resume_point(head, cursor)
        chunk = await self.outbox.read(Lane.MESSAGE, after, 10_000, 1 << 30)
        if chunk.segments:
            gap = Gap("NOT_HELD", after) if chunk.base > after + 1 else None
            intake = Intake("north", Lane.MESSAGE, head.epoch, chunk.base, chunk.segments, gap)
            applied, _ = await self.messages.append(intake)
            await self.outbox.acknowledged(Lane.MESSAGE, head.epoch, applied.sequence, ())

    async def at_hub(self) -> list[int]:
        chunk = (await self.messages.read(0, 10_000, 1 << 30)).chunk
        batches = [message_pb2.MessageBatch.FromString(segment.payload) for segment in chunk.segments]
        return [int(message.key) for batch in batches for message in batch.messages]

    async def gaps(self) -> int:
        lines = ledger_lines(await SqliteLinkStore(self.hub).ledger())
        assert [line.hop for line in lines if not line.balanced] == []
        return sum(line.dropped_counts["GAP"] for line in lines if line.hop == "message.uplink")


@pytest.fixture
async def world(tmp_path: Path) -> AsyncIterator[World]:
    world = await World(tmp_path, KEEP_ALL).open()
    yield world
    await world.close()


async def test_a_hub_that_was_set_back_is_refilled(world: World) -> None:
    await world.publish(10)
    await world.sync()
    await world.copy("hub")
    await world.publish(10)
    await world.sync()
    await world.set_back("hub")
    await world.publish(10)
    await world.sync()
    assert await world.at_hub() == list(range(30))
    assert await world.gaps() == 0


async def test_what_was_kept_too_short_is_a_gap_of_exactly_that_many(world: World) -> None:
    await world.publish(10)
    await world.sync()
    await world.copy("hub")
    await world.publish(10)
    await world.sync()
    size = len(message_pb2.MessageBatch(messages=[message_pb2.Message(topic="t", key="10")]).SerializeToString())
    world.retention = Retention(acked_bytes=4 * size, acked_seconds=3600)
    await world.set_back("hub")
    await world.publish(1)
    await world.outbox.trim()
    await world.sync()
    assert await world.at_hub() == [*range(10), 16, 17, 18, 19, 20]
    assert await world.gaps() == 6


@pytest.mark.parametrize("offline", [0, 5, 25])
async def test_an_edge_that_was_set_back_gives_no_number_twice(world: World, offline: int) -> None:
    """Whether it has appended nothing since, or more than the hub knew beyond it, over a restart or not."""
    await world.publish(10)
    await world.sync()
    await world.copy("north")
    await world.publish(10)
    await world.sync()
    await world.set_back("north")
    await world.publish(offline)
    await world.close()
    await world.open()
    await world.sync()
    await world.publish(3)
    await world.sync()
    assert await world.at_hub() == list(range(23 + offline))
    assert await world.gaps() == 0


async def test_a_log_that_keeps_its_epoch_loses_messages(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    """The protection of the test before, taken away: it must fail then."""
    monkeypatch.setattr(logs, "open_log", logs.ensure_log)
    with pytest.raises(AssertionError):
        await test_an_edge_that_was_set_back_gives_no_number_twice(world, 25)


async def test_without_retention_a_hub_that_was_set_back_is_not_refilled_but_says_so(tmp_path: Path) -> None:
    world = await World(tmp_path, Retention()).open()
    with pytest.raises(AssertionError):
        await test_a_hub_that_was_set_back_is_refilled(world)
    assert await world.gaps() == 10
    await world.close()


async def test_what_was_stated_as_gone_and_an_older_disk_holds_is_taken_late_and_once(world: World) -> None:
    """The older disk may as well be a copy that is up beside the other."""
    await world.copy("hub")
    await world.publish(10)
    await world.copy("north")
    await world.publish(5)
    await world.sync()
    size = len(message_pb2.MessageBatch(messages=[message_pb2.Message(topic="t", key="10")]).SerializeToString())
    world.retention = Retention(acked_bytes=5 * size, acked_seconds=3600)
    await world.set_back("hub")
    await world.outbox.trim()
    await world.sync()
    assert await world.at_hub() == list(range(10, 15))
    assert await world.gaps() == 10
    world.retention = KEEP_ALL
    await world.set_back("north")
    for _ in range(2):
        await world.sync()
    assert await world.at_hub() == [*range(10, 15), *range(10)]
    assert await world.gaps() == 10


# --- who has forgotten, as the greeting shows it ---


async def ask(world: World, head: LaneHead | None, cursor: LaneCursor | None) -> str:
    """First letters of what a node with this log and this cursor is asked."""
    row = await world.fleet.open_session("north", "boot", 1, "fake/1", 1.0, "", TaskLane(head, cursor))
    assert row is not None
    await world.fleet.settled("north", row.restate_id, 0)
    return row.restate_id.partition("-")[0]


async def test_both_sides_are_found_out(world: World) -> None:
    head = LaneHead(Lane.TASK, "up", 1, 9)
    assert await ask(world, head, None) == ""
    segments = [Segment(1, b"x", 1.0)] * 5

    def fill(connection: object) -> str:
        log = logs.log_state(connection, task_log("north"))  # type: ignore[arg-type]
        logs.append(connection, log.log_id, segments)  # type: ignore[arg-type]
        logs.acknowledge(connection, log.log_id, "north", 4)  # type: ignore[arg-type]
        inbox.accept(connection, "north", Lane.TASK, "up", 1, segments, None)  # type: ignore[arg-type]
        return log.epoch

    epoch = await world.hub.write(fill)
    down = LaneCursor(Lane.TASK, epoch, 4)
    assert await ask(world, head, down) == ""
    assert await ask(world, LaneHead(Lane.TASK, "up", 1, 4), down) == "n"
    assert await ask(world, LaneHead(Lane.TASK, "other", 1, 9), down) == "n"
    assert await ask(world, head, LaneCursor(Lane.TASK, epoch, 3)) == "n"
    assert await ask(world, head, None) == "n"
    before = await world.fleet.fence_base()
    assert await ask(world, head, LaneCursor(Lane.TASK, epoch, 6)) == "h"
    assert await ask(world, LaneHead(Lane.TASK, "other", 1, 9), LaneCursor(Lane.TASK, "unknown", 1)) == "hn"
    assert await world.fleet.fence_base() > before


async def test_fences_go_on_above_what_nodes_saw_while_the_clock_was_ahead(world: World) -> None:
    await world.fleet.open_session("north", "boot", 1, "fake/1", 1.0)

    async def answer(restate_id: str, fence: int) -> int:
        return await world.fleet.settled("north", restate_id, fence)

    before = await world.fleet.fence_base()
    assert await answer("n-1", before + 9) == before, "the hub has forgotten nothing"
    assert await answer("h-1", before + 9) == await world.fleet.fence_base() == before + 9
    assert await answer("h-2", before + 3) == before + 9
    assert await answer("h-3", (1 << 63) - 1) == before + 9, "no clock was ever there"


async def test_an_answer_that_comes_after_nobody_waited_any_more_is_the_answer(world: World) -> None:
    lane = TaskLane(None, LaneCursor(Lane.TASK, "unknown", 1))
    row = await world.fleet.open_session("north", "boot", 1, "fake/1", 1.0, "", lane)
    assert row is not None
    await world.fleet.give_up(["north"])
    await world.fleet.settled("north", row.restate_id, 0)
    assert [node.restate_id for node in await world.fleet.nodes()] == [""]


async def test_a_hub_below_lacks_only_what_it_had_and_is_not_kept(world: World) -> None:
    head = LaneHead(Lane.TASK, "up", 1, 9)
    assert await ask(world, head, None) == ""

    def fill(connection: sqlite3.Connection) -> str:
        log = logs.log_state(connection, task_log("north"))
        logs.append(connection, log.log_id, [Segment(1, b"x", 1.0)] * 5)
        logs.acknowledge(connection, log.log_id, "north", 4)
        return log.epoch

    epoch = await world.hub.write(fill)

    async def lacks(cursor: LaneCursor | None) -> bool:
        here, there = await world.fleet.lacks_tasks("north", TaskLane(head, cursor), 1.0)
        assert not here
        return there

    assert not await lacks(LaneCursor(Lane.TASK, epoch, 1)), "all comes again"
    await world.hub.write(
        lambda c: Retention(acked_bytes=0, acked_seconds=0).trim(c, logs.log_state(c, task_log("north")).log_id, 100)
    )
    assert await lacks(LaneCursor(Lane.TASK, epoch, 1))
    assert await lacks(None)
    assert not await lacks(LaneCursor(Lane.TASK, epoch, 4)), "it has forgotten nothing"


async def test_a_hub_below_lacks_the_fences_that_a_restored_hub_has_forgotten(world: World) -> None:
    assert await ask(world, None, None) == ""
    before = await world.fleet.fence_base()
    for cursor in (LaneCursor(Lane.TASK, "between two restores", 1), LaneCursor(Lane.TASK, "", 0)):
        there = cursor.epoch != ""
        assert await world.fleet.lacks_tasks("north", TaskLane(None, cursor), 9.0) == (False, there)
        assert await world.fleet.fence_base() > before, "what it is granted now is above them"


async def test_a_hub_lacks_of_one_below_only_what_is_not_kept_there(world: World) -> None:
    assert await ask(world, LaneHead(Lane.TASK, "up", 1, 9), None) == ""
    segments = [Segment(1, b"x", 1.0)] * 5
    await world.hub.write(lambda c: inbox.accept(c, "north", Lane.TASK, "up", 1, segments, None))

    async def lacks(first: int) -> bool:
        here, there = await world.fleet.lacks_tasks("north", TaskLane(LaneHead(Lane.TASK, "up", first, 9), None), 1.0)
        assert not there
        return here

    assert not await lacks(1)
    assert not await lacks(6), "it has what is not kept"
    assert await lacks(7)


async def test_the_hub_begins_anew(world: World) -> None:
    await world.fleet.open_session("north", "boot", 1, "fake/1", 1.0)
    await world.fleet.open_session("below", "boot", 1, "fake/1", 1.0, "below-hub")
    epochs = await world.hub.read(lambda c: dict(c.execute("SELECT name, epoch FROM log")))

    def renew(connection: object) -> list[str]:
        return backup.begin_anew(connection, 1_800_000_000.0, world.epochs)  # type: ignore[arg-type]

    await world.hub.write(renew)
    after = await world.hub.read(lambda c: dict(c.execute("SELECT name, epoch FROM log")))
    assert after.keys() == epochs.keys() >= {MESSAGE_LOG, task_log("north")}
    assert not set(after.values()) & set(epochs.values())
    first = await world.fleet.fence_base()
    await world.hub.write(renew)
    assert await world.fleet.fence_base() > first > 1_800_000_000
    below, north = await world.fleet.nodes()
    assert (north.restate_id, north.registry_epoch) == ("h", "")
    assert north.fence >= first
    assert below.restate_id == "", "a hub below is not asked, so it is not waited for"


@pytest.mark.parametrize(("nodes", "doubt"), [(("below",), 0), (("below", "north"), IN_DOUBT_AT_HOLDER)])
async def test_what_must_not_run_twice_waits_only_for_those_who_are_asked(
    world: World, nodes: tuple[str, ...], doubt: int
) -> None:
    for node in nodes:
        await world.fleet.open_session(node, "boot", 1, "fake/1", 1.0, "a hub" if node == "below" else "")
    tasks = SqliteTaskStore(world.hub, lambda entries: [], world.epochs, keeper())
    task = TaskRecord("t", "below", Demand("weld"), 5, submit_time=1.0, on_lost=OnLost.FAIL, spec=b"spec")
    await tasks.transact(Selection(), lambda known, before: Decision(tasks={"t": task}))
    await world.hub.write(lambda connection: backup.begin_anew(connection, 1_800_000_000.0, world.epochs))
    restored = await tasks.get("t")
    assert restored is not None
    assert restored.doubt == doubt
