"""Requests to authorization servers, and for the documents that name them.

A server names such addresses, so each is looked at first (see edgenode.bridges.places), except on the hosts that the mount
itself names. Redirects are not followed, answers are bounded. What a token endpoint says in place of a token is told apart: it
refuses what was presented, or it does not answer sensibly now.
"""

from __future__ import annotations

import asyncio
import json
import logging
from collections.abc import Iterable
from urllib.parse import parse_qs

import httpx2

from edgenode.bridges.mcp.oauth.settings import OAuthSettings
from edgenode.bridges.mcp.tls import tls
from edgenode.bridges.places import Lookout, Place, Resolve, origin, resolve
from edgenode.link.errors import EdgenodeError, Unavailable

MAX_ANSWER_BYTES = 256 * 1024
TIMEOUT = 20.0  # seconds
_FORM = "application/x-www-form-urlencoded"
_DROPPED = frozenset({"content-encoding", "content-length", "transfer-encoding"})  # the answer was read whole

# Its records hold what authorization servers answer.
logging.getLogger("mcp.client.auth").setLevel(logging.CRITICAL)


class TokenRefused(Exception):
    """A token endpoint does not take what was presented; `error` is its word for it, e.g. `invalid_grant`."""

    def __init__(self, error: str, description: str) -> None:
        super().__init__(f"{error}: {description}" if description else error)
        self.error = error


class Errands:
    """`await send(request)`. `trusted`: URLs whose hosts an operator named; `await aclose()` at the end."""

    def __init__(self, settings: OAuthSettings, trusted: Iterable[str], resolver: Resolve = resolve) -> None:
        self._trusted = {origin(url) for url in trusted if url}
        self._lookout = Lookout(settings.allowed, "`networks` in the file of --oauth-file", resolver)
        self._named = httpx2.AsyncClient(verify=tls(), timeout=TIMEOUT)
        self._pinned = httpx2.AsyncClient(verify=tls(), timeout=TIMEOUT, trust_env=False)

    async def aclose(self) -> None:
        """Closes its connections."""
        await self._named.aclose()
        await self._pinned.aclose()

    async def send(self, request: httpx2.Request) -> httpx2.Response:
        """The answer, read whole. Raises Unavailable (AUTH_UNREACHABLE), TokenRefused, and what Lookout raises."""
        try:
            async with asyncio.timeout(TIMEOUT):
                response = await self._send(request)
        except (TimeoutError, httpx2.HTTPError, OSError) as error:
            raise _unreachable(request, str(error) or type(error).__name__) from error
        if request.method == "POST" and request.headers.get("content-type", "").startswith(_FORM):
            _check_token(request, response)
        elif response.status_code >= 500 or response.status_code == 429:
            raise _unreachable(request, f"it answers {response.status_code}")
        return response

    async def _send(self, request: httpx2.Request) -> httpx2.Response:
        url = str(request.url)
        if origin(url) in self._trusted:
            return await self._read(self._named, request, request)
        place = await self._lookout.look(url)
        for address in place.addresses[:-1]:
            try:
                return await self._read(self._pinned, _pinned(request, place, place.pinned(address)), request)
            except httpx2.ConnectError:
                continue
        last = place.pinned(place.addresses[-1])
        return await self._read(self._pinned, _pinned(request, place, last), request)

    async def _read(self, client: httpx2.AsyncClient, sent: httpx2.Request, request: httpx2.Request) -> httpx2.Response:
        response = await client.send(sent, stream=True, follow_redirects=False)
        try:
            body = b""
            async for chunk in response.aiter_bytes():
                body += chunk
                if len(body) > MAX_ANSWER_BYTES:
                    raise _unreachable(request, f"its answer is longer than {MAX_ANSWER_BYTES} bytes")
        finally:
            await response.aclose()
        headers = [(name, value) for name, value in response.headers.multi_items() if name.lower() not in _DROPPED]
        return httpx2.Response(response.status_code, headers=headers, content=body, request=request)


def _pinned(request: httpx2.Request, place: Place, url: str) -> httpx2.Request:
    headers = [(name, value) for name, value in request.headers.multi_items() if name.lower() != "host"]
    return httpx2.Request(
        request.method,
        url,
        headers=[*headers, ("Host", place.authority)],
        content=request.content,
        extensions={"sni_hostname": place.host, "timeout": httpx2.Timeout(TIMEOUT).as_dict()},
    )


def _check_token(request: httpx2.Request, response: httpx2.Response) -> None:
    """Raises what a token endpoint that gave no token says."""
    if response.status_code in (200, 201):
        return
    if response.status_code not in (400, 401):
        raise _unreachable(request, f"it answers {response.status_code}")
    try:
        said = json.loads(response.content)
        error, description = str(said["error"]), str(said.get("error_description") or "")
    except (ValueError, TypeError, KeyError, AttributeError):
        error, description = f"HTTP {response.status_code}", ""
    for values in parse_qs(request.content.decode(errors="replace")).values():
        for value in values:
            if len(value) > 7:  # it may quote a secret
                error, description = error.replace(value, "..."), description.replace(value, "...")
    raise TokenRefused(_shown(error, 64), _shown(description, 200))


def _shown(text: str, most: int) -> str:
    return "".join(letter if letter.isprintable() else " " for letter in text)[:most]


def _unreachable(request: httpx2.Request, why: str) -> EdgenodeError:
    place = request.url.copy_with(query=None, fragment=None, userinfo=b"")
    return Unavailable("AUTH_UNREACHABLE", f"{place}: {why}"[:500], hint="it is tried again")
