"""One connection to an MCP server: as a program of its own, or over streamable HTTP.

A connection lives in a task of its own, for the SDK's scopes must be left where they were entered. `open` returns when the
server has listed its tools; from then on it is there until `close`, or until the server is lost: its end of the pipes closed,
the stream of its changes broke, a request could not be sent. Whatever waits for an answer then ends with `ServerLost`.

A server started here is a process group of its own; the SDK closes its standard input, then asks, then kills. The last lines
of its standard error are kept, for they tell why it went.

Questions (elicitation) belong to a call. Revision 2026-07-28 asks in the answer to it; older servers send a request of their
own, which on a pipe does not say to which call it belongs: while several are under way there it is refused.
"""

from __future__ import annotations

import asyncio
import logging
from collections import deque
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AbstractAsyncContextManager, AsyncExitStack, asynccontextmanager
from contextvars import ContextVar
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import httpx2
import mcp_types as types
from mcp import Client
from mcp.client.session import ClientRequestContext
from mcp.client.streamable_http import streamable_http_client
from mcp.client.subscriptions import SubscriptionLost
from mcp.shared.exceptions import MCPError
from mcp_types.version import MODERN_PROTOCOL_VERSIONS
from pydantic import TypeAdapter

import edgenode
from edgenode.api.admin.v1 import admin_pb2
from edgenode.bridges.header_files import read_headers
from edgenode.bridges.mcp.oauth.authorization import Authorization, AuthorizedClient
from edgenode.bridges.mcp.oauth.errands import Errands
from edgenode.bridges.mcp.oauth.kept import Kept
from edgenode.bridges.mcp.oauth.settings import read_settings
from edgenode.bridges.mcp.pipe import Pipe, Progress, ServerLost
from edgenode.bridges.mcp.tls import tls
from edgenode.link.errors import EdgenodeError, FailedPrecondition, Unavailable
from edgenode.link.ports import SystemClock
from edgenode.link.wire.mounts import MAX_ERROR_LINE, MAX_ERROR_LINES

CLOSE_TIME = 10.0  # seconds a server may take to end
MAX_TOOL_PAGES = 100
MAX_ROUNDS = 100  # questions one after the other within one call
# A stream may be silent for as long as a tool works; attempts have their own bounds.
_HTTP_TIMEOUT = httpx2.Timeout(30.0, read=None)

# What answers a call. That a server asks before it gives a result came with 2026-07-28.
_RESULT: TypeAdapter[types.CallToolResult] = TypeAdapter(types.CallToolResult)
_ANSWER: TypeAdapter[types.CallToolResult | types.InputRequiredResult] = TypeAdapter(
    types.CallToolResult | types.InputRequiredResult
)

Ask = Callable[[types.ElicitRequestParams], Awaitable[types.ElicitResult]]

_log = logging.getLogger(__name__)
_asking: ContextVar[Ask | None] = ContextVar("asking", default=None)


class Refused(Exception):
    """A request was not done for want of a token; `problem` says which."""

    def __init__(self, problem: EdgenodeError) -> None:
        super().__init__(str(problem))
        self.problem = problem


class ToolResult(NamedTuple):
    """What a tool gave: as JSON, and read."""

    text: bytes
    read: types.CallToolResult


class Connection:
    """`await open()`, then `tools`, `call`, `lost`; `await close()` at the end, also when `open` raised."""

    def __init__(self, mount: admin_pb2.Mount, kept: Kept, on_tools: Callable[[], None]) -> None:
        """`on_tools` is called when the server says that its tools are others now; `list_tools` then gets them.

        `kept`: the tokens of a login.
        """
        self._mount = mount
        self._kept = kept
        self._authorization: Authorization | None = None
        self._on_tools = on_tools
        self._client: Client | None = None
        self._pipe: Pipe | None = None  # to a server that is a program
        self._task: asyncio.Task[None] | None = None
        self._opened = asyncio.Event()
        self._closing = asyncio.Event()
        self._listening: asyncio.Task[None] | None = None
        self._calls: set[Ask] = set()  # of the calls under way
        self.lost = asyncio.Event()
        self.why_lost = ""
        self.barred = asyncio.Event()  # no request is done for want of a token
        self.refusal: EdgenodeError | None = None  # why
        self.tools: list[types.Tool] = []
        self.error_lines: deque[str] = deque(maxlen=MAX_ERROR_LINES)

    @property
    def server(self) -> str:
        """Name and version the server gives itself."""
        info = self._client.server_info if self._client is not None else None
        return f"{info.name} {info.version}".strip()[:MAX_ERROR_LINE] if info is not None else ""

    @property
    def protocol_version(self) -> str:
        """Revision that is spoken."""
        return self._client.protocol_version if self._client is not None else ""

    @property
    def instructions(self) -> str:
        """What the server says of its use."""
        return (self._client.instructions or "") if self._client is not None else ""

    async def open(self, timeout: float) -> None:
        """Returns when the tools are known. Raises Unavailable (MCP_SERVER_NOT_STARTED), what is wrong with the mount's
        files, and what the server refuses for want of a token."""
        self._task = asyncio.create_task(self._live(), name=f"mcp-{self._mount.name}")
        opened = asyncio.ensure_future(self._opened.wait())
        try:
            await asyncio.wait([self._task, opened], timeout=timeout, return_when=asyncio.FIRST_COMPLETED)
        finally:
            opened.cancel()
        if self._opened.is_set() and not self._task.done():
            return
        if not self._task.done():
            raise self._not_started(f"it did not list its tools within {timeout:g} s")
        error = self._task.exception()
        if isinstance(error, EdgenodeError):
            raise error
        if self._authorization is not None and self._authorization.refusal is not None:
            raise self._authorization.refusal
        why = _plain(error) if error is not None else self.why_lost
        if self._mount.HasField("mcp_stdio") and error is not None and isinstance(_inner(error), MCPError):
            why = f"it ended, or does not speak MCP ({why})"
        raise self._not_started(why)

    async def close(self) -> None:
        """The server ends. Safe to call twice."""
        self._closing.set()
        if self._task is None:
            return
        done, _ = await asyncio.wait([self._task], timeout=CLOSE_TIME if self._opened.is_set() else 0.0)
        if not done:
            self._task.cancel()
            await asyncio.wait([self._task], timeout=CLOSE_TIME)
        if self._task.done() and not self._task.cancelled() and (error := self._task.exception()) is not None:
            _log.debug("connection to %s ended: %s", self._mount.name, _plain(error))

    def reload(self) -> None:
        """Takes the tokens there are by now."""
        if self._authorization is not None:
            self._authorization.reload()

    def _bar(self, refusal: EdgenodeError) -> None:
        if not self.barred.is_set():
            self.refusal = refusal
            self.barred.set()

    async def list_tools(self) -> list[types.Tool]:
        """The server's tools, asked for now. Raises ServerLost, MCPError."""
        tools: list[types.Tool] = []
        cursor: str | None = None
        client = self._present()
        if client.server_capabilities.tools is None:
            return []
        for _ in range(MAX_TOOL_PAGES):
            page = await client.list_tools(cursor=cursor)
            tools += page.tools
            cursor = page.next_cursor
            if cursor is None:
                break
        self.tools = tools
        return tools

    async def call(
        self, tool: str, arguments: dict[str, Any], meta: dict[str, Any], progress: Progress, ask: Ask
    ) -> ToolResult:
        """What the tool gives; cancelling this cancels it there. `ask` answers the server's questions of this call.

        Raises ServerLost, Refused, MCPError for what the server refuses, FailedPrecondition (BAD_RESULT) for what is no
        valid result.
        """
        client = self._present()
        self._calls.add(ask)
        token = _asking.set(ask)
        call = partial(self._by_session if self._pipe is None else self._past_session, client, tool, arguments, meta)
        try:
            while True:
                try:
                    return await call(progress)
                except MCPError as error:
                    if self._authorization is not None and (refusal := self._authorization.refusal_of(error)):
                        raise Refused(refusal) from error
                    if error.code == types.CONNECTION_CLOSED or self.lost.is_set():
                        raise ServerLost(self.why_lost or str(error), sent=True) from error
                    if error.code != types.URL_ELICITATION_REQUIRED:
                        raise
                    await self._visit(error, ask)
        except ServerLost as error:
            self._lose(str(error))
            raise
        except (httpx2.TransportError, OSError) as error:
            self._lose(_plain(error))
            raise ServerLost(_plain(error), sent=not isinstance(error, httpx2.ConnectError)) from error
        except (RuntimeError, ValueError) as error:
            # The SDK's words for a result that does not fit its tool's output schema or the protocol.
            raise FailedPrecondition(
                "BAD_RESULT", f"the server's answer is not valid: {error}"[:1024], hint="a defect of the MCP server"
            ) from error
        finally:
            _asking.reset(token)
            self._calls.discard(ask)

    async def _by_session(
        self,
        client: Client,
        tool: str,
        arguments: dict[str, Any],
        meta: dict[str, Any],
        progress: Progress,
        **answers: Any,
    ) -> ToolResult:
        """As the SDK does it. `answers`: what the server asked for before it gives a result."""

        async def tell(done: float, total: float | None, message: str | None) -> None:
            progress(done, total, message)

        result = await client.call_tool(tool, arguments, progress_callback=tell, meta=meta or None, **answers)  # type: ignore[arg-type]
        return ToolResult(result.model_dump_json(by_alias=True, exclude_unset=True).encode(), result)

    async def _past_session(
        self, client: Client, tool: str, arguments: dict[str, Any], meta: dict[str, Any], progress: Progress
    ) -> ToolResult:
        """The same straight over the pipe, with the same checks. What the server asks in its answer the SDK goes on with."""
        assert self._pipe is not None
        text = await self._pipe.request("tools/call", {"name": tool, "arguments": arguments}, meta, progress)
        modern = client.protocol_version in MODERN_PROTOCOL_VERSIONS
        result = (_ANSWER if modern else _RESULT).validate_json(text, by_name=False)
        if isinstance(result, types.CallToolResult):
            if not result.is_error:
                await client.session.validate_tool_result(tool, result)
            return ToolResult(text, result)
        answers = {key: await _answer(client, key, request) for key, request in (result.input_requests or {}).items()}
        return await self._by_session(
            client,
            tool,
            arguments,
            meta,
            progress,
            input_responses=answers or None,
            request_state=result.request_state,
        )

    async def _visit(self, error: MCPError, ask: Ask) -> None:
        """Have the submitter visit the addresses a server of revision 2025-11-25 wants visited before it does the call."""
        wanted = types.ElicitationRequiredErrorData.model_validate(error.data)
        for params in wanted.elicitations:
            if (await ask(params)).action != "accept":
                raise error
        if not wanted.elicitations:
            raise error

    def _not_started(self, why: str) -> Unavailable:
        program = self._mount.HasField("mcp_stdio")
        hint = "start it by hand to see" if program else "check its URL, and whether it wants a token (--headers-file)"
        again = f"it is tried again, at once by: edgenode mcp retry {self._mount.name}"
        return Unavailable("MCP_SERVER_NOT_STARTED", why[:MAX_ERROR_LINE], hint=f"{hint}; {again}")

    def _present(self) -> Client:
        if self._client is None or self.lost.is_set():
            raise ServerLost(self.why_lost or "the server is not there", sent=False)
        return self._client

    def _lose(self, why: str) -> None:
        if not self.lost.is_set() and not self._closing.is_set():
            self.why_lost = why
            self.lost.set()

    # --- the task ---------------------------------------------------------------------------------------------------

    async def _live(self) -> None:
        client = Client(
            _Watched(self._transport(), lambda: self._lose("its connection closed")),
            cache=None,
            elicitation_callback=self._elicit,
            message_handler=self._hear,
            input_required_max_rounds=MAX_ROUNDS,
            client_info=types.Implementation(name="edgenode", version=edgenode.__version__),
        )
        try:
            async with client:
                self._client = client
                await self.list_tools()
                self._opened.set()
                self._listening = asyncio.create_task(self._listen(client))
                closing = asyncio.ensure_future(self._closing.wait())
                lost = asyncio.ensure_future(self.lost.wait())
                try:
                    await asyncio.wait([closing, lost], return_when=asyncio.FIRST_COMPLETED)
                finally:
                    closing.cancel()
                    lost.cancel()
                    self._listening.cancel()
                    await asyncio.wait([self._listening])
        except Exception as error:
            self._lose(_plain(error))
            raise
        finally:
            self._lose("its connection closed")
            self._client = None

    async def _listen(self, client: Client) -> None:
        """Hear of changes to the tools where they must be asked for; older servers tell by themselves."""
        offers = client.server_capabilities.tools
        if client.protocol_version not in MODERN_PROTOCOL_VERSIONS or offers is None or not offers.list_changed:
            return
        try:
            async with client.listen(tools_list_changed=True) as changes:
                self._on_tools()  # what changed between the list and now
                async for _ in changes:
                    self._on_tools()
        except MCPError as error:
            _log.info("%s tells of no changes to its tools: %s", self._mount.name, error)
        except SubscriptionLost as error:
            self._lose(f"the stream of its changes broke: {_plain(error.__cause__ or error)}")

    async def _hear(self, message: types.ServerNotification | Exception) -> None:
        if isinstance(message, types.ToolListChangedNotification):
            self._on_tools()

    async def _elicit(
        self, context: ClientRequestContext, params: types.ElicitRequestParams
    ) -> types.ElicitResult | types.ErrorData:
        ask = _asking.get()
        if ask is None and len(self._calls) == 1:
            (ask,) = self._calls
        if ask is None:
            return types.ErrorData(
                code=types.INVALID_REQUEST,
                message=f"the question fits none of {len(self._calls)} calls under way; mount with concurrency 1",
            )
        return await ask(params)

    # --- transports -------------------------------------------------------------------------------------------------

    def _transport(self) -> AbstractAsyncContextManager[Any]:
        if self._mount.WhichOneof("server") != "mcp_stdio":
            return self._http(self._mount.mcp_http)
        server = self._mount.mcp_stdio
        self._pipe = Pipe(server.arguments, server.environment, server.working_directory, self._take_error_line)
        return self._pipe

    def _take_error_line(self, line: bytes) -> None:
        text = line.decode(errors="replace").rstrip()[:MAX_ERROR_LINE]
        if text:
            self.error_lines.append(text)
            _log.info("%s: %s", self._mount.name, text)

    @asynccontextmanager
    async def _http(self, server: admin_pb2.McpHttpServer) -> AsyncIterator[Any]:
        headers = read_headers(Path(server.headers_file)) if server.headers_file else {}
        async with AsyncExitStack() as stack:
            if server.oauth_file or "authorization" not in (name.lower() for name in headers):
                settings = read_settings(server.oauth_file)
                errands = Errands(settings, (server.url, settings.issuer, settings.identity_token_url))
                self._authorization = authorization = Authorization(
                    self._mount.name, server.url, settings, self._kept, errands, SystemClock(), self._bar
                )
                stack.push_async_callback(authorization.aclose)
                http: httpx2.AsyncClient = AuthorizedClient(
                    authorization, headers=headers, timeout=_HTTP_TIMEOUT, verify=tls()
                )
            else:
                http = httpx2.AsyncClient(headers=headers, timeout=_HTTP_TIMEOUT, verify=tls())
            await stack.enter_async_context(http)
            yield await stack.enter_async_context(streamable_http_client(server.url, http_client=http))


class _Watched(AbstractAsyncContextManager[Any]):
    """A transport whose end is told: nothing else says that an idle server went."""

    def __init__(self, transport: AbstractAsyncContextManager[Any], on_end: Callable[[], None]) -> None:
        self._transport = transport
        self._on_end = on_end

    async def __aenter__(self) -> Any:
        reading, writing = await self._transport.__aenter__()
        return _WatchedStream(reading, self._on_end), writing

    async def __aexit__(self, *exception: Any) -> bool | None:
        return await self._transport.__aexit__(*exception)


class _WatchedStream:
    """Passes everything through, and tells when there is no more."""

    def __init__(self, stream: Any, on_end: Callable[[], None]) -> None:
        self._stream = stream
        self._on_end = on_end

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)

    def __aiter__(self) -> _WatchedStream:
        return self

    async def __anext__(self) -> Any:
        try:
            return await self._stream.__anext__()
        except BaseException:
            self._on_end()
            raise

    async def __aenter__(self) -> _WatchedStream:
        await self._stream.__aenter__()
        return self

    async def __aexit__(self, *exception: Any) -> bool | None:
        passed: bool | None = await self._stream.__aexit__(*exception)
        return passed


async def _answer(client: Client, key: str, request: types.InputRequest) -> Any:
    """What is asked in the answer to a call. Raises MCPError where that is not answered."""
    meta = request.params.meta if request.params else None
    context = ClientRequestContext(session=client.session, request_id=key, meta=meta)
    answer = await client.session.dispatch_input_request(context, request)
    if isinstance(answer, types.ErrorData):
        raise MCPError.from_error_data(answer)
    return answer


def _inner(error: BaseException) -> BaseException:
    """Without the groups that task groups wrap it in."""
    while isinstance(error, BaseExceptionGroup) and error.exceptions:
        error = error.exceptions[0]
    return error


def _plain(error: BaseException) -> str:
    """What went wrong."""
    error = _inner(error)
    return f"{type(error).__name__}: {error}"[:MAX_ERROR_LINE] if str(error) else type(error).__name__
