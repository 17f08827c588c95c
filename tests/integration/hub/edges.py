"""Real nodes below hubs, in one process."""

from __future__ import annotations

import asyncio
from contextlib import AsyncExitStack
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import cast

from edgenode.api.fleet.v1 import fleet_service_pb2, fleet_service_pb2_grpc
from edgenode.link.model.problem import Code, Problem
from edgenode.link.parent.identity import join
from edgenode.link.protocol.events import MOVED
from edgenode.link.wire.connection import LinkConnection, LinkEvents
from edgenode.node.config import NodeConfig
from edgenode.node.node import Node
from edgenode.sdk import Agent, Client
from tests.integration.hub.forest import Grown


class Edges:
    """Nodes that join the hub they are started below; `stack` ends them all."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.nodes: dict[str, Node] = {}
        self.stack = AsyncExitStack()

    async def start(self, hub: Grown, name: str) -> Client:
        """A client of the node, which joins when it is new."""
        state = self.folder / name
        assert hub.hub is not None
        if not state.exists():
            request = fleet_service_pb2.CreateJoinTokenRequest(node=name)
            answer = await fleet_service_pb2_grpc.FleetServiceStub(hub.local()).CreateJoinToken(request)
            await join(state, f"127.0.0.1:{hub.hub.enrollment_port}", answer.token)
        config = NodeConfig(
            state_dir=state,
            hub=f"127.0.0.1:{hub.hub.sync_port}",
            reconnect_min_seconds=0.05,
            reconnect_max_seconds=0.2,
            drain_seconds=0.1,
        )
        node = self.nodes[name] = Node(config)
        await node.start()
        self.stack.push_async_callback(node.stop)
        return await self.stack.enter_async_context(Client(state=state))

    async def work(self, agent: Agent, client: Client) -> None:
        """Attaches an agent to the client's node."""
        attached = asyncio.Event()
        running = asyncio.create_task(agent.attach(client, lambda _node: attached.set()))
        self.stack.push_async_callback(agent.stop, 0.1)
        await attached.wait()
        assert not running.done()


def moves(uplink: LinkEvents, link: LinkConnection, boot_id: str) -> None:
    """The session moves to another channel; whoever answers there is the parent's process `boot_id`."""
    uplink.closed(link, Problem(Code.CANCELLED, MOVED, "moves"))
    uplink.established(cast("LinkConnection", SimpleNamespace(peer=replace(link.peer, boot_id=boot_id))))
