"""What a check comes to: a table of what was promised and what is there, and everything that is wrong."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field

SHOWN = 20


@dataclass(slots=True)
class Row:
    """One kind of receipt. `lost`: acknowledged and not there; `twice`: there more than once; `wrong`: there, but not so."""

    what: str
    acked: int = 0
    found: int = 0
    lost: int = 0
    twice: int = 0
    wrong: int = 0
    note: str = ""


@dataclass(slots=True)
class Verdict:
    """Nothing wrong and nothing lost is a pass."""

    rows: list[Row] = field(default_factory=list)
    wrong: list[str] = field(default_factory=list)

    @property
    def passed(self) -> bool:
        """Whether every receipt was true."""
        return not self.wrong and not any(row.lost or row.twice or row.wrong for row in self.rows)

    def add(self, row: Row, details: list[str]) -> None:
        """A kind of receipt, and what is wrong with it, for people."""
        self.rows.append(row)
        self.wrong += details[:SHOWN]
        if len(details) > SHOWN:
            self.wrong.append(f"... and {len(details) - SHOWN} more of {row.what}")

    def as_dict(self) -> dict[str, object]:
        """For JSON."""
        rows = [{name: getattr(row, name) for name in Row.__slots__} for row in self.rows]
        return {"passed": self.passed, "rows": rows, "wrong": self.wrong}

    def text(self) -> str:
        """For people."""
        titles = ("RECEIPTS", "ACKED", "FOUND", "LOST", "TWICE", "WRONG", "NOTE")
        cells = [[str(getattr(row, name)) for name in Row.__slots__] for row in self.rows]
        widths = [max(len(line[column]) for line in [titles, *cells]) for column in range(len(titles))]
        lines = []
        for line in [titles, *cells]:
            padded = [
                cell.rjust(width) if 0 < column < 6 else cell.ljust(width)
                for column, (cell, width) in enumerate(zip(line, widths, strict=True))
            ]
            lines.append("  ".join(padded).rstrip())
        lines += [f"wrong: {text}" for text in self.wrong]
        lines.append("every receipt is true" if self.passed else "NOT every receipt is true")
        return "\n".join(lines)


def counted(counts: Counter[str]) -> str:
    """`UNREACHABLE 3, STORE_FULL 1`."""
    return ", ".join(f"{reason} {number}" for reason, number in counts.most_common())
