"""The fleet as the hub knows it, in memory: nodes, their agents, who is in reach, who fits what.

Theory of operation. A node is in reach while it has a session, and for the length of its lease after it was last heard
of, on the hub's monotonic clock; wall clocks of edges play no part. A node out of reach stays, and so do its agents:
they are shown as UNREACHABLE with the age of what is known of them, and get no work. After a restart of the hub every node
is given one lease to come back before it counts as out of reach.

`version` grows with every change; who fits a demand is worked out once for each version.
"""

from __future__ import annotations

import dataclasses
from collections import Counter, deque
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from dataclasses import dataclass, field

from edgenode.link.model import selector
from edgenode.link.model.agent import AgentView, Health
from edgenode.link.model.frames import AgentLoad
from edgenode.link.protocol.discovery import SkillIndex
from edgenode.link.protocol.lease import LeaseTable
from edgenode.link.protocol.scheduler import Demand

HISTORY = 10_000  # changes kept for watchers that come back
MAX_FITS = 4096  # demands whose fit is kept until the next change
DEGRADED_SHARE = 0.5  # how much of its capacity a degraded agent counts for


@dataclass(slots=True)
class KnownAgent:
    """An agent of some node: as its owner described it (`view`, `payload` serialised) and its load as last told."""

    node: str
    view: AgentView
    payload: bytes
    incarnation: int
    version: int
    in_flight: int = 0
    queue_depth: int = 0


@dataclass(slots=True)
class KnownNode:
    """A node. Times are monotonic seconds."""

    name: str
    connected: bool = False
    reachable: bool = False
    last_heard: float | None = None  # None: not since the hub started
    lost_at: float | None = None  # when it went out of reach
    capacity: int = 0
    agents: dict[str, KnownAgent] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Fit:
    """Nodes in reach that fit a demand, each with the capacity it has for it; `reason` says why there are none."""

    nodes: Mapping[str, float]
    reason: str = ""


@dataclass(frozen=True, slots=True)
class AgentChange:
    """An agent changed, or is gone (None)."""

    version: int
    name: str
    incarnation: int
    agent: KnownAgent | None


class FleetView:
    """`lease` in seconds. `restored` tells how old knowledge from before the start is: name of node -> seconds."""

    def __init__(self, lease: float) -> None:
        self._lease = lease
        self._leases: LeaseTable[str] = LeaseTable()
        self._nodes: dict[str, KnownNode] = {}
        self._agents: dict[str, KnownAgent] = {}
        self._skills = SkillIndex()
        self._fits: dict[Demand, Fit] = {}
        self._base_age: dict[str, float] = {}
        self._history: deque[AgentChange] = deque(maxlen=HISTORY)
        self._notify: list[Callable[[], None]] = []
        self._notify_loads: list[Callable[[list[KnownAgent]], None]] = []
        self.started = 0.0
        self.version = 0

    def on_change(self, notify: Callable[[], None]) -> None:
        """Call `notify` after each change."""
        self._notify.append(notify)

    def on_load(self, notify: Callable[[list[KnownAgent]], None]) -> None:
        """Call `notify` with the agents whose load is new."""
        self._notify_loads.append(notify)

    def restore(self, nodes: Mapping[str, float], agents: Iterable[KnownAgent], now: float) -> None:
        """What the store knows, at start. `nodes`: seconds since each was last heard of."""
        self.started = now
        for name, age in nodes.items():
            self._node(name).reachable = True
            self._base_age[name] = max(age, 0.0)
            self._leases.renew(name, self._lease, now)
        for agent in agents:
            self._put(agent)
        self._changed()

    # --- nodes ---

    def connected(self, node: str, now: float) -> None:
        """A session of the node was established."""
        known = self._node(node)
        known.connected = known.reachable = True
        known.last_heard = now
        known.lost_at = None
        self._leases.drop(node)
        self._touch_all(known)
        self._changed()

    def disconnected(self, node: str, last_heard: float, now: float) -> None:
        """The node's session ended; its lease runs from when it was last heard of."""
        known = self._node(node)
        known.connected = False
        known.last_heard = last_heard
        self._leases.renew(node, max(self._lease - (now - last_heard), 0.0), now)
        self._changed()

    def heard(self, node: str, now: float) -> None:
        """Something came from the node."""
        self._node(node).last_heard = now

    def expire(self, now: float) -> list[str]:
        """Nodes whose lease ran out now."""
        expired = self._leases.expire(now)
        for name in expired:
            known = self._node(name)
            known.reachable = False
            known.lost_at = now
            self._touch_all(known)
        if expired:
            self._changed()
        return expired

    def next_deadline(self) -> float | None:
        """When `expire` has something to do."""
        return self._leases.next_deadline()

    def node(self, name: str) -> KnownNode | None:
        """A node."""
        return self._nodes.get(name)

    def owns(self, agent: str) -> bool:
        """Whether an agent's full name is one of this fleet, also where nothing is known of it but its node."""
        parts = agent.split("/", 2)
        return len(parts) == 3 and parts[1] in self._nodes

    def nodes(self) -> Collection[KnownNode]:
        """All nodes; a live view."""
        return self._nodes.values()

    def staleness(self, node: str, now: float) -> float:
        """Seconds since the node was last heard of; 0 while it is connected."""
        known = self._nodes.get(node)
        if known is None or known.connected:
            return 0.0
        if known.last_heard is not None:
            return max(now - known.last_heard, 0.0)
        return self._base_age.get(node, 0.0) + now - self.started

    # --- agents ---

    def apply(self, upserts: Iterable[KnownAgent], removals: Iterable[str]) -> None:
        """Changes to a node's registry, once they are committed."""
        for name in removals:
            self._remove(name)
        for agent in upserts:
            self._put(agent)
        self._changed()

    def loads(self, node: str, loads: Iterable[AgentLoad]) -> None:
        """Loads of a node's agents. Who fits what does not depend on them."""
        changed = []
        for load in loads:
            name = load.agent if "/" in load.agent else f"nodes/{node}/agents/{load.agent}"
            agent = self._agents.get(name)
            if agent is not None and agent.node == node:
                agent.in_flight = load.in_flight
                agent.queue_depth = load.queue_depth
                changed.append(agent)
        for notify in self._notify_loads:
            notify(changed)

    def agent(self, name: str) -> KnownAgent | None:
        """An agent by its full name."""
        return self._agents.get(name)

    def names(self) -> list[str]:
        """Full names of all agents, sorted."""
        return sorted(self._agents)

    def with_skill(self, skill: str) -> Iterator[KnownAgent]:
        """Agents that can do `skill`; all of them for an empty one."""
        names = self._skills.names(skill) if skill else self._agents.keys()
        return (self._agents[name] for name in names)

    def present(self, agent: KnownAgent, now: float) -> AgentView:
        """The agent as it is to be seen now: health by reach, load, staleness."""
        return dataclasses.replace(
            agent.view,
            health=self.health(agent),
            in_flight=agent.in_flight,
            staleness=self.staleness(agent.node, now),
        )

    def health(self, agent: KnownAgent) -> Health:
        """Its health, UNREACHABLE while its node is out of reach."""
        return agent.view.health if self._nodes[agent.node].reachable else Health.UNREACHABLE

    def changes_after(self, version: int) -> list[AgentChange] | None:
        """Changes after `version`; None where they are not known any more."""
        if version == self.version:
            return []
        if version > self.version or not self._history or self._history[0].version > version + 1:
            return None
        return [change for change in self._history if change.version > version]

    # --- who fits what ---

    def fit(self, demand: Demand) -> Fit:
        """Nodes that fit `demand`, as of this version."""
        found = self._fits.get(demand)
        if found is None:
            if len(self._fits) >= MAX_FITS:  # callers make up demands faster than the fleet changes
                self._fits.clear()
            found = self._fits[demand] = self._find_fit(demand)
        return found

    def _find_fit(self, demand: Demand) -> Fit:
        wanted = selector.parse(demand.selector)
        capacities: Counter[str] = Counter()
        refused: Counter[str] = Counter()
        for agent in self.with_skill(demand.skill):
            view = agent.view
            health = self.health(agent)
            if demand.agent and agent.view.name != demand.agent:
                refused["not the agent asked for"] += 1
            elif health is Health.UNREACHABLE:
                refused["out of reach"] += 1
            elif health is Health.DRAINING:
                refused["draining"] += 1
            elif not wanted.matches(view.labels):
                refused["not selected"] += 1
            elif demand.cost_limit is not None and view.cost > demand.cost_limit:
                refused["too expensive"] += 1
            else:
                share = DEGRADED_SHARE if health is Health.DEGRADED else 1.0
                capacities[agent.node] += view.capacity * share  # type: ignore[assignment]
        if capacities:
            return Fit(capacities)
        if not refused:
            return Fit({}, f"NO_AGENT: no agent has skill {demand.skill}")
        facts = ", ".join(f"{count} {why}" for why, count in refused.most_common())
        return Fit({}, f"NO_AGENT: no agent with skill {demand.skill} fits: {facts}")

    # --- inside ---

    def _node(self, name: str) -> KnownNode:
        known = self._nodes.get(name)
        if known is None:
            known = self._nodes[name] = KnownNode(name)
        return known

    def _put(self, agent: KnownAgent) -> None:
        self._drop(agent.view.name)
        node = self._node(agent.node)
        self._agents[agent.view.name] = node.agents[agent.view.name] = agent
        node.capacity += agent.view.capacity
        self._skills.add(agent.view.name, agent.view.skills)
        self._note(agent.view.name, agent.incarnation, agent)

    def _remove(self, name: str) -> None:
        agent = self._drop(name)
        if agent is not None:
            self._note(name, agent.incarnation, None)

    def _drop(self, name: str) -> KnownAgent | None:
        agent = self._agents.pop(name, None)
        if agent is not None:
            node = self._nodes[agent.node]
            del node.agents[name]
            node.capacity -= agent.view.capacity
            self._skills.discard(name, agent.view.skills)
        return agent

    def _touch_all(self, node: KnownNode) -> None:
        """The health of all its agents looks different now."""
        for name, agent in node.agents.items():
            self._note(name, agent.incarnation, agent)

    def _note(self, name: str, incarnation: int, agent: KnownAgent | None) -> None:
        self.version += 1
        self._history.append(AgentChange(self.version, name, incarnation, agent))

    def _changed(self) -> None:
        self._fits.clear()
        for notify in self._notify:
            notify()
