"""A mounted A2A agent as an agent of the node: its skills by its card, its tasks under ours.

Theory of operation. The agent is attached from the first time its card was read. The card is looked at again now and then,
and at once when a request failed: while it is out of reach the agent drains, so nothing new is given to it and what comes
waits in the node; what it already has is followed as before, for a task over there does not end with our connection. When the
card is there again, it is ready again, with the skills it names then.

**A task is sent once.** Its message's id is that of our task with the number of the attempt, and its context our task's, or
the task itself. Which task over there is ours is remembered; after a restart of the bridge it is looked for in that context
before anything is sent. An attempt goes on with the task an earlier one began. If there is none that can be found, and an
earlier attempt may have sent one, nothing is sent (MAY_HAVE_RUN), unless the mount's policy allows it; if the one that is
found has ended otherwise than well, the attempt sends a new message.

**Questions.** INPUT_REQUIRED and AUTH_REQUIRED over there are so here, and the answer becomes a message to that task. A
cancel here is a cancel there; the end of the bridge is not.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncGenerator, Awaitable, Callable
from contextlib import aclosing
from typing import Any, TypeVar

import msgspec
from a2a.client.errors import A2AClientError
from a2a.types import a2a_pb2
from a2a.utils.errors import A2AError, TaskNotFoundError, UnsupportedOperationError
from google.protobuf import json_format

from edgenode.api.admin.v1 import admin_pb2
from edgenode.api.problem.v1 import problem_pb2
from edgenode.api.registry.v1 import registry_pb2
from edgenode.bridges.a2a import states
from edgenode.bridges.a2a.cards import EXTENSION
from edgenode.bridges.a2a.parts import PARTS, content_of, fields, parts_of
from edgenode.bridges.a2a.remote import Remote, RemoteLost, unavailable
from edgenode.bridges.a2a.skills import skills_of
from edgenode.bridges.mounting import Report
from edgenode.bridges.mounts import Recent, Unsent, bounds_of, refusals
from edgenode.bridges.wishes import PREFIX, SKILL_KEY
from edgenode.link.errors import EdgenodeError, FailedPrecondition, Internal, InvalidArgument, Unavailable, from_problem
from edgenode.link.model.agent import Health
from edgenode.link.model.task import TaskState
from edgenode.link.ports import Rng, SystemClock
from edgenode.link.protocol.backoff import ReconnectBackoff
from edgenode.link.wire.mounts import MOUNTED
from edgenode.link.wire.values import duration_from_pb, problem_from_pb, problem_to_pb, timestamp_to_pb
from edgenode.sdk import Client, Context
from edgenode.sdk.agent import Agent, Skill
from edgenode.sdk.encoding import Payload, is_json
from edgenode.sdk.signature import Signature

LOOK_SECONDS = 15.0  # between two looks at the card while all is well
LONGEST_WAIT = 30.0  # seconds between two attempts to reach an agent that is away
POLL_FIRST, POLL_LONGEST = 0.2, 5.0  # seconds between two looks at a task of an agent that does not stream
STOP_GRACE = 5.0
CANCEL_SECONDS = 5.0
LABELS = {MOUNTED: "a2a"}

Answer = TypeVar("Answer")

_log = logging.getLogger(__name__)


class MountedAgent(Agent):
    """An agent whose card is another's, as it came."""

    source = b""

    def card(self) -> registry_pb2.AgentCard:
        """See Agent; with the A2A card byte for byte."""
        card = super().card()
        card.source_json = self.source
        return card


class Mounted:
    """One mount. `await run()` until it is cancelled or `stop` was called."""

    def __init__(self, mount: admin_pb2.Mount, client: Client, report: Report, rng: Rng) -> None:
        self.mount = mount
        self._client = client
        self._report = report
        self._clock = SystemClock()
        self._backoff = ReconnectBackoff(rng, initial=0.5, maximum=LONGEST_WAIT)
        self._agent = MountedAgent(mount.name, labels=LABELS, **bounds_of(mount.policy))
        self._remote: Remote | None = None
        self._away = ""  # why the agent is out of reach, empty while it is not
        self._attached = False
        self._look = asyncio.Event()
        self._stopping = asyncio.Event()
        self._leaves = False
        self._theirs = Recent[str]()  # ids of tasks over there, by ours
        self._unsent = Unsent()
        self._cancels: set[asyncio.Task[None]] = set()
        self._status = admin_pb2.MountStatus()

    def stop(self, *, leave: bool) -> None:
        """Ends the agent, which leaves the node if it is to `leave` for good; `run` returns after that."""
        self._leaves = leave
        self._stopping.set()
        self._look.set()

    def retry(self) -> None:
        """Looks at its card now."""
        self._look.set()

    async def run(self) -> None:
        """Keeps the agent attached until `stop`."""
        attached: asyncio.Task[None] | None = None
        try:
            while not self._stopping.is_set():
                delay = await self._connect()
                if attached is None and self._remote is not None:
                    attaching = self._agent.attach(self._client, self._on_attached)
                    attached = asyncio.create_task(attaching, name=f"agent-{self.mount.name}")
                if attached is not None and attached.done():
                    delay = await self._lost(_ended(attached))
                    attached, self._attached = None, False
                try:
                    async with asyncio.timeout(delay):
                        await self._look.wait()
                except TimeoutError:
                    pass
                self._look.clear()
        finally:
            if attached is not None:
                await (self._agent.stop(STOP_GRACE) if self._leaves else self._agent.detach("its bridge stopped", 0.0))
                attached.cancel()
                await asyncio.wait([attached])
            if self._cancels:
                await asyncio.wait(self._cancels, timeout=CANCEL_SECONDS)
            if self._remote is not None:
                await self._remote.close()

    async def _connect(self) -> float:
        """Looks at the card; seconds until the next look."""
        try:
            if self._remote is None or await self._remote.changed():
                await self._take()
        except (RemoteLost, EdgenodeError) as error:
            hint = f"check its URL, and whether it runs; it is tried again, at once by: edgenode a2a retry {self.mount.name}"
            problem = error if isinstance(error, EdgenodeError) else unavailable("A2A_AGENT_DOWN", error, hint=hint)
            return await self._lost(problem)
        except Exception as error:
            _log.exception("mount %s failed", self.mount.name)
            return await self._lost(Internal("MOUNT_DEFECT", f"{type(error).__name__}: {error}"[:1024]))
        self._backoff.established(self._clock.monotonic())
        self._away = ""
        await self._agent.say(Health.READY)
        if self._status.state != admin_pb2.MOUNT_STATE_READY:
            self._status.ClearField("next_start_time")
        await self._tell(admin_pb2.MOUNT_STATE_READY if self._attached else admin_pb2.MOUNT_STATE_STARTING)
        return LOOK_SECONDS

    def _on_attached(self, _node: str) -> None:
        self._attached = True
        self._look.set()  # a node that was started again is to hear how the agent is

    async def _lost(self, error: EdgenodeError) -> float:
        delay = self._backoff.next_delay(self._clock.monotonic())
        self._away = str(error.problem)
        await self._agent.say(Health.DRAINING, f"its A2A agent is out of reach: {error.problem.message}")
        self._status.last_problem.CopyFrom(problem_to_pb(error.problem))
        self._status.next_start_time.CopyFrom(timestamp_to_pb(self._clock.wall() + delay))
        await self._tell(admin_pb2.MOUNT_STATE_WAITING)
        return delay

    async def _tell(self, state: admin_pb2.MountState) -> None:
        self._status.state = state
        await self._report(self.mount.name, self._status)

    async def _take(self) -> None:
        """Connects by the card there is now, and has its skills. What is under way goes on by the new connection."""
        self._status.start_count += 1
        remote = Remote(self.mount.a2a)
        try:
            await remote.open()
            entries, refused = skills_of(remote.card, self.mount.name)
            skills = [self._skill(name, entry) for name, entry in entries.items()]
            self._agent.source = remote.source
            self._agent.description = remote.card.description[:4096]
            self._agent.version = remote.card.version[:128]
            await self._agent.replace_skills(skills)
        except BaseException:
            await remote.close()
            raise
        before, self._remote = self._remote, remote
        self._status.server = f"{remote.card.name} {remote.card.version}".strip()[:1024]
        self._status.protocol_version = (
            f"{remote.interface.protocol_version} {remote.interface.protocol_binding}".strip()[:1024]
        )
        self._status.skill_count = len(skills)
        self._status.refused_tools[:] = refusals(refused)
        if before is not None:
            await before.close()

    def _skill(self, name: str, entry: registry_pb2.Skill) -> Skill:
        policy = self.mount.policy
        entry.attempts_stored = not policy.repeat_allowed
        if policy.HasField("attempt_timeout_duration"):
            entry.attempt_timeout_duration.CopyFrom(policy.attempt_timeout_duration)

        async def run(ctx: Context, input: bytes) -> Payload:
            return await self._work(ctx, name, entry, input)

        timeout = (
            duration_from_pb(entry.attempt_timeout_duration) if entry.HasField("attempt_timeout_duration") else None
        )
        return Skill(entry.id, Signature(run), timeout, entry=entry)

    # --- tasks ------------------------------------------------------------------------------------------------------

    async def _work(self, ctx: Context, skill: str, entry: registry_pb2.Skill, input: bytes) -> Payload:
        try:
            task = await self._begun(ctx)
            if task is None:
                answer = await self._send(ctx, _message(ctx, skill, entry, input))
                if isinstance(answer, a2a_pb2.Message):
                    return Payload(*content_of(answer.parts))
                task = answer
            self._theirs.put(ctx.task_id, task.id)
            return await self._follow(ctx, task)
        except TaskNotFoundError as error:
            self._theirs.drop(ctx.task_id)
            again = self.mount.policy.repeat_allowed
            hint = "" if again else "see whether it ran; submit it again if not, or mount it with --allow-repeat"
            raise FailedPrecondition(
                "A2A_TASK_LOST", f"{self.mount.name} does not know its task any more", hint=hint, retryable=again
            ) from error
        except A2AError as error:
            raise _refused(error) from error
        except asyncio.CancelledError:
            if not self._stopping.is_set() and (theirs := self._theirs.get(ctx.task_id)):
                cancel = asyncio.create_task(self._cancel(theirs))
                self._cancels.add(cancel)
                cancel.add_done_callback(self._cancels.discard)
            raise

    async def _begun(self, ctx: Context) -> a2a_pb2.Task | None:
        """The task over there that is this one's, if an earlier attempt began it and it may still give a result."""
        if (theirs := self._theirs.get(ctx.task_id)) is not None:
            found: a2a_pb2.Task | None = await self._get(theirs)
        elif self._unsent.before(ctx):
            return None
        else:
            found = await self._find(ctx)
            if found is not None:
                found = await self._get(found.id)  # lists have no results
            elif not self.mount.policy.repeat_allowed:
                raise FailedPrecondition(
                    "MAY_HAVE_RUN",
                    f"attempt {ctx.attempt - 1} may have run, and {self.mount.name} does not tell",
                    hint="see whether it did; submit it again if not, or mount it with --allow-repeat",
                )
        if found is None or found.status.state in _ENDED_BADLY:
            self._theirs.drop(ctx.task_id)
            return None
        return found

    async def _find(self, ctx: Context) -> a2a_pb2.Task | None:
        """By the id of the message that began it."""
        context = _context_id(ctx)
        try:
            tasks: list[a2a_pb2.Task] = await self._ask_patiently(lambda remote: remote.of_context(context))
        except A2AError as error:
            _log.info("%s does not list tasks: %s", self.mount.name, error)
            return None
        for task in tasks:
            if any(message.message_id.startswith(f"{ctx.task_id}-") for message in task.history):
                return task
        return tasks[0] if tasks and context == ctx.task_id else None

    async def _send(self, ctx: Context, message: a2a_pb2.Message) -> a2a_pb2.Task | a2a_pb2.Message:
        remote = self._remote
        try:
            if remote is None or self._away:
                raise RemoteLost(self._away or "it is not connected", sent=False)
            return await remote.send(message)
        except RemoteLost as error:
            self._look.set()
            if not error.sent:
                self._unsent.note(ctx)
                raise unavailable("A2A_AGENT_DOWN", error) from error
            if (found := await self._find(ctx)) is not None:
                return found
            raise unavailable(
                "A2A_AGENT_LOST", error, hint="it may have run; the next attempt looks for it there"
            ) from error

    async def _follow(self, ctx: Context, task: a2a_pb2.Task) -> Payload:
        """Until it has ended; through losses of the connection, for as long as this attempt may take."""
        wait = POLL_FIRST
        while True:
            state = states.our_state(task)
            if state is TaskState.COMPLETED:
                return Payload(*states.output_of(task))
            if state.terminal:
                raise _problem(task)
            if state in states.ASKING:
                task = await self._ask_submitter(ctx, task, state)
                wait = POLL_FIRST
                continue
            if state is TaskState.WORKING:
                _tell_progress(ctx, task.status, task.metadata)
            if not await self._streamed(ctx, task.id):
                await asyncio.sleep(wait)
                wait = min(2 * wait, POLL_LONGEST)
            task = await self._get(task.id)

    async def _streamed(self, ctx: Context, task_id: str) -> bool:
        """Follows the stream of a task's changes to its end; False if there is none to follow."""
        remote = self._remote
        if remote is None or not remote.card.capabilities.streaming:
            return False
        seen = False
        try:
            changes: AsyncGenerator[a2a_pb2.StreamResponse] = remote.changes(task_id)  # type: ignore[assignment]
            async with aclosing(changes) as events:
                async for event in events:
                    status = event.status_update.status if event.HasField("status_update") else event.task.status
                    if status.state in _SETTLED:
                        return True
                    if event.HasField("status_update"):
                        seen = True
                    if status.state == a2a_pb2.TASK_STATE_WORKING:
                        said = event.status_update if event.HasField("status_update") else event.task
                        _tell_progress(ctx, status, said.metadata)
        except (RemoteLost, TaskNotFoundError) as error:
            _log.info("the stream of task %s of %s broke: %s", task_id, self.mount.name, error)
            self._look.set()
            return False
        except UnsupportedOperationError:
            return True  # it has ended, or cannot be followed: it is looked at
        except A2AClientError as error:
            _log.info("%s does not stream: %s", self.mount.name, error)
            return False
        return seen

    async def _ask_submitter(self, ctx: Context, task: a2a_pb2.Task, state: TaskState) -> a2a_pb2.Task:
        """Puts the question to our submitter and the answer to theirs."""
        asked = task.status.message
        text = "\n".join(part.text for part in asked.parts if part.text) or f"{self.mount.name} asks"
        said = fields(asked.metadata)
        key = str(said.get(states.QUESTION_KEY) or asked.message_id or f"{task.id}-question")[:128]
        schema = said.get(states.SCHEMA_KEY)
        answer: Payload = await ctx.input(
            text[:4096],
            Payload,
            key=key,
            schema=schema if isinstance(schema, str) else "{}",
            authorization=state is TaskState.AUTH_REQUIRED,
        )
        message = a2a_pb2.Message(
            message_id=f"{ctx.task_id}-{key}"[:128],
            role=a2a_pb2.ROLE_USER,
            task_id=task.id,
            context_id=task.context_id,
            parts=parts_of(*answer),
        )
        try:
            told = await self._ask_patiently(lambda remote: remote.send(message))
        except UnsupportedOperationError:
            # It was answered meanwhile, by this message that arrived although its answer did not, or by somebody else.
            return await self._get(task.id)
        return told if isinstance(told, a2a_pb2.Task) else await self._get(task.id)

    async def _get(self, theirs: str) -> a2a_pb2.Task:
        return await self._ask_patiently(lambda remote: remote.get(theirs))

    async def _ask_patiently(self, ask: Callable[[Remote], Awaitable[Answer]]) -> Answer:
        """An answer of whichever connection there is, however long it is away; the attempt's own time bounds it."""
        wait = POLL_FIRST
        while True:
            remote = self._remote
            try:
                if remote is None:
                    raise RemoteLost("it is not connected", sent=False)
                return await ask(remote)
            except RemoteLost as error:
                _log.debug("%s: %s", self.mount.name, error)
            self._look.set()
            await asyncio.sleep(wait)
            wait = min(2 * wait, POLL_LONGEST)

    async def _cancel(self, theirs: str) -> None:
        try:
            async with asyncio.timeout(CANCEL_SECONDS):
                await self._ask_patiently(lambda remote: remote.cancel(theirs))
        except (A2AError, TimeoutError) as error:
            _log.info("task %s of %s was not cancelled: %s", theirs, self.mount.name, error)


_ENDED_BADLY = frozenset({a2a_pb2.TASK_STATE_FAILED, a2a_pb2.TASK_STATE_CANCELED, a2a_pb2.TASK_STATE_REJECTED})
_SETTLED = _ENDED_BADLY | {
    a2a_pb2.TASK_STATE_COMPLETED,
    a2a_pb2.TASK_STATE_INPUT_REQUIRED,
    a2a_pb2.TASK_STATE_AUTH_REQUIRED,
}


def _ended(attached: asyncio.Task[None]) -> EdgenodeError:
    """Why an agent is attached no more that nobody stopped."""
    error = None if attached.cancelled() else attached.exception()
    if isinstance(error, EdgenodeError):
        return error
    return Unavailable("AGENT_ENDED", "another agent of this name took its place")


def _context_id(ctx: Context) -> str:
    return ctx.spec.context_id or ctx.task_id


def _message(ctx: Context, skill: str, entry: registry_pb2.Skill, input: bytes) -> a2a_pb2.Message:
    spec = ctx.spec
    message = a2a_pb2.Message(
        message_id=f"{ctx.task_id}-{ctx.attempt}",
        context_id=_context_id(ctx),
        role=a2a_pb2.ROLE_USER,
        parts=parts_of(input, spec.content_type),
    )
    modes = [mode for mode in entry.input_modes if mode != PARTS]
    for part in message.parts:
        if part.HasField("data") and modes and not any(is_json(mode) or mode == "*/*" for mode in modes):
            text = msgspec.json.encode(json_format.MessageToDict(part.data)).decode()
            part.Clear()
            part.text = text
    texts = {"traceparent": spec.traceparent, "tracestate": spec.tracestate, PREFIX + "tenant": spec.tenant}
    said: dict[str, Any] = {SKILL_KEY: skill, **{name: value for name, value in texts.items() if value}}
    if spec.HasField("priority"):
        said[PREFIX + "priority"] = spec.priority
    if spec.HasField("deadline_time"):
        said[PREFIX + "timeout"] = ctx.time_left
    message.metadata.update(said)
    message.extensions.append(EXTENSION)
    return message


def _tell_progress(ctx: Context, status: a2a_pb2.TaskStatus, metadata: Any) -> None:
    text = " ".join(part.text for part in status.message.parts if part.text)
    fraction = fields(metadata).get(states.FRACTION_KEY)
    within = fraction if isinstance(fraction, int | float) and 0 <= fraction <= 1 else None
    ctx.progress(within, text)


def _problem(task: a2a_pb2.Task) -> EdgenodeError:
    """Why a task over there ended without a result: in its own words, and as a problem of the node's where it is one."""
    said = fields(task.metadata).get(states.PROBLEM_KEY)
    if isinstance(said, dict):
        try:
            return from_problem(problem_from_pb(json_format.ParseDict(said, problem_pb2.Problem())))
        except json_format.ParseError as error:
            _log.debug("task %s has a problem that cannot be read: %s", task.id, error)
    name = a2a_pb2.TaskState.Name(task.status.state).removeprefix("TASK_STATE_")
    text = " ".join(part.text for part in task.status.message.parts if part.text)
    return FailedPrecondition(f"A2A_{name}", (text or f"the agent says {name}")[:1024], hint="the agent's own word")


def _refused(error: A2AError) -> EdgenodeError:
    """What the agent would not take."""
    text = error.message[:1024]
    if isinstance(error, A2AClientError):
        return Internal("A2A_ERROR", text, hint="an error of the A2A agent")
    return InvalidArgument("A2A_REFUSED", text, hint="compare it with the agent's card")
