"""Grants, reports and revocations that come close together, or cross an end that was decided here."""

import asyncio
from pathlib import Path

import pytest

from edgenode.api.sync.v1 import sync_pb2
from edgenode.api.task.v1 import task_pb2
from edgenode.link.model.task import Level, TaskState
from edgenode.link.store import logs
from edgenode.node import ledger
from edgenode.node.message_log import LOG_NAME
from edgenode.node.task_entries import Absorbed
from edgenode.node.task_state import LiveTask
from tests.unit.node_tasks.harness import FLAKY, House, Link, house

FLEET = 2


def grant(task_id: str, fence: int, origin: str = "south", **fields: object) -> sync_pb2.TaskEntry:
    spec = task_pb2.TaskSpec(skill="work", scope=FLEET)  # type: ignore[arg-type]
    made = sync_pb2.TaskGrant(task_id=task_id, fence=fence, origin_node=origin, spec=spec, **fields)  # type: ignore[arg-type]
    return sync_pb2.TaskEntry(grant=made)


def revoke(task_id: str, fence: int) -> sync_pb2.TaskEntry:
    return sync_pb2.TaskEntry(revoke=sync_pb2.TaskRevoke(task_id=task_id, fence=fence))


def report(task_id: str, fence: int, state: TaskState) -> sync_pb2.TaskEntry:
    task = task_pb2.Task(task_id=task_id, fence=fence, state=int(state), holder_node="other", attempt_count=2)  # type: ignore[arg-type]
    return sync_pb2.TaskEntry(report=sync_pb2.TaskReport(task=task))


async def absorb(h: House, *entries: sync_pb2.TaskEntry) -> None:
    """One batch of the task lane."""
    numbered = list(enumerate(entries, 1))
    applied = await h.database.write(lambda connection: h.engine.applier.apply(connection, numbered, h.clock.wall()))
    h.engine.hub.absorb(applied)


async def test_entries_of_one_batch_are_followed_in_order(tmp_path: Path) -> None:
    async with house(tmp_path, Link()) as h:
        live = await h.accepted(scope=FLEET)
        agent = await h.agent("worker", "work")
        await absorb(h, report(live.task_id, 1, TaskState.WORKING), grant(live.task_id, 2, "north"))
        await h.turn()
        (again,) = agent.assigned
        assert (again.task_id, again.fence, again.holder) == (live.task_id, 2, "")
        await agent.finish(again)
        assert await h.state(live.task_id) is TaskState.COMPLETED


@pytest.mark.parametrize("revoked", [True, False])
async def test_a_new_grant_beats_an_end_that_is_not_stored_yet(tmp_path: Path, revoked: bool) -> None:
    async with house(tmp_path, Link()) as h:
        agent = await h.agent("worker", "work")
        await absorb(h, grant("T1", 1))
        await h.turn()
        (old,) = agent.assigned
        told: list[LiveTask] = []
        old.listeners.append(told.append)
        assert h.engine.dispatcher.result(old, TaskState.COMPLETED, task_pb2.TaskOutput(data=b"old"), None)
        await absorb(h, *([revoke("T1", 1)] if revoked else []), grant("T1", 2))
        await h.engine.book.commit_outcomes([old])
        assert not told
        assert await h.state("T1") is TaskState.QUEUED
        await h.turn()
        new = agent.assigned[-1]
        assert h.engine.book.live["T1"] is new
        await agent.finish(new, data=b"new")
        stored = await h.stored("T1")
        assert (stored.fence, stored.output.data) == (2, b"new")


async def test_a_dead_letter_that_lost_to_a_new_grant_is_none(tmp_path: Path) -> None:
    async with house(tmp_path, Link()) as h:
        agent = await h.agent("worker", "work")
        first = grant("T1", 1)
        first.grant.spec.retry_policy.max_attempt_count = 1
        await absorb(h, first)
        await h.turn()
        (old,) = agent.assigned
        assert h.engine.dispatcher.result(old, TaskState.FAILED, None, FLAKY)
        assert old.state is TaskState.DEAD_LETTERED
        await absorb(h, grant("T1", 2))
        await h.engine.book.commit_outcomes([old])
        assert not h.dead


async def test_a_revoked_task_s_watchers_are_woken(tmp_path: Path) -> None:
    async with house(tmp_path, Link()) as h:
        await absorb(h, grant("T1", 1))
        woken: list[LiveTask] = []
        h.engine.book.live["T1"].watchers.append(woken.append)
        await absorb(h, revoke("T1", 1))
        assert woken
        assert "T1" not in h.engine.book.live


async def test_a_task_revoked_before_its_hand_over_reaches_no_agent(tmp_path: Path) -> None:
    async with house(tmp_path, Link()) as h:
        agent = await h.agent("worker", "work", credit=1)
        careful = grant("T1", 1)
        careful.grant.spec.on_lost = task_pb2.ON_LOST_WAIT
        await absorb(h, careful)
        await asyncio.sleep(0)
        assert h.engine.book.live["T1"].state is TaskState.ASSIGNED
        h.engine.hub.absorb(Absorbed((revoke("T1", 1),), 0))
        await h.turn()
        assert not agent.assigned
        other = await h.accepted()
        await h.turn()
        assert agent.assigned == [other]


async def test_levels_and_answers_do_not_fall_with_a_grant_to_the_origin(tmp_path: Path) -> None:
    async with house(tmp_path, Link()) as h:
        live = await h.accepted(scope=FLEET)
        h.engine.hub.acknowledged(live.offer_sequence)
        asked = report(live.task_id, 1, TaskState.INPUT_REQUIRED)
        asked.report.task.input_request.key = "k"
        await absorb(h, asked)
        await h.engine.provide_input(live.task_id, "k", task_pb2.TaskOutput(data=b"v"))
        await absorb(h, grant(live.task_id, 2, "north"))
        again = h.engine.book.live[live.task_id]
        assert (again.level, again.answers["k"].data) == (Level.DURABLE_HUB, b"v")
        assert Level((await h.stored(live.task_id)).level) is Level.DURABLE_HUB


async def test_a_task_at_the_hub_can_be_ended_here_after_reports_and_revocations(tmp_path: Path) -> None:
    async with house(tmp_path, Link()) as h:
        live = await h.accepted(scope=FLEET)
        await absorb(h, report(live.task_id, 1, TaskState.WORKING))
        await absorb(h, grant(live.task_id, 2, "north"))
        await absorb(h, revoke(live.task_id, 2))
        await h.restart()
        live = h.engine.book.live[live.task_id]
        assert (live.holder, live.fence) == ("hub", 0)
        h.engine.dispatcher.expire(live)
        await h.turn()
        assert await h.state(live.task_id) is TaskState.EXPIRED
        assert await h.entries() == ["offer"]


@pytest.mark.parametrize("origin", ["south", "north"])
async def test_a_granted_task_nobody_here_fits_any_more_goes_back(tmp_path: Path, origin: str) -> None:
    async with house(tmp_path, Link()) as h:
        await h.turn(20)
        task_id = (await h.accepted(scope=FLEET)).task_id if origin == "north" else "T1"
        before = await h.entries()
        agent = await h.agent("worker", "work")
        await absorb(h, grant(task_id, 1, origin))
        await h.turn()
        h.engine.dispatcher.detach("worker", agent)
        live = h.engine.book.live[task_id]
        assert (live.state, live.attempts) == (TaskState.RETRY_WAIT, 1)
        await h.registry.deregister("worker")
        await h.turn(60)
        await h.turn()
        # The attempt is told first: whoever gets the task next counts on from there.
        assert (await h.entries())[len(before) :] == ["report", "returned"]
        if origin == "south":
            assert not h.engine.book.live
        else:
            assert (live.holder, await h.state(task_id)) == ("hub", TaskState.QUEUED)
        await h.agent("second", "work", credit=0)
        await absorb(h, grant(task_id, 2, origin))
        assert h.engine.book.live[task_id].fence == 2
        await h.database.write(lambda connection: logs.ensure_log(connection, LOG_NAME, "epoch"))
        assert all(line.balanced for line in await h.database.read(lambda connection: ledger.lines(connection, "")))


async def test_granted_tasks_wait_for_their_agents_after_a_restart(tmp_path: Path) -> None:
    async with house(tmp_path, Link()) as h:
        await h.turn(20)
        await h.agent("worker", "work", credit=0)
        await absorb(h, grant("T1", 1))
        await h.restart()
        await h.turn(10)
        assert h.engine.book.live["T1"].state is TaskState.PARKED
        await h.turn(10)
        await h.turn()
        assert not h.engine.book.live
        assert await h.entries() == ["returned"]
