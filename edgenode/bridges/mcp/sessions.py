"""What is kept of a client between its requests: the clients of 2025-11-25 and before that are there, and what they asked for.

Clients of 2026-07-28 have no sessions: each of their requests says all there is to know, and what they want to hear of they
ask for with a stream (`subscriptions/listen`), which the SDK serves.
"""

from __future__ import annotations

import asyncio
import weakref
from collections.abc import Awaitable, Callable
from typing import Any

import mcp_types as types
from mcp.server.connection import Connection
from mcp.server.context import ServerRequestContext
from mcp.server.session import ServerSession
from mcp.server.subscriptions import (
    InMemorySubscriptionBus,
    PromptsListChanged,
    ResourcesListChanged,
    ResourceUpdated,
    ServerEvent,
    ToolsListChanged,
)
from mcp_types.version import MODERN_PROTOCOL_VERSIONS

Request = ServerRequestContext[Any, Any]

_LEVELS = ("debug", "info", "notice", "warning", "error", "critical", "alert", "emergency")
_LEVEL, _URIS = "log level", "uris"
_EVENTS: dict[str, tuple[Callable[[], ServerEvent], Callable[[Connection], Awaitable[None]]]] = {
    "tools": (ToolsListChanged, Connection.send_tool_list_changed),
    "prompts": (PromptsListChanged, Connection.send_prompt_list_changed),
    "resources": (ResourcesListChanged, Connection.send_resource_list_changed),
}


def connection_of(session: ServerSession) -> Connection:
    """What outlives a request; the SDK keeps it to itself."""
    return session._connection


def wants_logs(request: Request) -> bool:
    """Whether the client wants entries of the log at level info."""
    if request.protocol_version in MODERN_PROTOCOL_VERSIONS:
        level = (request.meta or {}).get(types.LOG_LEVEL_META_KEY)
    else:
        level = connection_of(request.session).state.get(_LEVEL)
    return level in _LEVELS and _LEVELS.index(level) <= _LEVELS.index("info")


class Sessions:
    """The clients that are to be told of changes."""

    def __init__(self) -> None:
        self.bus = InMemorySubscriptionBus()
        self._connections: weakref.WeakSet[Connection] = weakref.WeakSet()
        self._sending: set[asyncio.Task[None]] = set()

    async def joined(self, request: Request, _params: Any) -> None:
        """A client of an older revision is there."""
        self._connections.add(connection_of(request.session))

    async def set_level(self, request: Request, params: types.SetLevelRequestParams) -> types.EmptyResult:
        """It wants to hear of what its tools say from this level on."""
        connection_of(request.session).state[_LEVEL] = params.level
        return types.EmptyResult()

    async def subscribe(self, request: Request, params: types.SubscribeRequestParams) -> types.EmptyResult:
        """It wants to hear when a resource changes."""
        connection_of(request.session).state.setdefault(_URIS, set()).add(params.uri)
        return types.EmptyResult()

    async def unsubscribe(self, request: Request, params: types.UnsubscribeRequestParams) -> types.EmptyResult:
        """It does not any more."""
        connection_of(request.session).state.setdefault(_URIS, set()).discard(params.uri)
        return types.EmptyResult()

    def changed(self, kinds: set[str]) -> None:
        """Tells everybody that lists ("tools", "prompts", "resources") are other ones now."""
        for kind in sorted(kinds):
            event, send = _EVENTS[kind]
            self._spawn(self.bus.publish(event()))
            for connection in list(self._connections):
                self._spawn(send(connection))

    def updated(self, uri: str) -> None:
        """Tells those who subscribed that a resource changed."""
        self._spawn(self.bus.publish(ResourceUpdated(uri=uri)))
        for connection in list(self._connections):
            if uri in connection.state.get(_URIS, ()):
                self._spawn(connection.send_resource_updated(uri))

    def _spawn(self, work: Awaitable[None]) -> None:
        task = asyncio.ensure_future(work)
        self._sending.add(task)
        task.add_done_callback(self._sending.discard)
