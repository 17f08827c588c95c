from __future__ import annotations

from collections import Counter
from collections.abc import Iterable

import pytest
from msgspec.structs import replace

from edgenode.link.errors import FailedPrecondition
from edgenode.link.model.problem import Code, Problem
from edgenode.link.model.task import OnLost, TaskState
from edgenode.link.protocol.scheduler import Demand
from hub.services.mover import Mover, Submissions, conflict
from hub.services.moves import Answered, CancelAsked, Entry, Malformed, Offered, Reported, Returned, Unacceptable
from hub.store.records import IN_DOUBT_AT_HOLDER, Decide, TaskRecord, WaitKey

DEMAND = Demand("code.metrics")
KEY = WaitKey(DEMAND, 5)
TERMINAL = [state for state in TaskState if state.terminal]


class Words:
    """A codec whose entries can be read in an assertion."""

    def grant(self, task: TaskRecord) -> bytes:
        return f"grant {task.task_id} {task.fence}".encode()

    def report(self, outcome: bytes) -> bytes:
        return b"report " + outcome

    def cancel(self, task_id: str, reason: str) -> bytes:
        return f"cancel {task_id} {reason}".encode()

    def revoke(self, task_id: str, fence: int) -> bytes:
        return f"revoke {task_id} {fence}".encode()

    def answer(self, task_id: str, key: str, answer: bytes) -> bytes:
        return f"answer {task_id} {key} {answer.decode()}".encode()

    def answers(self, key: str, answer: bytes) -> bytes:
        return f"{key}={answer.decode()};".encode()

    def outcome(self, task: TaskRecord, problem: Problem | None) -> bytes:
        reason = "" if problem is None else f" {problem.reason}"
        return f"{task.task_id} {task.state.name}{reason}".encode()

    def restate(self, restate_id: str) -> bytes:
        return f"restate {restate_id}".encode()

    def offer(self, task: TaskRecord, again: bool = False) -> bytes:
        return f"offer {task.task_id}{' again' * again}".encode()

    def restated(self, restate_id: str) -> bytes:
        return f"restated {restate_id}".encode()

    def report_up(self, outcome: bytes, fence: int) -> bytes:
        return f"report {outcome.decode()} under {fence}".encode()

    def give_back(self, task_id: str, fence: int, problem: Problem) -> bytes:
        return f"returned {task_id} {fence} {problem.reason}".encode()


class Rows:
    """The hub's rows and the nodes' logs, without a store; `now` is set by the test."""

    def __init__(self) -> None:
        self.mover = Mover("hub", Words(), avoid_seconds=5.0)
        self.tasks: dict[str, TaskRecord] = {}
        self.logs: dict[str, list[str]] = {}
        self.discarded: Counter[str] = Counter()
        self.rejected: list[tuple[int, Problem]] = []
        self.parked: dict[WaitKey, str] = {}
        self.now = 100.0

    def run(self, decide: Decide, applied_before: int = -1) -> None:
        once, again = decide(self.tasks, applied_before), decide(self.tasks, applied_before)
        assert once.tasks == again.tasks
        assert once.entries == again.entries, "a decision must not depend on how often it was made"
        if once.refusal is not None:
            assert not once.tasks
            raise once.refusal
        for task_id in once.forgotten:
            del self.tasks[task_id]
        for task in once.tasks.values():
            before = self.tasks.get(task.task_id)
            assert before is None or task.sequence == before.sequence + 1
            assert before is None or not before.state.terminal
            self.tasks[task.task_id] = task
        for node, entry in once.entries:
            self.logs.setdefault(node, []).append(entry.decode())
        self.discarded += once.discarded
        self.rejected += once.rejected

    def intake(self, node: str, *entries: Entry, applied_before: int = 0) -> None:
        self.run(self.mover.intake(node, list(enumerate(entries, 1)), self.parked, self.now), applied_before)

    def offer(self, task_id: str = "t", origin: str = "south", **facts: object) -> TaskRecord:
        task = TaskRecord(task_id, origin, DEMAND, 5, submit_time=self.now, **facts)  # type: ignore[arg-type]
        self.intake(origin, Offered(task))
        return self.tasks[task_id]

    def grant(self, *nodes: str, spare: str = "") -> None:
        self.run(self.mover.grant({KEY: nodes}, {KEY: spare}, self.now))

    def report(self, node: str, fence: int, state: TaskState, task_id: str = "t", outcome: bytes = b"") -> None:
        self.intake(node, Reported(task_id, fence, state, "", 1, "", outcome or state.name.encode()))

    @property
    def task(self) -> TaskRecord:
        return self.tasks["t"]


@pytest.fixture
def rows() -> Rows:
    return Rows()


def held(rows: Rows, *, deadline: float = 0.0, on_lost: OnLost = OnLost.RETRY) -> Rows:
    rows.offer(deadline=deadline, on_lost=on_lost)
    rows.grant("north")
    return rows


def test_offer_grant_report(rows: Rows) -> None:
    held(rows)
    assert (rows.task.holder, rows.task.fence, rows.task.state) == ("north", 1, TaskState.ASSIGNED)
    rows.report("north", 1, TaskState.WORKING)
    rows.report("north", 1, TaskState.COMPLETED)
    assert rows.task.state is TaskState.COMPLETED
    assert rows.logs == {"north": ["grant t 1"], "south": ["report WORKING", "report COMPLETED"]}


def test_a_holder_that_has_forgotten_its_grant_gets_it_again(rows: Rows) -> None:
    held(rows, on_lost=OnLost.WAIT)
    rows.intake("south", CancelAsked("t", "enough"))
    rows.logs.clear()
    rows.run(rows.mover.grant_again("north", rows.now))
    assert rows.logs == {"north": ["grant t 2", "cancel t enough"]}
    rows.intake("north", Returned("t", 1, "from before"))
    assert (rows.task.holder, rows.task.fence) == ("north", 2), "what it says of the former grant is outdated"
    rows.report("north", 2, TaskState.CANCELED)
    assert rows.task.state is TaskState.CANCELED


@pytest.mark.parametrize("state", list(TaskState))
def test_only_the_holder_with_the_present_fence_is_believed(rows: Rows, state: TaskState) -> None:
    held(rows)
    before = rows.task
    rows.report("east", 1, state)
    rows.report("north", 0, state)
    rows.report("north", 2, state)
    assert rows.task == before
    assert rows.discarded == {"FENCED": 3}
    assert "south" not in rows.logs


@pytest.mark.parametrize("state", TERMINAL)
def test_a_terminal_state_never_changes(rows: Rows, state: TaskState) -> None:
    held(rows, deadline=200.0)
    rows.report("north", 1, state)
    ended = rows.task
    for late in TaskState:
        rows.report("north", 1, late)
    rows.intake("north", Returned("t", 1, "no"))
    rows.intake("south", CancelAsked("t", "late"), Answered("t", "key", b"late"))
    rows.now = 300.0
    for decide in (
        rows.mover.expire(rows.now),
        rows.mover.cancel("t", "late", rows.now),
    ):
        rows.tasks, kept = {k: v for k, v in rows.tasks.items() if not v.state.terminal}, rows.tasks
        rows.run(decide)
        rows.tasks = kept
    assert rows.task == ended
    assert rows.discarded["ENDED"] == len(TaskState) + 2


def test_waiting_at_the_holder_is_assigned_at_the_hub(rows: Rows) -> None:
    held(rows)
    rows.report("north", 1, TaskState.PARKED)
    assert rows.task.state is TaskState.ASSIGNED
    assert rows.task.held


def test_an_entry_applied_before_is_passed_over(rows: Rows) -> None:
    task = TaskRecord("t", "south", DEMAND, 5, submit_time=1.0)
    rows.intake("south", Offered(task), Offered(replace(task, task_id="u")), applied_before=1)
    assert list(rows.tasks) == ["u"]


def test_a_doubled_offer_is_discarded_and_an_ended_one_is_answered_again(rows: Rows) -> None:
    held(rows)
    offered = rows.task
    rows.intake("south", Offered(replace(offered, holder="", fence=0)))
    assert rows.task == offered
    rows.report("north", 1, TaskState.COMPLETED)
    rows.intake("south", Offered(offered))
    assert rows.logs["south"] == ["report COMPLETED", "report COMPLETED"]
    assert rows.discarded == {"DUPLICATE_OFFER": 2}


def test_another_nodes_task_is_out_of_reach(rows: Rows) -> None:
    held(rows)
    stranger = replace(rows.task, origin="east")
    rows.intake("east", Offered(stranger), CancelAsked("t", "mine"), Answered("t", "key", b"yes"))
    assert rows.logs["east"] == ["report t FAILED TASK_OF_ANOTHER_NODE"]
    assert rows.discarded == {"FOREIGN_TASK": 3}
    assert not rows.rejected
    assert rows.task.cancel_reason is None


def test_an_offer_that_cannot_be_taken_is_answered_in_the_log(rows: Rows) -> None:
    problem = Problem(Code.RESOURCE_EXHAUSTED, "INPUT_TOO_LARGE", "too much")
    rows.intake("south", Unacceptable("t", problem))
    assert rows.logs == {"south": ["report t FAILED INPUT_TOO_LARGE"]}
    assert (rows.tasks, rows.rejected) == ({}, [])
    held(rows)
    rows.intake("south", Unacceptable("t", problem))
    assert rows.task.held, "it was taken before"
    assert rows.logs["south"] == ["report t FAILED INPUT_TOO_LARGE"]


def test_whoever_waits_for_a_task_without_a_row_is_told_its_end(rows: Rows) -> None:
    rows.intake("south", CancelAsked("gone", "enough"), Answered("lost", "key", b"yes"))
    rows.intake("north", Reported("gone", 1, TaskState.COMPLETED, "", 1, "", b""), Returned("gone", 1, "FULL"))
    assert rows.logs == {"south": ["report gone CANCELED UNKNOWN_TASK", "report lost FAILED UNKNOWN_TASK"]}
    assert rows.discarded == {"UNKNOWN_TASK": 4}


def test_a_bad_entry_is_rejected_by_itself(rows: Rows) -> None:
    problem = Problem(Code.INVALID_ARGUMENT, "BAD_ENTRY", "unreadable")
    rows.intake("south", Malformed(problem), Offered(TaskRecord("t", "south", DEMAND, 5, submit_time=1.0)))
    assert rows.rejected == [(1, problem)]
    assert rows.task.waiting


def test_an_offer_nobody_fits_is_parked_and_its_origin_told_why(rows: Rows) -> None:
    rows.parked[KEY] = "NO_AGENT: none"
    rows.offer()
    assert (rows.task.state, rows.task.state_reason) == (TaskState.PARKED, "NO_AGENT: none")
    assert rows.logs["south"] == ["report t PARKED"]
    rows.grant("north")
    assert rows.task.state is TaskState.ASSIGNED


def test_an_offer_past_its_deadline_expires_at_once(rows: Rows) -> None:
    rows.offer(deadline=99.0)
    assert rows.task.state is TaskState.EXPIRED
    assert rows.logs == {"south": ["report t EXPIRED DEADLINE_PASSED"]}


def test_a_task_given_back_waits_and_avoids_who_gave_it_back(rows: Rows) -> None:
    held(rows)
    rows.intake("north", Returned("t", 1, "FULL"))
    assert rows.task.waiting
    rows.grant("north")
    assert rows.task.waiting, "not to the same node at once"
    rows.grant("north", "east")
    assert (rows.task.holder, rows.task.fence) == ("east", 2)
    rows.intake("east", Returned("t", 2, "FULL"))
    rows.now += 5.0
    rows.grant("east")
    assert (rows.task.holder, rows.task.fence) == ("east", 3)


def test_a_spare_node_takes_what_avoids_the_slots(rows: Rows) -> None:
    rows.offer("u")
    rows.grant("north")
    rows.intake("north", Returned("u", 1, "FULL"))
    rows.offer("v")
    rows.grant("north", "north", spare="east")
    assert {task_id: task.holder for task_id, task in rows.tasks.items()} == {"u": "east", "v": "north"}


def test_a_task_given_back_is_in_no_doubt_at_who_gave_it_back(rows: Rows) -> None:
    """The store grants nothing that is in doubt, and nobody would settle it any more."""
    rows.offer("t")
    rows.grant("north")
    rows.tasks["t"] = replace(rows.tasks["t"], doubt=IN_DOUBT_AT_HOLDER)
    rows.intake("north", Returned("t", 1, "FULL"))
    assert (rows.tasks["t"].holder, rows.tasks["t"].doubt) == ("", 0)


def test_a_cancelled_task_given_back_ends(rows: Rows) -> None:
    held(rows)
    rows.intake("south", CancelAsked("t", "enough"))
    assert rows.logs["north"] == ["grant t 1", "cancel t enough"]
    rows.intake("south", CancelAsked("t", "enough"))
    assert rows.logs["north"] == ["grant t 1", "cancel t enough"], "asked for once"
    rows.intake("north", Returned("t", 1, "DRAINING"))
    assert rows.task.state is TaskState.CANCELED
    assert rows.logs["south"] == ["report t CANCELED CANCELED"]


def test_cancel_before_the_grant_ends_a_task_here(rows: Rows) -> None:
    rows.offer()
    rows.run(rows.mover.cancel("t", "enough", rows.now))
    assert rows.task.state is TaskState.CANCELED
    assert rows.logs == {"south": ["report t CANCELED CANCELED"]}


def test_answers_reach_the_holder_and_the_next_one(rows: Rows) -> None:
    held(rows)
    rows.intake("south", Answered("t", "a", b"1"))
    rows.intake("north", Returned("t", 1, "FULL"))
    rows.intake("south", Answered("t", "b", b"2"))
    assert rows.logs["north"] == ["grant t 1", "answer t a 1"]
    assert rows.task.answers == b"a=1;b=2;"


def test_an_answer_on_the_hub_needs_a_question(rows: Rows) -> None:
    held(rows)
    with pytest.raises(FailedPrecondition) as caught:
        rows.run(rows.mover.answer("t", "a", b"1", rows.now))
    assert caught.value.reason == "NO_INPUT_REQUESTED"
    rows.report("north", 1, TaskState.INPUT_REQUIRED)
    rows.run(rows.mover.answer("t", "a", b"1", rows.now))
    assert rows.logs["north"][-1] == "answer t a 1"


def test_a_deadline_revokes_at_the_holder(rows: Rows) -> None:
    held(rows, deadline=150.0)
    rows.run(rows.mover.expire(149.0))
    assert rows.task.held
    rows.run(rows.mover.expire(150.0))
    assert rows.task.state is TaskState.EXPIRED
    assert rows.logs == {"north": ["grant t 1", "revoke t 1"], "south": ["report t EXPIRED DEADLINE_PASSED"]}


def lose(rows: Rows, node: str, movable: Iterable[WaitKey] = (KEY,)) -> None:
    rows.run(rows.mover.lost(node, list(movable), rows.now))


def test_a_lost_node_is_outdated_once_another_has_the_task(rows: Rows) -> None:
    held(rows)
    lose(rows, "north")
    assert rows.task.waiting
    rows.grant("east")
    assert (rows.task.holder, rows.task.fence) == ("east", 2)
    rows.report("north", 1, TaskState.COMPLETED, outcome=b"late")
    assert rows.task.held
    rows.report("east", 2, TaskState.COMPLETED, outcome=b"first")
    rows.report("north", 1, TaskState.COMPLETED, outcome=b"later")
    assert rows.task.outcome == b"first"
    assert rows.logs["north"] == ["grant t 1", "revoke t 1"]
    assert rows.discarded == {"FENCED": 1, "ENDED": 1}


def test_a_result_that_comes_before_the_next_grant_is_taken(rows: Rows) -> None:
    held(rows)
    lose(rows, "north")
    rows.report("north", 1, TaskState.WORKING)
    assert rows.task.waiting, "it is not theirs to work on any more"
    rows.report("north", 1, TaskState.COMPLETED)
    assert rows.task.state is TaskState.COMPLETED
    rows.grant("east") if rows.task.waiting else None
    assert "east" not in rows.logs


def test_nobody_else_fits_so_the_lost_node_keeps_it(rows: Rows) -> None:
    held(rows)
    lose(rows, "north", movable=())
    assert rows.task.held


def test_work_that_must_not_run_twice_fails_or_waits(rows: Rows) -> None:
    held(rows, on_lost=OnLost.WAIT)
    lose(rows, "north")
    assert rows.task.held
    other = Rows()
    held(other, on_lost=OnLost.FAIL)
    lose(other, "north")
    assert other.task.state is TaskState.FAILED
    assert other.logs["south"] == ["report t FAILED NODE_LOST"]
    assert other.logs["north"][-1] == "revoke t 1"


def test_a_slot_goes_to_the_origin_only_if_need_be(rows: Rows) -> None:
    rows.offer()
    rows.grant("south", "north")
    assert rows.task.holder == "north"
    other = Rows()
    other.offer()
    other.grant("south")
    assert other.task.holder == "south"


def test_the_hubs_own_tasks_have_no_log_to_report_to(rows: Rows) -> None:
    task = TaskRecord("t", "hub", DEMAND, 5, submit_time=1.0, idempotency_key="once", request_id="r-1", spec=b"x")
    rows.run(rows.mover.submit([task, replace(task, task_id="u", request_id="r-2")], rows.now))
    assert list(rows.tasks) == ["t"]
    rows.grant("north")
    rows.report("north", 1, TaskState.COMPLETED)
    assert set(rows.logs) == {"north"}
    again = replace(task, task_id="v", request_id="r-1", idempotency_key="")
    assert Submissions(rows.tasks.values()).first(again) == rows.task
    assert conflict(rows.task).problem.metadata["task_id"] == "t"
