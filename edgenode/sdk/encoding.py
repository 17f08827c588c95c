"""Python values <-> payload bytes: `bytes` pass as they are, everything else is JSON.

Types: builtins, dataclasses, msgspec structs, and pydantic models where the program has them; pydantic itself is not
imported here, a model is known by its methods.
"""

from __future__ import annotations

from collections.abc import Iterable
from itertools import groupby
from operator import itemgetter
from typing import Any, NamedTuple, cast

import msgspec

from edgenode.link.errors import InvalidArgument, ResourceExhausted

JSON = ""  # the contract's default, application/json
OCTETS = "application/octet-stream"
MCP_RESULT = "application/vnd.mcp.result+json"  # what an MCP tool gave, whole
MAX_PAYLOAD_BYTES = 1024 * 1024  # inputs and results
MAX_MESSAGE_BYTES = 256 * 1024

_decode = msgspec.json.Decoder().decode


class Payload(NamedTuple):
    """Bytes with their media type, for what is neither JSON nor `bytes`: as an input, a result, or the type of either."""

    data: bytes
    content_type: str = OCTETS


class _McpResult(msgspec.Struct):
    structuredContent: msgspec.Raw | msgspec.UnsetType = msgspec.UNSET


def content_of(data: bytes, content_type: str) -> bytes:
    """A payload's bytes, but of an MCP tool's result the structured content, where it has one. Raises msgspec.DecodeError."""
    if content_type != MCP_RESULT:
        return data
    structured = msgspec.json.decode(data, type=_McpResult).structuredContent
    return data if isinstance(structured, msgspec.UnsetType) else bytes(structured)


def _plain(value: object) -> object:
    """What a pydantic model consists of. Raises TypeError for anything else."""
    dump = getattr(value, "model_dump", None)
    if dump is None:
        raise TypeError(f"{type(value).__name__} is no type that can be written as JSON")
    return dump(mode="json", by_alias=True)


def _model(expected: type, value: object) -> object:
    """A pydantic model made of what was read. Raises ValueError, TypeError for anything else."""
    validate = getattr(expected, "model_validate_json", None)
    if validate is None:
        raise TypeError(f"{expected} is no type that can be read from JSON")
    return validate(write_json(value))  # as JSON, which strict models take for dates, sets and the like


write_json = msgspec.json.Encoder(enc_hook=_plain).encode
"""Any supported value as JSON. Raises TypeError."""


def json_reader(expected: Any) -> msgspec.json.Decoder[Any]:
    """Reads JSON as a type. Its `decode` raises msgspec.DecodeError naming the path."""
    return msgspec.json.Decoder(expected, dec_hook=_model)


def is_json(content_type: str) -> bool:
    """Whether a media type means JSON."""
    return not content_type or content_type.startswith("application/json") or content_type.endswith("+json")


def encode(value: object, content_type: str = "") -> tuple[bytes, str]:
    """(bytes, media type) of a value. Raises InvalidArgument (NOT_ENCODABLE)."""
    if isinstance(value, bytes):
        return value, content_type or OCTETS
    if isinstance(value, Payload):
        return value.data, value.content_type
    if isinstance(value, bytearray | memoryview):
        return bytes(value), content_type or OCTETS
    try:
        return write_json(value), content_type
    except (TypeError, ValueError, RecursionError) as error:
        raise InvalidArgument(
            "NOT_ENCODABLE",
            f"cannot write {type(value).__name__} as JSON: {error}",
            hint="give builtins, dataclasses, msgspec or pydantic models, or bytes",
        ) from error


def encode_runs(values: Iterable[object], content_type: str = "") -> list[tuple[str, list[bytes]]]:
    """(media type, bytes of each) of values in a row that have the same one. Raises InvalidArgument (NOT_ENCODABLE)."""
    values = list(values)
    if set(map(type, values)) == {bytes}:
        return [(content_type or OCTETS, cast("list[bytes]", values))]
    items = [encode(value, content_type) for value in values]
    return [(media_type, [data for data, _ in run]) for media_type, run in groupby(items, itemgetter(1))]


def encode_input(value: object, content_type: str = "") -> tuple[bytes, str]:
    """Like `encode`, for a task's input: None is the empty object. Raises also ResourceExhausted (INPUT_TOO_LARGE)."""
    data, content_type = (b"{}", content_type) if value is None else encode(value, content_type)
    if len(data) > MAX_PAYLOAD_BYTES:
        raise ResourceExhausted(
            "INPUT_TOO_LARGE",
            f"the input has {len(data)} bytes",
            hint=f"at most {MAX_PAYLOAD_BYTES}: put it and pass what that gives: await client.put(...)",
            retryable=False,
            limit=MAX_PAYLOAD_BYTES,
        )
    return data, content_type


def decode(data: bytes, content_type: str, expected: Any = Any) -> Any:
    """The value of `data`: JSON as `expected` (a type), anything else as bytes, and all of it as Payload if that is expected.

    Of what an MCP tool gave it is the structured content, where there is one.
    Raises InvalidArgument (BAD_PAYLOAD).
    """
    if expected is Payload:
        return Payload(data, content_type)
    if content_type == OCTETS or expected is bytes or not is_json(content_type):
        return data
    try:
        data = content_of(data, content_type)
        return _decode(data) if expected is Any else json_reader(expected).decode(data)
    except msgspec.DecodeError as error:
        raise InvalidArgument(
            "BAD_PAYLOAD", f"the payload does not fit: {error}", hint="compare it with its schema"
        ) from error
