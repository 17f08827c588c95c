from pathlib import Path

from edgenode.link.model.lanes import Lane, Segment
from edgenode.link.store import logs
from edgenode.link.store.database import Database
from edgenode.link.store.outbox import SqliteOutbox
from edgenode.link.store.retention import Retention


async def test_one_acknowledgement_gives_back_all_it_frees(tmp_path: Path) -> None:
    database = await Database.open(tmp_path / "a.db", [logs.SCHEMA], application_id=7)
    keep = {Lane.MESSAGE: Retention(keep_bytes=100)}
    outbox = SqliteOutbox(database, {Lane.MESSAGE: "log"}, "parent", lambda: "e", lambda *_: None, keep)
    await database.write(outbox.ensure)
    segments = [Segment(2, b"x" * 10, 1.0)] * 1700
    await database.write(lambda connection: logs.append(connection, logs.log_state(connection, "log").log_id, segments))
    await outbox.acknowledged(Lane.MESSAGE, "e", 3201, ())
    state = await database.read(lambda connection: logs.log_state(connection, "log"))
    assert (state.first, state.held_bytes) == (3201, 1000)  # a segment is freed with its last entry
    await outbox.acknowledged(Lane.MESSAGE, "e", 3400, ())
    state = await database.read(lambda connection: logs.log_state(connection, "log"))
    assert state.held_bytes == 100
    await database.close()
