"""Command line of `scripts/flood`: every flood, larger, and what memory the processes had by the second."""

from __future__ import annotations

import asyncio
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path

import click

from edgenode.link.config import parse_bytes
from tests.faults.flooded_hub import LIMIT, flooded_hub
from tests.faults.flooding import MIB, WAYS, Memory, flood, flooded
from tests.faults.mutants import MUTANTS

HUB = "hub"


async def _flood(way: str, folder: Path, offered: int, mutant: str) -> tuple[Memory, int]:
    """(memory, what it may grow by), of fresh processes."""
    if way == HUB:
        async with flooded_hub(folder, mutant) as site:
            await site.call(2 * offered)
            return site.memory, LIMIT
    async with flooded(folder, mutant, offered) as edge:
        return await flood(edge, way), WAYS[way].limit


@click.command()
@click.argument("ways", nargs=-1, metavar="[WAY]...", type=click.Choice([*WAYS, HUB]))
@click.option("--offered", default="512 MiB", show_default=True, metavar="SIZE", help="Bytes of a flood, about.")
@click.option("--dir", "directory", type=click.Path(exists=True, file_okay=False), help="Where state is made.")
@click.option("--mutant", type=click.Choice(sorted(MUTANTS)), help="Run with a protection taken away.")
def main(ways: Sequence[str], offered: str, directory: str | None, mutant: str | None) -> None:
    """Flood an edge, and a hub, by clients that send without reading; exit code 1 if a process outgrew its bounds.

    WAY is a way in, as the table names them; all if none is given. Each has processes of its own. The table has resident
    memory in MB: before, the most it grew by and may grow by, and the most it had in each second.
    """
    outgrown = False
    click.echo(f"{'way in':16} {'before':>7} {'growth':>7} {'limit':>6}   by the second, MB")
    for way in ways or [*WAYS, HUB]:
        with tempfile.TemporaryDirectory(prefix="flood-", dir=directory) as folder:
            memory, limit = asyncio.run(_flood(way, Path(folder), parse_bytes(offered), mutant or ""))
        outgrown |= memory.growth > limit
        seconds = " ".join(f"{size / MIB:.0f}" for size in memory.seconds)
        sizes = f"{memory.before / MIB:7.1f} {memory.growth / MIB:7.1f} {limit / MIB:6.0f}"
        click.echo(f"{way:16} {sizes}   {seconds}{'   OUTGREW' if memory.growth > limit else ''}")
    sys.exit(1 if outgrown else 0)


if __name__ == "__main__":
    main()
