"""Commands about blobs that edge and hub answer alike, as both serve BlobService."""

from __future__ import annotations

import asyncio
import hashlib
import sys
import time
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any, TypeVar

import click

from edgenode.api.blob.v1 import blob_pb2, blob_service_pb2, blob_service_pb2_grpc
from edgenode.link.blobs.saving import compare, save_to
from edgenode.link.errors import DeadlineExceeded
from edgenode.link.gil import on_thread
from edgenode.link.model.blob import PREFIX, check_digest
from edgenode.link.terminal.failures import Exit, ExitCode
from edgenode.link.terminal.options import SECONDS
from edgenode.link.terminal.output import col, emit, human_bytes, human_seconds, table
from edgenode.link.terminal.plain import plain
from edgenode.link.terminal.rpc import ask, channel_to
from edgenode.link.wire.blobs import ref_from_pb

F = TypeVar("F", bound=Callable[..., Any])

_PAGE = 1000


def get_options(command: F) -> F:
    """DIGEST, where to, and how long to wait."""
    for option in (
        click.option("--timeout", type=SECONDS, default=30.0, show_default="30s", help="Longest wait for it."),
        click.argument("to", metavar="FILE|DIR|-", default="-"),
        click.argument("digest"),
    ):
        command = option(command)
    return command


def typed_digest(given: str) -> str:
    """A digest as it is typed: with or without `sha256:`. Raises InvalidArgument (BAD_DIGEST)."""
    return check_digest(given if given.startswith(PREFIX) else PREFIX + given)


async def show_blobs(target: str, output: str) -> None:
    """Print all blobs."""
    found: list[blob_pb2.Blob] = []
    async with channel_to(target) as channel:
        stub = blob_service_pb2_grpc.BlobServiceStub(channel)
        request = blob_service_pb2.ListBlobsRequest(page_size=_PAGE)
        while True:
            page = await ask(stub.ListBlobs, request)
            found += page.blobs
            if not page.next_page_token:
                break
            request.page_token = page.next_page_token

    def text() -> str:
        columns = [
            col("digest"), col("size", form=human_bytes, right=True), col("state"), col("tasks", right=True),
            col("age", form=human_seconds, right=True), col("from"), col("type"), col("name"),
        ]  # fmt: skip
        taken = f"{human_bytes(page.used_bytes)} of {human_bytes(page.limit_bytes)} taken"
        return f"{table(map(_row, found), columns, 'no blobs')}\n{taken}"

    shown = [plain(item) for item in found]
    emit(output, {"blobs": shown, "used_bytes": page.used_bytes, "limit_bytes": page.limit_bytes}, text)


def _row(item: blob_pb2.Blob) -> dict[str, Any]:
    return {
        "digest": item.ref.digest,
        "size": item.ref.size,
        "state": blob_pb2.BlobState.Name(item.state).removeprefix("BLOB_STATE_").lower(),
        "tasks": item.task_count,
        "age": max(time.time() - item.put_time.seconds, 0.0),
        "from": item.peer,
        "type": item.ref.media_type,
        "name": item.ref.name,
    }


async def save_blob(target: str, output: str, digest: str, to: str, timeout: float) -> None:
    """Write a blob to a file, into a directory, or to standard output (`-`). Ends with exit code 6 when the time is over."""
    digest = typed_digest(digest)
    try:
        async with asyncio.timeout(timeout), channel_to(target) as channel:
            stub = blob_service_pb2_grpc.BlobServiceStub(channel)
            frames = aiter(stub.GetBlob(blob_service_pb2.GetBlobRequest(digest=digest)))
            ref = ref_from_pb((await anext(frames)).blob.ref)
            path = None if to == "-" else _place(Path(to), ref.file_name)
            if path is None:
                await _print(_data(frames), digest)
            else:
                await save_to(_data(frames), digest, path)
    except TimeoutError:
        problem = DeadlineExceeded(
            "WAIT_OVER",
            f"{digest} did not come within {timeout:g} s",
            hint="it may be on its way from another node: ask again",
        ).problem
        raise Exit(ExitCode.PENDING, problem) from None
    if path is not None:
        emit(output, {"digest": digest, "path": str(path)}, lambda: str(path))


def _place(to: Path, name: str) -> Path:
    return to / name if to.is_dir() else to


async def _data(frames: AsyncIterator[blob_service_pb2.GetBlobResponse]) -> AsyncIterator[bytes]:
    async for frame in frames:
        yield frame.data


async def _print(pieces: AsyncIterator[bytes], digest: str) -> None:
    """Write what comes to standard output. Raises DataLoss (BLOB_DAMAGED)."""
    seen = hashlib.sha256()
    async for piece in pieces:
        seen.update(piece)
        await on_thread(sys.stdout.buffer.write, piece)
    await on_thread(sys.stdout.buffer.flush)
    compare(digest, PREFIX + seen.hexdigest())


async def remove_blob(target: str, output: str, digest: str) -> None:
    """Remove a blob, and say so."""
    digest = typed_digest(digest)
    async with channel_to(target) as channel:
        stub = blob_service_pb2_grpc.BlobServiceStub(channel)
        await ask(stub.RemoveBlob, blob_service_pb2.RemoveBlobRequest(digest=digest))
    emit(output, {"digest": digest}, lambda: f"removed {digest}")
