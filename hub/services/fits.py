"""Who fits a demand, kept up to date change by change.

Theory of operation. Working out a fit looks at every agent that has the skill: at a hundred thousand edges that is a tenth of
a second, and any edge that comes or goes would ask for it anew. So a fit remembers what each agent counts for in it, and the
version of the fleet it stands at. When it is asked for it takes in the agents that changed since, or begins anew where more
changed than it has agents, or than the fleet remembers. What nobody asks for costs nothing.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Mapping
from types import MappingProxyType

from edgenode.link.model import selector
from edgenode.link.model.agent import AgentView, Health
from edgenode.link.ports import Rng
from edgenode.link.protocol.scheduler import Demand

DEGRADED_SHARE = 0.5  # how much of its capacity a degraded agent counts for

Facts = tuple[str, AgentView, Health]
"""An agent's node, the agent as its owner described it, and its health as it is to be seen."""


class Fit:
    """Nodes in reach that fit a demand, each with the capacity it has for it."""

    def __init__(self, demand: Demand) -> None:
        self._demand = demand
        self._wanted = selector.parse(demand.selector)
        self._nodes: dict[str, float] = {}
        self._counts: Counter[str] = Counter()  # of its agents that fit, by node
        self._order: list[str] = []  # the same nodes, to draw from
        self._places: dict[str, int] = {}
        self._shares: dict[str, tuple[str, float]] = {}  # by agent: its node, and what it counts for
        self._refused: dict[str, str] = {}  # by agent: why not
        self._reasons: Counter[str] = Counter()
        self.version = -1

    def __len__(self) -> int:
        return len(self._shares) + len(self._refused)

    @property
    def nodes(self) -> Mapping[str, float]:
        """Capacity by node; a live view."""
        return MappingProxyType(self._nodes)

    @property
    def reason(self) -> str:
        """Why there are none; empty if there are."""
        if self._nodes:
            return ""
        if not self._refused:
            return f"NO_AGENT: no agent has skill {self._demand.skill}"
        facts = ", ".join(f"{count} {why}" for why, count in self._reasons.most_common())
        return f"NO_AGENT: no agent with skill {self._demand.skill} fits: {facts}"

    def drawn(self, rng: Rng) -> str:
        """One of the nodes, by chance; there must be one."""
        return self._order[int(rng.random() * len(self._order))]

    def take(self, name: str, facts: Facts | None) -> None:
        """An agent as it is now; None: it is gone, or does not have the skill any more."""
        self._let_go(name)
        if facts is None:
            return
        node, view, health = facts
        why = self._failure(view, health)
        if why:
            self._refused[name] = why
            self._reasons[why] += 1
            return
        share = view.capacity * (DEGRADED_SHARE if health is Health.DEGRADED else 1.0)
        self._shares[name] = node, share
        if node not in self._nodes:
            self._places[node] = len(self._order)
            self._order.append(node)
        self._nodes[node] = self._nodes.get(node, 0.0) + share
        self._counts[node] += 1

    def _failure(self, view: AgentView, health: Health) -> str:
        demand = self._demand
        if demand.agent and view.name != demand.agent:
            return "not the agent asked for"
        if health is Health.UNREACHABLE:
            return "out of reach"
        if health is Health.DRAINING:
            return "draining"
        if not self._wanted.matches(view.labels):
            return "not selected"
        if demand.cost_limit is not None and view.cost > demand.cost_limit:
            return "too expensive"
        return ""

    def _let_go(self, name: str) -> None:
        why = self._refused.pop(name, None)
        if why is not None:
            self._reasons[why] -= 1
            if not self._reasons[why]:
                del self._reasons[why]
        held = self._shares.pop(name, None)
        if held is None:
            return
        node, share = held
        self._nodes[node] -= share
        self._counts[node] -= 1
        if self._counts[node]:
            return
        del self._nodes[node], self._counts[node]
        place, last = self._places.pop(node), self._order.pop()
        if last != node:
            self._order[place] = last
            self._places[last] = place


class Fits:
    """The fits that were asked for. `look(name)` gives an agent's facts, None where it is gone."""

    def __init__(
        self, look: Callable[[str], Facts | None], able: Callable[[str], Iterable[str]], most: int, most_agents: int
    ) -> None:
        """`able` names the agents with a skill; `most` demands are remembered, of `most_agents` agents together."""
        self._look = look
        self._able = able
        self._most = most
        self._most_agents = most_agents
        self._fits: dict[Demand, Fit] = {}
        self._agents = 0

    def __len__(self) -> int:
        return len(self._fits)

    def at(self, demand: Demand, version: int, changed: Callable[[int], Iterable[str] | None]) -> Fit:
        """The fit as of `version`; `changed` names the agents that changed after an earlier one, None if not known."""
        fit = self._fits.get(demand)
        if fit is not None and fit.version == version:
            return fit
        names = None if fit is None else changed(fit.version)
        if fit is None or names is None:
            fit = self._anew(demand)
        else:
            before = len(fit)
            for name in set(names):
                fit.take(name, self._facts(demand, name))
            self._agents += len(fit) - before
        fit.version = version
        return fit

    def _anew(self, demand: Demand) -> Fit:
        old = self._fits.pop(demand, None)
        if old is not None:
            self._agents -= len(old)
        if len(self._fits) >= self._most or self._agents > self._most_agents:
            # Callers make up demands faster than they ask for them again.
            self._fits.clear()
            self._agents = 0
        fit = self._fits[demand] = Fit(demand)
        for name in self._able(demand.skill):
            fit.take(name, self._look(name))
        self._agents += len(fit)
        return fit

    def _facts(self, demand: Demand, name: str) -> Facts | None:
        facts = self._look(name)
        return None if facts is None or (demand.skill and demand.skill not in facts[1].skills) else facts
