"""An A2A agent that runs elsewhere: its card, and what may be asked of it.

The card is fetched from the mount's URL; of the interfaces it names the first of its own preference is used that speaks
JSON-RPC, HTTP+JSON or gRPC. Headers of the mount's file go to the host of that URL alone: a card may name any other.

A request that was not sent, or may not have arrived, raises `RemoteLost`; what the agent refuses is the SDK's A2AError.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
from collections.abc import AsyncIterator, Awaitable
from contextlib import aclosing
from pathlib import Path
from typing import Any, TypeVar
from urllib.parse import urlsplit

import grpc
import httpx
from a2a.client import Client, ClientCallContext, ClientConfig, ClientFactory
from a2a.client.card_resolver import parse_agent_card
from a2a.client.errors import A2AClientError, A2AClientTimeoutError, AgentCardResolutionError
from a2a.types import a2a_pb2
from a2a.utils.errors import A2AError
from google.protobuf.json_format import ParseError

from edgenode.api.admin.v1 import admin_pb2
from edgenode.bridges.header_files import read_headers
from edgenode.link.config import is_loopback
from edgenode.link.errors import InvalidArgument, Unavailable
from edgenode.link.wire.channels import open_channel

CARD_PATH = "/.well-known/agent-card.json"
MAX_CARD_BYTES = 64 * 1024
ANSWER_TIME = 30.0  # seconds one request may take; streams last as long as their task
BINDINGS = ["JSONRPC", "HTTP+JSON", "GRPC"]
_TIMEOUT = httpx.Timeout(ANSWER_TIME, read=None)

_REFUSED = frozenset(
    {
        grpc.StatusCode.UNAUTHENTICATED,
        grpc.StatusCode.PERMISSION_DENIED,
        grpc.StatusCode.UNIMPLEMENTED,
        grpc.StatusCode.RESOURCE_EXHAUSTED,
    }
)

Answer = TypeVar("Answer")


class RemoteLost(Exception):
    """The agent is out of reach. `sent`: whether the request may have reached it."""

    def __init__(self, message: str, *, sent: bool) -> None:
        super().__init__(message[:1024])
        self.sent = sent


class Remote:
    """`await open()`, then ask; `await close()` at the end, also when `open` raised. `source` is the card as it came."""

    def __init__(self, agent: admin_pb2.A2aAgent) -> None:
        self._url = agent.url.rstrip("/")
        self._card_url = self._url if self._url.endswith(".json") else self._url + CARD_PATH
        self._headers = read_headers(Path(agent.headers_file)) if agent.headers_file else {}
        self._http = httpx.AsyncClient(timeout=_TIMEOUT, follow_redirects=False)
        self._channels: dict[str, grpc.aio.Channel] = {}
        self._client: Client | None = None
        self._streams: Client | None = None
        self._credentials: dict[str, str] = {}
        self.card = a2a_pb2.AgentCard()
        self.source = b""
        self.interface = a2a_pb2.AgentInterface()

    async def open(self) -> None:
        """Gets the card and chooses an interface. Raises RemoteLost, InvalidArgument (BAD_CARD, NO_INTERFACE)."""
        self.source, self.card = await self._fetch()
        usable = [each for each in self.card.supported_interfaces if each.protocol_binding in BINDINGS]
        if not usable:
            names = ", ".join(each.protocol_binding for each in self.card.supported_interfaces)
            raise InvalidArgument("NO_INTERFACE", f"the card names no interface of {', '.join(BINDINGS)}", hint=names)
        self.interface = usable[0]
        if _host(self.interface.url) == _host(self._url):
            self._credentials = self._headers
        try:
            self._client, self._streams = self._made(streaming=False), self._made(streaming=True)
        except (ValueError, A2AClientError) as error:
            raise InvalidArgument("NO_INTERFACE", str(error)[:500], hint="see its card") from error
        if self.card.capabilities.extended_agent_card and self._credentials:
            # What it says to those it knows; without it the public card holds.
            with contextlib.suppress(A2AError, RemoteLost):
                self.card = await self._ask(
                    self._client.get_extended_agent_card(
                        a2a_pb2.GetExtendedAgentCardRequest(), context=self._context(ANSWER_TIME)
                    )
                )

    def _made(self, *, streaming: bool) -> Client:
        """The SDK's clients send messages by streams wherever they may stream at all."""
        config = ClientConfig(
            streaming=streaming,
            polling=True,
            httpx_client=self._http,
            grpc_channel_factory=self._channel,
            supported_protocol_bindings=[self.interface.protocol_binding],
        )
        return ClientFactory(config).create(self.card)

    async def close(self) -> None:
        """Ends what is open."""
        await self._http.aclose()
        for channel in self._channels.values():
            await channel.close()

    async def changed(self) -> bool:
        """Whether the public card is another one by now. Raises RemoteLost, InvalidArgument (BAD_CARD)."""
        return (await self._fetch())[0] != self.source

    async def _fetch(self) -> tuple[bytes, a2a_pb2.AgentCard]:
        source = bytearray()
        try:
            async with (
                asyncio.timeout(ANSWER_TIME),
                self._http.stream("GET", self._card_url, headers=self._headers) as response,
            ):
                async for chunk in response.aiter_bytes():
                    source += chunk
                    if len(source) > MAX_CARD_BYTES:
                        break
        except (httpx.HTTPError, OSError, TimeoutError) as error:
            raise RemoteLost(f"{self._card_url}: {_words(error)}", sent=False) from error
        if response.status_code >= 500:
            raise RemoteLost(f"{self._card_url} answers {response.status_code}", sent=False)
        try:
            if response.status_code != 200:
                raise ValueError(f"it answers {response.status_code}")
            if len(source) > MAX_CARD_BYTES:
                raise ValueError(f"it has more than {MAX_CARD_BYTES} bytes")
            return bytes(source), parse_agent_card(json.loads(source))
        except (ValueError, RecursionError, ParseError) as error:
            hint = f"give the URL that has the agent's card below it, at {CARD_PATH}, or the card's own"
            raise InvalidArgument("BAD_CARD", f"{self._card_url}: {error}"[:1024], hint=hint) from error

    async def send(self, message: a2a_pb2.Message) -> a2a_pb2.Task | a2a_pb2.Message:
        """Sends it; returns at once, with the task or a message that is the whole answer."""
        request = a2a_pb2.SendMessageRequest(message=message)
        request.configuration.return_immediately = True

        async def first() -> a2a_pb2.StreamResponse:
            stream: Any = self._there.send_message(request, context=self._context(ANSWER_TIME))
            async with aclosing(stream) as events:
                async for event in events:
                    return event  # type: ignore[no-any-return]
            raise RemoteLost("it answered nothing", sent=True)

        event = await self._ask(first())
        return event.task if event.HasField("task") else event.message

    async def get(self, task_id: str) -> a2a_pb2.Task:
        """A task as it is now."""
        request = a2a_pb2.GetTaskRequest(id=task_id, history_length=1)
        return await self._ask(self._there.get_task(request, context=self._context(ANSWER_TIME)))

    async def cancel(self, task_id: str) -> a2a_pb2.Task:
        """Asks for its end."""
        request = a2a_pb2.CancelTaskRequest(id=task_id)
        return await self._ask(self._there.cancel_task(request, context=self._context(ANSWER_TIME)))

    async def of_context(self, context_id: str) -> list[a2a_pb2.Task]:
        """The newest tasks of a context with their messages."""
        request = a2a_pb2.ListTasksRequest(context_id=context_id, page_size=100, history_length=100)
        answer = await self._ask(self._there.list_tasks(request, context=self._context(ANSWER_TIME)))
        return list(answer.tasks)

    async def changes(self, task_id: str) -> AsyncIterator[a2a_pb2.StreamResponse]:
        """What happens to a task from now on, for as long as the agent keeps the stream open."""
        request = a2a_pb2.SubscribeToTaskRequest(id=task_id)
        stream: Any = (self._streams or self._there).subscribe(request, context=self._context(None))
        try:
            async with aclosing(stream) as events:
                async for event in events:
                    yield event
        except (httpx.HTTPError, OSError, A2AClientError, grpc.aio.AioRpcError) as error:
            raise _lost(error) from error

    @property
    def _there(self) -> Client:
        if self._client is None:
            raise RemoteLost("it is not connected", sent=False)
        return self._client

    def _context(self, timeout: float | None) -> ClientCallContext:
        return ClientCallContext(service_parameters=dict(self._credentials), timeout=timeout)

    async def _ask(self, request: Awaitable[Answer]) -> Answer:
        try:
            return await request
        except AgentCardResolutionError as error:
            raise RemoteLost(_words(error), sent=False) from error
        except (httpx.HTTPError, OSError, A2AClientError, grpc.aio.AioRpcError) as error:
            raise _lost(error) from error

    def _channel(self, url: str) -> grpc.aio.Channel:
        if url in self._channels:
            return self._channels[url]
        target = url.removeprefix("grpc://").removeprefix("http://").removeprefix("https://")
        loopback = is_loopback(target.rpartition(":")[0].strip("[]")) and not url.startswith("https://")
        channel = open_channel(
            target, None if loopback else grpc.ssl_channel_credentials(), plaintext_loopback=loopback
        )
        self._channels[url] = channel
        return channel


def _host(url: str) -> str:
    return urlsplit(url if "://" in url else f"//{url}").hostname or ""


def _lost(error: Exception) -> RemoteLost:
    """A request surely did nothing where no connection was made, or where it was refused before anybody looked at it."""
    cause: BaseException | None = error
    sent = True
    while cause is not None:
        if isinstance(cause, httpx.ConnectError | httpx.ConnectTimeout | httpx.PoolTimeout):
            sent = False
        elif isinstance(cause, httpx.HTTPStatusError):
            sent = cause.response.status_code >= 500
        elif isinstance(cause, grpc.aio.AioRpcError):
            sent = cause.code() not in _REFUSED and "failed to connect" not in (cause.details() or "")
        cause = cause.__cause__
    return RemoteLost(_words(error), sent=sent)


def _words(error: BaseException) -> str:
    if isinstance(error, A2AClientTimeoutError | TimeoutError):
        return "it did not answer in time"
    return f"{type(error).__name__}: {error}" if str(error) else type(error).__name__


def unavailable(reason: str, lost: RemoteLost, *, retryable: bool = True, hint: str = "") -> Unavailable:
    """The problem of a task whose agent was lost."""
    return Unavailable(reason, str(lost), hint=hint or "edgenode a2a list", retryable=retryable)
