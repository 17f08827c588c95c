"""Cursors of logs read from others: how far each was applied, and what became of every entry on the way.

A cursor belongs to one epoch of one lane of a peer. It moves in the transaction that stores the entries, so that nothing is
applied twice and nothing acknowledged is forgotten, and it counts each position it passes exactly once: as applied, rejected,
missing (the sender stated a gap) or known (it came before, under another epoch). A rejection is kept with the cursor and
stated again with it: the acknowledgement that told it may be lost with its session.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Sequence
from dataclasses import dataclass

import msgspec

from edgenode.link.model.lanes import Gap, Lane, LaneCursor, LaneHead, Rejection, Segment
from edgenode.link.model.problem import Problem

# Rejections kept with a cursor; a greeting carries them all.
KEPT_REJECTIONS = 256
# Cursors kept of a lane, one for each process of the peer that sent something. An entry of an epoch before them would be taken
# again; but a sender goes on behind the newest cursor, and an entry that old is not kept for refilling.
KEPT_CURSORS = 256


def inbox_cursors(connection: sqlite3.Connection, peer: str, heads: Sequence[LaneHead] = ()) -> list[LaneCursor]:
    """For each lane of a peer the cursor that moved last, with the newest of its rejections.

    Of copies of a disk each goes on with a log of its own. So where the `heads` of the peer's logs are given, it is the
    last one that moved along that log, as long as there is one.
    """
    rows = connection.execute(
        "SELECT lane, epoch, sequence, cursor_id, rejected_count FROM inbox_cursor WHERE cursor_id IN"
        " (SELECT max(cursor_id) FROM inbox_cursor WHERE peer = ? GROUP BY lane)",
        (peer,),
    ).fetchall()
    newest = {row[0]: row for row in rows}
    for head in heads:
        epochs = (head.epoch, *(earlier.epoch for earlier in head.earlier))
        if head.lane in newest and newest[head.lane][1] not in epochs:
            known = connection.execute(
                "SELECT lane, epoch, sequence, cursor_id, rejected_count FROM inbox_cursor WHERE peer = ? AND lane = ?"
                f" AND epoch IN ({', '.join('?' * len(epochs))}) ORDER BY cursor_id DESC LIMIT 1",
                (peer, head.lane, *epochs),
            ).fetchone()
            newest[head.lane] = known or newest[head.lane]
    return [
        LaneCursor(Lane(lane), epoch, sequence, _rejections(connection, cursor_id) if rejected else ())
        for lane, epoch, sequence, cursor_id, rejected in newest.values()
    ]


def _rejections(connection: sqlite3.Connection, cursor_id: int) -> tuple[Rejection, ...]:
    rows = connection.execute(
        "SELECT sequence, problem FROM rejection WHERE cursor_id = ? ORDER BY sequence", (cursor_id,)
    )
    return tuple(Rejection(sequence, msgspec.msgpack.decode(problem, type=Problem)) for sequence, problem in rows)


def begin(connection: sqlite3.Connection, peer: str, lane: Lane, epoch: str, base: int, gap: Gap | None) -> int | None:
    """Where the cursor of an epoch that is new here begins; None if the epoch is known.

    It may begin past 0: what the log held before went to earlier epochs.
    """
    known = "SELECT 1 FROM inbox_cursor WHERE peer = ? AND lane = ? AND epoch = ?"
    if connection.execute(known, (peer, lane, epoch)).fetchone() is not None:
        return None
    return base - 1 if gap is None else min(gap.after, base - 1)


@dataclass(frozen=True, slots=True)
class Fresh:
    """What of a batch is new: segments from `base` on, of which the first `skip` entries were applied before."""

    base: int
    skip: int
    segments: tuple[Segment, ...]


def accept(
    connection: sqlite3.Connection,
    peer: str,
    lane: Lane,
    epoch: str,
    base: int,
    segments: Sequence[Segment],
    gap: Gap | None,
) -> Fresh:
    """Advance the cursor of (peer, lane, epoch) over a batch and return what of it was not applied before.

    Counts duplicates and, where the sender states a gap, the entries missing before `base`. Call it in the transaction
    that stores the entries.
    """
    start = begin(connection, peer, lane, epoch, base, gap)
    if start is not None:
        connection.execute(
            "INSERT INTO inbox_cursor (peer, lane, epoch, start_sequence, sequence) VALUES (?, ?, ?, ?, ?)",
            (peer, lane, epoch, start, start),
        )
        _fold(connection, peer, lane)
    cursor, known, newest = connection.execute(
        "SELECT cursor_id, sequence, (SELECT max(cursor_id) FROM inbox_cursor WHERE peer = :peer AND lane = :lane)"
        " FROM inbox_cursor WHERE peer = :peer AND lane = :lane AND epoch = :epoch",
        {"peer": peer, "lane": lane, "epoch": epoch},
    ).fetchone()
    if cursor != newest:  # of two copies of a disk, this one is back
        connection.execute(
            "UPDATE inbox_cursor SET cursor_id = (SELECT max(cursor_id) + 1 FROM inbox_cursor) WHERE cursor_id = ?",
            (cursor,),
        )
    fresh: list[Segment] = []
    skip = 0
    start = sequence = base
    for segment in segments:
        end = sequence + segment.count - 1
        if end > known:
            if not fresh:
                start = sequence
                skip = max(known - sequence + 1, 0)
            fresh.append(segment)
        sequence = end + 1
    total = sequence - base
    new = sum(segment.count for segment in fresh) - skip
    missing = max(base - known - 1, 0)
    connection.execute(
        "UPDATE inbox_cursor SET sequence = max(sequence, ?), applied_count = applied_count + ?,"
        " duplicate_count = duplicate_count + ?, gap_count = gap_count + ? WHERE peer = ? AND lane = ? AND epoch = ?",
        (sequence - 1, new, total - new, missing, peer, lane, epoch),
    )
    return Fresh(start, skip, tuple(fresh))


def _fold(connection: sqlite3.Connection, peer: str, lane: Lane) -> None:
    """Where a lane has too many cursors, count what the oldest passed with the one after it."""
    of_lane = "FROM inbox_cursor WHERE peer = ? AND lane = ?"
    (count,) = connection.execute(f"SELECT count(*) {of_lane}", (peer, lane)).fetchone()
    if count <= KEPT_CURSORS:
        return
    oldest, heir = connection.execute(
        f"SELECT cursor_id, start_sequence, sequence {of_lane} ORDER BY cursor_id LIMIT 2", (peer, lane)
    ).fetchall()
    passed = oldest[2] - oldest[1]
    if passed > heir[1]:
        return  # they overlap: copies of one disk, each with its own count of the same positions
    counts = connection.execute(
        "DELETE FROM inbox_cursor WHERE cursor_id = ?"
        " RETURNING applied_count, duplicate_count, rejected_count, gap_count, known_count",
        (oldest[0],),
    ).fetchone()
    connection.execute(
        "UPDATE inbox_cursor SET start_sequence = start_sequence - ?, applied_count = applied_count + ?,"
        " duplicate_count = duplicate_count + ?, rejected_count = rejected_count + ?, gap_count = gap_count + ?,"
        " known_count = known_count + ? WHERE cursor_id = ?",
        (passed, *counts, heir[0]),
    )


def reject(connection: sqlite3.Connection, peer: str, lane: Lane, epoch: str, rejections: Sequence[Rejection]) -> None:
    """Move entries of the cursor from applied to rejected, and keep why: the newest of them go with the cursor."""
    cursor_id = connection.execute(
        "UPDATE inbox_cursor SET applied_count = applied_count - ?, rejected_count = rejected_count + ?"
        " WHERE peer = ? AND lane = ? AND epoch = ? RETURNING cursor_id",
        (len(rejections), len(rejections), peer, lane, epoch),
    ).fetchone()[0]
    connection.executemany(
        "INSERT INTO rejection VALUES (?, ?, ?) ON CONFLICT DO NOTHING",
        [
            (cursor_id, rejection.sequence, msgspec.msgpack.encode(rejection.problem))
            for rejection in rejections[-KEPT_REJECTIONS:]
        ],
    )
    connection.execute(
        "DELETE FROM rejection WHERE cursor_id = ? AND sequence <="
        " (SELECT sequence FROM rejection WHERE cursor_id = ? ORDER BY sequence DESC LIMIT 1 OFFSET ?)",
        (cursor_id, cursor_id, KEPT_REJECTIONS),
    )


def count_known(connection: sqlite3.Connection, peer: str, lane: Lane, epoch: str, known: int) -> None:
    """Move `known` entries of the cursor from applied to known: they came before, under another epoch."""
    connection.execute(
        "UPDATE inbox_cursor SET applied_count = applied_count - ?, known_count = known_count + ?"
        " WHERE peer = ? AND lane = ? AND epoch = ?",
        (known, known, peer, lane, epoch),
    )
