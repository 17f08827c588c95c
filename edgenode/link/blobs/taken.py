"""What blobs count as: all of them together, and those that each peer brought."""

from __future__ import annotations

from collections import Counter

from edgenode.link.errors import ResourceExhausted
from edgenode.link.store.budget import RETRY_SECONDS, STORE_FULL

BLOB_SHARE_FULL = "BLOB_SHARE_FULL"
BLOB_TOO_LARGE = "BLOB_TOO_LARGE"


class Taken:
    """Bytes. `peer_share`: of all that there may be, what may be of one peer; what was put here is nobody's."""

    def __init__(self, peer_share: float) -> None:
        self.all = 0
        self._share = peer_share
        self._of: Counter[str] = Counter()

    def add(self, size: int, peer: str) -> None:
        """So many more, or less, of a peer; empty for what was put here."""
        self.all += size
        if peer:
            self._of[peer] += size
            if not self._of[peer]:
                del self._of[peer]

    def check(self, more: int, total: int, peer: str, limit: int) -> None:
        """Whether `more` bytes fit, of a blob that has `total` then. Raises ResourceExhausted (STORE_FULL, BLOB_SHARE_FULL,
        BLOB_TOO_LARGE).
        """
        if more <= 0:
            return
        share = int(limit * self._share)
        if peer and total > share:
            raise too_large(total, share, "raise blob_bytes or blob_edge_share", "what one neighbour may have")
        if self.all + more > limit:
            raise ResourceExhausted(
                STORE_FULL,
                f"blobs take {self.all} of the {limit} bytes they may have, {more} more do not fit",
                hint="remove some (edgenode blob list), raise blob_bytes, or free space on the disk",
                retry_after=RETRY_SECONDS,
                limit_bytes=limit,
            )
        if peer and self._of[peer] + more > share:
            raise ResourceExhausted(
                BLOB_SHARE_FULL,
                f"blobs from {peer} take {self._of[peer]} of the {share} bytes that one neighbour may have here,"
                f" {more} more do not fit",
                hint="they go once their tasks are forgotten (edgehub blob list); or raise blob_bytes or blob_edge_share",
                retry_after=RETRY_SECONDS,
                limit_bytes=share,
            )


def too_large(size: int, limit: int, hint: str, why: str = "one blob may have") -> ResourceExhausted:
    """The error of a blob that has `size` bytes or more."""
    return ResourceExhausted(
        BLOB_TOO_LARGE,
        f"the content has {size} bytes or more, {why} {limit}",
        hint=f"split it, or {hint}",
        retryable=False,
        limit=limit,
    )
