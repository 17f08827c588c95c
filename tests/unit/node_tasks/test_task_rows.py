"""Many rows a statement: who was there already, and who is not changed any more, is told of each row."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator
from typing import Any

import pytest

from edgenode.api.task.v1 import task_pb2
from edgenode.link.model.problem import Code, Problem
from edgenode.link.model.task import TaskState
from edgenode.link.protocol.tasks import TaskEvent
from edgenode.link.store import logs
from edgenode.link.wire.tasks import TaskLimits, task_spec_from_proto
from edgenode.node import task_store
from edgenode.node.store import MIGRATIONS
from edgenode.node.task_state import LiveTask

NOW = 1_800_000_000.0


class Counting(sqlite3.Connection):
    """Counts what is executed."""

    executed = 0

    def execute(self, *statement: Any) -> sqlite3.Cursor:
        self.executed += 1
        return super().execute(*statement)


@pytest.fixture
def db() -> Iterator[Counting]:
    connection = sqlite3.connect(":memory:", isolation_level=None, factory=Counting)
    for script in MIGRATIONS:
        connection.executescript(script)
    yield connection
    connection.close()


def task(name: str, *, request: str = "", key: str = "", fence: int = 0, input: bytes = b"x") -> LiveTask:
    message = task_pb2.TaskSpec(skill="echo", input=input, idempotency_key=key)
    spec = task_spec_from_proto(message, limits=TaskLimits(), now=NOW, node="north")
    live = LiveTask(name, spec, "north", NOW)
    live.request_id, live.fence = request, fence
    live.note()
    return live


def insert(db: sqlite3.Connection, lives: list[LiveTask], late: frozenset[int] = frozenset()) -> list[str | None]:
    found = task_store.insert(db, [task_store.insert_row(live) for live in lives], late)
    return [None if known is None else known.task_id for known in found]


def update(db: sqlite3.Connection, lives: list[LiveTask]) -> list[bool]:
    return task_store.update(db, [task_store.update_row(live) for live in lives])


def end(live: LiveTask, *, problem: bool = False) -> LiveTask:
    live.apply(TaskEvent.ASSIGN, NOW)
    if problem:
        live.problem = Problem(Code.UNKNOWN, "BROKEN", "it broke")
        live.apply(TaskEvent.FAIL, NOW)
    else:
        live.output = task_pb2.TaskOutput(data=live.task_id.encode())
        live.apply(TaskEvent.SUCCEED, NOW)
    return live


@pytest.mark.parametrize("count", [1, 2, 7, 128, 300])
def test_all_of_them_and_what_they_hold(db: sqlite3.Connection, count: int) -> None:
    lives = [task(f"t{number:03d}", request=f"r{number}") for number in range(count)]
    assert insert(db, lives) == [None] * count
    assert update(db, [end(live, problem=number % 3 == 1) for number, live in enumerate(lives)]) == [True] * count
    for number, live in enumerate(lives):
        stored = task_store.fetch(db, live.task_id, "north")
        assert stored is not None
        assert stored.spec.input == b"x"
        if number % 3 == 1:
            assert (TaskState(stored.state), stored.problem.reason, stored.output.data) == (
                TaskState.FAILED,
                "BROKEN",
                b"",
            )
        else:
            assert (TaskState(stored.state), stored.output.data) == (TaskState.COMPLETED, live.task_id.encode())
            assert not stored.HasField("problem")
    told = logs.counters(db, task_store.COUNTER)
    assert told[task_store.ACCEPTED] == count
    assert told["COMPLETED"] + told.get("FAILED", 0) == count


def test_each_repetition_is_told_among_others_that_are_new(db: sqlite3.Connection) -> None:
    insert(db, [task("a", request="ra"), task("b", key="kb"), task("c")])
    db.execute("INSERT INTO task_missed VALUES ('nobody')")  # another table's row ids are none of its own
    lives = [
        task("d", request="rd"),
        task("e", request="ra"),  # as a
        task("f", key="kb"),  # as b
        task("g", request="rd"),  # as d, of the same statement
        task("c"),
        task("h"),
    ]
    assert insert(db, lives) == [None, "a", "b", "d", "c", None]
    assert insert(db, lives) == ["d", "a", "b", "d", "c", "h"]
    assert [row[0] for row in db.execute("SELECT task_id FROM task ORDER BY rowid")] == ["a", "b", "c", "d", "h"]
    assert logs.counters(db, task_store.COUNTER)[task_store.ACCEPTED] == 5


def test_a_late_one_is_looked_up_in_its_place(db: sqlite3.Connection) -> None:
    lives = [task("a", request="r"), task("b", request="r"), task("c", request="s"), task("d", request="s")]
    assert insert(db, lives, frozenset({1, 2})) == [None, "a", None, None]
    assert [row[0] for row in db.execute("SELECT task_id FROM task ORDER BY rowid")] == ["a", "d"]


def test_who_ended_or_was_granted_anew_is_left_alone_among_others(db: sqlite3.Connection) -> None:
    lives = [task(f"t{number}", fence=number) for number in range(6)]
    insert(db, lives)
    update(db, [end(lives[2])])
    db.execute("UPDATE task SET fence = 9 WHERE task_id = 't4'")
    before = [db.execute("SELECT * FROM task WHERE task_id = ?", (name,)).fetchone() for name in ("t2", "t4")]
    changed = [end(live) for number, live in enumerate(lives) if number != 2]
    changed.insert(2, end(task("t2", fence=2), problem=True))
    assert update(db, [*changed, end(task("unknown"))]) == [True, True, False, True, False, True, False]
    assert [db.execute("SELECT * FROM task WHERE task_id = ?", (name,)).fetchone() for name in ("t2", "t4")] == before
    assert logs.counters(db, task_store.COUNTER)["COMPLETED"] == 5
    assert update(db, [end(task("t0"))]) == [False]  # what was missed before is not told again


@pytest.mark.parametrize(("rows", "statements"), [(1, 1), (2, 1), (128, 1), (255, 8), (256, 2)])
def test_statements_are_few(db: Counting, rows: int, statements: int) -> None:
    lives = [task(f"t{number:03d}") for number in range(rows)]
    insert(db, lives)
    assert db.executed == statements + 1  # how many were accepted
    db.executed = 0
    update(db, [end(live) for live in lives])
    assert db.executed == statements + 1  # a look at who was missed


def test_large_rows_have_a_statement_each(db: Counting) -> None:
    """What is bound stays with a statement until it is executed again."""
    large = bytes(task_store._LARGE)
    lives = [task(f"t{number}", input=large if number in (1, 2) else b"x") for number in range(6)]
    insert(db, lives)
    assert db.executed == 1 + 1 + 1 + 2 + 1  # t0, t1, t2, then three in two statements, and how many were accepted
    db.executed = 0
    for live in lives:
        end(live)
    lives[3].output = task_pb2.TaskOutput(data=large)
    assert update(db, lives) == [True] * 6
    assert db.executed == 2 + 1 + 1 + 1  # three, t3, two, and a look at who was missed
