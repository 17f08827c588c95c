"""JSON Schema of Python types."""

from __future__ import annotations

from typing import Any

import msgspec


def schema_text(expected: Any) -> str:
    """A type's JSON Schema as text; an object's properties stand at the top, not behind a reference."""
    schema = msgspec.json.schema(expected)
    reference = schema.get("$ref", "")
    if reference:
        definitions = schema["$defs"]
        top = definitions[reference.rpartition("/")[2]]
        text = msgspec.json.encode(definitions).decode()
        if f'"{reference}"' not in text:  # not recursive
            del definitions[reference.rpartition("/")[2]]
            schema = {**top, "$defs": definitions} if definitions else top
    return msgspec.json.encode(schema).decode()
