"""Command line of the simulation: many seeds, how much was done to them, and the tail of the first that fails."""

from __future__ import annotations

import sys
import time
from collections import Counter

import click

from tests.simulation.run import Simulation
from tests.simulation.world import SimulationFailure


@click.command()
@click.option("--seeds", default=100, show_default=True, metavar="N", help="How many.")
@click.option("--from", "first", default=0, show_default=True, metavar="S", help="The first one.")
def main(seeds: int, first: int) -> None:
    """Run the seeded simulation of the link; exit code 1 at the first seed that fails."""
    faults: Counter[str] = Counter()
    endings: Counter[str] = Counter()
    entries = steps = 0
    begun = time.monotonic()
    for seed in range(first, first + seeds):
        try:
            report = Simulation(seed).run()
        except SimulationFailure as failure:
            click.echo(failure, err=True)
            click.echo(f"\nseed {seed} failed; run it again: scripts/sim --seeds 1 --from {seed}", err=True)
            sys.exit(1)
        faults += report.faults
        endings += report.endings
        entries += report.entry_count
        steps += report.step_count
    _print("faults injected", faults)
    _print("sessions ended by", endings)
    taken = time.monotonic() - begun
    click.echo(f"{seeds} seeds from {first}: {entries} entries, each applied once and in order; ", nl=False)
    click.echo(f"{steps} steps in {taken:.1f} s")


def _print(title: str, counts: Counter[str]) -> None:
    click.echo(f"{title}:")
    for kind, count in counts.most_common():
        click.echo(f"  {kind:24} {count:8}")


if __name__ == "__main__":
    main()
