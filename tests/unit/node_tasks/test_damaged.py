"""Tasks whose rows are not what was stored: nobody gets them, and whoever waits for them is told."""

from __future__ import annotations

import sqlite3
from pathlib import Path

import pytest

from edgenode.api.sync.v1 import sync_pb2
from edgenode.api.task.v1 import task_pb2
from edgenode.link.model.task import Scope, TaskState
from edgenode.link.store import audit
from edgenode.link.store.seals import TASK_DAMAGED, TaskDamaged
from edgenode.node import task_store
from tests.unit.node_tasks.harness import House, Link, grant, house

FLEET = int(Scope.FLEET)


async def damage(h: House, task_id: str, column: str) -> None:
    """Flip the lowest bit of a blob's first byte."""

    def flip(connection: sqlite3.Connection) -> None:
        (stored,) = connection.execute(f"SELECT {column} FROM task WHERE task_id = ?", (task_id,)).fetchone()
        flipped = bytes([stored[0] ^ 1]) + stored[1:]
        connection.execute(f"UPDATE task SET {column} = ? WHERE task_id = ?", (flipped, task_id))

    await h.database.write(flip)


async def audited(h: House) -> list[str]:
    """What a check of the ledger finds in tasks."""
    return [found.detail for found in await audit.audit_tasks(h.database, "task", "rowid", task_store.SEALED)]


@pytest.mark.parametrize("column", ["spec", "history"])
async def test_one_that_has_not_ended_fails_with_the_next_start(tmp_path: Path, column: str) -> None:
    async with house(tmp_path) as h:
        hit, whole = await h.accepted(), await h.accepted()
        await damage(h, hit.task_id, column)
        assert await audited(h) == [f"task {hit.task_id}: {column} is not what was stored"]
        await h.restart()
        agent = await h.agent("worker", "work")
        await h.turn()
        assert [live.task_id for live in agent.assigned] == [whole.task_id]
        stored = await h.stored(hit.task_id)
        assert (stored.state, stored.state_reason) == (task_pb2.TASK_STATE_FAILED, TASK_DAMAGED)
        assert stored.problem.reason == TASK_DAMAGED
        assert stored.problem.hint
        assert stored.spec.skill == "work"
        assert await audited(h) == [], "it was told"
        await h.restart()
        assert hit.task_id not in h.engine.book.live, "it ends once"


async def test_one_that_has_ended_is_refused_and_listed_without_its_result(tmp_path: Path) -> None:
    async with house(tmp_path) as h:
        agent = await h.agent("worker", "work")
        ended = await h.accepted()
        await h.turn()
        await agent.finish(ended)
        await damage(h, ended.task_id, "output")
        with pytest.raises(TaskDamaged):
            await h.stored(ended.task_id)
        (listed,) = await h.database.read(lambda connection: task_store.page(connection, "north", before="", size=9))
        assert (listed.state, listed.problem.reason) == (task_pb2.TASK_STATE_COMPLETED, "")
        assert not listed.HasField("output")
        await damage(h, ended.task_id, "spec")
        (listed,) = await h.database.read(lambda connection: task_store.page(connection, "north", before="", size=9))
        assert (listed.spec.skill, listed.problem.reason) == ("work", TASK_DAMAGED)


async def test_the_hub_is_told_of_what_it_granted_and_of_what_it_has(tmp_path: Path) -> None:
    async with house(tmp_path, Link()) as h:
        offered = await h.accepted("elsewhere", scope=FLEET)
        await h.absorb(grant("T1", 3))
        for task_id in (offered.task_id, "T1"):
            await damage(h, task_id, "spec")
        await h.restart()
        await h.turn()
        assert sorted(await h.entries()) == ["cancel", "offer", "report"]
        assert {await h.state(task_id) for task_id in (offered.task_id, "T1")} == {TaskState.FAILED}


async def test_an_end_that_is_asked_for_again_and_is_damaged_is_told_as_failed(tmp_path: Path) -> None:
    async with house(tmp_path, Link()) as h:
        agent = await h.agent("worker", "work")
        await h.absorb(grant("T1", 3))
        await agent.finish(agent.assigned[0])
        await damage(h, "T1", "output")
        await h.absorb(grant("T1", 4))
        first, again = await reports(h)
        assert (first.state, first.fence) == (task_pb2.TASK_STATE_COMPLETED, 3)
        assert (again.state, again.fence, again.problem.reason) == (task_pb2.TASK_STATE_FAILED, 4, TASK_DAMAGED)
        assert len(agent.assigned) == 1


async def reports(h: House) -> list[task_pb2.Task]:
    return [entry.report.task for entry in await h.log_entries() if entry.HasField("report")]


def answer(task_id: str) -> sync_pb2.TaskEntry:
    given = sync_pb2.TaskAnswer(task_id=task_id, key="k", answer=task_pb2.TaskOutput(data=b"v"))
    return sync_pb2.TaskEntry(answer=given)


async def test_a_grant_whose_answers_are_damaged_goes_back(tmp_path: Path) -> None:
    async with house(tmp_path, Link()) as h:
        await h.absorb(grant("T1", 3))
        await h.absorb(answer("T1"))
        await damage(h, "T1", "answers")
        await h.absorb(grant("T1", 4))
        assert await h.entries() == ["returned"]
