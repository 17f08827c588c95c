"""How long a store has been in use: what retention counts by, since no wall clock can move it.

A wall clock may be a year off, in either direction, and be set at any time; a device without a battery begins in 1970. If the
age of what has ended were the wall clock's, setting it forward would forget everything at once, and setting it back would
keep everything for ever. So rows note the running time of the store when they were written, in seconds, and the program that
has the store open adds to it what its monotonic clock says, now and then. Time the program was not running does not count:
what is kept for a day is kept for a day of work.
"""

from __future__ import annotations

import sqlite3

SCHEMA = """
CREATE TABLE run_time (
    seconds REAL NOT NULL
) STRICT;
INSERT INTO run_time VALUES (0);
"""

# In a statement: the running time now, as of the last `pass_time`.
NOW = "(SELECT seconds FROM run_time)"


def pass_time(connection: sqlite3.Connection, seconds: float) -> float:
    """`seconds` have passed since the last call. Returns the running time at that call.

    Whatever was written before it carries that time or an earlier one, so that counting from there forgets nothing early.
    """
    before: float = connection.execute("SELECT seconds FROM run_time").fetchone()[0]
    connection.execute("UPDATE run_time SET seconds = seconds + ?", (max(seconds, 0.0),))
    return before
