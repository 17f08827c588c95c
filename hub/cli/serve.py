"""`edgehub serve`."""

from __future__ import annotations

from pathlib import Path

import click

from edgenode.link import failpoints
from edgenode.link.config import LOG_LEVELS, parse_address
from edgenode.link.errors import DataLoss
from edgenode.link.telemetry import configure_logging
from edgenode.link.terminal.event_loop import run_on
from edgenode.link.terminal.signals import serve as run_service
from hub.app import Hub
from hub.cli.place import state_option
from hub.config import HubConfig, load_hub_config


@click.command()
@click.option("--listen", metavar="HOST:PORT", help="Sync listener (mutual TLS); port 0: any free one.")
@click.option("--enroll-listen", metavar="HOST:PORT", help="Enrollment listener; port 0: any free one.")
@click.option("--socket", type=click.Path(), help="Path of the Unix socket; STATE/edgehub.sock when not given.")
@click.option("--log-level", type=click.Choice(LOG_LEVELS), help="What is logged, to standard error.")
@state_option
def serve(state: Path, **flags: str | None) -> None:
    """Run the hub. Prints a line that begins with `ready` and names its ports; SIGTERM and SIGINT stop it in order."""
    config = load_hub_config(state, flags=flags).config
    configure_logging(config.log_level)
    failpoints.arm_from_environment()
    run_on(config.event_loop, lambda: _serve(config))


async def _serve(config: HubConfig) -> None:
    hub = Hub(config)

    def ready() -> str:
        listen = _bound(config.listen, hub.sync_port)
        enroll = _bound(config.enroll_listen, hub.enrollment_port)
        return f"ready listen={listen} enroll={enroll} socket={config.socket_path}"

    try:
        asked = await run_service(hub, ready)
    except DataLoss as error:
        if error.reason != "STATE_DAMAGED":
            raise
        raise _damaged(config, error.problem.message) from error
    if not asked:
        raise _damaged(config, f"the store {config.store_path} was found damaged while the hub ran")


def _damaged(config: HubConfig, what: str) -> DataLoss:
    """A hub holds the fleet's truth: it does not go on with what is left of it, unless somebody decides so."""
    return DataLoss(
        "STATE_DAMAGED",
        what,
        hint=f"restore a backup: edgehub restore BACKUP --force --state {config.state_dir}",
    )


def _bound(address: str, port: int) -> str:
    """The address with the port that was really bound."""
    host, _ = parse_address(address)
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"
