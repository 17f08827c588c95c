"""The command `scripts/oracle`."""

from __future__ import annotations

import argparse
import asyncio
import json
import signal
import sys
from pathlib import Path

from edgenode.link.errors import EdgenodeError
from scripts.receipts.check import check
from scripts.receipts.drive import Load, drive
from scripts.receipts.journal import Journal, Receipts, load
from scripts.receipts.verdict import counted


def main() -> int:
    """0; 1 when a receipt is not true; 2 for a wrong command line; 5 when the system cannot be reached."""
    arguments = _parse()
    try:
        if arguments.phase != "check":
            with Journal(arguments.journal) as journal:
                asyncio.run(_drive(arguments, journal))
                _say_driven(journal.receipts)
        if arguments.phase != "drive":
            verdict = asyncio.run(check(arguments.hub, arguments.edge, load(arguments.journal), arguments.settle))
            print(json.dumps(verdict.as_dict()) if arguments.json else verdict.text())
            return 0 if verdict.passed else 1
    except EdgenodeError as error:
        print(f"oracle: {error}", file=sys.stderr)
        return 5
    return 0


async def _drive(arguments: argparse.Namespace, journal: Journal) -> None:
    stop = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGINT, signal.SIGTERM):
        loop.add_signal_handler(number, stop.set)
    if arguments.seconds:
        loop.call_later(arguments.seconds, stop.set)
    rates = Load(arguments.messages, arguments.tasks, arguments.calls, arguments.keys, arguments.size)
    await drive(arguments.edge, journal, stop.wait(), rates)


def _say_driven(receipts: Receipts) -> None:
    print(
        f"run {receipts.run}, leg {receipts.legs}: receipts for {receipts.message_count} messages and"
        f" {len(receipts.tasks)} tasks, {receipts.calls['ANSWERED']} calls answered;"
        f" refused: {counted(receipts.refused) or 'nothing'}",
        file=sys.stderr,
    )


def _parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="scripts/oracle",
        description="Drives a running system and checks every receipt it gave, with the public contract alone.",
        epilog="`drive` may be stopped, or killed, and continued with the same journal. Exit codes: 0 every receipt is true,"
        " 1 one is not, 2 usage, 5 the system cannot be reached.",
    )
    parser.add_argument("phase", choices=["drive", "check", "both"], help="drive, check, or one after the other")
    parser.add_argument("--journal", type=Path, required=True, help="file that keeps the receipts")
    parser.add_argument(
        "--edge", type=Path, action="append", required=True, metavar="SOCKET", help="an edge's socket; may be repeated"
    )
    parser.add_argument("--hub", type=Path, metavar="SOCKET", help="the hub's socket; needed to check")
    parser.add_argument("--seconds", type=float, default=0.0, help="drive for so long (0: until SIGINT or SIGTERM)")
    parser.add_argument("--settle", type=float, default=60.0, help="what is under way may take so many seconds (60)")
    parser.add_argument("--messages", type=float, default=200.0, help="messages a second on each edge (200)")
    parser.add_argument("--tasks", type=float, default=20.0, help="tasks a second on each edge (20)")
    parser.add_argument("--calls", type=float, default=5.0, help="calls a second on each edge (5)")
    parser.add_argument("--keys", type=int, default=4, help="keys on each edge (4)")
    parser.add_argument("--size", type=int, default=256, help="payload bytes of a message (256)")
    parser.add_argument("--json", action="store_true", help="the verdict as JSON")
    arguments = parser.parse_args()
    if arguments.phase != "drive" and arguments.hub is None:
        parser.error("--hub is needed to check")
    if arguments.phase == "both" and not arguments.seconds:
        parser.error("--seconds is needed to drive and then check")
    if arguments.phase == "check" and not arguments.journal.exists():
        parser.error(f"--journal: there is no file {arguments.journal}")
    if min(arguments.messages, arguments.tasks, arguments.calls) < 0 or arguments.keys < 1:
        parser.error("rates are not negative, and there is at least one key")
    return arguments


if __name__ == "__main__":
    sys.exit(main())
