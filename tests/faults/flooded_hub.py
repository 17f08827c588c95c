"""A hub flooded by an edge with calls for another one that never reads: its process stands still, its connection is up."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator
from pathlib import Path

import psutil

from edgenode.api.registry.v1 import registry_service_pb2, registry_service_pb2_grpc
from edgenode.api.sync.v1 import sync_pb2
from edgenode.link.ports import SystemClock
from edgenode.link.wire.driver import DriverSettings
from hub.ca.authority import Authority
from tests.faults.fleet import Rig
from tests.faults.flooding import CHUNK, COPIES, MIB, SLACK, Memory
from tests.integration.hub.fake_edge import FakeEdge, until_async

PATIENCE = 60.0
OFFERED = 192 * MIB
LIMIT = COPIES * DriverSettings().carried_bytes + SLACK
SKILL = "deaf"
# Nobody's silence counts: what stands still is not gone.
_LONG = {"EDGEHUB_HEARTBEAT_SECONDS": "200", "EDGEHUB_LEASE_SECONDS": "600"}


class Site:
    """The hub, the edge that is deaf, and the one that calls, which is a link in this process."""

    def __init__(self, folder: Path) -> None:
        self.rig = Rig(folder)
        self.memory: Memory
        self.caller: FakeEdge

    async def start(self, mutant: str = "") -> None:
        """With an agent at the deaf one, which the hub knows."""
        await self.rig.make_hub()
        await self.rig.start_hub(mutant=mutant, environment=_LONG)
        await self.rig.join("north")
        await self.rig.start_edge("north")
        self.memory = Memory(psutil.Process(self.rig.fleet.children["hub"].process.pid))
        authority = Authority.load(self.rig.fleet.state("hub"), SystemClock())
        self.caller = await FakeEdge.make("caller", authority, lambda: self.rig.hub_port)
        await self.caller.start()
        request = registry_service_pb2.RegisterAgentRequest(instance_id="i", incarnation=1)
        request.lease_duration.seconds = 3600
        request.card.name = SKILL
        request.card.skills.add(id=SKILL, name=SKILL)
        async with self.rig.client("north") as client, self.rig.client("hub") as hub:
            await client.unary(registry_service_pb2_grpc.RegistryServiceStub(client.channel).RegisterAgent, request)

            async def known() -> bool:
                return bool((await hub.find(SKILL)).candidates)

            await until_async(known, PATIENCE)
        self.rig.freeze("north")

    async def stop(self) -> None:
        """Kill all."""
        if hasattr(self, "caller"):
            await self.caller.close()
        await self.rig.stop()

    async def call(self, offered: int) -> int:
        """Call as fast as the link takes it, with so many bytes; how many were refused. What is on its way gets no answer."""
        self.memory.begin()
        count = offered // CHUNK
        for number in range(1, count + 1):
            await self._send(number, SKILL, bytes(CHUNK))
        await self._send(count + 1, "unknown", b"")  # answered behind all that came before
        async with asyncio.timeout(PATIENCE):
            while not any(result.call_id == count + 1 for result in self.caller.results):
                await asyncio.sleep(0)
                self.memory.look()
        return len(self.caller.results) - 1

    async def _send(self, number: int, skill: str, data: bytes) -> None:
        call = sync_pb2.Call(call_id=number)
        call.timeout_duration.seconds = 3600
        call.spec.skill, call.spec.input, call.spec.content_type = skill, data, "application/octet-stream"
        frame = sync_pb2.Frame(calls=sync_pb2.CallBatch(calls=[call]))
        assert self.caller.link is not None
        async with asyncio.timeout(PATIENCE):
            while not self.caller.link.send(frame):
                await asyncio.sleep(0)
                self.memory.look()


@contextlib.asynccontextmanager
async def flooded_hub(folder: Path, mutant: str = "") -> AsyncIterator[Site]:
    """A hub that runs, and its edges."""
    site = Site(folder)
    try:
        await site.start(mutant)
        yield site
    finally:
        await site.stop()
