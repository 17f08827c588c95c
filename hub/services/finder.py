"""Finding agents over the whole fleet, for edges and for the hub's own callers."""

from __future__ import annotations

from bisect import bisect_right
from typing import cast

from edgenode.api.registry.v1 import registry_pb2, registry_service_pb2
from edgenode.api.sync.v1 import sync_pb2
from edgenode.link.errors import EdgenodeError
from edgenode.link.model.agent import AgentView
from edgenode.link.ports import Clock
from edgenode.link.protocol import discovery
from edgenode.link.wire.finding import exclusion_to_pb, find_query
from edgenode.link.wire.values import duration_to_pb, problem_to_pb
from hub.services.pages import make_token, page_size, read_token
from hub.services.view import FleetView, KnownAgent
from hub.store.ports import FleetStore

MAX_ANSWER_BYTES = 1024 * 1024  # of agents in one answer, beyond the first: it may have to share the link


class Finder:
    """Ranks and lists the fleet's agents; says how old its knowledge of each is. `epoch` is another one at each start."""

    def __init__(self, view: FleetView, store: FleetStore, clock: Clock, epoch: str) -> None:
        self._view = view
        self._store = store
        self._clock = clock
        self._epoch = epoch

    async def find(self, request: registry_service_pb2.FindAgentsRequest) -> registry_service_pb2.FindAgentsResponse:
        """Fit agents, best first. Raises InvalidArgument naming the field."""
        query = find_query(request)
        if request.query:
            query = find_query(request, await self._store.search(request.query))
        now = self._clock.monotonic()
        found = self._search(query, now)
        response = registry_service_pb2.FindAgentsResponse(
            exclusions=[exclusion_to_pb(exclusion) for exclusion in found.exclusions], fleet_included=True
        )
        size = 0
        for candidate in found.candidates:
            agent = self._view.agent(candidate.name)
            if agent is not None:
                size += len(agent.payload)
                if size > MAX_ANSWER_BYTES and response.candidates:
                    break
                response.candidates.add(
                    agent=self.message(agent),
                    score=candidate.score,
                    reasons=candidate.reasons,
                    staleness_duration=duration_to_pb(self._view.staleness(agent.node, now)),
                )
        return response

    def list(self, request: registry_service_pb2.ListAgentsRequest) -> registry_service_pb2.ListAgentsResponse:
        """A page of all agents, by name. Raises InvalidArgument naming the field."""
        most, after = page_size(request.page_size), read_token(request.page_token)
        names = self._view.names()
        response = registry_service_pb2.ListAgentsResponse(
            fleet_included=True, state=f"{self._epoch}.{self._view.version}"
        )
        response.unchanged = not after and request.known_state == response.state
        if response.unchanged:
            return response
        start = bisect_right(names, after)
        size = 0
        for name in names[start : start + most]:
            agent = self._view.agent(name)
            assert agent is not None
            size += len(agent.payload)
            if size > MAX_ANSWER_BYTES and response.agents:
                break
            response.agents.append(self.message(agent))
        if start + len(response.agents) < len(names):
            response.next_page_token = make_token(response.agents[-1].name)
        return response

    def _search(self, query: discovery.FindQuery, now: float) -> discovery.Found:
        view = self._view
        # Who was left out for lack of the skill is of interest only where an explanation was asked for.
        if query.explain:
            return discovery.find((view.present(agent, now) for agent in view.with_skill("")), query)
        if query.text_scores is not None:
            matching = (view.agent(name) for name in query.text_scores)
            return discovery.find((view.present(agent, now) for agent in matching if agent is not None), query)
        ranking = view.ranking(query.skill, query.selector)
        if ranking is None:
            return discovery.find((view.present(agent, now) for agent in view.with_skill(query.skill)), query)

        def present(name: str) -> AgentView:
            agent = view.agent(name)
            assert agent is not None
            return view.present(agent, now)

        return discovery.best(ranking.best_first(), present, query)

    async def exchange(self, exchange: sync_pb2.FindExchange) -> sync_pb2.FindExchange:
        """The answer to an edge's question."""
        answer = sync_pb2.FindExchange(find_id=exchange.find_id)
        try:
            if exchange.HasField("list_request"):
                answer.list_response.CopyFrom(self.list(exchange.list_request))
            else:
                answer.response.CopyFrom(await self.find(exchange.request))
        except EdgenodeError as error:
            answer.problem.CopyFrom(problem_to_pb(error.problem))
        return answer

    def message(self, agent: KnownAgent) -> registry_pb2.Agent:
        """The agent's record with what the hub knows better: health by reach, load."""
        message = registry_pb2.Agent.FromString(agent.payload)
        health = self._view.health(agent)
        if int(health) != int(message.runtime.health):
            message.runtime.health = cast("registry_pb2.Health", int(health))
            message.runtime.health_reason = f"{agent.node} is out of reach"
        message.runtime.in_flight_count = agent.in_flight
        message.runtime.queue_depth_count = agent.queue_depth
        return message
