"""`edgenode blob put | get | list | remove`."""

from __future__ import annotations

import sys
from pathlib import Path

import click

from edgenode.cli.place import node_client, node_target
from edgenode.cli.state import state_option
from edgenode.link.model.blob import BlobRef
from edgenode.link.terminal.blobs import get_options, remove_blob, save_blob, show_blobs
from edgenode.link.terminal.lazy import DefaultGroup
from edgenode.link.terminal.options import output_option
from edgenode.link.terminal.output import emit, human_bytes
from edgenode.link.terminal.rpc import run


@click.group(cls=DefaultGroup)
def blob() -> None:
    """Content too large for a payload, by its digest. Without a word: list."""


@blob.command()
@click.argument("file", metavar="FILE|-")
@click.option("--name", default="", help="What to call it; the file's name when not given.")
@click.option("--media-type", default="", help="Its media type; guessed from the file's name when not given.")
@output_option
@state_option
def put(state: Path, output: str, file: str, name: str, media_type: str) -> None:
    """Store the content of FILE, or of standard input, and print its reference."""

    async def work() -> BlobRef:
        async with node_client(state) as client:
            source = sys.stdin.buffer if file == "-" else Path(file)
            return await client.put(source, name=name, media_type=media_type)

    if file != "-" and not Path(file).is_file():
        raise click.UsageError(f"{file} is no file")
    ref = run(work())
    facts = {"digest": ref.digest, "size": ref.size, "media_type": ref.media_type, "name": ref.name}
    emit(output, facts, lambda: f"{ref.digest}  {human_bytes(ref.size)}")


@blob.command()
@get_options
@output_option
@state_option
def get(state: Path, output: str, digest: str, to: str, timeout: float) -> None:
    """Write the content of DIGEST to FILE, into DIR, or to standard output.

    What is on its way from another node is waited for; exit code 6 when the time is over.
    """
    run(save_blob(node_target(state), output, digest, to, timeout))


@blob.command("list")
@output_option
@state_option
def list_(state: Path, output: str) -> None:
    """Blobs of this node, by digest, and how much room they take."""
    run(show_blobs(node_target(state), output))


@blob.command()
@click.argument("digest")
@output_option
@state_option
def remove(state: Path, output: str, digest: str) -> None:
    """Remove a blob that no task refers to."""
    run(remove_blob(node_target(state), output, digest))
