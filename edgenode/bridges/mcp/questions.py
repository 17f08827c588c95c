"""An agent's question to its submitter as requests to an MCP client, and the client's responses as the answer.

A question with a schema is a form (elicitation/create); one for an authorisation is a visit to the address in its prompt. The
answer is what the form holds; a client that declines answers with null, as whoever asks for an MCP server expects.

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
        self._schema = _read(asked.schema)
        self._named = isinstance(self._schema.get(REQUESTS), dict)
        if self._named:
            self.requests = {
                name: {"method": request.get("method", ""), "params": request.get("params") or {}}
                for name, request in self._schema[REQUESTS].items()
                if isinstance(request, dict)
            }
        else:
            self.requests = {asked.key: _elicitation(task_id, asked, self._schema)}

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
        content = response.get("content") or {}
        return content if _is_form(self._schema) else content.get(VALUE)


class _Missing:
    pass


MISSING: Any = _Missing()


def _read(schema: str) -> Json:
    if not schema:
        return {}
    found = msgspec.json.decode(schema)
    return found if isinstance(found, dict) else {}


def _is_form(schema: Json) -> bool:
    return schema.get("type") == "object"


def _elicitation(task_id: str, asked: task_pb2.InputRequest, schema: Json) -> Json:
    address = _URL.search(asked.prompt) if asked.authorization else None
    if address is not None:
        params = {"mode": "url", "url": address[0], "elicitationId": f"{task_id}/{asked.key}", "message": asked.prompt}
        return {"method": "elicitation/create", "params": params}
    if not _is_form(schema):
        kind = schema if schema.get("type") in ("string", "number", "integer", "boolean") else {"type": "string"}
        schema = {"type": "object", "properties": {VALUE: kind}, "required": [VALUE]}
    form = {"type": "object", "properties": schema.get("properties", {})}
    if "required" in schema:
        form["required"] = schema["required"]
    return {
        "method": "elicitation/create",
        "params": {"mode": "form", "message": asked.prompt, "requestedSchema": form},
    }


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
            try:
                jsonschema.validate(told.get("content") or {}, request["params"]["requestedSchema"])
            except jsonschema.ValidationError as error:
                raise _bad(key, error.message) from error
        return told
    raise _bad(key, f"it is no response to {request['method']}")


def _bad(key: str, why: str) -> InvalidArgument:
    return InvalidArgument("BAD_ANSWER", f"the response {key!r} does not fit: {why}", hint="see the request", field=key)
