"""Where web hooks may point, and one POST to such a place.

A caller names the URL, this process opens the connection: so it could be made to knock where the caller cannot. Therefore a
target must be https and its host resolve to public addresses only, seen at the hook's creation and again at every delivery;
the connection goes to the very address that was looked at, by number, so that a name that resolves otherwise a moment later
is of no use; redirects are not followed, proxies of the environment not asked, answers not read beyond a few KiB. Networks
that an operator allowed are exempt, also from https.
"""

from __future__ import annotations

import asyncio
import ipaddress
import socket
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from urllib.parse import SplitResult, urlsplit

import httpx

from edgenode.link.errors import InvalidArgument, PermissionDenied, Unavailable

MAX_URL = 2048
MAX_ANSWER_BYTES = 16 * 1024
TIMEOUT = 10.0  # seconds, from the look-up of the name to the end of the answer

Address = ipaddress.IPv4Address | ipaddress.IPv6Address
Network = ipaddress.IPv4Network | ipaddress.IPv6Network
Resolve = Callable[[str, int], Awaitable[list[str]]]
_NAT64 = ipaddress.IPv6Network("64:ff9b::/96")


async def resolve(host: str, port: int) -> list[str]:
    """The addresses of a host, by this machine's resolver. Raises OSError."""
    found = await asyncio.get_running_loop().getaddrinfo(host, port, type=socket.SOCK_STREAM)
    return [str(entry[4][0]) for entry in found]


@dataclass(frozen=True, slots=True)
class Place:
    """A target that was looked at, and the address it had."""

    url: SplitResult
    host: str
    port: int
    address: Address


class Targets:
    """Looks at targets and sends to them. `allowed`: networks that are exempt from the rules; `resolver` stands in tests."""

    def __init__(self, allowed: Sequence[Network] = (), resolver: Resolve = resolve) -> None:
        self._allowed = tuple(allowed)
        self._resolve = resolver
        self._http = httpx.AsyncClient(follow_redirects=False, trust_env=False, timeout=TIMEOUT)

    async def aclose(self) -> None:
        """Closes its connections."""
        await self._http.aclose()

    async def look(self, url: str) -> Place:
        """The place behind a URL. Raises InvalidArgument (BAD_URL), PermissionDenied (TARGET_REFUSED), Unavailable
        (HOST_UNKNOWN)."""
        parts = _split(url)
        host = parts.hostname or ""
        port = parts.port or (443 if parts.scheme == "https" else 80)
        try:
            found = [ipaddress.ip_address(text.partition("%")[0]) for text in await self._resolve(host, port)]
        except (OSError, UnicodeError) as error:
            raise Unavailable("HOST_UNKNOWN", f"{host[:200]} does not resolve", hint="check the URL") from error
        if not found:
            raise Unavailable("HOST_UNKNOWN", f"{host[:200]} has no address", hint="check the URL")
        for address in found:
            exempt = any(address.version == network.version and address in network for network in self._allowed)
            if not exempt and not is_public(address):
                raise PermissionDenied(
                    "TARGET_REFUSED",
                    f"{host[:200]} is at an address that is not public",
                    hint="the operator may allow it: edgenode a2a serve --allow-webhooks NETWORK",
                    field="url",
                )
            if not exempt and parts.scheme != "https":
                raise PermissionDenied("TARGET_REFUSED", "the URL is not https", hint="use https", field="url")
        return Place(parts, host, port, found[0])

    async def post(self, url: str, body: bytes, headers: dict[str, str]) -> int:
        """The status of the answer. Raises as `look` does, and Unavailable (NOT_DELIVERED)."""
        try:
            async with asyncio.timeout(TIMEOUT):
                place = await self.look(url)
                return await self._post(place, body, headers)
        except (TimeoutError, httpx.HTTPError, OSError) as error:
            raise Unavailable("NOT_DELIVERED", f"{type(error).__name__}: {error}"[:500]) from error

    async def _post(self, place: Place, body: bytes, headers: dict[str, str]) -> int:
        address = f"[{place.address}]" if place.address.version == 6 else str(place.address)
        pinned = place.url._replace(netloc=f"{address}:{place.port}", fragment="").geturl()
        host = f"[{place.host}]" if ":" in place.host else place.host
        default = 443 if place.url.scheme == "https" else 80
        request = self._http.build_request(
            "POST",
            pinned,
            content=body,
            headers={**headers, "Host": host if place.port == default else f"{host}:{place.port}"},
            extensions={"sni_hostname": place.host},
        )
        response = await self._http.send(request, stream=True)
        try:
            read = 0
            async for chunk in response.aiter_raw():
                read += len(chunk)
                if read > MAX_ANSWER_BYTES:
                    break
        finally:
            await response.aclose()
        return response.status_code


def is_public(address: Address) -> bool:
    """Whether it is one host of the public internet, whatever it is wrapped in."""
    if isinstance(address, ipaddress.IPv6Address):
        inner = address.ipv4_mapped or address.sixtofour or (address.teredo[1] if address.teredo else None)
        if inner is None and address in _NAT64:
            inner = ipaddress.IPv4Address(int(address) & 0xFFFFFFFF)
        if inner is not None:
            return is_public(inner)
        if address.is_site_local:
            return False
    return address.is_global and not (address.is_multicast or address.is_reserved or address.is_unspecified)


def _split(url: str) -> SplitResult:
    try:
        parts = urlsplit(url)
        valid = parts.scheme in ("http", "https") and bool(parts.hostname) and parts.port != 0
    except ValueError:
        valid = False
    if not valid or len(url) > MAX_URL or not url.isascii() or not url.isprintable() or " " in url or "\\" in url:
        raise InvalidArgument("BAD_URL", f"the URL is {url[:200]!r}", hint="e.g. https://host/hook", field="url")
    if parts.username is not None or parts.password is not None:
        raise InvalidArgument(
            "BAD_URL", "the URL holds a user or password", hint="use the configuration's authentication", field="url"
        )
    return parts
