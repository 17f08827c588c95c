"""A registry on a real store in memory or on disk, with a clock turned by hand."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

from edgenode.api.registry.v1 import registry_pb2, registry_service_pb2
from edgenode.link.store.database import IN_MEMORY, Database
from edgenode.node.registry import AgentRegistry
from edgenode.node.store import MIGRATIONS


class HandClock:
    def __init__(self) -> None:
        self.now = 1_000.0

    def monotonic(self) -> float:
        return self.now

    def wall(self) -> float:
        return self.now + 1_700_000_000.0


class House:
    def __init__(self, database: Database, clock: HandClock, registry: AgentRegistry) -> None:
        self.database = database
        self.clock = clock
        self.registry = registry
        self.changes: list[str] = []
        registry.on_change(self.changes.append)

    def pass_time(self, seconds: float) -> None:
        self.clock.now += seconds
        self.registry.expire_due()


@asynccontextmanager
async def house(path: Path | str = IN_MEMORY, boot: int = 1) -> AsyncIterator[House]:
    database = await Database.open(path, MIGRATIONS, application_id=1)
    clock = HandClock()
    registry = AgentRegistry(database, clock, "north", f"boot-{boot}", boot)
    try:
        await registry.load()
        yield House(database, clock, registry)
    finally:
        await registry.close()
        await database.close()


def request(
    name: str = "device",
    instance: str = "i1",
    incarnation: int = 1,
    skills: tuple[str, ...] = ("code.metrics",),
    **fields: object,
) -> registry_service_pb2.RegisterAgentRequest:
    card = registry_pb2.AgentCard(name=name, skills=[registry_pb2.Skill(id=skill) for skill in skills])
    return registry_service_pb2.RegisterAgentRequest(
        card=card,
        instance_id=instance,
        incarnation=incarnation,
        **fields,  # type: ignore[arg-type]
    )
