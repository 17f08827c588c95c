"""The working side of an agent: takes assignments from a WorkTasks stream, runs them, and sees to it that results arrive.

Theory of operation. Credits are slots: as many as the agent's concurrency, given back when a handler has really ended.
A result is kept until the node confirms that it is committed. When the stream breaks, handlers go on; the next stream
begins with `attach`, which names every attempt that still runs or whose result is unconfirmed. The node cancels those it
no longer waits for, and the rest of the results are sent again. A node that does not know the agent (UNKNOWN_AGENT, e.g.
a new store) gets it registered again with the same instance and incarnation. A newer instance ends this one (SUPERSEDED).

The node's caller is answered in any case: a handler that raises, times out or is cancelled is reported at that moment;
its slot stays taken for as long as it refuses to end, so a stuck handler costs the agent capacity, nobody an answer.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import Callable
from operator import attrgetter
from typing import TYPE_CHECKING, Any

import grpc

from edgenode.api.registry.v1 import registry_service_pb2, registry_service_pb2_grpc
from edgenode.api.task.v1 import task_pb2, task_service_pb2_grpc
from edgenode.api.task.v1 import task_service_pb2 as pb
from edgenode.link.errors import (
    Aborted,
    AlreadyExists,
    Cancelled,
    DeadlineExceeded,
    EdgenodeError,
    Internal,
    NotFound,
    ResourceExhausted,
    Unavailable,
    from_problem,
)
from edgenode.link.model.agent import Health
from edgenode.link.wire.blobs import ref_to_pb
from edgenode.link.wire.values import duration_to_pb, problem_to_pb
from edgenode.sdk.blobs import MARK, refs_in
from edgenode.sdk.context import Context
from edgenode.sdk.deadlines import Deadlines
from edgenode.sdk.encoding import MAX_PAYLOAD_BYTES, is_json
from edgenode.sdk.results import Results
from edgenode.sdk.streaming import PieceWriter
from edgenode.sdk.streams import Line
from edgenode.sdk.threads import in_thread

if TYPE_CHECKING:
    from edgenode.sdk.agent import Agent, Skill
    from edgenode.sdk.client import Client

_MAX_ERROR_TEXT = 1024
_MAX_REASON = 256  # characters of a health's reason
_DEFAULT_TIMEOUT = 300.0
_FLUSH_TIME = 2.0
_CLOCK_WENT_BACK = 86_400_000  # milliseconds that no two clocks of one device should be apart

_PROMPT = attrgetter("prompt")

Key = tuple[str, int, int]

_log = logging.getLogger(__name__)


class _Attempt:
    """An attempt that runs here."""

    __slots__ = (
        "context",
        "key",
        "pb_key",
        "piece_room",
        "pieces",
        "prompt",
        "reported",
        "skill",
        "stopping",
        "task",
        "timeout",
    )

    def __init__(
        self, key: Key, assignment: pb.Assignment, skill: Skill, timeout: float, context: Context | None
    ) -> None:
        self.key = key
        self.prompt = assignment.prompt
        self.pb_key = assignment.key
        self.piece_room = assignment.piece_room_bytes
        self.pieces: PieceWriter | None = None  # of a generator that runs
        self.context = context
        self.skill = skill
        self.timeout = timeout  # seconds
        self.reported = False
        self.stopping: EdgenodeError | None = None  # why the handler is being cancelled
        self.task: asyncio.Task[None] | None = None


class Worker:
    """One run of an agent on a node; also a conversation (see streams) for TaskService.WorkTasks."""

    def __init__(self, agent: Agent, client: Client, on_attached: Callable[[str], None] | None = None) -> None:
        self._agent = agent
        self._client = client
        self._on_attached = on_attached
        self._tasks = task_service_pb2_grpc.TaskServiceStub(client.channel)
        self._registry = registry_service_pb2_grpc.RegistryServiceStub(client.channel)
        self.instance_id = client.new_id()
        self.incarnation = client.wall_milliseconds()
        self._registered = False
        self._was_registered = False
        self._attached = False
        self._greeted = False
        self._draining = False
        self._leaving = False
        self._said_waiting = False
        self._credits = 0
        self._running: dict[Key, _Attempt] = {}
        self._unconfirmed: dict[Key, pb.AttemptResult] = {}
        self._results = Results()
        self._updates: dict[tuple[str, int, int, str], pb.AttemptUpdate] = {}
        self._loop = asyncio.get_running_loop()
        self._deadlines = Deadlines[Key, _Attempt](self._running, self._time_out)
        self._idle = asyncio.Event()
        self._idle.set()
        self._flushed = asyncio.Event()
        self._told = asyncio.Event()  # set whenever updates went out
        self._over: asyncio.Future[None] = self._loop.create_future()
        self._line: Line = client.line(self, self._open_call, connect_timeout=float("inf"))
        self._wake = self._line.wake

    async def run(self) -> None:
        """Works until `stop`, or until the node refuses this instance for good."""
        self._line.start()
        try:
            await self._over
        finally:
            for attempt in list(self._running.values()):
                self._cancel(attempt, Unavailable("AGENT_STOPPED", "the agent stopped"))
            self._leaving = True
            await self._line.aclose()
            self._deadlines.close()
            if self._running:
                await asyncio.wait([a.task for a in self._running.values() if a.task is not None], timeout=0.1)

    async def register_again(self) -> None:
        """The card changed. Raises what RegisterAgent refuses; a node out of reach is told when it is back."""
        self._registered = False
        if self._attached:
            await self._register()

    async def say(self, health: Health, reason: str) -> None:
        """See Agent.say. A node out of reach is not told."""
        if self._attached:
            request = registry_service_pb2.RenewLeaseRequest(
                agent=self._agent.name, instance_id=self.instance_id, health_reason=reason[:_MAX_REASON]
            )
            request.health = int(health)  # type: ignore[assignment]
            await self._quietly(self._registry.RenewLease, request)

    async def stop(self, grace: float, stay: str = "") -> None:
        """Drains: see Agent.stop, and Agent.detach for `stay`. Safe to repeat."""
        self._draining = True
        await self.say(Health.DEGRADED if stay else Health.DRAINING, stay or "the agent is stopping")
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(self._idle.wait(), grace)
        for attempt in list(self._running.values()):
            self._cancel(attempt, Unavailable("AGENT_STOPPED", "the agent stopped before the task was done"))
        await self._flush()
        attached, self._leaving = self._attached, True
        await self._line.aclose()
        if attached and not stay:
            request = registry_service_pb2.DeregisterAgentRequest(
                request_id=self._client.new_id(), agent=self._agent.name, instance_id=self.instance_id
            )
            await self._quietly(self._registry.DeregisterAgent, request)
        if not self._over.done():
            self._over.set_result(None)

    async def _flush(self) -> None:
        """Waits, not for long, until the node has confirmed every result."""
        self._wake()
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(_FLUSH_TIME):
                while self._attached and self._unconfirmed:
                    self._flushed.clear()
                    await self._flushed.wait()

    async def _quietly(self, method: Any, request: Any) -> None:
        """A rpc that helps but is not needed: the lease would run out by itself."""
        try:
            await method(request, timeout=_FLUSH_TIME)
        except grpc.aio.AioRpcError as error:
            _log.debug("while stopping: %s", error.details())

    async def _open_call(self) -> Any:
        if not self._registered:
            await self._register()
        return self._tasks.WorkTasks()

    async def _register(self) -> None:
        agent = self._agent
        request = registry_service_pb2.RegisterAgentRequest(
            request_id=self._client.new_id(),
            card=agent.card(),
            instance_id=self.instance_id,
            incarnation=self.incarnation,
            labels=agent.labels,
            capacity_count=agent.concurrency,
            cost=agent.cost,
            lease_duration=duration_to_pb(agent.lease),
        )
        try:
            await self._client.unary(self._registry.RegisterAgent, request)
        except (AlreadyExists, Aborted) as error:
            holder = int(error.problem.metadata.get("incarnation", "0"))
            if not self._was_registered and holder > self.incarnation + _CLOCK_WENT_BACK:
                # Nobody started so long after now: the clock went back since, and this is the newer one.
                self.incarnation = holder + 1
                return await self._register()
            if self._was_registered and isinstance(error, AlreadyExists):
                raise Aborted("SUPERSEDED", error.problem.message, hint="another instance took the name") from error
            raise
        self._registered = self._was_registered = True

    # --- the conversation ---

    def opened(self) -> None:
        """See Conversation."""
        self._greeted = self._attached = False
        self._updates.clear()

    def next_frame(self) -> pb.WorkTasksRequest | None:
        """See Conversation."""
        if not self._greeted:
            self._greeted = True
            keys = [attempt.pb_key for attempt in self._running.values() if not attempt.reported]
            keys += [result.key for result in self._unconfirmed.values()]
            attach = pb.WorkAttach(agent=self._agent.name, instance_id=self.instance_id, attempts=keys)
            return pb.WorkTasksRequest(attach=attach)
        if not self._attached or not (self._credits or self._results or self._updates):
            return None
        frame = self._results.next_frame()
        if self._credits and not self._draining:
            frame.credit_count = self._credits
        self._credits = 0
        if self._updates:
            frame.updates.extend(self._updates.values())
            self._updates.clear()
            self._told.set()
        return frame

    def received(self, frame: pb.WorkTasksResponse) -> None:
        """See Conversation."""
        if frame.HasField("attached"):
            self._on_attach(frame.attached.node)
        if assignments := frame.assignments:
            now = self._loop.time()
            for assignment in sorted(assignments, key=_PROMPT, reverse=True):
                self._begin(assignment, now)
        for confirmation in frame.confirmations:
            self._unconfirmed.pop(_key(confirmation), None)
        for refused in frame.result_problems:
            self._unconfirmed.pop(_key(refused.key), None)
            # FENCED is the usual end of an attempt that was cancelled or given to somebody else meanwhile.
            level = logging.DEBUG if refused.problem.reason == "FENCED" else logging.WARNING
            _log.log(level, "the node refused a result of task %s: %s", refused.key.task_id, refused.problem.reason)
        for cancelled in frame.cancels:
            key = _key(cancelled)
            self._unconfirmed.pop(key, None)
            if (attempt := self._running.get(key)) is not None:
                self._cancel(attempt, Cancelled("CANCELED", "the task was cancelled"))
        for allowance in frame.piece_allowances:
            if (attempt := self._running.get(_key(allowance.key))) is not None and attempt.pieces is not None:
                attempt.pieces.allow(allowance.room_bytes)
        for answer in frame.answers:
            if (attempt := self._running.get(_key(answer.key))) is not None and attempt.context is not None:
                attempt.context.answered(answer.input_key, answer.answer)
        if not self._unconfirmed:
            self._flushed.set()

    def _on_attach(self, node: str) -> None:
        self._attached = True
        self._credits = self._agent.concurrency - len(self._running)
        self._results.clear()
        for key, result in self._unconfirmed.items():
            again = self._unconfirmed[key] = self._results.add(len(result.output.data), prompt=False)
            again.CopyFrom(result)
        for attempt in self._running.values():
            for question in attempt.context.open_questions() if attempt.context is not None else ():
                self._tell(question)
        self._wake()
        if self._on_attached is not None:
            self._on_attached(node)

    def wanted(self) -> bool:
        """See Conversation."""
        return not self._leaving and not self._over.done()

    def owed(self) -> bool:
        """See Conversation: there may be no work for days."""
        return False

    def broken(self, error: EdgenodeError) -> None:
        """See Conversation."""
        if self._attached or not self._said_waiting:
            self._said_waiting = True
            what = "lost its node, trying to come back" if self._attached else "waits for its node"
            _log.warning("agent %s %s: %s", self._agent.name, what, error)
        self._attached = False
        self._flushed.set()

    def recovers(self, error: EdgenodeError) -> bool:
        """See Conversation."""
        if error.reason != "UNKNOWN_AGENT":
            return False
        self._registered = False
        return True

    def failed(self, error: EdgenodeError) -> None:
        """See Conversation."""
        self._attached = False
        if not self._over.done():
            self._over.set_exception(from_problem(error.problem))

    # --- attempts ---

    def _begin(self, assignment: pb.Assignment, now: float) -> None:
        """Starts an attempt at the loop's time `now`, or refuses it at once."""
        pb_key, spec = assignment.key, assignment.spec
        key = _key(pb_key)
        if key in self._running:
            return  # sent again on a new stream
        skill = self._agent.skills.get(spec.skill)
        try:
            if skill is None:
                raise NotFound("UNKNOWN_SKILL", f"agent {self._agent.name} has no skill {spec.skill}")
            arguments = skill.signature.arguments(spec.input, spec.content_type)
        except EdgenodeError as error:
            result = self._result(key, pb_key, 0, assignment.prompt)
            result.state = task_pb2.TASK_STATE_REJECTED
            result.problem.CopyFrom(problem_to_pb(error.problem))
            self._credits += 1
            self._wake()
            return
        left = assignment.timeout_duration
        timeout = left.seconds + left.nanos / 1e9 or skill.timeout or _DEFAULT_TIMEOUT
        expires = now + timeout
        context = None
        if skill.signature.wants_context:
            context = Context(assignment, self._agent.name, self._client, expires, self._tell)
        attempt = _Attempt(key, assignment, skill, timeout, context)
        self._running[key] = attempt
        self._idle.clear()
        self._deadlines.add(expires, key)
        attempt.task = self._loop.create_task(self._work(attempt, arguments))

    async def _work(self, attempt: _Attempt, arguments: dict[str, Any]) -> None:
        signature = attempt.skill.signature
        try:
            context = (attempt.context,) if attempt.context is not None else ()
            if signature.streams:
                result = await self._give_pieces(attempt, context, arguments)
                if attempt.piece_room and not attempt.reported:
                    return self._report_result(attempt, b"", "")  # whoever read along has it
            elif signature.asynchronous:
                result = await signature.function(*context, **arguments)
            else:
                result = await in_thread(signature.function, context, arguments)
            if not attempt.reported:
                self._report_result(attempt, *signature.output(result))
        except asyncio.CancelledError:
            error = attempt.stopping or Cancelled("HANDLER_CANCELLED", "the handler cancelled itself")
            self._report_attempt(attempt, error)
        except EdgenodeError as error:
            self._report_attempt(attempt, error)
        except Exception as error:
            _log.exception("skill %s failed on task %s", attempt.skill.id, attempt.key[0])
            self._report_attempt(attempt, self._handler_error(attempt, error))
        finally:
            del self._running[attempt.key]
            if not self._running:
                self._idle.set()
            self._credits += 1
            self._wake()

    async def _give_pieces(self, attempt: _Attempt, context: tuple[Any, ...], arguments: dict[str, Any]) -> Any:
        """Runs a generator; each piece goes out while the next one forms. Returns the result as a whole."""
        signature, loop = attempt.skill.signature, self._loop
        pieces = attempt.pieces = PieceWriter(attempt.pb_key, self._tell, signature.piece, attempt.piece_room)

        async def give(value: Any) -> None:
            if attempt.stopping is not None:
                raise attempt.stopping  # ends a generator in a thread
            if not pieces.add(value):
                return
            if pieces.read_along:  # faster than its reader
                await pieces.allowed()
            else:  # faster than the node takes them
                self._told.clear()
                await self._told.wait()

        def pump() -> None:
            with contextlib.closing(signature.function(*context, **arguments)) as generator:
                for value in generator:
                    asyncio.run_coroutine_threadsafe(give(value), loop).result()

        if signature.asynchronous:
            async with contextlib.aclosing(signature.function(*context, **arguments)) as generator:
                async for value in generator:
                    await give(value)
        else:
            await in_thread(pump, (), {})
        return pieces.end()

    @staticmethod
    def _handler_error(attempt: _Attempt, error: Exception) -> EdgenodeError:
        retries = attempt.skill.retries
        text = f"{type(error).__name__}: {error}"
        return Internal(
            "HANDLER_ERROR",
            text if len(text) <= _MAX_ERROR_TEXT else text[: _MAX_ERROR_TEXT - 3] + "...",
            hint="the agent's log has the details",
            retryable=retries is None or attempt.key[1] <= retries,
            exception=type(error).__name__,
        )

    def _time_out(self, attempt: _Attempt) -> None:
        retries = attempt.skill.retries
        self._cancel(
            attempt,
            DeadlineExceeded(
                "HANDLER_TIMEOUT",
                f"skill {attempt.skill.id} did not end within {attempt.timeout:g} s",
                retryable=retries is None or attempt.key[1] <= retries,
            ),
        )

    def _cancel(self, attempt: _Attempt, error: EdgenodeError) -> None:
        """Reports `error` now and cancels the handler, which may take its time."""
        attempt.stopping = error
        self._told.set()
        if attempt.pieces is not None:
            attempt.pieces.allow(0)
        if attempt.context is not None:
            attempt.context.cancelled = True
        self._report_attempt(attempt, error)
        if attempt.task is not None:
            attempt.task.cancel()

    def _report_result(self, attempt: _Attempt, data: bytes, content_type: str) -> None:
        if len(data) > MAX_PAYLOAD_BYTES:
            raise ResourceExhausted(
                "RESULT_TOO_LARGE",
                f"the result has {len(data)} bytes",
                hint=f"at most {MAX_PAYLOAD_BYTES}: give it as an artifact instead: await ctx.artifact(...)",
                retryable=False,
                limit=MAX_PAYLOAD_BYTES,
            )
        attempt.reported = True
        result = self._result(attempt.key, attempt.pb_key, len(data), attempt.prompt)
        result.state = task_pb2.TASK_STATE_COMPLETED
        output = result.output
        output.data = data
        if content_type:
            output.content_type = content_type
        artifacts = attempt.context.artifacts if attempt.context is not None else ()
        # What a bridge passes on refers to content elsewhere, if to any.
        refers = MARK in data and attempt.skill.entry is None and is_json(content_type)
        if artifacts or refers:
            named = {ref.digest: ref for ref in (*(refs_in(data) if refers else ()), *artifacts)}
            output.blobs.extend(map(ref_to_pb, named.values()))

    def _report_attempt(self, attempt: _Attempt, error: EdgenodeError) -> None:
        if not attempt.reported:
            attempt.reported = True
            result = self._result(attempt.key, attempt.pb_key, 0, attempt.prompt)
            result.state = task_pb2.TASK_STATE_FAILED
            result.problem.CopyFrom(problem_to_pb(error.problem))
            self._wake()

    def _result(self, key: Key, pb_key: pb.AttemptKey, size: int, prompt: bool) -> pb.AttemptResult:
        """A result to be filled; it is kept until the node confirms it."""
        result = self._unconfirmed[key] = self._results.add(size, prompt=prompt)
        result.key.CopyFrom(pb_key)
        return result

    def _tell(self, update: pb.AttemptUpdate) -> None:
        """Queues an update: of progress only the newest and all pieces, of questions each."""
        key = _key(update.key)
        attempt = self._running.get(key)
        if attempt is not None and not attempt.reported:
            slot = (*key, update.input_request.key)
            waiting = self._updates.get(slot)
            if waiting is not None and waiting.progress.pieces:
                waiting.progress.MergeFrom(update.progress)
            else:
                self._updates[slot] = update
            self._wake()


def _key(key: pb.AttemptKey) -> Key:
    return key.task_id, key.attempt_number, key.fence
