"""Command line of the simulation: many seeds, how much was done to them, and the history of those that fail."""

from __future__ import annotations

import sys
import time
from collections import Counter

import click

from tests.simulation.campaign import Totals, failure_of, run_campaign, shrink
from tests.simulation.link.campaign import run_links
from tests.simulation.world import World


@click.command()
@click.option("--seeds", default=100, show_default=True, metavar="N", help="How many.")
@click.option("--from", "first", default=0, show_default=True, metavar="S", help="The first one.")
@click.option("--jobs", default=1, show_default=True, metavar="J", help="Processes to run them in.")
@click.option(
    "--world",
    type=click.Choice(["whole", "link"]),
    default="whole",
    show_default=True,
    help="Hub, edges, stores and programs; or two link sessions alone, which is fast.",
)
@click.option("--only", metavar="K,K,...", help="Run the first seed alone with these of its faults; `none` for none.")
@click.option("--keep-going", is_flag=True, help="Go on after a seed that fails, and shrink none.")
def main(seeds: int, first: int, jobs: int, world: str, only: str | None, keep_going: bool) -> None:
    """Run the seeded simulation; exit code 1 if a seed fails. Its history is printed, and it is shrunk."""
    if world == "link":
        run_links(seeds, first)
        return
    if only is not None:
        _replay(first, only)
        return
    begun = time.monotonic()
    totals = Totals()
    for part in run_campaign(first, seeds, jobs):
        totals.add(part)
        for seed, failure in part.failures.items():
            click.echo(failure if not keep_going else failure.partition("\n")[0], err=True)
            if not keep_going:
                _shrink(seed)
                sys.exit(1)
        if sys.stderr.isatty():
            click.echo(f"\r{totals.seeds} of {seeds}", nl=False, err=True)
    _print("faults injected", totals.faults)
    _print("what became of the transaction under way at a crash", totals.fates)
    click.echo(
        f"{totals.seeds} seeds from {first}: {len(totals.failures)} failed; {totals.entries} messages and {totals.tasks}"
        f" tasks and calls over {totals.sessions} connections, {totals.steps} steps in {time.monotonic() - begun:.0f} s"
    )
    if totals.failures:
        click.echo(f"failed: {', '.join(map(str, sorted(totals.failures)))}", err=True)
        sys.exit(1)


def _shrink(seed: int) -> None:
    click.echo(f"\nshrinking seed {seed} ...", err=True)
    faults, failure = shrink(seed, lambda text: click.echo(text, err=True))
    click.echo(failure, err=True)
    click.echo("\nwith these faults only:", err=True)
    for fault in faults:
        click.echo(f"  {fault}", err=True)
    numbers = ",".join(str(fault.number) for fault in faults) or "none"
    click.echo(f"\nagain: scripts/sim --from {seed} --only {numbers}", err=True)


def _replay(seed: int, only: str) -> None:
    numbers = set() if only == "none" else {int(number) for number in only.split(",")}
    failure = failure_of(seed, [fault for fault in World(seed).faults if fault.number in numbers])
    click.echo(failure or f"seed {seed} holds with these faults", err=bool(failure))
    sys.exit(1 if failure else 0)


def _print(title: str, counts: Counter[str]) -> None:
    click.echo(f"{title}:")
    for kind, count in counts.most_common():
        click.echo(f"  {kind:28} {count:8}")


if __name__ == "__main__":
    main()
