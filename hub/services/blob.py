"""BlobService on the hub: what the fleet's tasks refer to can be looked at and read; it comes by the links alone."""

from __future__ import annotations

from edgenode.api.blob.v1 import blob_service_pb2
from edgenode.link.blobs.service import BlobService
from edgenode.link.errors import FailedPrecondition
from edgenode.link.wire.status import Context

BLOBS_AT_HUB = "BLOBS_AT_HUB"


class HubBlobService(BlobService):
    """See the contract."""

    async def PutBlob(self, request_iterator: object, context: Context) -> blob_service_pb2.PutBlobResponse:
        """Refused: FailedPrecondition (BLOBS_AT_HUB)."""
        raise FailedPrecondition(
            BLOBS_AT_HUB, "a hub takes no content from its own callers", hint="put it to an edge, and submit it there"
        )
