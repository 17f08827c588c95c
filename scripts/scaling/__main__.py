"""`scripts/scale`: a hub with N, N/10 and N/100 simulated edges, each in a process of its own, side by side."""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

from scripts.scaling.measures import Figures, Mismatch, measure
from scripts.scaling.parts import sizes as parts
from scripts.scaling.storm import storm

LEAST = 200  # edges of the smallest crowd
PATIENCE = 1800.0  # seconds for one crowd
RATES = (50.0, 500.0)  # edges let in a second
UNITS = {"memory": "KiB", "cpu": "µs", "count": "", "pause": "", "wall": ""}


def sizes(most: int) -> list[int]:
    """Crowds to compare, smallest first."""
    return sorted({max(most // share, min(LEAST, most)) for share in (100, 10, 1)})


def one(count: int, items: int, root: Path) -> Figures:
    """The figures of one crowd, taken in a process of its own. Raises Mismatch."""
    began = time.monotonic()
    with tempfile.TemporaryDirectory(prefix="scale-", dir=root) as folder:
        figures = _child("parts", count, items, folder) | _child("hub", count, items, folder)
    figures["wall.seconds this took"] = time.monotonic() - began
    return figures


def _child(what: str, count: int, items: int, folder: str) -> Figures:
    command = [sys.executable, "-m", "scripts.scaling", "--child", what, str(count), str(items), folder]
    done = subprocess.run(command, stdout=subprocess.PIPE, timeout=PATIENCE, check=False, text=True)
    if done.returncode:
        raise Mismatch(done.stdout.strip() or f"the process of {count} edges ended with {done.returncode}")
    figures: Figures = json.loads(done.stdout)
    return figures


def table(columns: Sequence[tuple[int, Figures]]) -> str:
    """A line for each figure, a column for each crowd; the last says how much it grew from the first to the last."""
    names = list(columns[-1][1])
    width = max(map(len, names)) + 6
    lines = [f"{'':{width}}" + "".join(f"{count:>12,}" for count, _ in columns) + f"{'grows by':>12}"]
    for name in names:
        kind, _, what = name.partition(".")
        unit = UNITS[kind]
        label = f"{what}, {unit}" if unit else what
        values = [figures[name] for _, figures in columns]
        grown = f"{values[-1] / values[0]:.2f}" if values[0] > 0 else "-"
        lines.append(f"{label:{width}}" + "".join(f"{value:12,.2f}" for value in values) + f"{grown:>12}")
    return "\n".join(lines)


def storms(count: int) -> str:
    """How everybody comes in again. Raises Mismatch if somebody would wait for ever."""
    lines = [f"{count:,} edges find their hub again (simulated time)"]
    for rate in RATES:
        for failures, before in ((0, "after a break"), (9, "after hours without a hub")):
            seen = storm(count, rate, failures)
            lines.append(
                f"  {before}, {rate:g} let in a second: all in after {seen.seconds:,.0f} s, {seen.knocks / count:.2f} knocks"
                f" each, {seen.most_knocks} at most, {seen.most_a_second:,} in the busiest second, {seen.cpu:.1f} µs a knock"
                " at the gate"
            )
            if seen.most_knocks > 3:
                raise Mismatch(f"an edge knocked {seen.most_knocks} times before it was let in")
    return "\n".join(lines)


def main() -> None:
    """The command."""
    parser = argparse.ArgumentParser(
        prog="scripts/scale",
        description="A hub's own core with so many simulated edges in one process, without sockets: memory of each, CPU for"
        " each thing it does, and how that grows. Exit code 1 if something does not add up.",
    )
    parser.add_argument(
        "--edges", type=int, default=100_000, help="edges of the largest crowd (100,000: 4 GB, 10 to 20 minutes)"
    )
    parser.add_argument("--items", type=int, default=1_000, help="operations of each kind (1,000)")
    parser.add_argument("--dir", type=Path, default=Path(tempfile.gettempdir()), help="where stores are made (/tmp)")
    parser.add_argument("--json", action="store_true", help="print the figures as JSON")
    parser.add_argument("--child", nargs=4, metavar=("WHAT", "EDGES", "ITEMS", "DIR"), help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    try:
        if arguments.child:
            what, count, items, folder = arguments.child
            figures = parts(int(count)) if what == "parts" else measure(Path(folder), int(count), int(items))
            sys.stdout.write(json.dumps(figures))
            return
        columns = [(count, one(count, arguments.items, arguments.dir)) for count in sizes(arguments.edges)]
        if arguments.json:
            sys.stdout.write(json.dumps({str(count): figures for count, figures in columns}, indent=1) + "\n")
        else:
            sys.stdout.write(table(columns) + "\n\n" + storms(arguments.edges) + "\n")
    except Mismatch as problem:
        sys.stdout.write(f"WRONG: {problem}\n")
        sys.exit(1)


if __name__ == "__main__":
    main()
