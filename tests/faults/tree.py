"""Hubs below hubs, each with edges of its own, all of them real processes."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from pathlib import Path

import grpc

from edgenode.api.fleet.v1 import fleet_service_pb2, fleet_service_pb2_grpc
from edgenode.api.task.v1 import task_service_pb2, task_service_pb2_grpc
from edgenode.cli.demo.fleet import EDGEHUB
from edgenode.link.parent.identity import join
from edgenode.link.ports import SystemClock
from edgenode.link.wire.channels import open_channel, unix_target
from edgenode.sdk import Agent
from hub.ca.authority import init_authority
from tests.faults.fleet import HUB_ENVIRONMENT, Rig

ENVIRONMENT = {
    **HUB_ENVIRONMENT,
    "EDGEHUB_RECONNECT_MIN_SECONDS": "0.05",
    "EDGEHUB_RECONNECT_MAX_SECONDS": "0.5",
    # Nothing stays in the message log but for who has not read it, so what stays was kept for the parent.
    "EDGEHUB_MESSAGE_RETENTION_BYTES": "0",
}


async def until(condition: Callable[[], Awaitable[object]], within: float = 30.0) -> bool:
    """Whether the condition came to hold in time."""
    try:
        async with asyncio.timeout(within):
            while True:
                if await condition():
                    return True
                await asyncio.sleep(0.05)
    except TimeoutError:
        return False


class Tree:
    """Hubs by name; each is a Rig of its own, where the hub is called `hub`."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self.rigs: dict[str, Rig] = {}

    async def plant(self, name: str, *edges: str, below: str = "", mutant: str = "") -> Rig:
        """A hub with edges, below another one if that is named."""
        folder = self._folder / name
        folder.mkdir()
        rig = self.rigs[name] = Rig(folder, ENVIRONMENT)
        init_authority(rig.fleet.state("hub"), "faults.example", "hub", SystemClock())
        if below:
            await self.join(name, below)
        await rig.start_hub(mutant=mutant)
        for edge in edges:
            await join(rig.fleet.state(edge), rig.fleet.enroll_address, await self.token(name, edge))
        await asyncio.gather(*(rig.start_edge(edge) for edge in edges))
        return rig

    async def token(self, hub: str, node: str) -> str:
        """A token with which `node` may join a hub that runs."""
        async with self._channel(hub) as channel:
            request = fleet_service_pb2.CreateJoinTokenRequest(node=node)
            answer = await fleet_service_pb2_grpc.FleetServiceStub(channel).CreateJoinToken(request)
            return str(answer.token)

    async def join(self, child: str, parent: str) -> None:
        """Put `child` below `parent`, which runs; it dials once it is served, or served again."""
        rig = self.rigs[child]
        where = ["--state", str(rig.fleet.state("hub")), "--hub", self.rigs[parent].fleet.enroll_address]
        await rig.fleet.run(EDGEHUB, "join", *where, "--token", await self.token(parent, child))

    async def status(self, name: str) -> fleet_service_pb2.GetHubStatusResponse:
        """How a hub is."""
        async with self._channel(name) as channel:
            stub = fleet_service_pb2_grpc.FleetServiceStub(channel)
            answer: fleet_service_pb2.GetHubStatusResponse = await stub.GetHubStatus(
                fleet_service_pb2.GetHubStatusRequest()
            )
            return answer

    async def holds(self, name: str, skill: str) -> bool:
        """Whether a hub has a task for `skill`."""
        async with self._channel(name) as channel:
            stub = task_service_pb2_grpc.TaskServiceStub(channel)
            answer = await stub.ListTasks(task_service_pb2.ListTasksRequest(skill=skill))
            return bool(answer.tasks)

    async def link(self, name: str) -> str:
        """State of the link to the parent, or the reason it is down for."""
        link = (await self.status(name)).parent_link
        return link.state if link.state == "established" else link.last_problem.reason or link.state

    async def linked(self, name: str, within: float = 30.0) -> bool:
        """Whether the link to the parent came up in time."""

        async def established() -> bool:
            return await self.link(name) == "established"

        return await until(established, within)

    async def unbalanced(self) -> list[str]:
        """Hops that do not add up, of any hub."""
        wrong = []
        for name in self.rigs:
            async with self._channel(name) as channel:
                stub = fleet_service_pb2_grpc.FleetServiceStub(channel)
                answer = await stub.GetFleetLedger(fleet_service_pb2.GetFleetLedgerRequest())
            wrong += [f"{name}: {line.hop} {line.peer}" for line in answer.lines if not line.balanced]
        return wrong

    def _channel(self, name: str) -> grpc.aio.Channel:
        return open_channel(unix_target(self.rigs[name].fleet.socket("hub")))

    @asynccontextmanager
    async def agent(self, hub: str, edge: str, skill: str) -> AsyncIterator[None]:
        """An agent on an edge that answers `skill` with the edge's name."""
        agent = Agent(f"worker-{edge}")

        @agent.skill(skill, idempotent=True)
        async def answer() -> str:
            return edge

        attached = asyncio.Event()
        async with self.rigs[hub].client(edge) as client:
            serving = asyncio.create_task(agent.attach(client, lambda _node: attached.set()))
            try:
                async with asyncio.timeout(30):
                    await attached.wait()
                yield
            finally:
                await agent.stop(grace=1)
                await serving

    async def stop(self) -> None:
        """End everything."""
        await asyncio.gather(*(rig.stop() for rig in self.rigs.values()))
