"""Skills on the card of an A2A agent as skills of an agent here."""

from __future__ import annotations

from typing import Any

import msgspec
from a2a.types import a2a_pb2

from edgenode.api.registry.v1 import registry_pb2
from edgenode.bridges.a2a.cards import EXTENSION
from edgenode.bridges.a2a.parts import PARTS, fields
from edgenode.bridges.relays import is_relayed, marked
from edgenode.bridges.skill_ids import skill_ids
from edgenode.link.errors import EdgenodeError, InvalidArgument
from edgenode.link.wire.agents import MAX_SKILLS, check_skill_entry


def skills_of(card: a2a_pb2.AgentCard, agent: str) -> tuple[dict[str, registry_pb2.Skill], list[str]]:
    """(skills by their id over there, those that cannot be any and why); without what a node relays (`relays`)."""
    schemas = _schemas(card)
    found: dict[str, registry_pb2.Skill] = {}
    refused: list[str] = []
    by_name = {skill.id: skill for skill in card.skills if not is_relayed(skill.tags)}
    for name, skill_id in skill_ids(by_name, agent).items():
        entry = _entry(by_name[name], skill_id, card, schemas.get(name, {}))
        try:
            check_skill_entry(entry, "skill")
            if len(found) == MAX_SKILLS:
                raise InvalidArgument("TOO_MANY", f"an agent has at most {MAX_SKILLS} skills")
        except EdgenodeError as error:
            refused.append(f"{name[:200]}: {error.problem.message[:500]}")
            continue
        found[name] = entry
    return found, refused


def _entry(
    skill: a2a_pb2.AgentSkill, skill_id: str, card: a2a_pb2.AgentCard, told: dict[str, Any]
) -> registry_pb2.Skill:
    """What our card says of one of theirs; `told`: schemas and hints, from agents that state our extension."""
    hints = told.get("annotations") or {}
    tags = [*skill.tags[:31], "a2a"]
    entry = registry_pb2.Skill(
        id=skill_id,
        name=(skill.name or skill.id)[:256],
        description=skill.description[:4096],
        tags=marked(tags) if _of_node(card) else tags,
        examples=skill.examples[:32],
        input_modes=[*dict.fromkeys([*(skill.input_modes or card.default_input_modes), PARTS])],
        output_modes=skill.output_modes or card.default_output_modes,
    )
    for name, field in (("inputSchema", "input_schema"), ("outputSchema", "output_schema")):
        if name in told:
            setattr(entry, field, msgspec.json.encode(told[name]).decode())
    if hints:
        entry.annotations.title = str(hints.get("title", ""))
        entry.annotations.read_only_hint = hints.get("readOnlyHint") is True
        entry.annotations.destructive_hint = hints.get("destructiveHint") is True
        entry.annotations.idempotent_hint = hints.get("idempotentHint") is True
        entry.annotations.open_world_hint = hints.get("openWorldHint") is True
    return entry


def _of_node(card: a2a_pb2.AgentCard) -> bool:
    """Whether it is the card of another node, or of one of its agents."""
    return any(extension.uri == EXTENSION for extension in card.capabilities.extensions)


def _schemas(card: a2a_pb2.AgentCard) -> dict[str, dict[str, Any]]:
    for extension in card.capabilities.extensions:
        if extension.uri == EXTENSION:
            told = fields(extension.params).get("skills")
            if isinstance(told, dict):
                return {name: said for name, said in told.items() if isinstance(said, dict)}
    return {}
