"""What `edgenode mcp login` does: shows a person where to go, waits for the answer, and has the mount tried with it."""

from __future__ import annotations

import asyncio
import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import click

from edgenode.api.admin.v1 import admin_pb2, admin_service_pb2_grpc
from edgenode.bridges.mcp.oauth.errands import Errands
from edgenode.bridges.mcp.oauth.kept import Kept
from edgenode.bridges.mcp.oauth.login import Login
from edgenode.bridges.mcp.oauth.settings import read_settings
from edgenode.cli.mounts import find_mount, retried
from edgenode.cli.place import node_target
from edgenode.link.errors import FailedPrecondition
from edgenode.link.terminal.output import clean
from edgenode.link.terminal.rpc import channel_to


async def log_in(state: Path, name: str, port: int, timeout: float) -> admin_pb2.MountRecord:
    """The mount after it. Raises as Login.run does, NotFound (UNKNOWN_MOUNT), FailedPrecondition (NO_LOGIN,
    NOT_THE_NODES_USER)."""
    async with channel_to(node_target(state)) as channel:
        stub = admin_service_pb2_grpc.AdminServiceStub(channel)
        mount = (await find_mount(stub, name)).mount
        if not mount.HasField("mcp_http"):
            raise FailedPrecondition("NO_LOGIN", f"{name} is no MCP server with a URL", hint="edgenode mcp list")
        if os.geteuid() != state.stat().st_uid:
            raise FailedPrecondition(
                "NOT_THE_NODES_USER",
                f"{state} belongs to another user, who could not read what is kept",
                hint="run it as the user the node runs as, e.g. with sudo -u",
            )
        server = mount.mcp_http
        settings = read_settings(server.oauth_file)
        errands = Errands(settings, (server.url, settings.issuer))
        try:
            login = Login(Kept(state, name, server.url), settings, errands, lambda address: _show(login, address))
            with _pasted(login):
                record = await login.run(port, timeout)
        finally:
            await errands.aclose()
        click.echo(f"logged in to {clean(server.url)}: {clean(record.scope) or 'no scopes named'}", err=True)
        return await retried(stub, name)


def _show(login: Login, address: str) -> None:
    host = login.redirect.split("/")[2]
    lines = [
        "Visit this address in a browser:",
        f"\n  {clean(address)}\n",
        f"It leads back to {login.redirect}, where this waits. From another machine:",
        f"  ssh -L {host}:{host} ... first, or paste the address the browser ended at here.",
    ]
    click.echo("\n".join(lines), err=True)


@contextmanager
def _pasted(login: Login) -> Iterator[None]:
    """Meanwhile what is typed here is taken as the address that the person ended at."""
    if not sys.stdin.isatty():
        yield
        return
    loop, terminal = asyncio.get_running_loop(), sys.stdin.fileno()

    def heard() -> None:
        line = os.read(terminal, 64 * 1024)
        if not line:
            loop.remove_reader(terminal)
        elif line.strip() and not login.came_back(line.decode(errors="replace")):
            click.echo("that is no answer to this login", err=True)

    loop.add_reader(terminal, heard)
    try:
        yield
    finally:
        loop.remove_reader(terminal)
