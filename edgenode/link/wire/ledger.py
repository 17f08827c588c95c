"""What a line of a ledger is, on edge and hub alike."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from edgenode.api.admin.v1 import admin_pb2
from edgenode.link.model import finding
from edgenode.link.model.finding import Finding
from edgenode.link.model.lanes import LaneUsage


def usages_to_pb(usages: Iterable[LaneUsage]) -> list[admin_pb2.LaneUsage]:
    """What each lane has of a store."""
    return [
        admin_pb2.LaneUsage(lane=item.lane.name.lower(), used_bytes=item.used_bytes, limit_bytes=item.limit_bytes)
        for item in usages
    ]


def ledger_line(
    hop: str,
    produced: int,
    delivered: int,
    pending: int,
    dropped: Mapping[str, int],
    *,
    dead_lettered: int = 0,
    peer: str = "",
    duplicates: int = 0,
    epoch: str = "",
) -> admin_pb2.LedgerLine:
    """The line of a hop; it balances when produced = delivered + pending + dead-lettered + the sum of dropped (by reason)."""
    kept = {reason: count for reason, count in dropped.items() if count}
    return admin_pb2.LedgerLine(
        hop=hop,
        peer=peer,
        produced_count=produced,
        delivered_count=delivered,
        pending_count=pending,
        dropped_counts=kept,
        dead_lettered_count=dead_lettered,
        duplicate_count=duplicates,
        epoch=epoch,
        balanced=produced == delivered + pending + dead_lettered + sum(kept.values()),
    )


def reader_line(
    hop: str,
    peer: str,
    *,
    start: int,
    last: int,
    acked: int,
    held: int,
    rejected: int = 0,
    skipped: int = 0,
    lost: int = 0,
    lost_ahead: int = 0,
    before: str = "",
    epoch: str = "",
) -> admin_pb2.LedgerLine:
    """The line of one reader of a log: a link's other end, or a subscription.

    It began behind `start` and has acknowledged up to `acked` of `last`, all but `rejected`, which were dead-lettered, and
    `skipped`, which it was moved past unread; `held` entries past `acked` are still there. `lost` were damaged before it
    had them, `lost_ahead` of these past `acked`. What the log gave out before `start` counts as produced and dropped where
    `before` names a reason, and not at all without.
    """
    return ledger_line(
        hop,
        produced=last if before else last - start,
        delivered=acked - start - rejected - skipped - (lost - lost_ahead),
        pending=held,
        dropped={"UNREAD": skipped, "DAMAGED": lost} | ({before: start} if before else {}),
        dead_lettered=rejected,
        peer=peer,
        epoch=epoch,
    )


def dead_letter_line(counts: Mapping[str, int], kept: int) -> admin_pb2.LedgerLine:
    """The line of the dead letters: `counts` by what became of them, ADDED among them; `kept` are there now."""
    gone = dict(counts)
    added = gone.pop("ADDED", 0)
    replayed = gone.pop("REPLAYED", 0)
    return ledger_line("deadletters", added, replayed, kept, gone)


def imbalances(lines: Iterable[admin_pb2.LedgerLine]) -> list[Finding]:
    """What is wrong with lines that do not balance: of those with a log, which positions one side counts and the other not."""
    findings = []
    for line in lines:
        if line.balanced:
            continue
        dropped = sum(line.dropped_counts.values())
        accounted = line.delivered_count + line.pending_count + line.dead_lettered_count + dropped
        detail = (
            f"produced {line.produced_count}, delivered {line.delivered_count} + pending {line.pending_count} + dead-lettered"
            f" {line.dead_lettered_count} + dropped {dropped} = {accounted}"
        )
        first = last = 0
        if line.epoch and accounted != line.produced_count:
            first, last = min(line.produced_count, accounted) + 1, max(line.produced_count, accounted)
        findings.append(Finding(line.hop, finding.UNBALANCED, detail, first, last, line.peer, line.epoch))
    return findings


def finding_to_pb(found: Finding) -> admin_pb2.LedgerFinding:
    """The message of a finding."""
    return admin_pb2.LedgerFinding(
        node=found.node,
        hop=found.hop,
        peer=found.peer,
        epoch=found.epoch,
        first_sequence=found.first,
        last_sequence=found.last,
        reason=found.reason,
        detail=found.detail,
    )
