"""RegistryService of the hub: the whole fleet, read-only."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator

from edgenode.api.registry.v1 import registry_pb2
from edgenode.api.registry.v1 import registry_service_pb2 as pb
from edgenode.api.registry.v1 import registry_service_pb2_grpc as pb_grpc
from edgenode.link.errors import InvalidArgument, NotFound, Unimplemented
from edgenode.link.model.names import parse_agent_resource
from edgenode.link.ports import Clock
from edgenode.link.wire.status import Context
from edgenode.link.wire.values import duration_to_pb
from hub.services.finder import Finder
from hub.services.view import AgentChange, FleetView

FRAME_AGENTS = 256


class RegistryService(pb_grpc.RegistryServiceServicer):
    """Agents register on the node of their device; the hub shows them all."""

    def __init__(self, view: FleetView, finder: Finder, clock: Clock) -> None:
        self._view = view
        self._finder = finder
        self._clock = clock
        self._watchers: set[asyncio.Event] = set()
        view.on_change(self._wake)

    def _wake(self) -> None:
        for watcher in self._watchers:
            watcher.set()

    async def RegisterAgent(self, request: pb.RegisterAgentRequest, context: Context) -> pb.RegisterAgentResponse:
        """Not here."""
        raise attach_to_an_edge("RegisterAgent")

    async def RenewLease(self, request: pb.RenewLeaseRequest, context: Context) -> pb.RenewLeaseResponse:
        """Not here."""
        raise attach_to_an_edge("RenewLease")

    async def DeregisterAgent(self, request: pb.DeregisterAgentRequest, context: Context) -> pb.DeregisterAgentResponse:
        """Not here."""
        raise attach_to_an_edge("DeregisterAgent")

    async def GetAgent(self, request: pb.GetAgentRequest, context: Context) -> pb.GetAgentResponse:
        """One agent by its full name."""
        if "/" not in request.name:
            raise InvalidArgument(
                "BAD_NAME", f"name is {request.name!r}", hint="on a hub: nodes/NODE/agents/AGENT", field="name"
            )
        parse_agent_resource(request.name, "")
        agent = self._view.agent(request.name)
        if agent is None:
            raise NotFound(
                "UNKNOWN_AGENT", f"no agent {request.name}", hint="list the agents to see which are", name=request.name
            )
        staleness = self._view.staleness(agent.node, self._clock.monotonic())
        return pb.GetAgentResponse(agent=self._finder.message(agent), staleness_duration=duration_to_pb(staleness))

    async def ListAgents(self, request: pb.ListAgentsRequest, context: Context) -> pb.ListAgentsResponse:
        """All agents by name."""
        return self._finder.list(request)

    async def FindAgents(self, request: pb.FindAgentsRequest, context: Context) -> pb.FindAgentsResponse:
        """Fit agents, best first."""
        return await self._finder.find(request)

    async def WatchAgents(
        self, request: pb.WatchAgentsRequest, context: Context
    ) -> AsyncIterator[pb.WatchAgentsResponse]:
        """The present state, or what changed since; then changes as they come."""
        changed = asyncio.Event()
        self._watchers.add(changed)
        try:
            version = request.after_version
            if not version or self._view.changes_after(version) is None:
                version = self._view.version
                for frame in self._snapshot(version):
                    yield frame
            while True:
                changed.clear()
                changes = self._view.changes_after(version)
                if changes is None:  # more changed than is kept while this watcher was slow
                    version = self._view.version
                    for frame in self._snapshot(version):
                        yield frame
                elif changes:
                    changes = changes[:FRAME_AGENTS]
                    version = changes[-1].version
                    yield self._delta(changes)
                else:
                    await changed.wait()
        finally:
            self._watchers.discard(changed)

    def _snapshot(self, version: int) -> list[pb.WatchAgentsResponse]:
        names = self._view.names()
        frames = []
        for start in range(0, max(len(names), 1), FRAME_AGENTS):
            agents = [self._view.agent(name) for name in names[start : start + FRAME_AGENTS]]
            messages = [self._finder.message(agent) for agent in agents if agent is not None]
            frames.append(pb.WatchAgentsResponse(agents=messages, version=version, snapshot=start == 0))
        return frames

    def _delta(self, changes: list[AgentChange]) -> pb.WatchAgentsResponse:
        newest = {change.name: change for change in changes}
        frame = pb.WatchAgentsResponse(version=changes[-1].version)
        for change in newest.values():
            # As it is by now: a change further on may have removed it.
            agent = self._view.agent(change.name)
            if change.agent is not None and agent is not None:
                frame.agents.append(self._finder.message(agent))
            elif change.agent is None:
                gone = registry_pb2.Tombstone(name=change.name, incarnation=change.incarnation, version=change.version)
                frame.removals.append(gone)
        return frame


def attach_to_an_edge(what: str) -> Unimplemented:
    """The error for what only edges serve."""
    return Unimplemented(
        "ATTACH_TO_AN_EDGE", f"a hub does not serve {what}", hint="connect to the edge node of the agent's device"
    )
