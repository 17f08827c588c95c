"""The hub's ledger: for each hop what came in, what went on, what is held, what was given up, and whether that adds up.

The two sides of a sum come from different places: positions of the logs on one, counters kept in the transactions and
rows counted now on the other. A line that does not balance therefore says something.
"""

from __future__ import annotations

from collections import Counter

from edgenode.api.admin.v1 import admin_pb2
from edgenode.link.model.lanes import Lane
from edgenode.link.store.logs import DAMAGED
from edgenode.link.wire.ledger import ledger_line
from hub.store.records import LedgerFacts


def ledger_lines(facts: LedgerFacts, node: str = "", parent: str = "") -> list[admin_pb2.LedgerLine]:
    """All lines, or those of one node's hops. `parent` is where the hub's own parent is, empty without one."""
    lines = [*_uplinks(facts, node), *_downlinks(facts, node)]
    if parent and not node:
        lines += _parent(facts, parent)
    if not node:
        lines += [_tasks(facts), _intake(facts), _messages(facts)]
    return lines


def _uplinks(facts: LedgerFacts, node: str) -> list[admin_pb2.LedgerLine]:
    return [
        ledger_line(
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
        ledger_line(
            f"{down.lane.name.lower()}.downlink",
            down.last,
            down.acked - down.rejected - (down.lost - down.lost_ahead),
            down.held,
            {"REJECTED": down.rejected, DAMAGED: down.lost},
            peer=down.node,
            epoch=down.epoch,
        )
        for down in facts.downlinks
        if not node or down.node == node
    ]


def _parent(facts: LedgerFacts, parent: str) -> list[admin_pb2.LedgerLine]:
    """The hop to the parent, as an edge shows the one to its hub."""
    up = [
        ledger_line(
            f"{log.lane.name.lower()}.uplink",
            log.last,
            log.acked - log.rejected - log.before - log.overtaken - (log.lost - log.lost_ahead),
            log.held,
            {
                "REJECTED": log.rejected,
                "BEFORE_JOIN": log.before,
                "UNREAD": log.overtaken,
                DAMAGED: log.lost,
            },
            peer=parent,
            epoch=log.epoch,
        )
        for log in facts.to_parent
    ]
    down = [
        ledger_line(
            f"{log.lane.name.lower()}.downlink",
            log.sequence - log.start,
            log.applied,
            0,
            {"REJECTED": log.rejected, "GAP": log.gap},
            peer=parent,
            duplicates=log.duplicates,
            epoch=log.epoch,
        )
        for log in facts.from_parent
    ]
    return up + down


def _tasks(facts: LedgerFacts) -> admin_pb2.LedgerLine:
    ended = Counter(facts.tasks_ended)
    done = ended.pop("COMPLETED", 0)
    return ledger_line(
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
    return ledger_line("message.intake", applied, facts.messages_last, 0, {})


def _messages(facts: LedgerFacts) -> admin_pb2.LedgerLine:
    """The hub's log: what was stored is still held or was let go, by reason."""
    return ledger_line("message.log", facts.messages_stored, 0, facts.messages_held, dict(facts.messages_dropped))
