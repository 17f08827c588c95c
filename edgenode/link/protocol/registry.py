"""A node's registry as it travels up: the owner's log of changes, the parent's replica, and the digest both compare.

Theory of operation. The owning node is the only writer. Each change gets the next version of the log; the log keeps the
newest record of each name only, so what a peer at version v lacks is what has a version above v, in that order. A
removal stays as a tombstone until it was acknowledged. What the log cannot express as a delta any more (another epoch, a
peer behind a collected tombstone, a peer ahead of us because our disk was restored) goes as a snapshot.

The replica takes an entry only if it is newer than the version the replica stands at, so a delayed or doubled delta
brings nothing back. Repairs of digest buckets stand at the version both sides agreed on and never move it.

The digest covers (name, incarnation, version) and not the payload: every change has a new version, and serialised
messages need not come out byte for byte the same on both sides.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Iterator
from dataclasses import dataclass

from edgenode.link.errors import Aborted, FailedPrecondition, NotFound
from edgenode.link.model.agent import RegistryEntry
from edgenode.link.model.frames import RegistryDelta, RegistryDigest

BUCKETS = 256
_HASH_BYTES = 8
_ROOT_BYTES = 16
_PERSON = b"edgenode-reg"


def bucket_of(name: str) -> int:
    """The digest bucket, 0-255, an agent's name falls into."""
    return hashlib.blake2b(name.encode(), digest_size=1, person=_PERSON).digest()[0]


def _entry_hash(name: str, incarnation: int, version: int) -> int:
    text = f"{name}\0{incarnation}\0{version}".encode()
    return int.from_bytes(hashlib.blake2b(text, digest_size=_HASH_BYTES, person=_PERSON).digest(), "big")


class BucketDigest:
    """Hashes of the 256 buckets, kept up to date entry by entry; empty buckets take no memory."""

    def __init__(self) -> None:
        self._hashes: dict[int, int] = {}

    def toggle(self, name: str, incarnation: int, version: int) -> None:
        """Add the record, or take it out if it is in."""
        bucket = bucket_of(name)
        value = self._hashes.get(bucket, 0) ^ _entry_hash(name, incarnation, version)
        if value:
            self._hashes[bucket] = value
        else:
            self._hashes.pop(bucket, None)

    def buckets(self) -> bytes:
        """All bucket hashes, 2,048 bytes."""
        return b"".join(self._hashes.get(bucket, 0).to_bytes(_HASH_BYTES, "big") for bucket in range(BUCKETS))

    def root(self) -> bytes:
        """Hash over the bucket hashes, 16 bytes."""
        return hashlib.blake2b(self.buckets(), digest_size=_ROOT_BYTES, person=_PERSON).digest()

    def differing(self, buckets: bytes) -> tuple[int, ...]:
        """Numbers of the buckets whose hash is not the one in `buckets`."""
        mine = self.buckets()
        return tuple(
            bucket
            for bucket in range(BUCKETS)
            if mine[bucket * _HASH_BYTES : (bucket + 1) * _HASH_BYTES]
            != buckets[bucket * _HASH_BYTES : (bucket + 1) * _HASH_BYTES]
        )


class RegistryLog:
    """The owner's side. An epoch must not outlive versions that were not stored: give each start a new one, or store first.

    `floor`: peers below this version need a snapshot, because tombstones up to it are gone.
    """

    def __init__(
        self, epoch: str, version: int = 0, entries: Iterable[RegistryEntry] = (), floor: int | None = None
    ) -> None:
        """`entries` as stored; `floor` defaults to `version`, which is right where tombstones were not stored."""
        self.epoch = epoch
        self.version = version
        self._floor = version if floor is None else floor
        self._digest = BucketDigest()
        # In order of version: a changed record is taken out and put in at the end.
        self._entries: dict[str, RegistryEntry] = {}
        for entry in sorted(entries, key=lambda item: item.version):
            self._entries[entry.name] = entry
            self.version = max(self.version, entry.version)
            if entry.payload is not None:
                self._digest.toggle(entry.name, entry.incarnation, entry.version)

    def put(self, name: str, incarnation: int, payload: bytes) -> RegistryEntry:
        """Register or change an agent; returns the entry with its version.

        Raises Aborted (INCARNATION_OUTDATED) if a higher incarnation holds the name, or this one was removed.
        """
        known = self._entries.get(name)
        if known is not None:
            lowest = known.incarnation + 1 if known.payload is None else known.incarnation
            if incarnation < lowest:
                raise _outdated(name, incarnation, known)
        return self._append(name, incarnation, payload)

    def remove(self, name: str, incarnation: int) -> RegistryEntry:
        """Remove an agent; returns the tombstone.

        Raises NotFound (UNKNOWN_AGENT) if there is none, Aborted (INCARNATION_OUTDATED) if a higher one holds the name.
        """
        known = self._entries.get(name)
        if known is None or known.payload is None:
            raise NotFound(
                "UNKNOWN_AGENT", f"{name} is not registered", hint="list the agents to see which are", name=name
            )
        if incarnation < known.incarnation:
            raise _outdated(name, incarnation, known)
        return self._append(name, incarnation, None)

    def get(self, name: str) -> RegistryEntry | None:
        """The live entry of that name."""
        entry = self._entries.get(name)
        return None if entry is None or entry.payload is None else entry

    def entries(self) -> Iterator[RegistryEntry]:
        """Live entries, oldest change first."""
        return (entry for entry in self._entries.values() if entry.payload is not None)

    def _append(self, name: str, incarnation: int, payload: bytes | None) -> RegistryEntry:
        known = self._entries.pop(name, None)
        if known is not None and known.payload is not None:
            self._digest.toggle(name, known.incarnation, known.version)
        self.version += 1
        entry = RegistryEntry(name, incarnation, self.version, payload)
        self._entries[name] = entry
        if payload is not None:
            self._digest.toggle(name, incarnation, entry.version)
        return entry

    def advance(self, version: int) -> None:
        """A peer knows `version` of this epoch and this log does not: continue above it, and owe everyone a snapshot."""
        if version >= self.version:
            self.version = version + 1
            self._floor = self.version

    def needs_snapshot(self, after: int) -> bool:
        """Whether a peer at version `after` of this epoch cannot be served by a delta."""
        return after < self._floor

    def delta(self, after: int, max_count: int, max_bytes: int) -> RegistryDelta:
        """Changes after version `after`, oldest first, as many as fit and at least one if there is any."""
        newer: list[RegistryEntry] = []
        for entry in reversed(self._entries.values()):
            if entry.version <= after:
                break
            newer.append(entry)
        newer.reverse()
        return self._cut(newer, max_count, max_bytes, snapshot=False)

    def snapshot(self, max_count: int, max_bytes: int) -> RegistryDelta:
        """The oldest live entries as a snapshot; what did not fit follows as deltas after its version."""
        return self._cut(list(self.entries()), max_count, max_bytes, snapshot=True)

    def _cut(self, entries: list[RegistryEntry], max_count: int, max_bytes: int, *, snapshot: bool) -> RegistryDelta:
        taken = _fitting(entries, max_count, max_bytes)
        version = self.version if len(taken) == len(entries) else taken[-1].version
        return RegistryDelta(self.epoch, version, tuple(taken), snapshot=snapshot)

    def bucket_delta(self, buckets: tuple[int, ...], version: int, max_count: int, max_bytes: int) -> RegistryDelta:
        """The whole content of the first of `buckets`, and of more as far as they fit; stands at the peer's `version`."""
        wanted: dict[int, list[RegistryEntry]] = {bucket: [] for bucket in buckets}
        for entry in self.entries():
            content = wanted.get(bucket_of(entry.name))
            if content is not None:
                content.append(entry)
        complete: list[int] = []
        taken: list[RegistryEntry] = []
        for bucket, content in wanted.items():
            if complete and len(_fitting(taken + content, max_count, max_bytes)) < len(taken) + len(content):
                break
            complete.append(bucket)
            taken += content
        return RegistryDelta(self.epoch, version, tuple(taken), complete_buckets=tuple(complete))

    def acked(self, version: int) -> None:
        """The peer committed everything up to `version`: tombstones up to there may go."""
        gone = [entry for entry in self._tombstones() if entry.version <= version]
        for entry in gone:
            del self._entries[entry.name]
            self._floor = max(self._floor, entry.version)

    def _tombstones(self) -> Iterator[RegistryEntry]:
        return (entry for entry in self._entries.values() if entry.payload is None)

    def digest(self, *, with_buckets: bool = False) -> RegistryDigest:
        """The summary as of now."""
        return RegistryDigest(
            self.epoch, self.version, self._digest.root(), self._digest.buckets() if with_buckets else b""
        )


@dataclass(frozen=True, slots=True)
class RegistryChanges:
    """What applying a delta does to a replica: entries to store, names to drop, and where the replica then stands."""

    epoch: str
    version: int
    upserts: tuple[RegistryEntry, ...]
    removals: tuple[str, ...]


class RegistryReplica:
    """The parent's picture of one node's registry: names with incarnation and version. Payloads are the store's matter."""

    def __init__(self, epoch: str = "", version: int = 0, entries: Iterable[RegistryEntry] = ()) -> None:
        self.epoch = epoch
        self.version = version
        self._known: dict[str, tuple[int, int]] = {}
        self._digest = BucketDigest()
        for entry in entries:
            self._set(entry)

    def __len__(self) -> int:
        return len(self._known)

    def records(self) -> dict[str, tuple[int, int]]:
        """(incarnation, version) by name."""
        return dict(self._known)

    def plan(self, delta: RegistryDelta) -> RegistryChanges:
        """What `delta` changes here; nothing is changed yet. Outdated deltas change nothing.

        Raises FailedPrecondition (REGISTRY_EPOCH) for another epoch without a snapshot.
        """
        if delta.epoch != self.epoch and not delta.snapshot:
            raise FailedPrecondition(
                "REGISTRY_EPOCH",
                f"registry delta of epoch {delta.epoch!r}, the replica has {self.epoch!r}",
                hint="send a snapshot first",
            )
        if delta.snapshot:
            return self._plan_snapshot(delta)
        if delta.complete_buckets:
            return self._plan_buckets(delta)
        upserts: list[RegistryEntry] = []
        removals: list[str] = []
        for entry in delta.entries:
            known = self._known.get(entry.name)
            if entry.version <= self.version or known == (entry.incarnation, entry.version):
                continue
            if entry.payload is not None:
                upserts.append(entry)
            elif known is not None:
                removals.append(entry.name)
        return RegistryChanges(self.epoch, max(self.version, delta.version), tuple(upserts), tuple(removals))

    def _plan_snapshot(self, delta: RegistryDelta) -> RegistryChanges:
        if delta.epoch == self.epoch and delta.version < self.version:
            return RegistryChanges(self.epoch, self.version, (), ())
        return self._replace(delta, set(self._known))

    def _plan_buckets(self, delta: RegistryDelta) -> RegistryChanges:
        if delta.version != self.version:
            return RegistryChanges(self.epoch, self.version, (), ())
        complete = set(delta.complete_buckets)
        return self._replace(delta, {name for name in self._known if bucket_of(name) in complete})

    def _replace(self, delta: RegistryDelta, scope: set[str]) -> RegistryChanges:
        # The same numbers mean the same record within an epoch only: a log that begins anew may count anew.
        known = self._known if delta.epoch == self.epoch else {}
        upserts = tuple(
            entry
            for entry in delta.entries
            if entry.payload is not None and known.get(entry.name) != (entry.incarnation, entry.version)
        )
        named = {entry.name for entry in delta.entries if entry.payload is not None}
        return RegistryChanges(delta.epoch, delta.version, upserts, tuple(sorted(scope - named)))

    def commit(self, changes: RegistryChanges) -> None:
        """Take over what `plan` found, once the store has committed it."""
        for name in changes.removals:
            self._unset(name)
        for entry in changes.upserts:
            self._unset(entry.name)
            self._set(entry)
        self.epoch = changes.epoch
        self.version = changes.version

    def apply(self, delta: RegistryDelta) -> RegistryChanges:
        """`plan` and `commit` in one, for replicas without a store."""
        changes = self.plan(delta)
        self.commit(changes)
        return changes

    def _set(self, entry: RegistryEntry) -> None:
        self._known[entry.name] = (entry.incarnation, entry.version)
        self._digest.toggle(entry.name, entry.incarnation, entry.version)

    def _unset(self, name: str) -> None:
        known = self._known.pop(name, None)
        if known is not None:
            self._digest.toggle(name, *known)

    def digest(self, *, with_buckets: bool = False) -> RegistryDigest:
        """The summary as of now."""
        return RegistryDigest(
            self.epoch, self.version, self._digest.root(), self._digest.buckets() if with_buckets else b""
        )

    def differing(self, buckets: bytes) -> tuple[int, ...]:
        """Numbers of the buckets that differ from the owner's bucket hashes."""
        return self._digest.differing(buckets)


def _fitting(entries: list[RegistryEntry], max_count: int, max_bytes: int) -> list[RegistryEntry]:
    """The longest prefix within the bounds, at least one entry."""
    size = 0
    for index, entry in enumerate(entries[:max_count]):
        size += len(entry.payload or b"") + len(entry.name) + 32
        if size > max_bytes and index:
            return entries[:index]
    return entries[:max_count]


def _outdated(name: str, incarnation: int, known: RegistryEntry) -> Aborted:
    state = "was removed at" if known.payload is None else "is held by"
    return Aborted(
        "INCARNATION_OUTDATED",
        f"{name} {state} incarnation {known.incarnation}; this is {incarnation}",
        hint="register with a higher incarnation",
        name=name,
        incarnation=known.incarnation,
    )
