"""Channels and servers with options chosen on purpose, addresses, plaintext rules, and the health service.

Plaintext is for Unix sockets and, when asked for, loopback; everything else needs TLS. Keepalive pings find dead
connections; the server's floor is below half the client's interval, or grpc would close the connection with
too_many_pings. Each channel has its own subchannels: a fresh one really dials again, with its own credentials.
"""

from __future__ import annotations

import os
import socket
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

import grpc
from grpc_health.v1 import health, health_pb2, health_pb2_grpc

from edgenode.link.config import is_loopback, parse_address
from edgenode.link.errors import FailedPrecondition, InvalidArgument
from edgenode.link.wire.interceptors import ServiceInterceptor

MAX_MESSAGE_BYTES = 8 * 1024 * 1024
# What one frame of a link may take. A segment is as large as the message that brought it to its node, and travels with its
# origin and its place on top: were the bounds the same, the largest could be accepted and never be sent.
MAX_LINK_MESSAGE_BYTES = MAX_MESSAGE_BYTES + 256 * 1024
MAX_SOCKET_PATH_BYTES = 107  # sun_path holds 108 with its terminator

_Options = list[tuple[str, Any]]


@dataclass(frozen=True, slots=True, kw_only=True)
class ChannelSettings:
    """How to dial. Durations in seconds."""

    keepalive_interval: float = 60.0
    keepalive_timeout: float = 20.0
    connect_timeout: float = 10.0  # one attempt to connect
    min_reconnect_backoff: float = 0.1
    max_reconnect_backoff: float = 2.0
    server_name: str = ""  # name to expect in the server's certificate; empty: the address's host
    max_message_bytes: int = MAX_MESSAGE_BYTES

    def options(self) -> _Options:
        """As grpc wants them."""
        options = [
            *_common_options(self.max_message_bytes),
            ("grpc.enable_http_proxy", 0),
            ("grpc.use_local_subchannel_pool", 1),
            ("grpc.keepalive_time_ms", _ms(self.keepalive_interval)),
            ("grpc.keepalive_timeout_ms", _ms(self.keepalive_timeout)),
            ("grpc.http2.max_pings_without_data", 0),
            ("grpc.initial_reconnect_backoff_ms", _ms(self.min_reconnect_backoff)),
            ("grpc.min_reconnect_backoff_ms", _ms(self.connect_timeout)),
            ("grpc.max_reconnect_backoff_ms", _ms(self.max_reconnect_backoff)),
        ]
        if self.server_name:
            options.append(("grpc.ssl_target_name_override", self.server_name))
        return options


@dataclass(frozen=True, slots=True, kw_only=True)
class ServerSettings:
    """How to serve. Durations in seconds."""

    keepalive_interval: float = 120.0
    keepalive_timeout: float = 20.0
    min_ping_interval: float = 20.0  # clients that ping more often are cut off; their interval is 60 s or more
    max_connection_age: float | None = None  # None: for ever; else clients are told to reconnect after it
    max_connection_age_grace: float = 30.0  # what a connection past its age may still take
    max_concurrent_streams: int | None = None  # for each connection; more wait
    interceptors: Sequence[grpc.aio.ServerInterceptor] = field(default_factory=tuple)  # after the first, ours
    max_message_bytes: int = MAX_MESSAGE_BYTES

    def options(self) -> _Options:
        """As grpc wants them."""
        options = [
            *_common_options(self.max_message_bytes),
            ("grpc.so_reuseport", 0),
            ("grpc.keepalive_time_ms", _ms(self.keepalive_interval)),
            ("grpc.keepalive_timeout_ms", _ms(self.keepalive_timeout)),
            ("grpc.keepalive_permit_without_calls", 1),
            ("grpc.http2.min_ping_interval_without_data_ms", _ms(self.min_ping_interval)),
        ]
        if self.max_connection_age is not None:
            options.append(("grpc.max_connection_age_ms", _ms(self.max_connection_age)))
            options.append(("grpc.max_connection_age_grace_ms", _ms(self.max_connection_age_grace)))
        if self.max_concurrent_streams is not None:
            options.append(("grpc.max_concurrent_streams", self.max_concurrent_streams))
        return options


def _common_options(max_message_bytes: int) -> _Options:
    return [
        ("grpc.max_send_message_length", max_message_bytes),
        ("grpc.max_receive_message_length", max_message_bytes),
        ("grpc.max_metadata_size", 8 * 1024),
        ("grpc.absolute_max_metadata_size", 16 * 1024),
    ]


def unix_target(path: str | os.PathLike[str]) -> str:
    """`unix:PATH` for grpc. Raises InvalidArgument (SOCKET_PATH_TOO_LONG) beyond the 107 bytes the kernel takes."""
    text = os.path.abspath(os.fspath(path))
    size = len(os.fsencode(text))
    if size > MAX_SOCKET_PATH_BYTES:
        raise InvalidArgument(
            "SOCKET_PATH_TOO_LONG",
            f"the socket path {text} has {size} bytes",
            hint=f"at most {MAX_SOCKET_PATH_BYTES}: choose a shorter directory",
            field="socket",
            limit=MAX_SOCKET_PATH_BYTES,
        )
    return f"unix:{text}"


def split_host_port(address: str) -> tuple[str, int]:
    """(host, port) of `HOST:PORT` or `[IPV6]:PORT`. Raises InvalidArgument (BAD_ADDRESS)."""
    try:
        return parse_address(address)
    except ValueError as error:
        raise InvalidArgument(
            "BAD_ADDRESS", f"the address is {address!r}", hint=f"expected {error}", field="address"
        ) from None


def check_plaintext(target: str, *, plaintext_loopback: bool) -> None:
    """Raises InvalidArgument (PLAINTEXT_REFUSED) unless `target` may be used without TLS."""
    if target.startswith("unix:"):
        return
    host, _ = split_host_port(target)
    if plaintext_loopback and is_loopback(host):
        return
    hint = "use a loopback address or a Unix socket, or give TLS credentials"
    if is_loopback(host):
        hint += "; plaintext on loopback must be asked for"
    raise InvalidArgument("PLAINTEXT_REFUSED", f"{target} would be plaintext", hint=hint, field="address")


class OpenChannel(Protocol):
    """`open_channel`, or what stands in its place."""

    def __call__(
        self,
        target: str,
        credentials: grpc.ChannelCredentials | None = None,
        *,
        settings: ChannelSettings | None = None,
    ) -> grpc.aio.Channel:
        """See open_channel."""
        ...


def open_channel(
    target: str,
    credentials: grpc.ChannelCredentials | None = None,
    *,
    plaintext_loopback: bool = False,
    settings: ChannelSettings | None = None,
) -> grpc.aio.Channel:
    """A channel to `unix:PATH` or `HOST:PORT`; it dials when first used. Without credentials it is plaintext.

    Raises InvalidArgument (BAD_ADDRESS, PLAINTEXT_REFUSED). The caller closes it.
    """
    options = (settings or ChannelSettings()).options()
    if credentials is None:
        check_plaintext(target, plaintext_loopback=plaintext_loopback)
        return grpc.aio.insecure_channel(target, options=options)
    split_host_port(target)
    return grpc.aio.secure_channel(target, credentials, options=options)


def create_server(interceptor: ServiceInterceptor, settings: ServerSettings | None = None) -> grpc.aio.Server:
    """A server that authorises and maps errors through `interceptor`. Add servicers, `bind`, then start it."""
    settings = settings or ServerSettings()
    return grpc.aio.server(interceptors=[interceptor, *settings.interceptors], options=settings.options())


def bind(
    server: grpc.aio.Server,
    target: str,
    credentials: grpc.ServerCredentials | None = None,
    *,
    plaintext_loopback: bool = False,
) -> int:
    """Listens on `unix:PATH` or `HOST:PORT` (port 0: any); returns the port, 1 for a Unix socket.

    Raises InvalidArgument (BAD_ADDRESS, PLAINTEXT_REFUSED) or FailedPrecondition (PORT_TAKEN).
    """
    if credentials is None:
        check_plaintext(target, plaintext_loopback=plaintext_loopback)
    else:
        split_host_port(target)
    if target.startswith("unix:") and _socket_answers(target.removeprefix("unix:")):
        raise _taken(target)  # grpc would silently take the path away from whoever serves it
    try:
        if credentials is None:
            return server.add_insecure_port(target)
        return server.add_secure_port(target, credentials)
    except RuntimeError as error:
        raise _taken(target) from error


def add_health(server: grpc.aio.Server, services: Iterable[str] = ()) -> health.aio.HealthServicer:
    """Serves grpc.health.v1 for the whole server ("") and `services`, all NOT_SERVING until `set_serving`.

    Call its `enter_graceful_shutdown()` when a stop begins.
    """
    servicer = health.aio.HealthServicer()
    for service in ("", *services):
        servicer._server_status[service] = health_pb2.HealthCheckResponse.NOT_SERVING
    health_pb2_grpc.add_HealthServicer_to_server(servicer, server)
    return servicer


async def set_serving(servicer: health.aio.HealthServicer, serving: bool, services: Iterable[str] = ("",)) -> None:
    """Says of each service whether it is served now."""
    status = health_pb2.HealthCheckResponse.SERVING if serving else health_pb2.HealthCheckResponse.NOT_SERVING
    for service in services:
        await servicer.set(service, status)


def _socket_answers(path: str) -> bool:
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as probe:
        probe.settimeout(1.0)
        try:
            probe.connect(path)
        except TimeoutError:
            return True  # someone listens, with a full backlog
        except OSError:
            return False
        return True


def _taken(target: str) -> FailedPrecondition:
    return FailedPrecondition(
        "PORT_TAKEN",
        f"cannot listen on {target}",
        hint="another program has it, or it is not an address of this machine: stop that program or choose another one",
        address=target,
    )


def _ms(seconds: float) -> int:
    return max(1, round(seconds * 1000))
