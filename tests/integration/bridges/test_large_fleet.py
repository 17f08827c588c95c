"""Tools of a fleet of 2,500 agents, from the hub's registry over a real link: all of them, and no frame too large."""

from __future__ import annotations

import asyncio
from typing import Any, cast

import pytest

from edgenode.api.registry.v1 import registry_pb2, registry_service_pb2, registry_service_pb2_grpc
from edgenode.api.sync.v1 import sync_pb2
from edgenode.bridges.mcp.catalog import Catalog
from edgenode.link.errors import InvalidArgument
from edgenode.link.model.agent import AgentView
from edgenode.link.ports import SystemClock
from edgenode.link.wire.connection import LinkConnection
from edgenode.sdk import Agent, Client, parent
from edgenode.sdk.testing import LocalNode
from hub.services.finder import MAX_ANSWER_BYTES, Finder
from hub.services.view import FleetView, KnownAgent

AGENTS = 2500


def known(number: int, version: int = 1) -> KnownAgent:
    name = f"nodes/n{number:04}/agents/a"
    skill = registry_pb2.Skill(id=f"skill-{number:04}", description=f"version {version} " + "x" * 1000)
    agent = registry_pb2.Agent(name=name, card=registry_pb2.AgentCard(name="a", skills=[skill]))
    view = AgentView(name, frozenset({skill.id}))
    return KnownAgent(f"n{number:04}", view, agent.SerializeToString(), 1, version)


async def _refused(client: Client) -> None:
    """What the hub says of a page token reaches whoever gave it."""
    stub = registry_service_pb2_grpc.RegistryServiceStub(client.channel)
    request = registry_service_pb2.ListAgentsRequest(scope=registry_service_pb2.SCOPE_FLEET, page_token="/x")
    with pytest.raises(InvalidArgument) as refused:
        await client.unary(stub.ListAgents, request)
    assert (refused.value.reason, refused.value.problem.metadata["field"]) == ("BAD_PAGE_TOKEN", "page_token")


async def test_all_are_listed_and_none_again_while_nothing_changes(monkeypatch: pytest.MonkeyPatch) -> None:
    clock = SystemClock()
    view = FleetView(60.0)
    view.restore({f"n{number:04}": 0.0 for number in range(AGENTS)}, map(known, range(AGENTS)), clock.monotonic())
    finder = Finder(view, cast("Any", None), clock, "epoch")
    answers: list[sync_pb2.FindExchange] = []

    async def answer(_events: object, link: LinkConnection, message: sync_pb2.FindExchange) -> None:
        answers.append(await finder.exchange(message))
        link.send(sync_pb2.Frame(find=answers[-1]))

    monkeypatch.setattr(parent._Events, "on_find", answer)
    own = Agent("own")

    @own.skill()
    async def here() -> None:
        """Is of this node."""

    async with LocalNode("north") as node, node.client() as client:
        await node.run(own)
        catalog = Catalog(client, clock, lambda _kinds: None)
        running = asyncio.create_task(catalog.run())
        try:
            tools = (await catalog.current(fresh=True)).tools
            assert len(tools) == AGENTS + 1
            assert next(iter(tools)) == "here"
            assert len(answers) > 2
            assert max(each.ByteSize() for each in answers) < MAX_ANSWER_BYTES * 1.1
            answers.clear()
            await catalog.refresh()
            assert [each.list_response.unchanged for each in answers] == [True]
            assert answers[0].ByteSize() < 64
            await _refused(client)
            view.apply([known(7, version=2)], ["nodes/n0008/agents/a"])
            await catalog.refresh()
            assert len(catalog.offers.tools) == AGENTS
            assert catalog.offers.tools["skill-0007"].skill.description.startswith("version 2")
            with node.offline():
                await catalog.refresh()
                assert not catalog.fleet_included
                assert len(catalog.offers.tools) == AGENTS
        finally:
            running.cancel()
            await asyncio.wait([running])
