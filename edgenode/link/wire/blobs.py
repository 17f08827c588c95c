"""References to blobs: messages <-> model."""

from __future__ import annotations

from collections.abc import Iterable

from edgenode.api.blob.v1 import blob_pb2
from edgenode.link.model.blob import MAX_REFERENCES, BlobRef
from edgenode.link.wire import checks


def ref_to_pb(ref: BlobRef) -> blob_pb2.BlobRef:
    """A reference as its message."""
    return blob_pb2.BlobRef(digest=ref.digest, size=ref.size, media_type=ref.media_type, name=ref.name)


def ref_from_pb(message: blob_pb2.BlobRef) -> BlobRef:
    """A reference from its message. Raises InvalidArgument (BAD_BLOB_REF)."""
    return BlobRef(message.digest, message.size, message.media_type, message.name)


def refs_from_pb(messages: Iterable[blob_pb2.BlobRef], field: str) -> tuple[BlobRef, ...]:
    """References from their messages. Raises InvalidArgument (BAD_BLOB_REF, TOO_MANY)."""
    found = tuple(map(ref_from_pb, messages))
    checks.at_most(len(found), MAX_REFERENCES, field)
    return found
