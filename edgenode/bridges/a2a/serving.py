"""The bridge's listeners: JSON-RPC, HTTP+JSON and cards over HTTP, and gRPC, for one node, in a process of its own.

    GET  /.well-known/agent-card.json                 the node's card
    GET  /agents/NAME/.well-known/agent-card.json     an agent's
    POST /  and  /agents/NAME                         JSON-RPC
    .... /rest/...  and  /rest/NAME/...               HTTP+JSON; SubscribeToTask by GET and POST
    gRPC lf.a2a.v1.A2AService                         the agent is the request's tenant

Both listeners are on loopback or a Unix socket and want the bridge's token for everything but the public cards and gRPC's
health. A Host header other than this machine's is refused, so that no web page reaches the bridge through a name of its own.
"""

from __future__ import annotations

import contextlib
import hashlib
import logging
import socket
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import grpc
from a2a.server.context import ServerCallContext
from a2a.server.request_handlers.grpc_handler import DefaultGrpcServerCallContextBuilder
from a2a.server.routes import create_jsonrpc_routes, create_rest_routes
from a2a.server.routes.common import DefaultServerCallContextBuilder
from a2a.types import a2a_pb2_grpc
from a2a.utils.errors import VersionNotSupportedError
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Mount, Route

from edgenode.api.admin.v1 import admin_service_pb2, admin_service_pb2_grpc
from edgenode.bridges.a2a.cards import Places
from edgenode.bridges.a2a.handler import AGENT, GONE, Handler
from edgenode.bridges.a2a.refusals import Servicer
from edgenode.bridges.a2a.targets import Targets
from edgenode.bridges.a2a.webhooks import Webhooks
from edgenode.bridges.access import Authenticator
from edgenode.bridges.http import Gate, listen, refused, serve, with_port
from edgenode.bridges.places import Network
from edgenode.link.errors import EdgenodeError, Unauthenticated
from edgenode.link.model.task import Scope
from edgenode.link.wire.channels import (
    ServerSettings,
    add_health,
    bind,
    create_server,
    set_serving,
)
from edgenode.link.wire.interceptors import ServiceInterceptor
from edgenode.sdk.client import Client

CARD_PATH = "/.well-known/agent-card.json"
CARD_SECONDS = 30  # how long a card may be kept
STOP_SECONDS = 5.0
_SERVICE = "lf.a2a.v1.A2AService"


_log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True, kw_only=True)
class Settings:
    """Addresses: loopback HOST:PORT or `unix:PATH`, port 0 for any, empty for no such listener."""

    listen: str = ""
    listen_grpc: str = ""
    hooks: Path  # directory of the web hooks
    allow_webhooks: tuple[Network, ...] = ()
    scope: Scope = Scope.LOCAL  # where tasks may run unless their message says otherwise


@dataclass
class Bridge:
    """`start`, then `stop`; both are safe to repeat. `client` is open, and stays the caller's."""

    client: Client
    settings: Settings
    access: Authenticator
    targets: Targets | None = None
    places: Places = field(default_factory=lambda: Places("", ""))
    _ends: contextlib.AsyncExitStack = field(default_factory=contextlib.AsyncExitStack)

    async def start(self) -> None:
        """Returns when both listeners serve; `places` says where. Raises InvalidArgument, FailedPrecondition (PORT_TAKEN)."""
        try:
            await self._start()
        except BaseException:
            await self.stop()
            raise

    async def _start(self) -> None:
        settings = self.settings
        admin = admin_service_pb2_grpc.AdminServiceStub(self.client.channel)
        status: admin_service_pb2.GetStatusResponse = await self.client.unary(
            admin.GetStatus, admin_service_pb2.GetStatusRequest()
        )
        server = create_server(ServiceInterceptor(), ServerSettings(interceptors=(_TokenGate(self.access),)))
        health = add_health(server, [_SERVICE])
        places = Places("", "")
        listener = None
        if settings.listen:
            listener, url = listen(settings.listen)
            self._ends.callback(listener.close)
            places = Places(url, "")
        if settings.listen_grpc:
            port = bind(server, settings.listen_grpc, plaintext_loopback=True)
            places = Places(places.http, with_port(settings.listen_grpc, port))
        self.places = places
        targets = self.targets or Targets(settings.allow_webhooks)
        webhooks = Webhooks(self.client, settings.hooks, targets)
        self._ends.push_async_callback(webhooks.aclose)
        handler = Handler(self.client, status.node, places, webhooks, settings.scope)
        await webhooks.start()
        if settings.listen_grpc:
            a2a_pb2_grpc.add_A2AServiceServicer_to_server(Servicer(handler, _GrpcContexts()), server)
            await server.start()
            self._ends.push_async_callback(server.stop, STOP_SECONDS)
            await set_serving(health, True, ["", _SERVICE])
        if listener is not None:
            await self._serve_http(listener, handler)

    async def _serve_http(self, listener: socket.socket, handler: Handler) -> None:
        gate = Gate(_application(handler), self.access, _is_public)
        self._ends.push_async_callback(await serve(gate, listener, STOP_SECONDS))

    async def stop(self) -> None:
        """Ends streams and waits; deliveries to web hooks go on at the next start."""
        await self._ends.aclose()


# --- HTTP ---


def _application(handler: Handler) -> Starlette:
    contexts = _HttpContexts()

    async def card(request: Request) -> Response:
        try:
            body = await handler.public_card(request.path_params.get("agent", ""))
        except EdgenodeError as error:
            return refused(error, 404)
        tag = f'"{hashlib.blake2b(body, digest_size=16).hexdigest()}"'
        headers = {"ETag": tag, "Cache-Control": f"max-age={CARD_SECONDS}"}
        if request.headers.get("if-none-match") == tag:
            return Response(status_code=304, headers=headers)
        return Response(body, media_type="application/json", headers=headers)

    paths = ("/", "/agents/{agent}", "/agents/{agent}/")
    return Starlette(
        routes=[
            Route(CARD_PATH, card),
            Route("/agents/{agent}" + CARD_PATH, card),
            *(route for path in paths for route in create_jsonrpc_routes(handler, path, contexts)),
            Mount("/rest", routes=create_rest_routes(handler, contexts)),
        ]
    )


def _is_public(method: str, path: str) -> bool:
    """Cards, by which callers learn where the token is needed."""
    return method == "GET" and path.endswith(CARD_PATH)


class _HttpContexts(DefaultServerCallContextBuilder):
    def build(self, request: Request) -> ServerCallContext:
        """Also which agent was addressed, and how to learn that the caller is gone."""
        context = super().build(request)
        context.state[AGENT] = request.path_params.get("agent", "")

        async def gone() -> None:
            while (await request.receive())["type"] != "http.disconnect":
                pass

        context.state[GONE] = gone
        return context


# --- gRPC ---


class _GrpcContexts(DefaultGrpcServerCallContextBuilder):
    def build(self, context: Any) -> ServerCallContext:
        """Also the headers, and whether the version is ours. An rpc without one is what its service's name says."""
        made = super().build(context)
        headers = {str(key): str(value) for key, value in context.invocation_metadata() or ()}
        made.state["headers"] = headers
        version = headers.get("a2a-version", "1.0")
        if version.split(".")[0] != "1":
            raise VersionNotSupportedError(message=f"A2A version {version!r} is not served here, 1.0 is")
        return made


class _TokenGate(grpc.aio.ServerInterceptor):
    """Wants the token for every method of A2A."""

    def __init__(self, access: Authenticator) -> None:
        self._access = access

    async def intercept_service(
        self,
        continuation: Callable[[grpc.HandlerCallDetails], Awaitable[Any]],
        handler_call_details: grpc.HandlerCallDetails,
    ) -> Any:
        """See grpc.aio.ServerInterceptor. What it raises becomes a status further out."""
        handler = await continuation(handler_call_details)
        if handler is None or not handler_call_details.method.startswith(f"/{_SERVICE}/"):
            return handler
        said = dict(handler_call_details.invocation_metadata or ())
        try:
            self._access.authenticate(str(said.get("authorization", "")))
        except Unauthenticated as error:
            refusal = error
        else:
            return handler

        async def refuse(_request: Any, _context: Any) -> Any:
            raise refusal

        async def refuse_stream(_request: Any, _context: Any) -> Any:
            raise refusal
            yield

        make = (
            grpc.unary_stream_rpc_method_handler if handler.response_streaming else grpc.unary_unary_rpc_method_handler
        )
        return make(
            refuse_stream if handler.response_streaming else refuse,
            request_deserializer=handler.request_deserializer,
            response_serializer=handler.response_serializer,
        )
