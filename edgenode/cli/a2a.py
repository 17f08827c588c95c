"""`edgenode a2a`."""

from __future__ import annotations

import asyncio
import importlib.util
import ipaddress
import logging
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from edgenode.api.admin.v1 import admin_pb2
from edgenode.cli.mounts import add_mount, fill_policy, list_mounts, policy_options, remove_mount, retry_mount
from edgenode.cli.place import node_target
from edgenode.cli.state import state_option
from edgenode.link.config import LOG_LEVELS
from edgenode.link.errors import FailedPrecondition, InvalidArgument
from edgenode.link.model.task import Scope
from edgenode.link.telemetry import configure_logging
from edgenode.link.terminal.lazy import DefaultGroup
from edgenode.link.terminal.options import limit_option, output_option
from edgenode.link.terminal.signals import StopSignal
from edgenode.sdk.client import Client

if TYPE_CHECKING:
    from edgenode.bridges.a2a.serving import Settings

_NODE_AWAY = 30.0  # seconds a request waits for a node that is restarting


@click.group(cls=DefaultGroup)
def a2a() -> None:
    """A2A agents as agents of this node, and its agents for callers that speak A2A. Without a word: list."""


@a2a.command()
@click.argument("name")
@click.argument("url")
@click.option(
    "--headers-file",
    type=click.Path(dir_okay=False, resolve_path=True),
    help="File of header lines, e.g. a token, that only its owner may read; sent to the host of URL alone.",
)
@policy_options
@output_option
@state_option
def add(state: Path, output: str, name: str, url: str, headers_file: str | None, no_wait: bool, **given: Any) -> None:
    """Make the A2A agent whose card is at URL an agent NAME, each skill of it a skill NAME.SKILL.

    URL is that of the card, or of the place whose /.well-known/agent-card.json it is. It is there after every restart of the
    node. Exit code 7 when it is mounted but out of reach.
    """
    mount = admin_pb2.Mount(name=name, a2a=admin_pb2.A2aAgent(url=url, headers_file=headers_file or ""))
    fill_policy(mount.policy, given)
    add_mount(state, output, mount, no_wait=no_wait, start_timeout=given["start_timeout"])


@a2a.command("list")
@limit_option(256)
@output_option
@state_option
def list_(state: Path, output: str, limit: int) -> None:
    """Mounted A2A agents, and how they are."""
    list_mounts(state, output, limit, admin_pb2.MOUNT_KIND_A2A)


@a2a.command()
@click.argument("name")
@output_option
@state_option
def retry(state: Path, output: str, name: str) -> None:
    """Look at an agent that is waited for now. Exit code 7 when it is not there."""
    retry_mount(state, output, name)


@a2a.command()
@click.argument("name")
@state_option
def remove(state: Path, name: str) -> None:
    """Remove the agent; what it was given is not cancelled."""
    remove_mount(state, name)


@a2a.command()
@click.option("--listen", metavar="HOST:PORT", default="127.0.0.1:7880", show_default=True, help="HTTP; unix:PATH too.")
@click.option(
    "--listen-grpc", metavar="HOST:PORT", default="127.0.0.1:7881", show_default=True, help="gRPC; unix:PATH too."
)
@click.option("--no-grpc", is_flag=True, help="HTTP alone.")
@click.option("--scope", type=click.Choice(["local", "fleet"]), default="local", show_default=True,
              help="Where tasks may run unless their message says otherwise.")  # fmt: skip
@click.option("--allow-webhooks", metavar="NETWORK", multiple=True,
              help="Network web hooks may point into though it is not public, e.g. 127.0.0.0/8. Repeatable.")  # fmt: skip
@click.option("--log-level", type=click.Choice(LOG_LEVELS), default="warning", show_default=True)
@state_option
def serve(
    state: Path,
    listen: str,
    listen_grpc: str,
    no_grpc: bool,
    scope: str,
    allow_webhooks: tuple[str, ...],
    log_level: str,
) -> None:
    """Serve the node's agents over A2A 1.0: JSON-RPC, HTTP+JSON and gRPC, on this machine alone.

    Callers send the line of STATE/bridge.token as bearer token. Prints a line that begins with `ready` when it serves.
    """
    configure_logging(log_level)
    logging.getLogger("a2a").setLevel(logging.ERROR)  # it warns of every refusal, of which the caller is told
    _check_installed()
    # Heavy, and only this command needs it.
    from edgenode.bridges.a2a.serving import Settings

    settings = Settings(
        listen=listen,
        listen_grpc="" if no_grpc else listen_grpc,
        hooks=state / "a2a" / "webhooks",
        allow_webhooks=tuple(_network(text) for text in allow_webhooks),
        scope=Scope[scope.upper()],
    )
    asyncio.run(_serve(state, settings))


async def _serve(state: Path, settings: Settings) -> None:
    from edgenode.bridges.a2a.serving import Bridge
    from edgenode.bridges.access import bridge_token

    async with Client(target=node_target(state), connect_timeout=_NODE_AWAY) as client:
        bridge = Bridge(client, settings, bridge_token(state))
        with StopSignal() as stop:
            await bridge.start()
            try:
                places = bridge.places
                click.echo(f"ready http={places.http or '-'} grpc={places.grpc or '-'} token={state / 'bridge.token'}")
                await stop.wait()
            finally:
                await bridge.stop()


def _check_installed() -> None:
    if importlib.util.find_spec("a2a") is None:
        raise FailedPrecondition(
            "BRIDGE_NOT_INSTALLED", "the A2A SDK is not installed", hint="pip install 'edgenode[a2a]'"
        )


def _network(text: str) -> ipaddress.IPv4Network | ipaddress.IPv6Network:
    try:
        return ipaddress.ip_network(text)
    except ValueError as error:
        raise InvalidArgument(
            "BAD_NETWORK",
            f"--allow-webhooks is {text!r}",
            hint="e.g. 10.1.0.0/16 or 127.0.0.1/32",
            field="--allow-webhooks",
        ) from error
