"""A rejection is told with the acknowledgement, and again with the cursor: the acknowledgement may be lost."""

from __future__ import annotations

import sqlite3
from collections.abc import Sequence

from edgenode.link.model.lanes import Lane, Rejection, Segment
from edgenode.link.model.problem import Code, Problem
from edgenode.link.store import inbox, logs
from edgenode.link.store.database import Database
from edgenode.link.store.outbox import SqliteOutbox
from edgenode.link.store.readers import readers
from edgenode.link.wire.lanes import cursor_from_pb, cursor_to_pb

PROBLEM = Problem(Code.INVALID_ARGUMENT, "NOT_LIKED", "no", hint="see")


def rejections(*sequences: int) -> list[Rejection]:
    return [Rejection(sequence, PROBLEM) for sequence in sequences]


def test_the_cursor_carries_the_newest_rejections_of_its_epoch() -> None:
    db = sqlite3.connect(":memory:", isolation_level=None)
    db.execute("PRAGMA foreign_keys = ON")
    db.executescript(logs.SCHEMA)
    inbox.accept(db, "north", Lane.TASK, "e", 1, [Segment(400, b"x", 1.0)], None)
    inbox.reject(db, "north", Lane.TASK, "e", rejections(*range(1, 301)))
    inbox.reject(db, "north", Lane.TASK, "e", rejections(400))
    (cursor,) = inbox.inbox_cursors(db, "north")
    assert [one.sequence for one in cursor.rejections] == [*range(46, 301), 400]
    assert cursor.rejections[-1].problem == PROBLEM
    assert cursor_from_pb(cursor_to_pb(cursor)) == cursor
    # Another process of the peer, and then the first again: what was rejected goes with its cursor.
    inbox.accept(db, "north", Lane.TASK, "f", 401, [Segment(1, b"x", 1.0)], None)
    assert inbox.inbox_cursors(db, "north")[0].rejections == ()
    inbox.accept(db, "north", Lane.TASK, "e", 401, [Segment(1, b"x", 1.0)], None)
    assert len(inbox.inbox_cursors(db, "north")[0].rejections) == inbox.KEPT_REJECTIONS
    db.close()


async def test_the_sender_counts_each_rejection_once_whichever_way_it_hears_of_it() -> None:
    database = await Database.open(":memory:", [logs.SCHEMA], application_id=1)
    kept: list[int] = []
    told: list[int] = []

    def keep(connection: sqlite3.Connection, lane: Lane, found: Sequence[Rejection]) -> None:
        kept.extend(rejection.sequence for rejection in found)

    outbox = SqliteOutbox(database, {Lane.TASK: "out"}, "hub", lambda: "e", keep)
    outbox.on_acknowledged(lambda lane, sequence, found: told.extend(one.sequence for one in found))
    await database.write(outbox.ensure)
    await database.write(
        lambda connection: logs.append(
            connection, logs.log_state(connection, "out").log_id, [Segment(1, b"x", 1.0) for _ in range(9)]
        )
    )
    await outbox.acknowledged(Lane.TASK, "e", 3, rejections(2))
    # The acknowledgement up to 6 was lost; the greeting's cursor names what it would have named, and what came before.
    await outbox.acknowledged(Lane.TASK, "e", 6, rejections(2, 5, 6))
    await outbox.acknowledged(Lane.TASK, "e", 6, rejections(5, 6))
    assert kept == told == [2, 5, 6]
    state = await database.read(lambda connection: logs.log_state(connection, "out"))
    (reader,) = await database.read(lambda connection: readers(connection, state.log_id))
    assert (reader.acked, reader.rejected) == (6, 3)
    await database.close()
