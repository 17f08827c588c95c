"""Logs and cursors in memory: honest ones, with commits that take a turn of the loop and can be held up or fail."""

import asyncio
import itertools
from collections.abc import Callable, Sequence

from edgenode.link.model.agent import RegistryEntry
from edgenode.link.model.frames import RegistryDelta
from edgenode.link.model.lanes import Applied, Chunk, Gap, Lane, LaneCursor, LaneHead, Rejection, Segment
from edgenode.link.model.problem import Code, Problem
from edgenode.link.protocol.registry import RegistryChanges, RegistryReplica

_epochs = itertools.count(1)


class MemoryOutbox:
    """Segments by lane, kept until acknowledged."""

    def __init__(self, lanes: Sequence[Lane] = (Lane.TASK, Lane.MESSAGE)) -> None:
        self.logs = {lane: _Log() for lane in lanes}
        self.rejections: dict[Lane, list[int]] = {lane: [] for lane in lanes}
        self._notify: list[Callable[[Lane, int], None]] = []

    def append(self, lane: Lane, payloads: Sequence[bytes]) -> None:
        """One segment of entries; entry n of the segment is `payloads[n]`."""
        log = self.logs[lane]
        log.segments.append((log.last + 1, Segment(len(payloads), b"\n".join(payloads))))
        log.last += len(payloads)
        for notify in self._notify:
            notify(lane, log.last)

    async def heads(self) -> Sequence[LaneHead]:
        await asyncio.sleep(0)
        return [LaneHead(lane, log.epoch, log.first, log.last) for lane, log in self.logs.items()]

    async def read(self, lane: Lane, after: int, max_count: int, max_bytes: int) -> Chunk:
        await asyncio.sleep(0)
        log = self.logs[lane]
        taken: list[Segment] = []
        base, count, size = after + 1, 0, 0
        for first, segment in log.segments:
            if first <= after:
                continue
            if not taken:
                base = first
            elif count + segment.count > max_count or size + len(segment.payload) > max_bytes:
                break
            taken.append(segment)
            count += segment.count
            size += len(segment.payload)
        return Chunk(base, tuple(taken))

    async def acknowledged(self, lane: Lane, epoch: str, sequence: int, rejections: Sequence[Rejection]) -> None:
        await asyncio.sleep(0)
        log = self.logs[lane]
        if epoch != log.epoch or sequence <= log.acked:
            return
        self.rejections[lane] += [rejection.sequence for rejection in rejections]
        log.acked = sequence
        log.segments = [(first, segment) for first, segment in log.segments if first + segment.count - 1 > sequence]

    async def renew_epoch(self, lane: Lane) -> LaneHead:
        await asyncio.sleep(0)
        log = self.logs[lane]
        log.epoch = f"epoch-{next(_epochs)}"
        return LaneHead(lane, log.epoch, log.first, log.last)

    def on_append(self, notify: Callable[[Lane, int], None]) -> None:
        self._notify.append(notify)

    def pending(self) -> int:
        return sum(log.last - log.acked for log in self.logs.values())


class _Log:
    def __init__(self) -> None:
        self.epoch = f"epoch-{next(_epochs)}"
        self.last = 0
        self.acked = 0
        self.segments: list[tuple[int, Segment]] = []

    @property
    def first(self) -> int:
        return self.segments[0][0] if self.segments else self.last + 1


class MemoryInbox:
    """Entries by lane with their cursor. Payloads in `poison` are rejected; `gate` holds up every commit while cleared."""

    def __init__(self, poison: frozenset[bytes] = frozenset()) -> None:
        self.entries: dict[Lane, list[bytes]] = {lane: [] for lane in Lane}
        self.duplicates = 0
        self.gate = asyncio.Event()
        self.gate.set()
        self.failure: Exception | None = None
        self.applying: set[Lane] = set()
        self.overlaps = 0
        self.peak_lanes = 0
        self._poison = poison
        self._cursors: dict[Lane, tuple[str, int]] = {}

    async def cursors(self, heads: Sequence[LaneHead] = ()) -> Sequence[LaneCursor]:
        await asyncio.sleep(0)
        return [LaneCursor(lane, *self._cursors.get(lane, ("", 0))) for lane in (Lane.TASK, Lane.MESSAGE)]

    async def apply(self, lane: Lane, epoch: str, base: int, segments: Sequence[Segment], gap: Gap | None) -> Applied:
        self.overlaps += lane in self.applying
        self.applying.add(lane)
        self.peak_lanes = max(self.peak_lanes, len(self.applying))
        try:
            await asyncio.sleep(0)
            await self.gate.wait()
            if self.failure is not None:
                raise self.failure
            return self._commit(lane, epoch, base, segments, gap)
        finally:
            self.applying.discard(lane)

    def _commit(self, lane: Lane, epoch: str, base: int, segments: Sequence[Segment], gap: Gap | None) -> Applied:
        known, cursor = self._cursors.get(lane, (epoch, 0))
        if known != epoch:
            cursor = 0
        assert base <= cursor + 1 or gap, f"entries {cursor + 1} to {base - 1} are missing"
        entries = [entry for segment in segments for entry in segment.payload.split(b"\n")]
        assert len(entries) == sum(segment.count for segment in segments)
        skip = max(0, cursor + 1 - base)
        self.duplicates += min(skip, len(entries))
        rejections = []
        for sequence, entry in enumerate(entries[skip:], base + skip):
            if entry in self._poison:
                rejections.append(Rejection(sequence, Problem(Code.INVALID_ARGUMENT, "POISON", "no")))
            else:
                self.entries[lane].append(entry)
        cursor = max(cursor, base - 1 + len(entries))
        self._cursors[lane] = (epoch, cursor)
        return Applied(cursor, tuple(rejections))


class MemoryReplica:
    """A child's registry at its parent."""

    def __init__(self) -> None:
        self.entries: dict[str, RegistryEntry] = {}
        self.epoch = ""
        self.version = 0

    async def load(self) -> RegistryReplica:
        await asyncio.sleep(0)
        return RegistryReplica(self.epoch, self.version, self.entries.values())

    async def commit(self, delta: RegistryDelta, changes: RegistryChanges) -> None:
        await asyncio.sleep(0)
        for name in changes.removals:
            self.entries.pop(name, None)
        self.entries.update({entry.name: entry for entry in changes.upserts})
        self.epoch, self.version = changes.epoch, changes.version
