"""A request of a client as a task of the node: submitted, followed, asked about, cancelled.

A request becomes a durable task and is answered when the task has ended, so that it may wait for an agent, survive its loss
where that is allowed, and be found in the node's history. `dev.edgenode/mode: call`, or a skill that says that queued work is
of no use to it (`online-only`), makes it a call instead: not stored, answered or failed at once, and read along by a client
that hears progress (`pieces`). Only repeatable skills
(`readOnlyHint`, `idempotentHint`) are tried again after a failure or the loss of their agent, unless `_meta` says more; of
others, one that another device took before it went out of reach is answered when that is back. A request with an idempotency
key says itself that it may come twice: its task has the contract's defaults, so that the same key over another protocol is
the same task.

A task whose agent asks something is answered for in two ways. Where the server may ask the client (2025-11-25) it does, and
waits. Where it may not (2026-07-28), the request is answered with what is asked and a state that names the task; the client
comes again with both.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Coroutine
from contextlib import aclosing
from dataclasses import dataclass
from typing import Any

import mcp_types as types
from mcp.server.context import ServerRequestContext
from mcp.shared.exceptions import MCPError
from mcp.shared.message import ServerMessageMetadata
from mcp_types.version import MODERN_PROTOCOL_VERSIONS
from pydantic import RootModel

from edgenode.api.task.v1 import task_pb2
from edgenode.bridges.mcp.offers import Json, Offer
from edgenode.bridges.mcp.pieces import Pieces, told
from edgenode.bridges.mcp.questions import MISSING, Question
from edgenode.bridges.mcp.refusals import OF_THE_CALLED, refusal
from edgenode.bridges.mcp.sessions import wants_logs
from edgenode.bridges.wishes import Wishes
from edgenode.link.errors import DeadlineExceeded, EdgenodeError, FailedPrecondition, InvalidArgument, ResourceExhausted
from edgenode.link.model.task import OnLost, RetryPolicy, Scope, TaskState
from edgenode.link.wire.values import problem_to_pb
from edgenode.sdk.agent import ONLINE_ONLY_TAG
from edgenode.sdk.client import Client
from edgenode.sdk.encoding import Payload
from edgenode.sdk.handle import TaskHandle, TaskUpdate
from edgenode.sdk.spec import SpecOptions
from edgenode.sdk.streaming import Whole

DEFAULT_TIMEOUT = 300.0  # seconds a request may take, questions included
QUICK = 0.05  # seconds after which a task without progress is followed
ASKING = frozenset({TaskState.INPUT_REQUIRED, TaskState.AUTH_REQUIRED})
# What surely was not begun may be tried again whatever it is.
ONCE = RetryPolicy(reasons=("MCP_SERVER_DOWN",))

Request = ServerRequestContext[Any, Any]

_log = logging.getLogger(__name__)


class _Any(RootModel[dict[str, Any]]):
    """A client's answer, unread."""


@dataclass(frozen=True)
class Message:
    """What the session is to send the client, for which the SDK has no type."""

    method: str
    params: Json

    def model_dump(self, **_options: Any) -> Json:
        """See pydantic."""
        return {"method": self.method, "params": self.params}


class Caller:
    """Requests of all clients. `timeout`: seconds one may take unless its `_meta` says otherwise."""

    def __init__(self, client: Client, timeout: float = DEFAULT_TIMEOUT) -> None:
        self.client = client
        self._timeout = timeout
        self._cancels: set[asyncio.Task[None]] = set()
        self.stopping = False
        """Whether the bridge goes: then requests that can be made again leave their tasks alone."""

    async def call(
        self,
        offer: Offer,
        data: Payload,
        request: Request,
        params: types.InputResponseRequestParams,
        make: Callable[[Offer, task_pb2.Task], Json],
    ) -> Json:
        """The request's result by `make`, or what its agent asks. Raises MCPError."""
        try:
            wishes = Wishes(request.meta)
            if not params.request_state and self._is_call(offer, wishes):
                return await self._call(offer, data, request, wishes, make)
            handle = await self.submit(offer, data, wishes, params)
        except EdgenodeError as error:
            raise refusal(error.problem) from error
        try:
            return await self.answer(offer, handle, request, params, make)
        except asyncio.CancelledError:
            if not (self.stopping and wishes.options.get("idempotency_key")):
                self.cancel_later(handle.task_id, "its caller went away")
            raise
        except EdgenodeError as error:
            raise refusal(error.problem, task=handle.task_id) from error

    def _is_call(self, offer: Offer, wishes: Wishes) -> bool:
        if wishes.mode:
            return wishes.mode == "call"
        return ONLINE_ONLY_TAG in offer.skill.tags and "idempotency_key" not in wishes.options

    async def _call(
        self,
        offer: Offer,
        data: Payload,
        request: Request,
        wishes: Wishes,
        make: Callable[[Offer, task_pb2.Task], Json],
    ) -> Json:
        options = wishes.for_call()
        if not offer.local:
            options.setdefault("scope", Scope.FLEET)
        timeout = wishes.timeout or self._timeout
        teller = Teller(request)
        task = task_pb2.Task(state=task_pb2.TASK_STATE_COMPLETED)
        try:
            output = await self._read_along(offer, data, timeout, options, teller) if teller.hears else None
            if output is None:
                output = await self.client.call(offer.skill.id, data, timeout=timeout, type=Payload, **options)
            task.output.data, task.output.content_type = output
        except EdgenodeError as error:
            if error.reason not in OF_THE_CALLED:
                raise
            task.state = task_pb2.TASK_STATE_FAILED
            task.problem.CopyFrom(problem_to_pb(error.problem))
        return make(offer, task)

    async def _read_along(
        self, offer: Offer, data: Payload, timeout: float, options: SpecOptions, teller: Teller
    ) -> Payload | None:
        """A call's result, of which the client heard each piece. None where too many are read along: nothing was begun."""
        whole = Pieces(offer.skill)
        given = self.client.stream(offer.skill.id, data, timeout=timeout, type=Payload, **options)
        try:
            async with aclosing(given):
                async for piece in given:
                    if isinstance(piece, Whole):
                        return piece
                    whole.add(piece)
                    await teller.piece(piece, whole.count)
        except ResourceExhausted as error:
            if error.reason != "STREAMS_FULL":
                raise
            return None
        return whole.joined()

    async def submit(
        self,
        offer: Offer,
        data: Payload,
        wishes: Wishes,
        params: types.InputResponseRequestParams,
        timeout: float | None = None,
    ) -> TaskHandle:
        """The request's task, durable; the one that an earlier round made, where `params` names it.

        `timeout`: seconds it may take unless `wishes` say otherwise.
        """
        if params.request_state:
            return self.client.task(_task_named(params.request_state))
        deadline = wishes.timeout or timeout or self._timeout
        return await self.client.submit(offer.skill.id, data, deadline=deadline, **self.options(offer, wishes))

    def options(self, offer: Offer, wishes: Wishes) -> SpecOptions:
        """How the task is to run."""
        options = wishes.options.copy()
        if not offer.local:
            options.setdefault("scope", Scope.FLEET)
        repeatable = offer.skill.annotations.idempotent_hint or offer.skill.annotations.read_only_hint
        if not repeatable and not options.get("idempotency_key"):
            options.setdefault("retry", ONCE)
            options.setdefault("on_lost", OnLost.FAIL if offer.local else OnLost.WAIT)
        return options

    async def answer(
        self,
        offer: Offer,
        handle: TaskHandle,
        request: Request,
        params: types.InputResponseRequestParams,
        make: Callable[[Offer, task_pb2.Task], Json],
    ) -> Json:
        """The result of the request's task by `make`, or what it asks. Raises MCPError and what the node refuses."""
        responses = params.input_responses
        teller = Teller(request)
        quick = not params.request_state and not teller.wanted
        while True:
            task = await self.follow(handle, teller, quick=quick)
            quick = False
            if TaskState(task.state).terminal:
                return make(offer, task)
            question = Question(task.task_id, task.input_request)
            if responses is not None:
                answer = self._read(question, _plain(responses), task.task_id, keep=bool(params.request_state))
                responses = None
                if answer is not MISSING:
                    await self.answer_question(task.task_id, question, answer)
                    continue
            self._check_can_answer(request, question, task.task_id)
            if request.protocol_version in MODERN_PROTOCOL_VERSIONS:
                return {
                    "resultType": "input_required",
                    "inputRequests": question.requests,
                    "requestState": task.task_id,
                }
            answer = self._read(question, await self._ask(request, question), task.task_id, keep=False)
            await self.answer_question(task.task_id, question, answer)

    def _read(self, question: Question, responses: Json, task_id: str, *, keep: bool) -> Any:
        """The answer. A task that was asked for with a wrong one ends, unless its client can come again with a better one."""
        try:
            return question.answer(responses)
        except InvalidArgument:
            if not keep:
                self.cancel_later(task_id, "its caller's answer does not fit")
            raise

    async def answer_question(self, task_id: str, question: Question, answer: Any) -> None:
        """Gives the agent its answer; one that was given before by another request counts."""
        try:
            await self.client.provide_input(task_id, question.key, answer)
        except FailedPrecondition as error:
            if error.reason != "NO_INPUT_REQUESTED":
                raise

    def _check_can_answer(self, request: Request, question: Question, task_id: str) -> None:
        """Nobody knows of the task but this client, so what it cannot answer ends."""
        needed = question.needs()
        if request.session.check_client_capability(needed):
            return
        self.cancel_later(task_id, "its caller cannot be asked")
        raise MCPError(
            types.MISSING_REQUIRED_CLIENT_CAPABILITY,
            "the tool asks something that this client cannot answer",
            {"requiredCapabilities": needed.model_dump(mode="json", by_alias=True, exclude_none=True)},
        )

    async def _ask(self, request: Request, question: Question) -> Json:
        responses = {}
        metadata = ServerMessageMetadata(related_request_id=request.request_id)
        for key, asked in question.requests.items():
            made: Any = Message(asked["method"], asked["params"])
            answered = await request.session.send_request(made, _Any, metadata=metadata)
            responses[key] = answered.root
        return responses

    async def follow(self, handle: TaskHandle, teller: Teller, *, quick: bool) -> task_pb2.Task:
        """The task once it has ended or asks something. `quick`: its end may come before a look at its steps is worth it."""
        if quick:
            try:
                return task_of(await handle.ending(QUICK), handle.task_id)
            except DeadlineExceeded as error:
                if error.reason != "WAIT_OVER":
                    raise
        async for update in self.client.watch_task(handle.task_id, teller.seen):
            await teller(update)
            if update.state.terminal or update.state in ASKING:
                task = update.task or await self.client.get_task(handle.task_id)
                state = TaskState(task.state)
                if state.terminal or (state in ASKING and task.HasField("input_request")):
                    return task
        return await self.client.get_task(handle.task_id)

    def cancel_later(self, task_id: str, why: str) -> None:
        """Cancels a task; the request that does so ends meanwhile."""

        async def cancel() -> None:
            try:
                await self.client.cancel_task(task_id, why)
            except EdgenodeError as error:
                _log.warning("task %s goes on: %s", task_id, error)

        self._spawn(cancel())

    def _spawn(self, work: Coroutine[Any, Any, None]) -> None:
        task = asyncio.create_task(work)
        self._cancels.add(task)
        task.add_done_callback(self._cancels.discard)

    async def settle(self, timeout: float) -> None:
        """Waits until what was to be cancelled is."""
        if self._cancels:
            await asyncio.wait(self._cancels, timeout=timeout)


class Teller:
    """Progress of a task to the client that asked for it: a fraction or a piece of the result as progress, a mere message as
    an entry of the log. Progress has to grow, so once there are pieces they are what is counted.
    """

    def __init__(self, request: Request) -> None:
        self._request = request
        self._token = (request.meta or {}).get("progress_token")
        self._logs = wants_logs(request)
        self._last = -1.0
        self.seen = 0
        """Sequence of the last change told."""

    @property
    def hears(self) -> bool:
        """Whether the client takes progress."""
        return self._token is not None

    @property
    def wanted(self) -> bool:
        """Whether the client wants to hear anything before the end."""
        return self.hears or self._logs

    async def __call__(self, update: TaskUpdate) -> None:
        """Tells one change."""
        self.seen = max(self.seen, update.sequence)
        for piece in update.pieces if self.hears else ():
            if not piece.last:
                await self.piece(Payload(piece.data, piece.content_type), piece.index, update.attempt)
        if update.fraction is not None:
            if self._token is not None and update.fraction > self._last:
                self._last = update.fraction
                progress = types.ProgressNotificationParams(
                    progress_token=self._token, progress=update.fraction, total=1.0, message=update.message or None
                )
                await self._notify(types.ProgressNotification(params=progress))
        elif update.message and self._logs:
            entry = types.LoggingMessageNotificationParams(
                level="info", data=update.message, logger=update.agent or None
            )
            await self._notify(types.LoggingMessageNotification(params=entry))

    async def piece(self, piece: Payload, index: int, attempt: int = 1) -> None:
        """Tells one piece of the result, number `index` of the attempt's."""
        if self._token is None:
            return
        self._last = max(self._last + 1.0, 1.0)
        message, meta = told(piece, index, attempt)
        await self._notify(
            types.ProgressNotification(
                params=types.ProgressNotificationParams(
                    progress_token=self._token, progress=self._last, message=message, _meta=meta
                )
            )
        )

    async def _notify(self, notification: types.ServerNotification) -> None:
        await self._request.session.send_notification(notification, related_request_id=self._request.request_id)


def _task_named(state: str) -> str:
    if not state.isalnum() or len(state) > 64:
        raise InvalidArgument(
            "BAD_STATE", "the request state names no task", hint="give the state of the answer before"
        )
    return state


def _plain(responses: Any) -> Json:
    return {
        key: response.model_dump(mode="json", by_alias=True, exclude_none=True)
        if hasattr(response, "model_dump")
        else response
        for key, response in responses.items()
    }


def task_of(ended: Any, task_id: str) -> task_pb2.Task:
    """An ending as a task."""
    if isinstance(ended, task_pb2.Task):
        return ended
    task = task_pb2.Task(task_id=task_id, state=ended.state)
    if ended.HasField("output"):
        task.output.CopyFrom(ended.output)
    if ended.HasField("problem"):
        task.problem.CopyFrom(ended.problem)
    return task
