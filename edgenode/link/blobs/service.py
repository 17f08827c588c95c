"""BlobService, of edges and hubs."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import aclosing

import grpc

from edgenode.api.blob.v1 import blob_pb2, blob_service_pb2, blob_service_pb2_grpc
from edgenode.api.receipt.v1 import receipt_pb2
from edgenode.link.blobs.room import Blobs, Standing
from edgenode.link.errors import InvalidArgument
from edgenode.link.model.blob import PIECE_BYTES, BlobRef, check_digest
from edgenode.link.ports import Clock
from edgenode.link.wire import checks
from edgenode.link.wire.blobs import ref_to_pb
from edgenode.link.wire.status import Context
from edgenode.link.wire.values import timestamp_to_pb

_PAGE = 100
_MAX_PAGE = 1000
_MOST = 1 << 62
_ANY = "sha256:" + "0" * 64


class BlobService(blob_service_pb2_grpc.BlobServiceServicer):
    """See the contract. `node` is this node's name."""

    def __init__(self, blobs: Blobs, node: str, clock: Clock) -> None:
        self._blobs = blobs
        self._node = node
        self._clock = clock

    async def PutBlob(self, request_iterator: object, context: Context) -> blob_service_pb2.PutBlobResponse:
        """See the contract."""
        first = await context.read()
        if first is grpc.aio.EOF or not first.HasField("header"):
            raise InvalidArgument("NO_HEADER", "the first frame has no header", hint="send it first", field="header")
        header = first.header
        size = header.size if header.HasField("size") else None
        BlobRef(header.digest or _ANY, size or 0, header.media_type, header.name)  # checks each of them
        checks.in_range(header.offset, 0, _MOST if header.digest else 0, "header.offset")
        if (again := await self._blobs.put_again(header.digest, size)) is not None:
            return self._answer(again, True)
        writer = await self._blobs.put(digest=header.digest, size=size, offset=header.offset)
        try:
            request = first
            while request is not grpc.aio.EOF:
                if len(request.data) > PIECE_BYTES:
                    checks.fits(len(request.data), PIECE_BYTES, "data")
                if request.data:
                    await writer.write(request.data)
                request = await context.read()
            ref, known = await writer.finish(header.media_type, header.name)
        finally:
            await writer.abandon()
        return self._answer(ref, known)

    def _answer(self, ref: BlobRef, known: bool) -> blob_service_pb2.PutBlobResponse:
        receipt = receipt_pb2.Receipt(
            level=receipt_pb2.RECEIPT_LEVEL_DURABLE_LOCAL,
            node=self._node,
            commit_time=timestamp_to_pb(self._clock.wall()),
        )
        return blob_service_pb2.PutBlobResponse(ref=ref_to_pb(ref), receipt=receipt, known=known)

    async def GetBlob(
        self, request: blob_service_pb2.GetBlobRequest, context: Context
    ) -> AsyncIterator[blob_service_pb2.GetBlobResponse]:
        """See the contract."""
        digest = check_digest(request.digest)
        stored, pieces = await self._blobs.read(digest, request.offset)
        async with aclosing(pieces):
            yield blob_service_pb2.GetBlobResponse(blob=_to_pb(Standing(stored, stored.ref.size, 0, 0), digest))
            async for piece in pieces:
                yield blob_service_pb2.GetBlobResponse(data=piece)

    async def StatBlob(
        self, request: blob_service_pb2.StatBlobRequest, context: Context
    ) -> blob_service_pb2.StatBlobResponse:
        """See the contract."""
        digest = check_digest(request.digest)
        return blob_service_pb2.StatBlobResponse(blob=_to_pb(await self._blobs.stand(digest), digest))

    async def ListBlobs(
        self, request: blob_service_pb2.ListBlobsRequest, context: Context
    ) -> blob_service_pb2.ListBlobsResponse:
        """See the contract."""
        checks.in_range(request.page_size, 0, _MAX_PAGE, "page_size")
        size = request.page_size or _PAGE
        found = await self._blobs.page(request.page_token, size + 1)
        listed = [_to_pb(standing, standing.stored.ref.digest) for standing in found[:size] if standing.stored]
        return blob_service_pb2.ListBlobsResponse(
            blobs=listed,
            next_page_token=listed[-1].ref.digest if len(found) > size else "",
            used_bytes=self._blobs.used_bytes,
            limit_bytes=self._blobs.limit_bytes,
        )

    async def RemoveBlob(
        self, request: blob_service_pb2.RemoveBlobRequest, context: Context
    ) -> blob_service_pb2.RemoveBlobResponse:
        """See the contract."""
        await self._blobs.remove(check_digest(request.digest))
        return blob_service_pb2.RemoveBlobResponse()


def _to_pb(standing: Standing, digest: str) -> blob_pb2.Blob:
    stored = standing.stored
    if stored is None:
        partial = standing.partial_bytes
        state = blob_pb2.BLOB_STATE_PARTIAL if partial else blob_pb2.BLOB_STATE_ELSEWHERE
        return blob_pb2.Blob(
            ref=blob_pb2.BlobRef(digest=digest, size=standing.size),
            state=state,
            stored_bytes=partial,
            task_count=standing.task_count,
        )
    return blob_pb2.Blob(
        ref=ref_to_pb(stored.ref),
        state=blob_pb2.BLOB_STATE_DAMAGED if stored.damaged else blob_pb2.BLOB_STATE_WHOLE,
        stored_bytes=0 if stored.damaged else stored.ref.size,
        task_count=standing.task_count,
        put_time=timestamp_to_pb(stored.put_time),
        peer=stored.peer,
    )
