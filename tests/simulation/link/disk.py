"""A store that knows the difference between written and durable.

Transactions wait in line; a group of them becomes durable at once, after a while; only then, and a moment later, is the
process told. A crash takes everything that was not durable: the group under way is durable whole or not at all, and
nobody is told.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

from edgenode.link.model.agent import RegistryEntry
from edgenode.link.model.lanes import Applied, Chunk, Gap, Lane, LaneCursor, LaneHead, Rejection, Segment
from edgenode.link.model.problem import Code, Problem
from edgenode.link.protocol.registry import RegistryChanges, RegistryReplica
from tests.simulation.link.world import World

Backup = tuple[dict[Lane, "Log"], dict[Lane, "Received"], tuple[str, int, dict[str, RegistryEntry]]]
Transaction = tuple[Callable[[], Any], Callable[[Any], None]]
POISON = 23  # every entry whose number this divides is refused by its receiver


def encode(ids: Sequence[int], padding: int) -> Segment:
    """A segment whose payload names its entries."""
    return Segment(len(ids), ",".join(map(str, ids)).encode() + b" " * padding)


def decode(segment: Segment) -> list[int]:
    """The entries a segment names."""
    return [int(part) for part in segment.payload.split(b",")]


@dataclass
class Log:
    """One lane's log; `produced` is the oracle's list of all entries ever made durable."""

    epoch: str
    first: int = 1
    last: int = 0
    acked: int = 0
    segments: list[tuple[int, Segment]] = field(default_factory=list)
    produced: list[int] = field(default_factory=list)


@dataclass
class Received:
    """One lane's inbox; `applied` is what came in, in order, poison included; None stands for what a gap left out."""

    epoch: str = ""
    cursors: dict[str, int] = field(default_factory=dict)
    applied: list[int | None] = field(default_factory=list)


class Disk:
    """The durable state of one side, and the line of transactions that wait to change it."""

    discards_duplicates = True

    def __init__(self, world: World, name: str) -> None:
        self.world = world
        self.name = name
        self.logs = {lane: Log(f"{name}-{lane.name.lower()}-1") for lane in Lane}
        self.inbox = {lane: Received() for lane in Lane}
        self.registry_epoch = ""
        self.registry_version = 0
        self.registry: dict[str, RegistryEntry] = {}
        self._next_id = 0
        self._keep = world.rng.choice((0, 0, 12))
        self._waiting: list[Transaction] = []
        self._group: list[Transaction] = []
        self._boot = 0
        self._told_at = 0.0

    # --- transactions -------------------------------------------------------------------------------------------------

    def transact(self, change: Callable[[], Any], done: Callable[[Any], None]) -> None:
        """Run `change` once its turn has come, then tell `done` what it returned."""
        self._waiting.append((change, done))
        if not self._group:
            self._begin_group()

    def _begin_group(self) -> None:
        self._group, self._waiting = self._waiting, []
        boot = self._boot
        self.world.later(self.world.rng.uniform(0.001, 0.02), lambda: self._end_group(boot))

    def _end_group(self, boot: int) -> None:
        if boot != self._boot:
            return
        outcomes = [(done, change()) for change, done in self._group]
        self._group = []

        def tell() -> None:
            if boot == self._boot:
                for done, outcome in outcomes:
                    done(outcome)

        # Outcomes are told in the order of the commits.
        self._told_at = max(self._told_at, self.world.now + self.world.rng.uniform(0.0, 0.01))
        self.world.at(self._told_at, tell)
        if self._waiting:
            self._begin_group()

    def crash(self) -> None:
        """Lose what is not durable. The group under way made it or did not, as a whole."""
        if self._group and self.world.rng.random() < 0.5:
            for change, _ in self._group:
                change()
        self._boot += 1
        self._group, self._waiting = [], []

    # --- outbox: called inside a transaction --------------------------------------------------------------------------

    def heads(self) -> tuple[LaneHead, ...]:
        """Every lane's log."""
        return tuple(LaneHead(lane, log.epoch, log.first, log.last) for lane, log in self.logs.items())

    def append(self, lane: Lane, count: int, padding: int) -> int:
        """Add a segment of `count` fresh entries; returns the last sequence."""
        log = self.logs[lane]
        ids = list(range(self._next_id + 1, self._next_id + count + 1))
        self._next_id += count
        log.segments.append((log.last + 1, encode(ids, padding)))
        log.last += count
        log.produced += ids
        return log.last

    def read(self, lane: Lane, after: int, max_count: int, max_bytes: int) -> Chunk:
        """As `Outbox.read` says."""
        log = self.logs[lane]
        taken: list[Segment] = []
        base = after + 1
        count = size = 0
        for start, segment in log.segments:
            if start + segment.count - 1 <= after:
                continue
            if taken and (count + segment.count > max_count or size + len(segment.payload) > max_bytes):
                break
            if not taken:
                base = start
            taken.append(segment)
            count += segment.count
            size += len(segment.payload)
        return Chunk(base, tuple(taken))

    def renew_epoch(self, lane: Lane) -> LaneHead:
        """As `Outbox.renew_epoch` says."""
        log = self.logs[lane]
        log.epoch += "+"
        log.acked = log.first - 1
        return LaneHead(lane, log.epoch, log.first, log.last)

    def backup(self) -> Backup:
        """A copy of everything durable."""
        registry = (self.registry_epoch, self.registry_version, dict(self.registry))
        return copy.deepcopy((self.logs, self.inbox, registry))

    def restore(self, backup: Backup) -> None:
        """Put the copy in the place of everything. Entry numbers go on, so that the oracle can tell entries apart."""
        self.logs, self.inbox, registry = copy.deepcopy(backup)
        self.registry_epoch, self.registry_version, self.registry = registry

    def acknowledged(self, lane: Lane, epoch: str, sequence: int) -> None:
        """As `Outbox.acknowledged` says; what was acknowledged goes, but for a few."""
        log = self.logs[lane]
        if epoch != log.epoch or sequence <= log.acked:
            return
        log.acked = sequence
        log.segments = [
            (start, segment) for start, segment in log.segments if start + segment.count - 1 > sequence - self._keep
        ]
        log.first = log.segments[0][0] if log.segments else log.last + 1

    # --- inbox: called inside a transaction ---------------------------------------------------------------------------

    def cursors(self) -> tuple[LaneCursor, ...]:
        """How far each lane was applied."""
        return tuple(
            LaneCursor(lane, inbox.epoch, inbox.cursors[inbox.epoch])
            for lane, inbox in self.inbox.items()
            if inbox.epoch
        )

    def cursor(self, lane: Lane, epoch: str) -> int:
        """The durable cursor."""
        return self.inbox[lane].cursors.get(epoch, 0)

    def apply(self, lane: Lane, epoch: str, base: int, segments: Sequence[Segment], gap: Gap | None) -> Applied:
        """As `Inbox.apply` says; a hole that nobody stated is a failure of the run."""
        inbox = self.inbox[lane]
        known = inbox.cursors.get(epoch, base - 1 if gap is None else min(gap.after, base - 1))
        self.world.check(
            base <= known + 1 or gap is not None, f"{self.name} applies {base} of {lane.name} after {known}"
        )
        inbox.epoch = epoch
        inbox.applied += [None] * (base - known - 1)
        rejections: list[Rejection] = []
        sequence = base - 1
        for entry in (entry for segment in segments for entry in decode(segment)):
            sequence += 1
            if sequence <= known and self.discards_duplicates:
                continue
            inbox.applied.append(entry)
            if entry % POISON == 0:
                rejections.append(Rejection(sequence, Problem(Code.INVALID_ARGUMENT, "POISON", "divisible")))
        inbox.cursors[epoch] = max(known, sequence)
        return Applied(inbox.cursors[epoch], tuple(rejections))

    # --- replica: called inside a transaction -------------------------------------------------------------------------

    def replica(self) -> RegistryReplica:
        """The other side's registry as stored."""
        return RegistryReplica(self.registry_epoch, self.registry_version, self.registry.values())

    def apply_registry(self, changes: RegistryChanges) -> None:
        """Store what changed and where the replica then stands."""
        for name in changes.removals:
            self.registry.pop(name, None)
        self.registry.update((entry.name, entry) for entry in changes.upserts)
        self.registry_epoch, self.registry_version = changes.epoch, changes.version
