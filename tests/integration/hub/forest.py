"""Several hubs in one process, some below others, each with edges of its own: real mTLS, real files."""

from __future__ import annotations

import asyncio
from dataclasses import replace
from pathlib import Path

from edgenode.api.admin.v1 import admin_pb2
from edgenode.api.fleet.v1 import fleet_service_pb2, fleet_service_pb2_grpc
from edgenode.api.message.v1 import message_pb2, message_service_pb2, message_service_pb2_grpc
from edgenode.link.parent.identity import join
from tests.integration.hub.fake_edge import until_async
from tests.integration.hub.site import Site


class Grown(Site):
    """A hub that may have a parent; its ports stay the same over restarts."""

    async def below(self, parent: Grown, name: str) -> None:
        """Join the running hub `parent` as `name`; before this one starts, or starts again."""
        request = fleet_service_pb2.CreateJoinTokenRequest(node=name)
        answer = await fleet_service_pb2_grpc.FleetServiceStub(parent.local()).CreateJoinToken(request)
        assert parent.hub is not None
        await join(self.config.parent_dir, f"127.0.0.1:{parent.hub.enrollment_port}", answer.token)
        self.config = replace(self.config, reconnect_min_seconds=0.05, reconnect_max_seconds=0.2)

    async def up(self) -> None:
        """Start, on the ports of last time."""
        hub = await self.start()
        self.config = replace(
            self.config, listen=f"127.0.0.1:{hub.sync_port}", enroll_listen=f"127.0.0.1:{hub.enrollment_port}"
        )

    async def status(self) -> fleet_service_pb2.GetHubStatusResponse:
        stub = fleet_service_pb2_grpc.FleetServiceStub(self.local())
        answer: fleet_service_pb2.GetHubStatusResponse = await stub.GetHubStatus(
            fleet_service_pb2.GetHubStatusRequest()
        )
        return answer

    async def linked(self) -> None:
        """Wait until the link to the parent is up."""

        async def established() -> bool:
            return (await self.status()).parent_link.state == "established"

        await until_async(established, 20)

    async def refused(self, reason: str) -> None:
        """Wait until the link to the parent was refused for `reason`."""

        async def seen() -> bool:
            return (await self.status()).parent_link.last_problem.reason == reason

        await until_async(seen, 20)

    async def agents(self) -> int:
        """Agents the hub knows."""
        stub = fleet_service_pb2_grpc.FleetServiceStub(self.local())
        answer = await stub.ListNodes(fleet_service_pb2.ListNodesRequest())
        return sum(node.agent_count for node in answer.nodes)

    async def knows(self, count: int) -> None:
        """Wait until the hub knows so many agents."""

        async def seen() -> bool:
            return await self.agents() == count

        await until_async(seen, 20)

    async def ledger(self) -> dict[tuple[str, str], admin_pb2.LedgerLine]:
        stub = fleet_service_pb2_grpc.FleetServiceStub(self.local())
        answer = await stub.GetFleetLedger(fleet_service_pb2.GetFleetLedgerRequest())
        return {(line.hop, line.peer): line for line in answer.lines}

    async def balanced(self) -> None:
        """Wait until every line of the ledger adds up and nothing is under way between hubs."""

        async def adds_up() -> bool:
            lines = await self.ledger()
            return all(line.balanced for line in lines.values())

        await until_async(adds_up)

    async def messages(self, count: int) -> list[message_pb2.ReceivedMessage]:
        """The first `count` messages of the hub's log, once they are there."""
        call = message_service_pb2_grpc.MessageServiceStub(self.local()).Subscribe()
        start = message_service_pb2.SubscribeStart(topics=[">"], position=message_service_pb2.START_POSITION_START)
        await call.write(message_service_pb2.SubscribeRequest(start=start, credit_count=count))
        taken: list[message_pb2.ReceivedMessage] = []
        async with asyncio.timeout(20):
            while len(taken) < count:
                response = await call.read()
                assert isinstance(response, message_service_pb2.SubscribeResponse)
                taken += response.messages
        call.cancel()
        return taken


class Forest:
    """Hubs by name below one folder."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self.hubs: dict[str, Grown] = {}

    def plant(self, name: str) -> Grown:
        """A hub's state directory; nothing runs yet."""
        made = self.hubs[name] = Grown(self._folder / name)
        return made

    async def close(self) -> None:
        for hub in self.hubs.values():
            await hub.close()
