"""What becomes of tasks when the hub, or a node, has forgotten: decisions about rows, without a store."""

from __future__ import annotations

import pytest
from msgspec.structs import replace

from edgenode.api.sync.v1 import sync_pb2
from edgenode.link.model.task import OnLost, TaskState
from hub.services import restating
from hub.services.entries import retell
from hub.services.mover import Mover
from hub.services.moves import Answered, CancelAsked, Entry, Granted, Offered, Reported, Restated, Returned
from hub.store.records import IN_DOUBT_AT_HOLDER, IN_DOUBT_AT_ORIGIN, PARENT, TaskRecord
from tests.unit.hub.test_mover import DEMAND, KEY, Rows, Words

HUB, NODE = "h-1", "n-1"  # who forgot
BASE = 1 << 40


class Restored(Rows):
    """Rows of a hub that asks; what is in doubt is not granted, as the store selects."""

    def __init__(self, base: int = BASE) -> None:
        super().__init__()
        self.mover = Mover("hub", Words(), avoid_seconds=5.0, fence_base=lambda: base)

    def says(self, node: str, *entries: Entry, asked: str = HUB) -> None:
        """A node that is asked, and then the end of its answer."""
        self.run(self.mover.intake(node, list(enumerate(entries, 1)), self.parked, self.now, asked), 0)

    def settle(self, node: str, asked: str = HUB) -> None:
        kept, self.tasks = self.tasks, {key: task for key, task in self.tasks.items() if self.in_doubt(task, node)}
        decide = self.mover.settle(node, asked, self.now)
        self.run(decide)
        self.tasks = kept | self.tasks

    @staticmethod
    def in_doubt(task: TaskRecord, node: str) -> bool:
        at_origin = task.origin == node and task.doubt & IN_DOUBT_AT_ORIGIN
        return not task.state.terminal and bool(at_origin or (task.holder == node and task.doubt & IN_DOUBT_AT_HOLDER))

    def forget(self, **facts: object) -> None:
        """The row is one of a backup."""
        self.tasks["t"] = replace(self.tasks["t"], **facts)

    def grant(self, *nodes: str, spare: str = "") -> None:
        kept, self.tasks = (
            self.tasks,
            {key: task for key, task in self.tasks.items() if not task.doubt and task.waiting},
        )
        super().grant(*nodes, spare=spare)
        self.tasks = kept | self.tasks


def offered(again: bool, task_id: str = "t") -> Offered:
    return Offered(TaskRecord(task_id, "south", DEMAND, 5, submit_time=1.0, spec=b"spec"), again)


def reported(fence: int, state: TaskState, task_id: str = "t") -> Reported:
    return Reported(task_id, fence, state, "", 1, "", state.name.encode(), "south")


@pytest.fixture
def rows() -> Restored:
    """One task of south that waits, in the backup of a hub that was restored."""
    rows = Restored()
    rows.offer()
    rows.forget(doubt=IN_DOUBT_AT_ORIGIN)
    return rows


def test_a_task_waits_until_its_origin_still_wants_it(rows: Restored) -> None:
    rows.grant("north")
    assert rows.task.holder == ""
    rows.says("south", offered(again=False))
    rows.grant("north")
    assert rows.task.holder == "", "that was an old offer, perhaps, which comes again"
    rows.says("south", offered(again=True), Restated(HUB))
    rows.settle("south")
    rows.grant("north")
    assert (rows.task.holder, rows.task.fence) == ("north", BASE + 1)


def test_what_a_node_offers_once_it_has_said_all_is_as_usual(rows: Restored) -> None:
    rows.says("south", Restated("h-0"), offered(again=False, task_id="before"), Restated(HUB), offered(False, "after"))
    assert {task_id for task_id, task in rows.tasks.items() if task.doubt} == {"t", "before"}
    rows.settle("south")
    assert rows.tasks["before"].state is TaskState.CANCELED
    rows.grant("north")
    assert rows.tasks["after"].holder == "north"


def test_a_task_whose_end_its_origin_has_runs_no_more(rows: Restored) -> None:
    rows.says("south", offered(again=False), offered(again=False, task_id="new"), Restated(HUB))
    rows.settle("south")
    assert {task.state for task in rows.tasks.values()} == {TaskState.CANCELED}
    assert rows.task.state_reason == "RESTORED"


def test_what_a_node_that_has_forgotten_does_not_mention_goes_on(rows: Restored) -> None:
    rows.says("south", Restated("hn-1"), asked="hn-1")
    rows.settle("south", asked="hn-1")
    rows.grant("north")
    assert rows.task.holder == "north"


@pytest.mark.parametrize("first", ["origin", "holder"])
def test_a_grant_that_the_hub_has_forgotten_stands(rows: Restored, first: str) -> None:
    says: list[tuple[str, Entry]] = [("south", offered(again=True)), ("north", reported(3, TaskState.WORKING))]
    for node, entry in says if first == "origin" else reversed(says):
        rows.says(node, entry)
    for node in ("south", "north"):
        rows.settle(node)
    assert (rows.task.holder, rows.task.fence, rows.task.doubt) == ("north", 3, 0)
    rows.report("north", 3, TaskState.COMPLETED)
    assert rows.task.state is TaskState.COMPLETED
    assert rows.logs["south"][-1] == "report COMPLETED"


def test_a_grant_given_while_the_clock_was_ahead_stands(rows: Restored) -> None:
    """Its fence is above those that the hub would give now; without that the node would pass over the next grant."""
    rows.says("south", offered(again=True))
    rows.says("north", reported(BASE + 9, TaskState.COMPLETED), asked="n-1")
    assert rows.task.holder == "", "a hub that has forgotten nothing never gave it"
    rows.says("north", reported(1 << 63, TaskState.COMPLETED))
    assert rows.task.holder == "", "nor did any"
    rows.says("north", reported(BASE + 9, TaskState.COMPLETED))
    assert rows.task.state is TaskState.COMPLETED
    assert rows.logs["south"][-1] == "report COMPLETED"


def test_an_end_that_the_hub_has_forgotten_counts(rows: Restored) -> None:
    rows.says("north", reported(3, TaskState.COMPLETED))
    rows.says("south", offered(again=True))
    assert rows.task.state is TaskState.COMPLETED
    assert rows.logs["south"] == ["report COMPLETED", "report COMPLETED"]


@pytest.mark.parametrize("state", [TaskState.COMPLETED, TaskState.WORKING])
def test_a_task_that_the_hub_has_forgotten_altogether(state: TaskState) -> None:
    rows = Restored()
    rows.says("north", reported(3, state))
    rows.grant("north")
    rows.says("south", offered(again=True))
    assert rows.task.state is state
    assert (rows.task.holder, rows.task.fence) == ("north", 3)
    if state is TaskState.WORKING:
        assert (rows.task.demand, rows.task.spec, rows.task.doubt) == (DEMAND, b"spec", 0)
        rows.report("north", 3, TaskState.FAILED)
        assert rows.task.state is TaskState.FAILED


@pytest.mark.parametrize(
    ("on_lost", "state"),
    [(OnLost.RETRY, TaskState.QUEUED), (OnLost.FAIL, TaskState.FAILED), (OnLost.WAIT, TaskState.FAILED)],
)
def test_what_its_holder_came_back_without(on_lost: OnLost, state: TaskState) -> None:
    rows = Restored(base=0)
    rows.offer(on_lost=on_lost)
    rows.grant("north")
    rows.forget(doubt=IN_DOUBT_AT_HOLDER)
    rows.says("north", Restated(NODE), asked=NODE)
    rows.settle("north", asked=NODE)
    assert (rows.task.state, rows.task.doubt) == (state, 0)
    if state is TaskState.QUEUED:
        rows.grant("east")
        assert (rows.task.holder, rows.task.fence) == ("east", 2)
    else:
        assert rows.logs["south"] == ["report t FAILED NODE_LOST"]


def test_what_its_holder_still_has_stays_there() -> None:
    rows = Restored(base=0)
    rows.offer(on_lost=OnLost.FAIL)
    rows.grant("north")
    rows.forget(doubt=IN_DOUBT_AT_HOLDER)
    rows.says("north", reported(1, TaskState.QUEUED), Restated(NODE), asked=NODE)
    rows.settle("north", asked=NODE)
    assert (rows.task.holder, rows.task.state, rows.task.doubt) == ("north", TaskState.ASSIGNED, 0)


def test_a_node_is_told_to_forget_what_is_not_its_own_any_more() -> None:
    rows = Restored(base=0)
    rows.offer()
    rows.grant("north")
    rows.report("north", 1, TaskState.COMPLETED)
    rows.says("north", reported(1, TaskState.WORKING), reported(9, TaskState.WORKING, "swept"), asked=NODE)
    assert rows.logs["north"][1:] == ["revoke t 1", "revoke swept 9"]
    assert rows.task.state is TaskState.COMPLETED


def test_an_origin_that_held_its_own_task_hears_the_end_that_counts(rows: Restored) -> None:
    rows.says("north", reported(3, TaskState.FAILED))
    assert rows.logs.pop("south") == ["report FAILED"], "which it passes over: it has been granted the task since"
    rows.says("south", reported(4, TaskState.WORKING))
    assert rows.logs["south"] == ["revoke t 4", "report FAILED"]


def test_a_lost_outdated_holder_is_not_believed_again(rows: Restored) -> None:
    rows.says("south", offered(again=True))
    rows.settle("south")
    rows.grant("east")
    rows.says("north", reported(3, TaskState.COMPLETED), reported(3, TaskState.WORKING))
    assert rows.task.holder == "east"
    assert rows.discarded["FENCED"] == 2


def test_nobody_is_told_an_end_while_it_is_not_known_who_waits() -> None:
    rows = Restored()
    rows.says("south", CancelAsked("gone", "why"), Answered("gone", "key", b"yes"))
    assert rows.logs == {}
    assert rows.discarded == {"UNKNOWN_TASK": 2}


def test_must_not_run_twice_waits_for_everybody() -> None:
    rows = Restored()
    rows.offer(on_lost=OnLost.FAIL)
    rows.forget(doubt=IN_DOUBT_AT_ORIGIN | IN_DOUBT_AT_HOLDER)
    rows.says("south", offered(again=True))
    rows.settle("south")
    rows.grant("north")
    assert rows.task.holder == ""
    rows.settle("")
    rows.grant("north")
    assert rows.task.holder == "north"


def granted_above(rows: Restored, *, old: bool = True, **facts: object) -> None:
    """The parent tells a grant of the past again, or grants what it never granted before."""
    task = TaskRecord("t", "../berlin", DEMAND, 5, submit_time=1.0, spec=b"spec", upstream=7, **facts)  # type: ignore[arg-type]
    rows.run(rows.mover.from_parent([(1, Granted(task))], rows.now, int(old)), 0)


def test_what_a_hub_forgot_that_its_parent_had_granted_is_its_nodes_to_say() -> None:
    rows = Restored()
    rows.says("north", Reported("t", 4, TaskState.WORKING, "", 1, "", b"", "../berlin"))
    granted_above(rows, on_lost=OnLost.WAIT)
    assert (rows.task.holder, rows.task.upstream, rows.task.demand) == ("north", 7, DEMAND)
    assert (rows.task.on_lost, rows.task.doubt) == (OnLost.WAIT, 0)
    rows.report("north", 4, TaskState.COMPLETED)
    assert rows.logs[PARENT][-1] == "report COMPLETED under 7"


def test_what_the_parent_grants_again_does_not_run_twice_here() -> None:
    rows = Restored()
    rows.mover = Mover("hub", Words(), avoid_seconds=5.0, fence_base=lambda: BASE, forgetful=lambda: True)
    granted_above(rows, on_lost=OnLost.FAIL)
    rows.grant("south")
    assert rows.task.holder == ""
    rows.says("north", Reported("t", 4, TaskState.WORKING, "", 1, "", b"", "../berlin"))
    assert (rows.task.holder, rows.task.fence, rows.task.doubt) == ("north", 4, 0)


def test_what_the_parent_never_granted_before_waits_for_no_node_that_has_not_answered() -> None:
    rows = Restored()
    rows.mover = Mover("hub", Words(), avoid_seconds=5.0, fence_base=lambda: BASE, forgetful=lambda: True)
    granted_above(rows, old=False, on_lost=OnLost.FAIL)
    rows.grant("south")
    assert rows.task.holder == "south"


def test_what_a_hub_below_offers_is_the_rest_of_what_a_holder_said() -> None:
    rows = Restored()
    rows.says("north", Reported("t", 4, TaskState.WORKING, "", 1, "", b"", "south"), Returned("t", 4, "no more"))
    rows.intake("south", offered(again=False))  # south is a hub, so it is not asked
    assert (rows.task.demand, rows.task.spec, rows.task.doubt) == (DEMAND, b"spec", 0)
    rows.grant("east")
    assert (rows.task.holder, rows.task.fence) == ("east", BASE + 1)


@pytest.fixture
def returned_home() -> Restored:
    """The parent has granted back a task of this fleet that this hub has forgotten."""
    rows = Restored()
    rows.mover = Mover("hub", Words(), avoid_seconds=5.0, fence_base=lambda: BASE, home="../berlin")
    granted_above(rows)
    return rows


@pytest.mark.parametrize("asked", [HUB, ""])
def test_a_task_of_this_fleet_that_only_the_parent_remembers_is_whose_offer_comes(
    returned_home: Restored, asked: str
) -> None:
    rows = returned_home
    rows.says("south", offered(again=bool(asked)), asked=asked)
    assert (rows.task.origin, rows.task.upstream, rows.task.doubt) == ("south", 7, 0)
    assert rows.discarded == {}
    rows.grant("north")
    rows.report("north", BASE + 1, TaskState.COMPLETED)
    assert rows.logs["south"] == ["report COMPLETED"]
    assert rows.logs[PARENT] == ["report COMPLETED under 7"]


def test_a_task_of_this_fleet_that_only_the_parent_remembers_and_that_its_origin_has_ended(
    returned_home: Restored,
) -> None:
    rows = returned_home
    rows.says("south", offered(again=False))
    rows.settle("south")
    assert rows.task.state is TaskState.CANCELED
    assert rows.logs[PARENT] == ["report t CANCELED RESTORED under 7"]


def test_the_end_of_a_task_of_this_fleet_is_told_to_whoever_offers_it_then(returned_home: Restored) -> None:
    rows = returned_home
    rows.grant("north")
    rows.report("north", BASE + 1, TaskState.COMPLETED)
    rows.says("south", offered(again=True))
    assert rows.logs["south"] == ["report COMPLETED"]


def test_grants_of_the_past_are_told_as_they_are_now() -> None:
    batch = sync_pb2.TaskEntryBatch()
    for number in range(4):
        batch.entries.add(grant=sync_pb2.TaskGrant(task_id=f"t{number}", fence=1))
    payload = batch.SerializeToString()
    told = sync_pb2.TaskEntryBatch.FromString(retell(payload, 3, lambda task_id, fence: task_id == "t1"))
    kinds = [(entry.WhichOneof("entry"), entry.revoke.task_id) for entry in told.entries]
    assert kinds == [("revoke", "t0"), ("grant", ""), ("revoke", "t2"), ("grant", "")]
    assert retell(payload, 4, lambda task_id, fence: True) is payload


# --- and with a protection taken away, the same scenes fail ---


def test_without_the_question_what_ended_runs_again(rows: Restored, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(restating, "take", lambda *_: False)
    rows.says("south", offered(again=False, task_id="new"), Restated(HUB))
    rows.grant("north")
    assert rows.tasks["new"].holder == "north"


def test_without_new_fences_a_node_takes_a_grant_for_one_it_had() -> None:
    rows = Restored(base=0)
    rows.offer()
    rows.grant("north")
    assert rows.task.fence == 1, "as before the backup: the node that has fence 3 would pass it over"


def test_without_doubt_a_task_is_given_away_while_another_node_has_it(rows: Restored) -> None:
    rows.forget(doubt=0)
    rows.grant("east")
    rows.says("north", reported(3, TaskState.COMPLETED))
    assert rows.task.holder == "east", "it runs a second time"
    assert KEY.demand == DEMAND
