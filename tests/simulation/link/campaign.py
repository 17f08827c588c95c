"""Many seeds of the link alone: two sessions, a model of the disk, nothing else, and therefore thousands in a minute."""

from __future__ import annotations

import sys
import time
from collections import Counter

import click

from tests.simulation.link.run import Simulation
from tests.simulation.link.world import SimulationFailure


def run_links(seeds: int, first: int) -> None:
    """Run them and print what was done; ends the program with 1 at the first seed that fails."""
    faults: Counter[str] = Counter()
    endings: Counter[str] = Counter()
    entries = steps = 0
    begun = time.monotonic()
    for seed in range(first, first + seeds):
        try:
            report = Simulation(seed).run()
        except SimulationFailure as failure:
            click.echo(failure, err=True)
            click.echo(f"\nagain: scripts/sim --world link --seeds 1 --from {seed}", err=True)
            sys.exit(1)
        faults += report.faults
        endings += report.endings
        entries += report.entry_count
        steps += report.step_count
    for title, counts in (("faults injected", faults), ("sessions ended by", endings)):
        click.echo(f"{title}:")
        for kind, count in counts.most_common():
            click.echo(f"  {kind:24} {count:8}")
    taken = time.monotonic() - begun
    click.echo(f"{seeds} seeds from {first}: {entries} entries, each applied once and in order; ", nl=False)
    click.echo(f"{steps} steps in {taken:.1f} s")
