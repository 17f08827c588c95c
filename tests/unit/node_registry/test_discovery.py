from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from edgenode.link.model import selector
from edgenode.link.model.agent import AgentView, Health
from edgenode.link.protocol.discovery import FindQuery, SkillIndex, find

AGENT = AgentView(name="nodes/n/agents/a", skills=frozenset({"code.metrics"}), labels={"zone": "a"}, capacity=4)


def named(name: str, **changes: object) -> AgentView:
    return replace(AGENT, name=f"nodes/n/agents/{name}", **changes)  # type: ignore[arg-type]


def order(agents: list[AgentView], query: FindQuery = FindQuery()) -> list[str]:  # noqa: B008
    return [candidate.name.rpartition("/")[2] for candidate in find(agents, query).candidates]


@pytest.mark.parametrize(
    ("agent", "query", "reason", "fact"),
    [
        (AGENT, FindQuery(skill="other"), "NO_SKILL", "code.metrics"),
        (replace(AGENT, skills=frozenset()), FindQuery(skill="other"), "NO_SKILL", "no skills"),
        (replace(AGENT, health=Health.UNREACHABLE), FindQuery(), "UNREACHABLE", "lease"),
        (replace(AGENT, health=Health.DRAINING), FindQuery(), "DRAINING", "nothing new"),
        (AGENT, FindQuery(selector=selector.parse("zone=b")), "SELECTOR", "zone=b: label zone is a"),
        (replace(AGENT, cost=2.5), FindQuery(max_cost=2), "COST", "costs 2.5, at most 2"),
        (replace(AGENT, staleness=31), FindQuery(max_staleness=30), "STALE", "31.0 s ago"),
        (AGENT, FindQuery(text_scores={}), "QUERY", "words"),
    ],
)
def test_each_condition_excludes_with_its_reason(agent: AgentView, query: FindQuery, reason: str, fact: str) -> None:
    assert find([agent], query) == find([agent], query)
    found = find([agent], replace(query, explain=True))
    assert found.candidates == ()
    assert [exclusion.reason for exclusion in found.exclusions] == [reason]
    assert fact in found.exclusions[0].detail
    assert find([agent], query).exclusions == ()


def test_conditions_that_just_hold_do_not_exclude() -> None:
    agent = replace(AGENT, cost=2.0, staleness=30)
    query = FindQuery(skill="code.metrics", selector=selector.parse("zone in (a,b)"), max_cost=2, max_staleness=30)
    assert len(find([agent], query).candidates) == 1


def test_each_part_moves_the_rank() -> None:
    worse = {
        "load": named("b", in_flight=3),
        "latency": named("b", latency=2.0),
        "cost": named("b", cost=3.0),
        "freshness": named("b", staleness=60.0),
        "health": named("b", health=Health.DEGRADED),
    }
    for part, agent in worse.items():
        assert order([agent, named("c")]) == ["c", "b"], part
    text = {"nodes/n/agents/c": 1.0, "nodes/n/agents/b": 0.2}
    assert order([named("b"), named("c")], FindQuery(text_scores=text)) == ["c", "b"]


def test_reasons_name_the_largest_part_first_and_add_up_to_the_score() -> None:
    agent = replace(AGENT, in_flight=1, latency=0.5, cost=1.0, health=Health.DEGRADED)
    candidate = find([agent], FindQuery(text_scores={agent.name: 0.6})).candidates[0]
    assert candidate.reasons[0] == "load 1/4 in flight: +0.75"
    values = [float(reason.rpartition(" ")[2]) for reason in candidate.reasons]
    assert [abs(value) for value in values] == sorted((abs(value) for value in values), reverse=True)
    assert sum(values) == pytest.approx(candidate.score, abs=0.03)


def test_overload_never_scores_below_no_free_capacity() -> None:
    full = find([replace(AGENT, in_flight=4)], FindQuery()).candidates[0]
    over = find([replace(AGENT, in_flight=9)], FindQuery()).candidates[0]
    assert full.score == over.score


@given(
    st.permutations(
        [named(name, in_flight=load) for name, load in zip("abcdefgh", [0, 0, 1, 1, 2, 2, 3, 3], strict=True)]
    )
)
def test_rank_does_not_depend_on_the_order_given(agents: list[AgentView]) -> None:
    assert order(agents) == list("abcdefgh")
    assert order(agents, FindQuery(limit=3)) == list("abc")


def test_index_follows_registrations() -> None:
    index = SkillIndex()
    index.add("a", ["x", "y"])
    index.add("b", ["y"])
    assert list(index.names("y")) == ["a", "b"]
    index.discard("a", ["x", "y", "never"])
    assert list(index.names("y")) == ["b"]
    assert list(index.names("x")) == []
    assert list(index.skills()) == ["y"]
