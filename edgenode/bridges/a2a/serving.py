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

import asyncio
import contextlib
import hashlib
import json
import logging
import socket
from collections.abc import Awaitable, Callable, MutableMapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import grpc
import uvicorn
from a2a.server.context import ServerCallContext
from a2a.server.request_handlers.grpc_handler import DefaultGrpcServerCallContextBuilder
from a2a.server.routes import create_jsonrpc_routes, create_rest_routes
from a2a.server.routes.common import DefaultServerCallContextBuilder
from a2a.types import a2a_pb2_grpc
from a2a.utils.errors import VersionNotSupportedError
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Mount, Route

from edgenode.api.admin.v1 import admin_service_pb2, admin_service_pb2_grpc
from edgenode.bridges.a2a.cards import Places
from edgenode.bridges.a2a.handler import AGENT, GONE, Handler
from edgenode.bridges.a2a.refusals import Servicer
from edgenode.bridges.a2a.targets import Network, Targets
from edgenode.bridges.a2a.webhooks import Webhooks
from edgenode.bridges.access import Authenticator
from edgenode.link.config import is_loopback
from edgenode.link.errors import EdgenodeError, FailedPrecondition, Unauthenticated
from edgenode.link.model.task import Scope
from edgenode.link.wire.channels import (
    ServerSettings,
    add_health,
    bind,
    check_plaintext,
    create_server,
    set_serving,
    split_host_port,
)
from edgenode.link.wire.interceptors import ServiceInterceptor
from edgenode.sdk.client import Client

CARD_PATH = "/.well-known/agent-card.json"
MAX_BODY_BYTES = 4 * 1024 * 1024  # an input of 1 MiB in base64, and room
CARD_SECONDS = 30  # how long a card may be kept
STOP_SECONDS = 5.0
_SERVICE = "lf.a2a.v1.A2AService"

Scope_ = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[MutableMapping[str, Any]]]
Send = Callable[[MutableMapping[str, Any]], Awaitable[None]]

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
            listener, url = _listen(settings.listen)
            self._ends.callback(listener.close)
            places = Places(url, "")
        if settings.listen_grpc:
            port = bind(server, settings.listen_grpc, plaintext_loopback=True)
            places = Places(places.http, _with_port(settings.listen_grpc, port))
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
        server = _Server(
            uvicorn.Config(
                _Gate(_application(handler), self.access),
                log_config=None,
                access_log=False,
                lifespan="off",
                timeout_graceful_shutdown=int(STOP_SECONDS),
                server_header=False,
            )
        )
        serving = asyncio.create_task(server.serve([listener]), name="a2a-http")

        async def stop() -> None:
            server.should_exit = True
            await asyncio.wait([serving], timeout=STOP_SECONDS + 1)
            serving.cancel()
            await asyncio.wait([serving])

        self._ends.push_async_callback(stop)
        await server.up(serving)

    async def stop(self) -> None:
        """Ends streams and waits; deliveries to web hooks go on at the next start."""
        await self._ends.aclose()


class _Server(uvicorn.Server):
    """Signals are the process's own business, and who starts it wants to know when it serves."""

    def __init__(self, config: uvicorn.Config) -> None:
        super().__init__(config)
        self._up = asyncio.Event()

    @contextlib.contextmanager
    def capture_signals(self) -> Any:
        """Leaves them alone."""
        yield

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        """See uvicorn.Server."""
        await super().startup(sockets)
        self._up.set()

    async def up(self, serving: asyncio.Task[None]) -> None:
        """Until it serves; raises what kept it from it."""
        waiting = asyncio.create_task(self._up.wait())
        await asyncio.wait([serving, waiting], return_when=asyncio.FIRST_COMPLETED)
        waiting.cancel()
        if serving.done():
            serving.result()
            raise FailedPrecondition("NOT_SERVING", "the HTTP listener ended as it began", hint="see the log")


def _listen(target: str) -> tuple[socket.socket, str]:
    """A listening socket on a Unix path or loopback, and its base URL."""
    check_plaintext(target, plaintext_loopback=True)
    try:
        if target.startswith("unix:"):
            path = Path(target.removeprefix("unix:"))
            listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
            path.unlink(missing_ok=True)
            listener.bind(str(path))
            path.chmod(0o600)
            url = "http://localhost"
        else:
            host, port = split_host_port(target)
            listener = socket.create_server(
                (host, port), family=socket.AF_INET6 if ":" in host else socket.AF_INET, reuse_port=False
            )
            url = f"http://{_with_port(target, listener.getsockname()[1])}"
        listener.setblocking(False)
    except OSError as error:
        raise FailedPrecondition(
            "PORT_TAKEN", f"cannot listen on {target}: {error.strerror}", hint="stop who has it, or choose another one"
        ) from error
    return listener, url


def _with_port(target: str, port: int) -> str:
    return target if target.startswith("unix:") else f"{target.rpartition(':')[0]}:{port}"


# --- HTTP ---


def _application(handler: Handler) -> Starlette:
    contexts = _HttpContexts()

    async def card(request: Request) -> Response:
        try:
            body = await handler.public_card(request.path_params.get("agent", ""))
        except EdgenodeError as error:
            return _refused(error, 404)
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


class _Gate:
    """Before everything over HTTP: whose host, whose token, how much."""

    def __init__(self, application: Any, access: Authenticator) -> None:
        self._application = application
        self._access = access

    async def __call__(self, scope: Scope_, receive: Receive, send: Send) -> None:
        """See ASGI."""
        if scope["type"] != "http":
            return
        headers = {name.decode("latin-1"): value.decode("latin-1") for name, value in scope["headers"]}
        refused = self._refusal(scope, headers)
        if refused is not None:
            await refused(scope, receive, send)
            return
        await self._application(scope, _bounded(receive), send)

    def _refusal(self, scope: Scope_, headers: dict[str, str]) -> Response | None:
        host = headers.get("host", "")
        name = host.rpartition(":")[0] if host.rpartition(":")[2].isdigit() else host
        if not is_loopback(name.strip("[]")):
            return JSONResponse({"error": "the Host is not this machine"}, status_code=421)
        length = headers.get("content-length", "0")
        if not length.isdigit() or int(length) > MAX_BODY_BYTES:
            return JSONResponse({"error": f"at most {MAX_BODY_BYTES} bytes"}, status_code=413)
        if scope["method"] == "GET" and scope["path"].endswith(CARD_PATH):
            return None
        try:
            self._access.authenticate(headers.get("authorization", ""))
        except Unauthenticated as error:
            return _refused(error, 401, {"WWW-Authenticate": "Bearer"})
        return None


def _bounded(receive: Receive) -> Receive:
    """The same, which ends the request where its body is too long though it did not say so."""
    taken = 0

    async def bounded() -> MutableMapping[str, Any]:
        nonlocal taken
        event = await receive()
        taken += len(event.get("body", b""))
        return {"type": "http.disconnect"} if taken > MAX_BODY_BYTES else event

    return bounded


def _refused(error: EdgenodeError, status: int, headers: dict[str, str] | None = None) -> Response:
    problem = error.problem
    told = {"reason": problem.reason, "message": problem.message, "hint": problem.hint}
    return Response(json.dumps({"error": told}), status, headers, "application/json")


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
