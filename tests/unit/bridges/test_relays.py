"""Nodes that have each other mounted list each other's skills, and no more than those."""

from __future__ import annotations

from collections.abc import Mapping

import mcp_types as types
import pytest
from a2a.types import a2a_pb2
from google.protobuf import json_format

from edgenode.api.registry.v1 import registry_pb2
from edgenode.bridges.a2a import skills as a2a
from edgenode.bridges.a2a.cards import Places, node_card, to_json
from edgenode.bridges.mcp import skills as mcp
from edgenode.bridges.mcp.catalog import compose
from edgenode.bridges.relays import RELAYED, marked
from edgenode.bridges.wishes import TAGS_KEY

ROUNDS = 6
Mounts = Mapping[tuple[str, str], tuple[str, str]]  # (node, mount) -> (protocol, node that is mounted)


def agent(node: str, name: str, skills: list[registry_pb2.Skill]) -> registry_pb2.Agent:
    return registry_pb2.Agent(name=f"nodes/{node}/agents/{name}", card=registry_pb2.AgentCard(name=name, skills=skills))


def over_mcp(node: str, world: Mapping[str, list[registry_pb2.Agent]], mount: str) -> list[registry_pb2.Skill]:
    """What a mount has of a node's tools: this node's, and those of the whole fleet."""
    fleet = [agent for other, agents in world.items() if other != node for agent in agents]
    tools = [
        offer.tool.model_dump_json(by_alias=True, exclude_none=True)
        for offer in compose(world[node], fleet).tools.values()
    ]
    skills, refused = mcp.skills_of([types.Tool.model_validate_json(tool) for tool in tools], mount)
    assert refused == []
    return list(skills.values())


def over_a2a(node: str, world: Mapping[str, list[registry_pb2.Agent]], mount: str) -> list[registry_pb2.Skill]:
    """What a mount has of the card of a node."""
    card = json_format.Parse(to_json(node_card(node, world[node], Places("http://h", ""))), a2a_pb2.AgentCard())
    skills, refused = a2a.skills_of(card, mount)
    assert refused == []
    return list(skills.values())


OVER = {"mcp": over_mcp, "a2a": over_a2a}


def settled(mounts: Mounts) -> dict[str, set[str]]:
    """What each node has once nothing changes any more."""
    own = {node: agent(node, "own", [registry_pb2.Skill(id=f"{node}-skill", tags=["t"])]) for node, _ in mounts}
    world = {node: [agent] for node, agent in own.items()}
    for _ in range(ROUNDS):
        before = world
        world = {node: [agent] for node, agent in own.items()}
        for (node, mount), (protocol, other) in mounts.items():
            world[node].append(agent(node, mount, OVER[protocol](other, before, mount)))
        if world == before:
            return {node: {skill.id for each in agents for skill in each.card.skills} for node, agents in world.items()}
    raise AssertionError(f"still growing: {world}")


@pytest.mark.parametrize("there", ["mcp", "a2a"])
@pytest.mark.parametrize("back", ["mcp", "a2a"])
def test_two_that_mount_each_other_come_to_rest(there: str, back: str) -> None:
    had = settled({("north", "s"): (there, "south"), ("south", "n"): (back, "north")})
    assert {"north-skill", "s.south-skill"} <= had["north"]
    assert {"south-skill", "n.north-skill"} <= had["south"]
    # MCP lists the fleet's as well, so a node that is in the same fleet has its own again, once.
    assert had["north"] - {"north-skill", "s.south-skill"} == ({"s.north-skill"} if there == "mcp" else set())
    assert had["south"] - {"south-skill", "n.north-skill"} == ({"n.south-skill"} if back == "mcp" else set())


@pytest.mark.parametrize("protocol", ["mcp", "a2a"])
def test_one_that_mounts_itself_has_everything_twice(protocol: str) -> None:
    assert settled({("north", "me"): (protocol, "north")}) == {"north": {"north-skill", "me.north-skill"}}


def test_a_ring_of_mounts_comes_to_rest() -> None:
    ring = {("a", "b"): ("a2a", "b"), ("b", "c"): ("a2a", "c"), ("c", "a"): ("a2a", "a")}
    assert settled(ring)["a"] == {"a-skill", "b.b-skill"}


def test_the_mark_has_room_among_the_tags_of_a_skill() -> None:
    tags = marked([f"t{number}" for number in range(32)])
    assert (len(tags), tags[-1]) == (32, RELAYED)


@pytest.mark.parametrize("tags", [5, None, True, {"a": 1}, "text", [1, {}]])
def test_a_server_that_writes_something_else_in_the_place_of_tags_is_mounted(tags: object) -> None:
    tool = types.Tool.model_validate({"name": "add", "inputSchema": {"type": "object"}, "_meta": {TAGS_KEY: tags}})
    skills, refused = mcp.skills_of([tool], "shop")
    assert (list(skills), refused) == (["add"], [])
