"""FindAgents: the request as a query of the discovery core, and its findings as an answer."""

from __future__ import annotations

from collections.abc import Mapping

from edgenode.api.registry.v1 import registry_service_pb2
from edgenode.link.model import selector
from edgenode.link.model.names import check_skill
from edgenode.link.protocol.discovery import Exclusion, FindQuery
from edgenode.link.wire import checks
from edgenode.link.wire.values import duration_from_pb

MAX_PAGE = 1000
DEFAULT_PAGE = 20
MAX_EXCLUSIONS = 1000
MAX_QUERY_LENGTH = 256


def find_query(
    request: registry_service_pb2.FindAgentsRequest, text_scores: Mapping[str, float] | None = None
) -> FindQuery:
    """The checked query; `text_scores` is the relevance of what the free text matches. Raises InvalidArgument."""
    checks.in_range(request.page_size, 0, MAX_PAGE, "page_size")
    checks.short(request.query, MAX_QUERY_LENGTH, "query")
    max_staleness = None
    if request.HasField("max_staleness_duration"):
        max_staleness = duration_from_pb(request.max_staleness_duration, "max_staleness_duration")
    max_cost = None
    if request.HasField("max_cost"):
        checks.in_range(request.max_cost, 0, float("inf"), "max_cost")
        max_cost = request.max_cost
    return FindQuery(
        skill=check_skill(request.skill) if request.skill else "",
        selector=selector.parse(request.selector),
        max_cost=max_cost,
        max_staleness=max_staleness,
        text_scores=text_scores,
        explain=request.explain,
        limit=request.page_size or DEFAULT_PAGE,
        explain_limit=MAX_EXCLUSIONS,
    )


def exclusion_to_pb(exclusion: Exclusion) -> registry_service_pb2.AgentExclusion:
    """The message of an exclusion."""
    return registry_service_pb2.AgentExclusion(name=exclusion.name, reason=exclusion.reason, detail=exclusion.detail)


def merge_answers(
    own: registry_service_pb2.FindAgentsResponse,
    other: registry_service_pb2.FindAgentsResponse,
    own_prefix: str,
    limit: int,
) -> registry_service_pb2.FindAgentsResponse:
    """Both answers as one, best first. Of agents under `own_prefix` (`nodes/{node}/`) only `own` is believed."""
    candidates = [*own.candidates, *(item for item in other.candidates if not item.agent.name.startswith(own_prefix))]
    candidates.sort(key=lambda item: (-item.score, item.agent.name))
    exclusions = [*own.exclusions, *(item for item in other.exclusions if not item.name.startswith(own_prefix))]
    exclusions.sort(key=lambda item: item.name)
    return registry_service_pb2.FindAgentsResponse(
        candidates=candidates[:limit], exclusions=exclusions[:MAX_EXCLUSIONS], fleet_included=True
    )
