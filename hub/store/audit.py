"""Looks at what only the hub's ledger counts: its tasks. `edgenode.link.store.audit` looks at the logs."""

from __future__ import annotations

import sqlite3

from edgenode.link.blobs.auditing import audit_blobs
from edgenode.link.blobs.files import Folder
from edgenode.link.model import finding
from edgenode.link.model.finding import Finding
from edgenode.link.model.task import TaskState
from edgenode.link.store import audit, logs
from edgenode.link.store.audit import Readable
from hub.store import tasks
from hub.store.link import ledger_facts
from hub.store.records import Audit

SHOWN_IDS = 5


async def audit_store(database: Readable, folder: Folder | None = None) -> Audit:
    """Everything a hub's store holds; `folder` has its blobs. Raises what its reads raise."""
    findings, entries = await audit.audit_logs(database)
    findings += await audit.audit_tasks(
        database, "task LEFT JOIN task_spec USING (task_number)", "task_number", tasks.SEALED
    )
    findings += await audit_blobs(database, folder)

    def run(connection: sqlite3.Connection) -> Audit:
        more = [*audit.check_tables(connection), *_check_states(connection), *_check_rows(connection)]
        return Audit((*findings, *more), entries, ledger_facts(connection))

    return await database.read(run)


def _check_states(connection: sqlite3.Connection) -> list[Finding]:
    """The tasks of each state, as counted and as they are."""
    said = {state: count for state, count in logs.counters(connection, tasks.STATE).items() if count}
    rows = connection.execute("SELECT state, count(*) FROM task GROUP BY state").fetchall()
    there = {TaskState(state).name: count for state, count in rows}
    return [
        Finding("tasks", finding.WRONG_COUNT, f"{said.get(name, 0)} tasks count as {name}, {there.get(name, 0)} are")
        for name in sorted(said.keys() | there.keys())
        if said.get(name, 0) != there.get(name, 0)
    ]


def _check_rows(connection: sqlite3.Connection) -> list[Finding]:
    """A task has its spec, and a dead letter of a task has its task."""
    findings = []
    for hop, what, query in (
        (
            "tasks",
            "tasks have no spec",
            "SELECT task_number, task_id FROM task WHERE NOT EXISTS"
            " (SELECT 1 FROM task_spec WHERE task_spec.task_number = task.task_number) ORDER BY task_number",
        ),
        (
            "deadletters",
            "letters are of tasks that are not there as given up",
            "SELECT dead_letter_id, task_id FROM dead_letter WHERE kind = 'task' AND NOT EXISTS"
            " (SELECT 1 FROM task WHERE task.task_id = dead_letter.task_id AND state = 13) ORDER BY dead_letter_id",
        ),
    ):
        rows = connection.execute(query).fetchall()
        if rows:
            named = ", ".join(task_id for _, task_id in rows[:SHOWN_IDS])
            findings.append(Finding(hop, finding.STRAY, f"{len(rows)} {what}: {named}", rows[0][0], rows[-1][0]))
    return findings
