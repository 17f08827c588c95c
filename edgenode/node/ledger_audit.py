"""Whether the node's ledger adds up, and what exactly does not: for the socket, the link, and a node that is stopped."""

from __future__ import annotations

import sqlite3
from collections.abc import Callable, Sequence
from pathlib import Path

from edgenode.api.admin.v1 import admin_pb2, admin_service_pb2
from edgenode.link.blobs.auditing import audit_blobs
from edgenode.link.blobs.files import FOLDER, Folder
from edgenode.link.model import finding
from edgenode.link.model.finding import MAX_FINDINGS, Finding
from edgenode.link.parent.identity import load_identity
from edgenode.link.store import audit, dead_letters, logs
from edgenode.link.store.audit import Readable
from edgenode.link.store.inspection import Inspection
from edgenode.link.wire.ledger import finding_to_pb, imbalances
from edgenode.node import ledger, task_store
from edgenode.node.message_log import LOG_NAME
from edgenode.node.store import APPLICATION_ID, FILE_NAME, MIGRATIONS
from edgenode.node.task_book import TASK_LOG

SHOWN_IDS = 5


async def verify_stopped(state_dir: Path, now_time: float) -> admin_service_pb2.VerifyLedgerResponse:
    """The same of a node that is not running. Raises as Inspection."""
    identity = load_identity(state_dir)
    parent = identity.sync_address if identity is not None else ""
    with Inspection(state_dir / FILE_NAME, APPLICATION_ID, len(MIGRATIONS)) as store:
        return await verify(store, parent, now_time, folder=Folder(state_dir / FOLDER))


async def verify(
    database: Readable,
    parent: str,
    now_time: float,
    unwritten_duplicates: Callable[[], int] = int,
    folder: Folder | None = None,
) -> admin_service_pb2.VerifyLedgerResponse:
    """Look at everything; `parent` names the other end of the link, empty without one, `now_time` is the wall clock, and
    `folder` has the blobs."""
    findings, entries = await audit.audit_logs(database)
    findings += await audit.audit_tasks(database, "task", "rowid", task_store.SEALED)
    findings += await audit_blobs(database, folder)
    duplicates = unwritten_duplicates()

    def run(connection: sqlite3.Connection) -> admin_service_pb2.VerifyLedgerResponse:
        lines = ledger.lines(connection, parent, duplicates)
        findings.extend(imbalances(lines))
        findings.extend(audit.check_tables(connection))
        findings.extend(_check_letters(connection, lines))
        findings.extend(_check_positions(connection))
        return admin_service_pb2.VerifyLedgerResponse(
            lines=lines, lanes=ledger.lane_heads(connection, now_time) if parent else []
        )

    response = await database.read(run)
    response.findings.extend(finding_to_pb(found) for found in findings[:MAX_FINDINGS])
    response.finding_count = len(findings)
    response.entry_count = entries
    return response


def _check_letters(connection: sqlite3.Connection, lines: Sequence[admin_pb2.LedgerLine]) -> list[Finding]:
    """Whatever a hop says it dead-lettered was added to the dead letters, and a task's letter has its task."""
    findings = []
    said = sum(line.dead_lettered_count for line in lines)
    added = dead_letters.counts(connection).get(dead_letters.ADDED, 0)
    if said != added:
        detail = f"the hops dead-lettered {said}, {added} were added"
        findings.append(Finding("deadletters", finding.WRONG_COUNT, detail))
    rows = connection.execute(
        "SELECT dead_letter_id FROM dead_letter WHERE kind = 'task' AND NOT EXISTS"
        " (SELECT 1 FROM task WHERE task.task_id = dead_letter.task_id AND state = 13) ORDER BY dead_letter_id"
    ).fetchall()
    if rows:
        numbers = ", ".join(str(number) for (number,) in rows[:SHOWN_IDS])
        detail = f"{len(rows)} letters are of tasks that are not there as given up: {numbers}"
        findings.append(Finding("deadletters", finding.STRAY, detail, rows[0][0], rows[-1][0]))
    return findings


def _check_positions(connection: sqlite3.Connection) -> list[Finding]:
    """Nobody speaks of a position that a log never gave: producers of messages, offers of tasks."""
    findings = []
    for hop, log_name, query in (
        ("message.publish", LOG_NAME, "SELECT count(*), max(log_sequence) FROM producer WHERE log_sequence > ?"),
        (
            "task.uplink",
            TASK_LOG,
            "SELECT count(*), max(offer_sequence) FROM task WHERE offer_sequence > ? AND state < 8",
        ),
    ):
        state = logs.log_state(connection, log_name)
        rows, highest = connection.execute(query, (state.last,)).fetchone()
        if rows:
            detail = f"{rows} rows stand beyond the end of the log, {state.last}"
            findings.append(Finding(hop, finding.CURSOR_AHEAD, detail, state.last + 1, highest, epoch=state.epoch))
    return findings
