"""RegistryService of an edge: its own agents, and the fleet's as far as the hub can be asked."""

from __future__ import annotations

import asyncio
import math
from collections import OrderedDict
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable, Iterator, Sequence
from typing import Generic, TypeVar

from edgenode.api.registry.v1 import registry_pb2, registry_service_pb2, registry_service_pb2_grpc
from edgenode.link.errors import NotFound, Unavailable
from edgenode.link.model.agent import RegistryEntry
from edgenode.link.model.names import check_name, check_token, parse_agent_resource
from edgenode.link.protocol.discovery import FindQuery, find
from edgenode.link.wire import checks
from edgenode.link.wire.agents import health_from_proto
from edgenode.link.wire.finding import MAX_PAGE, exclusion_to_pb, find_query, merge_answers
from edgenode.link.wire.status import Context
from edgenode.link.wire.values import duration_to_pb
from edgenode.node.agent_text import AgentText
from edgenode.node.registry import AgentRegistry, LocalAgent, unknown_agent

MAX_DELTA_COUNT = 500
MAX_DELTA_BYTES = 1024 * 1024
FLEET_TIMEOUT = 2.0  # seconds to wait for the hub's part of an answer
REMEMBERED_REQUESTS = 4096
_OF_FLEET = "/"  # begins the tokens of pages that the hub gives; no agent's name does

FleetFind = Callable[
    [registry_service_pb2.FindAgentsRequest], Awaitable[registry_service_pb2.FindAgentsResponse | None]
]
FleetList = Callable[
    [registry_service_pb2.ListAgentsRequest], Awaitable[registry_service_pb2.ListAgentsResponse | None]
]
R = TypeVar("R")
Question = TypeVar("Question")


class RecentRequests(Generic[R]):
    """Answers of mutating requests by their ids, so that one that is sent again does nothing twice; the last few count."""

    def __init__(self, limit: int = REMEMBERED_REQUESTS) -> None:
        self._limit = limit
        self._answers: OrderedDict[str, R] = OrderedDict()

    def get(self, request_id: str) -> R | None:
        """The answer given to that id."""
        return self._answers.get(request_id) if request_id else None

    def put(self, request_id: str, answer: R) -> None:
        """Remember the answer; an empty id is nobody's."""
        if not request_id:
            return
        self._answers[request_id] = answer
        if len(self._answers) > self._limit:
            self._answers.popitem(last=False)


class RegistryService(registry_service_pb2_grpc.RegistryServiceServicer):
    """The servicer. `fleet_find` and `fleet_list` ask the hub; they are None, or answer None, where none can be asked."""

    def __init__(self, registry: AgentRegistry, text: AgentText) -> None:
        self.fleet_find: FleetFind | None = None
        self.fleet_list: FleetList | None = None
        self._registry = registry
        self._text = text
        self._registered: RecentRequests[registry_service_pb2.RegisterAgentResponse] = RecentRequests()
        self._deregistered: RecentRequests[registry_service_pb2.DeregisterAgentResponse] = RecentRequests()
        self._watchers: set[asyncio.Event] = set()
        self._stopping = False
        registry.on_change(lambda name: self._wake())

    def stop(self) -> None:
        """End all watches; new ones are refused."""
        self._stopping = True
        self._wake()

    async def RegisterAgent(
        self, request: registry_service_pb2.RegisterAgentRequest, context: Context
    ) -> registry_service_pb2.RegisterAgentResponse:
        """See RegistryService."""
        checks.short(request.request_id, 128, "request_id")
        known = self._registered.get(request.request_id)
        if known is not None:
            return known
        self._refuse_when_stopping()
        agent = await self._registry.register(request)
        response = registry_service_pb2.RegisterAgentResponse(
            agent=self._registry.record(agent), lease_duration=duration_to_pb(agent.lease)
        )
        self._registered.put(request.request_id, response)
        return response

    async def RenewLease(
        self, request: registry_service_pb2.RenewLeaseRequest, context: Context
    ) -> registry_service_pb2.RenewLeaseResponse:
        """See RegistryService."""
        check_name(request.agent, "agent")
        check_token(request.instance_id, "instance_id")
        checks.short(request.health_reason, 256, "health_reason")
        health = health_from_proto(request.health)
        agent = self._registry.renew(request.agent, request.instance_id, health, request.health_reason)
        return registry_service_pb2.RenewLeaseResponse(lease_duration=duration_to_pb(agent.lease))

    async def DeregisterAgent(
        self, request: registry_service_pb2.DeregisterAgentRequest, context: Context
    ) -> registry_service_pb2.DeregisterAgentResponse:
        """See RegistryService."""
        checks.short(request.request_id, 128, "request_id")
        check_name(request.agent, "agent")
        if request.instance_id:
            check_token(request.instance_id, "instance_id")
        known = self._deregistered.get(request.request_id)
        if known is None:
            await self._registry.deregister(request.agent, request.instance_id)
            known = registry_service_pb2.DeregisterAgentResponse()
            self._deregistered.put(request.request_id, known)
        return known

    async def GetAgent(
        self, request: registry_service_pb2.GetAgentRequest, context: Context
    ) -> registry_service_pb2.GetAgentResponse:
        """See RegistryService."""
        node, name = parse_agent_resource(request.name, self._registry.node)
        if node != self._registry.node:
            raise NotFound(
                "UNKNOWN_AGENT",
                f"{request.name} is not an agent of this node, {self._registry.node}",
                hint="ask the hub, or find it with scope FLEET",
                agent=request.name,
            )
        agent = self._registry.get(name)
        if agent is None:
            raise unknown_agent(name, "list the agents to see which are")
        return registry_service_pb2.GetAgentResponse(agent=self._registry.record(agent))

    async def ListAgents(
        self, request: registry_service_pb2.ListAgentsRequest, context: Context
    ) -> registry_service_pb2.ListAgentsResponse:
        """See RegistryService."""
        checks.in_range(request.page_size, 0, MAX_PAGE, "page_size")
        if request.page_token.startswith(_OF_FLEET):
            return await self._list_fleet(request)
        if request.page_token:
            check_name(request.page_token, "page_token")
        size = request.page_size or 100
        agents = sorted(
            (agent for agent in self._registry.all() if agent.name > request.page_token), key=lambda agent: agent.name
        )
        records = [self._registry.record(agent) for agent in agents[:size]]
        page = records[: _fitting([record.ByteSize() for record in records])]
        following = _OF_FLEET if request.scope == registry_service_pb2.SCOPE_FLEET else ""
        return registry_service_pb2.ListAgentsResponse(
            agents=page, next_page_token=agents[len(page) - 1].name if len(agents) > len(page) else following
        )

    async def _list_fleet(
        self, request: registry_service_pb2.ListAgentsRequest
    ) -> registry_service_pb2.ListAgentsResponse:
        """A page of what the hub knows, without this node's own."""
        asked = registry_service_pb2.ListAgentsRequest(
            page_size=request.page_size,
            page_token=request.page_token.removeprefix(_OF_FLEET),
            known_state=request.known_state,
        )
        page = await _ask_fleet(self.fleet_list, asked)
        if page is None:
            return registry_service_pb2.ListAgentsResponse()
        others = [agent for agent in page.agents if not agent.name.startswith(f"nodes/{self._registry.node}/")]
        del page.agents[:]
        page.agents.extend(others)
        if page.next_page_token:
            page.next_page_token = _OF_FLEET + page.next_page_token
        return page

    async def FindAgents(
        self, request: registry_service_pb2.FindAgentsRequest, context: Context
    ) -> registry_service_pb2.FindAgentsResponse:
        """See RegistryService."""
        find_query(request)  # refuses what is wrong before the text is looked up
        scores = await self._text.scores(request.query) if request.query else None
        query = find_query(request, scores)
        response = self._find_here(query)
        if request.scope == registry_service_pb2.SCOPE_FLEET:
            fleet = await _ask_fleet(self.fleet_find, request)
            if fleet is not None:
                return merge_answers(response, fleet, f"nodes/{self._registry.node}/", query.limit)
        return response

    def _find_here(self, query: FindQuery) -> registry_service_pb2.FindAgentsResponse:
        agents: Iterable[LocalAgent] = self._registry.all()
        if query.skill and not query.explain:
            agents = self._registry.with_skill(query.skill)
        elif query.text_scores is not None and not query.explain:
            matching = (self._registry.get(name.rpartition("/")[2]) for name in query.text_scores)
            agents = [agent for agent in matching if agent is not None]
        by_name = {agent.resource: agent for agent in agents}
        found = find([self._registry.view(agent) for agent in by_name.values()], query)
        response = registry_service_pb2.FindAgentsResponse(
            exclusions=[exclusion_to_pb(exclusion) for exclusion in found.exclusions]
        )
        for candidate in found.candidates:
            shown = response.candidates.add(score=candidate.score, reasons=candidate.reasons)
            self._registry.fill_record(by_name[candidate.name], shown.agent)
        return response

    async def WatchAgents(
        self, request: registry_service_pb2.WatchAgentsRequest, context: Context
    ) -> AsyncIterator[registry_service_pb2.WatchAgentsResponse]:
        """See RegistryService."""
        checks.in_range(request.after_version, 0, math.inf, "after_version")
        log = self._registry.log
        after = request.after_version
        anew = after == 0 or after > log.version
        changed = asyncio.Event()
        self._watchers.add(changed)
        try:
            while True:
                self._refuse_when_stopping()
                changed.clear()
                if anew or log.needs_snapshot(after):
                    version = log.version
                    for response in _snapshot(list(log.entries()), version):
                        yield response
                    anew, after = False, version
                elif after < log.version:
                    delta = log.delta(after, MAX_DELTA_COUNT, MAX_DELTA_BYTES)
                    after = delta.version
                    yield _changes(delta.entries, after)
                else:
                    await changed.wait()
        finally:
            self._watchers.discard(changed)

    def _wake(self) -> None:
        for watcher in self._watchers:
            watcher.set()

    def _refuse_when_stopping(self) -> None:
        if self._stopping:
            raise Unavailable(
                "NODE_STOPPING", "the node is stopping", hint="connect again in a moment", retry_after=1.0
            )


async def _ask_fleet(ask: Callable[[Question], Awaitable[R | None]] | None, question: Question) -> R | None:
    if ask is None:
        return None
    try:
        async with asyncio.timeout(FLEET_TIMEOUT):
            return await ask(question)
    except (TimeoutError, Unavailable):
        # The answer says that it is local only; the edge never waits for the hub.
        return None


def _fitting(sizes: Sequence[int]) -> int:
    """How many of them, at least one, go into one message."""
    total = 0
    for count, size in enumerate(sizes):
        total += size
        if total > MAX_DELTA_BYTES and count:
            return count
    return len(sizes)


def _snapshot(entries: Sequence[RegistryEntry], version: int) -> Iterator[registry_service_pb2.WatchAgentsResponse]:
    """The whole registry in frames; only the last one stands at `version`, a watcher that stops before begins anew."""
    first = True
    while True:
        count = _fitting([len(entry.payload or b"") for entry in entries[:MAX_DELTA_COUNT]])
        last = count == len(entries)
        yield _changes(entries[:count], version if last else entries[count - 1].version, snapshot=first)
        if last:
            return
        entries = entries[count:]
        first = False


def _changes(
    entries: Iterable[RegistryEntry], version: int, *, snapshot: bool = False
) -> registry_service_pb2.WatchAgentsResponse:
    response = registry_service_pb2.WatchAgentsResponse(version=version, snapshot=snapshot)
    for entry in entries:
        if entry.payload is None:
            response.removals.add(name=entry.name, incarnation=entry.incarnation, version=entry.version)
        else:
            response.agents.append(registry_pb2.Agent.FromString(entry.payload))
    return response
