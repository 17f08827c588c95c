"""The command `scripts/bench`."""

from __future__ import annotations

import argparse
import json
import os
import platform
import signal
import sys
from collections.abc import Mapping, Sequence
from importlib.metadata import version
from pathlib import Path

from edgenode.link.errors import EdgenodeError
from scripts.benchmarks import cases
from scripts.benchmarks.chart import chart
from scripts.benchmarks.crowd import hub
from scripts.benchmarks.drain import drain
from scripts.benchmarks.growth import growth
from scripts.benchmarks.load import load
from scripts.benchmarks.mounts import mcp
from scripts.benchmarks.peer_set import PEERS, Peer
from scripts.benchmarks.processes import Bed, Failed, cores
from scripts.benchmarks.results import Metric, table

TRAFFIC = {"publish": cases.publish, "call": cases.call, "task": cases.task}
FLEET = {"drain": drain, "hub": hub, "growth": growth, "mcp": mcp}
CASES = (*TRAFFIC, "load", "footprint", *FLEET)


def main() -> int:
    """0, or 1 when a case failed, and with --check when a floor is missed."""
    arguments = _parse()
    signal.signal(signal.SIGTERM, _end)
    os.environ.pop("PYTHONDONTWRITEBYTECODE", None)  # what is started has compiled modules, as where it is installed
    chosen = [case for case in CASES if case in (arguments.cases or CASES)]
    load_before = os.getloadavg()[0]
    metrics: list[Metric] = []
    failed = False
    try:
        peers = PEERS if arguments.peers else {}
        measure(metrics, chosen, cases.Effort(arguments.rounds, arguments.scale), arguments.dir, peers)
    except (Failed, EdgenodeError, TimeoutError, AssertionError) as error:
        failed = True  # what was measured before is told all the same: it took its minutes
        print(f"bench: ended early: {type(error).__name__}: {error}", file=sys.stderr)
    machine = _machine(load_before)
    missed = [metric.name for metric in metrics if metric.met is False]
    if arguments.plot:
        arguments.plot.write_text(chart(metrics))
    if arguments.json:
        told = [metric.as_dict() for metric in metrics]
        budgets = [
            f"{metric['name']}{' / ' + budget['against'] if budget['against'] else ''}: {budget['verdict']}"
            for metric in told
            for budget in metric["budgets"]
            if budget["met"] is False
        ]
        print(json.dumps({"machine": machine, "metrics": told, "floors_missed": missed, "budgets_missed": budgets}))
    else:
        print(table(metrics))
        print(
            'what profiles show where a budget is missed: docs/performance.md, "What is not to be had" and "What was tried"'
        )
        print(", ".join(f"{name} {value}" for name, value in machine.items()))
        if arguments.check:
            print(f"floors missed: {', '.join(missed)}" if missed else "every floor measured is met")
    return 1 if failed or (arguments.check and missed) else 0


def measure(
    metrics: list[Metric], chosen: list[str], effort: cases.Effort, root: Path, peers: Mapping[str, Sequence[Peer]]
) -> None:
    """Add the figures of cases: those of one edge beside their `peers`, its footprint before and after them. Raises Failed."""
    metrics.append(cases.bare_fsync(root))
    footprint, busy = "footprint" in chosen, "load" in chosen
    traffic = [name for name in chosen if name in TRAFFIC]
    if footprint:
        cases.compiled(root)
    if traffic or footprint or busy:
        with cases.scratch(root) as folder, Bed(folder) as bed:
            if footprint:
                _say("footprint")
                metrics += cases.idle(bed.edge)
            for name in traffic:
                _say(name)
                metrics += TRAFFIC[name](bed, effort, peers.get(name, ()))
            if busy:
                _say("load")
                metrics += load(bed, effort)
            if footprint and traffic:
                metrics += cases.after(bed.edge)
    if footprint:
        metrics += cases.starts(root, effort.rounds) + cases.installed()
    for name in chosen:
        if name in FLEET:
            _say(name)
            metrics += FLEET[name](root, effort)


def _end(number: int, _frame: object) -> None:
    """Leave as by an interrupt: whatever was started is ended on the way out."""
    sys.exit(128 + number)


def _say(case: str) -> None:
    print(f"{case} ...", file=sys.stderr, flush=True)


def _machine(load_before: float) -> dict[str, str]:
    return {
        "cores": str(cores()),
        "load average": f"{load_before:.1f} before, {os.getloadavg()[0]:.1f} after",
        "Python": platform.python_version(),
        "event loop": os.environ.get("EDGENODE_EVENT_LOOP", "asyncio"),
        "grpcio": version("grpcio"),
        "protobuf": version("protobuf"),
        "kernel": platform.release(),
    }


def _parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="scripts/bench", description="Measures an edge node with real processes; see docs/performance.md."
    )
    parser.add_argument("cases", nargs="*", choices=[*CASES, []], metavar="CASE", help=f"{', '.join(CASES)}; all")
    parser.add_argument("--rounds", type=int, default=5, help="rounds that count, after one to warm up (5)")
    names = ", ".join(dict.fromkeys(peer.name for peers in PEERS.values() for peer in peers))
    parser.add_argument("--peers", action="store_true", help=f"measure peers too, in the same rounds: {names}")
    parser.add_argument("--plot", type=Path, metavar="FILE", help="write a bar chart of the rates as SVG")
    parser.add_argument("--json", action="store_true", help="one line of JSON on standard output")
    parser.add_argument("--check", action="store_true", help="exit with 1 when a median misses its floor")
    parser.add_argument(
        "--dir", type=Path, default=Path("/tmp"), help="where the state directories are made; a real disk (/tmp)"
    )
    parser.add_argument("--scale", type=float, default=1.0, help="share of each round's usual number of items (1)")
    arguments = parser.parse_args()
    if arguments.rounds < 1 or arguments.scale <= 0:
        parser.error("at least one round, and a scale above 0")
    if not arguments.dir.is_dir():
        parser.error(f"--dir: there is no directory {arguments.dir}")
    if arguments.plot and not arguments.plot.absolute().parent.is_dir():
        parser.error(f"--plot: there is no directory {arguments.plot.parent}")
    return arguments


if __name__ == "__main__":
    sys.exit(main())
