import pytest

from edgenode.api.registry.v1 import registry_pb2, registry_service_pb2
from edgenode.link.errors import EdgenodeError
from edgenode.link.wire.finding import MAX_EXCLUSIONS, find_query, merge_answers

Find = registry_service_pb2.FindAgentsRequest
Found = registry_service_pb2.FindAgentsResponse


def answer(*scores: tuple[str, float], left_out: tuple[str, ...] = ()) -> Found:
    return Found(
        candidates=[
            registry_service_pb2.AgentCandidate(agent=registry_pb2.Agent(name=f"nodes/{name}"), score=score)
            for name, score in scores
        ],
        exclusions=[registry_service_pb2.AgentExclusion(name=f"nodes/{name}", reason="STALE") for name in left_out],
    )


def names(found: Found) -> list[str]:
    return [candidate.agent.name.removeprefix("nodes/") for candidate in found.candidates]


def test_answers_merge_by_score_and_of_its_own_agents_the_node_knows_best() -> None:
    own = answer(("north/agents/a", 1.0), ("north/agents/b", 0.5), left_out=("north/agents/c",))
    fleet = answer(
        ("south/agents/x", 0.75), ("north/agents/a", 9.0), ("south/agents/b", 0.5), left_out=("north/agents/b", "far/y")
    )
    merged = merge_answers(own, fleet, "nodes/north/", 20)
    assert names(merged) == ["north/agents/a", "south/agents/x", "north/agents/b", "south/agents/b"]
    assert [item.name for item in merged.exclusions] == ["nodes/far/y", "nodes/north/agents/c"]
    assert merged.fleet_included
    assert names(merge_answers(own, fleet, "nodes/north/", 2)) == ["north/agents/a", "south/agents/x"]


def test_exclusions_are_bounded() -> None:
    many = answer(left_out=tuple(f"n{number}" for number in range(MAX_EXCLUSIONS)))
    assert len(merge_answers(many, answer(left_out=("z",)), "nodes/north/", 1).exclusions) == MAX_EXCLUSIONS


def test_unset_conditions_stay_unset_and_zero_is_a_condition() -> None:
    query = find_query(Find())
    assert (query.skill, query.max_cost, query.max_staleness, query.limit) == ("", None, None, 20)
    request = Find(max_cost=0.0, page_size=7)
    request.max_staleness_duration.seconds = 0
    query = find_query(request)
    assert (query.max_cost, query.max_staleness, query.limit) == (0.0, 0.0, 7)


@pytest.mark.parametrize(
    ("request_", "field"),
    [
        (Find(page_size=-1), "page_size"),
        (Find(page_size=1001), "page_size"),
        (Find(query="x" * 257), "query"),
        (Find(max_cost=-1), "max_cost"),
        (Find(skill="NO"), "skill"),
        (Find(selector="a in ()"), "selector"),
        (Find(max_staleness_duration={"seconds": -1}), "max_staleness_duration"),
    ],
)
def test_a_bad_question_names_its_field(request_: registry_service_pb2.FindAgentsRequest, field: str) -> None:
    with pytest.raises(EdgenodeError) as refused:
        find_query(request_)
    assert refused.value.problem.metadata["field"] == field
