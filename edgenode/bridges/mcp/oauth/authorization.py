"""The token of one mount's requests: added to each, refreshed when it ends, widened or got anew when the server wants that.

Whatever has to be got is got once, however many requests wait for it, and a request that was refused for want of it is sent
once more, as the server did nothing for it. The token goes to the mount's own server and nowhere else.

What cannot be got is a refusal of the request alone: its caller gets it as the error of that call, the connection and what
else is under way there stay. Three kinds:

AUTH_REQUIRED       a person is to log in, or to mend what is configured: the mount waits for that.
AUTH_UNREACHABLE    the authorization server does not answer: the mount waits, and tries again by itself.
INSUFFICIENT_SCOPE  the token does not suffice for this one request, and only a person can have it widened.
"""

from __future__ import annotations

import asyncio
import logging
import secrets
from collections.abc import Callable
from typing import Any

import httpx2
import msgspec
from mcp.client.auth import OAuthFlowError
from mcp.client.auth.utils import extract_field_from_www_auth
from mcp.shared.exceptions import MCPError

from edgenode.bridges.mcp.oauth import flows
from edgenode.bridges.mcp.oauth.errands import Errands, TokenRefused
from edgenode.bridges.mcp.oauth.kept import Challenge, Kept, Record
from edgenode.bridges.mcp.oauth.settings import OAuthSettings
from edgenode.link.errors import EdgenodeError, PermissionDenied, Unauthenticated, Unavailable
from edgenode.link.ports import Clock

MARGIN = 30.0  # seconds before its end that a token is renewed, at most a tenth of what was left when it came
MAX_HEADER = 8192
_REFUSED = -32090  # a request that was not done for want of a token, to the SDK

_log = logging.getLogger(__name__)


class Authorization:
    """For the mount `name` of the server at `url`. `on_barred` is told what keeps all requests from being done."""

    def __init__(
        self,
        name: str,
        url: str,
        settings: OAuthSettings,
        kept: Kept,
        errands: Errands,
        clock: Clock,
        on_barred: Callable[[EdgenodeError], None],
    ) -> None:
        """Raises as Kept.read does."""
        self._name = name
        self._url = httpx2.URL(url)
        self._settings = settings
        self._kept = kept
        self._errands = errands
        self._clock = clock
        self._on_barred = on_barred
        self._renewing: asyncio.Task[None] | None = None
        self._record = kept.read() if settings.by_person else Record(url)
        self._renew_at = self._due(self._record)
        self._challenge = Challenge(401)  # the last one
        self._refusals: dict[str, EdgenodeError] = {}
        self.refusal: EdgenodeError | None = None  # the last one

    async def aclose(self) -> None:
        """Ends, after what is under way at the authorization server: its answer must not be lost."""
        if self._renewing is not None:
            await asyncio.wait([self._renewing])
        await self._errands.aclose()

    def reload(self) -> None:
        """Takes what a login left."""
        if self._settings.by_person:
            self._take(self._kept.read())

    def refusal_of(self, error: MCPError) -> EdgenodeError | None:
        """The refusal behind an error that the SDK raises, None if it is none of ours."""
        data = error.error.data
        return self._refusals.pop(data, None) if error.code == _REFUSED and isinstance(data, str) else None

    async def send(self, request: httpx2.Request, send: Callable[[httpx2.Request], Any]) -> httpx2.Response:
        """The server's answer to a request with the token, or a refusal in its place."""
        here = (self._url.scheme, self._url.host, self._url.port)
        if (request.url.scheme, request.url.host, request.url.port) != here:
            answer: httpx2.Response = await send(request)
            return answer
        try:
            return await self._send(request, send)
        except EdgenodeError as refusal:
            self.refusal = refusal
            if refusal.reason != "INSUFFICIENT_SCOPE":
                self._on_barred(refusal)
            key = secrets.token_hex(16)
            if len(self._refusals) < 1000:  # of notifications, whose answer nobody reads
                self._refusals[key] = refusal
            error = {"code": _REFUSED, "message": str(refusal.problem), "data": key}
            return httpx2.Response(401, json={"jsonrpc": "2.0", "id": None, "error": error}, request=request)

    async def _send(self, request: httpx2.Request, send: Callable[[httpx2.Request], Any]) -> httpx2.Response:
        token = await self._token()
        for last in (False, True):
            if token:
                request.headers["Authorization"] = f"Bearer {token}"
            response: httpx2.Response = await send(request)
            challenge = _challenge_of(response)
            if challenge is None:
                return response
            await response.aclose()
            if last:
                raise self._person(challenge, "the server does not take the token it was just given")
            token = await self._renewed(challenge, token)
        raise AssertionError("unreachable")

    # --- the token --------------------------------------------------------------------------------------------------

    async def _token(self) -> str:
        """The token there is, renewed if it is about to end; empty if there is none yet."""
        token = self._record.access_token
        if not token or self._clock.wall() < self._renew_at:
            return token
        try:
            return await self._renewed(self._challenge, token)
        except Unavailable:
            if self._clock.wall() >= self._record.expires_at:
                raise
            self._renew_at = min(self._clock.wall() + MARGIN / 4, self._record.expires_at)
            return token

    async def _renewed(self, challenge: Challenge, used: str) -> str:
        """A token in place of `used`. A request that is given up meanwhile does not end what others wait for."""
        if self._record.access_token == used:
            if self._renewing is None or self._renewing.done():
                self._challenge = challenge
                self._renewing = asyncio.create_task(self._renew(challenge, used), name=f"token-{self._name}")
                self._renewing.add_done_callback(lambda ended: ended.cancelled() or ended.exception())
            await asyncio.shield(self._renewing)
        return self._record.access_token

    async def _renew(self, challenge: Challenge, used: str) -> None:
        """Raises AUTH_REQUIRED, AUTH_UNREACHABLE, INSUFFICIENT_SCOPE."""
        try:
            if self._settings.by_person:
                await self._renew_login(challenge, used)
            else:
                self._take(await flows.granted(self._record, self._settings, challenge, self._errands.send))
        except (TokenRefused, OAuthFlowError) as error:
            raise self._person(challenge, str(error)[:500]) from error
        _log.debug("%s has a new token", self._name)

    async def _renew_login(self, challenge: Challenge, used: str) -> None:
        self._take(self._kept.read())
        if self._record.access_token != used:
            return
        if challenge.status == 403:
            raise self._person(challenge, "")
        before = self._record
        if not before.tokens or "refresh_token" not in before.tokens:
            why = "the server does not take the token any more" if before.tokens else "nobody has logged in yet"
            raise self._person(challenge, why)
        try:
            after = await flows.refreshed(before, self._settings, self._errands.send)
        except TokenRefused:
            self._replace(before, msgspec.structs.replace(before, tokens=None, expires_at=0.0))
            if self._record.access_token:  # of a login meanwhile
                return
            raise
        self._replace(before, after)

    def _replace(self, before: Record, after: Record) -> None:
        """Keeps what became of tokens, unless a login gave others meanwhile."""
        try:
            after = self._kept.change(lambda record: after if record.tokens == before.tokens else record)
        except OSError as error:
            _log.error("the tokens of %s cannot be kept, and are gone when this process ends: %s", self._name, error)
        self._take(after)

    def _take(self, record: Record) -> None:
        if record.tokens != self._record.tokens:
            self._renew_at = self._due(record)
        self._record = record

    def _due(self, record: Record) -> float:
        if self._settings.by_person and "refresh_token" not in (record.tokens or {}):
            return float("inf")  # the server says when it does not take it any more
        left = record.expires_at - self._clock.wall()
        return record.expires_at - min(MARGIN, max(left, 0.0) / 10) if record.expires_at else float("inf")

    # --- refusals ---------------------------------------------------------------------------------------------------

    def _person(self, challenge: Challenge, why: str) -> EdgenodeError:
        """What to tell of a challenge that nothing here can answer."""
        if not self._settings.by_person:
            if self._settings.renewed:
                return Unavailable("AUTH_UNREACHABLE", f"no token: {why}", hint="see what renews its files")
            hint = f"see the file of --oauth-file, then: edgenode mcp retry {self._name}"
            return Unauthenticated("AUTH_REQUIRED", f"no token: {why}", hint=hint)
        try:
            self._kept.change(lambda record: msgspec.structs.replace(record, challenge=challenge))
        except OSError as error:
            _log.error("what %s wants cannot be kept for a login: %s", self._name, error)
        login = f"edgenode mcp login {self._name}"
        if challenge.status == 403:
            scope = _field(challenge, "scope") or "a wider scope"
            return PermissionDenied("INSUFFICIENT_SCOPE", f"the server wants {scope} for this", hint=login)
        return Unauthenticated("AUTH_REQUIRED", f"the server wants to know who this is: {why}", hint=login)


class AuthorizedClient(httpx2.AsyncClient):
    """An HTTP client whose requests carry the token."""

    def __init__(self, authorization: Authorization, **options: Any) -> None:
        super().__init__(**options)
        self._authorization = authorization

    async def send(self, request: httpx2.Request, **options: Any) -> httpx2.Response:
        """See httpx2."""
        plain = super().send
        return await self._authorization.send(request, lambda again: plain(again, **options))


def _challenge_of(response: httpx2.Response) -> Challenge | None:
    header = response.headers.get("WWW-Authenticate", "")[:MAX_HEADER]
    if response.status_code == 401:
        return Challenge(401, header)
    if response.status_code == 403 and extract_field_from_www_auth(response, "error") == "insufficient_scope":
        return Challenge(403, header)
    return None


def _field(challenge: Challenge, name: str) -> str:
    response = httpx2.Response(challenge.status, headers={"WWW-Authenticate": challenge.header})
    return (extract_field_from_www_auth(response, name) or "")[:500]
