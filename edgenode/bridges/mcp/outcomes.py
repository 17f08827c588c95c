"""Ended tasks as results: of a tool, a prompt or a resource. The node's own state and reason go along in `_meta`."""

from __future__ import annotations

import base64
import contextlib
from typing import Any

import msgspec

from edgenode.api.blob.v1 import blob_pb2
from edgenode.api.task.v1 import task_pb2
from edgenode.bridges.mcp.offers import Json, Offer, block_of, result_of
from edgenode.bridges.mcp.refusals import is_own_failure, refusal
from edgenode.bridges.wishes import BLOBS, PREFIX, REASON_KEY, STATE_KEY, TASK_KEY
from edgenode.link.model.task import TaskState
from edgenode.link.wire.values import problem_from_pb
from edgenode.sdk.encoding import MCP_RESULT, OCTETS, Payload, is_json

_OF_THE_HOP = "io.modelcontextprotocol/"


def facts_of(task: task_pb2.Task) -> Json:
    """What `_meta` says of a task. A call has no task."""
    facts: Json = {STATE_KEY: TaskState(task.state).name}
    if task.task_id:
        facts[TASK_KEY] = task.task_id
    reason = task.problem.reason if task.HasField("problem") else task.state_reason
    if reason:
        facts[REASON_KEY] = reason
    if task.agent:
        facts[PREFIX + "agent"] = task.agent
    return facts


def tool_result(offer: Offer, task: task_pb2.Task) -> Json:
    """The result of a tool call. Raises MCPError for what is not the tool's own failure."""
    completed = TaskState(task.state) is TaskState.COMPLETED
    made = result_of(offer, _output(task), _uri(task)) if completed else _failed(task)
    if completed and task.output.blobs:
        made["content"] = [*made.get("content", ()), *map(_link, task.output.blobs)]
    return _told(made, task)


def _link(ref: blob_pb2.BlobRef) -> Json:
    """Content that is too large for a result, as a resource to be read."""
    return {
        "type": "resource_link",
        "uri": BLOBS + ref.digest,
        "name": ref.name or ref.digest,
        "mimeType": ref.media_type or OCTETS,
        "size": ref.size,
    }


def prompt_result(offer: Offer, task: task_pb2.Task) -> Json:
    """The messages of a prompt. Raises MCPError."""
    payload = _completed(task)
    if payload.content_type == MCP_RESULT:
        made: Json = msgspec.json.decode(payload.data, type=dict[str, Any])
    else:
        (block,) = result_of(offer, payload, _uri(task))["content"]
        made = {"messages": [{"role": "user", "content": block}]}
        if offer.skill.description:
            made["description"] = offer.skill.description
    return _told(made, task)


def resource_result(offer: Offer, task: task_pb2.Task, uri: str) -> Json:
    """The contents of a resource. Raises MCPError."""
    payload = _completed(task)
    if payload.content_type == MCP_RESULT:
        made: Json = msgspec.json.decode(payload.data, type=dict[str, Any])
    else:
        made = {"contents": [content_of(payload, uri, media_type_of(offer))]}
    return _told(made, task)


def media_type_of(offer: Offer) -> str:
    """The first media type a skill gives, by its card."""
    return next(iter(offer.skill.output_modes), "")


def content_of(payload: Payload, uri: str, media_type: str = "") -> Json:
    """Bytes as contents of a resource; a JSON text is the text itself."""
    if is_json(payload.content_type):
        value = msgspec.json.decode(payload.data)
        if isinstance(value, str):
            return {"uri": uri, "mimeType": media_type or "text/plain", "text": value}
        return {"uri": uri, "mimeType": media_type or "application/json", "text": payload.data.decode()}
    kind = payload.content_type
    if kind.startswith("text/"):
        return {"uri": uri, "mimeType": kind, "text": payload.data.decode(errors="replace")}
    return {"uri": uri, "mimeType": kind, "blob": base64.b64encode(payload.data).decode()}


def _told(made: Json, task: task_pb2.Task) -> Json:
    """With what is known of the task; what the server behind an agent said of its own hop is not said of this one."""
    said = {key: value for key, value in made.get("_meta", {}).items() if not key.startswith(_OF_THE_HOP)}
    return {"resultType": "complete", **made, "_meta": said | facts_of(task)}


def _failed(task: task_pb2.Task) -> Json:
    problem = problem_from_pb(task.problem)
    if not is_own_failure(TaskState(task.state), problem):
        raise refusal(problem, **{"task": task.task_id, "state": TaskState(task.state).name})
    made: Json = {}
    with contextlib.suppress(msgspec.DecodeError):
        made = msgspec.json.decode(problem.metadata.get("mcp_result", "{}"), type=dict[str, Any])
    if not made:
        text = f"{problem.reason}: {problem.message}" + (f" ({problem.hint})" if problem.hint else "")
        made = {"content": [block_of(text.encode(), "text/plain", "")]}
    made["isError"] = True
    return made


def _completed(task: task_pb2.Task) -> Payload:
    state = TaskState(task.state)
    if state is TaskState.COMPLETED:
        return _output(task)
    problem = problem_from_pb(task.problem)
    raise refusal(problem, task=task.task_id, state=state.name)


def _output(task: task_pb2.Task) -> Payload:
    return Payload(task.output.data, task.output.content_type)


def _uri(task: task_pb2.Task) -> str:
    return f"edgenode://tasks/{task.task_id or 'call'}/output"
