"""Agent cards: of the node and of each of its agents.

An agent that registered an A2A card keeps it. Signed, it is served byte for byte, since a signature covers every URL in it;
such an agent is reached through the node by the interfaces of its extended card, or as a skill of the node's. Unsigned, only
the ways to reach it are replaced: by this bridge, which is where its tasks are durable.

The public card needs no token. The extended one says in addition what A2A has no fields for, as parameters of our extension:
the JSON Schemas of each skill and MCP's hints (A2A#813).
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import msgspec
from a2a.types import a2a_pb2
from google.protobuf import json_format

import edgenode
from edgenode.api.registry.v1 import registry_pb2
from edgenode.bridges.wishes import SKILL_KEY

EXTENSION = "https://edgenode.dev/a2a/v1"
BEARER = "bearer"
VERSION = "1.0"
JSON_TYPE = "application/json"


@dataclass(frozen=True, slots=True)
class Places:
    """Where the bridge listens: base URL of its HTTP listener, address of its gRPC one; empty where there is none."""

    http: str
    grpc: str

    def interfaces(self, agent: str) -> list[a2a_pb2.AgentInterface]:
        """How the node (empty name) or one of its agents is reached. Over gRPC the agent is the tenant."""
        found = []
        if self.http:
            path = f"/agents/{agent}" if agent else "/"
            found.append(_interface(f"{self.http}{path}", "JSONRPC", agent))
            found.append(_interface(f"{self.http}/rest", "HTTP+JSON", agent))
        if self.grpc:
            found.append(_interface(self.grpc, "GRPC", agent))
        return found


def _interface(url: str, binding: str, tenant: str) -> a2a_pb2.AgentInterface:
    return a2a_pb2.AgentInterface(url=url, protocol_binding=binding, protocol_version=VERSION, tenant=tenant)


def agent_name(agent: registry_pb2.Agent) -> str:
    """Its name on its node."""
    return agent.name.rpartition("/")[2]


def public_json(agent: registry_pb2.Agent, places: Places) -> bytes:
    """What is served of an agent at its well-known address."""
    if agent.card.source_json and is_signed(agent.card.source_json):
        return agent.card.source_json
    return to_json(agent_card(agent, places))


def is_signed(source: bytes) -> bool:
    """Whether a card as its agent published it carries signatures."""
    return bool(msgspec.json.decode(source).get("signatures"))


def to_json(card: a2a_pb2.AgentCard) -> bytes:
    """A card as the protocol writes it."""
    return json.dumps(json_format.MessageToDict(card)).encode()


def agent_card(agent: registry_pb2.Agent, places: Places, *, extended: bool = False) -> a2a_pb2.AgentCard:
    """The card of an agent as it is reached here."""
    name = agent_name(agent)
    own = agent.card
    card = a2a_pb2.AgentCard()
    if own.source_json:
        json_format.Parse(own.source_json, card, ignore_unknown_fields=True)
        card.ClearField("signatures")
        card.ClearField("supported_interfaces")
        card.ClearField("security_schemes")
        card.ClearField("security_requirements")
    else:
        card.name = own.name
        card.description = own.description or f"Agent {agent.name}"
        card.version = own.version or "0"
        card.documentation_url = own.documentation_url
        card.icon_url = own.icon_url
        if own.HasField("provider"):
            card.provider.organization = own.provider.organization
            card.provider.url = own.provider.url
        card.default_input_modes.extend(own.default_input_modes or [JSON_TYPE])
        card.default_output_modes.extend(own.default_output_modes or [JSON_TYPE])
        card.skills.extend(_skill(skill, own) for skill in own.skills)
    _reach(card, places.interfaces(name), [agent] if extended else None)
    return card


def node_card(
    node: str, agents: Sequence[registry_pb2.Agent], places: Places, *, extended: bool = False
) -> a2a_pb2.AgentCard:
    """The card of the node: every skill of its agents, once."""
    card = a2a_pb2.AgentCard(
        name=node,
        description=f"Edge node {node}: its agents' skills as durable tasks. "
        f"Name the skill in the message's metadata as {SKILL_KEY}.",
        version=edgenode.__version__,
        default_input_modes=[JSON_TYPE],
        default_output_modes=[JSON_TYPE],
    )
    seen: set[str] = set()
    for agent in agents:
        for skill in agent.card.skills:
            if skill.id not in seen:
                seen.add(skill.id)
                card.skills.append(_skill(skill, agent.card))
    _reach(card, places.interfaces(""), agents if extended else None)
    return card


def _skill(skill: registry_pb2.Skill, card: registry_pb2.AgentCard) -> a2a_pb2.AgentSkill:
    return a2a_pb2.AgentSkill(
        id=skill.id,
        name=skill.name or skill.id,
        description=skill.description or f"Skill {skill.id} of {card.name}",
        tags=skill.tags or [card.name],
        examples=skill.examples,
        input_modes=skill.input_modes or card.default_input_modes,
        output_modes=skill.output_modes or card.default_output_modes,
    )


def _reach(
    card: a2a_pb2.AgentCard,
    interfaces: Iterable[a2a_pb2.AgentInterface],
    told: Sequence[registry_pb2.Agent] | None,
) -> None:
    """What this bridge adds; `told`: the agents whose schemas the card states, None in a public one."""
    card.supported_interfaces.extend(interfaces)
    card.capabilities.streaming = True
    card.capabilities.push_notifications = True
    card.capabilities.extended_agent_card = True
    scheme = card.security_schemes[BEARER].http_auth_security_scheme
    scheme.scheme = "Bearer"
    scheme.description = "The line of bridge.token in the node's state directory."
    card.security_requirements.add().schemes[BEARER].list.extend([])
    extension = card.capabilities.extensions.add(
        uri=EXTENSION,
        description=f"Metadata of a message: {SKILL_KEY} names the skill, traceparent the trace. "
        "Metadata of a task: its state as the node has it, the reason, and a sequence that grows with every change.",
    )
    params: dict[str, Any] = {"skillKey": SKILL_KEY}
    if told is not None:
        params["skills"] = {skill.id: _schemas(skill) for agent in reversed(told) for skill in agent.card.skills}
    extension.params.update(params)


def _schemas(skill: registry_pb2.Skill) -> dict[str, Any]:
    hints = skill.annotations
    facts: dict[str, Any] = {
        "title": hints.title,
        "readOnlyHint": hints.read_only_hint,
        "destructiveHint": hints.destructive_hint,
        "idempotentHint": hints.idempotent_hint,
        "openWorldHint": hints.open_world_hint,
    }
    made: dict[str, Any] = {"annotations": {key: value for key, value in facts.items() if value}}
    for name, schema in (("inputSchema", skill.input_schema), ("outputSchema", skill.output_schema)):
        if schema:
            made[name] = msgspec.json.decode(schema)
    return made
