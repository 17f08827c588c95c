"""`edgehub blob get | list | remove`."""

from __future__ import annotations

from pathlib import Path

import click

from edgenode.link.terminal.blobs import get_options, remove_blob, save_blob, show_blobs
from edgenode.link.terminal.lazy import DefaultGroup
from edgenode.link.terminal.options import output_option
from edgenode.link.terminal.rpc import run
from hub.cli.place import hub_target, state_option


@click.group(cls=DefaultGroup)
def blob() -> None:
    """Large content of the fleet's tasks, by its digest. Without a word: list."""


@blob.command("list")
@output_option
@state_option
def list_(state: Path, output: str) -> None:
    """Blobs the hub keeps for its tasks, by digest, and how much room they take."""
    run(show_blobs(hub_target(state), output))


@blob.command()
@get_options
@output_option
@state_option
def get(state: Path, output: str, digest: str, to: str, timeout: float) -> None:
    """Write the content of DIGEST to FILE, into DIR, or to standard output.

    What is on its way from a node is waited for; exit code 6 when the time is over.
    """
    run(save_blob(hub_target(state), output, digest, to, timeout))


@blob.command()
@click.argument("digest")
@output_option
@state_option
def remove(state: Path, output: str, digest: str) -> None:
    """Remove a blob that no task refers to any more."""
    run(remove_blob(hub_target(state), output, digest))
