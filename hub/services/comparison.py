"""What two sides of a link say of one lane, held against each other.

Both work on while they are asked, so nothing is compared that both must know at one instant. What holds at any time is an
order: what the receiver has applied is never less than what the sender was told it has. The sender is therefore read before
the receiver. Where the two positions are equal nothing is on its way, and the counts up to there must be equal as well.

Positions mean the same on both sides only within one log: under one epoch, or under an earlier one of which the sender knows
where it ended. Of a log that was made anew, or of a disk that was set back, nothing can be said this way; the greeting deals
with those.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from edgenode.link.model import finding
from edgenode.link.model.finding import Finding


@dataclass(frozen=True, slots=True)
class Sent:
    """The sender's side: its log's epoch and where earlier ones ended, and up to where the receiver acknowledged.

    It began to send behind `start`; of what was acknowledged `rejected` entries came back.
    """

    hop: str
    epoch: str
    earlier: Mapping[str, int]
    start: int
    acked: int
    rejected: int

    def end_of(self, epoch: str) -> int | None:
        """Up to where positions under `epoch` are this log's; None where it does not know the epoch."""
        return 1 << 62 if epoch == self.epoch else self.earlier.get(epoch)


@dataclass(frozen=True, slots=True)
class Taken:
    """The receiver's side: one cursor. `counted` entries were applied or stated as missing, `rejected` were not taken."""

    epoch: str
    sequence: int
    counted: int = 0
    rejected: int = 0


def compare(node: str, sent: Sent, cursors: Sequence[Taken], *, counts: bool) -> list[Finding]:
    """What does not fit, for the lane between the hub and `node`; `cursors` in the order they moved, the newest last.

    With `counts` they are all there ever were, and what they counted is compared where it can be.
    """
    newest = cursors[-1] if cursors else Taken("", 0)
    end = sent.end_of(newest.epoch) if newest.epoch else 0
    if end is None:
        return []
    applied = min(newest.sequence, end)
    if sent.acked > max(applied, sent.start):
        first = max(applied, sent.start) + 1
        detail = f"the sender was told that everything up to {sent.acked} arrived, the receiver has it up to {applied}"
        return [Finding(sent.hop, finding.NOT_ARRIVED, detail, first, sent.acked, node, sent.epoch)]
    known = all((limit := sent.end_of(taken.epoch)) is not None and taken.sequence <= limit for taken in cursors)
    if not counts or not known or sent.acked != applied:
        return []
    counted = sum(taken.counted for taken in cursors)
    rejected = sum(taken.rejected for taken in cursors)
    if (counted + rejected, rejected) == (applied, sent.rejected):
        return []
    detail = (
        f"both stand at {applied}; the sender counts {sent.rejected} of these rejected, the receiver {rejected} rejected and"
        f" {counted} taken"
    )
    low, high = sorted((counted + rejected, applied))
    return [Finding(sent.hop, finding.COUNTS_DIFFER, detail, low + 1 if low < high else 0, high, node, sent.epoch)]
