"""How much memory each part of a connected edge takes, made alone and many times."""

from __future__ import annotations

import gc
from collections.abc import Callable
from typing import Any

import psutil

from edgenode.api.registry.v1 import registry_pb2
from edgenode.link.model.agent import RegistryEntry
from edgenode.link.model.frames import Credit, Hello
from edgenode.link.model.lanes import Lane, LaneCursor, LaneHead
from edgenode.link.protocol.events import Admitted, Opened, Received, Role, Standing
from edgenode.link.protocol.lease import LeaseTable
from edgenode.link.protocol.registry import RegistryReplica
from edgenode.link.protocol.session import LinkSession, Local
from edgenode.link.protocol.timers import Timers
from hub.services.links import known_agent
from hub.services.view import FleetView

KIB = 1024.0


def sizes(count: int) -> dict[str, float]:
    """KiB of each part, from the growth of the process by `count` of them; in a process that did nothing else before."""
    view, leases, timers = FleetView(15.0), LeaseTable[str](), Timers(lambda when: None)

    def know(number: int) -> None:
        name = f"edge-{number:06d}"
        view.connected(name, 0.0)
        view.apply([known_agent(name, _entry(name))], [])

    kept: list[Any] = []  # what was given back would hide what comes next
    return {
        "memory.session of the link": _grown(count, _session, kept),
        "memory.node and agent in the view": _grown(count, know, kept),
        "memory.lease": _grown(count, lambda number: leases.renew(f"edge-{number:06d}", 15.0, 0.0), kept),
        "memory.timer": _grown(count, lambda number: timers.at(number % 977, lambda: None), kept),
    }


def _grown(count: int, make: Callable[[int], Any], kept: list[Any]) -> float:
    gc.collect()
    process = psutil.Process()
    before = process.memory_info().rss
    kept += [made for number in range(count) if (made := make(number)) is not None]
    return (process.memory_info().rss - before) / count / KIB


def _entry(node: str) -> RegistryEntry:
    name = f"nodes/{node}/agents/worker"
    agent = registry_pb2.Agent(
        name=name,
        card=registry_pb2.AgentCard(
            name="worker",
            description="reads a sensor and tells what it saw",
            skills=[registry_pb2.Skill(id="sensor.read", name="read a sensor", tags=["sensor"])],
        ),
        runtime=registry_pb2.AgentRuntime(
            instance_id="instance", incarnation=1, node=node, health=registry_pb2.HEALTH_READY, capacity_count=4
        ),
    )
    return RegistryEntry(name, 1, 1, agent.SerializeToString())


def _session(number: int) -> LinkSession:
    """An established session of the accepting side, with two lanes each way and a registry of one agent."""
    node, epoch = f"edge-{number:06d}", f"epoch-{number}"
    session = LinkSession(Role.ACCEPTING, Local("hub", "boot"))
    session.handle(Opened(), 0.0)
    up = tuple(LaneHead(lane, epoch, 1, 0) for lane in (Lane.TASK, Lane.MESSAGE))
    down = tuple(LaneHead(lane, f"down-{number}", 1, 0) for lane in (Lane.CONTROL, Lane.TASK))
    credits = tuple(Credit(head.lane, 4 << 20, 32_768) for head in down)
    session.handle(Received(Hello(node, f"boot-{number}", 1, up, (), credits, epoch, 1)), 0.0)
    cursors = tuple(LaneCursor(head.lane, epoch, 0) for head in up)
    replica = RegistryReplica(epoch, 1, [_entry(node)])
    session.handle(Admitted(Standing(down, cursors, fence=1, replica=replica)), 0.0)
    return session
