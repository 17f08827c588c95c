"""`edgenode join`."""

from __future__ import annotations

import time
from pathlib import Path

import click

from edgenode.cli.state import state_option
from edgenode.link.parent.identity import join as join_fleet
from edgenode.link.terminal.options import output_option
from edgenode.link.terminal.output import emit, facts, human_seconds
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
    identity = run(join_fleet(state, hub, token))
    shown = {
        "node": identity.node,
        "identity": str(identity.name),
        "hub": identity.hub,
        "sync_address": identity.sync_address,
        "generation": identity.generation,
        "certificate_expire_time": identity.expire_time,
        "state": str(state),
    }
    ends = human_seconds(identity.expire_time - time.time())
    emit(
        output,
        shown,
        lambda: facts(
            [
                ("joined as", identity.node),
                ("identity", identity.name),
                ("hub", f"{identity.hub} at {identity.sync_address}"),
                ("certificate", f"ends in {ends}, renewed before by itself"),
                ("next", f"edgenode run --state {state}"),
            ]
        ),
    )
