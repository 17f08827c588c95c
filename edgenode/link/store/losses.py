"""Logs whose rows were saved from a damaged store: they begin and end where they did, and what is missing is noted as lost."""

from __future__ import annotations

import sqlite3
from collections.abc import Mapping, Sequence

from edgenode.link.store import logs


def mend(connection: sqlite3.Connection, names: Mapping[int, str], positions: Mapping[int, int]) -> dict[str, int]:
    """Make the logs of a store consistent whose rows were saved from a damaged one; returns the entries lost, by log.

    `names` are the logs there must be, by number; `positions` the next sequences they are known to have had.
    """
    for log_id, name in names.items():
        connection.execute(
            "INSERT INTO log (log_id, name, epoch) VALUES (?, ?, '') ON CONFLICT DO NOTHING", (log_id, name)
        )
    result = {}
    for log_id, name, first, following in connection.execute(
        "SELECT log_id, name, first_sequence, next_sequence FROM log"
    ).fetchall():
        low = logs.row_at(log_id, 0)
        held = [
            (position - low, count)
            for position, count in connection.execute(
                "SELECT position, entry_count FROM segment WHERE position >= ? AND position < ? ORDER BY position",
                (low, logs.row_at(log_id + 1, 0)),
            )
        ]
        acked = logs.consumers(connection, log_id).values()
        ends = (following, positions.get(log_id, 0), *(sequence + 1 for sequence in acked))
        following = max(*ends, held[-1][0] + held[-1][1] if held else 0)
        if following > 1 and not acked and first == 1 and held:
            first = held[0][0]  # nobody knows where it began
        lost_count = 0
        for start, end in _holes(connection, log_id, held, first, following):
            lost_count += logs.note_lost(connection, log_id, start, end)
        connection.execute(
            "UPDATE log SET first_sequence = ?, next_sequence = ? WHERE log_id = ?", (first, following, log_id)
        )
        connection.execute("DELETE FROM retained WHERE log_id = ?", (log_id,))
        logs.weigh(connection, log_id)
        result[name] = lost_count
    return result


def _holes(
    connection: sqlite3.Connection, log_id: int, held: Sequence[tuple[int, int]], first: int, following: int
) -> list[tuple[int, int]]:
    """Stretches from `first` to before `following` that are neither held, (sequence, count) in order, nor noted as lost."""
    noted = connection.execute(
        "SELECT first_sequence, last_sequence - first_sequence + 1 FROM lost_range WHERE log_id = ?", (log_id,)
    ).fetchall()
    holes = []
    expected = first
    for sequence, count in sorted([*held, *noted, (following, 0)]):
        if sequence > expected:
            holes.append((expected, sequence - 1))
        expected = max(expected, sequence + count)
    return holes
