"""Parts of messages and artifacts <-> bytes with a media type, which is what a skill takes and gives.

Out: a JSON text becomes a text part, other JSON a data part, `text/*` a text part, anything else raw bytes. Numbers of a data
part are doubles: JSON with a whole number beyond 2^53 goes as a text part of type `application/json`, exactly. Under PARTS
a skill gives or takes the parts themselves, for what one payload cannot say.

In, one part: data is JSON; raw bytes are what their media type says. A text is, in this order: JSON where its media type says
so; itself, where the skill takes text; for a skill that takes JSON a JSON text, if its schema is a text's or unstated; for one
whose only or only required parameter is a text, that parameter (unless it is a JSON object with parameters of the skill's);
a JSON object. Several texts are one, line by line. URLs are not followed: nothing here fetches what a caller names.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

import msgspec
from a2a.types import a2a_pb2
from google.protobuf import json_format, struct_pb2

from edgenode.api.registry.v1 import registry_pb2
from edgenode.link.errors import InvalidArgument
from edgenode.sdk.encoding import JSON, OCTETS, is_json

ARTIFACTS = "application/vnd.a2a.artifacts+json"  # a JSON list of artifacts, for an output of several
PARTS = "application/vnd.a2a.parts+json"  # a JSON list of parts as the protocol writes them
TEXT = "text/plain"
JSON_TYPE = "application/json"
_SAFE = 2**53

_encode = msgspec.json.Encoder().encode
_decode = msgspec.json.Decoder().decode


def parts_of(data: bytes, content_type: str) -> list[a2a_pb2.Part]:
    """The parts of a payload."""
    if content_type == PARTS:
        return [json_format.ParseDict(part, a2a_pb2.Part(), ignore_unknown_fields=True) for part in _decode(data)]
    if is_json(content_type):
        try:
            return [_json_part(data, _decode(data or b"null"))]
        except (msgspec.DecodeError, RecursionError):
            return [a2a_pb2.Part(raw=data, media_type=content_type or JSON_TYPE)]
    if content_type.startswith("text/"):
        try:
            return [a2a_pb2.Part(text=data.decode(), media_type=content_type)]
        except UnicodeDecodeError:
            pass
    return [a2a_pb2.Part(raw=data, media_type=content_type or OCTETS)]


def _json_part(data: bytes, value: Any) -> a2a_pb2.Part:
    if isinstance(value, str):
        return a2a_pb2.Part(text=value, media_type=TEXT)
    if not _exact(value):
        return a2a_pb2.Part(text=data.decode(), media_type=JSON_TYPE)
    part = a2a_pb2.Part(media_type=JSON_TYPE)
    json_format.ParseDict(value, part.data)
    return part


def _exact(value: Any) -> bool:
    if isinstance(value, dict):
        return all(_exact(item) for item in value.values())
    if isinstance(value, list):
        return all(_exact(item) for item in value)
    return not isinstance(value, int) or -_SAFE <= value <= _SAFE


def content_of(parts: Sequence[a2a_pb2.Part], content_type: str = "") -> tuple[bytes, str]:
    """(bytes, media type) of an agent's parts; `content_type` is what they were made of, where that is known.

    A text is a JSON text, unless it has another type than `text/plain`; several parts are a list of parts (PARTS).
    """
    if len(parts) != 1 or content_type == PARTS:
        return _encode([json_format.MessageToDict(part) for part in parts]), PARTS
    (part,) = parts
    kind = part.WhichOneof("content")
    if kind == "data":
        return _encode(plain(part.data)), JSON
    if kind == "raw":
        return part.raw, content_type or part.media_type or OCTETS
    if kind == "text":
        if part.media_type and is_json(part.media_type):
            return part.text.encode(), JSON
        if content_type and not is_json(content_type):
            return part.text.encode(), content_type
        if content_type or part.media_type in ("", TEXT):
            return _encode(part.text), JSON
        return part.text.encode(), part.media_type
    return _encode([json_format.MessageToDict(part)]), PARTS


def plain(value: struct_pb2.Value) -> Any:
    """A protobuf value as Python has it, with whole numbers as such."""
    kind = value.WhichOneof("kind")
    if kind == "number_value":
        number = value.number_value
        return int(number) if number.is_integer() and abs(number) <= _SAFE else number
    if kind == "struct_value":
        return fields(value.struct_value)
    if kind == "list_value":
        return [plain(item) for item in value.list_value.values]
    return None if kind in (None, "null_value") else getattr(value, kind)


def fields(struct: struct_pb2.Struct) -> dict[str, Any]:
    """An object, its keys in order: what came in another order is the same request."""
    return {key: plain(struct.fields[key]) for key in sorted(struct.fields)}


def input_of(
    parts: Sequence[a2a_pb2.Part], skill: registry_pb2.Skill | None, default_modes: Iterable[str] = ()
) -> tuple[bytes, str]:
    """(bytes, media type) of a skill's input; `default_modes` are those of its agent. See the module for what becomes of what.

    `skill` is None where nobody here has it: then nothing is known of what it takes. Raises InvalidArgument (BAD_INPUT,
    UNSUPPORTED_MEDIA_TYPE).
    """
    modes = tuple(skill.input_modes or default_modes) if skill is not None else ()
    if PARTS in modes:
        return _encode([json_format.MessageToDict(part) for part in parts]), PARTS
    kinds = {part.WhichOneof("content") for part in parts}
    if kinds == {"text"}:
        media_type = parts[0].media_type if len(parts) == 1 else ""
        return _of_text("\n".join(part.text for part in parts), media_type, skill, modes)
    if len(parts) != 1:
        raise InvalidArgument(
            "BAD_INPUT",
            f"the message has {len(parts)} parts of different kinds",
            hint="send one data part with all parameters",
            field="message.parts",
        )
    (part,) = parts
    if kinds == {"data"}:
        _check(JSON_TYPE, modes)
        return _encode(plain(part.data)), JSON
    if kinds == {"raw"}:
        media_type = part.media_type or OCTETS
        _check(media_type, modes)
        return part.raw, JSON if is_json(media_type) else media_type
    raise InvalidArgument(
        "UNSUPPORTED_MEDIA_TYPE",
        "the message names a URL" if kinds == {"url"} else "a part of the message is empty",
        hint="send the bytes as a raw part, or the URL as data if the skill takes one",
        field="message.parts",
    )


def _of_text(text: str, media_type: str, skill: registry_pb2.Skill | None, modes: Sequence[str]) -> tuple[bytes, str]:
    if media_type and is_json(media_type):
        _check(JSON_TYPE, modes)
        return text.encode(), JSON
    if modes and _takes(modes, media_type or TEXT):
        return text.encode(), media_type or TEXT
    _check(JSON_TYPE if media_type in ("", TEXT) else media_type, modes)
    schema = _schema(skill.input_schema if skill is not None else "")
    if schema.get("type", "string") == "string" and "properties" not in schema:
        return _encode(text), JSON
    given = _object(text)
    known = schema.get("properties") or {}
    name = _text_parameter(schema)
    if name and not (given and given.keys() <= known.keys()):
        return _encode({name: text}), JSON
    if given is not None:
        return text.encode(), JSON
    raise InvalidArgument(
        "BAD_INPUT",
        f"skill {skill.id if skill is not None else ''} takes an object, not a text",
        hint=f"send a data part with {', '.join(known) or 'its parameters'}",
        field="message.parts",
    )


def answer_of(parts: Sequence[a2a_pb2.Part], schema_text: str) -> tuple[bytes, str]:
    """(bytes, media type) of an answer to a question whose JSON Schema is `schema_text`, empty for any.

    A text is JSON where the schema asks for something else than a text and it can be read so, e.g. `true`.
    """
    if len(parts) != 1 or parts[0].WhichOneof("content") != "text":
        return content_of(parts)
    text, media_type = parts[0].text, parts[0].media_type
    if media_type and is_json(media_type):
        return text.encode(), JSON
    kind = _schema(schema_text).get("type", "string" if not schema_text else None)
    if kind != "string":
        try:
            _decode(text)
        except (msgspec.DecodeError, RecursionError):
            pass
        else:
            return text.encode(), JSON
    return _encode(text), JSON


def _check(media_type: str, modes: Sequence[str]) -> None:
    if modes and not _takes(modes, media_type):
        raise InvalidArgument(
            "UNSUPPORTED_MEDIA_TYPE",
            f"the message has a part of type {media_type}",
            hint=f"the skill takes {', '.join(modes)}",
            field="message.parts",
        )


def _takes(modes: Sequence[str], media_type: str) -> bool:
    base = media_type.partition(";")[0].strip().lower()
    for mode in modes:
        if mode in (base, "*/*") or (mode.endswith("/*") and base.startswith(mode[:-1])):
            return True
    return is_json(base) and any(is_json(mode) for mode in modes)


def _schema(text: str) -> dict[str, Any]:
    """A JSON Schema with its first reference followed; {} where there is none to speak of."""
    schema = _decode(text) if text else {}
    if not isinstance(schema, dict):
        return {}
    reference = schema.get("$ref", "")
    if isinstance(reference, str) and reference.startswith("#/$defs/"):
        found = schema.get("$defs", {}).get(reference.removeprefix("#/$defs/"), {})
        return found if isinstance(found, dict) else {}
    return schema


def _text_parameter(schema: dict[str, Any]) -> str:
    """The parameter a bare text is for: the only one, or the only one required, if it is a text."""
    known = schema.get("properties") or {}
    names = list(known) if len(known) == 1 else list(schema.get("required") or ())
    if len(names) != 1 or not isinstance(known.get(names[0]), dict):
        return ""
    return str(names[0]) if known[names[0]].get("type") == "string" else ""


def _object(text: str) -> dict[str, Any] | None:
    try:
        value = _decode(text)
    except (msgspec.DecodeError, RecursionError):
        return None
    return value if isinstance(value, dict) else None
