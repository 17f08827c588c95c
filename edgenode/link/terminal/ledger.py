"""The ledger on the command line, of an edge and of a hub."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from google.protobuf.message import Message

from edgenode.api.admin.v1 import admin_pb2
from edgenode.link.errors import DataLoss
from edgenode.link.terminal.failures import Exit, ExitCode
from edgenode.link.terminal.output import Column, col, emit, table
from edgenode.link.terminal.plain import plain
from edgenode.link.terminal.views import Plain, ledger_table

VERIFY_TIMEOUT = 600.0  # seconds; it takes time in proportion to what is held
NAMED = 5  # findings in the error's line


def show_ledger(lines: Iterable[admin_pb2.LedgerLine], output: str) -> None:
    """Print a ledger. Ends with exit code 1 when a hop does not add up."""
    rows = [plain(line) for line in lines]
    emit(output, rows, lambda: ledger_table(rows))
    wrong = [f"{row['hop']} {row['peer']}".strip() for row in rows if not row["balanced"]]
    if wrong:
        problem = DataLoss(
            "LEDGER_UNBALANCED",
            f"produced is not delivered + pending + dead-lettered + dropped for {', '.join(wrong)}",
            hint="keep the state directory and report it: this is a defect",
        ).problem
        raise Exit(ExitCode.FAILED, problem)


def show_verified(
    answer: Message,
    findings: Sequence[admin_pb2.LedgerFinding],
    finding_count: int,
    entry_count: int,
    output: str,
    more: str = "",
) -> None:
    """Print what a check found, `more` behind it. Ends with exit code 1 and the ranges when anything is wrong."""
    rows = [plain(found) for found in findings]
    good = f"everything adds up: {entry_count} entries looked at"
    emit(output, plain(answer), lambda: "\n\n".join(filter(None, [_findings_table(rows) if rows else good, more])))
    if finding_count:
        named = "; ".join(_range(row) for row in rows[:NAMED])
        others = f"; and {finding_count - NAMED} more" if finding_count > NAMED else ""
        problem = DataLoss(
            "LEDGER_UNBALANCED",
            f"{finding_count} findings: {named}{others}",
            hint="keep the state directory and report it: this is a defect or a loss",
        ).problem
        raise Exit(ExitCode.FAILED, problem)


def _findings_table(rows: Sequence[Plain]) -> str:
    columns = [
        col("hop"),
        col("peer"),
        Column("positions", _positions, True),
        col("what", "reason"),
        col("epoch"),
        col("detail"),
    ]
    if any(row["node"] for row in rows):
        columns.insert(0, col("node"))
    return table(rows, columns)


def _positions(row: Plain) -> str:
    if not row["last_sequence"]:
        return "-"
    return f"{row['first_sequence']}-{row['last_sequence']}"


def _range(row: Plain) -> str:
    where = " ".join(part for part in (row["node"], row["hop"], row["peer"]) if part)
    positions = f" {_positions(row)}" if row["last_sequence"] else ""
    return f"{row['reason']} in {where}{positions}"
