"""What a check of a ledger found."""

from __future__ import annotations

from dataclasses import dataclass

UNBALANCED = "UNBALANCED"  # produced is not delivered + pending + dead-lettered + dropped
HOLE = "HOLE"  # entries that were given numbers and are not held, between entries that are
OVERLAP = "OVERLAP"  # a number that two segments hold
OUT_OF_BOUNDS = "OUT_OF_BOUNDS"  # entries below the first or beyond the last number the log says it has
WRONG_BYTES = "WRONG_BYTES"  # the bytes of the segments are not those the log counts
DAMAGED = "DAMAGED"  # entries whose bytes are not what was stored
STRAY = "STRAY"  # something that belongs to nothing
CURSOR_AHEAD = "CURSOR_AHEAD"  # somebody stands beyond the end of the log
NOT_HELD = "NOT_HELD"  # entries that somebody has not acknowledged yet are gone
WRONG_COUNT = "WRONG_COUNT"  # a counter is not what counting gives
NOT_ARRIVED = "NOT_ARRIVED"  # one side was told that the other has entries, and it has not
COUNTS_DIFFER = "COUNTS_DIFFER"  # both sides know the same entries and count them differently

MAX_FINDINGS = 200


@dataclass(frozen=True, slots=True)
class Finding:
    """One thing that is wrong: where, which positions (0: none can be named), what, and the numbers for people."""

    hop: str
    reason: str
    detail: str
    first: int = 0
    last: int = 0
    peer: str = ""
    epoch: str = ""
    node: str = ""
