"""`edgenode join`."""

from __future__ import annotations

from pathlib import Path

import click

from edgenode.cli.state import state_option
from edgenode.link import failpoints
from edgenode.link.parent.identity import join as join_fleet
from edgenode.link.terminal.joined import show_joined
from edgenode.link.terminal.options import output_option
from edgenode.link.terminal.rpc import run


@click.command()
@click.option("--hub", required=True, metavar="HOST:PORT", help="The hub's enrollment listener.")
@click.option(
    "--token", required=True, envvar="EDGENODE_TOKEN", help="From `edgehub token create` [env: EDGENODE_TOKEN]."
)
@output_option
@state_option
def join(state: Path, output: str, hub: str, token: str) -> None:
    """Join the hub at --hub: trade the token for an identity, kept in --state. Safe to repeat."""
    failpoints.arm_from_environment()
    show_joined(run(join_fleet(state, hub, token)), str(state), f"edgenode run --state {state}", output)
