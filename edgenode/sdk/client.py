"""A program's end of a node: submit, call, publish, subscribe, find.

One channel, one SubmitTasks stream and one Publish stream serve all of a client's users. Awaiting one thing at a time is
simple; a thousand awaited together share frames. Everything ends: see `streams` for how.
"""

from __future__ import annotations

import asyncio
import os
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable, Iterable, Mapping, Sequence
from contextlib import aclosing
from datetime import datetime
from pathlib import Path
from typing import Any, TypeVar, Unpack, overload

import grpc

from edgenode.api.message.v1 import message_service_pb2_grpc
from edgenode.api.receipt.v1 import receipt_pb2
from edgenode.api.registry.v1 import registry_pb2, registry_service_pb2, registry_service_pb2_grpc
from edgenode.api.task.v1 import task_pb2, task_service_pb2, task_service_pb2_grpc
from edgenode.link.errors import Cancelled, DeadlineExceeded, EdgenodeError, FailedPrecondition, InvalidArgument
from edgenode.link.model.blob import BlobRef
from edgenode.link.model.names import make_id
from edgenode.link.model.task import Level, Scope, TaskState
from edgenode.link.ports import Clock, Rng, SystemClock, system_rng
from edgenode.link.wire.values import duration_to_pb
from edgenode.sdk.blobs import BlobTransfer, Source
from edgenode.sdk.encoding import MAX_MESSAGE_BYTES, encode, encode_input, encode_runs
from edgenode.sdk.handle import TaskHandle, TaskUpdate, result_of
from edgenode.sdk.publisher import OVERHEAD, Group, Publisher, Receipt, message_run
from edgenode.sdk.rpc import ANSWER_TIMEOUT, Patience
from edgenode.sdk.skill import SkillClient
from edgenode.sdk.spec import SpecOptions, fill_spec, wall_deadline
from edgenode.sdk.streaming import read_call
from edgenode.sdk.streams import Conversation, Line, unreachable
from edgenode.sdk.submitter import Submitter
from edgenode.sdk.subscription import Gap, Subscription
from edgenode.sdk.target import open_local_channel, resolve_target
from edgenode.sdk.watching import stream_call, watch, watch_agents

CONNECT_TIMEOUT = 10.0
SILENCE_TIMEOUT = 30.0
MOST_AGENTS = 10_000
MOST_A_PAGE = 1000
_LOCAL = Level.DURABLE_LOCAL

Answer = TypeVar("Answer")


class Client:
    """A connection to the node of this machine. Use it with `async with`, share it freely within one event loop.

    Where the node is: `state` directory, `socket` path or `target`; by default EDGENODE_SOCKET, EDGENODE_STATE or
    ~/.edgenode. `connect_timeout`: seconds after which waiting for an unreachable node ends with UNREACHABLE.
    Payloads: `bytes` go as they are, anything else as JSON. Errors: classes of edgenode.link.errors.
    """

    def __init__(
        self,
        *,
        state: str | os.PathLike[str] | None = None,
        socket: str | os.PathLike[str] | None = None,
        target: str | None = None,
        connect_timeout: float = CONNECT_TIMEOUT,
        clock: Clock | None = None,
        rng: Rng | None = None,
    ) -> None:
        self.target = resolve_target(state=state, socket=socket, target=target)
        self._connect_timeout = connect_timeout
        self._clock = clock or SystemClock()
        self._rng = rng or system_rng()
        self._patience = Patience(connect_timeout, self._clock, self._rng)
        self._channel: grpc.aio.Channel | None = None
        self._request_prefix = self.new_id()
        self._request_count = 0
        self._subscriptions: set[Subscription] = set()

    async def __aenter__(self) -> Client:
        if self._channel is not None:
            raise FailedPrecondition("CLIENT_OPEN", "this client is open already", hint="make another one")
        self._channel = channel = open_local_channel(self.target)
        self._tasks = task_service_pb2_grpc.TaskServiceStub(channel)
        self._messages = message_service_pb2_grpc.MessageServiceStub(channel)
        self._registry = registry_service_pb2_grpc.RegistryServiceStub(channel)
        self._submitter = Submitter()
        self._publisher = Publisher(self.new_id)
        self._submit_line = self._line(self._submitter, self._tasks.SubmitTasks)
        self._publish_line = self._line(self._publisher, self._messages.Publish)
        self._publisher.restart = self._publish_line.restart
        return self

    async def __aexit__(self, *_exception: object) -> None:
        await self.aclose()

    async def aclose(self) -> None:
        """Closes everything; what still waits ends with Cancelled (CLIENT_CLOSED). Safe to repeat."""
        channel, self._channel = self._channel, None
        if channel is None:
            return
        try:
            await asyncio.gather(
                self._submit_line.aclose(),
                self._publish_line.aclose(),
                *(subscription.aclose() for subscription in list(self._subscriptions)),
            )
        finally:
            closed = Cancelled("CLIENT_CLOSED", "the client was closed")
            self._submitter.close(closed)
            self._publisher.failed(closed)
            await channel.close()

    @property
    def channel(self) -> grpc.aio.Channel:
        """The open channel, for stubs of one's own. Raises FailedPrecondition (CLIENT_CLOSED)."""
        if self._channel is None:
            raise _not_open()
        return self._channel

    def new_id(self) -> str:
        """A fresh id: request, producer or instance."""
        return make_id(self._clock.wall(), self._rng.getrandbits(80))

    def _request_id(self) -> str:
        """A fresh request id, cheaper than `new_id`."""
        self._request_count += 1
        return f"{self._request_prefix}-{self._request_count}"

    def wall_milliseconds(self) -> int:
        """Wall clock in milliseconds."""
        return int(self._clock.wall() * 1000)

    def _line(self, conversation: Any, method: Callable[[], Any], connect_timeout: float | None = None) -> Line:
        async def open_call() -> Any:
            return method()

        line = self.line(conversation, open_call, connect_timeout)
        conversation.wake = line.wake
        line.start()
        return line

    def line(
        self,
        conversation: Conversation[Any, Any],
        open_call: Callable[[], Awaitable[Any]],
        connect_timeout: float | None = None,
    ) -> Line:
        """A line of one's own on this client's clocks and bounds; the caller starts and closes it."""
        return Line(
            conversation,
            open_call,
            connect_timeout=self._connect_timeout if connect_timeout is None else connect_timeout,
            silence_timeout=SILENCE_TIMEOUT,
            rng=self._rng,
        )

    # --- tasks ---

    async def call(
        self,
        skill: str,
        input: object = None,
        *,
        timeout: float = 30.0,
        type: Any = Any,
        content_type: str = "",
        **options: Unpack[SpecOptions],
    ) -> Any:
        """Runs a skill now, unstored, and returns its result decoded as `type`.

        Raises NotFound (UNKNOWN_SKILL), Unavailable (NO_AGENT, AGENT_LOST, NODE_LOST, UNREACHABLE), DeadlineExceeded after
        `timeout` seconds, or the agent's own problem.
        """
        data, content_type = encode_input(input, content_type)
        deadline = self._clock.wall() + timeout
        submitter = self._submitter
        if self._channel is None:
            raise _not_open()
        if not submitter.window.take(size := submitter.size_of(data)):
            timeout -= await self._wait_for_room(size, timeout)
        entry = submitter.call(skill, data, content_type, deadline, timeout, options)  # type: ignore[arg-type]
        try:
            outcome = await entry.wait()
        except asyncio.CancelledError:
            submitter.forget(entry)
            raise
        if isinstance(outcome, EdgenodeError):
            raise outcome
        return result_of(outcome, outcome.task_id, type)

    async def stream(
        self,
        skill: str,
        input: object = None,
        *,
        timeout: float = 30.0,
        type: Any = Any,
        content_type: str = "",
        **options: Unpack[SpecOptions],
    ) -> AsyncGenerator[Any, None]:
        """Runs a skill now, unstored, and gives what it yields while it runs, each piece decoded as `type`; of a skill that
        yields nothing, its result. The skill waits for whoever reads: a connection holds 4 MiB at most, and 64 KiB are on
        their way to it. Who stops reading before the end ends the skill; `contextlib.aclosing` does so at once.

        Raises what `call` does, within `timeout` seconds for all of it, behind the pieces that came before; also
        ResourceExhausted (STREAMS_FULL), Unavailable (STREAM_INTERRUPTED).
        """
        data, content_type = encode_input(input, content_type)
        request = task_service_pb2.StreamCallRequest()
        began = self._clock.monotonic()
        fill_spec(request.spec, skill, data, content_type, self._clock.wall() + timeout, **options)
        await self._connected(min(self._connect_timeout, timeout))
        left = max(timeout - (self._clock.monotonic() - began), 0.0)
        responses = stream_call(self._tasks.StreamCall, request, left)
        async with aclosing(responses), aclosing(read_call(responses, type)) as values:
            async for value in values:
                yield value

    async def _connected(self, timeout: float) -> None:
        """Waits for the node. Raises Unavailable (UNREACHABLE) after `timeout` seconds."""
        try:
            async with asyncio.timeout(timeout):
                await self.channel.channel_ready()
        except TimeoutError:
            raise unreachable(timeout, None) from None

    def skill(
        self, skill: str, *, type: Any = Any, timeout: float = 30.0, **options: Unpack[SpecOptions]
    ) -> SkillClient:
        """A skill as a function that takes what its card says; see `edgenode.sdk.skill`. Options hold for each use."""
        return SkillClient(self, skill, type, timeout, options)

    async def _wait_for_room(self, size: int, timeout: float) -> float:
        """Waits for the submission window; returns the seconds it took."""
        began = self._clock.monotonic()
        try:
            async with asyncio.timeout(timeout):
                await self._submitter.window.wait(size)
        except TimeoutError:
            raise DeadlineExceeded("DEADLINE_EXCEEDED", f"too much in flight for {timeout:g} s") from None
        return self._clock.monotonic() - began

    async def submit(
        self,
        skill: str,
        input: object = None,
        *,
        wait_level: Level = Level.DURABLE_LOCAL,
        wait: float = 30.0,
        deadline: float | datetime | None = None,
        content_type: str = "",
        request_id: str = "",
        **options: Unpack[SpecOptions],
    ) -> TaskHandle:
        """Stores a task; returns when it is durable on the node, or has reached `wait_level` or `wait` seconds are over.

        `deadline`: seconds from now or an aware datetime. The handle's `level` is what was reached.
        Raises InvalidArgument, AlreadyExists (IDEMPOTENCY_CONFLICT), ResourceExhausted, Unavailable (UNREACHABLE).
        """
        data, content_type = encode_input(input, content_type)
        due = wall_deadline(deadline, self._clock.wall())
        if wait_level > Level.DURABLE_LOCAL:
            spec = task_pb2.TaskSpec()
            fill_spec(spec, skill, data, content_type, due, **options)
            return await self._submit_and_wait(spec, wait_level, wait, request_id)
        submitter = self._submitter
        if self._channel is None:
            raise _not_open()
        if not submitter.window.take(size := submitter.size_of(data)):
            await submitter.window.wait(size)
        entry = submitter.submit(skill, data, content_type, due, request_id or self._request_id(), options)  # type: ignore[arg-type]
        assert entry.receipt is not None
        try:
            await entry.receipt
        except asyncio.CancelledError:
            entry.abandoned = True
            raise
        handle = TaskHandle(self, entry.task_id, entry.level, entry)
        submitter.follow(entry, handle)
        return handle

    async def _submit_and_wait(
        self, spec: task_pb2.TaskSpec, wait_level: Level, wait: float, request_id: str
    ) -> TaskHandle:
        request = task_service_pb2.SubmitTaskRequest(
            request_id=request_id or self._request_id(),
            spec=spec,
            wait_level=receipt_pb2.ReceiptLevel.Name(int(wait_level)),
            wait_duration=duration_to_pb(wait),
        )
        answer = await self.unary(self._tasks.SubmitTask, request, ANSWER_TIMEOUT + wait)
        return TaskHandle(self, answer.task.task_id, Level(answer.receipt.level))

    def task(self, task_id: str) -> TaskHandle:
        """A handle for a task submitted elsewhere."""
        return TaskHandle(self, task_id, Level.ACCEPTED)

    async def get_task(self, task_id: str) -> task_pb2.Task:
        """A task as the node knows it. Raises NotFound (UNKNOWN_TASK)."""
        answer: task_service_pb2.GetTaskResponse = await self.unary(
            self._tasks.GetTask, task_service_pb2.GetTaskRequest(task_id=task_id)
        )
        return answer.task

    async def list_tasks(
        self,
        *,
        states: Sequence[TaskState] = (),
        skill: str = "",
        context_id: str = "",
        limit: int = 100,
    ) -> list[task_pb2.Task]:
        """The newest tasks first, at most `limit`, without inputs and outputs."""
        request = task_service_pb2.ListTasksRequest(states=states, skill=skill, context_id=context_id)  # type: ignore[arg-type]
        return await self._patience.pages(self._tasks.ListTasks, request, lambda page: page.tasks, limit)

    def watch_task(self, task_id: str, after: int = 0) -> AsyncGenerator[TaskUpdate, None]:
        """A task's changes after sequence `after` until it ends; a broken watch resumes by itself.

        Iterating raises NotFound (UNKNOWN_TASK), Unavailable (UNREACHABLE).
        """
        stub = task_service_pb2_grpc.TaskServiceStub(self.channel)
        return watch(stub, self._patience, task_id, after)

    async def cancel_task(self, task_id: str, reason: str = "") -> task_pb2.Task:
        """Asks for a task to end. Raises NotFound (UNKNOWN_TASK)."""
        request = task_service_pb2.CancelTaskRequest(request_id=self._request_id(), task_id=task_id, reason=reason)
        answer: task_service_pb2.CancelTaskResponse = await self.unary(self._tasks.CancelTask, request)
        return answer.task

    async def provide_input(self, task_id: str, key: str, answer: object, *, content_type: str = "") -> task_pb2.Task:
        """Answers an agent's question. Raises FailedPrecondition (NO_INPUT_REQUESTED)."""
        data, content_type = encode(answer, content_type)
        request = task_service_pb2.ProvideTaskInputRequest(request_id=self._request_id(), task_id=task_id, key=key)
        request.answer.data = data
        request.answer.content_type = content_type
        response: task_service_pb2.ProvideTaskInputResponse = await self.unary(self._tasks.ProvideTaskInput, request)
        return response.task

    async def replay_task(self, task_id: str) -> TaskHandle:
        """Submits a finished task's spec again. Raises FailedPrecondition (NOT_TERMINAL)."""
        request = task_service_pb2.ReplayTaskRequest(request_id=self._request_id(), task_id=task_id)
        task = (await self.unary(self._tasks.ReplayTask, request)).task
        return TaskHandle(self, task.task_id, Level(task.level or Level.DURABLE_LOCAL))

    # --- content too large for a payload ---

    async def put(self, source: Source, *, name: str = "", media_type: str = "") -> BlobRef:
        """Stores content with the node; returns what to refer to it by once it is durable there.

        `source`: bytes, the path of a file, an open binary file, or an async iterable of bytes. Bytes and paths go on where
        they were if the node goes away for a moment. Raises ResourceExhausted (BLOB_TOO_LARGE, STORE_FULL), OSError, and
        Unavailable (UNREACHABLE).
        """
        return await self._blobs().put(source, media_type, name)

    @overload
    async def fetch(self, ref: BlobRef, to: None = None, *, timeout: float | None = None) -> bytes: ...
    @overload
    async def fetch(self, ref: BlobRef, to: str | os.PathLike[str], *, timeout: float | None = None) -> Path: ...
    async def fetch(
        self, ref: BlobRef, to: str | os.PathLike[str] | None = None, *, timeout: float | None = None
    ) -> bytes | Path:
        """Content by its reference: in memory, or as the file `to` (or one in that directory), whose path is returned.

        What is on its way from another node is waited for. Raises DeadlineExceeded (WAIT_OVER) after `timeout` seconds,
        NotFound (BLOB_UNKNOWN), Unavailable (BLOB_ELSEWHERE, UNREACHABLE), ResourceExhausted (STORE_FULL, BLOB_SHARE_FULL:
        a node on its way has no room), DataLoss (BLOB_DAMAGED), OSError.
        """
        transfer = self._blobs()
        try:
            async with asyncio.timeout(timeout):
                return await (transfer.fetch(ref) if to is None else transfer.fetch_to(ref, Path(to)))
        except TimeoutError:
            raise DeadlineExceeded(
                "WAIT_OVER",
                f"{ref.digest} did not come within {timeout:g} s",
                hint="it may be on its way from another node: ask again",
            ) from None

    def read(self, ref: BlobRef) -> AsyncIterator[bytes]:
        """Content by its reference, piece by piece as it comes; nobody has compared it with its digest then."""
        return self._blobs().read(ref)

    def _blobs(self) -> BlobTransfer:
        return BlobTransfer(self.channel, self._patience)

    # --- messages ---

    async def publish(
        self,
        topic: str,
        payload: object,
        *,
        key: str = "",
        headers: Mapping[str, str] | None = None,
        level: Level = Level.DURABLE_LOCAL,
        wait: float = 30.0,
        content_type: str = "",
        traceparent: str = "",
    ) -> Receipt:
        """Publishes a message; returns when it is durable on the node.

        With DURABLE_HUB it waits up to `wait` seconds for the hub as well; the receipt's level says what was reached.
        Raises InvalidArgument, ResourceExhausted (MESSAGE_TOO_LARGE, STORE_FULL), Unavailable (UNREACHABLE).
        """
        if level > _LOCAL:
            receipts = await self.publish_many(
                topic,
                [payload],
                key=key,
                headers=headers,
                level=level,
                wait=wait,
                content_type=content_type,
                traceparent=traceparent,
            )
            return receipts[0]
        data, content_type = encode(payload, content_type)
        if not isinstance(key, str):
            raise _no_text(key)
        if self._channel is None:
            raise _not_open()
        publisher = self._publisher
        if len(data) > MAX_MESSAGE_BYTES:
            raise publisher.too_large(len(data))
        size = len(data) + OVERHEAD
        if not publisher.window.take(size):
            await publisher.window.wait(size)
        future: asyncio.Future[Receipt] = publisher.new_future()
        try:
            publisher.publish(future, topic, key, data, content_type, headers, traceparent)
        except InvalidArgument:
            publisher.window.give(1, size)
            raise
        return await future

    async def publish_many(
        self,
        topic: str,
        payloads: Iterable[object],
        *,
        key: str = "",
        headers: Mapping[str, str] | None = None,
        level: Level = Level.DURABLE_LOCAL,
        wait: float = 30.0,
        content_type: str = "",
        traceparent: str = "",
    ) -> list[Receipt]:
        """Publishes messages with all but their payload in common, in order; returns when all are durable on the node.

        It gives what as many `publish` give, for a fraction of the work. Raises as `publish` does: nothing was sent if a
        payload cannot be; of what the node refuses, the first error, once all that it took is durable.
        """
        runs = encode_runs(payloads, content_type)
        if not isinstance(key, str):
            raise _no_text(key)
        if self._channel is None:
            raise _not_open()
        if not runs:
            return []
        publisher = self._publisher
        largest = max(max(map(len, run)) for _, run in runs)
        if largest > MAX_MESSAGE_BYTES:
            raise publisher.too_large(largest)
        writers = [message_run(topic, key, media_type, headers, traceparent) for media_type, _ in runs]
        group = Group(sum(len(run) for _, run in runs), hub=level > _LOCAL)
        first = 0
        for writer, (_, run) in zip(writers, runs, strict=True):
            await publisher.publish_run(group, first, writer, run)
            first += len(run)
        await (publisher.many(group, wait) if group.hub else group.settled())
        return group.receipts()

    def subscribe(
        self,
        topics: str | Sequence[str],
        name: str | None = None,
        position: str = "new",
        after: int | None = None,
        *,
        auto_ack: bool = True,
        on_gap: Callable[[Gap], None] | None = None,
    ) -> Subscription:
        """Messages of `topics` as an async iterator; use it with `async with` or close it.

        A `name` makes it durable: it resumes behind its last acknowledgement. `position` ("new", "start") or `after` (a
        sequence) says where an unknown one begins. Without `auto_ack`, acknowledge with `subscription.ack(message)`.
        """
        subscription = Subscription(
            (topics,) if isinstance(topics, str) else topics, name or "", position, after, auto_ack, on_gap
        )
        messages = message_service_pb2_grpc.MessageServiceStub(self.channel)
        line = self._line(subscription, messages.Subscribe)
        self._subscriptions.add(subscription)

        async def close_line() -> None:
            self._subscriptions.discard(subscription)
            await line.aclose()

        subscription.close_line = close_line
        return subscription

    # --- agents ---

    async def find(
        self,
        skill: str = "",
        *,
        selector: str = "",
        query: str = "",
        max_cost: float | None = None,
        max_staleness: float | None = None,
        scope: Scope = Scope.LOCAL,
        explain: bool = False,
        limit: int = 20,
    ) -> registry_service_pb2.FindAgentsResponse:
        """Agents fit for a job, best first, with reasons; with `explain` also who was left out and why."""
        request = registry_service_pb2.FindAgentsRequest(
            skill=skill, selector=selector, query=query, explain=explain, page_size=limit, max_cost=max_cost
        )
        request.scope = int(scope)  # type: ignore[assignment]
        if max_staleness is not None:
            request.max_staleness_duration.CopyFrom(duration_to_pb(max_staleness))
        return await self.unary(self._registry.FindAgents, request)

    async def agents(self, limit: int = MOST_AGENTS) -> list[registry_pb2.Agent]:
        """The node's agents by name, at most `limit`."""
        request = registry_service_pb2.ListAgentsRequest()
        return await self._patience.pages(self._registry.ListAgents, request, lambda page: page.agents, limit)

    async def fleet(self, known_state: str = "", limit: int = MOST_AGENTS) -> registry_service_pb2.ListAgentsResponse:
        """The agents of all other nodes, by name, also those out of reach; at most `limit`.

        `fleet_included` says whether the hub answered to the end. With `known_state`, the `state` of an earlier answer, none
        come as long as nothing changed (`unchanged`).
        """
        request = registry_service_pb2.ListAgentsRequest(
            scope=registry_service_pb2.SCOPE_FLEET, known_state=known_state
        )
        whole = registry_service_pb2.ListAgentsResponse()
        while True:
            request.page_size = min(limit - len(whole.agents), MOST_A_PAGE)
            page: registry_service_pb2.ListAgentsResponse = await self.unary(self._registry.ListAgents, request)
            if page.fleet_included:  # the first pages are of this node
                whole.agents.extend(page.agents)
                whole.state = (
                    whole.state or page.state
                )  # as the first has it: what changes meanwhile is asked for again
            whole.fleet_included, whole.unchanged = page.fleet_included, page.unchanged
            request.page_token = page.next_page_token
            if not page.next_page_token or len(whole.agents) >= limit:
                return whole

    def watch_agents(self) -> AsyncIterator[registry_service_pb2.WatchAgentsResponse]:
        """The node's agents: all of them (`snapshot`), then each change; all again after a broken stream.

        Iterating raises Unavailable (UNREACHABLE).
        """
        return watch_agents(registry_service_pb2_grpc.RegistryServiceStub(self.channel), self._patience, 0)

    async def unary(
        self, method: Callable[..., Awaitable[Answer]], request: Any, timeout: float = ANSWER_TIMEOUT
    ) -> Answer:
        """One rpc that may be repeated; tried again while the node is away, for at most `connect_timeout` seconds."""
        if self._channel is None:
            raise _not_open()
        return await self._patience.unary(method, request, timeout)


def _no_text(key: object) -> InvalidArgument:
    return InvalidArgument("BAD_MESSAGE", f"the key is {key!r:.80}", hint="a key is text; leave it out for none")


def _not_open() -> FailedPrecondition:
    return FailedPrecondition("CLIENT_CLOSED", "the client is not open", hint="async with Client() as client: ...")
