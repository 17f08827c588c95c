"""`edgenode a2a`."""

from __future__ import annotations

import asyncio
import importlib.util
import ipaddress
from pathlib import Path
from typing import TYPE_CHECKING

import click

from edgenode.cli.place import node_client
from edgenode.cli.state import state_option
from edgenode.link.config import LOG_LEVELS
from edgenode.link.errors import FailedPrecondition, InvalidArgument
from edgenode.link.model.task import Scope
from edgenode.link.telemetry import configure_logging
from edgenode.link.terminal.signals import StopSignal

if TYPE_CHECKING:
    from edgenode.bridges.a2a.serving import Settings


@click.group()
def a2a() -> None:
    """The node and its agents for callers that speak A2A. Needs the extra a2a."""


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

    async with node_client(state) as client:
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
