"""The pipes of an MCP server that is a program, spoken to by the SDK's session and past it.

Theory of operation. The session agrees on a revision, lists the tools, hears notifications and answers what the server asks.
Calls of tools do not go through it, for its tasks, streams and models take more time than all else a mount adds to a call:
`request` writes a line, and the answer wakes whoever waits for it in the turn that reads it.

An answer goes by its id. The session counts from 1, `request` from FIRST_ID: what bears the id of a request under way, as
an answer or as the token of a progress, is that request's; everything else is the session's, also what nobody here
understands. What the session says of itself in each of its requests (revision 2026-07-28) is said in ours too, as it stood
in its last `tools/list`.

The result of a request is the JSON text the server wrote. It is not looked into here.
"""

from __future__ import annotations

import asyncio
import itertools
import logging
import re
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass
from typing import Any

import anyio
import mcp_types as types
import msgspec
from mcp.client.stdio import get_default_environment
from mcp.shared.dispatcher import coerce_request_id
from mcp.shared.exceptions import MCPError
from mcp.shared.message import SessionMessage
from pydantic_core import to_json

from edgenode.bridges.mcp.program import Program, start

FIRST_ID = 1_000_000_000  # of our requests; a whole number, for not every server minds what a text is
MOST_UNREAD = 256  # messages to the session; the server is not read meanwhile
_IDS = re.compile(rb'"id"\s*:\s*"?(\d{10})\b')  # as ours are
_OF_THE_SESSION = "io.modelcontextprotocol/"  # keys of `_meta`

Progress = Callable[[float, float | None, str | None], None]

_log = logging.getLogger(__name__)


class ServerLost(Exception):
    """The server went away. `sent`: whether the request may have reached it."""

    def __init__(self, message: str, *, sent: bool) -> None:
        super().__init__(message)
        self.sent = sent


_NOTHING = msgspec.Raw()


class _Message(msgspec.Struct):
    """As much of a message as says whose it is."""

    id: int | str | None = None
    method: str | None = None
    params: msgspec.Raw = _NOTHING
    result: msgspec.Raw = _NOTHING
    error: msgspec.Raw = _NOTHING


class _Error(msgspec.Struct):
    code: int
    message: str = ""
    data: Any = None


class _Told(msgspec.Struct):
    """Of `notifications/progress`."""

    token: int | str = msgspec.field(name="progressToken")
    progress: float
    total: float | None = None
    message: str | None = None


@dataclass(slots=True)
class _Request:
    answer: asyncio.Future[bytes]
    on_progress: Progress


_message = msgspec.json.Decoder(_Message).decode
_error = msgspec.json.Decoder(_Error).decode
_told = msgspec.json.Decoder(_Told).decode
_encode = msgspec.json.Encoder().encode


class Pipe(AbstractAsyncContextManager[Any]):
    """A transport of the SDK: entering it starts the program and gives the session's streams; leaving it ends it."""

    def __init__(
        self,
        arguments: Sequence[str],
        environment: Mapping[str, str],
        directory: str,
        on_error_line: Callable[[bytes], None],
    ) -> None:
        """The program gets the SDK's default environment and `environment`. `directory` may be empty."""
        self._arguments = arguments
        self._environment = get_default_environment() | dict(environment)
        self._directory = directory
        self._program = Program(self.take, on_error_line, self.close)
        self._session = _ToSession(self._program)
        self._requests: dict[int | str, _Request] = {}
        self._ids = itertools.count(FIRST_ID)
        self._stamp: dict[str, Any] = {}
        self._closed = ""  # why

    async def __aenter__(self) -> tuple[_ToSession, _FromSession]:
        await start(self._program, self._arguments, self._environment, self._directory)
        return self._session, _FromSession(self._program, self._learn, self.close)

    async def __aexit__(self, *exception: object) -> None:
        self.close("its connection closed")
        await self._program.end()

    async def request(
        self, method: str, params: Mapping[str, Any], meta: Mapping[str, Any], on_progress: Progress
    ) -> bytes:
        """The result as the server wrote it. Cancelling this cancels the request there.

        Raises MCPError for what the server refuses, ServerLost, and ValueError for an answer that is none.
        """
        request_id = next(self._ids)
        said = {**self._stamp, **meta, "progressToken": request_id}
        line = _line({"id": request_id, "method": method, "params": {**params, "_meta": said}})
        request = _Request(asyncio.get_running_loop().create_future(), on_progress)
        self._requests[request_id] = request
        sent = False
        try:
            if self._closed:
                raise ServerLost(self._closed, sent=False)
            await self._program.write(line)
            sent = True
            return await request.answer
        except ConnectionError as error:
            raise ServerLost(str(error), sent=False) from error
        except asyncio.CancelledError:
            if sent:
                reason = {"requestId": request_id, "reason": "caller cancelled"}
                self._program.write_now(_line({"method": "notifications/cancelled", "params": reason}))
            raise
        finally:
            del self._requests[request_id]

    def take(self, line: bytes) -> None:
        """A line the server wrote."""
        try:
            message = _message(line)
        except (msgspec.DecodeError, RecursionError):
            self._take_other(line)  # also what is only nearly JSON, such as a number that is none
            return
        if message.method is None:
            request = self._requests.get(_key(message.id))
            if request is not None:
                _settle(request, message)
                return
        elif message.method == "notifications/progress" and self._take_progress(message.params):
            return
        self._take_other(line)

    def close(self, why: str) -> None:
        """There are no more lines."""
        self._closed = self._closed or why
        for request in self._requests.values():
            if not request.answer.done():
                request.answer.set_exception(ServerLost(why, sent=True))
        self._session.close()

    def _take_progress(self, params: msgspec.Raw) -> bool:
        try:
            told = _told(params)
        except (msgspec.DecodeError, RecursionError):
            return False
        request = self._requests.get(_key(told.token))
        if request is None:
            return False
        try:
            request.on_progress(told.progress, told.total, told.message)
        except Exception:
            _log.exception("progress that could not be passed on")
        return True

    def _take_other(self, line: bytes) -> None:
        """By the SDK's own parser; what it cannot read goes to the session as the problem it is."""
        try:
            message = types.jsonrpc_message_adapter.validate_json(line, by_name=False)
        except ValueError as error:
            _log.warning("a line that is no message: %r", line[:200])
            self._fail(line, error)
            self._session.take(error)
            return
        if isinstance(message, types.JSONRPCResponse) and (request := self._requests.get(_key(message.id))) is not None:
            if not request.answer.done():
                request.answer.set_result(to_json(message.result, inf_nan_mode="null"))
            return
        self._session.take(SessionMessage(message))

    def _fail(self, line: bytes, problem: ValueError) -> None:
        """Who waits for an answer that nobody can read is told so, as far as its id can be made out."""
        for id in _IDS.findall(line) if line.startswith(b"{") else ():
            request = self._requests.get(int(id))
            if request is not None and not request.answer.done():
                request.answer.set_exception(ValueError(f"an answer that is no JSON-RPC: {problem}"))

    def _learn(self, request: types.JSONRPCRequest) -> None:
        if request.method == "tools/list":
            meta = (request.params or {}).get("_meta") or {}
            self._stamp = {key: said for key, said in meta.items() if key.startswith(_OF_THE_SESSION)}


def _settle(request: _Request, message: _Message) -> None:
    if request.answer.done():
        return
    if bytes(message.result):
        request.answer.set_result(bytes(message.result))
        return
    try:
        error = _error(message.error)
    except (msgspec.DecodeError, RecursionError) as problem:
        request.answer.set_exception(ValueError(f"an answer without a result or an error: {problem}"))
        return
    request.answer.set_exception(MCPError(error.code, error.message, error.data))


def _key(id: int | str | None) -> int | str:
    return "" if id is None else coerce_request_id(id)


def _line(message: Mapping[str, Any]) -> bytes:
    return _encode({"jsonrpc": "2.0", **message}) + b"\n"


class _Stream(AbstractAsyncContextManager[Any]):
    """Ends with the transport, whoever closes it before."""

    async def __aexit__(self, *exception: object) -> None:
        return None

    async def aclose(self) -> None:
        """See the SDK's streams."""


class _ToSession(_Stream):
    """What the session reads. While it does not, the server is not read either."""

    def __init__(self, program: Program) -> None:
        self._program = program
        self._unread: deque[SessionMessage | Exception] = deque()
        self._some = asyncio.Event()
        self._paused = False
        self._closed = False

    def take(self, item: SessionMessage | Exception) -> None:
        """The next message."""
        self._unread.append(item)
        self._some.set()
        if len(self._unread) > MOST_UNREAD and not self._paused:
            self._paused = True
            self._program.pause(reading=False)

    def close(self) -> None:
        """There are no more."""
        self._closed = True
        self._some.set()

    def __aiter__(self) -> _ToSession:
        return self

    async def __anext__(self) -> SessionMessage | Exception:
        while not self._unread:
            if self._closed:
                raise StopAsyncIteration
            if self._paused:
                self._paused = False
                self._program.pause(reading=True)
            self._some.clear()
            await self._some.wait()
        return self._unread.popleft()


class _FromSession(_Stream):
    """What the session writes. Each request is shown to `on_request` before; `on_broken` is told why nothing goes any more."""

    def __init__(
        self, program: Program, on_request: Callable[[types.JSONRPCRequest], None], on_broken: Callable[[str], None]
    ) -> None:
        self._program = program
        self._on_request = on_request
        self._on_broken = on_broken

    async def send(self, item: SessionMessage) -> None:
        """Write a message. Raises what the session takes for a connection that is closed."""
        if isinstance(item.message, types.JSONRPCRequest):
            self._on_request(item.message)
        try:
            await self._program.write(item.message.model_dump_json(by_alias=True, exclude_unset=True).encode() + b"\n")
        except ConnectionError as error:
            self._on_broken(str(error))
            raise anyio.ClosedResourceError from error
