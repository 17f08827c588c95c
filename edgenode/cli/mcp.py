"""`edgenode mcp add | list | login | retry | remove | serve`."""

from __future__ import annotations

import asyncio
import importlib.util
import os
import shutil
import stat
from pathlib import Path
from typing import Any

import click

from edgenode.api.admin.v1 import admin_pb2
from edgenode.cli.mounts import (
    add_mount,
    fill_policy,
    list_mounts,
    policy_options,
    remove_mount,
    retry_mount,
    say_mounted,
)
from edgenode.cli.place import node_target
from edgenode.cli.state import state_option
from edgenode.link.config import LOG_LEVELS
from edgenode.link.errors import FailedPrecondition
from edgenode.link.telemetry import configure_logging
from edgenode.link.terminal.lazy import DefaultGroup
from edgenode.link.terminal.options import SECONDS, limit_option, output_option
from edgenode.link.terminal.rpc import run
from edgenode.link.terminal.signals import StopSignal
from edgenode.node.config import load_node_config
from edgenode.sdk.client import Client

_NODE_AWAY = 30.0  # seconds a request waits for a node that is restarting
_LEAVE = 5.0


@click.group(cls=DefaultGroup)
def mcp() -> None:
    """MCP servers as agents of this node, and the node as an MCP server. Without a word: list."""


@mcp.command()
@click.argument("name")
@click.argument("command", nargs=-1, type=click.UNPROCESSED)
@click.option("--url", help="A server that runs elsewhere: the URL of its streamable HTTP endpoint.")
@click.option(
    "--headers-file",
    type=click.Path(dir_okay=False, resolve_path=True),
    help="With --url: file of header lines, e.g. a token, that only its owner may read.",
)
@click.option(
    "--oauth-file",
    type=click.Path(dir_okay=False, resolve_path=True),
    help="With --url: TOML file that says how the node gets tokens, see docs/agents.md; without, a person logs in.",
)
@click.option(
    "--env", multiple=True, metavar="NAME[=VALUE]", help="Environment variable; without a value, as it is here."
)
@click.option(
    "--directory",
    type=click.Path(exists=True, file_okay=False, resolve_path=True),
    help="Where the server is started; this directory when not given.",
)
@policy_options
@output_option
@state_option
def add(state: Path, output: str, name: str, no_wait: bool, **given: Any) -> None:
    """Make an MCP server an agent NAME, each tool a skill NAME.TOOL: `edgenode mcp add files -- npx -y PACKAGE DIR`.

    It is there after every restart of the node. Exit code 7 when it is mounted but its server does not start, or wants
    somebody to log in.
    """
    mount = _mount(name, given)
    add_mount(state, output, mount, no_wait=no_wait, start_timeout=given["start_timeout"])


@mcp.command("list")
@limit_option(256)
@output_option
@state_option
def list_(state: Path, output: str, limit: int) -> None:
    """Mounted servers, how they are, and the last lines of those in trouble."""
    list_mounts(state, output, limit, admin_pb2.MOUNT_KIND_MCP)


@mcp.command()
@click.argument("name")
@click.option(
    "--port", type=click.IntRange(0, 65_535), default=0, help="Where the browser is led back to; any by default."
)
@click.option("--timeout", type=SECONDS, default=300.0, show_default="5min", help="How long the person may take.")
@output_option
@state_option
def login(state: Path, output: str, name: str, port: int, timeout: float) -> None:
    """Let the node use a mounted server as you: prints the address to visit, and waits until you have been there.

    What it gets is kept in a file of the state directory that its owner alone can read, and refreshed by the node. Exit code 7
    when the server is not there afterwards.
    """
    _check_installed()
    # Heavy, and only this command needs it.
    from edgenode.cli.mcp_login import log_in

    say_mounted(output, run(log_in(state, name, port, timeout)))


@mcp.command()
@click.argument("name")
@output_option
@state_option
def retry(state: Path, output: str, name: str) -> None:
    """Try a server that is waited for now. Exit code 7 when it is not there."""
    retry_mount(state, output, name)


@mcp.command()
@click.argument("name")
@state_option
def remove(state: Path, name: str) -> None:
    """End the server and remove its agent."""
    remove_mount(state, name)


@mcp.command()
@click.option(
    "--http", metavar="HOST:PORT", help="Serve HTTP on loopback, or unix:PATH, instead of this process's pipes."
)
@click.option("--timeout", type=SECONDS, default=300.0, show_default="5min", help="How long a request may take.")
@click.option("--log-level", type=click.Choice(LOG_LEVELS), default="warning", show_default=True)
@state_option
def serve(state: Path, http: str | None, timeout: float, log_level: str) -> None:
    """The node as an MCP server: every skill of its agents, and of the fleet's, is a tool.

    Without --http it serves the program that started it, as desktop clients do. With it, it prints a line that begins with
    `ready` when it serves, and callers send the line of STATE/bridge.token as bearer token. Needs the extra mcp.
    """
    configure_logging(log_level)
    _check_installed()
    node_target(state)  # who has no node is told of that first
    if http is None:
        _check_client()
    asyncio.run(_serve(state, http, timeout))


def _check_installed() -> None:
    if importlib.util.find_spec("mcp") is None:
        raise FailedPrecondition(
            "BRIDGE_NOT_INSTALLED", "the MCP SDK is not installed", hint="pip install 'edgenode[mcp]'"
        )


def _check_client() -> None:
    """Whether standard input is something a client writes to. Raises FailedPrecondition (NO_CLIENT)."""
    try:
        kind = os.fstat(0).st_mode
    except OSError:
        kind = 0
    if os.isatty(0):
        click.echo("waits for an MCP client, which would start this by itself; Ctrl-C ends it", err=True)
    elif not (stat.S_ISFIFO(kind) or stat.S_ISSOCK(kind)):
        raise FailedPrecondition(
            "NO_CLIENT",
            "standard input is no pipe, so no MCP client is at its other end",
            hint="put this command into a client's configuration, or add --http 127.0.0.1:7882",
        )


async def _serve(state: Path, http: str | None, timeout: float) -> None:
    # Heavy, and only this command needs it.
    from edgenode.bridges.access import TOKEN_FILE, bridge_token, state_key
    from edgenode.bridges.mcp.serving import Serving
    from edgenode.bridges.mcp.transports import over_http, over_pipes

    retention = load_node_config(state).config.task_retention_seconds
    client = Client(target=node_target(state), connect_timeout=_NODE_AWAY)
    memory = state / "mcp" / "fleet.agents"
    serving = Serving(client, key=state_key(state), timeout=timeout, retention=retention, memory=memory)
    async with client, serving:
        with StopSignal() as stop:
            if http is None:
                ends = asyncio.create_task(over_pipes(serving))
                stopped = asyncio.create_task(stop.wait())
                await asyncio.wait([ends, stopped], return_when=asyncio.FIRST_COMPLETED)
                for task in (ends, stopped):
                    task.cancel()
                await asyncio.wait([ends, stopped], timeout=_LEAVE)
                if ends.done() and not ends.cancelled():
                    ends.result()
                return
            async with over_http(serving, http, bridge_token(state)) as place:
                where = f" socket={place.socket}" if place.socket else ""
                click.echo(f"ready http={place.url}{where} token={state / TOKEN_FILE}")
                await stop.wait()


def _mount(name: str, given: dict[str, Any]) -> admin_pb2.Mount:
    command: tuple[str, ...] = given["command"]
    if bool(command) == bool(given["url"]):
        raise click.UsageError("give the server's command after `--`, or its --url")
    mount = admin_pb2.Mount(name=name)
    if command:
        if given["headers_file"] or given["oauth_file"]:
            raise click.UsageError("--headers-file and --oauth-file go with --url")
        server = mount.mcp_stdio
        # As it is found from here: the node may have been started elsewhere, with another PATH.
        program = shutil.which(command[0])
        server.arguments.extend([os.path.abspath(program) if program else command[0], *command[1:]])
        server.environment.update(_variable(text) for text in given["env"])
        server.environment.setdefault("PATH", os.environ.get("PATH", os.defpath))
        server.working_directory = given["directory"] or os.getcwd()
    else:
        if given["env"] or given["directory"]:
            raise click.UsageError("--env and --directory go with a command")
        mount.mcp_http.url = given["url"]
        mount.mcp_http.headers_file = given["headers_file"] or ""
        mount.mcp_http.oauth_file = given["oauth_file"] or ""
    fill_policy(mount.policy, given)
    return mount


def _variable(text: str) -> tuple[str, str]:
    name, equals, value = text.partition("=")
    if not equals:
        if name not in os.environ:
            raise click.UsageError(f"{name} is not set here; --env {name}=VALUE gives it one")
        value = os.environ[name]
    return name, value
