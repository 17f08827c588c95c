"""Command line of the power-cut campaign."""

from __future__ import annotations

import asyncio
import shutil
import sys
import time

import click

from tests.faults.disk.campaign import EDGE, HUB, Service, cut_power
from tests.faults.disk.control import memory_folder
from tests.faults.mutants import MUTANTS

MEGABYTE = 1_000_000


@click.command()
@click.option("--points", default=2000, show_default=True, metavar="N", help="Power cuts, half of them of the hub.")
@click.option("--start-every", default=50, show_default=True, metavar="K", help="Start the real service on every Kth.")
@click.option("--megabytes", default=30, show_default=True, metavar="M", help="Length of each recording's journal.")
@click.option("--seed", default=1, show_default=True, metavar="S", help="Of the load and of every cut.")
@click.option("--only", type=click.Choice(["edge", "hub"]), help="One of the two services.")
@click.option("--mutant", type=click.Choice(sorted(MUTANTS)), help="Record with a protection taken away: it must fail.")
def main(points: int, start_every: int, megabytes: int, seed: int, only: str | None, mutant: str | None) -> None:
    """Cut the power of edge and hub at many points; exit code 1 if anything acknowledged is lost or anything is wrong.

    The unmodified services run under load on a disk that writes down every write, sync and rename. Then the disk is rebuilt as
    it may stand after a power cut at each point, and opened by the service's own store: it must open, pass SQLite's
    integrity check, balance, and hold everything acknowledged by then. On every Kth the real service is started.
    """
    services = [service for service in (EDGE, HUB) if only in (None, service.name)]
    results = [
        _campaign(service, points // len(services), start_every, megabytes, seed, mutant or "") for service in services
    ]
    sys.exit(0 if all(results) else 1)


def _campaign(service: Service, points: int, start_every: int, megabytes: int, seed: int, mutant: str) -> bool:
    folder = memory_folder()
    began = time.monotonic()
    try:
        recording = asyncio.run(service.record(folder, megabytes * MEGABYTE, mutant=mutant, seed=seed))
        click.echo(f"{service.name}: journal of {len(recording.journal):,} bytes; promised {recording.promises}")
        outcome = asyncio.run(
            cut_power(service, recording, points, starts=max(points // start_every, 1), seed=seed, fail_at=20)
        )
    finally:
        shutil.rmtree(folder)
    for text in outcome.wrong:
        click.echo(f"  {text}", err=True)
    click.echo(
        f"{service.name}: {outcome.points:,} power cuts, {outcome.started} of them with a start of the service;"
        f" {outcome.promised:,} promises looked for, {len(outcome.wrong)} things wrong; {time.monotonic() - began:.0f} s"
    )
    return not outcome.wrong


if __name__ == "__main__":
    main()
