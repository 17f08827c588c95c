"""An agent of this node as the registry holds it, and the refusals that speak of one."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping

from edgenode.api.registry.v1 import registry_pb2
from edgenode.link.errors import Aborted, AlreadyExists, NotFound
from edgenode.link.model.agent import Health
from edgenode.link.model.names import agent_resource
from edgenode.link.wire.agents import Registration
from edgenode.link.wire.mounts import MOUNTED


class LocalAgent:
    """An agent of this node. `name` is its name without the node; times are monotonic seconds."""

    __slots__ = (
        "attempts_stored",
        "capacity",
        "card",
        "cost",
        "health",
        "health_reason",
        "heard",
        "incarnation",
        "instance_id",
        "labels",
        "lasting",
        "lease",
        "name",
        "resource",
        "skill_timeouts",
        "skills",
        "stated_health",
        "stated_reason",
        "version",
    )

    def __init__(self, node: str, registration: Registration, card: registry_pb2.AgentCard) -> None:
        self.name = registration.name
        self.resource = agent_resource(node, registration.name)
        self.instance_id = registration.instance_id
        self.incarnation = registration.incarnation
        self.card = card
        self.labels: Mapping[str, str] = registration.labels
        self.cost = registration.cost
        self.capacity = registration.capacity
        self.lease = registration.lease
        self.skills = frozenset(registration.skills)
        self.skill_timeouts: Mapping[str, float] = registration.attempt_timeouts
        self.attempts_stored = registration.attempts_stored
        self.health = Health.UNREACHABLE
        self.health_reason = ""
        # What the agent last said of itself: it counts again as soon as the agent is heard of.
        self.stated_health = Health.READY
        self.stated_reason = ""
        self.heard: float | None = None
        self.version = 0
        self.lasting = registry_pb2.Agent()  # its record but for what changes all the time, as of its version


def unknown_agent(name: str, hint: str) -> NotFound:
    """There is no agent of that name."""
    return NotFound("UNKNOWN_AGENT", f"{name} is not registered here", hint=hint, agent=name)


def superseded(holder: LocalAgent) -> Aborted:
    """The caller's instance does not hold the name any more."""
    return Aborted(
        "SUPERSEDED",
        f"a newer instance of {holder.name} holds the name",
        hint="stop this one, or register it with a higher incarnation",
        agent=holder.name,
        incarnation=holder.incarnation,
    )


def removed_before(agent: LocalAgent, incarnation: int) -> Aborted:
    """The name was removed at `incarnation`, which is the agent's own or a higher one."""
    return Aborted(
        "INCARNATION_OUTDATED",
        f"{agent.name} was removed at incarnation {incarnation}",
        hint="register with a higher incarnation",
        agent=agent.name,
        incarnation=incarnation,
    )


def check_takeover(held: LocalAgent, agent: LocalAgent, *, attached: bool) -> None:
    """Raises AlreadyExists (NAME_IN_USE) unless `agent` is the same instance or a newer one.

    A mount and a program are not instances of one agent: neither takes the name of a mount, nor of a program that is
    `attached`.
    """
    mounted = MOUNTED in held.labels
    if mounted != (MOUNTED in agent.labels) and (mounted or attached):
        raise AlreadyExists(
            "NAME_IN_USE",
            f"{held.name} is {'a mount' if mounted else 'an agent that runs'} here already",
            hint="take another name" if mounted else "stop that agent, or remove this mount and take another name",
            agent=held.name,
        )
    if agent.incarnation > held.incarnation:
        return
    if agent.incarnation == held.incarnation and agent.instance_id == held.instance_id:
        return
    raise AlreadyExists(
        "NAME_IN_USE",
        f"{held.name} is registered by incarnation {held.incarnation}; this is {agent.incarnation}",
        hint="start it with a higher incarnation, or give it another name",
        agent=held.name,
        incarnation=held.incarnation,
    )


def health_counts(agents: Iterable[LocalAgent]) -> dict[str, int]:
    """Agents by the name of their health, lower case."""
    counts = Counter(agent.health for agent in agents)
    return {health.name.lower(): count for health, count in counts.items()}
