import asyncio
from pathlib import Path
from typing import Any

import pytest

from edgenode.api.sync.v1 import sync_pb2
from edgenode.api.task.v1 import task_pb2
from edgenode.link.errors import (
    DeadlineExceeded,
    EdgenodeError,
    FailedPrecondition,
    NotFound,
    ResourceExhausted,
    Unavailable,
)
from edgenode.link.model.dead_letter import LetterBounds
from edgenode.link.model.lanes import Rejection
from edgenode.link.model.task import Level, TaskState
from edgenode.link.store import dead_letters
from edgenode.link.wire.values import timestamp_to_pb
from edgenode.node import tasks
from edgenode.node.task_state import LiveTask
from tests.unit.node_tasks.harness import FLAKY, House, Link, ended, grant, house

FLEET = 2


async def test_submit_run_result(tmp_path: Path) -> None:
    async with house(tmp_path) as h:
        live = await h.accepted(input=b"in")
        levels = [live.level]
        agent = await h.agent("worker", "work")
        done = ended(live)
        await h.turn()
        assert agent.assigned == [live]
        levels.append(live.level)
        assert levels == [Level.DURABLE_LOCAL, Level.DELIVERED]
        await agent.finish(live)
        assert (await done).output == task_pb2.TaskOutput(data=b"out")
        task = await h.stored(live.task_id)
        assert (TaskState(task.state), Level(task.level), task.output.data) == (TaskState.COMPLETED, Level.DONE, b"out")
        assert not h.engine.book.live


async def test_an_end_is_told_only_after_its_commit(tmp_path: Path) -> None:
    async with house(tmp_path) as h:
        agent = await h.agent("worker", "work")
        live = await h.accepted()
        await h.turn()
        order: list[str] = []
        live.listeners.append(lambda _: order.append("told"))
        assert h.engine.dispatcher.result(live, TaskState.COMPLETED, task_pb2.TaskOutput(), None)
        await h.database.read(lambda connection: order.append("not yet"))
        await h.engine.book.commit_outcomes([live])
        assert order == ["not yet", "told"]
        await agent.finish(live, data=b"again")
        assert (await h.stored(live.task_id)).output.data == b""


async def test_priorities_and_credits(tmp_path: Path) -> None:
    async with house(tmp_path) as h:
        low = await h.accepted(priority=1)
        high = await h.accepted(priority=9)
        normal = await h.accepted()
        assert {low.state, high.state} == {TaskState.PARKED}
        agent = await h.agent("worker", "work", credit=2)
        await h.turn()
        assert agent.assigned == [high, normal]
        assert low.state is TaskState.QUEUED


async def test_retries_then_dead_letter_and_replayable_spec(tmp_path: Path) -> None:
    async with house(tmp_path) as h:
        agent = await h.agent("worker", "work")
        live = await h.accepted(retry_policy=task_pb2.RetryPolicy(max_attempt_count=2))
        await h.turn()
        await agent.finish(live, TaskState.FAILED, FLAKY)
        assert live.state is TaskState.RETRY_WAIT
        await h.turn()
        assert (await h.stored(live.task_id)).attempt_count == 1
        await h.turn(60)
        assert len(agent.assigned) == 2
        done = ended(live)
        await agent.finish(live, TaskState.FAILED, FLAKY)
        assert (await done).state is TaskState.DEAD_LETTERED
        assert h.dead == [live.task_id]
        assert (await h.stored(live.task_id)).problem.reason == "FLAKY"


async def test_lost_agent_is_retried_or_failed_or_waited_for(tmp_path: Path) -> None:
    async with house(tmp_path) as h:
        agent = await h.agent("worker", "work")
        again = await h.accepted()
        never = await h.accepted(on_lost=task_pb2.ON_LOST_FAIL)
        wait = await h.accepted(on_lost=task_pb2.ON_LOST_WAIT)
        await h.turn()
        assert len(agent.assigned) == 3
        assert await h.state(never.task_id) is TaskState.ASSIGNED
        h.engine.dispatcher.detach("worker", agent)
        assert again.state is TaskState.RETRY_WAIT
        failed = ended(never)
        await h.turn(20)
        assert (await failed).problem is not None
        assert never.state is TaskState.FAILED
        assert "come back" in wait.reason
        back = await h.agent("worker", "work", credit=0)
        assert h.engine.dispatcher.adopt("worker", back, wait.task_id, 1, 0) is wait
        await back.finish(wait)
        assert await h.state(wait.task_id) is TaskState.COMPLETED


async def test_attempt_timeout_cancels_the_attempt_and_fences_its_result(tmp_path: Path) -> None:
    async with house(tmp_path) as h:
        agent = await h.agent("worker", "work")
        live = await h.accepted()
        await h.turn()
        await h.turn(301)
        assert agent.cancelled == [live.task_id]
        assert live.state is TaskState.RETRY_WAIT
        assert live.problem is not None
        assert live.problem.reason == "ATTEMPT_TIMEOUT"
        await agent.finish(live)
        assert live.state is TaskState.RETRY_WAIT


async def test_deadline_expires_wherever_the_task_is(tmp_path: Path) -> None:
    async with house(tmp_path) as h:
        parked = await h.accepted("nobody", deadline_time=timestamp_to_pb(h.clock.wall() + 5))
        agent = await h.agent("worker", "work")
        running = await h.accepted(deadline_time=timestamp_to_pb(h.clock.wall() + 5))
        await h.turn()
        ends = [ended(parked), ended(running)]
        await h.turn(6)
        assert [(await end).state for end in ends] == [TaskState.EXPIRED] * 2
        assert agent.cancelled == [running.task_id]


async def test_cancel(tmp_path: Path) -> None:
    async with house(tmp_path) as h:
        parked = await h.accepted("nobody")
        await h.engine.cancel(parked.task_id, "not needed")
        assert await h.state(parked.task_id) is TaskState.CANCELED
        agent = await h.agent("worker", "work")
        obeys, ignores = await h.accepted(), await h.accepted()
        await h.turn()
        for live in (obeys, ignores):
            await h.engine.cancel(live.task_id, "stop")
        assert len(agent.cancelled) == 2
        await agent.finish(obeys, TaskState.FAILED, FLAKY)
        assert await h.state(obeys.task_id) is TaskState.CANCELED
        done = ended(ignores)
        await h.turn(11)
        assert (await done).state is TaskState.CANCELED
        await agent.finish(ignores)
        assert await h.state(ignores.task_id) is TaskState.CANCELED


async def test_same_key_same_task_other_spec_conflict(tmp_path: Path) -> None:
    async with house(tmp_path) as h:
        first = await h.submit(idempotency_key="k", fingerprint=b"1")
        assert (await h.submit(idempotency_key="k", fingerprint=b"1")).task_id == first.task_id
        other = await h.submit(idempotency_key="k", fingerprint=b"2")
        assert other.problem is not None
        assert (other.problem.reason, other.problem.metadata["task_id"]) == ("IDEMPOTENCY_CONFLICT", first.task_id)
        again = await h.submit(request_id="r")
        assert (await h.submit(request_id="r")).task_id == again.task_id
        await h.restart()
        assert (await h.submit(request_id="r")).task_id == again.task_id


@pytest.mark.parametrize("key", ["idempotency_key", "request_id"])
async def test_what_was_submitted_in_time_is_known_after_its_deadline_and_nothing_new_is_taken(
    tmp_path: Path, key: str
) -> None:
    async with house(tmp_path) as h:
        fields: dict[str, Any] = {key: "k", "deadline_time": timestamp_to_pb(h.clock.wall() + 10)}
        first = await h.submit(**fields)
        await h.turn(20)
        assert await h.state(first.task_id) is TaskState.EXPIRED
        assert (await h.submit(**fields)).task_id == first.task_id
        for late in (fields | {key: "other"}, fields | {key: ""}):
            refused = await h.submit(**late)
            assert refused.problem is not None
            assert refused.problem.reason == "PAST_DEADLINE"
        count = await h.database.read(lambda connection: connection.execute("SELECT count(*) FROM task").fetchone()[0])
        assert (count, await h.accepted_count()) == (1, 1)
        with pytest.raises(DeadlineExceeded, match="PAST_DEADLINE"):
            h.engine.start_call(h.spec(**{"deadline_time": fields["deadline_time"]}), lambda _: None)


async def test_restart_takes_up_everything(tmp_path: Path) -> None:
    async with house(tmp_path) as h:
        agent = await h.agent("worker", "work")
        running = await h.accepted()
        fragile = await h.accepted(on_lost=task_pb2.ON_LOST_FAIL)
        retrying = await h.accepted()
        await h.turn()
        await agent.finish(retrying, TaskState.FAILED, FLAKY)
        await h.turn()
        before = running.sequence
        await h.restart()
        found = h.engine.book.live
        assert found[running.task_id].state is TaskState.PARKED
        assert found[running.task_id].sequence > before
        assert found[fragile.task_id].state is TaskState.ASSIGNED
        assert found[retrying.task_id].attempts == 1
        agent = await h.agent("worker", "work")
        await h.turn(20)
        assert {live.task_id for live in agent.assigned} >= {running.task_id, retrying.task_id}
        assert (await h.stored(fragile.task_id)).problem.reason == "AGENT_LOST"


async def test_question_and_answer_survive_a_lost_agent(tmp_path: Path) -> None:
    async with house(tmp_path) as h:
        agent = await h.agent("worker", "work")
        live = await h.accepted()
        await h.turn()
        question = task_pb2.InputRequest(key="colour", prompt="which?")
        await h.engine.dispatcher.ask(live, question)
        assert await h.state(live.task_id) is TaskState.INPUT_REQUIRED
        with pytest.raises(FailedPrecondition, match="NO_INPUT_REQUESTED"):
            await h.engine.provide_input(live.task_id, "size", task_pb2.TaskOutput())
        await h.engine.provide_input(live.task_id, "colour", task_pb2.TaskOutput(data=b"red"))
        assert agent.answered == [("colour", b"red")]
        h.engine.dispatcher.detach("worker", agent)
        await h.restart()
        agent = await h.agent("worker", "work")
        await h.turn(60)
        assert agent.assigned[0].answers["colour"].data == b"red"
        await h.engine.dispatcher.ask(agent.assigned[0], question)
        assert agent.answered == [("colour", b"red")]


async def test_a_demand_that_was_parked_and_cancelled_is_not_parked_for_ever(tmp_path: Path) -> None:
    async with house(tmp_path) as h:
        gone = await h.accepted()
        await h.engine.cancel(gone.task_id, "")
        agent = await h.agent("worker", "work")
        live = await h.accepted()
        await h.turn()
        assert agent.assigned == [live]


async def test_bounds(tmp_path: Path) -> None:
    async with house(tmp_path) as h:
        for _ in range(50):
            await h.accepted("nobody")
        with pytest.raises(ResourceExhausted, match="QUEUE_FULL"):
            await h.submit()
        h.engine.stop_accepting()
        with pytest.raises(Unavailable, match="NODE_DRAINING"):
            await h.submit()


class TestCalls:
    async def run(self, h: House, **fields: object) -> "asyncio.Future[LiveTask]":
        future: asyncio.Future[LiveTask] = asyncio.get_running_loop().create_future()
        h.engine.start_call(h.spec(**fields), future.set_result)  # type: ignore[arg-type]
        await h.turn()
        return future

    async def test_answer_and_nothing_stored(self, tmp_path: Path) -> None:
        async with house(tmp_path) as h:
            agent = await h.agent("worker", "work")
            call = await self.run(h)
            await agent.finish(agent.assigned[0])
            live = await call
            assert live.output is not None
            assert not h.engine.book.live

    @pytest.mark.parametrize(
        ("skill", "attach", "reason"), [("ocr", True, "UNKNOWN_SKILL"), ("work", False, "NO_AGENT")]
    )
    async def test_nobody_there(self, tmp_path: Path, skill: str, attach: bool, reason: str) -> None:
        async with house(tmp_path) as h:
            await h.agent("worker", "work", attach=attach)
            if not attach:
                h.clock.now += 60
                h.registry.expire_due()
            with pytest.raises(EdgenodeError) as caught:
                await self.run(h, skill=skill)
            assert caught.value.reason == reason

    async def test_agent_lost_tells_the_caller_at_once(self, tmp_path: Path) -> None:
        async with house(tmp_path) as h:
            agent = await h.agent("worker", "work")
            call = await self.run(h)
            h.engine.dispatcher.detach("worker", agent)
            assert (await call).problem.reason == "AGENT_LOST"  # type: ignore[union-attr]

    async def test_silent_agent_is_not_waited_for_past_the_deadline(self, tmp_path: Path) -> None:
        async with house(tmp_path) as h:
            agent = await h.agent("worker", "work")
            call = await self.run(h)
            await h.turn(31)
            assert (await call).problem.reason in ("DEADLINE", "ATTEMPT_TIMEOUT")  # type: ignore[union-attr]
            assert agent.cancelled

    async def test_fleet_call_goes_over_the_link_or_says_why_not(self, tmp_path: Path) -> None:
        link = Link()
        async with house(tmp_path, link) as h:
            call = await self.run(h, scope=FLEET)
            h.engine.dispatcher.end_call(
                link.calls[0], output=task_pb2.TaskOutput(data=b"far"), agent="nodes/n/agents/a"
            )
            live = await call
            assert live.output is not None
            link.up = False
            with pytest.raises(Unavailable, match="LINK_DOWN"):
                await self.run(h, scope=FLEET)

    async def test_stop_tells_every_caller(self, tmp_path: Path) -> None:
        async with house(tmp_path) as h:
            await h.agent("worker", "work")
            call = await self.run(h)
            await h.engine.stop()
            assert (await call).problem.reason == "NODE_STOPPING"  # type: ignore[union-attr]


class TestHub:
    async def test_a_task_given_up_elsewhere_is_a_dead_letter_here(self, tmp_path: Path) -> None:
        async with house(tmp_path, Link()) as h:
            live = await h.accepted(scope=FLEET)
            task = task_pb2.Task(task_id=live.task_id, holder_node="south", attempt_count=3)
            task.state = task_pb2.TASK_STATE_DEAD_LETTERED
            await h.absorb(sync_pb2.TaskEntry(report=sync_pb2.TaskReport(task=task)))
            assert h.dead == [live.task_id]
            await h.absorb(sync_pb2.TaskEntry(report=sync_pb2.TaskReport(task=task)))
            assert h.dead == [live.task_id], "told again, kept once"

    async def test_an_entry_that_cannot_be_taken_is_rejected_by_itself(self, tmp_path: Path) -> None:
        async with house(tmp_path, Link()) as h:
            absurd = grant("absurd", 1)
            absurd.grant.submit_time.seconds = 1 << 60
            newer = sync_pb2.TaskEntry(report=sync_pb2.TaskReport(task=task_pb2.Task(task_id="t")))
            newer.report.task.state = 99  # type: ignore[assignment]
            offer = sync_pb2.TaskEntry(offer=sync_pb2.TaskOffer(task_id="t"))
            entries = [absurd, sync_pb2.TaskEntry(), newer, offer, grant("good", 1)]
            numbered = list(enumerate(entries, 1))
            applied = await h.database.write(
                lambda connection: h.engine.applier.apply(connection, numbered, h.clock.wall())
            )
            assert [rejection.sequence for rejection in applied.rejections] == [1, 2, 3, 4]
            assert {rejection.problem.reason for rejection in applied.rejections} == {"BAD_TIME", "BAD_ENTRY"}
            assert [step.task_id for step in applied.steps if not isinstance(step, sync_pb2.TaskEntry)] == ["good"]

    async def test_offer_report_and_levels(self, tmp_path: Path) -> None:
        link = Link()
        async with house(tmp_path, link) as h:
            live = await h.accepted(scope=FLEET)
            assert await h.entries() == ["offer"]
            assert (live.holder, link.last) == ("hub", 1)
            h.engine.hub.acknowledged(1)
            assert live.level is Level.DURABLE_HUB
            done = ended(live)
            report = task_pb2.Task(
                task_id=live.task_id, state=task_pb2.TASK_STATE_COMPLETED, holder_node="north2", fence=1
            )
            report.output.data = b"far"
            await h.absorb(sync_pb2.TaskEntry(report=sync_pb2.TaskReport(task=report)))
            assert (await done).level is Level.DONE
            assert (await h.stored(live.task_id)).output.data == b"far"
            report.state = task_pb2.TASK_STATE_FAILED
            await h.absorb(sync_pb2.TaskEntry(report=sync_pb2.TaskReport(task=report)))
            assert await h.state(live.task_id) is TaskState.COMPLETED

    async def test_an_end_from_the_hub_stands_over_one_that_is_not_stored(self, tmp_path: Path) -> None:
        async with house(tmp_path, Link()) as h:
            live = await h.accepted(scope=FLEET)
            done = ended(live)
            h.engine.dispatcher.expire(live)
            report = task_pb2.Task(task_id=live.task_id, state=task_pb2.TASK_STATE_COMPLETED, fence=1)
            await h.absorb(sync_pb2.TaskEntry(report=sync_pb2.TaskReport(task=report)))
            assert (await done).state is await h.state(live.task_id) is TaskState.COMPLETED

    async def test_offers_survive_a_restart(self, tmp_path: Path) -> None:
        async with house(tmp_path, Link()) as h:
            live = await h.accepted(scope=FLEET)
            await h.restart()
            again = h.engine.book.live[live.task_id]
            assert again.holder == "hub"
            h.engine.hub.acknowledged(1)
            assert again.level is Level.DURABLE_HUB

    async def test_granted_task_runs_and_reports(self, tmp_path: Path) -> None:
        async with house(tmp_path, Link()) as h:
            agent = await h.agent("worker", "work")
            await h.absorb(grant("T1", 3))
            await agent.finish(agent.assigned[0])
            assert await h.entries() == ["report"]
            # The same grant again changes nothing; a newer one is answered from what is stored.
            await h.absorb(grant("T1", 3))
            await h.absorb(grant("T1", 4))
            assert await h.entries() == ["report", "report"]
            assert len(agent.assigned) == 1

    async def test_revoked_task_is_forgotten(self, tmp_path: Path) -> None:
        async with house(tmp_path, Link()) as h:
            agent = await h.agent("worker", "work")
            await h.absorb(grant("T1", 3))
            await h.absorb(sync_pb2.TaskEntry(revoke=sync_pb2.TaskRevoke(task_id="T1", fence=2)))
            assert "T1" in h.engine.book.live
            await h.absorb(sync_pb2.TaskEntry(revoke=sync_pb2.TaskRevoke(task_id="T1", fence=3)))
            assert "T1" not in h.engine.book.live
            assert agent.cancelled == ["T1"]
            await agent.finish(agent.assigned[0])
            assert await h.entries() == []

    async def test_grant_that_cannot_run_goes_back(self, tmp_path: Path) -> None:
        async with house(tmp_path, Link()) as h:
            bad = grant("T1", 1)
            bad.grant.spec.input = b"x" * 2000
            await h.absorb(bad)
            assert await h.entries() == ["returned"]

    async def test_cancel_and_answer_travel(self, tmp_path: Path) -> None:
        async with house(tmp_path, Link()) as h:
            live = await h.accepted(scope=FLEET)
            await h.engine.cancel(live.task_id, "no")
            assert live.cancel_requested
            asked = task_pb2.Task(
                task_id=live.task_id, state=task_pb2.TASK_STATE_INPUT_REQUIRED, holder_node="x", fence=1
            )
            asked.input_request.key = "k"
            await h.absorb(sync_pb2.TaskEntry(report=sync_pb2.TaskReport(task=asked)))
            await h.engine.provide_input(live.task_id, "k", task_pb2.TaskOutput(data=b"v"))
            assert await h.entries() == ["offer", "cancel", "answer"]

    async def test_rejected_offer_fails_its_task(self, tmp_path: Path) -> None:
        async with house(tmp_path, Link()) as h:
            live = await h.accepted(scope=FLEET)
            done = ended(live)
            h.engine.hub.rejected([Rejection(1, FLAKY)])
            assert (await done).state is TaskState.FAILED

    async def test_agent_that_goes_away_sends_fleet_tasks_to_the_hub(self, tmp_path: Path) -> None:
        async with house(tmp_path, Link()) as h:
            await h.turn(20)
            await h.agent("worker", "work", credit=0)
            live = await h.accepted(scope=FLEET)
            assert live.holder == ""
            await h.registry.deregister("worker")
            await h.turn()
            assert live.holder == "hub"
            assert await h.entries() == ["offer"]


async def test_unknown_task(tmp_path: Path) -> None:
    async with house(tmp_path) as h:
        with pytest.raises(NotFound):
            await h.engine.provide_input("nope", "k", task_pb2.TaskOutput())
        await h.engine.cancel("nope", "")


async def test_ended_tasks_are_forgotten_after_a_while_but_not_dead_letters(tmp_path: Path) -> None:
    async with house(tmp_path) as h:
        agent = await h.agent("worker", "work")
        done, dead = await h.accepted(), await h.accepted(retry_policy=task_pb2.RetryPolicy(max_attempt_count=1))
        await h.turn()
        await agent.finish(done)
        await agent.finish(dead, TaskState.FAILED, FLAKY)
        letter = dead.dead_letter(0.0)
        await h.database.write(lambda connection: dead_letters.add(connection, [letter], LetterBounds(10, 1000)))
        # What ends right behind a sweep bears the time of that sweep: not the next one forgets it, but the one after.
        await h.turn(86_400 + 61)
        await h.turn(61)
        await h.turn()
        kept = await h.database.read(lambda connection: connection.execute("SELECT task_id FROM task").fetchall())
        assert kept == [(dead.task_id,)]


async def test_nothing_begins_once_the_node_drains(tmp_path: Path) -> None:
    async with house(tmp_path) as h:
        agent = await h.agent("worker", "work", credit=0)
        live = await h.accepted()
        call: asyncio.Future[LiveTask] = asyncio.get_running_loop().create_future()
        h.engine.start_call(h.spec(), call.set_result)
        h.engine.stop_accepting()
        h.engine.dispatcher.add_credits("worker", agent, 5)
        await h.turn()
        assert agent.assigned == []
        assert (await call).problem.reason == "NODE_STOPPING"  # type: ignore[union-attr]
        assert live.state is TaskState.QUEUED


async def test_calls_hold_so_many_bytes_and_no_more(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tasks, "MAX_CALL_BYTES", 250)
    async with house(tmp_path) as h:
        await h.agent("worker", "work", credit=0)
        spec = h.spec(input=bytes(100))
        first, _ = (h.engine.start_call(spec, lambda _: None) for _ in range(2))
        with pytest.raises(ResourceExhausted, match="calls that wait hold") as refused:
            h.engine.start_call(spec, lambda _: None)
        assert refused.value.reason == "QUEUE_FULL"
        h.engine.cancel_call(first)
        h.engine.start_call(spec, lambda _: None)  # what has ended makes room
