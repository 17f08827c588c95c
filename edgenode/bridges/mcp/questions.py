"""An agent's question to its submitter as requests to an MCP client, and the client's responses as the answer.

A question with a schema is a form (elicitation/create), with one text of JSON where a form cannot have such fields; one for an
authorisation is a visit to the address in its prompt. The answer is what the form holds; a client that declines answers with
null, as whoever asks for an MCP server expects.

An agent that speaks MCP may ask for anything a client can be asked: the schema's keyword REQUESTS holds requests by names
that are unique within the task, each with `method` and `params`; the answer is an object with the responses by the same
names. Whoever answers without MCP sees the prompt, and a schema that says what the answer has to look like.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

import jsonschema
import mcp_types as types
import msgspec
import referencing
import referencing.exceptions
from pydantic import BaseModel, ValidationError

from edgenode.api.task.v1 import task_pb2
from edgenode.link.errors import InvalidArgument

REQUESTS = "x-mcp-requests"
VALUE = "value"  # the only field of a form for a question whose answer is no object

Json = dict[str, Any]

_URL = re.compile(r"https?://\S+")
_RESULTS: Mapping[str, tuple[type[BaseModel], ...]] = {
    "elicitation/create": (types.ElicitResult,),
    "sampling/createMessage": (types.CreateMessageResult, types.CreateMessageResultWithTools),
    "roots/list": (types.ListRootsResult,),
}


class Question:
    """What is asked, as requests by their keys."""

    def __init__(self, task_id: str, asked: task_pb2.InputRequest) -> None:
        self.key = asked.key
        schema = _read(asked.schema)
        named = schema.get(REQUESTS)
        self._named = (
            isinstance(named, dict) and bool(named) and all(_is_request(request) for request in named.values())
        )
        if self._named:
            self.requests = {
                name: {"method": request["method"], "params": request.get("params") or {}}
                for name, request in schema[REQUESTS].items()
            }
            return
        address = _URL.search(asked.prompt) if asked.authorization else None
        self._form = _Form(schema)
        if address is not None:
            params: Json = {"mode": "url", "url": address[0], "elicitationId": f"{task_id}/{asked.key}"}
        else:
            params = {"mode": "form", "requestedSchema": self._form.schema}
        self.requests = {asked.key: {"method": "elicitation/create", "params": {"message": asked.prompt, **params}}}

    def needs(self) -> types.ClientCapabilities:
        """What a client must be able to do to be asked this."""
        needed: Json = {}
        for request in self.requests.values():
            kind = request["method"].partition("/")[0]
            needed[kind] = {"url": {}} if request["params"].get("mode") == "url" else {}
        return types.ClientCapabilities.model_validate(needed)

    def answer(self, responses: Mapping[str, Any]) -> Any:
        """The answer that responses make; MISSING while one is missing. Raises InvalidArgument (BAD_ANSWER)."""
        checked: dict[str, Json] = {}
        for key, request in self.requests.items():
            if key not in responses:
                return MISSING
            checked[key] = _checked(key, request, responses[key])
        if self._named:
            return checked
        (response,) = checked.values()
        (request,) = self.requests.values()
        if response["action"] != "accept":
            return None
        if request["params"].get("mode") == "url":
            return True
        return self._form.answer(self.key, response.get("content") or {})


class _Missing:
    pass


MISSING: Any = _Missing()


class _Form:
    """What is asked for as the fields that a client can show: those of an object, or one for the value or its JSON."""

    def __init__(self, wanted: Json) -> None:
        fields = wanted.get("properties", {}) if wanted.get("type") == "object" else None
        self._whole = isinstance(fields, dict) and all(_is_field(field) for field in fields.values())
        self._as_json = not self._whole and bool(wanted) and not _is_field(wanted)
        if self._whole:
            self.schema: Json = {"type": "object", "properties": fields}
            if isinstance(wanted.get("required"), list):
                self.schema["required"] = wanted["required"]
            return
        field = wanted if wanted and not self._as_json else {"type": "string"}
        if self._as_json:
            field["description"] = f"JSON that fits {msgspec.json.encode(wanted).decode()}"
        self.schema = {"type": "object", "properties": {VALUE: field}, "required": [VALUE]}

    def answer(self, key: str, content: Json) -> Any:
        """What the agent gets of a filled-in form. Raises InvalidArgument (BAD_ANSWER)."""
        if self._whole:
            return content
        if not self._as_json:
            return content.get(VALUE)
        try:
            return msgspec.json.decode(str(content.get(VALUE, "")))
        except msgspec.DecodeError as error:
            raise _bad(key, f"it is no JSON: {error}") from error


def _read(schema: str) -> Json:
    """An agent's schema; nothing is known of it but that it is a text."""
    try:
        found = msgspec.json.decode(schema) if schema else {}
    except msgspec.DecodeError:
        return {}
    return found if isinstance(found, dict) else {}


def _is_request(request: Any) -> bool:
    if not isinstance(request, dict):
        return False
    return request.get("method") in _RESULTS and isinstance(request.get("params") or {}, dict)


def _is_field(schema: Any) -> bool:
    """Whether a form may have it: a plain value, or a choice of texts."""
    if not isinstance(schema, dict):
        return False
    if schema.get("type") == "array":
        items = schema.get("items")
        return isinstance(items, dict) and ("enum" in items or "anyOf" in items)
    return schema.get("type") in ("string", "number", "integer", "boolean")


def _checked(key: str, request: Json, response: Any) -> Json:
    """A response of the shape its request asks for."""
    for model in _RESULTS.get(request["method"], ()):
        try:
            read = model.model_validate(response, by_name=False)
        except ValidationError:
            continue
        told: Json = read.model_dump(mode="json", by_alias=True, exclude_none=True)
        told.pop("resultType", None)
        if told.get("action") == "accept" and "requestedSchema" in request["params"]:
            _fit(key, told.get("content") or {}, request["params"]["requestedSchema"])
        return told
    raise _bad(key, f"it is no response to {request['method']}")


def _fit(key: str, content: Json, schema: Json) -> None:
    """Whether a form is filled in as it asks for. References to anywhere else are not followed."""
    try:
        jsonschema.Draft202012Validator(schema, registry=referencing.Registry()).validate(content)
    except jsonschema.ValidationError as error:
        raise _bad(key, error.message) from error
    except (jsonschema.SchemaError, referencing.exceptions.Unresolvable) as error:
        raise _bad(key, f"the agent's own schema is none: {error}"[:1024]) from error


def _bad(key: str, why: str) -> InvalidArgument:
    return InvalidArgument("BAD_ANSWER", f"the response {key!r} does not fit: {why}", hint="see the request", field=key)
