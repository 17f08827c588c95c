"""Skills as tools: names, schemas, annotations, and what goes in and comes out.

A skill's id is a tool's name but for its dots: many clients hand names on to models that know only letters, digits, `_` and
`-`, so `code.metrics` is listed as `code__metrics`. Where two ids would get one name, those with dots keep their id, which
the specification allows as well; a call may use the id in any case.

A payload is what its media type says: JSON is text for the model and structured content for programs, pictures and sounds
are content of their own, other bytes an embedded resource. An agent that has to say more than that, as one that is an MCP
server itself, gives the result of the protocol whole, under MCP_RESULT; it is passed on as it is.
"""

from __future__ import annotations

import base64
import binascii
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import mcp_types as types
import msgspec
from pydantic import ValidationError

from edgenode.api.registry.v1 import registry_pb2
from edgenode.bridges.wishes import PREFIX, SKILL_KEY, TAGS_KEY
from edgenode.link.errors import InvalidArgument
from edgenode.sdk.encoding import MCP_RESULT, OCTETS, Payload, is_json

AGENTS_KEY = PREFIX + "agents"

MAX_NAME = 128

_WRAPPED = "result"  # property that holds a result whose schema is not an object's
_INPUT = "input"  # property that holds an input whose schema is not an object's
_DATA = "data"  # property that holds the bytes, in base64, of an input that is not JSON
_BYTES_SCHEMA: dict[str, Any] = {
    "type": "object",
    "properties": {_DATA: {"type": "string", "contentEncoding": "base64", "description": "the bytes, in base64"}},
    "required": [_DATA],
}

Json = dict[str, Any]


def tool_names(skills: Iterable[str]) -> dict[str, str]:
    """Tool names by skill id."""
    ids = set(skills)
    taken: dict[str, str] = {}
    for skill in sorted(ids, key=lambda id: ("." in id, id)):
        name = skill.replace(".", "__")
        clash = name != skill and (name in ids or name in taken.values())
        taken[skill] = skill if clash or len(name) > MAX_NAME else name
    return taken


@dataclass(frozen=True)
class Offer:
    """A skill as a tool. `agents`: who has it, `nodes/{node}/agents/{agent}`; `local`: one of them is on this node."""

    skill: registry_pb2.Skill
    agents: tuple[str, ...]
    local: bool
    tool: types.Tool
    bytes_type: str = ""  # media type of the input, where the skill takes bytes
    wraps_input: bool = False
    wraps_output: bool = False


def offer_of(
    skill: registry_pb2.Skill, name: str, agents: Sequence[str], local: bool, default_modes: Sequence[str] = ()
) -> Offer:
    """What a client sees of a skill. `default_modes`: media types its agent takes unless the skill says otherwise."""
    bytes_type = _bytes_type(skill, default_modes)
    accepts, gives = _schema(skill.input_schema), _schema(skill.output_schema)
    wraps_input = not bytes_type and isinstance(accepts, dict) and not _of_object(accepts)
    wraps_output = isinstance(gives, dict) and not _of_object(gives)
    if bytes_type:
        accepts = _BYTES_SCHEMA
    elif not isinstance(accepts, dict):
        accepts = {"type": "object"}
    meta: Json = {SKILL_KEY: skill.id, AGENTS_KEY: list(agents)}
    if skill.tags:
        meta[TAGS_KEY] = list(skill.tags)
    said = _said(skill)
    said |= {
        "name": name,
        "description": skill.description or f"Skill {skill.id} of {', '.join(agents)}.",
        "inputSchema": _wrap(accepts, _INPUT) if wraps_input else accepts,
        "_meta": said.get("_meta", {}) | meta,
    }
    if isinstance(gives, dict):
        said["outputSchema"] = _wrap(gives, _WRAPPED) if wraps_output else gives
    tool = types.Tool.model_validate(said)
    return Offer(skill, tuple(agents), local, tool, bytes_type, wraps_input, wraps_output)


def _said(skill: registry_pb2.Skill) -> Json:
    """What a skill says beside description and schemas: whatever it said where it was an MCP tool, else its hints.

    A hint that is not true is left out: MCP assumes the worst of what is unsaid, and so should a client.
    """
    if skill.source_json:
        return _as_listed(skill.source_json)
    hints = skill.annotations
    told: Json = {
        "readOnlyHint": hints.read_only_hint,
        "destructiveHint": hints.destructive_hint,
        "idempotentHint": hints.idempotent_hint,
        "openWorldHint": hints.open_world_hint,
    }
    said: Json = {"annotations": {key: True for key, value in told.items() if value}}
    if hints.title:
        said["title"] = hints.title
    elif skill.name and skill.name != skill.id:
        said["title"] = skill.name
    return said


def _as_listed(source: bytes) -> Json:
    """What an agent says that its server said, as far as that is what a tool may say."""
    try:
        read = types.Tool.model_validate({**msgspec.json.decode(source, type=dict[str, Any]), "inputSchema": {}})
    except (msgspec.DecodeError, ValidationError):
        return {}
    listed: Json = read.model_dump(mode="json", by_alias=True, exclude_unset=True)
    return listed


def input_of(offer: Offer, arguments: Mapping[str, Any]) -> Payload:
    """A tool's arguments as its skill's input. Raises InvalidArgument (BAD_INPUT)."""
    if offer.bytes_type:
        try:
            return Payload(base64.b64decode(arguments[_DATA], validate=True), offer.bytes_type)
        except (KeyError, TypeError, binascii.Error) as error:
            raise InvalidArgument("BAD_INPUT", f"{_DATA} is not base64", hint="see the tool's input schema") from error
    if not offer.wraps_input:
        return Payload(msgspec.json.encode(arguments), "")
    if _INPUT not in arguments:
        raise InvalidArgument("BAD_INPUT", f"{_INPUT} is missing", hint="see the tool's input schema")
    return Payload(msgspec.json.encode(arguments[_INPUT]), "")


def result_of(offer: Offer, payload: Payload, uri: str) -> Json:
    """What a tool call gives, by the media type of the skill's output; `uri` names it where it becomes a resource."""
    data, media_type = payload
    if media_type == MCP_RESULT:
        result: Json = msgspec.json.decode(data, type=dict[str, Any])
        return result
    if not is_json(media_type):
        return {"content": [block_of(data, media_type, uri)]}
    value = msgspec.json.decode(data) if data else None
    text = value if isinstance(value, str) else msgspec.json.encode(value).decode()
    made: Json = {"content": [{"type": "text", "text": text}]}
    if offer.wraps_output:
        made["structuredContent"] = {_WRAPPED: value}
    elif isinstance(value, dict):
        made["structuredContent"] = value
    return made


def block_of(data: bytes, media_type: str, uri: str) -> Json:
    """Bytes as a content block."""
    kind = media_type.partition("/")[0]
    if kind == "text":
        return {"type": "text", "text": data.decode(errors="replace")}
    encoded = base64.b64encode(data).decode()
    if kind in ("image", "audio"):
        return {"type": kind, "data": encoded, "mimeType": media_type}
    return {"type": "resource", "resource": {"uri": uri, "mimeType": media_type or OCTETS, "blob": encoded}}


def _schema(text: str) -> Json | bool | None:
    """A stored schema; None if there is none. The node let in nothing but objects, true and false."""
    schema: Json | bool | None = msgspec.json.decode(text) if text else None
    return schema


def _bytes_type(skill: registry_pb2.Skill, default_modes: Sequence[str]) -> str:
    """The first media type a skill takes, if none of them is JSON and it states no schema."""
    modes = list(skill.input_modes) or list(default_modes)
    return modes[0] if modes and not skill.input_schema and not any(is_json(mode) for mode in modes) else ""


def _of_object(schema: Json) -> bool:
    return schema.get("type") == "object"


def _wrap(schema: Json, name: str) -> Json:
    """An object's schema with `schema` as its only property; definitions stay where references look for them."""
    inner = {key: part for key, part in schema.items() if key not in ("$defs", "definitions", "$schema")}
    wrapped: Json = {"type": "object", "properties": {name: inner}, "required": [name]}
    for key in ("$schema", "$defs", "definitions"):
        if key in schema:
            wrapped[key] = schema[key]
    return wrapped
