"""Agents as the cores see them."""

from __future__ import annotations

import enum
from collections.abc import Mapping
from dataclasses import dataclass, field


class Health(enum.IntEnum):
    """Whether work should be sent to an agent; numbers as in the contract."""

    READY = 1
    DEGRADED = 2
    DRAINING = 3
    UNREACHABLE = 4


@dataclass(frozen=True, slots=True)
class AgentView:
    """What finding and scheduling need of an agent. `latency` and `staleness` are seconds (`latency` None: no result yet)."""

    name: str  # nodes/{node}/agents/{agent}
    skills: frozenset[str]
    health: Health = Health.READY
    labels: Mapping[str, str] = field(default_factory=dict)
    capacity: int = 1
    in_flight: int = 0
    cost: float = 0.0
    latency: float | None = None
    staleness: float = 0.0


@dataclass(frozen=True, slots=True)
class RegistryEntry:
    """One agent as a registry sends it up; `payload` is the contract's Agent, serialised and unread. None: a tombstone."""

    name: str
    incarnation: int
    version: int
    payload: bytes | None
