"""A node in memory with an agent, a bridge on both bindings, and clients of the official SDK."""

from __future__ import annotations

import contextlib
from collections.abc import AsyncIterator
from dataclasses import dataclass
from typing import Any

import grpc
import httpx
from a2a.client import Client as A2AClient
from a2a.client import ClientCallContext, ClientConfig, ClientFactory
from a2a.client.card_resolver import A2ACardResolver
from a2a.types import a2a_pb2 as pb

from edgenode.bridges.a2a.serving import Bridge, Settings
from edgenode.bridges.a2a.targets import Targets
from edgenode.bridges.access import BearerToken
from edgenode.bridges.places import Network
from edgenode.bridges.wishes import SKILL_KEY
from edgenode.sdk.agent import Agent
from edgenode.sdk.client import Client
from edgenode.sdk.testing import LocalNode

TOKEN = "a token of the tests"
JSONRPC, GRPC, REST = "JSONRPC", "GRPC", "HTTP+JSON"


@dataclass
class Rig:
    """What a test has."""

    node: LocalNode
    client: Client
    bridge: Bridge
    http: httpx.AsyncClient
    channels: list[grpc.aio.Channel]

    async def card(self, agent: str = "") -> pb.AgentCard:
        base = f"{self.bridge.places.http}/agents/{agent}" if agent else self.bridge.places.http
        return await A2ACardResolver(self.http, base).get_agent_card()

    async def connect(self, binding: str, agent: str = "", *, streaming: bool = False) -> A2AClient:
        """A client of the node or an agent over one binding, by its card."""
        config = ClientConfig(
            streaming=streaming,
            httpx_client=self.http,
            grpc_channel_factory=self._channel,
            supported_protocol_bindings=[binding],
        )
        return ClientFactory(config).create(await self.card(agent))

    def _channel(self, url: str) -> grpc.aio.Channel:
        channel = grpc.aio.insecure_channel(url)
        self.channels.append(channel)
        return channel

    @property
    def context(self) -> ClientCallContext:
        """What every call carries: the token."""
        return ClientCallContext(service_parameters={"Authorization": f"Bearer {TOKEN}"}, timeout=20.0)


@contextlib.asynccontextmanager
async def rig(*agents: Agent, allow: tuple[Network, ...] = (), targets: Targets | None = None) -> AsyncIterator[Rig]:
    async with LocalNode("north") as node, node.client() as client:
        for agent in agents:
            await node.run(agent)
        settings = Settings(
            listen="127.0.0.1:0",
            listen_grpc="127.0.0.1:0",
            hooks=node.socket.parent / "a2a" / "webhooks",
            allow_webhooks=allow,
        )
        bridge = Bridge(client, settings, BearerToken(TOKEN), targets)
        await bridge.start()
        channels: list[grpc.aio.Channel] = []
        try:
            async with httpx.AsyncClient(timeout=20.0) as http:
                yield Rig(node, client, bridge, http, channels)
        finally:
            for channel in channels:
                await channel.close()
            await bridge.stop()


def message(*parts: pb.Part, id: str, skill: str = "", task: str = "", context: str = "", **meta: Any) -> pb.Message:
    made = pb.Message(message_id=id, role=pb.ROLE_USER, parts=parts, task_id=task, context_id=context)
    if skill:
        made.metadata[SKILL_KEY] = skill
    if meta:
        made.metadata.update(meta)
    return made
