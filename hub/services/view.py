"""The fleet as the hub knows it, in memory: nodes, their agents, who is in reach, who fits what.

Theory of operation. A node is in reach while it has a session, and for the length of its lease after it was last heard
of, on the hub's monotonic clock; wall clocks of edges play no part. A node out of reach stays, and so do its agents:
they are shown as UNREACHABLE with the age of what is known of them, and get no work. After a restart of the hub every node
is given one lease to come back before it counts as out of reach.

`version` grows with every change. Who fits a demand, and who is found first, is kept up to date change by change (`fits`,
`edgenode.link.protocol.ranking`): nothing here looks at all agents because one of them changed.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from itertools import islice

from edgenode.link.model.agent import AgentView, Health
from edgenode.link.model.frames import AgentLoad
from edgenode.link.model.selector import Selector
from edgenode.link.protocol.discovery import SkillIndex, most_score
from edgenode.link.protocol.lease import LeaseTable
from edgenode.link.protocol.ranking import Ranking
from edgenode.link.protocol.scheduler import Demand
from hub.services.fits import Facts, Fit, Fits

HISTORY = 10_000  # changes kept for watchers that come back
MAX_FITS = 4096  # demands whose fit is kept
MAX_FIT_AGENTS = 2_000_000  # of all fits together
MANY = 256  # agents with a skill, from which on they are kept in order
MAX_RANKINGS = 16
_ANY = Selector()


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
        self._fits = Fits(self._facts, self._able, MAX_FITS, MAX_FIT_AGENTS)
        self._rankings: dict[tuple[str, Selector], Ranking] = {}  # by skill, empty for all; the longest unused first
        self._sorted: list[str] | None = None
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
                self._touch_rankings(agent)
        for notify in self._notify_loads:
            notify(changed)

    def agent(self, name: str) -> KnownAgent | None:
        """An agent by its full name."""
        return self._agents.get(name)

    def names(self) -> list[str]:
        """Full names of all agents, sorted; not to be changed."""
        if self._sorted is None:
            self._sorted = sorted(self._agents)
        return self._sorted

    def with_skill(self, skill: str) -> Iterator[KnownAgent]:
        """Agents that can do `skill`; all of them for an empty one."""
        return (self._agents[name] for name in self._able(skill))

    def ranking(self, skill: str, wanted: Selector = _ANY) -> Ranking | None:
        """Agents that can do `skill` (all for an empty one) with such labels, best first; None where few have the skill."""
        if len(self._able(skill)) < MANY:
            self._rankings.pop((skill, wanted), None)
            return None
        ranking = self._rankings.pop((skill, wanted), None)
        if ranking is None:
            if len(self._rankings) >= MAX_RANKINGS:
                del self._rankings[next(iter(self._rankings))]
            ranking = Ranking(self._able(skill), lambda name: self._bound(skill, wanted, name))
        self._rankings[skill, wanted] = ranking
        return ranking

    def present(self, agent: KnownAgent, now: float) -> AgentView:
        """The agent as it is to be seen now: health by reach, load, staleness."""
        return self._as_seen(agent, self.staleness(agent.node, now))

    def _as_seen(self, agent: KnownAgent, staleness: float) -> AgentView:
        view = agent.view  # written out: `replace` takes three times as long, and a find makes many
        return AgentView(
            view.name,
            view.skills,
            self.health(agent),
            view.labels,
            view.capacity,
            agent.in_flight,
            view.cost,
            view.latency,
            staleness,
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
        newest = list(islice(reversed(self._history), self.version - version))  # each change is one version
        newest.reverse()
        return newest

    # --- who fits what ---

    def fit(self, demand: Demand) -> Fit:
        """Nodes that fit `demand`, as of this version; it changes with the next one that is asked for."""
        return self._fits.at(demand, self.version, self._names_after)

    def _names_after(self, version: int) -> Iterable[str] | None:
        changes = self.changes_after(version)
        return None if changes is None else [change.name for change in changes]

    def _able(self, skill: str) -> Collection[str]:
        return self._skills.names(skill) if skill else self._agents.keys()

    def _facts(self, name: str) -> Facts | None:
        agent = self._agents.get(name)
        return None if agent is None else (agent.node, agent.view, self.health(agent))

    def _bound(self, skill: str, wanted: Selector, name: str) -> float | None:
        agent = self._agents.get(name)
        if agent is None or (skill and skill not in agent.view.skills) or not wanted.matches(agent.view.labels):
            return None
        return most_score(self._as_seen(agent, 0.0))

    def _touch_rankings(self, agent: KnownAgent) -> None:
        for (skill, _), ranking in self._rankings.items():
            if not skill or skill in agent.view.skills:
                ranking.touch(agent.view.name)

    # --- inside ---

    def _node(self, name: str) -> KnownNode:
        known = self._nodes.get(name)
        if known is None:
            known = self._nodes[name] = KnownNode(name)
        return known

    def _put(self, agent: KnownAgent) -> None:
        if self._drop(agent.view.name) is None:
            self._sorted = None
        node = self._node(agent.node)
        self._agents[agent.view.name] = node.agents[agent.view.name] = agent
        node.capacity += agent.view.capacity
        self._skills.add(agent.view.name, agent.view.skills)
        self._touch_rankings(agent)
        self._note(agent.view.name, agent.incarnation, agent)

    def _remove(self, name: str) -> None:
        agent = self._drop(name)
        if agent is not None:
            self._sorted = None
            self._note(name, agent.incarnation, None)

    def _drop(self, name: str) -> KnownAgent | None:
        agent = self._agents.pop(name, None)
        if agent is not None:
            node = self._nodes[agent.node]
            del node.agents[name]
            node.capacity -= agent.view.capacity
            self._skills.discard(name, agent.view.skills)
            self._touch_rankings(agent)
        return agent

    def _touch_all(self, node: KnownNode) -> None:
        """The health of all its agents looks different now."""
        for name, agent in node.agents.items():
            self._touch_rankings(agent)
            self._note(name, agent.incarnation, agent)

    def _note(self, name: str, incarnation: int, agent: KnownAgent | None) -> None:
        self.version += 1
        self._history.append(AgentChange(self.version, name, incarnation, agent))

    def _changed(self) -> None:
        for notify in self._notify:
            notify()
