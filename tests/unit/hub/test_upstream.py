"""Tasks between a hub and its parent, decision by decision."""

from __future__ import annotations

import pytest
from msgspec.structs import replace

from edgenode.link.model.problem import Code, Problem
from edgenode.link.model.task import OnLost, TaskState
from hub.services.moves import (
    Answered,
    Asked,
    CancelAsked,
    Granted,
    GrantRefused,
    Offered,
    ParentMove,
    Reported,
    Revoked,
)
from hub.services.upstream import AT_PARENT
from hub.store.records import KEPT, PARENT, TaskRecord
from tests.unit.hub.test_mover import DEMAND, KEY, TERMINAL, Rows

NOBODY = "NO_AGENT: nobody"


class Below(Rows):
    """The rows of a hub that has a parent."""

    def hear(self, *entries: ParentMove) -> None:
        self.run(self.mover.from_parent(list(enumerate(entries, 1)), self.now, len(entries)), 0)

    def granted(self, fence: int, task_id: str = "t", **facts: object) -> None:
        task = TaskRecord(task_id, "../paris", DEMAND, 5, submit_time=self.now, upstream=fence, **facts)  # type: ignore[arg-type]
        self.hear(Granted(task))

    def hand_up(self) -> None:
        self.run(self.mover.hand_up(NOBODY, self.now))

    def lose_parent(self, movable: bool = True) -> None:
        self.run(self.mover.lost(PARENT, [KEY] if movable else [], self.now))

    def said(self, state: TaskState, fence: int = 9) -> None:
        """A report of the parent."""
        self.hear(Reported("t", fence, state, "", 1, "", state.name.encode()))

    def take(self, node: str) -> list[str]:
        """What was sent to a node since the last look."""
        return self.logs.pop(node, [])


@pytest.fixture
def rows() -> Below:
    return Below()


@pytest.fixture
def above(rows: Below) -> Below:
    """South's task is with the parent."""
    rows.offer()
    rows.hand_up()
    assert rows.take(PARENT) == ["offer t"]
    return rows


def test_what_the_parent_holds_it_reports_and_the_origin_hears(above: Below) -> None:
    assert (above.task.holder, above.task.state, above.task.state_reason) == (PARENT, TaskState.QUEUED, AT_PARENT)
    above.said(TaskState.PARKED)
    assert above.task.state.name == "PARKED"
    above.said(TaskState.COMPLETED)
    assert (above.task.state, above.task.holder) == (TaskState.COMPLETED, PARENT)
    assert above.take("south") == ["report PARKED", "report COMPLETED"]
    above.said(TaskState.FAILED)
    assert above.task.state is TaskState.COMPLETED


def test_answers_and_cancels_follow_it_up(above: Below) -> None:
    above.intake("south", Answered("t", "key", b"yes"))
    above.intake("south", CancelAsked("t", "enough"))
    assert above.take(PARENT) == ["answer t key yes", "cancel t enough"]


def test_a_deadline_here_ends_it_there(above: Below) -> None:
    above.tasks["t"] = replace(above.task, deadline=150.0)
    above.now = 160.0
    above.run(above.mover.expire(above.now))
    assert above.take(PARENT) == ["cancel t its origin has ended it"]
    assert above.take("south") == ["report t EXPIRED DEADLINE_PASSED"]


def test_a_grant_of_the_parent_moves_under_fences_of_this_hub(rows: Below) -> None:
    rows.granted(7)
    rows.grant("north")
    assert (rows.task.holder, rows.task.fence, rows.task.upstream) == ("north", 1, 7)
    rows.report("north", 1, TaskState.WORKING)
    rows.report("north", 1, TaskState.COMPLETED)
    assert rows.take(PARENT) == ["report WORKING under 7", "report COMPLETED under 7"]
    rows.granted(7)
    assert rows.take(PARENT) == ["report COMPLETED under 7"], "it is said again, not run again"


def test_its_own_task_comes_back_and_both_are_told(above: Below) -> None:
    above.granted(3, attempt_count=2, answers=b"given;")
    assert (above.task.holder, above.task.origin, above.task.upstream) == ("", "south", 3)
    assert (above.task.attempt_count, above.task.answers) == (2, b"given;")
    above.grant("north")
    above.report("north", above.task.fence, TaskState.COMPLETED)
    assert above.take(PARENT) == ["report COMPLETED under 3"]
    assert above.take("south") == ["report COMPLETED"]


def test_an_outdated_grant_or_revocation_changes_nothing(rows: Below) -> None:
    rows.granted(7)
    before = rows.task
    rows.granted(7)
    rows.granted(6)
    rows.hear(Revoked("t", 6))
    assert rows.task == before
    assert rows.discarded == {"FENCED": 3}
    rows.granted(8)
    assert rows.task.upstream == 8


def test_a_revoked_task_leaves_with_its_row(rows: Below) -> None:
    rows.granted(7)
    rows.grant("north")
    rows.hear(Revoked("t", 7))
    assert rows.tasks == {}
    assert rows.take("north") == ["grant t 1", "revoke t 1"]
    rows.granted(8)
    assert rows.task.upstream == 8


def test_a_task_revoked_and_granted_in_one_batch_is_new(rows: Below) -> None:
    rows.granted(7)
    task = TaskRecord("t", "../paris", DEMAND, 5, submit_time=rows.now, upstream=9)
    rows.hear(Revoked("t", 7), Granted(task))
    assert rows.task.upstream == 9


def test_revoked_work_of_this_fleet_is_with_the_parent_again(above: Below) -> None:
    above.granted(3)
    above.hear(Revoked("t", 3))
    assert (above.task.holder, above.task.upstream) == (PARENT, 0)


def test_what_nobody_fits_any_more_is_given_back(rows: Below) -> None:
    rows.granted(7)
    rows.hand_up()
    assert rows.take(PARENT) == ["returned t 7 NO_AGENT"]
    assert rows.tasks == {}


def test_attempts_made_here_are_told_with_it(rows: Below) -> None:
    rows.granted(7, attempt_count=1)
    rows.hand_up()
    assert rows.take(PARENT) == ["report t QUEUED under 7", "returned t 7 NO_AGENT"]


def test_work_of_this_fleet_that_came_back_goes_up_again(above: Below) -> None:
    above.granted(3)
    above.hand_up()
    assert above.take(PARENT) == ["returned t 3 NO_AGENT"]
    assert (above.task.holder, above.task.upstream) == (PARENT, 0)


def test_what_is_kept_stays(rows: Below) -> None:
    rows.offer(upstream=KEPT)
    rows.hand_up()
    assert rows.take(PARENT) == []
    assert rows.task.waiting


def test_a_grant_that_cannot_be_taken_is_given_back(rows: Below) -> None:
    rows.hear(GrantRefused("t", 7, Problem(Code.INVALID_ARGUMENT, "BAD_SKILL", "no")))
    assert rows.take(PARENT) == ["returned t 7 BAD_SKILL"]


def test_a_grant_past_its_deadline_is_never_run(rows: Below) -> None:
    rows.granted(7, deadline=50.0)
    assert rows.task.state is TaskState.EXPIRED
    assert rows.take(PARENT) == ["report t EXPIRED DEADLINE_PASSED under 7"]


def test_what_it_has_with_the_parent_is_said_again_when_asked(above: Below) -> None:
    above.granted(7, "u")
    above.granted(8, "v")
    above.tasks["v"] = replace(above.tasks["v"], holder="north", fence=1, state=TaskState.ASSIGNED)
    above.report("north", 1, TaskState.WORKING, "v")
    above.intake("south", CancelAsked("t", "enough"))
    above.take(PARENT)
    above.hear(Asked("question"))
    assert above.take(PARENT) == [
        "offer t again",
        "cancel t enough",
        "report u QUEUED under 7",
        "report WORKING under 8",
        "restated question",
    ]


# --- the parent is out of reach ---------------------------------------------------------------------------------------


def test_it_is_taken_back_where_that_helps_and_never_goes_up_again(above: Below) -> None:
    above.lose_parent()
    assert (above.task.holder, above.task.upstream, above.task.state) == ("", KEPT, TaskState.QUEUED)
    assert above.take(PARENT) == ["cancel t its origin has ended it"]
    above.hand_up()
    assert above.task.waiting


@pytest.mark.parametrize("state", TERMINAL)
def test_what_the_parent_says_of_it_then_is_outdated(above: Below, state: TaskState) -> None:
    above.lose_parent()
    above.said(state)
    assert above.task.waiting
    assert above.discarded == {"FENCED": 1}


def test_a_grant_that_crossed_the_taking_back_is_given_back(above: Below) -> None:
    above.lose_parent()
    above.take(PARENT)
    above.granted(4)
    above.hear(CancelAsked("t", "crossed"))
    assert above.take(PARENT) == ["returned t 4 TAKEN_BACK"]
    assert above.task.waiting


@pytest.mark.parametrize("on_lost", [OnLost.WAIT, OnLost.FAIL])
def test_what_must_not_run_twice_stays_with_the_parent(rows: Below, on_lost: OnLost) -> None:
    rows.offer(on_lost=on_lost)
    rows.hand_up()
    rows.lose_parent()
    assert rows.task.holder == PARENT


def test_what_nobody_here_fits_stays_with_the_parent(above: Below) -> None:
    above.lose_parent(movable=False)
    assert above.task.holder == PARENT


@pytest.mark.parametrize("on_lost", list(OnLost))
def test_without_a_parent_nothing_waits_for_it(rows: Below, on_lost: OnLost) -> None:
    rows.offer(on_lost=on_lost)
    rows.hand_up()
    rows.run(rows.mover.orphans(rows.now))
    if on_lost is OnLost.FAIL:
        assert rows.task.state is TaskState.FAILED
    else:
        assert (rows.task.waiting, rows.task.upstream) == (True, KEPT)


def test_work_of_a_parent_that_is_gone_is_nobody_s(rows: Below) -> None:
    rows.granted(7)
    rows.grant("north")
    rows.run(rows.mover.orphans(rows.now))
    assert rows.tasks == {}
    assert rows.take("north") == ["grant t 1", "revoke t 1"]


def test_a_task_that_comes_round_is_not_taken_twice(above: Below) -> None:
    above.intake("other", Offered(TaskRecord("t", "other", DEMAND, 5, submit_time=above.now)))
    assert above.discarded == {"LOOP_IN_TREE": 1}
    assert above.take("other") == []
    assert above.task.origin == "south"
