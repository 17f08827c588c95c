"""Entries that come again under another epoch of their log. Functions of a transaction."""

from __future__ import annotations

import sqlite3

from edgenode.link.model.lanes import Lane
from edgenode.link.store import inbox
from edgenode.link.store.inbox import Fresh


def without_known(connection: sqlite3.Connection, peer: str, lane: Lane, epoch: str, fresh: Fresh) -> Fresh:
    """What of `fresh` did not come under an earlier epoch either; what did counts as known.

    A peer that was restored sends what it has kept under an epoch that says nothing of what was applied before; the keys of
    the entries do. What is known stands at the front, as it was appended first.
    """
    known = 0
    for segment in fresh.segments:
        if segment.origin_epoch in ("", epoch) or segment.origin_node not in ("", peer):
            break
        row = connection.execute(
            "SELECT sequence FROM inbox_cursor WHERE peer = ? AND lane = ? AND epoch = ?",
            (peer, lane, segment.origin_epoch),
        ).fetchone()
        count = 0 if row is None else min(max(row[0] - segment.origin_sequence + 1, 0), segment.count)
        known += count
        if count < segment.count:
            break
    skip = max(fresh.skip, known)
    inbox.count_known(connection, peer, lane, epoch, skip - fresh.skip)
    base, segments = fresh.base, list(fresh.segments)
    while segments and skip >= segments[0].count:
        skip -= segments[0].count
        base += segments[0].count
        del segments[0]
    return Fresh(base, skip, tuple(segments))
