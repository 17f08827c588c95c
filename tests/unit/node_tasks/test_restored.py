"""An edge that begins anew from a backup, and what it says again when the hub asks."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator

import pytest

from edgenode.api.sync.v1 import sync_pb2
from edgenode.api.task.v1 import task_pb2
from edgenode.link.model.lanes import Lane, Segment
from edgenode.link.model.task import TaskState
from edgenode.link.store import inbox, logs
from edgenode.link.store.repeats import without_known
from edgenode.link.wire.tasks import TaskLimits, task_spec_from_proto
from edgenode.node import ledger, task_store
from edgenode.node.backup import begin_anew, check
from edgenode.node.message_log import LOG_NAME, PARENT
from edgenode.node.store import MIGRATIONS, count_boot
from edgenode.node.task_book import HUB, TASK_LOG
from edgenode.node.task_entries import EntryApplier
from edgenode.node.task_state import LiveTask

NOW = 1_800_000_000.0
ON_LOST = {"retry": task_pb2.ON_LOST_RETRY, "wait": task_pb2.ON_LOST_WAIT, "fail": task_pb2.ON_LOST_FAIL}


@pytest.fixture
def db() -> Iterator[sqlite3.Connection]:
    connection = sqlite3.connect(":memory:", isolation_level=None)
    for script in MIGRATIONS:
        connection.executescript(script)
    count_boot(connection, "north", "", "north")
    for name in (TASK_LOG, LOG_NAME):
        log = logs.open_log(connection, name, f"epoch of {name}")
        logs.ensure_consumer(connection, log.log_id, PARENT, 0)
    yield connection
    connection.close()


def put(db: sqlite3.Connection, task_id: str, on_lost: str, *, origin: str, holder: str = "", fence: int = 0) -> None:
    wire = task_pb2.TaskSpec(skill="code.metrics", on_lost=ON_LOST[on_lost])
    live = LiveTask(task_id, task_spec_from_proto(wire, limits=TaskLimits(), now=NOW, node="north"), origin, NOW)
    live.holder, live.fence = holder, fence
    live.note()
    task_store.insert(db, [task_store.insert_row(live)])


def fill(db: sqlite3.Connection) -> None:
    for on_lost in ON_LOST:
        put(db, f"own-{on_lost}", on_lost, origin="north")
        put(db, f"offered-{on_lost}", on_lost, origin="north", holder=HUB)
        put(db, f"back-{on_lost}", on_lost, origin="north", fence=2)
        put(db, f"granted-{on_lost}", on_lost, origin="south", fence=3)


def states(db: sqlite3.Connection) -> dict[str, tuple[str, str, int]]:
    rows = db.execute("SELECT task_id, state, holder_node, fence FROM task ORDER BY task_id")
    return {task_id: (TaskState(state).name, holder, fence) for task_id, state, holder, fence in rows}


def test_a_restored_edge_keeps_what_is_its_own_and_fails_what_may_have_run(db: sqlite3.Connection) -> None:
    fill(db)
    epochs = iter(("new-1", "new-2"))
    changed = begin_anew(db, NOW, lambda: next(epochs))
    assert len(changed) == 3
    at_hub = ("QUEUED", HUB, 0)
    assert states(db) == {
        **{f"offered-{on_lost}": at_hub for on_lost in ON_LOST},
        **{f"back-{on_lost}": at_hub for on_lost in ON_LOST},
        "own-retry": ("QUEUED", "", 0),
        "own-wait": ("FAILED", "", 0),
        "own-fail": ("FAILED", "", 0),
    }
    assert {logs.log_state(db, name).epoch for name in (TASK_LOG, LOG_NAME)} == {"new-1", "new-2"}
    assert db.execute("SELECT boot_count FROM node").fetchone()[0] == int(NOW) // 60
    assert check(db) == []
    (line,) = [line for line in ledger.lines(db, "") if line.hop == "tasks"]
    assert line.dropped_counts["RESTORED"] == 3
    begin_anew(db, 0.0, lambda: "newest")  # a clock that is wrong
    assert db.execute("SELECT boot_count FROM node").fetchone()[0] == int(NOW) // 60 + 1


def test_all_that_it_has_with_the_hub_is_said_again_in_one_piece(db: sqlite3.Connection) -> None:
    fill(db)
    put(db, "ended", "retry", origin="south", fence=7)
    db.execute("UPDATE task SET state = 8 WHERE task_id = 'ended'")
    applier = EntryApplier("north", TASK_LOG, TaskLimits, lambda *_: None)
    absorbed = applier.apply(db, [(1, sync_pb2.TaskEntry(restate=sync_pb2.TaskRestate(restate_id="h-1")))], NOW)
    assert absorbed.steps == ()
    (segment,) = logs.read(db, logs.log_state(db, TASK_LOG).log_id, 0, 100, 1 << 20).segments
    entries = sync_pb2.TaskEntryBatch.FromString(segment.payload).entries
    offers = [entry.offer for entry in entries if entry.HasField("offer")]
    reports = [entry.report.task for entry in entries if entry.HasField("report")]
    assert sorted(offer.task_id for offer in offers) == sorted(f"offered-{on_lost}" for on_lost in ON_LOST)
    assert all(offer.again and offer.spec.skill == "code.metrics" for offer in offers)
    held = {(task.task_id, task.fence, task.origin_node) for task in reports}
    assert held == {
        *((f"granted-{on_lost}", 3, "south") for on_lost in ON_LOST),
        *((f"back-{on_lost}", 2, "north") for on_lost in ON_LOST),
    }
    assert entries[-1].restated == sync_pb2.TaskRestated(restate_id="h-1", highest_fence=7)
    assert absorbed.last_appended == len(entries)


def test_what_came_before_under_another_epoch_is_not_taken_again(db: sqlite3.Connection) -> None:
    """A restored hub does not know the epochs it had since: it sends what it kept under the next one."""
    before = [Segment(3, b"abc", 1.0), Segment(2, b"de", 1.0)]
    inbox.accept(db, PARENT, Lane.TASK, "old", 1, before, None)
    again = [
        Segment(3, b"abc", 1.0, "", "old", 1),
        Segment(4, b"defg", 1.0, "", "old", 4),
        Segment(1, b"h", 1.0),
    ]
    fresh = inbox.accept(db, PARENT, Lane.TASK, "new", 1, again, None)
    assert (fresh.base, fresh.skip) == (1, 0)
    fresh = without_known(db, PARENT, Lane.TASK, "new", fresh)
    assert (fresh.base, fresh.skip, [segment.payload for segment in fresh.segments]) == (4, 2, [b"defg", b"h"])
    assert check(db) == []
