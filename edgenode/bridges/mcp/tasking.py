"""The tasks extension (`io.modelcontextprotocol/tasks`): tool calls answered with a handle, and what one does with it.

The handle is the id of the node's task, and given out only once that is durable: it holds over restarts of this process and
of the node, and over an outage of the link. A client that knows the extension gets the result itself, or the question, where
either is there within IMMEDIATE, unless the skill is tagged `mcp:task`; one that is tagged `mcp:task-only` no other client
can call.

    QUEUED, PARKED, ASSIGNED, RETRY_WAIT, WORKING       working
    INPUT_REQUIRED, AUTH_REQUIRED                       input_required
    COMPLETED, and FAILED by the agent's own error      completed (with isError)
    every other end but CANCELED                        failed (JSON-RPC error)
    CANCELED                                            cancelled
"""

from __future__ import annotations

import asyncio
import contextlib
from collections import OrderedDict
from collections.abc import AsyncGenerator, Callable, Iterable
from contextlib import aclosing
from datetime import UTC
from typing import Any

import mcp_types as types
from mcp.shared.exceptions import MCPError
from mcp_types.version import MODERN_PROTOCOL_VERSIONS
from pydantic import Field

from edgenode.api.registry.v1 import registry_pb2
from edgenode.api.task.v1 import task_pb2
from edgenode.bridges.mcp.calling import ASKING, Caller, Request
from edgenode.bridges.mcp.offers import Json, Offer
from edgenode.bridges.mcp.outcomes import facts_of, tool_result
from edgenode.bridges.mcp.questions import MISSING, Question
from edgenode.bridges.mcp.refusals import refusal
from edgenode.bridges.wishes import Wishes
from edgenode.link.errors import EdgenodeError, InvalidArgument, NotFound
from edgenode.link.model.task import TaskState
from edgenode.sdk.encoding import Payload

EXTENSION = "io.modelcontextprotocol/tasks"
TASK_TAG = "mcp:task"
TASK_ONLY_TAG = "mcp:task-only"
IMMEDIATE = 0.25  # seconds
TASK_TIMEOUT = (
    7 * 86_400.0
)  # seconds a task may take that nobody holds a connection for, unless its call says otherwise
POLL_MILLISECONDS = 500
REMEMBERED = 1024  # questions of which some responses came


class TaskIdParams(types.RequestParams):
    """Of tasks/get and tasks/cancel."""

    task_id: str


class UpdateParams(TaskIdParams):
    """Of tasks/update."""

    input_responses: dict[str, Any] = Field(default_factory=dict)


class Tasks:
    """Handlers. `offer_of` finds the tool of a skill's id; `retention`: seconds the node keeps ended tasks."""

    def __init__(self, caller: Caller, offer_of: Callable[[str], Offer | None], retention: float) -> None:
        self._caller = caller
        self._offer_of = offer_of
        self._retention = retention
        self._partial: OrderedDict[tuple[str, str], Json] = OrderedDict()

    def wanted(self, offer: Offer, request: Request) -> bool:
        """Whether a call may be answered with a handle. Raises MCPError where it must be and the client knows none."""
        known = _knows(request)
        if TASK_ONLY_TAG in offer.skill.tags and not known:
            raise _missing()
        return known

    async def call(self, offer: Offer, data: Payload, request: Request, params: types.CallToolRequestParams) -> Json:
        """The result or the question if either is there at once, else the handle. Raises MCPError."""
        try:
            handle = await self._caller.submit(offer, data, Wishes(request.meta), params, TASK_TIMEOUT)
            if not {TASK_TAG, TASK_ONLY_TAG} & set(offer.skill.tags):
                with contextlib.suppress(TimeoutError):
                    async with asyncio.timeout(IMMEDIATE):
                        return await self._caller.answer(offer, handle, request, params, tool_result)
            task = await self._caller.client.get_task(handle.task_id)
        except EdgenodeError as error:
            raise refusal(error.problem) from error
        return {"resultType": "task", **self._head(task)}

    async def get(self, request: Request, params: TaskIdParams) -> Json:
        """How a task stands: what is asked, its result, its error."""
        return self._stand(await self._find(request, params.task_id))

    async def known(self, request: Request, task_ids: Iterable[str]) -> list[str]:
        """Those of the tasks that there are. Raises MCPError for a client to which the extension is not known."""
        if not _knows(request):
            raise _missing()
        found = []
        for task_id in task_ids:
            try:
                found.append((await self._caller.client.get_task(task_id)).task_id)
            except (NotFound, InvalidArgument):
                continue
            except EdgenodeError as error:
                raise refusal(error.problem) from error
        return found

    async def follow(self, task_id: str) -> AsyncGenerator[Json, None]:
        """How a task stands, whenever that may be told otherwise, until it has ended. Raises what the node refuses."""
        state, words = None, ""
        async with aclosing(self._caller.client.watch_task(task_id)) as updates:
            async for update in updates:
                if state is None or update.state is not state or (update.message and update.message != words):
                    state, words = update.state, update.message or words
                    yield self._stand(await self._caller.client.get_task(task_id))

    def _stand(self, task: task_pb2.Task) -> Json:
        told = self._head(task)
        state = TaskState(task.state)
        if state in ASKING and task.HasField("input_request"):
            question = Question(task.task_id, task.input_request)
            given = self._partial.get((task.task_id, question.key), {})
            told["inputRequests"] = {key: asked for key, asked in question.requests.items() if key not in given}
        elif state.terminal:
            result, error = self._end(task)
            if result is not None:
                told["result"] = result
            elif error is not None and told["status"] == "failed":
                told["error"] = error.error.model_dump(mode="json", exclude_none=True)
        return told

    async def update(self, request: Request, params: UpdateParams) -> Json:
        """Responses to what a task asks, all or some of them; what is not asked any more is left alone."""
        task = await self._find(request, params.task_id)
        if TaskState(task.state) in ASKING and task.HasField("input_request"):
            question = Question(task.task_id, task.input_request)
            place = (task.task_id, question.key)
            given = self._partial.get(place, {}) | {
                key: response for key, response in params.input_responses.items() if key in question.requests
            }
            try:
                answer = question.answer(given)
                if answer is MISSING:
                    self._remember(place, given)
                else:
                    self._partial.pop(place, None)
                    await self._caller.answer_question(task.task_id, question, answer)
            except EdgenodeError as error:
                raise refusal(error.problem) from error
        return {}

    async def cancel(self, request: Request, params: TaskIdParams) -> Json:
        """The wish that a task ends; it is durable, and follows the task."""
        task = await self._find(request, params.task_id)
        try:
            await self._caller.client.cancel_task(task.task_id, "cancelled by its client")
        except EdgenodeError as error:
            raise refusal(error.problem) from error
        return {}

    async def _find(self, request: Request, task_id: str) -> task_pb2.Task:
        if not _knows(request):
            raise _missing()
        headers = getattr(request.request, "headers", None)
        routed = headers.get("mcp-name") if headers is not None else None
        if routed is not None and routed != task_id:
            raise MCPError(types.HEADER_MISMATCH, "the Mcp-Name header names another task than the body")
        try:
            return await self._caller.client.get_task(task_id)
        except EdgenodeError as error:
            raise refusal(error.problem) from error

    def _head(self, task: task_pb2.Task) -> Json:
        told: Json = {
            "taskId": task.task_id,
            "status": self._status(task),
            "createdAt": _time(task.submit_time),
            "lastUpdatedAt": _time(task.update_time),
            "ttlMs": int(self._retention * 1000) or None,
            "pollIntervalMs": POLL_MILLISECONDS,
            "_meta": facts_of(task),
        }
        words = task.state_reason or task.progress.message
        if words:
            told["statusMessage"] = words
        return told

    def _status(self, task: task_pb2.Task) -> str:
        state = TaskState(task.state)
        if state in ASKING:
            return "input_required"
        if not state.terminal:
            return "working"
        if state is TaskState.CANCELED:
            return "cancelled"
        return "completed" if self._end(task)[0] is not None else "failed"

    def _end(self, task: task_pb2.Task) -> tuple[Json | None, MCPError | None]:
        try:
            return tool_result(self._offer_of(task.spec.skill) or _unknown(task), task), None
        except MCPError as error:
            return None, error

    def _remember(self, place: tuple[str, str], given: Json) -> None:
        self._partial[place] = given
        if len(self._partial) > REMEMBERED:
            self._partial.popitem(last=False)


def _unknown(task: task_pb2.Task) -> Offer:
    """Of a skill that nobody offers any more the result is what its media type says."""
    skill = registry_pb2.Skill(id=task.spec.skill)
    return Offer(skill, (), False, types.Tool(name=task.spec.skill, input_schema={"type": "object"}))


def _knows(request: Request) -> bool:
    modern = request.protocol_version in MODERN_PROTOCOL_VERSIONS
    return modern and request.session.check_client_capability(types.ClientCapabilities(extensions={EXTENSION: {}}))


def _missing() -> MCPError:
    return MCPError(
        types.MISSING_REQUIRED_CLIENT_CAPABILITY,
        f"this needs a client with the extension {EXTENSION}",
        {"requiredCapabilities": {"extensions": {EXTENSION: {}}}},
    )


def _time(time: Any) -> str:
    return str(time.ToDatetime(tzinfo=UTC).isoformat(timespec="milliseconds"))
