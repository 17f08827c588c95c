"""JSON Schema of Python types."""

from __future__ import annotations

from typing import Any

import msgspec


def schema_text(expected: Any, *, of_results: bool = False) -> str:
    """A type's JSON Schema as text; an object's properties stand at the top, not behind a reference.

    `of_results`: of what is written rather than of what is read, which differs for pydantic models with computed fields.
    """

    def of_model(kind: type) -> dict[str, Any]:
        made = getattr(kind, "model_json_schema", None)
        if made is None:
            name = getattr(kind, "__qualname__", str(kind))
            raise TypeError(f"{name} has no form in JSON; use builtins, dataclasses, msgspec or pydantic models")
        schema: dict[str, Any] = made(mode="serialization" if of_results else "validation")
        lifted.update(schema.pop("$defs", {}))
        return schema

    lifted: dict[str, Any] = {}  # definitions of models: their references count from the root
    schema = msgspec.json.schema(expected, schema_hook=of_model)
    if lifted:
        schema["$defs"] = {**lifted, **schema.get("$defs", {})}
    reference = schema.get("$ref", "")
    if reference:
        definitions = schema["$defs"]
        top = definitions[reference.rpartition("/")[2]]
        text = msgspec.json.encode(definitions).decode()
        if f'"{reference}"' not in text:  # not recursive
            del definitions[reference.rpartition("/")[2]]
            schema = {**top, "$defs": definitions} if definitions else top
    return msgspec.json.encode(schema).decode()
