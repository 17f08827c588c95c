"""Where the node is."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path

import grpc

from edgenode.link.errors import InvalidArgument
from edgenode.link.wire.channels import ChannelSettings, check_plaintext, open_channel, unix_target
from edgenode.link.wire.direct_channel import DirectChannel

SOCKET_NAME = "edgenode.sock"

# A node on this machine is back within a second of its restart; the streams' own jitter keeps clients apart.
_SETTINGS = ChannelSettings(min_reconnect_backoff=0.05, max_reconnect_backoff=0.5)


def resolve_target(
    *,
    state: str | os.PathLike[str] | None = None,
    socket: str | os.PathLike[str] | None = None,
    target: str | None = None,
    environment: Mapping[str, str] | None = None,
) -> str:
    """`unix:PATH` or a loopback `HOST:PORT`: what was given, else EDGENODE_SOCKET, EDGENODE_STATE, ~/.edgenode.

    Raises InvalidArgument (TWO_TARGETS, SOCKET_PATH_TOO_LONG, BAD_ADDRESS, PLAINTEXT_REFUSED).
    """
    if sum(value is not None for value in (state, socket, target)) > 1:
        raise InvalidArgument("TWO_TARGETS", "more than one of state, socket and target", hint="give one of them")
    if target is not None:
        if target.startswith("unix:"):
            return unix_target(target.removeprefix("unix:").removeprefix("//") or "/")
        check_plaintext(target, plaintext_loopback=True)
        return target
    if socket is not None:
        return unix_target(socket)
    environment = os.environ if environment is None else environment
    if state is None:
        if environment.get("EDGENODE_SOCKET"):
            return unix_target(environment["EDGENODE_SOCKET"])
        state = environment.get("EDGENODE_STATE") or Path("~/.edgenode").expanduser()
    return unix_target(Path(state) / SOCKET_NAME)


def open_local_channel(target: str) -> grpc.aio.Channel:
    """A channel to a node on this machine; the caller closes it."""
    channel = open_channel(target, plaintext_loopback=True, settings=_SETTINGS)
    return DirectChannel(target.removeprefix("unix:"), channel) if target.startswith("unix:") else channel
