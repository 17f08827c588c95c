"""What the authority and the enrollment service say about nodes, and what they need of a store."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Protocol

# A certificate's serial number is its generation followed by this many random bits: the number alone says which is newer,
# also to a hub whose records are older than the certificate (restored from a backup).
SERIAL_RANDOM_BITS = 64


@dataclass(frozen=True, slots=True)
class IssuedCertificate:
    """An edge's certificate. `certificate` is DER; times are wall clock, seconds.

    `retired` says that the edge-ca which signed it is out of use.
    """

    node: str
    serial: int
    certificate: bytes
    public_key_hash: bytes  # SHA-256 of the SubjectPublicKeyInfo
    not_before: float
    expire_time: float
    retired: bool = False

    @property
    def generation(self) -> int:
        """Counts the certificates of the node, from 1."""
        return self.serial >> SERIAL_RANDOM_BITS


@dataclass(frozen=True, slots=True)
class NodeRecord:
    """A node that joined. `pending` was issued by a renewal and not used yet; until it is, `current` stays good.

    `quarantine_time` (wall clock, seconds) is when two processes were found to use the identity; None if that is not so.
    """

    node: str
    joined_time: float
    revoked: bool
    current: IssuedCertificate
    pending: IssuedCertificate | None = None
    quarantine_time: float | None = None

    @property
    def generation(self) -> int:
        """The newest generation that was issued."""
        return self.current.generation if self.pending is None else self.pending.generation


@dataclass(frozen=True, slots=True)
class TokenRecord:
    """A join token as the hub keeps it. Times are wall clock, seconds."""

    token_id: str
    node: str
    secret_hash: bytes  # SHA-256
    create_time: float
    expire_time: float
    rejoin: bool = False  # may replace a node that joined before
    claimed: IssuedCertificate | None = None


Issue = Callable[[str, int], IssuedCertificate]
"""Signs a certificate for (node, generation). Called inside a transaction, perhaps more than once: must have no effect."""


class EnrollmentStore(Protocol):
    """Join tokens and node identities. Every change is durable when its call returns."""

    async def create_token(self, token: TokenRecord) -> None:
        """Keep a token. Raises AlreadyExists (NODE_EXISTS) when its node has joined, unless `token.rejoin`."""
        ...

    async def claim_token(
        self, token_id: str, secret_hash: bytes, public_key_hash: bytes, now: float, issue: Issue
    ) -> IssuedCertificate:
        """Trade a token for a certificate, in one transaction. The same key gets the same certificate until the token expires.

        Raises Unauthenticated (UNKNOWN_TOKEN, WRONG_SECRET, TOKEN_EXPIRED), PermissionDenied (TOKEN_USED),
        AlreadyExists (NODE_EXISTS).
        """
        ...

    async def renew(
        self, presented: IssuedCertificate, public_key_hash: bytes, now: float, issue: Issue
    ) -> IssuedCertificate:
        """Trade a certificate for the next; the same key gets the same one until it is used.

        Raises PermissionDenied (REVOKED, STALE_GENERATION, CLONED_IDENTITY), InvalidArgument (BAD_CSR) for a key that is
        not new.
        """
        ...

    async def admit(self, presented: IssuedCertificate, now: float) -> NodeRecord:
        """A node uses a certificate: note it, retire the one before.

        Raises PermissionDenied (REVOKED, STALE_GENERATION, CLONED_IDENTITY).
        """
        ...

    async def node(self, name: str) -> NodeRecord | None:
        """A node's record."""
        ...

    async def nodes(self, after: str, max_count: int) -> Sequence[NodeRecord]:
        """Records by name, those after `after`."""
        ...

    async def revoke(self, name: str) -> NodeRecord:
        """Refuse a node from now on, until it joins again. Raises NotFound (UNKNOWN_NODE)."""
        ...

    async def quarantine(self, name: str, now: float) -> None:
        """Refuse a node from now on, until it joins again or is released. Raises NotFound (UNKNOWN_NODE)."""
        ...

    async def release(self, name: str) -> bool:
        """End a node's quarantine; whether there was one. Raises NotFound (UNKNOWN_NODE)."""
        ...
