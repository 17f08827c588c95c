from __future__ import annotations

import random
from collections import Counter

from edgenode.link.model.agent import AgentView, Health
from edgenode.link.model.frames import AgentLoad
from edgenode.link.protocol.scheduler import Demand
from hub.services.placement import MIN_WINDOW, Placement
from hub.services.view import MAX_FITS, FleetView, KnownAgent
from hub.store.records import Change, TaskRecord, WaitKey, Workload

LEASE = 15.0


def agent(node: str, name: str = "code", skill: str = "code.metrics", **facts: object) -> KnownAgent:
    view = AgentView(f"nodes/{node}/agents/{name}", frozenset({skill}), **facts)  # type: ignore[arg-type]
    return KnownAgent(node, view, b"", 1, 1)


def fleet(*agents: KnownAgent, now: float = 0.0) -> FleetView:
    view = FleetView(LEASE)
    for node in {item.node for item in agents}:
        view.connected(node, now)
    view.apply(agents, [])
    return view


def key(priority: int = 5, **demand: object) -> WaitKey:
    return WaitKey(Demand(**{"skill": "code.metrics", **demand}), priority)  # type: ignore[arg-type]


def placement(view: FleetView, **waiting: int) -> Placement:
    made = Placement(view, random.Random(1))
    made.restore(Workload({key(): waiting.get("count", 0)}, {}, 0.0))
    return made


def test_nodes_are_given_a_window_and_no_more() -> None:
    placed = placement(fleet(agent("north"), agent("east")), count=10_000)
    plan = placed.plan(0.0, 100_000)
    assert Counter(plan.slots[key()]) == {"north": MIN_WINDOW, "east": MIN_WINDOW}
    assert not plan.more


def test_a_single_choice_names_another_node_with_room() -> None:
    plan = placement(fleet(agent("north"), agent("east")), count=1).plan(0.0, 10)
    assert {*plan.slots[key()], plan.spares[key()]} == {"north", "east"}
    assert plan.sole() == {}
    assert placement(fleet(agent("north")), count=5).plan(0.0, 10).sole() == {key(): "north"}


def test_capacity_widens_the_window_and_draws_more_work() -> None:
    view = fleet(agent("north", capacity=100), agent("east", capacity=100), agent("tiny"))
    counts = Counter(placement(view, count=600).plan(0.0, 600).slots[key()])
    assert placement(view).window("north") == 800
    assert counts["tiny"] < counts["north"] / 5
    assert abs(counts["north"] - counts["east"]) < 60


def test_what_was_not_heard_of_for_long_gets_less() -> None:
    view = fleet(agent("north", capacity=50), agent("east", capacity=50))
    view.disconnected("east", 0.0, 0.0)
    counts = Counter(placement(view, count=100).plan(10.0, 100).slots[key()])
    assert counts["east"] < counts["north"]


def test_conditions_decide_who_fits() -> None:
    view = fleet(
        agent("north", labels={"zone": "a"}, cost=2.0),
        agent("east", labels={"zone": "b"}, health=Health.DRAINING),
        agent("west", labels={"zone": "b"}),
    )

    def fit(**demand: object) -> set[str]:
        return set(view.fit(key(5, **demand).demand).nodes)

    assert fit() == {"north", "west"}
    assert fit(selector="zone=b") == {"west"}
    assert fit(cost_limit=1.0) == {"west"}
    assert fit(agent="nodes/north/agents/code") == {"north"}
    assert fit(skill="other") == set()
    assert view.fit(key(skill="other").demand).reason == "NO_AGENT: no agent has skill other"
    assert "1 draining" in view.fit(key(selector="zone=c").demand).reason


def test_a_queue_nobody_fits_is_parked_until_somebody_comes() -> None:
    view = fleet(agent("north", skill="other"))
    placed = placement(view, count=3)
    assert placed.park() == [key()]
    assert placed.park() == []
    assert placed.parked_count == 3
    assert placed.plan(0.0, 10).slots == {}
    view.apply([agent("north", name="new")], [])
    assert placed.park() == []
    assert placed.parked == {}
    assert placed.plan(0.0, 10).slots == {key(): ["north"] * 3}


def test_the_highest_priority_goes_first_and_equals_take_turns() -> None:
    placed = Placement(fleet(agent("north")), random.Random(1))
    low, high, also = key(1), key(9), key(9, selector="!x")
    placed.restore(Workload({low: 5, high: 5, also: 5}, {}, 0.0))
    assert list(placed.plan(0.0, 3).slots) == [high]
    assert list(placed.plan(0.0, 3).slots) == [also]
    assert list(placed.plan(0.0, 12).slots) == [high, also, low]


def test_committed_changes_are_counted() -> None:
    placed = Placement(fleet(agent("north")), random.Random(1))
    waiting = TaskRecord("t", "south", key().demand, 5, submit_time=0.0)
    placed.note([Change(None, waiting)])
    assert (placed.waiting_count, placed.held("north"), placed.pending_count) == (1, 0, 1)
    held = TaskRecord("t", "south", key().demand, 5, submit_time=0.0, holder="north")
    placed.note([Change(waiting, held)])
    assert (placed.waiting_count, placed.held("north"), placed.pending_count) == (0, 1, 1)
    placed.note([Change(held, waiting)])
    assert (placed.waiting_count, placed.held("north")) == (1, 0)


def test_a_lease_runs_out_on_the_monotonic_clock_and_is_no_deletion() -> None:
    view = fleet(agent("north"))
    assert view.next_deadline() is None
    view.disconnected("north", last_heard=5.0, now=8.0)
    assert view.next_deadline() == 20.0
    assert view.expire(19.9) == []
    assert view.fit(key().demand).nodes
    assert view.expire(20.0) == ["north"]
    known = view.agent("nodes/north/agents/code")
    assert known is not None
    assert view.present(known, 25.0).health is Health.UNREACHABLE
    assert view.present(known, 25.0).staleness == 20.0
    assert view.fit(key().demand).nodes == {}
    view.connected("north", 30.0)
    assert view.present(known, 30.0).health is Health.READY


def test_a_restarted_hub_gives_every_node_one_lease() -> None:
    view = FleetView(LEASE)
    view.restore({"north": 100.0}, [agent("north")], now=50.0)
    assert view.fit(key().demand).nodes
    assert view.staleness("north", 51.0) == 101.0
    assert view.expire(50.0 + LEASE) == ["north"]


def test_watchers_resume_from_a_version_or_start_anew() -> None:
    view = fleet(agent("north"))
    version = view.version
    view.apply([agent("north", name="two")], ["nodes/north/agents/code"])
    changes = view.changes_after(version)
    assert changes is not None
    assert [(change.name, change.agent is None) for change in changes] == [
        ("nodes/north/agents/code", True),
        ("nodes/north/agents/two", False),
    ]
    assert view.changes_after(view.version) == []
    assert view.changes_after(view.version + 1) is None
    view._history.popleft()
    assert view.changes_after(0) is None


def test_loads_are_taken_from_the_owner_only() -> None:
    view = fleet(agent("north"), agent("east"))
    view.loads("north", [AgentLoad("code", 3, 7), AgentLoad("nodes/east/agents/code", 9, 9)])
    north, east = view.agent("nodes/north/agents/code"), view.agent("nodes/east/agents/code")
    assert north is not None
    assert east is not None
    assert (north.in_flight, north.queue_depth) == (3, 7)
    assert (east.in_flight, east.queue_depth) == (0, 0)


def test_what_is_remembered_of_demands_is_bounded() -> None:
    view = fleet(agent("north"))
    for number in range(MAX_FITS + 10):
        assert view.fit(Demand("code.metrics", cost_limit=float(number + 1))).nodes
    assert len(view._fits) <= MAX_FITS
