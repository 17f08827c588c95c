"""Content too large for a payload: put to the node, got from it, and referred to in inputs and results.

What is known beforehand is put under its digest: if it is there already nothing is sent, and after a broken connection or a
restart of the node the transfer goes on where it was. What is got is compared with its digest before anybody gets to see it
as a file.
"""

from __future__ import annotations

import hashlib
import io
import mimetypes
import os
from collections.abc import AsyncIterable, AsyncIterator, Callable
from pathlib import Path
from typing import BinaryIO

import grpc
import msgspec

from edgenode.api.blob.v1 import blob_pb2, blob_service_pb2, blob_service_pb2_grpc
from edgenode.link.blobs.saving import compare, save_to
from edgenode.link.errors import EdgenodeError, InvalidArgument, NotFound
from edgenode.link.gil import on_thread
from edgenode.link.model.blob import PIECE_BYTES, PREFIX, BlobRef
from edgenode.link.wire.blobs import ref_from_pb
from edgenode.link.wire.status import from_rpc_error
from edgenode.sdk.rpc import ANSWER_TIMEOUT, AWAY, Attempts, Patience

MARK = b'"' + PREFIX.encode()
_MEMBERS = frozenset({"digest", "size", "media_type", "name"})

Source = bytes | str | os.PathLike[str] | BinaryIO | AsyncIterable[bytes]


def refs_in(data: bytes) -> list[BlobRef]:
    """What JSON text refers to: every object in it that is a BlobRef. Text that is no JSON refers to nothing."""
    try:
        waiting = [msgspec.json.decode(data)]
    except msgspec.DecodeError:
        return []
    found: dict[str, BlobRef] = {}
    while waiting:
        value = waiting.pop()
        if isinstance(value, list):
            waiting += value
        elif isinstance(value, dict):
            if value.keys() == _MEMBERS:
                try:
                    ref = msgspec.convert(value, BlobRef)
                except (msgspec.ValidationError, InvalidArgument):
                    continue
                found.setdefault(ref.digest, ref)
            else:
                waiting += value.values()
    return list(found.values())


class BlobTransfer:
    """Puts and gets over a channel; tries again for as long as `patience` has it."""

    def __init__(self, channel: grpc.aio.Channel, patience: Patience) -> None:
        self._stub = blob_service_pb2_grpc.BlobServiceStub(channel)
        self._patience = patience

    async def put(self, source: Source, media_type: str, name: str) -> BlobRef:
        """See Client.put."""
        if isinstance(source, str | os.PathLike):
            path = Path(source)
            name = name or path.name
            media_type = media_type or mimetypes.guess_type(path.name)[0] or ""
            with await on_thread(path.open, "rb") as file:
                return await self._put_known(file, media_type, name)
        if isinstance(source, bytes | bytearray | memoryview):
            return await self._put_known(io.BytesIO(source), media_type, name)
        pieces = source if isinstance(source, AsyncIterable) else _pieces_of(source)
        header = blob_service_pb2.PutBlobHeader(media_type=media_type, name=name)
        return _named(await self._send(header, pieces), media_type, name)

    async def _put_known(self, file: BinaryIO, media_type: str, name: str) -> BlobRef:
        digest, size = await on_thread(_digest_of, file)
        ref = BlobRef(digest, size, media_type, name)
        attempts = Attempts(self._patience)
        while True:
            try:
                there = await self._stand(digest)  # also of what is there whole the node is to say that it was put
                offset = min(there.stored_bytes, size) if there is not None else 0
                header = blob_service_pb2.PutBlobHeader(
                    digest=digest, size=size, media_type=media_type, name=name, offset=offset
                )
                file.seek(offset)
                await self._send(header, _pieces_of(file))
                return ref
            except EdgenodeError as error:
                if error.reason not in AWAY and error.reason != "BLOB_OFFSET":
                    raise
                await attempts.wait(error)

    async def _stand(self, digest: str) -> blob_pb2.Blob | None:
        request = blob_service_pb2.StatBlobRequest(digest=digest)
        try:
            answer = await self._patience.unary(self._stub.StatBlob, request, ANSWER_TIMEOUT)
        except NotFound:
            return None
        blob: blob_pb2.Blob = answer.blob
        return blob

    async def _send(self, header: blob_service_pb2.PutBlobHeader, pieces: AsyncIterable[bytes]) -> BlobRef:
        async def frames() -> AsyncIterator[blob_service_pb2.PutBlobRequest]:
            yield blob_service_pb2.PutBlobRequest(header=header)
            async for piece in pieces:
                for first in range(0, len(piece), PIECE_BYTES):
                    yield blob_service_pb2.PutBlobRequest(data=piece[first : first + PIECE_BYTES])

        try:
            answer = await self._stub.PutBlob(frames())
        except grpc.aio.AioRpcError as error:
            raise from_rpc_error(error) from error
        return ref_from_pb(answer.ref)

    async def read(self, ref: BlobRef, offset: int = 0) -> AsyncIterator[bytes]:
        """The content from `offset` on, in pieces, over restarts of the node."""
        attempts = Attempts(self._patience)
        while True:
            call = self._stub.GetBlob(blob_service_pb2.GetBlobRequest(digest=ref.digest, offset=offset))
            try:
                async for frame in call:
                    if frame.data:
                        attempts.begin()
                        offset += len(frame.data)
                        yield frame.data
                return
            except grpc.aio.AioRpcError as rpc_error:
                error = from_rpc_error(rpc_error)
                if error.reason not in AWAY:
                    raise error from rpc_error
            finally:
                call.cancel()
            await attempts.wait(error)

    async def fetch(self, ref: BlobRef) -> bytes:
        """The whole content in memory. Raises DataLoss (BLOB_DAMAGED)."""
        content = b"".join([piece async for piece in self.read(ref)])
        compare(ref.digest, PREFIX + hashlib.sha256(content).hexdigest())
        return content

    async def fetch_to(self, ref: BlobRef, target: Path) -> Path:
        """The whole content as the file `target`, or one in that directory; nothing is there before it is whole."""
        if target.is_dir():
            target /= ref.file_name
        await save_to(self.read(ref), ref.digest, target)
        return target


def _digest_of(file: BinaryIO) -> tuple[str, int]:
    digest = hashlib.sha256()
    size = 0
    while piece := file.read(PIECE_BYTES):
        digest.update(piece)
        size += len(piece)
    return PREFIX + digest.hexdigest(), size


async def _pieces_of(file: BinaryIO) -> AsyncIterator[bytes]:
    read: Callable[[int], bytes] = file.read
    while piece := await on_thread(read, PIECE_BYTES):
        yield piece


def _named(ref: BlobRef, media_type: str, name: str) -> BlobRef:
    """The same content under the name it was just put by: the node keeps the first."""
    return BlobRef(ref.digest, ref.size, media_type, name)
