"""Mounts: what may be mounted, and what of a mount is told."""

from __future__ import annotations

import re
from urllib.parse import urlsplit

from edgenode.api.admin.v1 import admin_pb2
from edgenode.link.errors import InvalidArgument
from edgenode.link.model.names import check_name
from edgenode.link.wire import checks
from edgenode.link.wire.values import duration_from_pb

MAX_ARGUMENT_BYTES = 64 * 1024
MAX_ERROR_LINES = 20
MAX_ERROR_LINE = 1024
MAX_REFUSED = 256
MOUNTED = "edgenode/mount"  # label of agents that are mounts, and of which kind
_VARIABLE = re.compile(r"[A-Za-z_][A-Za-z0-9_]{0,127}")
_DAY = 86_400.0


def check_mount(mount: admin_pb2.Mount) -> None:
    """Raises InvalidArgument or ResourceExhausted naming the field."""
    check_name(mount.name, "mount.name")
    kind = mount.WhichOneof("server")
    if kind == "mcp_stdio":
        _check_stdio(mount.mcp_stdio)
    elif kind == "mcp_http":
        _check_http(mount.mcp_http, "mount.mcp_http")
    elif kind == "a2a":
        _check_http(mount.a2a, "mount.a2a")
    else:
        raise InvalidArgument(
            "NO_SERVER", "the mount names no server", hint="expected mcp_stdio, mcp_http or a2a", field="mount.server"
        )
    _check_policy(mount.policy)


def _check_stdio(server: admin_pb2.McpStdioServer) -> None:
    field = "mount.mcp_stdio"
    if not server.arguments or not server.arguments[0]:
        raise InvalidArgument(
            "NO_PROGRAM", "the mount names no program to start", hint="give at least one", field=f"{field}.arguments"
        )
    checks.fits(sum(len(word.encode()) for word in server.arguments), MAX_ARGUMENT_BYTES, f"{field}.arguments")
    checks.at_most(len(server.environment), 128, f"{field}.environment")
    for name, value in server.environment.items():
        if _VARIABLE.fullmatch(name) is None:
            raise InvalidArgument(
                "BAD_VARIABLE",
                f"{field}.environment names {name[:80]!r}",
                hint="e.g. API_KEY",
                field=f"{field}.environment",
            )
        checks.short(value, 32_768, f"{field}.environment[{name}]")
    for text in (*server.arguments, *server.environment.values()):
        if "\0" in text:
            raise InvalidArgument("BAD_TEXT", f"{field} holds a NUL", hint="programs cannot be given one", field=field)
    if server.working_directory:
        checks.absolute_path(server.working_directory, f"{field}.working_directory")


def _check_http(server: admin_pb2.McpHttpServer | admin_pb2.A2aAgent, field: str) -> None:
    checks.short(server.url, 2048, f"{field}.url")
    try:
        parts = urlsplit(server.url)
        valid = parts.scheme in ("http", "https") and bool(parts.hostname) and parts.port != 0
    except ValueError:
        valid = False
    if not valid or not server.url.isprintable() or " " in server.url:
        raise InvalidArgument(
            "BAD_URL", f"{field}.url is {server.url[:200]!r}", hint="e.g. https://host/mcp", field=f"{field}.url"
        )
    if parts.username or parts.password:
        raise InvalidArgument(
            "SECRET_IN_URL",
            f"{field}.url holds a user or password, which lists would show",
            hint="put an Authorization header into the headers file",
            field=f"{field}.url",
        )
    if server.headers_file:
        checks.absolute_path(server.headers_file, f"{field}.headers_file")
    if isinstance(server, admin_pb2.McpHttpServer) and server.oauth_file:
        checks.absolute_path(server.oauth_file, f"{field}.oauth_file")


def _check_policy(policy: admin_pb2.MountPolicy) -> None:
    field = "mount.policy"
    checks.in_range(policy.concurrency_count, 0, 1000, f"{field}.concurrency_count")
    for name, low, high in (
        ("attempt_timeout_duration", 0.001, 30 * _DAY),
        ("start_timeout_duration", 0.1, 600),
        ("lease_duration", 1, 3600),
    ):
        if policy.HasField(name):
            seconds = duration_from_pb(getattr(policy, name), f"{field}.{name}")
            checks.in_range(seconds, low, high, f"{field}.{name}")


def without_secrets(mount: admin_pb2.Mount) -> admin_pb2.Mount:
    """A copy for lists: environment variables keep their names only."""
    shown = admin_pb2.Mount()
    shown.CopyFrom(mount)
    if shown.HasField("mcp_stdio"):
        for name in shown.mcp_stdio.environment:
            shown.mcp_stdio.environment[name] = ""
    return shown


def check_mount_status(status: admin_pb2.MountStatus) -> None:
    """What a bridge says of a mount. Raises InvalidArgument naming the field."""
    checks.at_most(len(status.error_lines), MAX_ERROR_LINES, "status.error_lines")
    for line in status.error_lines:
        checks.short(line, MAX_ERROR_LINE, "status.error_lines")
    checks.at_most(len(status.refused_tools), MAX_REFUSED, "status.refused_tools")
    for text in (*status.refused_tools, status.server, status.protocol_version):
        checks.short(text, MAX_ERROR_LINE, "status")
