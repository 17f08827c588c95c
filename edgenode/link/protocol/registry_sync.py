"""How a registry travels over one session: deltas one at a time, a digest now and then, repairs where it differs.

At most one delta is under way, so all that changes meanwhile goes with the next one. The digest is sent only when the
peer has acknowledged everything, at the beginning of the session and then at intervals, and says for which version it
holds; the accepting side answers only if it stands at that version and the roots differ, first asking for the bucket
hashes, then for the buckets.
"""

from __future__ import annotations

from edgenode.link.errors import FailedPrecondition
from edgenode.link.model.frames import RegistryAck, RegistryDelta, RegistryDigest, RegistryDigestRequest
from edgenode.link.protocol.lanes import protocol_error
from edgenode.link.protocol.registry import BUCKETS, RegistryChanges, RegistryLog, RegistryReplica


class RegistrySource:
    """The dialing side's part in one session."""

    def __init__(
        self,
        log: RegistryLog,
        peer_epoch: str,
        peer_version: int,
        now: float,
        *,
        max_count: int,
        max_bytes: int,
        digest_interval: float,
    ) -> None:
        """The peer's epoch and version as its Welcome says; bounds of one delta; seconds between digests."""
        self._log = log
        self._max_count = max_count
        self._max_bytes = max_bytes
        self._digest_interval = digest_interval
        self._digest_due = now  # the first one as soon as the peer has everything
        self._cursor = peer_version
        self._in_flight: RegistryDelta | None = None
        self._in_flight_since = now
        self._repairs: tuple[int, ...] = ()
        self._buckets_wanted = False
        self._snapshot_wanted = peer_epoch != log.epoch
        if peer_epoch == log.epoch:
            if peer_version > log.version:
                log.advance(peer_version)
            self._snapshot_wanted = log.needs_snapshot(peer_version)
        if not self._snapshot_wanted:
            log.acked(peer_version)

    @property
    def synced(self) -> bool:
        """Whether the peer has acknowledged all there is."""
        return self._in_flight is None and not self._snapshot_wanted and self._cursor >= self._log.version

    def next_frame(self, now: float) -> RegistryDelta | RegistryDigest | None:
        """What to send now, if anything."""
        if self._in_flight is not None:
            return None
        if not self.synced:
            return self._begin(self._next_delta(), now)
        if self._repairs:
            return self._begin(
                self._log.bucket_delta(self._repairs, self._cursor, self._max_count, self._max_bytes), now
            )
        if self._buckets_wanted:
            self._buckets_wanted = False
            return self._log.digest(with_buckets=True)
        if now >= self._digest_due:
            self._digest_due = now + self._digest_interval
            return self._log.digest()
        return None

    def _next_delta(self) -> RegistryDelta:
        if self._snapshot_wanted:
            return self._log.snapshot(self._max_count, self._max_bytes)
        return self._log.delta(self._cursor, self._max_count, self._max_bytes)

    def _begin(self, delta: RegistryDelta, now: float) -> RegistryDelta:
        self._in_flight = delta
        self._in_flight_since = now
        return delta

    def acknowledged(self, ack: RegistryAck) -> None:
        """The peer committed. Raises FailedPrecondition (PROTOCOL_ERROR) if it was not asked to."""
        sent = self._in_flight
        if sent is None or ack.epoch != sent.epoch or not sent.version <= ack.version <= self._log.version:
            raise protocol_error(f"acknowledges registry version {ack.version} of {ack.epoch!r}, which was not sent")
        self._in_flight = None
        self._cursor = ack.version
        if sent.snapshot:
            self._snapshot_wanted = False
        done = set(sent.complete_buckets)
        self._repairs = tuple(bucket for bucket in self._repairs if bucket not in done)
        self._log.acked(ack.version)

    def requested(self, request: RegistryDigestRequest) -> None:
        """The peer's digest differs. Raises FailedPrecondition (PROTOCOL_ERROR) for a bucket there is not."""
        if any(not 0 <= bucket < BUCKETS for bucket in request.buckets):
            raise protocol_error(f"asks for digest buckets {request.buckets}")
        if request.buckets:
            self._repairs = tuple(dict.fromkeys(request.buckets))
        else:
            self._buckets_wanted = True

    def next_deadline(self, stall_timeout: float) -> float:
        """When to look again: for the next digest, or to give up on an acknowledgement."""
        return self._digest_due if self._in_flight is None else self._in_flight_since + stall_timeout

    def stalled(self, now: float, stall_timeout: float) -> bool:
        """Whether an acknowledgement is overdue."""
        return self._in_flight is not None and now >= self._in_flight_since + stall_timeout


class RegistrySink:
    """The accepting side's part in one session."""

    def __init__(self, replica: RegistryReplica) -> None:
        self.replica = replica
        self._pending: RegistryChanges | None = None

    def received(self, delta: RegistryDelta) -> RegistryChanges | RegistryAck:
        """What to commit, or the acknowledgement if nothing changes. Raises FailedPrecondition if one is under way."""
        if self._pending is not None:
            raise protocol_error("a registry delta before the last one was acknowledged")
        changes = self.replica.plan(delta)
        if (changes.epoch, changes.version) == (self.replica.epoch, self.replica.version) and not (
            changes.upserts or changes.removals
        ):
            return RegistryAck(changes.epoch, changes.version)
        self._pending = changes
        return changes

    def applied(self, epoch: str, version: int) -> RegistryAck:
        """The changes are committed. Raises FailedPrecondition (SESSION_STATE) if they were not under way."""
        changes = self._pending
        if changes is None or (changes.epoch, changes.version) != (epoch, version):
            raise FailedPrecondition("SESSION_STATE", f"registry version {version} of {epoch!r} is not being applied")
        self._pending = None
        self.replica.commit(changes)
        return RegistryAck(changes.epoch, changes.version)

    def compared(self, digest: RegistryDigest) -> RegistryDigestRequest | None:
        """What to ask for if the owner's digest differs from the replica's; None if not, or if it is of another time."""
        replica = self.replica
        if self._pending is not None or (digest.epoch, digest.version) != (replica.epoch, replica.version):
            return None
        if digest.root == replica.digest().root:
            return None
        if not digest.buckets:
            return RegistryDigestRequest()
        if len(digest.buckets) != BUCKETS * 8:
            raise protocol_error(f"{len(digest.buckets)} bytes of bucket hashes")
        differing = replica.differing(digest.buckets)
        return RegistryDigestRequest(differing) if differing else None
