"""The hub's ledger: for each hop what came in, what went on, what is held, what was given up, and whether that adds up.

The two sides of a sum come from different places: positions of the logs on one, counters kept in the transactions and
rows counted now on the other. A line that does not balance therefore says something.
"""

from __future__ import annotations

from collections import Counter

from edgenode.api.admin.v1 import admin_pb2
from edgenode.link.model.lanes import Lane
from hub.store.records import LedgerFacts


def ledger_lines(facts: LedgerFacts, node: str = "") -> list[admin_pb2.LedgerLine]:
    """All lines, or those of one node's hops."""
    lines = [*_uplinks(facts, node), *_downlinks(facts, node)]
    if not node:
        lines += [_tasks(facts), _intake(facts), _messages(facts)]
    return lines


def _line(
    hop: str,
    produced: int,
    delivered: int,
    pending: int,
    dropped: dict[str, int],
    *,
    peer: str = "",
    duplicates: int = 0,
    epoch: str = "",
) -> admin_pb2.LedgerLine:
    given_up = {reason: count for reason, count in dropped.items() if count}
    return admin_pb2.LedgerLine(
        hop=hop,
        peer=peer,
        produced_count=produced,
        delivered_count=delivered,
        pending_count=pending,
        dropped_counts=given_up,
        duplicate_count=duplicates,
        epoch=epoch,
        balanced=produced == delivered + pending + sum(given_up.values()),
    )


def _uplinks(facts: LedgerFacts, node: str) -> list[admin_pb2.LedgerLine]:
    return [
        _line(
            f"{up.lane.name.lower()}.uplink",
            up.sequence - up.start,
            up.applied,
            0,
            {"REJECTED": up.rejected, "GAP": up.gap, "KNOWN_FROM_OLDER_EPOCH": up.known},
            peer=up.node,
            duplicates=up.duplicates,
            epoch=up.epoch,
        )
        for up in facts.uplinks
        if not node or up.node == node
    ]


def _downlinks(facts: LedgerFacts, node: str) -> list[admin_pb2.LedgerLine]:
    return [
        _line(
            f"{down.lane.name.lower()}.downlink",
            down.last,
            down.acked - down.rejected,
            down.held,
            {"REJECTED": down.rejected},
            peer=down.node,
            epoch=down.epoch,
        )
        for down in facts.downlinks
        if not node or down.node == node
    ]


def _tasks(facts: LedgerFacts) -> admin_pb2.LedgerLine:
    ended = Counter(facts.tasks_ended)
    done = ended.pop("COMPLETED", 0)
    return _line(
        "tasks",
        facts.tasks_accepted,
        done,
        facts.tasks_pending,
        dict(ended),
        duplicates=sum(facts.tasks_discarded.values()),
    )


def _intake(facts: LedgerFacts) -> admin_pb2.LedgerLine:
    """Messages taken from the links against messages in the hub's log."""
    applied = sum(up.applied for up in facts.uplinks if up.lane is Lane.MESSAGE)
    return _line("message.intake", applied, facts.messages_last, 0, {})


def _messages(facts: LedgerFacts) -> admin_pb2.LedgerLine:
    """The hub's log: what was stored is still held or was let go, by reason."""
    return _line("message.log", facts.messages_stored, 0, facts.messages_held, dict(facts.messages_dropped))
