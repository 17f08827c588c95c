"""One lane of one session: what is sent, what was acknowledged, what may still go; and the same for the other direction.

Theory of operation. A log belongs to its sender: an epoch and consecutive sequences. The receiver keeps a cursor, stored
in the same transaction as the entries, and is the only authority on what it has. The greeting tells the sender that
cursor and the sender goes on behind it; nothing else is remembered from session to session. So a break at any point
costs at most a resend, and what is resent stands at or below the cursor and is discarded by the receiver's store.

Within a session the stream is ordered: entries beyond the expected one mean that something was lost on the way, and the
session starts over, unless the sender states that it does not hold what is missing. An epoch never changes within a
session; a log made anew ends it.

Credit is what the receiver is willing to hold uncommitted: spent by the sender when it sends, given back with the
acknowledgement after the commit. A segment larger than the whole window may go when nothing else is outstanding, or it
would wait for ever; the receiver knows that rule and takes any other excess for a defect.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Mapping

from edgenode.link.errors import FailedPrecondition, Internal
from edgenode.link.model.frames import Ack, Batch, Credit
from edgenode.link.model.lanes import Applied, Chunk, Gap, Lane, LaneCursor, LaneHead
from edgenode.link.protocol.events import Apply

GAP_REASON = "NOT_HELD"


def protocol_error(message: str, lane: Lane | None = None) -> FailedPrecondition:
    """The other side did what it must not; a new session may go better."""
    return FailedPrecondition(
        "PROTOCOL_ERROR",
        message,
        hint="the link is dialed anew; if it happens again, compare the versions of both sides",
        retryable=True,
        lane="" if lane is None else lane.name.lower(),
    )


def resume_point(head: LaneHead, cursor: LaneCursor) -> int:
    """Sequence after which the receiver at `cursor` wants to go on with the log `head`; both sides compute the same.

    Same epoch: its cursor. An earlier epoch of the same log: its cursor, at most where that epoch ended here, for what the
    receiver knows beyond is another disk's. Nothing ever seen: the very beginning, so that what is gone is stated as a gap.
    Any other epoch: the log was made anew, and its first entry starts the count.
    """
    if cursor.epoch == head.epoch:
        return cursor.sequence
    for earlier in head.earlier:
        if cursor.epoch == earlier.epoch:
            return min(cursor.sequence, earlier.last)
    return 0 if not cursor.epoch else head.first - 1


def ahead(
    heads: Mapping[Lane, LaneHead], appended: Mapping[Lane, int], cursors: Mapping[Lane, LaneCursor]
) -> list[Lane]:
    """Lanes whose receiver knows entries that the log never had: the sender's disk is older than what it sent.

    `appended` is what the logs gained since the heads were read; an older session may have sent it meanwhile.
    """
    return [
        lane
        for lane, head in heads.items()
        if (cursor := cursors.get(lane)) is not None
        and cursor.epoch == head.epoch
        and cursor.sequence > max(head.last, appended.get(lane, 0))
    ]


class LaneSender:
    """The sending half. `next` is where to read on, `last` what the log holds, `acked` what the receiver committed."""

    def __init__(self, head: LaneHead, cursor: LaneCursor, credit: Credit) -> None:
        self.lane = head.lane
        self.epoch = head.epoch
        self.last = head.last
        self.acked = resume_point(head, cursor)
        self.next = self.acked + 1
        self._expected = self.next  # what the receiver counts on; behind `next` where entries are gone
        self._credit_bytes = self._full_bytes = credit.added_bytes
        self._credit_count = self._full_count = credit.added_count
        self._need_bytes = self._need_count = 1
        self._waiting_since: float | None = None

    @property
    def ready(self) -> bool:
        """Whether there is something to send and room for it."""
        return self.next <= self.last and self._has_room(self._need_bytes, self._need_count)

    def _has_room(self, size: int, count: int) -> bool:
        return self._full or (self._credit_bytes >= size and self._credit_count >= count)

    @property
    def _full(self) -> bool:
        """Nothing is outstanding: now even a segment beyond the window may go."""
        granted = self._full_bytes > 0 and self._full_count > 0
        return granted and self._credit_bytes >= self._full_bytes and self._credit_count >= self._full_count

    def bounds(self, batch_count: int, batch_bytes: int) -> tuple[int, int]:
        """(entries, bytes) to read for the next batch."""
        return min(batch_count, max(self._credit_count, 1)), min(batch_bytes, max(self._credit_bytes, 1))

    def appended(self, last: int) -> None:
        """The log was committed up to `last`."""
        self.last = max(self.last, last)

    def batch(self, chunk: Chunk, last_when_asked: int) -> Batch | None:
        """The frame for what was read from `next` on, cut to the credit; None if nothing may go now."""
        if not chunk.segments:
            # Entries up to the chunk's base are gone; if nothing was appended meanwhile, there is nothing to send.
            self.next = max(self.next, chunk.base)
            if self.last == last_when_asked:
                self.last = min(self.last, self.next - 1)
            return None
        first = chunk.segments[0]
        if not self._has_room(len(first.payload), first.count):
            self._need_bytes, self._need_count = len(first.payload), first.count
            return None
        taken, size, count = 1, len(first.payload), first.count
        for segment in chunk.segments[1:]:
            if size + len(segment.payload) > self._credit_bytes or count + segment.count > self._credit_count:
                break
            taken, size, count = taken + 1, size + len(segment.payload), count + segment.count
        self._credit_bytes -= size
        self._credit_count -= count
        self._need_bytes = self._need_count = 1
        missing = max(chunk.base - self._expected, 0)
        batch = Batch(self.lane, self.epoch, chunk.base, chunk.segments[:taken], missing, GAP_REASON if missing else "")
        self.next = self._expected = batch.end + 1
        self.last = max(self.last, batch.end)
        return batch

    def credited(self, credit: Credit) -> None:
        """The receiver has more room; none at all says that it is full, and alive."""
        if credit.added_bytes < 0 or credit.added_count < 0:
            raise protocol_error("negative credit", lane=self.lane)
        self._credit_bytes += credit.added_bytes
        self._credit_count += credit.added_count
        self._waiting_since = None

    def acknowledged(self, ack: Ack) -> bool:
        """Take in an acknowledgement; returns whether it brings anything new. Raises FailedPrecondition if it lies."""
        if ack.epoch != self.epoch or ack.sequence > self.last:
            raise protocol_error(
                f"acknowledges {ack.sequence} of epoch {ack.epoch!r}; the log ends at {self.last} of {self.epoch!r}",
                lane=self.lane,
            )
        if ack.credit is not None:
            self.credited(ack.credit)
        if ack.sequence <= self.acked:
            return bool(ack.rejections)
        self.acked = ack.sequence
        # An apply begun in an earlier session may have committed more than this session sent.
        self.next = max(self.next, ack.sequence + 1)
        self._expected = max(self._expected, ack.sequence + 1)
        self._waiting_since = None
        return True

    def stalled_at(self, now: float, timeout: float) -> float | None:
        """When to give up waiting for the receiver, monotonic seconds; None when not waiting for it."""
        unacknowledged = self.acked < self._expected - 1
        refused = self.next <= self.last and not self.ready and self._full_bytes > 0 and self._full_count > 0
        if not (unacknowledged or refused):
            self._waiting_since = None
            return None
        if self._waiting_since is None:
            self._waiting_since = now
        return self._waiting_since + timeout


class LaneReceiver:
    """The receiving half: checks what comes, hands it on for commit one transaction at a time, acknowledges after it."""

    def __init__(self, head: LaneHead, cursor: LaneCursor, window_bytes: int, window_count: int) -> None:
        self.lane = head.lane
        self.epoch = head.epoch
        self._expected = resume_point(head, cursor) + 1
        self._window_bytes = window_bytes
        self._window_count = window_count
        self._held_bytes = 0
        self._held_count = 0
        self._queue: deque[Batch] = deque()
        self._applying: tuple[Batch, ...] = ()

    @property
    def applying(self) -> bool:
        """Whether a transaction is under way."""
        return bool(self._applying)

    def received(self, batch: Batch) -> None:
        """Take a batch in. Raises FailedPrecondition (PROTOCOL_ERROR) for a hole, another epoch or too much."""
        if batch.epoch != self.epoch:
            raise protocol_error(f"entries of epoch {batch.epoch!r} in a session of {self.epoch!r}", lane=batch.lane)
        if batch.base < 1 or not batch.segments or any(segment.count < 1 for segment in batch.segments):
            raise protocol_error("a batch without entries", lane=batch.lane)
        if not 0 <= batch.missing < batch.base:
            raise protocol_error(f"{batch.missing} entries gone before entry {batch.base}", lane=batch.lane)
        if batch.base - batch.missing > self._expected:
            raise protocol_error(
                f"entries from {batch.base}, {batch.missing} before them gone, expected {self._expected}",
                lane=batch.lane,
            )
        self._hold(batch)
        self._queue.append(batch)
        self._expected = max(self._expected, batch.end + 1)

    def _hold(self, batch: Batch) -> None:
        size, count = batch.size, batch.count
        within = self._held_bytes + size <= self._window_bytes and self._held_count + count <= self._window_count
        alone = not self._held_count and len(batch.segments) == 1
        if not within and not alone:
            raise protocol_error(f"{size} bytes, {count} entries sent without credit", lane=batch.lane)
        self._held_bytes += size
        self._held_count += count

    def next_apply(self) -> Apply | None:
        """The next transaction, if none is under way: all that is waiting and joins without a gap."""
        if self._applying or not self._queue:
            return None
        run = [self._queue.popleft()]
        while self._queue and self._queue[0].base == run[-1].end + 1 and not self._queue[0].missing:
            run.append(self._queue.popleft())
        self._applying = tuple(run)
        segments = tuple(segment for batch in run for segment in batch.segments)
        first = run[0]
        gap = Gap(first.gap_reason or GAP_REASON, first.base - first.missing - 1) if first.missing else None
        return Apply(self.lane, self.epoch, run[0].base, segments, gap)

    def applied(self, epoch: str, result: Applied) -> Ack:
        """The transaction is committed: the acknowledgement that is now true, with the credit it frees.

        Raises FailedPrecondition (SESSION_STATE) if none was under way, Internal (SHORT_COMMIT) if it does not cover it.
        """
        if not self._applying or epoch != self.epoch:
            raise FailedPrecondition("SESSION_STATE", f"nothing of {epoch!r} is being applied on {self.lane.name}")
        end = self._applying[-1].end
        if result.sequence < end:
            raise Internal(
                "SHORT_COMMIT", f"committed up to {result.sequence} of {end}", hint="report this", lane=self.lane.name
            )
        size = sum(batch.size for batch in self._applying)
        count = sum(batch.count for batch in self._applying)
        self._applying = ()
        self._held_bytes -= size
        self._held_count -= count
        # An apply of an earlier session may have committed more than this one received: the sender will go on after it.
        self._expected = max(self._expected, result.sequence + 1)
        return Ack(self.lane, self.epoch, result.sequence, result.rejections, Credit(self.lane, size, count))
