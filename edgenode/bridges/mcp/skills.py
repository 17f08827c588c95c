"""Tools of an MCP server as skills of an agent. Nothing is lost on the way.

**Names.** A skill's id is made of the tool's name (`skill_ids`); the card keeps the name itself.

**What a tool says of itself** stands in the skill's fields as far as it has them; the rest (name, title, icons, hints as
they were given, `_meta`) in its `source_json`. A hint that is not given counts as MCP has it: not read-only, destructive,
not idempotent, of the open world.

**Results.** The payload of a call that went well is the whole result, content blocks, structured content and `_meta`, of
the media type MCP_RESULT; our SDK reads the structured content out of it. A result with `isError` is the failure
TOOL_ERROR, with the whole result in the problem's metadata.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import mcp_types as types
import msgspec

from edgenode.api.registry.v1 import registry_pb2
from edgenode.bridges.relays import is_relayed, marked
from edgenode.bridges.skill_ids import skill_ids
from edgenode.bridges.wishes import SKILL_KEY, TAGS_KEY
from edgenode.link.errors import EdgenodeError, FailedPrecondition, ResourceExhausted
from edgenode.link.wire.agents import MAX_SKILLS, check_skill_entry
from edgenode.sdk.encoding import MCP_RESULT, Payload

MAX_ERROR_TEXT = 1024  # characters of a problem's message
MAX_ERROR_RESULT = 64 * 1024  # bytes of a failed result that go with its problem

_IN_FIELDS = {"description", "input_schema", "output_schema"}  # of the skill; the rest of a tool is its source


def skills_of(tools: Iterable[types.Tool], agent: str) -> tuple[dict[str, registry_pb2.Skill], list[str]]:
    """(skills by the name of their tool, what tools cannot be skills and why); without what a node relays (`relays`)."""
    by_name = {tool.name: tool for tool in tools if not is_relayed((tool.meta or {}).get(TAGS_KEY))}
    skills: dict[str, registry_pb2.Skill] = {}
    refused = []
    for name, skill_id in skill_ids(by_name, agent).items():
        try:
            if len(skills) == MAX_SKILLS:
                raise ResourceExhausted("TOO_MANY", f"an agent has at most {MAX_SKILLS} skills", retryable=False)
            skills[name] = skill_of(by_name[name], skill_id)
        except EdgenodeError as error:
            refused.append(f"{name[:200]}: {error.problem.message[:500]}")
    return skills, refused


def skill_of(tool: types.Tool, skill_id: str) -> registry_pb2.Skill:
    """What the card says of a tool. Raises InvalidArgument or ResourceExhausted for one that no card can hold."""
    hints = tool.annotations or types.ToolAnnotations()
    source = tool.model_dump(mode="json", by_alias=True, exclude_none=True, exclude=_IN_FIELDS)
    skill = registry_pb2.Skill(
        id=skill_id,
        name=(tool.title or hints.title or tool.name)[:256],
        description=tool.description or "",
        tags=marked(["mcp"]) if SKILL_KEY in (tool.meta or {}) else ["mcp"],
        output_modes=[MCP_RESULT],
        input_schema=msgspec.json.encode(tool.input_schema).decode(),
        output_schema="" if tool.output_schema is None else msgspec.json.encode(tool.output_schema).decode(),
        source_json=msgspec.json.encode(source),
    )
    said = skill.annotations
    said.title = hints.title or ""
    said.read_only_hint = hints.read_only_hint is True
    said.destructive_hint = not said.read_only_hint and hints.destructive_hint is not False
    said.idempotent_hint = hints.idempotent_hint is True
    said.open_world_hint = hints.open_world_hint is not False
    check_skill_entry(skill, "tool")
    return skill


def repeatable(skill: registry_pb2.Skill) -> bool:
    """Whether the tool itself says that running it twice is as good as running it once."""
    return skill.annotations.idempotent_hint or skill.annotations.read_only_hint


def payload_of(whole: bytes, result: types.CallToolResult) -> Payload:
    """The result of a call that went well, as JSON and read. Raises FailedPrecondition (TOOL_ERROR) for one with `isError`."""
    if not result.is_error:
        return Payload(whole, MCP_RESULT)
    text = " ".join(block.text for block in result.content if isinstance(block, types.TextContent)).strip()
    kept: dict[str, Any] = {"mcp_result": whole.decode()} if len(whole) <= MAX_ERROR_RESULT else {}
    raise FailedPrecondition(
        "TOOL_ERROR",
        text[:MAX_ERROR_TEXT] or "the tool failed and does not say why",
        hint="the tool's own error; see the skill's input schema",
        **kept,
    )
