"""A mounted MCP server as an agent of the node: connected, attached, and brought back when it is lost.

Theory of operation. The agent's stream is open while the server is there. When the server is lost, calls under way end
first, each with its own problem; then the agent detaches and stays registered: degraded, and out of reach once its lease
ended. What comes for it meanwhile waits in the node. The server is started again after a wait that grows (full jitter), and
the agent attaches as a new instance with the tools it has then.

**What may run again.** A tool that says so (`idempotentHint`, `readOnlyHint`), or any where the mount's policy allows it, is
retried as the task's own policy has it. Any other runs once: when its server was lost with a call under way, the task fails
(MCP_SERVER_LOST) and says that it may have run; and an attempt after one whose end is not known here, because the bridge or
the node went in the middle, fails (MAY_HAVE_RUN) before anything is sent. A request that surely was not sent is no attempt
in that sense, and is tried again.

**Questions** of the server are put to the submitter: INPUT_REQUIRED for a form, whose answer is the form's content, and
AUTH_REQUIRED for an address to visit. The answer `null` declines.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import mcp_types as types
import msgspec
from mcp.shared.exceptions import MCPError

from edgenode.api.admin.v1 import admin_pb2
from edgenode.bridges.mcp.connection import Connection, Refused
from edgenode.bridges.mcp.oauth.kept import Kept
from edgenode.bridges.mcp.pipe import Progress, ServerLost
from edgenode.bridges.mcp.skills import payload_of, repeatable, skills_of
from edgenode.bridges.mounting import Report
from edgenode.bridges.mounts import Unsent, bounds_of, refusals
from edgenode.bridges.wishes import PREFIX, TASK_KEY
from edgenode.link.errors import (
    EdgenodeError,
    FailedPrecondition,
    Internal,
    InvalidArgument,
    PermissionDenied,
    Unavailable,
)
from edgenode.link.ports import Rng, SystemClock
from edgenode.link.protocol.backoff import ReconnectBackoff
from edgenode.link.wire.mounts import MOUNTED
from edgenode.link.wire.values import duration_from_pb, problem_to_pb, timestamp_to_pb
from edgenode.sdk import Client, Context
from edgenode.sdk.agent import Agent, Skill
from edgenode.sdk.encoding import Payload, is_json
from edgenode.sdk.signature import Signature

DEFAULT_START_TIMEOUT = 30.0
LONGEST_WAIT = 60.0  # seconds between two starts
DETACH_GRACE = 2.0  # seconds for calls under way to report their end
STOP_GRACE = 5.0
REFUSED_GRACE = 30.0  # the same, where the server is there and wants a token
BY_A_PERSON = frozenset({"AUTH_REQUIRED", "INSUFFICIENT_SCOPE"})  # nothing is tried before somebody did something
MAX_LOGINS = 3  # within one call
LABELS = {MOUNTED: "mcp"}

_log = logging.getLogger(__name__)


class Mounted:
    """One mount. `await run()` until it is cancelled or `stop` was called."""

    def __init__(self, mount: admin_pb2.Mount, client: Client, report: Report, rng: Rng, *, state: Path) -> None:
        """`state`: the node's state directory."""
        self.mount = mount
        self._kept = Kept(state, mount.name, mount.mcp_http.url)
        self._client = client
        self._report = report
        self._clock = SystemClock()
        self._backoff = ReconnectBackoff(rng, maximum=LONGEST_WAIT)
        policy = mount.policy
        self._agent = Agent(mount.name, labels=LABELS, **bounds_of(policy))
        self._repeat_allowed = policy.repeat_allowed
        self._start_timeout = (
            duration_from_pb(policy.start_timeout_duration)
            if policy.HasField("start_timeout_duration")
            else DEFAULT_START_TIMEOUT
        )
        self._connection: Connection | None = None
        self._tools_changed = asyncio.Event()
        self._attached = asyncio.Event()
        self._stopping = asyncio.Event()
        self._tried = asyncio.Event()  # it is to be tried now
        self._leaves = False
        self._unsent = Unsent()
        self._status = admin_pb2.MountStatus()

    def stop(self, *, leave: bool) -> None:
        """Ends the agent, which leaves the node if it is to `leave` for good, then the server; `run` returns after that."""
        self._leaves = leave
        self._stopping.set()

    def retry(self) -> None:
        """Starts it now where it waits; one that is there takes the tokens there are by now."""
        self._tried.set()
        if self._connection is not None:
            self._connection.reload()

    async def run(self) -> None:
        """Keeps the server there until `stop`."""
        try:
            while not self._stopping.is_set():
                try:
                    await self._serve()
                except EdgenodeError as error:
                    await self._wait(error)
                except Exception as error:
                    _log.exception("mount %s failed", self.mount.name)
                    await self._wait(Internal("MOUNT_DEFECT", f"{type(error).__name__}: {error}"[:1024]))
        finally:
            if self._leaves:
                self._kept.forget()

    async def _serve(self) -> None:
        """One life of the server. Raises Unavailable when it is lost, and what refuses to let it begin."""
        connection = Connection(self.mount, self._kept, self._tools_changed.set)
        self._tried.clear()
        self._status.start_count += 1
        await self._tell(admin_pb2.MOUNT_STATE_STARTING)
        attached: asyncio.Task[None] | None = None
        try:
            await connection.open(self._start_timeout)
            if self._stopping.is_set():
                return
            self._backoff.established(self._clock.monotonic())
            self._connection = connection
            self._tools_changed.clear()
            await self._take_tools(connection)
            self._status.server, self._status.protocol_version = connection.server, connection.protocol_version
            self._attached.clear()
            attaching = self._agent.attach(self._client, lambda _node: self._attached.set())
            attached = asyncio.create_task(attaching, name=f"agent-{self.mount.name}")
            await self._watch(connection, attached)
        finally:
            self._connection = None
            self._status.error_lines[:] = connection.error_lines
            if attached is not None:
                await self._leave(attached, connection)
            await connection.close()
            self._status.error_lines[:] = connection.error_lines

    async def _watch(self, connection: Connection, attached: asyncio.Task[None]) -> None:
        """Until the server is lost, the agent ended or all is to stop; takes changes of the tools meanwhile."""
        events = (connection.lost, connection.barred, self._stopping, self._tools_changed, self._attached)
        while True:
            waits = [asyncio.ensure_future(event.wait()) for event in events]
            try:
                await asyncio.wait([*waits, attached], return_when=asyncio.FIRST_COMPLETED)
            finally:
                for wait in waits:
                    wait.cancel()
            if self._stopping.is_set():
                return
            if connection.lost.is_set():
                raise Unavailable("MCP_SERVER_LOST", connection.why_lost)
            if connection.refusal is not None:
                if connection.refusal.reason in BY_A_PERSON:  # told before what is under way has ended
                    await self._tell_trouble(admin_pb2.MOUNT_STATE_AUTH_REQUIRED, connection.refusal)
                raise connection.refusal
            if attached.done():
                attached.result()
                raise Unavailable("AGENT_ENDED", "another agent of this name took its place")
            if self._tools_changed.is_set():
                self._tools_changed.clear()
                await self._list_again(connection)
            if self._attached.is_set():
                self._attached.clear()
                await self._tell(admin_pb2.MOUNT_STATE_READY)

    async def _list_again(self, connection: Connection) -> None:
        try:
            await connection.list_tools()
        except (ServerLost, MCPError) as error:
            _log.warning("%s does not say what its tools are now: %s", self.mount.name, error)
            return
        await self._take_tools(connection)
        if self._status.state == admin_pb2.MOUNT_STATE_READY:
            await self._tell(admin_pb2.MOUNT_STATE_READY)

    async def _leave(self, attached: asyncio.Task[None], connection: Connection) -> None:
        if self._leaves:
            await self._agent.stop(STOP_GRACE)
        elif self._stopping.is_set():
            await self._agent.detach("its bridge stopped", STOP_GRACE)
        elif connection.refusal is not None:
            problem = connection.refusal.problem  # what the server has taken goes on there
            await self._agent.detach(f"{problem.reason}: {problem.message}; {problem.hint}", REFUSED_GRACE)
        else:
            await self._agent.detach(f"its MCP server was lost: {connection.why_lost}", DETACH_GRACE)
        attached.cancel()
        await asyncio.wait([attached])

    async def _wait(self, error: EdgenodeError) -> None:
        if self._stopping.is_set():
            return
        if error.reason in BY_A_PERSON:
            delay = None
            _log.warning("%s: %s", self.mount.name, error)
            await self._tell_trouble(admin_pb2.MOUNT_STATE_AUTH_REQUIRED, error)
        else:
            delay = self._backoff.next_delay(self._clock.monotonic())
            self._status.next_start_time.CopyFrom(timestamp_to_pb(self._clock.wall() + delay))
            _log.warning("%s: %s; started again in %.1f s", self.mount.name, error, delay)
            await self._tell_trouble(admin_pb2.MOUNT_STATE_WAITING, error)
        waits = [asyncio.ensure_future(event.wait()) for event in (self._stopping, self._tried)]
        try:
            await asyncio.wait(waits, timeout=delay, return_when=asyncio.FIRST_COMPLETED)
        finally:
            for wait in waits:
                wait.cancel()
        self._status.ClearField("next_start_time")

    async def _tell(self, state: admin_pb2.MountState) -> None:
        self._status.state = state
        await self._report(self.mount.name, self._status)

    async def _tell_trouble(self, state: admin_pb2.MountState, error: EdgenodeError) -> None:
        self._status.last_problem.CopyFrom(problem_to_pb(error.problem))
        await self._tell(state)

    # --- tools ------------------------------------------------------------------------------------------------------

    async def _take_tools(self, connection: Connection) -> None:
        entries, refused = skills_of(connection.tools, self.mount.name)
        for entry in entries.values():
            if self.mount.policy.HasField("attempt_timeout_duration"):
                entry.attempt_timeout_duration.CopyFrom(self.mount.policy.attempt_timeout_duration)
        self._agent.description = connection.instructions[:4096]
        self._agent.version = connection.server[:128]
        self._status.skill_count = len(entries)
        self._status.refused_tools[:] = refusals(refused)
        for text in refused:
            _log.warning("%s: no skill: %s", self.mount.name, text)
        await self._agent.replace_skills([self._skill(name, entry) for name, entry in entries.items()])

    def _skill(self, tool: str, entry: Any) -> Skill:
        again = self._repeat_allowed or repeatable(entry)
        entry.attempts_stored = not again

        async def run(ctx: Context, input: bytes) -> Payload:
            return await self._call(ctx, tool, input, again)

        timeout = (
            duration_from_pb(entry.attempt_timeout_duration) if entry.HasField("attempt_timeout_duration") else None
        )
        return Skill(entry.id, Signature(run), timeout, retries=None if again else 0, idempotent=again, entry=entry)

    async def _call(self, ctx: Context, tool: str, input: bytes, again: bool) -> Payload:
        arguments = _arguments(input, ctx.spec.content_type)
        if not again and not self._unsent.before(ctx):
            raise FailedPrecondition(
                "MAY_HAVE_RUN",
                f"attempt {ctx.attempt - 1} may have run, and {tool} does not say that running it twice is harmless",
                hint="see whether it did; submit it again if not, or mount it with --allow-repeat",
            )
        for _ in range(MAX_LOGINS):
            try:
                connection = self._connection
                if connection is None:
                    raise ServerLost("the server is not there", sent=False)
                result = await connection.call(
                    tool, arguments, _meta(ctx), _progress_to(ctx), lambda question: _answer(ctx, question)
                )
                return payload_of(result.text, result.read)
            except ServerLost as error:
                raise self._lost(ctx, tool, error, again) from error
            except Refused as error:
                await self._widen(ctx, error.problem)
            except MCPError as error:
                raise _refused(error) from error
        raise _too_narrow(self.mount.name)

    async def _widen(self, ctx: Context, problem: EdgenodeError) -> None:
        """Has the submitter see to a token that suffices. Raises what keeps the call from being done otherwise."""
        if problem.reason != "INSUFFICIENT_SCOPE":
            self._unsent.note(ctx)
            said = problem.problem
            raise Unavailable(said.reason, f"{self.mount.name}: {said.message}", hint=said.hint) from problem
        prompt = f"{self.mount.name}: {problem.problem.message}\n{problem.problem.hint}"
        if await ctx.input(prompt, authorization=True) is None:
            raise _too_narrow(self.mount.name) from problem
        if self._connection is not None:
            self._connection.reload()

    def _lost(self, ctx: Context, tool: str, error: ServerLost, again: bool) -> EdgenodeError:
        if not error.sent:
            self._unsent.note(ctx)
            return Unavailable("MCP_SERVER_DOWN", f"{self.mount.name}: {error}", hint="edgenode mcp list")
        return Unavailable(
            "MCP_SERVER_LOST",
            f"{self.mount.name} was lost while {tool} ran: {error}",
            hint="" if again else f"it may have run; {tool} does not say that running it twice is harmless",
            retryable=again,
        )


def _arguments(input: bytes, content_type: str) -> dict[str, Any]:
    try:
        if not is_json(content_type):
            raise ValueError(f"it is {content_type}")
        return msgspec.json.decode(input or b"{}", type=dict[str, Any])
    except (ValueError, msgspec.DecodeError) as error:
        raise InvalidArgument(
            "BAD_INPUT", f"the input is no JSON object: {error}", hint="compare it with the skill's input schema"
        ) from error


def _meta(ctx: Context) -> dict[str, Any]:
    """What the server is told of the task beside its arguments."""
    spec = ctx.spec
    said = {
        TASK_KEY: ctx.task_id,
        f"{PREFIX}tenant": spec.tenant,
        f"{PREFIX}context": spec.context_id,
        "traceparent": spec.traceparent,
        "tracestate": spec.tracestate,
    }
    return {key: text for key, text in said.items() if text}


def _progress_to(ctx: Context) -> Progress:
    def tell(progress: float, total: float | None, message: str | None) -> None:
        fraction = min(max(progress / total, 0.0), 1.0) if total is not None and total > 0 else None
        ctx.progress(fraction, message or ("" if fraction is not None else f"{progress:g}"))

    return tell


async def _answer(ctx: Context, question: types.ElicitRequestParams) -> types.ElicitResult:
    """Asks the submitter. The same question of a later attempt has the same key, and is answered at once."""
    if isinstance(question, types.ElicitRequestURLParams):
        prompt = f"{question.message}\n{question.url}"
        answer = await ctx.input(prompt, authorization=True)
        return types.ElicitResult(action="decline" if answer is None else "accept")
    schema = msgspec.json.encode(question.requested_schema).decode()
    answer = await ctx.input(question.message, schema=schema)
    if answer is None:
        return types.ElicitResult(action="decline")
    return types.ElicitResult(action="accept", content=_with_defaults(answer, question.requested_schema))


def _with_defaults(answer: Any, schema: Mapping[str, Any]) -> Any:
    """What the answer leaves out is as the form has it from the start."""
    if not isinstance(answer, dict):
        return answer
    properties: Mapping[str, Any] = schema.get("properties", {})
    defaults = {name: part["default"] for name, part in properties.items() if "default" in part}
    return {**defaults, **answer}


def _too_narrow(mount: str) -> EdgenodeError:
    return PermissionDenied(
        "INSUFFICIENT_SCOPE", f"{mount}: the token does not suffice for this", hint=f"edgenode mcp login {mount}"
    )


def _refused(error: MCPError) -> EdgenodeError:
    """The server's protocol error as a problem."""
    text = str(error)[:1024]
    if error.code == types.INVALID_PARAMS:
        return InvalidArgument("BAD_INPUT", text, hint="compare it with the skill's input schema", mcp_code=error.code)
    return Internal(
        "MCP_ERROR", text or "the server gave an error", hint="an error of the MCP server", mcp_code=error.code
    )
