"""What stands in the hub's message log, and where a link is, asked through the public contract."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

from edgenode.api.admin.v1 import admin_pb2, admin_service_pb2, admin_service_pb2_grpc
from edgenode.api.fleet.v1 import fleet_service_pb2, fleet_service_pb2_grpc
from tests.faults.fleet import Rig

LOOK_AGAIN = 0.05


async def numbers_at_the_hub(rig: Rig) -> list[int]:
    """The payloads of the hub's log, numbers all of them, in its order."""
    async with rig.client("hub") as client:
        stub = fleet_service_pb2_grpc.FleetServiceStub(client.channel)
        last = (await client.unary(stub.GetHubStatus, fleet_service_pb2.GetHubStatusRequest())).message_sequence
        numbers: list[int] = []
        if last:
            async with client.subscribe([">"], position="start") as messages, asyncio.timeout(30):
                async for message in messages:
                    numbers.append(message.value(int))
                    if message.sequence >= last:
                        break
        return numbers


async def link_of(rig: Rig, node: str) -> admin_pb2.LinkStatus:
    """The edge's own view."""
    async with rig.client(node) as client:
        stub = admin_service_pb2_grpc.AdminServiceStub(client.channel)
        status: admin_service_pb2.GetStatusResponse = await client.unary(
            stub.GetStatus, admin_service_pb2.GetStatusRequest()
        )
    return status.link


async def link_reaches(
    rig: Rig, node: str, condition: Callable[[admin_pb2.LinkStatus], bool], within: float = 30
) -> admin_pb2.LinkStatus:
    """Wait until the edge's link is as it should be. Raises TimeoutError."""
    async with asyncio.timeout(within):
        while not condition(status := await link_of(rig, node)):  # noqa: ASYNC110 - it happens in another process
            await asyncio.sleep(LOOK_AGAIN)
    return status


def up(status: admin_pb2.LinkStatus) -> bool:
    """Whether the link stands."""
    return status.state == "established"


async def node_state(rig: Rig, node: str) -> str:
    """`connected`, `unreachable` or `never`, as the hub sees it."""
    async with rig.client("hub") as client:
        stub = fleet_service_pb2_grpc.FleetServiceStub(client.channel)
        nodes = (await client.unary(stub.ListNodes, fleet_service_pb2.ListNodesRequest())).nodes
    return next((item.state for item in nodes if item.node == node), "never")


async def node_reaches(rig: Rig, node: str, state: str, within: float = 30) -> None:
    """Wait until the hub sees the node so. Raises TimeoutError."""
    async with asyncio.timeout(within):
        while await node_state(rig, node) != state:  # noqa: ASYNC110 - it happens in another process
            await asyncio.sleep(LOOK_AGAIN)
