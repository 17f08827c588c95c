"""Who is fit for a job, who is not, and why.

Conditions come first: the first one an agent fails excludes it, under a stable reason code. What is left is scored by a
sum of parts that do not depend on the other candidates, so that scores made by two nodes over their own agents can be
merged by plain comparison:

    load       0..1    share of the capacity that is free
    text       0..1    relevance of the free text, as given from outside
    latency    0..0.5  halves at HALF_LATENCY
    cost       0..0.25 halves at HALF_COST
    freshness  0..0.25 halves at HALF_STALENESS
    health     -0.5    degraded

Equal scores are ordered by name. The cost is linear in the agents looked at: a `SkillIndex` keeps those few, a `Ranking`
brings the best of many first, and the reasons are written for the candidates of the answer only.
"""

from __future__ import annotations

import heapq
from bisect import insort
from collections.abc import Callable, Collection, Iterable, Mapping
from dataclasses import dataclass, field

from edgenode.link.model.agent import AgentView, Health
from edgenode.link.model.selector import Selector

HALF_LATENCY = 0.5  # seconds
HALF_COST = 1.0  # the fleet's own unit
HALF_STALENESS = 10.0  # seconds
LATENCY_SHARE = 0.5
COST_SHARE = 0.25
FRESHNESS_SHARE = 0.25
DEGRADED_PENALTY = -0.5


@dataclass(frozen=True, slots=True, kw_only=True)
class FindQuery:
    """A job to find agents for. Unset conditions hold. `max_staleness` in seconds.

    `text_scores` holds the relevance, 0..1, of each agent (by name) the free text matches; None: no free text.
    """

    skill: str = ""
    selector: Selector = field(default_factory=Selector)
    max_cost: float | None = None
    max_staleness: float | None = None
    text_scores: Mapping[str, float] | None = None
    explain: bool = False
    limit: int = 20
    explain_limit: int = 1000


_ANY = FindQuery()


@dataclass(frozen=True, slots=True)
class Candidate:
    """A fit agent; `reasons` has the parts of its score, largest first."""

    name: str
    score: float
    reasons: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Exclusion:
    """An agent left out: the code of the first condition it failed, and the facts."""

    name: str
    reason: str
    detail: str


@dataclass(frozen=True, slots=True)
class Found:
    """Fit agents, best first; with `explain`, who was left out, by name."""

    candidates: tuple[Candidate, ...]
    exclusions: tuple[Exclusion, ...]


class SkillIndex:
    """Names of agents by skill."""

    def __init__(self) -> None:
        # A dict as an ordered set: the order of registration, so that answers do not depend on hashing.
        self._names: dict[str, dict[str, None]] = {}

    def add(self, name: str, skills: Iterable[str]) -> None:
        """The agent can do these skills."""
        for skill in skills:
            self._names.setdefault(skill, {})[name] = None

    def discard(self, name: str, skills: Iterable[str]) -> None:
        """The agent cannot do these skills any more."""
        for skill in skills:
            names = self._names.get(skill)
            if names is None:
                continue
            names.pop(name, None)
            if not names:
                del self._names[skill]

    def names(self, skill: str) -> Collection[str]:
        """Agents that can do `skill`; a live view."""
        return self._names.get(skill, {}).keys()

    def skills(self) -> Collection[str]:
        """Skills somebody can do; a live view."""
        return self._names.keys()


def find(agents: Iterable[AgentView], query: FindQuery) -> Found:
    """Rank `agents` for `query`. Give the skill's agents only, or all of them where exclusions are to be explained."""
    scored: list[tuple[float, str, AgentView]] = []
    exclusions: list[Exclusion] = []
    for agent in agents:
        failed = _first_failure(agent, query)
        if failed is None:
            scored.append((-_score(agent, query), agent.name, agent))
        elif query.explain:
            exclusions.append(Exclusion(agent.name, *failed))
    best = heapq.nsmallest(query.limit, scored, key=_rank) if len(scored) > query.limit else sorted(scored, key=_rank)
    candidates = tuple(Candidate(name, -negative, _reasons(agent, query)) for negative, name, agent in best)
    exclusions.sort(key=lambda exclusion: exclusion.name)
    return Found(candidates, tuple(exclusions[: query.explain_limit]))


def best(ranked: Iterable[tuple[float, str]], view: Callable[[str], AgentView], query: FindQuery) -> Found:
    """As `find`, of agents in the order of a `Ranking`: looks no further than it must. Not for free text or explanations."""
    found: list[tuple[float, str, AgentView]] = []  # in order, `limit` at most
    for key in ranked:
        if len(found) >= query.limit and _rank(found[-1]) <= key:
            break
        agent = view(key[1])
        if _first_failure(agent, query) is None:
            insort(found, (-_score(agent, query), agent.name, agent), key=_rank)
            del found[query.limit :]
    return Found(tuple(Candidate(name, -negative, _reasons(agent, query)) for negative, name, agent in found), ())


def most_score(agent: AgentView) -> float | None:
    """What an agent scores without free text if it was heard of this very moment; None where no query finds it."""
    if agent.health is Health.UNREACHABLE or agent.health is Health.DRAINING:
        return None
    return _score(agent, _ANY)


def _rank(item: tuple[float, str, AgentView]) -> tuple[float, str]:
    return item[0], item[1]


def _first_failure(agent: AgentView, query: FindQuery) -> tuple[str, str] | None:
    """The reason code and the facts of the first condition `agent` fails."""
    if query.skill and query.skill not in agent.skills:
        return "NO_SKILL", f"has {_listed(sorted(agent.skills))}"
    if agent.health is Health.UNREACHABLE:
        return "UNREACHABLE", "not heard of within its lease"
    if agent.health is Health.DRAINING:
        return "DRAINING", "finishes what it has, takes nothing new"
    if query.selector.requirements:
        failure = query.selector.failure(agent.labels)
        if failure:
            return "SELECTOR", failure
    if query.max_cost is not None and agent.cost > query.max_cost:
        return "COST", f"costs {agent.cost:g}, at most {query.max_cost:g} wanted"
    if query.max_staleness is not None and agent.staleness > query.max_staleness:
        return "STALE", f"last heard of {agent.staleness:.1f} s ago, at most {query.max_staleness:g} s wanted"
    if query.text_scores is not None and agent.name not in query.text_scores:
        return "QUERY", "its name, descriptions and tags have none of the words"
    return None


def _score(agent: AgentView, query: FindQuery) -> float:
    capacity = agent.capacity
    score = (capacity - agent.in_flight) / capacity if agent.in_flight < capacity else 0.0
    latency = agent.latency or 0.0
    score += LATENCY_SHARE * HALF_LATENCY / (HALF_LATENCY + latency)
    score += COST_SHARE * HALF_COST / (HALF_COST + agent.cost)
    score += FRESHNESS_SHARE * HALF_STALENESS / (HALF_STALENESS + agent.staleness)
    if agent.health is Health.DEGRADED:
        score += DEGRADED_PENALTY
    if query.text_scores is not None:
        score += query.text_scores[agent.name]
    return score


def _reasons(agent: AgentView, query: FindQuery) -> tuple[str, ...]:
    """The parts of `_score`, readable, the one that counts most first."""
    free = max(agent.capacity - agent.in_flight, 0) / agent.capacity
    latency = LATENCY_SHARE * HALF_LATENCY / (HALF_LATENCY + (agent.latency or 0.0))
    shown = "no result yet" if agent.latency is None else f"{agent.latency * 1000:.0f} ms"
    parts = [
        (free, f"load {agent.in_flight}/{agent.capacity} in flight: {free:+.2f}"),
        (latency, f"latency {shown}: {latency:+.2f}"),
    ]
    cost = COST_SHARE * HALF_COST / (HALF_COST + agent.cost)
    parts.append((cost, f"cost {agent.cost:g}: {cost:+.2f}"))
    freshness = FRESHNESS_SHARE * HALF_STALENESS / (HALF_STALENESS + agent.staleness)
    parts.append((freshness, f"known as of {agent.staleness:.1f} s ago: {freshness:+.2f}"))
    if agent.health is Health.DEGRADED:
        parts.append((DEGRADED_PENALTY, f"health degraded: {DEGRADED_PENALTY:+.2f}"))
    if query.text_scores is not None:
        text = query.text_scores[agent.name]
        parts.append((text, f"text relevance: {text:+.2f}"))
    parts.sort(key=lambda part: -abs(part[0]))
    return tuple(reason for _, reason in parts)


def _listed(words: list[str], most: int = 5) -> str:
    if not words:
        return "no skills"
    more = f" and {len(words) - most} more" if len(words) > most else ""
    return ", ".join(words[:most]) + more
