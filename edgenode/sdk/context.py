"""What a running skill knows of its task and can do for it."""

from __future__ import annotations

import asyncio
import os
from collections.abc import AsyncGenerator, Callable, Coroutine, Iterable
from datetime import UTC
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar, overload

from edgenode.api.task.v1 import task_pb2, task_service_pb2
from edgenode.link.errors import Cancelled, DeadlineExceeded, InvalidArgument
from edgenode.link.model.blob import BlobRef
from edgenode.link.wire.values import timestamp_from_pb
from edgenode.sdk.encoding import decode
from edgenode.sdk.schema import schema_text

if TYPE_CHECKING:
    from edgenode.sdk.blobs import Source
    from edgenode.sdk.client import Client
    from edgenode.sdk.handle import TaskHandle
    from edgenode.sdk.publisher import Receipt

MAX_PROGRESS_MESSAGE = 1024

Value = TypeVar("Value")
_Question = tuple[asyncio.Future[task_pb2.TaskOutput], task_service_pb2.AttemptUpdate]


class Context:
    """One attempt at one task. A skill gets it as its first parameter if that is named `ctx` or annotated so.

    Sync skills run in a thread: `progress` and `cancelled` work there as they are, coroutines through `wait`.
    """

    __slots__ = (
        "_assignment",
        "_client",
        "_loop",
        "_questions",
        "_tell",
        "_waits",
        "agent",
        "artifacts",
        "cancelled",
        "expires",
    )

    def __init__(
        self,
        assignment: task_service_pb2.Assignment,
        agent: str,
        client: Client,
        expires: float,
        tell: Callable[[task_service_pb2.AttemptUpdate], None],
    ) -> None:
        self._assignment = assignment
        self._client = client
        self._loop = asyncio.get_running_loop()
        self._tell = tell
        self._questions = 0
        self._waits: dict[str, _Question] | None = None
        self.artifacts: list[BlobRef] | tuple[()] = ()  # that go with the result
        self.agent = agent
        self.expires = expires  # loop time at which this attempt is over
        self.cancelled = False
        """True once the attempt was cancelled or timed out; long sync skills should look at it."""

    @property
    def task_id(self) -> str:
        """The task."""
        return self._assignment.key.task_id

    @property
    def attempt(self) -> int:
        """Number of this attempt, from 1."""
        return self._assignment.key.attempt_number

    @property
    def spec(self) -> task_pb2.TaskSpec:
        """All that the submitter said."""
        return self._assignment.spec

    @property
    def deadline(self) -> float | None:
        """The task's deadline, wall-clock seconds; None if it has none."""
        spec = self._assignment.spec
        return timestamp_from_pb(spec.deadline_time) if spec.HasField("deadline_time") else None

    @property
    def time_left(self) -> float:
        """Seconds until this attempt is over."""
        return max(0.0, self.expires - self._loop.time())

    def progress(self, fraction: float | None = None, message: str = "") -> None:
        """Says how far the work has come: `fraction` 0 to 1. Only the newest counts; callable from any thread."""
        if fraction is not None and not 0.0 <= fraction <= 1.0:
            raise InvalidArgument("BAD_PROGRESS", f"the fraction is {fraction}", hint="expected 0 to 1")
        update = task_service_pb2.AttemptUpdate(key=self._assignment.key)
        update.progress.message = message[:MAX_PROGRESS_MESSAGE]
        if fraction is not None:
            update.progress.fraction = fraction
        self._loop.call_soon_threadsafe(self._tell, update)

    async def input(
        self,
        prompt: str,
        type: Any = Any,
        *,
        key: str = "",
        schema: str = "",
        authorization: bool = False,
    ) -> Any:
        """Asks the submitter and waits for the answer, decoded as `type`; the task is INPUT_REQUIRED meanwhile.

        An answer given to an earlier attempt under the same `key` is returned at once. By default keys are numbered in the
        order of the questions. `schema`: JSON Schema of the answer, by default that of `type`.
        """
        self._questions += 1
        key = key or f"input-{self._questions}"
        if key in self._assignment.answers:
            answer = self._assignment.answers[key]
        else:
            answer = await self._ask(prompt, type, key, schema, authorization)
        return decode(answer.data, answer.content_type, type)

    async def _ask(self, prompt: str, type: Any, key: str, schema: str, authorization: bool) -> task_pb2.TaskOutput:
        if not schema and type is not Any:
            schema = schema_text(type)
        update = task_service_pb2.AttemptUpdate(key=self._assignment.key)
        update.input_request.key = key
        update.input_request.prompt = prompt
        update.input_request.schema = schema
        update.input_request.authorization = authorization
        if self._waits is None:
            self._waits = {}
        if key in self._waits:
            raise InvalidArgument("QUESTION_ASKED", f"question {key} was asked already", hint="choose another key")
        future: asyncio.Future[task_pb2.TaskOutput] = self._loop.create_future()
        self._waits[key] = future, update
        self._tell(update)
        return await future

    def answered(self, key: str, answer: task_pb2.TaskOutput) -> None:
        """The submitter answered; called by the worker."""
        wait = self._waits.get(key) if self._waits else None
        if wait is not None and not wait[0].done():
            wait[0].set_result(answer)

    def open_questions(self) -> list[task_service_pb2.AttemptUpdate]:
        """The questions without an answer, to be asked again on a new stream; called by the worker."""
        return [update for future, update in (self._waits or {}).values() if not future.done()]

    async def call(self, skill: str, input: object = None, *, timeout: float | None = None, **options: Any) -> Any:
        """Like Client.call, within this attempt's time and as part of this task; see `submit` for what is inherited."""
        left = self._left()
        return await self._client.call(
            skill, input, timeout=left if timeout is None else min(timeout, left), **self._inherit(options)
        )

    def stream(
        self, skill: str, input: object = None, *, timeout: float | None = None, **options: Any
    ) -> AsyncGenerator[Any, None]:
        """Like Client.stream, within this attempt's time and as part of this task, as `call`."""
        left = self._left()
        return self._client.stream(
            skill, input, timeout=left if timeout is None else min(timeout, left), **self._inherit(options)
        )

    async def submit(self, skill: str, input: object = None, **options: Any) -> TaskHandle:
        """Like Client.submit, as part of this task: its deadline, priority, cost limit, trace, context and tenant hold for the
        new one unless it has its own.
        """
        deadline = self.deadline
        if deadline is not None and options.get("deadline") is None:
            spec = self._assignment.spec
            options["deadline"] = spec.deadline_time.ToDatetime(tzinfo=UTC)
        return await self._client.submit(skill, input, **self._inherit(options))

    async def publish(self, topic: str, payload: object, **options: Any) -> Receipt:
        """Like Client.publish, with this task's trace."""
        options.setdefault("traceparent", self._assignment.spec.traceparent)
        return await self._client.publish(topic, payload, **options)

    async def publish_many(self, topic: str, payloads: Iterable[object], **options: Any) -> list[Receipt]:
        """Like Client.publish_many, with this task's trace."""
        options.setdefault("traceparent", self._assignment.spec.traceparent)
        return await self._client.publish_many(topic, payloads, **options)

    async def artifact(self, name: str, source: Source, media_type: str = "") -> BlobRef:
        """Puts content (see Client.put) that belongs to the task's result, whatever that itself is; its reference.

        Whoever submitted the task finds it in TaskHandle.artifacts. It counts once the attempt completes.
        """
        ref = await self._client.put(source, name=name, media_type=media_type)
        self.artifacts = [*self.artifacts, ref]
        return ref

    @overload
    async def fetch(self, ref: BlobRef, to: None = None) -> bytes: ...
    @overload
    async def fetch(self, ref: BlobRef, to: str | os.PathLike[str]) -> Path: ...
    async def fetch(self, ref: BlobRef, to: str | os.PathLike[str] | None = None) -> bytes | Path:
        """Like Client.fetch, within this attempt's time."""
        async with asyncio.timeout(self._left()):
            return await (self._client.fetch(ref) if to is None else self._client.fetch(ref, to))

    def wait(self, coroutine: Coroutine[Any, Any, Value]) -> Value:
        """From a sync skill's thread: runs one of the coroutines above and returns its result."""
        future = asyncio.run_coroutine_threadsafe(coroutine, self._loop)
        return future.result()

    def _left(self) -> float:
        if self.cancelled:
            raise Cancelled("CANCELED", "this attempt was cancelled")
        left = self.expires - self._loop.time()
        if left <= 0:
            raise DeadlineExceeded("DEADLINE_EXCEEDED", "this attempt's time is over")
        return left

    def _inherit(self, options: Any) -> Any:
        spec = self._assignment.spec
        options.setdefault("parent", self._assignment.key.task_id)
        for option, value in (
            ("traceparent", spec.traceparent),
            ("tracestate", spec.tracestate),
            ("context_id", spec.context_id),
            ("tenant", spec.tenant),
        ):
            if value:
                options.setdefault(option, value)
        if spec.HasField("priority"):
            options.setdefault("priority", spec.priority)
        if spec.HasField("cost_limit"):
            options.setdefault("cost_limit", spec.cost_limit)
        return options
