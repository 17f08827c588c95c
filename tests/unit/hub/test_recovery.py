"""How long a restored hub grants nothing."""

from __future__ import annotations

from collections.abc import Callable

from hub.services.placement import Plan
from hub.services.recovery import PATIENCE, Recovery
from hub.store.records import NodeRow, WaitKey
from tests.unit.hub.test_mover import DEMAND


class Alarm:
    """Keeps what it is to call."""

    def __init__(self) -> None:
        self.due: list[tuple[float, Callable[[], None]]] = []

    def after(self, seconds: float, callback: Callable[[], None]) -> None:
        self.due.append((seconds, callback))

    def ring(self, seconds: float) -> None:
        for when, callback in self.due:
            if when == seconds:
                callback()


given_up: list[str] = []


def made(*asked: str) -> tuple[Recovery, Alarm, list[None]]:
    """A recovery in which `south` is connected and `north` is not; each of `asked` is NODE:restate_id."""
    alarm, changes = Alarm(), list[None]()
    given_up.clear()
    recovery = Recovery(alarm, 30.0, lambda node: node == "south", given_up.extend)  # type: ignore[arg-type]
    recovery.on_change = lambda: changes.append(None)
    pairs = [pair.split(":") for pair in asked]
    recovery.start([NodeRow(node, 1, "", 0, "", 0.0, "", 0, "", restate_id) for node, restate_id in pairs], 7)
    return recovery, alarm, changes


def test_nothing_is_granted_until_all_have_answered() -> None:
    recovery, _, changes = made("north:h", "south:h", "east:n-1", "west:")
    assert (recovery.waiting, recovery.complete, recovery.fence_base) == (True, False, 7)
    recovery.ask("north", "h-2", 9)
    assert (recovery.asked("north"), recovery.asked("west"), recovery.fence_base) == ("h-2", "", 9)
    assert recovery.hearing("north") == "h-2"
    recovery.answered("north")
    assert (recovery.hearing("north"), recovery.asked("north")) == ("", "h-2")
    recovery.settled("north", 12)
    assert (recovery.waiting, recovery.fence_base) == (True, 12)
    recovery.settled("south", 10)
    assert recovery.fence_base == 12
    assert (recovery.waiting, recovery.complete, len(changes)) == (False, True, 2)
    assert recovery.asked("east") == "n-1"
    recovery.begin_above(20)
    recovery.begin_above(5)
    assert recovery.fence_base == 20


def test_nodes_out_of_reach_are_not_waited_for_longer_than_nodes_keep_their_tasks() -> None:
    recovery, alarm, changes = made("north:h")
    alarm.ring(30.0)
    assert (recovery.waiting, recovery.complete, len(changes)) == (False, False, 1)
    assert recovery.asked("north"), "when it comes it is asked all the same"
    assert given_up == ["north"]
    later, alarm, _ = made("north:xh")
    assert (later.waiting, later.complete, alarm.due) == (False, False, [])


def test_nor_one_that_is_there_and_does_not_answer_for_ever() -> None:
    recovery, alarm, _ = made("south:h")
    alarm.ring(30.0)
    assert recovery.waiting
    alarm.ring(30.0 * PATIENCE)
    assert not recovery.waiting


def test_a_hub_that_has_forgotten_nothing_waits_for_nobody() -> None:
    recovery, alarm, _ = made("north:n-1")
    assert (recovery.waiting, recovery.complete, alarm.due) == (False, True, [])


def test_a_node_that_is_asked_is_given_nothing() -> None:
    one, other = WaitKey(DEMAND, 5), WaitKey(DEMAND, 6)
    plan = Plan({one: ["north", "south", "north"], other: ["north"]}, {one: "north", other: "south"}, False)
    assert plan.without(lambda node: node == "north") == Plan({one: ["south"]}, {}, False)
    assert plan.without(lambda node: False) is plan
