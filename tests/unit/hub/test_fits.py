"""Fits and rankings that follow the fleet change by change say what looking at everybody would say."""

from __future__ import annotations

import random
from collections import Counter

import pytest

from edgenode.link.model import selector
from edgenode.link.model.agent import AgentView, Health
from edgenode.link.model.frames import AgentLoad
from edgenode.link.protocol.discovery import FindQuery, best, find
from edgenode.link.protocol.scheduler import Demand
from hub.services.placement import DRAWS, MANY, MIN_WINDOW, Placement
from hub.services.view import HISTORY, FleetView, KnownAgent
from hub.store.records import WaitKey, Workload

NODES = 300
DEMANDS = [
    Demand("a"),
    Demand("b"),
    Demand("a", "zone=1"),
    Demand("a", cost_limit=1.0),
    Demand("a", agent="nodes/n7/agents/x"),
    Demand("nobody"),
]


def drawn_agent(rng: random.Random, node: str, name: str) -> KnownAgent:
    view = AgentView(
        f"nodes/{node}/agents/{name}",
        frozenset(rng.sample(["a", "b", "c"], rng.randint(1, 3))),
        rng.choice([Health.READY, Health.READY, Health.READY, Health.DEGRADED, Health.DRAINING]),
        {"zone": str(rng.randint(0, 2))},
        capacity=rng.randint(1, 4),
        cost=rng.choice([0.0, 0.5, 2.0]),
    )
    return KnownAgent(node, view, b"", 1, 1)


def step(rng: random.Random, view: FleetView, now: float) -> None:
    node, what = f"n{rng.randrange(NODES)}", rng.random()
    if what < 0.4:
        view.apply([drawn_agent(rng, node, rng.choice("xy"))], [])
    elif what < 0.5:
        view.apply([], [f"nodes/{node}/agents/{rng.choice('xy')}"])
    elif what < 0.6:
        view.connected(node, now)
    elif what < 0.7:
        view.disconnected(node, now - rng.random() * 20, now)
    elif what < 0.8:
        view.expire(now)
    else:
        view.loads(node, [AgentLoad("x", rng.randint(0, 5), 0)])


def expected_fit(view: FleetView, demand: Demand) -> dict[str, float]:
    capacities: Counter[str] = Counter()
    wanted = selector.parse(demand.selector)
    for agent in view.with_skill(demand.skill):
        health, facts = view.health(agent), agent.view
        if (
            health in (Health.READY, Health.DEGRADED)
            and (not demand.agent or facts.name == demand.agent)
            and wanted.matches(facts.labels)
            and (demand.cost_limit is None or facts.cost <= demand.cost_limit)
        ):
            capacities[agent.node] += facts.capacity * (0.5 if health is Health.DEGRADED else 1.0)  # type: ignore[assignment]
    return dict(capacities)


def crowd(rng: random.Random) -> FleetView:
    view = FleetView(15.0)
    for number in range(NODES):
        view.connected(f"n{number}", 0.0)
        view.apply([drawn_agent(rng, f"n{number}", name) for name in "xy"], [])
    return view


@pytest.mark.parametrize("seed", range(4))
def test_fits_and_finds_follow_every_change(seed: int) -> None:
    rng = random.Random(seed)
    view = crowd(rng)
    now = 0.0
    queries = [
        FindQuery(skill="a", limit=5),
        FindQuery(skill="a", limit=5, selector=selector.parse("zone=1"), max_cost=1.0),
        FindQuery(limit=20),
        FindQuery(skill="a", limit=7, max_staleness=3.0),
    ]
    for _ in range(60):
        for _ in range(rng.choice([1, 1, 5, 100])):
            now += rng.random()
            step(rng, view, now)
        for demand in DEMANDS:
            fit = view.fit(demand)
            assert dict(fit.nodes) == expected_fit(view, demand)
            assert bool(fit.reason) is not bool(fit.nodes)
            if fit.nodes:
                assert fit.drawn(rng) in fit.nodes
        for query in queries:
            ranking = view.ranking(query.skill, query.selector)
            assert ranking is not None
            looked: list[str] = []

            def present(name: str, now: float = now, looked: list[str] = looked) -> AgentView:
                looked.append(name)
                agent = view.agent(name)
                assert agent is not None
                return view.present(agent, now)

            everybody = (view.present(agent, now) for agent in view.with_skill(query.skill))
            assert best(ranking.best_first(), present, query) == find(everybody, query)


def test_a_fit_that_missed_more_than_is_remembered_begins_anew() -> None:
    rng = random.Random(5)
    view = crowd(rng)
    view.fit(Demand("a"))
    for _ in range(HISTORY + 10):
        view.apply([drawn_agent(rng, f"n{rng.randrange(NODES)}", "x")], [])
    assert dict(view.fit(Demand("a")).nodes) == expected_fit(view, Demand("a"))


def test_the_best_of_many_are_found_without_looking_at_all() -> None:
    view = FleetView(15.0)
    for number in range(5_000):
        agent = KnownAgent(f"n{number:04d}", AgentView(f"nodes/n{number:04d}/agents/x", frozenset({"a"})), b"", 1, 1)
        view.connected(agent.node, 0.0)
        view.apply([agent], [])
    view.loads("n0000", [AgentLoad("x", 1, 0)])
    ranking, looked = view.ranking("a"), []
    assert ranking is not None

    def present(name: str) -> AgentView:
        looked.append(name)
        agent = view.agent(name)
        assert agent is not None
        return view.present(agent, 0.0)

    found = best(ranking.best_first(), present, FindQuery(skill="a", limit=10))
    assert [candidate.name for candidate in found.candidates] == [
        f"nodes/n{number:04d}/agents/x" for number in range(1, 11)
    ]
    assert len(looked) == 10


def many(count: int) -> FleetView:
    view = FleetView(15.0)
    for number in range(count):
        view.connected(f"n{number}", 0.0)
    agents = [AgentView(f"nodes/n{number}/agents/x", frozenset({"a"})) for number in range(count)]
    view.apply([KnownAgent(f"n{number}", facts, b"", 1, 1) for number, facts in enumerate(agents)], [])
    return view


KEY = WaitKey(Demand("a"), 5)


def test_among_many_nodes_work_spreads_and_windows_hold() -> None:
    count = 2 * MANY
    placed = Placement(many(count), random.Random(1))
    placed.restore(Workload({KEY: 100_000}, {}, 0.0))
    held = Counter(placed.plan(0.0, count * 20).slots[KEY])
    assert held.total() == count * 20
    assert max(held.values()) - min(held.values()) < 10
    everything = Counter(placed.plan(0.0, 100_000).slots[KEY])
    assert set(everything.values()) == {MIN_WINDOW}
    assert len(everything) == count


def test_among_many_nodes_a_single_choice_names_another_one() -> None:
    placed = Placement(many(2 * MANY), random.Random(1))
    placed.restore(Workload({KEY: 1}, {}, 0.0))
    plan = placed.plan(0.0, 10)
    assert len(plan.slots[KEY]) == 1
    assert plan.spares[KEY] not in plan.slots[KEY]


def test_a_call_looks_at_few_of_many_nodes_and_at_all_if_it_must() -> None:
    placed = Placement(many(2_000), random.Random(1))
    asked: list[str] = []

    def good(node: str) -> bool:
        asked.append(node)
        return True

    assert placed.pick(KEY, good) is not None
    assert len(asked) <= DRAWS
    assert placed.pick(KEY, lambda node: node == "n1234") == "n1234"
    assert placed.pick(KEY, lambda node: False) is None


def test_counts_of_what_waits_and_what_is_held_need_no_sum() -> None:
    placed = Placement(many(3), random.Random(1))
    placed.restore(Workload({KEY: 4}, {"n1": 2}, 0.0))
    assert (placed.waiting_count, placed.pending_count) == (4, 6)
    assert placed.holding({"n0", "n1"}) == ["n1"]
    assert placed.holding(["n1"]) == ["n1"]


def test_names_are_sorted_again_when_one_comes_or_goes() -> None:
    view = many(3)
    first = view.names()
    view.apply([KnownAgent("n1", AgentView("nodes/n1/agents/x", frozenset({"b"})), b"", 1, 2)], [])
    assert view.names() is first
    view.apply([KnownAgent("n1", AgentView("nodes/n1/agents/a", frozenset({"b"})), b"", 1, 2)], ["nodes/n0/agents/x"])
    assert view.names() == ["nodes/n1/agents/a", "nodes/n1/agents/x", "nodes/n2/agents/x"]
