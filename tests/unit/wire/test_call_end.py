"""A link whose other side refuses it while it is written to: whoever reads and whoever writes hear the refusal."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import grpc

from edgenode.api.sync.v1 import sync_pb2, sync_service_pb2_grpc
from edgenode.link.errors import EdgenodeError, PermissionDenied
from edgenode.link.wire.status import abort
from edgenode.link.wire.streams import DialedStream

LARGE = sync_pb2.Frame(batch=sync_pb2.Batch(segments=[sync_pb2.Segment(payload=bytes(500_000))])).SerializeToString()


class Refusing(sync_service_pb2_grpc.SyncServiceServicer):
    async def Sync(self, request_iterator: Any, context: Any) -> AsyncIterator[Any]:
        await anext(request_iterator)
        await abort(context, PermissionDenied("CHILD_UNKNOWN", "no"))
        yield


async def ended(action: Any) -> EdgenodeError:
    """Repeats an action until the stream is over; what it raises then."""
    while True:
        try:
            await action()
        except EdgenodeError as error:
            return error


async def test_a_refusal_is_told_to_who_reads_and_who_writes(tmp_path: Path) -> None:
    server = grpc.aio.server()
    sync_service_pb2_grpc.add_SyncServiceServicer_to_server(Refusing(), server)
    server.add_insecure_port(f"unix:{tmp_path}/s")
    await server.start()
    try:
        async with grpc.aio.insecure_channel(f"unix:{tmp_path}/s") as channel:
            stream = DialedStream(channel)
            told = await asyncio.gather(ended(lambda: stream.write([LARGE])), ended(stream.read))
            stream.cancel()
    finally:
        await server.stop(None)
    assert [error.reason for error in told] == ["CHILD_UNKNOWN"] * 2
