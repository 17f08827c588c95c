"""An MCP server that wants tokens, and the authorization server they are from, for tests: both in this process.

`expire()` makes access tokens worthless, `revoke()` refresh tokens as well, `down` the authorization server; `seen` has what
each of its token requests carried.
"""

from __future__ import annotations

import asyncio
import itertools
import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any
from urllib.parse import urlencode

import httpx2
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, RedirectResponse, Response
from starlette.routing import Route

from edgenode.bridges.http import listen, serve

MCP = "/mcp"
SCOPE, WIDE = "read", "write"
TOOLS = [
    {"name": "echo", "inputSchema": {"type": "object"}, "annotations": {"readOnlyHint": True}},
    {"name": "buy", "inputSchema": {"type": "object"}},
    {"name": "wipe", "inputSchema": {"type": "object"}},  # wants a wider scope
]


class Site:
    """`url` of the server."""

    def __init__(self, base: str) -> None:
        self.base = base
        self.url = base + MCP
        self.down = False
        self.seen: list[dict[str, str]] = []
        self.calls: list[str] = []  # tools that ran
        self._numbers = itertools.count(1)
        self._access: dict[str, str] = {}  # scope by token
        self._refresh: dict[str, str] = {}
        self._codes: dict[str, str] = {}
        self.application = Starlette(
            routes=[
                Route(MCP, self._mcp, methods=["POST", "GET", "DELETE"]),
                Route("/.well-known/oauth-protected-resource/mcp", self._resource),
                Route("/.well-known/oauth-authorization-server", self._metadata),
                Route("/authorize", self._authorize),
                Route("/register", self._register, methods=["POST"]),
                Route("/token", self._token, methods=["POST"]),
            ]
        )

    def expire(self) -> None:
        """The server takes no token it took so far."""
        self._access.clear()

    def revoke(self) -> None:
        """And the authorization server gives none for what it gave so far."""
        self.expire()
        self._refresh.clear()

    def secrets(self) -> set[str]:
        """Everything that nobody may read."""
        return {*self._access, *self._refresh}

    def granted(self, kind: str) -> list[dict[str, str]]:
        """Token requests of a grant type."""
        return [form for form in self.seen if form["grant_type"] == kind]

    async def _resource(self, _request: Request) -> Response:
        return JSONResponse(
            {"resource": self.url, "authorization_servers": [self.base], "scopes_supported": [SCOPE, WIDE]}
        )

    async def _metadata(self, _request: Request) -> Response:
        return JSONResponse(
            {
                "issuer": self.base,
                "authorization_endpoint": f"{self.base}/authorize",
                "token_endpoint": f"{self.base}/token",
                "registration_endpoint": f"{self.base}/register",
                "response_types_supported": ["code"],
                "code_challenge_methods_supported": ["S256"],
                "authorization_response_iss_parameter_supported": True,
            }
        )

    async def _register(self, request: Request) -> Response:
        asked = await request.json()
        client = {"client_id": f"client-{next(self._numbers)}", "redirect_uris": asked["redirect_uris"]}
        return JSONResponse(client, status_code=201)

    async def _authorize(self, request: Request) -> Response:
        asked = request.query_params
        code = f"code-{next(self._numbers)}"
        self._codes[code] = asked.get("scope", "")
        fields = urlencode({"code": code, "state": asked["state"], "iss": self.base})
        return RedirectResponse(f"{asked['redirect_uri']}?{fields}")

    async def _token(self, request: Request) -> Response:
        if self.down:
            return JSONResponse({"error": "temporarily_unavailable"}, status_code=503)
        form = {name: str(value) for name, value in (await request.form()).items()}
        self.seen.append(form)
        kind = form["grant_type"]
        if kind == "authorization_code":
            scope = self._codes.pop(form["code"], None)
        elif kind == "refresh_token":
            scope = self._refresh.pop(form["refresh_token"], None)  # each is good for once
        else:
            scope = SCOPE if form.get("client_secret") == "a-secret-of-the-client" else None
        if scope is None:
            said = f"{form.get('refresh_token')} {form.get('client_secret')} is not known"
            return JSONResponse({"error": "invalid_grant", "error_description": said}, status_code=400)
        access, refresh = f"access-token-{next(self._numbers)}", f"refresh-token-{next(self._numbers)}"
        self._access[access] = scope
        answer = {"access_token": access, "token_type": "Bearer", "expires_in": 3600, "scope": scope}
        if kind != "client_credentials":
            self._refresh[refresh] = scope
            answer["refresh_token"] = refresh
        return JSONResponse(answer)

    async def _mcp(self, request: Request) -> Response:
        where = f'resource_metadata="{self.base}/.well-known/oauth-protected-resource/mcp"'
        scope = self._access.get(request.headers.get("authorization", "").removeprefix("Bearer "))
        if scope is None:
            return Response(status_code=401, headers={"WWW-Authenticate": f'Bearer scope="{SCOPE}", {where}'})
        if request.method != "POST":
            return Response(status_code=405)
        asked = json.loads(await request.body())
        params = asked.get("params") or {}
        if asked["method"] == "tools/call" and params["name"] == "wipe" and WIDE not in scope.split():
            needs = f'Bearer error="insufficient_scope", scope="{WIDE}", {where}'
            return Response(status_code=403, headers={"WWW-Authenticate": needs})
        result = self._answer(asked["method"], params)
        if result is None:
            error = {"code": -32601, "message": "Method not found"}
            return JSONResponse({"jsonrpc": "2.0", "id": asked["id"], "error": error}, status_code=404)
        return JSONResponse({"jsonrpc": "2.0", "id": asked["id"], "result": {"resultType": "complete", **result}})

    def _answer(self, method: str, params: dict[str, Any]) -> dict[str, Any] | None:
        cached = {"ttlMs": 0, "cacheScope": "private"}
        if method == "server/discover":
            return {"supportedVersions": ["2026-07-28"], "capabilities": {"tools": {}}, **cached}
        if method == "tools/list":
            return {"tools": TOOLS, **cached}
        if method == "tools/call":
            self.calls.append(params["name"])
            return {"content": [{"type": "text", "text": "done"}]}
        return None


@asynccontextmanager
async def site() -> AsyncIterator[Site]:
    """One that serves."""
    listener, base = listen("127.0.0.1:0")
    made = Site(base)
    stop = await serve(made.application, listener, 1.0)
    try:
        yield made
    finally:
        await stop()


async def visit(address: str) -> str:
    """What a person sees who goes there, and wherever it leads."""
    async with httpx2.AsyncClient(follow_redirects=True, verify=False) as browser:
        return (await browser.get(address)).text


async def log_in(*command: str) -> tuple[int, str]:
    """`edgenode mcp login` as a program, with a person who visits what it shows: (exit code, all it said)."""
    process = await asyncio.create_subprocess_exec(
        *command,
        stdin=asyncio.subprocess.DEVNULL,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.STDOUT,
    )
    assert process.stdout is not None
    said = b""
    try:
        async for line in process.stdout:
            said += line
            if b"/authorize?" in line:
                await visit(line.decode().strip())
        return await process.wait(), said.decode()
    finally:
        if process.returncode is None:
            process.kill()
            await process.wait()
