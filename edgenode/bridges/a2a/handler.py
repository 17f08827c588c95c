"""What a caller over A2A asks, over any binding, as the node does it.

An A2A message is a task's submission, or the answer to its question if it names a task. Which agent: the one whose address or
tenant the caller used; the node itself chooses among all. Which skill: the one the message names in its metadata
(`dev.edgenode/skill`); without a name the only one the agent, or the node's agents together, have. The message's id is the
idempotency key: sent again it gives the same task, and so does a submission with that key over gRPC or MCP. A message that
wants to be a call (`dev.edgenode/mode`) is answered with a message: it is not stored, so there is no task to tell of, nor
anything to tell before the end, as the protocol has updates of tasks alone.

Nothing is kept here but which questions were answered by which message, so that an answer that is sent again is not taken for
one to the next question. A wait that nobody listens to any more ends: `gone` in a call's context says when.
"""

from __future__ import annotations

import asyncio
from collections import OrderedDict
from collections.abc import AsyncGenerator, Awaitable, Callable, Coroutine
from contextlib import aclosing
from typing import Any, TypeVar

from a2a.server.context import ServerCallContext
from a2a.server.events import Event
from a2a.server.request_handlers.request_handler import RequestHandler, validate_request_params
from a2a.types import a2a_pb2

from edgenode.api.registry.v1 import registry_pb2, registry_service_pb2, registry_service_pb2_grpc
from edgenode.api.task.v1 import task_pb2, task_service_pb2, task_service_pb2_grpc
from edgenode.bridges.a2a import cards, states
from edgenode.bridges.a2a.listing import list_tasks
from edgenode.bridges.a2a.parts import answer_of, fields, input_of
from edgenode.bridges.a2a.refusals import refusal
from edgenode.bridges.a2a.webhooks import Webhooks
from edgenode.bridges.wishes import MODE_KEY, SKILL_KEY, Wishes
from edgenode.link.errors import (
    Cancelled,
    EdgenodeError,
    FailedPrecondition,
    InvalidArgument,
    NotFound,
)
from edgenode.link.model.task import Scope, TaskState
from edgenode.sdk.client import Client
from edgenode.sdk.encoding import Payload
from edgenode.sdk.handle import TaskUpdate
from edgenode.sdk.spec import SpecOptions, fill_spec

AGENT = "agent"  # in a call's state: the agent whose address was used
GONE = "gone"  # there too: an awaitable function that returns when the caller is gone
REMEMBERED = 10_000  # answered questions
CALL_TIMEOUT = 30.0  # seconds a call may take unless its message says otherwise

Result = TypeVar("Result")
Skill = tuple[registry_pb2.Skill | None, tuple[str, ...]]


class Handler(RequestHandler):
    """One for all agents of a node. `scope`: where tasks may run unless the message says otherwise."""

    def __init__(
        self, client: Client, node: str, places: cards.Places, webhooks: Webhooks, scope: Scope = Scope.LOCAL
    ) -> None:
        self._client = client
        self._node = node
        self._places = places
        self._webhooks = webhooks
        self._scope = scope
        self._tasks = task_service_pb2_grpc.TaskServiceStub(client.channel)
        self._registry = registry_service_pb2_grpc.RegistryServiceStub(client.channel)
        self._answered: OrderedDict[tuple[str, str], None] = OrderedDict()

    # --- messages ---

    @validate_request_params
    async def on_message_send(
        self, params: a2a_pb2.SendMessageRequest, context: ServerCallContext
    ) -> a2a_pb2.Task | a2a_pb2.Message:
        """See RequestHandler. Blocking, unless asked otherwise, until the task has ended or asks."""

        async def send() -> a2a_pb2.Task | a2a_pb2.Message:
            if (called := await self._called(params, context)) is not None:
                return called
            task = await self._take(params, context)
            if not params.configuration.return_immediately:
                task = await self._settled(task, context)
            return states.task_of(task, _history(params.configuration))

        return await _told(send())

    @validate_request_params
    async def on_message_send_stream(
        self, params: a2a_pb2.SendMessageRequest, context: ServerCallContext
    ) -> AsyncGenerator[Event]:
        """See RequestHandler. The stream ends with the task, or when it asks: the answer begins another one."""
        called = await _told(self._called(params, context))
        if called is not None:
            yield called
            return
        task = await _told(self._take(params, context))
        yield states.task_of(task, _history(params.configuration))
        if states.settled(TaskState(task.state)):
            return
        async with aclosing(self._changes(task, until_asked=True)) as changes:
            async for event in changes:
                yield event

    @validate_request_params
    async def on_subscribe_to_task(
        self, params: a2a_pb2.SubscribeToTaskRequest, context: ServerCallContext
    ) -> AsyncGenerator[Event]:
        """See RequestHandler. The stream ends with the task. A caller that names the last sequence it saw in the header
        `Last-Event-ID` gets, after the task as it is now, the changes since then too, as far as they are kept."""
        task = await _told(self._task(params.id, context))
        seen = _last_event(context, task.sequence)
        if TaskState(task.state).terminal:
            raise refusal(
                FailedPrecondition("TASK_ENDED", f"task {task.task_id} is {TaskState(task.state).name}", hint="get it")
            )
        yield states.task_of(task)
        async with aclosing(self._changes(task, until_asked=False, after=seen)) as changes:
            async for event in changes:
                yield event

    async def _take(self, request: a2a_pb2.SendMessageRequest, context: ServerCallContext) -> task_pb2.Task:
        """The task a message made, or the one it answered."""
        message = request.message
        if not message.parts:
            raise InvalidArgument("BAD_INPUT", "the message has no parts", hint="send one", field="message.parts")
        if request.configuration.history_length < 0:
            raise InvalidArgument("BAD_HISTORY", "history_length is below 0", field="configuration.history_length")
        if request.configuration.HasField("task_push_notification_config"):
            await self._webhooks.check(request.configuration.task_push_notification_config.url)
        if message.task_id:
            task = await self._answer(message, context)
        else:
            task = await self._submit(request, context)
        if request.configuration.HasField("task_push_notification_config"):
            await self._webhooks.add(task, request.configuration.task_push_notification_config)
        return task

    async def _called(self, request: a2a_pb2.SendMessageRequest, context: ServerCallContext) -> a2a_pb2.Message | None:
        """What a message that wants to be a call gave; None for one that is a task's."""
        message = request.message
        wishes = _wishes(request)
        if wishes.mode != "call" or message.task_id:
            return None
        if request.configuration.HasField("task_push_notification_config"):
            raise InvalidArgument(
                "NO_TASK",
                "a call is no task of which a web hook could hear",
                hint=f"leave out the hook, or {MODE_KEY}",
                field="configuration.task_push_notification_config",
            )
        options = wishes.for_call()
        skill_id, data, content_type = await self._work(request, wishes.skill, options, context)
        timeout = CALL_TIMEOUT if wishes.timeout is None else wishes.timeout
        output: Payload = await _unless_gone(
            self._client.call(skill_id, Payload(data, content_type), timeout=timeout, type=Payload, **options),
            context,
        )
        return states.reply_of(self._client.new_id(), message.context_id, *output)

    async def _submit(self, request: a2a_pb2.SendMessageRequest, context: ServerCallContext) -> task_pb2.Task:
        wishes = _wishes(request)
        options = wishes.options
        options.setdefault("idempotency_key", request.message.message_id)
        skill_id, data, content_type = await self._work(request, wishes.skill, options, context)
        deadline = self._client.wall_milliseconds() / 1000 + wishes.timeout if wishes.timeout is not None else 0.0
        submission = task_service_pb2.SubmitTaskRequest(request_id=self._client.new_id())
        fill_spec(submission.spec, skill_id, data, content_type, deadline, **options)
        answer: task_service_pb2.SubmitTaskResponse = await self._client.unary(self._tasks.SubmitTask, submission)
        return answer.task

    async def _work(
        self, request: a2a_pb2.SendMessageRequest, skill: str, options: SpecOptions, context: ServerCallContext
    ) -> tuple[str, bytes, str]:
        """(skill, input, media type) of what a message asks for; `options` are completed by what else it says."""
        message = request.message
        agent = self._agent_of(context)
        if agent:
            options["agent"] = agent
        if message.context_id:
            options["context_id"] = message.context_id
        if "traceparent" not in options and (trace := context.state.get("headers", {}).get("traceparent")):
            options["traceparent"] = trace
        if self._scope is not Scope.LOCAL:
            options.setdefault("scope", self._scope)
        fleet = options.get("scope") in (Scope.FLEET, "fleet")
        skill_id, (known, modes) = await self._skill(agent, skill, fleet=fleet)
        return skill_id, *input_of(message.parts, known, modes)

    async def _answer(self, message: a2a_pb2.Message, context: ServerCallContext) -> task_pb2.Task:
        task = await self._task(message.task_id, context)
        if message.context_id and message.context_id != states.context_of(task):
            raise InvalidArgument(
                "OTHER_CONTEXT",
                f"task {task.task_id} belongs to context {states.context_of(task)}",
                hint="leave the contextId out",
                field="message.context_id",
            )
        known = task.task_id, message.message_id
        if known in self._answered:
            return task
        state = TaskState(task.state)
        if state not in states.ASKING:
            reason = "TASK_ENDED" if state.terminal else "NO_INPUT_REQUESTED"
            raise FailedPrecondition(
                reason, f"task {task.task_id} is {state.name}", hint="send a message without a taskId for a new task"
            )
        asked = task.input_request
        data, content_type = answer_of(message.parts, asked.schema)
        request = task_service_pb2.ProvideTaskInputRequest(
            request_id=self._client.new_id(), task_id=task.task_id, key=asked.key
        )
        request.answer.data = data
        request.answer.content_type = content_type
        response: task_service_pb2.ProvideTaskInputResponse = await self._client.unary(
            self._tasks.ProvideTaskInput, request
        )
        self._answered[known] = None
        if len(self._answered) > REMEMBERED:
            self._answered.popitem(last=False)
        return response.task

    async def _skill(self, agent: str, named: str, *, fleet: bool) -> tuple[str, Skill]:
        """The skill's id, and what is known of it: None where nobody is known to have it, who may yet come."""
        found = [await self._agent(agent)] if agent else await self._client.agents()
        known: dict[str, Skill] = {}
        for each in found:
            for skill in each.card.skills:
                known.setdefault(skill.id, (skill, tuple(each.card.default_input_modes)))
        if named:
            if agent and named not in known:
                raise NotFound("UNKNOWN_SKILL", f"agent {agent} has no skill {named}", hint=_choice(known))
            return named, known.get(named) or (await self._elsewhere(named) if fleet else (None, ()))
        if len(known) == 1:
            return next(iter(known.items()))
        raise InvalidArgument(
            "NO_SKILL_NAMED",
            f"{'agent ' + agent if agent else 'the node'} has {len(known)} skills and the message names none",
            hint=f"name one in the message's metadata as {SKILL_KEY}{': ' + _choice(known) if known else ''}",
            field="message.metadata",
        )

    async def _elsewhere(self, skill_id: str) -> Skill:
        """What the fleet knows of a skill that is not here; nothing while the hub cannot be asked."""
        found = await self._client.find(skill_id, scope=Scope.FLEET, limit=1)
        for candidate in found.candidates:
            for skill in candidate.agent.card.skills:
                if skill.id == skill_id:
                    return skill, tuple(candidate.agent.card.default_input_modes)
        return None, ()

    # --- tasks ---

    @validate_request_params
    async def on_get_task(self, params: a2a_pb2.GetTaskRequest, context: ServerCallContext) -> a2a_pb2.Task:
        """See RequestHandler."""

        async def get() -> a2a_pb2.Task:
            return states.task_of(await self._task(params.id, context), _history(params))

        return await _told(get())

    @validate_request_params
    async def on_list_tasks(
        self, params: a2a_pb2.ListTasksRequest, context: ServerCallContext
    ) -> a2a_pb2.ListTasksResponse:
        """See RequestHandler and `listing`."""
        agent = self._agent_of(context)
        return await _told(list_tasks(self._client, params, lambda task: _belongs(task, agent)))

    @validate_request_params
    async def on_cancel_task(self, params: a2a_pb2.CancelTaskRequest, context: ServerCallContext) -> a2a_pb2.Task:
        """See RequestHandler. The intent is durable; a task that runs elsewhere may take a moment to end."""

        async def cancel() -> a2a_pb2.Task:
            task = await self._task(params.id, context)
            if TaskState(task.state).terminal:
                raise FailedPrecondition(
                    "NOT_CANCELABLE", f"task {task.task_id} is {TaskState(task.state).name} already"
                )
            return states.task_of(await self._client.cancel_task(task.task_id, "asked for over A2A"))

        return await _told(cancel())

    async def _task(self, task_id: str, context: ServerCallContext) -> task_pb2.Task:
        """Raises NotFound (UNKNOWN_TASK), also for another agent's task."""
        task = await self._client.get_task(task_id)
        agent = self._agent_of(context)
        if not _belongs(task, agent):
            raise NotFound("UNKNOWN_TASK", f"agent {agent} has no task {task_id!r}", hint="ask the node itself")
        return task

    async def _settled(self, task: task_pb2.Task, context: ServerCallContext) -> task_pb2.Task:
        """The task once it has ended or asks. Raises Cancelled (CALLER_GONE)."""
        if states.settled(TaskState(task.state)):
            return task
        return await _unless_gone(self._next_settled(task), context)

    async def _next_settled(self, task: task_pb2.Task) -> task_pb2.Task:
        async with aclosing(self._watch(task)) as updates:
            async for update in updates:
                if states.settled(update.state):
                    now = update.task or await self._client.get_task(task.task_id)
                    if states.settled(TaskState(now.state)):
                        return now
        return await self._client.get_task(task.task_id)

    async def _changes(
        self, task: task_pb2.Task, *, until_asked: bool, after: int | None = None
    ) -> AsyncGenerator[Event]:
        """What happens to a task after it was as given, or after sequence `after`."""
        try:
            async with aclosing(self._watch(task, after)) as updates:
                async for update in updates:
                    for piece in update.pieces:
                        yield states.piece_of(task, update, piece)
                    if states.settled(update.state):
                        task = update.task or await self._client.get_task(task.task_id)
                    if update.state.terminal:
                        for artifact in states.result_events(task):
                            yield artifact
                    yield states.update_of(task, update)
                    if until_asked and update.state in states.ASKING:
                        return
        except EdgenodeError as error:
            raise refusal(error) from error

    def _watch(self, task: task_pb2.Task, after: int | None = None) -> AsyncGenerator[TaskUpdate]:
        return self._client.watch_task(task.task_id, after=task.sequence if after is None else after)

    # --- web hooks ---

    @validate_request_params
    async def on_create_task_push_notification_config(
        self, params: a2a_pb2.TaskPushNotificationConfig, context: ServerCallContext
    ) -> a2a_pb2.TaskPushNotificationConfig:
        """See RequestHandler and `webhooks`."""

        async def create() -> a2a_pb2.TaskPushNotificationConfig:
            task = await self._task(params.task_id, context)
            await self._webhooks.check(params.url)
            return await self._webhooks.add(task, params)

        return await _told(create())

    @validate_request_params
    async def on_get_task_push_notification_config(
        self, params: a2a_pb2.GetTaskPushNotificationConfigRequest, context: ServerCallContext
    ) -> a2a_pb2.TaskPushNotificationConfig:
        """See RequestHandler."""

        async def get() -> a2a_pb2.TaskPushNotificationConfig:
            task = await self._task(params.task_id, context)
            return await self._webhooks.get(task.task_id, params.id)

        return await _told(get())

    @validate_request_params
    async def on_list_task_push_notification_configs(
        self, params: a2a_pb2.ListTaskPushNotificationConfigsRequest, context: ServerCallContext
    ) -> a2a_pb2.ListTaskPushNotificationConfigsResponse:
        """See RequestHandler. One page: a task has few."""

        async def listed() -> a2a_pb2.ListTaskPushNotificationConfigsResponse:
            task = await self._task(params.task_id, context)
            return a2a_pb2.ListTaskPushNotificationConfigsResponse(configs=await self._webhooks.listed(task.task_id))

        return await _told(listed())

    @validate_request_params
    async def on_delete_task_push_notification_config(
        self, params: a2a_pb2.DeleteTaskPushNotificationConfigRequest, context: ServerCallContext
    ) -> None:
        """See RequestHandler. Deleting one that is not there succeeds."""

        async def delete() -> None:
            task = await self._task(params.task_id, context)
            await self._webhooks.remove(task.task_id, params.id)

        await _told(delete())

    # --- cards ---

    @validate_request_params
    async def on_get_extended_agent_card(
        self, params: a2a_pb2.GetExtendedAgentCardRequest, context: ServerCallContext
    ) -> a2a_pb2.AgentCard:
        """See RequestHandler and `cards`. Whoever comes here has the token."""

        async def card() -> a2a_pb2.AgentCard:
            if agent := self._agent_of(context):
                return cards.agent_card(await self._agent(agent), self._places, extended=True)
            return cards.node_card(self._node, await self._client.agents(), self._places, extended=True)

        return await _told(card())

    async def public_card(self, agent: str) -> bytes:
        """The card of an agent, or of the node for an empty name, as JSON. Raises NotFound (UNKNOWN_AGENT)."""
        if agent:
            return cards.public_json(await self._agent(agent), self._places)
        return cards.to_json(cards.node_card(self._node, await self._client.agents(), self._places))

    async def _agent(self, name: str) -> registry_pb2.Agent:
        request = registry_service_pb2.GetAgentRequest(name=name)
        answer: registry_service_pb2.GetAgentResponse = await self._client.unary(self._registry.GetAgent, request)
        return answer.agent

    @staticmethod
    def _agent_of(context: ServerCallContext) -> str:
        """The agent a call is for, empty for the node."""
        addressed: str = context.state.get(AGENT, "")
        if addressed and context.tenant and context.tenant != addressed:
            raise InvalidArgument(
                "OTHER_AGENT", f"the address is that of {addressed}, the tenant {context.tenant}", field="tenant"
            )
        return addressed or context.tenant


def _wishes(request: a2a_pb2.SendMessageRequest) -> Wishes:
    return Wishes({**fields(request.metadata), **fields(request.message.metadata)})


async def _unless_gone(work: Coroutine[Any, Any, Result], context: ServerCallContext) -> Result:
    """What `work` gives; it ends where its caller is gone. Raises Cancelled (CALLER_GONE)."""
    gone: Callable[[], Awaitable[None]] | None = context.state.get(GONE)
    if gone is None:
        return await work
    ends, leaves = asyncio.ensure_future(work), asyncio.ensure_future(gone())
    try:
        await asyncio.wait([ends, leaves], return_when=asyncio.FIRST_COMPLETED)
        if not ends.done():
            raise Cancelled("CALLER_GONE", "nobody waits for the answer any more")
        return ends.result()
    finally:
        ends.cancel()
        leaves.cancel()
        await asyncio.wait([ends, leaves])


async def _told(work: Awaitable[Result]) -> Result:
    try:
        return await work
    except EdgenodeError as error:
        raise refusal(error) from error


def _belongs(task: task_pb2.Task, agent: str) -> bool:
    """Whether a caller of `agent`, or of the node for an empty name, may see the task."""
    return not agent or agent in (task.agent.rpartition("/")[2], task.spec.agent.rpartition("/")[2])


def _last_event(context: ServerCallContext, now: int) -> int:
    """The sequence a caller goes on from: what it says it saw, else `now`."""
    said = context.state.get("headers", {}).get("last-event-id", "")
    if not said:
        return now
    if not said.isdigit() or len(said) > 18:
        raise refusal(InvalidArgument("BAD_SEQUENCE", f"Last-Event-ID is {said[:80]!r}", hint="a task's sequence"))
    return min(int(said), now)


def _history(request: Any) -> int | None:
    if not request.HasField("history_length"):
        return None
    if request.history_length < 0:
        raise refusal(InvalidArgument("BAD_HISTORY", "history_length is below 0", field="history_length"))
    length: int = request.history_length
    return length


def _choice(known: dict[str, Skill]) -> str:
    names = sorted(known)
    return ", ".join(names[:8]) + (", ..." if len(names) > 8 else "")
