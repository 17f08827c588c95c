"""Where a bridge may connect to when somebody else names the address.

Another names the URL, this process opens the connection: so it could be made to knock where the other cannot. Therefore
such a place must be https and its host resolve to public addresses only; the connection goes to the very addresses that were
looked at, by number, so that a name that resolves otherwise a moment later is of no use. Networks that an operator allowed are
exempt, also from https.
"""

from __future__ import annotations

import asyncio
import ipaddress
import socket
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from urllib.parse import SplitResult, urlsplit

from edgenode.link.errors import InvalidArgument, PermissionDenied, Unavailable

MAX_URL = 2048

Address = ipaddress.IPv4Address | ipaddress.IPv6Address
Network = ipaddress.IPv4Network | ipaddress.IPv6Network
Resolve = Callable[[str, int], Awaitable[list[str]]]
_NAT64 = ipaddress.IPv6Network("64:ff9b::/96")
_PORTS = {"http": 80, "https": 443}


def origin(url: str) -> tuple[str, str, int | None]:
    """(scheme, host, port) of a URL. Raises ValueError."""
    parts = urlsplit(url)
    return parts.scheme, parts.hostname or "", parts.port or _PORTS.get(parts.scheme)


async def resolve(host: str, port: int) -> list[str]:
    """The addresses of a host, by this machine's resolver. Raises OSError."""
    found = await asyncio.get_running_loop().getaddrinfo(host, port, type=socket.SOCK_STREAM)
    return [str(entry[4][0]) for entry in found]


@dataclass(frozen=True, slots=True)
class Place:
    """A URL that was looked at, and the addresses its host had."""

    url: SplitResult
    host: str
    port: int
    addresses: tuple[Address, ...]

    @property
    def authority(self) -> str:
        """The value of the Host header."""
        host = f"[{self.host}]" if ":" in self.host else self.host
        return host if self.port == _PORTS[self.url.scheme] else f"{host}:{self.port}"

    def pinned(self, address: Address) -> str:
        """The URL with the address instead of the name."""
        number = f"[{address}]" if address.version == 6 else str(address)
        return self.url._replace(netloc=f"{number}:{self.port}", fragment="").geturl()


class Lookout:
    """Looks at URLs. `allowed`: networks that are exempt from the rules; `hint`: how an operator allows them."""

    def __init__(self, allowed: Sequence[Network], hint: str, resolver: Resolve = resolve) -> None:
        self._allowed = tuple(allowed)
        self._hint = hint
        self._resolve = resolver

    async def look(self, url: str) -> Place:
        """The place behind a URL. Raises InvalidArgument (BAD_URL), PermissionDenied (TARGET_REFUSED), Unavailable
        (HOST_UNKNOWN)."""
        parts = _split(url)
        host = parts.hostname or ""
        port = parts.port or _PORTS[parts.scheme]
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
                    hint=f"the operator may allow it: {self._hint}",
                    field="url",
                )
            if not exempt and parts.scheme != "https":
                raise PermissionDenied("TARGET_REFUSED", "the URL is not https", hint="use https", field="url")
        return Place(parts, host, port, tuple(dict.fromkeys(found)))


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
        raise InvalidArgument("BAD_URL", f"the URL is {url[:200]!r}", hint="e.g. https://host/path", field="url")
    if parts.username is not None or parts.password is not None:
        raise InvalidArgument("BAD_URL", "the URL holds a user or password", hint="leave them out", field="url")
    return parts
