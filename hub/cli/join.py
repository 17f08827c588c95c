"""`edgehub join | leave`."""

from __future__ import annotations

import shutil
from pathlib import Path

import click

from edgenode.link.errors import NotFound
from edgenode.link.parent.identity import join as join_fleet
from edgenode.link.parent.identity import load_identity
from edgenode.link.ports import SystemClock
from edgenode.link.terminal.joined import show_joined
from edgenode.link.terminal.options import output_option
from edgenode.link.terminal.output import emit, facts
from edgenode.link.terminal.rpc import run
from hub.ca.authority import Authority
from hub.cli.place import state_option
from hub.config import load_hub_config


@click.command()
@click.option("--hub", required=True, metavar="HOST:PORT", help="The parent's enrollment listener.")
@click.option(
    "--token",
    required=True,
    envvar="EDGEHUB_TOKEN",
    help="From `edgehub token create` on the parent [env: EDGEHUB_TOKEN].",
)
@output_option
@state_option
def join(state: Path, output: str, hub: str, token: str) -> None:
    """Put this hub below the one at --hub: its fleet becomes part of the parent's. Serve it anew afterwards."""
    config = load_hub_config(state).config
    Authority.load(state, SystemClock())  # a hub must be there before it can have a parent
    identity = run(join_fleet(config.parent_dir, hub, token))
    show_joined(identity, str(state), f"edgehub serve --state {state} (again, if it runs)", output)


@click.command()
@output_option
@state_option
def leave(state: Path, output: str) -> None:
    """Take this hub out from below its parent. Serve it anew afterwards: what still waits for the parent is then let go."""
    directory = load_hub_config(state).config.parent_dir
    identity = load_identity(directory)
    if identity is None:
        raise NotFound("NO_PARENT", f"the hub in {state} has joined no other", hint="see: edgehub status")
    shutil.rmtree(directory)
    shown = {"node": identity.node, "identity": str(identity.name), "state": str(state)}
    following = f"edgehub serve --state {state} (again, if it runs)"
    emit(output, shown, lambda: facts([("left", identity.name), ("next", following)]))
