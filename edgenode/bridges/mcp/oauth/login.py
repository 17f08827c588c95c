"""A person lets a mount use its server: the authorization code flow with PKCE, back to a listener on loopback (RFC 8252).

The person visits an address, here or on another machine, and ends at a redirect: to this listener, or, where the browser
is elsewhere, to a page that does not load, whose address can be given to `Login.came_back` instead. Only an answer to the
question that was asked counts, known by its state; the SDK checks issuer and state again. What comes of it is on disk before
it is used.
"""

from __future__ import annotations

import asyncio
import contextlib
import html
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from urllib.parse import parse_qs, urlsplit

import msgspec
from mcp.client.auth import AuthorizationCodeResult, OAuthClientProvider, OAuthFlowError

from edgenode.bridges.mcp.oauth import flows
from edgenode.bridges.mcp.oauth.errands import Errands, TokenRefused
from edgenode.bridges.mcp.oauth.kept import Challenge, Kept, Record
from edgenode.bridges.mcp.oauth.settings import OAuthSettings
from edgenode.link.errors import DeadlineExceeded, FailedPrecondition, PermissionDenied, Unauthenticated
from edgenode.link.wire.listening import Listener

PATH = "/callback"
MAX_REQUEST = 16 * 1024
REQUEST_TIME = 10.0  # seconds a browser may take to send its request


class Login:
    """`await run()`. `show` is given the address to visit, then `redirect` is where it leads back to."""

    def __init__(self, kept: Kept, settings: OAuthSettings, errands: Errands, show: Callable[[str], None]) -> None:
        self._kept = kept
        self._settings = settings
        self._errands = errands
        self._show = show
        self._state = ""
        self._answer: asyncio.Future[AuthorizationCodeResult] = asyncio.get_running_loop().create_future()
        self._provider: OAuthClientProvider | None = None
        self.redirect = ""

    async def run(self, port: int = 0, timeout: float = 300.0) -> Record:
        """What is kept now. `port` of the listener, 0 for the one the client is registered with, or any.

        Raises FailedPrecondition (PORT_TAKEN, NO_PERSON_NEEDED), PermissionDenied (LOGIN_REFUSED), DeadlineExceeded
        (NOBODY_CAME), Unauthenticated (LOGIN_FAILED), and what Kept.read and Errands.send raise.
        """
        if not self._settings.by_person:
            raise FailedPrecondition(
                "NO_PERSON_NEEDED",
                f"the mount gets its tokens itself, by {self._settings.grant}",
                hint="edgenode mcp retry NAME tries it now",
            )
        before = self._kept.read()
        registered = _port(before)
        async with self._listening(port or self._settings.redirect_port, registered) as got:
            self.redirect = f"http://127.0.0.1:{got}{PATH}"
            if got != registered:
                before = msgspec.structs.replace(before, client=None)
            try:
                async with asyncio.timeout(timeout):
                    return await self._flow(before)
            except TimeoutError as error:
                self._forget_client()
                raise DeadlineExceeded(
                    "NOBODY_CAME", f"nobody came back within {timeout:g} s", hint="call it again"
                ) from error
            except PermissionDenied:
                self._forget_client()
                raise
            except (OAuthFlowError, TokenRefused) as error:
                self._forget_client()
                hint = "see docs/agents.md; a server without OAuth takes its token from --headers-file"
                raise Unauthenticated("LOGIN_FAILED", str(error)[:500], hint=hint) from error

    def came_back(self, address: str) -> bool:
        """Takes the address that the person ended at; False if it is no answer to what was asked."""
        fields = parse_qs(urlsplit(address.strip()).query)
        state = fields.get("state", [""])
        if not self._state or state != [self._state] or self._answer.done():
            return False
        if "error" in fields:
            said = " ".join(fields["error"] + fields.get("error_description", []))
            self._answer.set_exception(
                PermissionDenied("LOGIN_REFUSED", f"the authorization server says: {said[:300]}", hint="log in again")
            )
        elif len(codes := fields.get("code", [])) == 1 and len(fields.get("iss", [])) < 2:
            iss = fields.get("iss", [None])[0]
            self._answer.set_result(AuthorizationCodeResult(code=codes[0], state=state[0], iss=iss))
        else:
            return False
        return True

    # --- the flow ---------------------------------------------------------------------------------------------------

    async def _flow(self, before: Record) -> Record:
        memory = flows.Memory.of(before, self._settings)
        provider = self._provider = OAuthClientProvider(
            before.server,
            flows.client_metadata(self.redirect, self._settings.scope),
            memory,
            self._visit,
            self._come_back,
            self._settings.client_metadata_url or None,
        )
        challenge = before.challenge or Challenge(401)
        await flows.drive(provider, before.server, challenge, self._errands.send)
        if not memory.fresh or memory.client is None:
            raise OAuthFlowError("no token came of it")
        found = provider.context
        after = msgspec.structs.replace(
            flows.with_tokens(before, memory.tokens),
            # What is configured is read from there, and its secret not copied.
            client=None if memory.fixed else memory.client.model_dump(mode="json", exclude_none=True),
            authorization_server=found.oauth_metadata
            and found.oauth_metadata.model_dump(mode="json", exclude_none=True),
            resource=found.protected_resource_metadata
            and found.protected_resource_metadata.model_dump(mode="json", exclude_none=True),
        )
        return self._kept.change(lambda _: after)

    async def _visit(self, address: str) -> None:
        assert self._provider is not None
        metadata = self._provider.context.oauth_metadata
        methods = metadata.code_challenge_methods_supported if metadata is not None else None
        if methods is not None and "S256" not in methods:
            raise OAuthFlowError("the authorization server does not know PKCE with S256")
        self._state = parse_qs(urlsplit(address).query)["state"][0]
        self._show(address)

    async def _come_back(self) -> AuthorizationCodeResult:
        return await self._answer

    def _forget_client(self) -> None:
        """A client that nobody could log in with may be unknown over there by now: the next login registers a new one."""
        self._kept.change(lambda record: msgspec.structs.replace(record, client=None))

    # --- the listener -----------------------------------------------------------------------------------------------

    @asynccontextmanager
    async def _listening(self, port: int, registered: int) -> AsyncIterator[int]:
        """Its port: the one that is wanted, else that of the client if it is free."""
        listener = Listener(self._serve, limit=MAX_REQUEST)
        if not port and registered:
            with contextlib.suppress(OSError):
                await listener.open(registered)
                port = registered
        try:
            got = port if listener.is_open else await listener.open(port)
        except OSError as error:
            raise FailedPrecondition(
                "PORT_TAKEN", f"cannot listen on 127.0.0.1:{port}: {error.strerror}", hint="choose another --port"
            ) from error
        try:
            yield got
        finally:
            await listener.close()

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """One request of a browser."""
        try:
            async with asyncio.timeout(REQUEST_TIME):
                head = await reader.readuntil(b"\r\n\r\n")
                method, _, rest = head.decode("latin-1").partition(" ")
                target = rest.partition(" ")[0]
                taken = method == "GET" and urlsplit(target).path == PATH and self.came_back(target)
                status = "200 OK" if taken else "400 Bad Request"
                said = "Done. You may close this page." if taken else "This is no answer to a login that waits here."
                body = f"<!doctype html><title>edgenode</title><p>{html.escape(said)}</p>".encode()
                writer.write(
                    f"HTTP/1.1 {status}\r\nContent-Type: text/html; charset=utf-8\r\nContent-Length: {len(body)}\r\n"
                    "Cache-Control: no-store\r\nReferrer-Policy: no-referrer\r\nConnection: close\r\n\r\n".encode()
                    + body
                )
                await writer.drain()
        except (TimeoutError, OSError, ValueError, asyncio.IncompleteReadError, asyncio.LimitOverrunError):
            pass  # no browser


def _port(record: Record) -> int:
    """The port of the redirect that the client is registered with, 0 if there is none."""
    for uri in (record.client or {}).get("redirect_uris") or ():
        parts = urlsplit(str(uri))
        if parts.hostname == "127.0.0.1" and parts.path == PATH and parts.port:
            return parts.port
    return 0
