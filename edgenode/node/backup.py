"""What a backup of an edge holds, and what an edge that is restored from one begins anew.

Theory of operation. What happened after the backup is gone here and may be known to others; `edgenode.link.store.logs` says
why nothing that is appended from now on can be taken for it. Beside that:

- Tasks that the hub had granted to this node are given back: what became of them since, the hub knows and this disk does not.
  The log says so, those that must not run twice as failed (RESTORED): the hub may have seen nothing of this node since the
  backup. What came of them since outdates that. If the hub has, it asks what this node has (TaskRestate), and takes back what
  is not here: those that may run twice are granted again, the others fail with NODE_LOST.
- Tasks of this node that the hub has are offered to it `again` in the answer, and it tells what became of them.
- Tasks that only this node had and that must not run twice fail with RESTORED: they may have run since the backup. All others
  run, perhaps again.
- Versions of the registry begin above all that were given since the backup.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Callable, Sequence
from pathlib import Path

from edgenode.api.admin.v1 import admin_pb2
from edgenode.api.sync.v1 import sync_pb2
from edgenode.api.task.v1 import task_pb2
from edgenode.link.backup.archive import Kind
from edgenode.link.backup.checking import check_logs, has_logs
from edgenode.link.backup.making import Scope, make_backup
from edgenode.link.blobs.files import FOLDER
from edgenode.link.errors import Aborted, EdgenodeError
from edgenode.link.model.task import Level, TaskState
from edgenode.link.parent.identity import IdentityDirectory
from edgenode.link.ports import Clock
from edgenode.link.store import logs
from edgenode.link.store.database import Database
from edgenode.link.store.seals import is_whole, seal, unseal
from edgenode.link.wire.values import problem_to_pb
from edgenode.node import config, ledger, store, task_entries, task_store
from edgenode.node.message_log import LOG_NAME, PARENT
from edgenode.node.task_book import HUB, TASK_LOG

SCOPE = Scope(
    Kind("edgenode", store.FILE_NAME, store.APPLICATION_ID, len(store.MIGRATIONS)),
    files=[config.FILE_NAME],
    directories=["identity"],
    blobs=FOLDER,
)
RESTORED = "RESTORED"


async def back_up(database: Database, state: Path, target: Path, clock: Clock) -> admin_pb2.Backup:
    """Raises as `make_backup`."""
    row = await database.read(lambda connection: connection.execute("SELECT name FROM node").fetchone())
    return await make_backup(database, SCOPE, state, row[0] if row is not None else "edge", target, clock)


def check(connection: sqlite3.Connection) -> Sequence[str]:
    """What of a store's logs is not whole, and which hops do not add up."""
    joined = connection.execute("SELECT 1 FROM consumer WHERE name = ?", (PARENT,)).fetchone() is not None
    ran = has_logs(connection, LOG_NAME, TASK_LOG)
    lines = ledger.lines(connection, HUB if joined else "") if ran else []
    return [
        *check_logs(connection),
        *(f"the ledger of {line.hop} does not add up" for line in lines if not line.balanced),
    ]


def begin_anew(connection: sqlite3.Connection, now_time: float, new_epoch: Callable[[], str]) -> list[str]:
    """Make the store of a backup one of its own; returns what was changed, for people. Runs in a transaction."""
    names = [name for (name,) in connection.execute("SELECT name FROM log ORDER BY name").fetchall()]
    for name in names:
        logs.renew_epoch(connection, name, new_epoch())
    # Minutes since 1970: above the starts of any life that was cut off, and far below what the registry's versions hold.
    connection.execute("UPDATE node SET boot_count = max(boot_count + 1, ?)", (int(now_time) // 60,))
    changed = [f"new epochs for {', '.join(names) or 'no logs: it never ran'}"]
    given_back = _give_back(connection, now_time)
    failed = _fail(connection, now_time)
    if given_back:
        changed.append(f"{given_back} granted tasks are left to the hub")
    if failed:
        changed.append(f"{failed} tasks that must not run twice have failed: they may have run since the backup")
    return changed


def _give_back(connection: sqlite3.Connection, now_time: float) -> int:
    """Forget what the hub granted, and tell it: it may have seen nothing of this node since the backup was made."""
    rows = connection.execute("SELECT task_id, fence, spec FROM task WHERE state < 8 AND fence > 0").fetchall()
    entries = []
    for task_id, fence, spec in rows:
        if _once(task_id, spec):  # it may have run since
            task = task_pb2.Task(task_id=task_id, state=task_pb2.TASK_STATE_FAILED, state_reason=RESTORED, fence=fence)
            task.problem.CopyFrom(problem_to_pb(_may_have_run().problem))
            entries.append(sync_pb2.TaskEntry(report=sync_pb2.TaskReport(task=task)))
        else:
            entries.append(task_entries.give_back(task_id, fence, _may_have_run().problem))
    task_entries.append(connection, TASK_LOG, entries, now_time)
    own = connection.execute(
        "UPDATE task SET holder_node = ?, state = ?, fence = 0 WHERE state < 8 AND fence > 0"
        " AND origin_node = (SELECT name FROM node)",
        (HUB, int(TaskState.QUEUED)),
    ).rowcount
    foreign = connection.execute("DELETE FROM task WHERE state < 8 AND fence > 0").rowcount
    if foreign:
        logs.count(connection, task_store.COUNTER, RESTORED, foreign)
    return own + foreign


def _fail(connection: sqlite3.Connection, now_time: float) -> int:
    problem = problem_to_pb(_may_have_run().problem).SerializeToString()
    failed = 0
    for task_id, spec in connection.execute(
        "SELECT task_id, spec FROM task WHERE state < 8 AND holder_node = ''"
    ).fetchall():
        if _once(task_id, spec):
            connection.execute(
                "UPDATE task SET state = ?, state_reason = ?, problem = ?, level = ?, update_time = ?,"
                " cancel_requested = 0, sequence = sequence + 1 WHERE task_id = ?",
                (
                    int(TaskState.FAILED),
                    RESTORED,
                    seal(task_id, "problem", problem),
                    int(Level.DONE),
                    now_time,
                    task_id,
                ),
            )
            failed += 1
    if failed:
        logs.count(connection, task_store.COUNTER, TaskState.FAILED.name, failed)
    return failed


def _once(task_id: str, stored: bytes) -> bool:
    """Whether a task must not run twice, or its stored spec cannot say so."""
    if not is_whole(task_id, "spec", stored):
        return True
    spec = task_pb2.TaskSpec.FromString(unseal(task_id, "spec", stored))
    return spec.on_lost in (task_pb2.ON_LOST_FAIL, task_pb2.ON_LOST_WAIT)


def _may_have_run() -> Aborted:
    return Aborted(
        RESTORED,
        "the node was restored from a backup, and the task may have run since that was made",
        hint="check whether it did before you submit it again",
    )


def newer_identity(state: Path, stage: Path) -> Sequence[str]:
    """`identity`, where the one in `state` is of the same node as the backup's and was renewed since; else nothing."""
    try:
        mine, backed_up = IdentityDirectory(state).facts(), IdentityDirectory(stage).facts()
    except EdgenodeError:
        return ()
    if mine is None or backed_up is None or (mine.trust_domain, mine.node) != (backed_up.trust_domain, backed_up.node):
        return ()
    return ("identity",) if mine.generation > backed_up.generation else ()
