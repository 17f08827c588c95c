"""What the cards say."""

from __future__ import annotations

from edgenode.api.registry.v1 import registry_pb2
from edgenode.bridges.a2a.cards import EXTENSION, Places, agent_card, node_card

PLACES = Places("http://127.0.0.1:1", "127.0.0.1:2")


def agent(name: str, *skills: str) -> registry_pb2.Agent:
    card = registry_pb2.AgentCard(name=name, skills=[registry_pb2.Skill(id=id, input_schema="{}") for id in skills])
    return registry_pb2.Agent(name=f"nodes/n/agents/{name}", card=card)


def test_a_nodes_card_has_each_skill_once() -> None:
    agents = [agent("a", "x", "y"), agent("b", "x")]
    assert [skill.id for skill in node_card("n", agents, PLACES).skills] == ["x", "y"]


def test_schemas_are_told_to_those_with_the_token_alone() -> None:
    public, extended = (node_card("n", [agent("a", "x")], PLACES, extended=told) for told in (False, True))
    said = [card.capabilities.extensions[0] for card in (public, extended)]
    assert [each.uri for each in said] == [EXTENSION] * 2
    assert ["skills" in each.params for each in said] == [False, True]


def test_over_grpc_an_agent_is_the_tenant() -> None:
    interfaces = {each.protocol_binding: each for each in agent_card(agent("a", "x"), PLACES).supported_interfaces}
    assert (interfaces["GRPC"].url, interfaces["GRPC"].tenant) == ("127.0.0.1:2", "a")
    assert interfaces["JSONRPC"].url == "http://127.0.0.1:1/agents/a"
