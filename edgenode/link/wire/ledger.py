"""What a line of a ledger is, on edge and hub alike."""

from __future__ import annotations

from collections.abc import Mapping

from edgenode.api.admin.v1 import admin_pb2


def ledger_line(
    hop: str,
    produced: int,
    delivered: int,
    pending: int,
    dropped: Mapping[str, int],
    *,
    peer: str = "",
    duplicates: int = 0,
    epoch: str = "",
) -> admin_pb2.LedgerLine:
    """The line of a hop; it balances when produced = delivered + pending + the sum of dropped (by reason)."""
    kept = {reason: count for reason, count in dropped.items() if count}
    return admin_pb2.LedgerLine(
        hop=hop,
        peer=peer,
        produced_count=produced,
        delivered_count=delivered,
        pending_count=pending,
        dropped_counts=kept,
        duplicate_count=duplicates,
        epoch=epoch,
        balanced=produced == delivered + pending + sum(kept.values()),
    )
