"""Do the numbers add up? Ledgers of both sides, the ids themselves, and results worked out a second time."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field

from edgenode.api.admin.v1 import admin_pb2


@dataclass(slots=True)
class Total:
    """One kind of thing, from where it was made to where it had to arrive."""

    what: str
    produced: int = 0
    applied: int = 0
    duplicates: int = 0
    pending: int = 0
    dropped: int = 0
    lost: int = 0


@dataclass(slots=True)
class Verdict:
    """Totals and everything that is wrong; nothing wrong is a pass."""

    totals: list[Total] = field(default_factory=list)
    wrong: list[str] = field(default_factory=list)
    checked: int = 0  # results worked out a second time
    differing: int = 0  # of them
    balanced: int = 0  # hops of the ledgers
    unbalanced: int = 0

    @property
    def lost(self) -> int:
        """Everything that was acknowledged and did not arrive."""
        return sum(total.lost for total in self.totals)

    @property
    def passed(self) -> bool:
        """Whether every number adds up."""
        return not self.wrong and not self.lost


def message_total(
    verdict: Verdict,
    acked: Mapping[str, int],
    arrived: Iterable[tuple[str, int]],
    north: Iterable[admin_pb2.LedgerLine],
) -> None:
    """Messages: `acked[topic]` are numbered 1..n; `arrived` are (topic, number) as the hub has them."""
    seen = Counter(arrived)
    produced = sum(acked.values())
    lost = [(topic, n) for topic, last in acked.items() for n in range(1, last + 1) if not seen[topic, n]]
    doubles = sum(times - 1 for times in seen.values())
    line = _line(north, "message.uplink")
    total = Total("messages north -> hub", produced, len(seen), line.duplicate_count, line.pending_count, 0, len(lost))
    total.dropped = sum(line.dropped_counts.values())
    verdict.totals.append(total)
    if doubles:
        verdict.wrong.append(f"{doubles} messages stand at the hub more than once")
    if len(seen) != line.delivered_count:
        verdict.wrong.append(f"the hub has {len(seen)} messages, north's ledger says {line.delivered_count} delivered")


def task_total(
    verdict: Verdict,
    submitted: int,
    done: Counter[str],
    answered: int,
    north: Iterable[admin_pb2.LedgerLine],
    hub: Iterable[admin_pb2.LedgerLine],
) -> None:
    """Tasks: each must have ended well, and every answer must have come back to its submitter."""
    ended = sum(done.values())
    duplicates = sum(line.duplicate_count for line in [*north, *hub] if line.hop.startswith("task."))
    verdict.totals.append(
        Total("tasks south -> hub -> north -> hub -> south", submitted, answered, duplicates, lost=submitted - ended)
    )
    if answered != submitted:
        verdict.wrong.append(f"{submitted} tasks were submitted, {answered} answers came back: {dict(done)}")


def ledgers(verdict: Verdict, owner: str, lines: Iterable[admin_pb2.LedgerLine]) -> None:
    """Every hop of a ledger must balance, and nothing may be on its way. What a log keeps for later readers is not."""
    for line in lines:
        name = f"{owner}: {line.hop}{' ' + line.peer if line.peer else ''}"
        verdict.balanced += line.balanced
        verdict.unbalanced += not line.balanced
        if not line.balanced:
            verdict.wrong.append(f"{name} does not balance")
        if line.pending_count and (line.hop == "tasks" or line.hop.endswith("link")):
            verdict.wrong.append(f"{name} still holds {line.pending_count}")


def _line(lines: Iterable[admin_pb2.LedgerLine], hop: str) -> admin_pb2.LedgerLine:
    for line in lines:
        if line.hop == hop:
            return line
    return admin_pb2.LedgerLine(hop=hop)
