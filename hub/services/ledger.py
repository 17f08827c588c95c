"""The hub's ledger: for each hop what came in, what went on, what is held, what was given up, and whether that adds up.

The two sides of a sum come from different places: positions of the logs on one, counters kept in the transactions and
rows counted now on the other. A line that does not balance therefore says something.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Sequence

from edgenode.api.admin.v1 import admin_pb2
from edgenode.link.model.lanes import Lane
from edgenode.link.model.task import TaskState
from edgenode.link.wire.ledger import dead_letter_line, ledger_line, reader_line
from hub.services.message import CONSUMER_PREFIX
from hub.store.records import DownlinkCounts, LedgerFacts, UplinkCounts


def ledger_lines(facts: LedgerFacts, node: str = "", parent: str = "") -> list[admin_pb2.LedgerLine]:
    """All lines, or those of one node's hops. `parent` is where the hub's own parent is, empty without one."""
    lines = [*_uplinks(facts, node), *_downlinks(facts, node)]
    if parent and not node:
        lines += _parent(facts, parent)
    if not node:
        lines += [_tasks(facts), _intake(facts), _messages(facts), *_subscriptions(facts)]
        lines.append(dead_letter_line(facts.letters, facts.letters_kept))
    return lines


def _uplinks(facts: LedgerFacts, node: str) -> list[admin_pb2.LedgerLine]:
    by_lane: dict[tuple[str, Lane], list[UplinkCounts]] = defaultdict(list)
    for up in facts.uplinks:
        if not node or up.node == node:
            by_lane[up.node, up.lane].append(up)
    return [_received(f"{lane.name.lower()}.uplink", peer, cursors) for (peer, lane), cursors in by_lane.items()]


def _received(hop: str, peer: str, cursors: Sequence[UplinkCounts]) -> admin_pb2.LedgerLine:
    """One line for a lane: each process of the sender has an epoch of its own, and the counts of all are summed."""
    line = ledger_line(
        hop,
        sum(cursor.sequence - cursor.start for cursor in cursors),
        sum(cursor.applied for cursor in cursors),
        0,
        {
            "REJECTED": sum(cursor.rejected for cursor in cursors),
            "GAP": sum(cursor.gap for cursor in cursors),
            "KNOWN_FROM_OLDER_EPOCH": sum(cursor.known for cursor in cursors),
        },
        peer=peer,
        duplicates=sum(cursor.duplicates for cursor in cursors),
        epoch=cursors[-1].epoch,
    )
    line.balanced = not any(_unaccounted(cursor) for cursor in cursors)
    return line


def _unaccounted(cursor: UplinkCounts) -> int:
    """By how many entries a cursor stands beyond what it counts; 0 when it adds up."""
    return cursor.sequence - cursor.start - cursor.applied - cursor.rejected - cursor.gap - cursor.known


def _downlinks(facts: LedgerFacts, node: str) -> list[admin_pb2.LedgerLine]:
    return [_sent("downlink", down.node, down) for down in facts.downlinks if not node or down.node == node]


def _sent(way: str, peer: str, log: DownlinkCounts, before: str = "") -> admin_pb2.LedgerLine:
    return reader_line(
        f"{log.lane.name.lower()}.{way}",
        peer,
        start=log.start,
        last=log.last,
        acked=log.acked,
        held=log.held,
        rejected=log.rejected,
        skipped=log.skipped,
        lost=log.lost,
        lost_ahead=log.lost_ahead,
        before=before,
        epoch=log.epoch,
    )


def _parent(facts: LedgerFacts, parent: str) -> list[admin_pb2.LedgerLine]:
    """The hop to the parent, as an edge shows the one to its hub."""
    by_lane: dict[Lane, list[UplinkCounts]] = defaultdict(list)
    for cursor in facts.from_parent:
        by_lane[cursor.lane].append(cursor)
    up = [_sent("uplink", parent, log, "BEFORE_JOIN") for log in facts.to_parent]
    return up + [_received(f"{lane.name.lower()}.downlink", parent, cursors) for lane, cursors in by_lane.items()]


def _tasks(facts: LedgerFacts) -> admin_pb2.LedgerLine:
    ended = Counter(facts.tasks_ended)
    done = ended.pop(TaskState.COMPLETED.name, 0)
    dead = ended.pop(TaskState.DEAD_LETTERED.name, 0)
    return ledger_line(
        "tasks",
        facts.tasks_accepted,
        done,
        facts.tasks_pending,
        dict(ended),
        dead_lettered=dead,
        duplicates=sum(facts.tasks_discarded.values()),
    )


def _intake(facts: LedgerFacts) -> admin_pb2.LedgerLine:
    """Messages taken from the links against messages in the hub's log."""
    applied = sum(up.applied for up in facts.uplinks if up.lane is Lane.MESSAGE)
    return ledger_line("message.intake", applied, facts.messages_last, 0, {})


def _messages(facts: LedgerFacts) -> admin_pb2.LedgerLine:
    """The hub's log: what was stored is still held or was let go, by reason."""
    return ledger_line("message.log", facts.messages_stored, 0, facts.messages_held, dict(facts.messages_dropped))


def _subscriptions(facts: LedgerFacts) -> list[admin_pb2.LedgerLine]:
    """Durable subscriptions: what came since each began, how much of it was acknowledged, and what went unread."""
    return [
        reader_line(
            "message.subscription",
            reader.name.removeprefix(CONSUMER_PREFIX),
            start=reader.start,
            last=facts.messages_last,
            acked=reader.acked,
            held=reader.held,
            skipped=reader.skipped,
            lost=reader.lost,
            lost_ahead=reader.lost_ahead,
        )
        for reader in facts.subscriptions
        if reader.name.startswith(CONSUMER_PREFIX)
    ]
