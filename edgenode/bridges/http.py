"""What bridges that speak HTTP have in common: a listener on this machine alone, and a gate before all that is served there.

A Host or Origin header other than this machine's is refused before anything else, so that no web page reaches a bridge
through a name of its own (DNS rebinding); then the bridge's token is wanted, but for what is `public`.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import socket
from collections.abc import Awaitable, Callable, MutableMapping
from pathlib import Path
from typing import Any

import uvicorn
from starlette.responses import JSONResponse, Response

from edgenode.bridges.access import SCHEME, Authenticator
from edgenode.link.config import is_loopback
from edgenode.link.errors import EdgenodeError, FailedPrecondition, Unauthenticated
from edgenode.link.wire.channels import check_plaintext, split_host_port

MAX_BODY_BYTES = 4 * 1024 * 1024  # an input of 1 MiB in base64, and room

Scope_ = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[MutableMapping[str, Any]]]
Send = Callable[[MutableMapping[str, Any]], Awaitable[None]]


async def serve(application: Any, listener: socket.socket, grace: float) -> Callable[[], Awaitable[None]]:
    """Serves; returns when it does, with what stops it within about `grace` seconds."""
    server = _Server(
        uvicorn.Config(
            application,
            log_config=None,
            access_log=False,
            lifespan="off",
            timeout_graceful_shutdown=int(grace),
            server_header=False,
        )
    )
    serving = asyncio.create_task(server.serve([listener]), name="bridge-http")

    async def stop() -> None:
        server.should_exit = True
        await asyncio.wait([serving], timeout=grace + 1)
        serving.cancel()
        await asyncio.wait([serving])

    await server.up(serving)
    return stop


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


def listen(target: str) -> tuple[socket.socket, str]:
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
            # asyncio sees to it for sockets that say they are TCP, which those accepted here do not; without it each answer
            # waits 40 ms for the caller's acknowledgement of its head.
            listener.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            url = f"http://{with_port(target, listener.getsockname()[1])}"
        listener.setblocking(False)
    except OSError as error:
        raise FailedPrecondition(
            "PORT_TAKEN", f"cannot listen on {target}: {error.strerror}", hint="stop who has it, or choose another one"
        ) from error
    return listener, url


def with_port(target: str, port: int) -> str:
    """An address with the port it got."""
    return target if target.startswith("unix:") else f"{target.rpartition(':')[0]}:{port}"


class Gate:
    """Before everything over HTTP: whose host, whose token, how much."""

    def __init__(
        self, application: Any, access: Authenticator, public: Callable[[str, str], bool] = lambda _method, _path: False
    ) -> None:
        self._application = application
        self._access = access
        self._public = public  # method and path -> needs no token

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
        if not _is_here(headers.get("host", "")):
            return JSONResponse({"error": "the Host is not this machine"}, status_code=421)
        scheme, _, origin = headers.get("origin", "").partition("://")
        if scheme and not (scheme in ("http", "https") and _is_here(origin)):
            return JSONResponse({"error": "the Origin is not this machine"}, status_code=403)
        length = headers.get("content-length", "0")
        if not length.isdigit() or int(length) > MAX_BODY_BYTES:
            return JSONResponse({"error": f"at most {MAX_BODY_BYTES} bytes"}, status_code=413)
        if self._public(scope["method"], scope["path"]):
            return None
        try:
            self._access.authenticate(headers.get("authorization", ""))
        except Unauthenticated as error:
            return refused(error, 401, {"WWW-Authenticate": SCHEME})
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


def _is_here(authority: str) -> bool:
    host, _, port = authority.rpartition(":")
    return is_loopback((host if port.isdigit() else authority).strip("[]"))


def refused(error: EdgenodeError, status: int, headers: dict[str, str] | None = None) -> Response:
    """A refusal as JSON."""
    problem = error.problem
    told = {"reason": problem.reason, "message": problem.message, "hint": problem.hint}
    return Response(json.dumps({"error": told}), status, headers, "application/json")
