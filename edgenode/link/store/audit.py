"""Looks at everything a store's ledger counts, and says exactly what is not as it must be.

Theory of operation. A sum that does not hold says that something is wrong, not what. So each log is walked: its segments must
follow each other without an overlap from the first to the last number the log says it holds, and without a hole but for the
entries that are noted as lost; they must match their checksums and have the bytes the log counts; no consumer may stand beyond
its end, nor need what is gone. A log may hold a million entries and the node is at work:
the walk goes in steps of bounded size, each a read between two transactions. That is consistent all the same, because what
was walked never changes but by being trimmed from the front, and what is appended lies ahead. What must be compared at one
instant (bytes, bounds, consumers) is compared in the last step, with what was trimmed meanwhile taken away.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol, TypeVar

from edgenode.link.model import finding
from edgenode.link.model.finding import Finding
from edgenode.link.store import logs
from edgenode.link.store.database import Statement
from edgenode.link.store.readers import Reader, readers
from edgenode.link.store.seals import TASK_DAMAGED, is_whole

STEP_SEGMENTS = 2_000
STEP_BYTES = 2 << 20
STEP_ROW_BYTES = 1 << 10  # what a row counts beside its blobs

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class _Block:
    """Segments walked in one step: the range of sequences they begin at, their bytes, and what they take of the file."""

    first: int
    last: int
    size: int
    disk: int


class LogAudit:
    """The walk over one log: call `step` until it says True; `findings` and `entries` are then complete."""

    def __init__(self, name: str, step_segments: int = STEP_SEGMENTS) -> None:
        self.name = name
        self.findings: list[Finding] = []
        self.entries = 0
        self._step_segments = step_segments
        self._next = 0  # the sequence that must come next
        self._row = 0  # where the next step begins to read
        self._blocks: list[_Block] = []

    def step(self, connection: sqlite3.Connection) -> bool:
        """Look at the next segments; True once all were seen."""
        state = logs.log_state(connection, self.name)
        origin = logs.row_at(state.log_id, 0)
        if not self._next:
            self._check_before(connection, state)
        self._next = max(self._next, state.first)
        self._row = max(self._row, state.first)
        rows = connection.execute(
            "SELECT position, entry_count, accept_time, origin_node, origin_epoch, origin_sequence, checksum, payload"
            " FROM segment WHERE position >= ? AND position < ? ORDER BY position LIMIT ?",
            (origin + self._row, logs.row_at(state.log_id + 1, 0), self._step_segments),
        )
        first, size, disk, seen = self._row, 0, 0, 0
        for *facts, checksum, payload in rows:
            sequence = facts[0] - origin
            self._take(connection, state, sequence, facts[1])
            if logs.segment_checksum(facts, payload) != checksum:
                last = sequence + max(facts[1], 1) - 1
                self._find(state, finding.DAMAGED, sequence, last, "the bytes are not what was stored")
            self._row = sequence + 1
            size += len(payload)
            disk += logs.disk_bytes(len(payload))
            seen += 1
            if size >= STEP_BYTES:
                break
        rows.close()
        self._blocks.append(_Block(first, self._row - 1, size, disk))
        if seen == self._step_segments or size >= STEP_BYTES:
            return False
        self._finish(connection, state)
        return True

    def _find(self, state: logs.LogState, reason: str, first: int, last: int, detail: str, peer: str = "") -> None:
        self.findings.append(Finding(self.name, reason, detail, first, last, peer, state.epoch))

    def _check_before(self, connection: sqlite3.Connection, state: logs.LogState) -> None:
        lowest = connection.execute(
            "SELECT min(position) - ? FROM segment WHERE position >= ? AND position < ?",
            (logs.row_at(state.log_id, 0), logs.row_at(state.log_id, 0), logs.row_at(state.log_id + 1, 0)),
        ).fetchone()[0]
        if lowest is not None and lowest < state.first:
            self._find(
                state,
                finding.OUT_OF_BOUNDS,
                lowest,
                state.first - 1,
                f"the log says it begins at {state.first}, its segments begin at {lowest}",
            )

    def _take(self, connection: sqlite3.Connection, state: logs.LogState, sequence: int, count: int) -> None:
        last = sequence + count - 1
        if count < 1:
            self._find(state, finding.WRONG_COUNT, sequence, sequence, f"a segment says it has {count} entries")
            return
        if sequence > self._next:
            self._find_holes(connection, state, self._next, sequence - 1)
        elif sequence < self._next:
            shared = min(self._next - 1, last)
            self._find(state, finding.OVERLAP, sequence, shared, "two segments hold these entries")
        self.entries += count
        self._next = max(self._next, last + 1)

    def _finish(self, connection: sqlite3.Connection, state: logs.LogState) -> None:
        """What must be compared at one instant: the end, the bytes, the consumers."""
        end = self._next - 1
        if end < state.last:
            self._find_holes(connection, state, end + 1, state.last)
        elif end > state.last:
            self._find(
                state,
                finding.OUT_OF_BOUNDS,
                state.last + 1,
                end,
                f"the next number to give is {state.last + 1}, segments reach {end}",
            )
        size, disk = self._held_bytes(connection, state)
        if (size, disk) != (state.held_bytes, state.disk_bytes):
            self._find(
                state,
                finding.WRONG_BYTES,
                state.first,
                state.last,
                f"the log counts {state.held_bytes} bytes, {state.disk_bytes} of the file; its segments have {size}, {disk}",
            )
        for reader in readers(connection, state.log_id):
            self._check_reader(state, reader)

    def _find_holes(self, connection: sqlite3.Connection, state: logs.LogState, first: int, last: int) -> None:
        """Entries `first` to `last` are not held: a finding, but for those that are noted as lost."""
        ranges = connection.execute(
            "SELECT first_sequence, last_sequence FROM lost_range WHERE log_id = ? AND last_sequence >= ?"
            " AND first_sequence <= ? ORDER BY first_sequence",
            (state.log_id, first, last),
        ).fetchall()
        for begin, end in [*ranges, (last + 1, last + 1)]:
            if begin > first:
                self._find(state, finding.HOLE, first, begin - 1, f"{begin - first} entries are not held")
            first = max(first, end + 1)

    def _held_bytes(self, connection: sqlite3.Connection, state: logs.LogState) -> tuple[int, int]:
        """(payload bytes, bytes of the file) of what was walked, without what was trimmed since.

        A block that lost some of its segments is counted again.
        """
        size = disk = 0
        origin = logs.row_at(state.log_id, 0)
        for block in self._blocks:
            if block.first >= state.first:
                size += block.size
                disk += block.disk
            elif block.last >= state.first:
                for (length,) in connection.execute(
                    "SELECT length(payload) FROM segment WHERE position >= ? AND position <= ?",
                    (origin + state.first, origin + block.last),
                ):
                    size += length
                    disk += logs.disk_bytes(length)
        return size, disk

    def _check_reader(self, state: logs.LogState, reader: Reader) -> None:
        if reader.acked > state.last:
            detail = f"{reader.name} has acknowledged up to {reader.acked}, the log ends at {state.last}"
            self._find(state, finding.CURSOR_AHEAD, state.last + 1, reader.acked, detail, reader.name)
        if state.last - reader.acked > reader.held + reader.lost_ahead:
            detail = f"{reader.name} has acknowledged up to {reader.acked}, the log begins at {state.first}"
            self._find(state, finding.NOT_HELD, reader.acked + 1, state.first - 1, detail, reader.name)
        passed = reader.acked - reader.start
        if min(reader.rejected, reader.skipped, passed) < 0 or reader.rejected + reader.skipped > passed:
            detail = (
                f"{reader.name} came {passed} entries from where it began, of which {reader.rejected} count as rejected"
                f" and {reader.skipped} as skipped"
            )
            self._find(state, finding.WRONG_COUNT, reader.start + 1, reader.acked, detail, reader.name)


class Readable(Protocol):
    """A store that is running, or one that is looked at while it is not."""

    async def read(self, function: Statement[T]) -> T:
        """Run `function` of the connection; between two calls others may write."""
        ...


async def audit_logs(database: Readable) -> tuple[list[Finding], int]:
    """Walk every log; (what is wrong, entries seen)."""
    names = await database.read(
        lambda connection: [name for (name,) in connection.execute("SELECT name FROM log ORDER BY log_id")]
    )
    findings: list[Finding] = []
    entries = 0
    for name in names:
        audit = LogAudit(name)
        while not await database.read(audit.step):
            pass
        findings += audit.findings
        entries += audit.entries
    return findings, entries


async def audit_tasks(database: Readable, table: str, number: str, columns: Sequence[str]) -> list[Finding]:
    """Tasks whose blobs in `columns` are not what was stored; `number` is the column they are walked by.

    One that has ended for that is none: it was told.
    """
    findings: list[Finding] = []
    query = (
        f"SELECT {number}, task_id, {', '.join(columns)} FROM {table}"
        f" WHERE {number} > ? AND state_reason <> '{TASK_DAMAGED}' ORDER BY {number}"
    )
    after = 0

    def step(connection: sqlite3.Connection) -> bool:
        """True once all were seen."""
        nonlocal after
        size, rows = 0, connection.execute(query, (after,))
        for after, task_id, *blobs in rows:
            damaged = [name for name, blob in zip(columns, blobs, strict=True) if not is_whole(task_id, name, blob)]
            if damaged:
                detail = f"task {task_id}: {', '.join(damaged)} is not what was stored"
                findings.append(Finding("tasks", finding.DAMAGED, detail, after, after))
            size += STEP_ROW_BYTES + sum(len(blob) for blob in blobs if blob is not None)
            if size >= STEP_BYTES:
                rows.close()
                return False
        return True

    while not await database.read(step):
        pass
    return findings


def check_tables(connection: sqlite3.Connection) -> list[Finding]:
    """What no walk over a log sees: segments of no log, cursors that do not add up, counters below zero."""
    return [*_strays(connection), *_cursors(connection), *_counters(connection)]


def _strays(connection: sqlite3.Connection) -> list[Finding]:
    findings = []
    known = [log_id for (log_id,) in connection.execute("SELECT log_id FROM log ORDER BY log_id")]
    for low, high in zip([-1, *known], [*known, logs.LAST_LOG + 1], strict=True):
        first, last, rows = connection.execute(
            "SELECT min(position), max(position), count(*) FROM segment WHERE position >= ? AND position < ?",
            (logs.row_at(low + 1, 0), logs.row_at(high, 0)),
        ).fetchone()
        if rows:
            where = (
                f"log {logs.row_place(first)[0]}"
                if rows == 1
                else f"logs {logs.row_place(first)[0]} to {logs.row_place(last)[0]}"
            )
            detail = f"{rows} segments of {where}, which is not there"
            findings.append(
                Finding("segments", finding.STRAY, detail, logs.row_place(first)[1], logs.row_place(last)[1])
            )
    return findings


def _cursors(connection: sqlite3.Connection) -> list[Finding]:
    """Every position a cursor passed is counted once."""
    rows = connection.execute(
        "SELECT peer, lane, epoch, start_sequence, sequence, applied_count + rejected_count + gap_count + known_count"
        " FROM inbox_cursor WHERE sequence - start_sequence <>"
        " applied_count + rejected_count + gap_count + known_count OR min(applied_count, rejected_count, gap_count,"
        " known_count, duplicate_count, start_sequence) < 0"
    )
    return [
        Finding(
            f"{logs.lane_name(lane)} cursor",
            finding.WRONG_COUNT,
            f"the cursor came from {start} to {sequence}, its entries are counted up to {start + counted}",
            min(sequence, start + counted) + 1,
            max(sequence, start + counted),
            peer,
            epoch,
        )
        for peer, lane, epoch, start, sequence, counted in rows
    ]


def _counters(connection: sqlite3.Connection) -> list[Finding]:
    rows = connection.execute("SELECT name, reason, value FROM counter WHERE value < 0")
    return [
        Finding(name, finding.WRONG_COUNT, f"the counter {reason or name} is {value}") for name, reason, value in rows
    ]
