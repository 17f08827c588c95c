"""The moment between the choice of an agent and the hand-over, and cancellations that a restart must know."""

import asyncio
from pathlib import Path

import pytest

from edgenode.api.task.v1 import task_service_pb2
from edgenode.link.model.task import TaskState
from edgenode.node.task_service import TaskService
from edgenode.node.task_state import LiveTask
from tests.unit.node_tasks.harness import House, house

RETRY, WAIT, FAIL = 1, 2, 3


async def chosen(h: House, on_lost: int) -> LiveTask:
    """A task that an agent was chosen for; its hand-over waits for the commit."""
    live = await h.accepted(on_lost=on_lost)
    await asyncio.sleep(0)
    assert (live.state, live.sink) == (TaskState.ASSIGNED, None)
    return live


@pytest.mark.parametrize("how", ["cancel", "expire"])
async def test_an_end_before_the_hand_over_gives_the_credit_back(tmp_path: Path, how: str) -> None:
    async with house(tmp_path) as h:
        agent = await h.agent("worker", "work", credit=1)
        live = await chosen(h, WAIT)
        if how == "cancel":
            await h.engine.cancel(live.task_id, "no")
        else:
            h.engine.dispatcher.expire(live)
        await h.turn()
        assert not agent.assigned
        assert h.engine.dispatcher.load_of("worker")[0] == 0
        other = await h.accepted()
        await h.turn()
        assert agent.assigned == [other]


@pytest.mark.parametrize("on_lost", [WAIT, FAIL])
async def test_work_no_agent_has_seen_is_given_to_another(tmp_path: Path, on_lost: int) -> None:
    async with house(tmp_path) as h:
        agent = await h.agent("worker", "work")
        live = await chosen(h, on_lost)
        h.engine.dispatcher.detach("worker", agent)
        other = await h.agent("other", "work", credit=0)
        await h.turn()
        assert not agent.assigned
        assert (live.state, live.attempts) == (TaskState.QUEUED, 0)
        assert await h.state(live.task_id) is TaskState.QUEUED
        h.engine.dispatcher.add_credits("other", other, 1)
        await h.turn()
        assert other.assigned == [live]


async def test_a_drain_in_that_moment_leaves_the_task_for_the_next_start(tmp_path: Path) -> None:
    async with house(tmp_path) as h:
        agent = await h.agent("worker", "work")
        live = await chosen(h, WAIT)
        h.engine.stop_accepting()
        await h.turn()
        assert not agent.assigned
        await h.restart()
        agent = await h.agent("worker", "work")
        async with asyncio.timeout(5):
            while not agent.assigned:
                await h.turn()
        assert [again.task_id for again in agent.assigned] == [live.task_id]


@pytest.mark.parametrize("on_lost", [RETRY, WAIT])
async def test_a_cancellation_is_not_forgotten_by_a_restart(tmp_path: Path, on_lost: int) -> None:
    async with house(tmp_path) as h:
        agent = await h.agent("worker", "work")
        live = await h.accepted(on_lost=on_lost)
        await h.turn()
        await h.engine.cancel(live.task_id, "no")
        assert agent.cancelled == [live.task_id]
        await h.restart()
        agent = await h.agent("worker", "work")
        await h.turn()
        assert not agent.assigned
        assert await h.state(live.task_id) is TaskState.CANCELED
        assert not h.engine.book.live


@pytest.mark.parametrize("stored", [True, False])
async def test_an_agent_that_wants_it_sees_by_the_number_that_an_attempt_was_before_a_crash(
    tmp_path: Path, stored: bool
) -> None:
    async with house(tmp_path) as h:
        agent = await h.agent("worker", "work", attempts_stored=stored)
        live = await h.accepted(on_lost=RETRY)
        await h.turn()
        assert [given.attempts for given in agent.assigned] == [1]
        await h.restart()  # nothing was heard of the attempt
        again = await h.agent("worker", "work", attempts_stored=stored)
        await h.turn()
        assert [(given.task_id, given.attempts) for given in again.assigned] == [(live.task_id, 2 if stored else 1)]


async def test_a_change_while_an_earlier_one_is_sent_is_not_missed_by_a_watcher(tmp_path: Path) -> None:
    async with house(tmp_path) as h:
        live = await h.accepted()
        service = TaskService(h.engine, h.registry)
        watch = service.WatchTask(task_service_pb2.WatchTaskRequest(task_id=live.task_id), None)  # type: ignore[arg-type]
        assert TaskState((await anext(watch)).task.state) is TaskState.PARKED
        agent = await h.agent("worker", "work")  # the first response is on its way still
        await h.turn()
        assert agent.assigned == [live]
        async with asyncio.timeout(10):
            seen = [TaskState(event.state) for event in (await anext(watch)).events]
        assert TaskState.ASSIGNED in seen
        await watch.aclose()  # type: ignore[attr-defined]
