"""`edgenode blob put | get | list | remove`."""

from __future__ import annotations

import asyncio
import sys
import time
from pathlib import Path
from typing import Any

import click

from edgenode.api.blob.v1 import blob_pb2, blob_service_pb2, blob_service_pb2_grpc
from edgenode.cli.place import node_client, node_target
from edgenode.cli.state import state_option
from edgenode.link.errors import DeadlineExceeded
from edgenode.link.model.blob import PREFIX, BlobRef, check_digest
from edgenode.link.terminal.failures import Exit, ExitCode
from edgenode.link.terminal.lazy import DefaultGroup
from edgenode.link.terminal.options import SECONDS, output_option
from edgenode.link.terminal.output import col, emit, human_bytes, human_seconds, table
from edgenode.link.terminal.plain import plain
from edgenode.link.terminal.rpc import ask, channel_to, run

_PAGE = 1000


@click.group(cls=DefaultGroup)
def blob() -> None:
    """Content too large for a payload, by its digest. Without a word: list."""


@blob.command()
@click.argument("file", metavar="FILE|-")
@click.option("--name", default="", help="What to call it; the file's name when not given.")
@click.option("--media-type", default="", help="Its media type; guessed from the file's name when not given.")
@output_option
@state_option
def put(state: Path, output: str, file: str, name: str, media_type: str) -> None:
    """Store the content of FILE, or of standard input, and print its reference."""

    async def work() -> BlobRef:
        async with node_client(state) as client:
            source = sys.stdin.buffer if file == "-" else Path(file)
            return await client.put(source, name=name, media_type=media_type)

    if file != "-" and not Path(file).is_file():
        raise click.UsageError(f"{file} is no file")
    ref = run(work())
    facts = {"digest": ref.digest, "size": ref.size, "media_type": ref.media_type, "name": ref.name}
    emit(output, facts, lambda: f"{ref.digest}  {human_bytes(ref.size)}")


@blob.command()
@click.argument("digest")
@click.argument("to", metavar="FILE|DIR|-", default="-")
@click.option("--timeout", type=SECONDS, default=30.0, show_default="30s", help="Longest wait for it.")
@output_option
@state_option
def get(state: Path, output: str, digest: str, to: str, timeout: float) -> None:
    """Write the content of DIGEST to FILE, into DIR, or to standard output.

    What is on its way from another node is waited for; exit code 6 when the time is over.
    """
    digest = _digest(digest)

    async def work() -> Path | None:
        async with channel_to(node_target(state)) as channel:
            stub = blob_service_pb2_grpc.BlobServiceStub(channel)
            answer = await ask(stub.StatBlob, blob_service_pb2.StatBlobRequest(digest=digest))
        ref = BlobRef(digest, answer.blob.ref.size, answer.blob.ref.media_type, answer.blob.ref.name)
        async with node_client(state) as client:
            if to != "-":
                return await client.fetch(ref, to)
            async for piece in client.read(ref):
                sys.stdout.buffer.write(piece)
        sys.stdout.buffer.flush()
        return None

    async def in_time() -> Path | None:
        try:
            async with asyncio.timeout(timeout):
                return await work()
        except TimeoutError:
            cause = f"{digest} did not come within {timeout:g} s"
            hint = "it may be on its way from another node: ask again"
            raise Exit(ExitCode.PENDING, DeadlineExceeded("WAIT_OVER", cause, hint=hint).problem) from None

    path = run(in_time())
    if path is not None:
        emit(output, {"digest": digest, "path": str(path)}, lambda: str(path))


@blob.command("list")
@output_option
@state_option
def list_(state: Path, output: str) -> None:
    """Blobs of this node, by digest, and how much room they take."""

    async def work() -> tuple[list[blob_pb2.Blob], int, int]:
        async with channel_to(node_target(state)) as channel:
            stub = blob_service_pb2_grpc.BlobServiceStub(channel)
            found: list[blob_pb2.Blob] = []
            request = blob_service_pb2.ListBlobsRequest(page_size=_PAGE)
            while True:
                page = await ask(stub.ListBlobs, request)
                found += page.blobs
                if not page.next_page_token:
                    return found, page.used_bytes, page.limit_bytes
                request.page_token = page.next_page_token

    found, used, limit = run(work())
    rows = [_row(item) for item in found]

    def text() -> str:
        columns = [
            col("digest"), col("size", form=human_bytes, right=True), col("state"), col("tasks", right=True),
            col("age", form=human_seconds, right=True), col("type"), col("name"),
        ]  # fmt: skip
        return f"{table(rows, columns, 'no blobs')}\n{human_bytes(used)} of {human_bytes(limit)} taken"

    emit(output, {"blobs": [plain(item) for item in found], "used_bytes": used, "limit_bytes": limit}, text)


def _row(item: blob_pb2.Blob) -> dict[str, Any]:
    return {
        "digest": item.ref.digest,
        "size": item.ref.size,
        "state": blob_pb2.BlobState.Name(item.state).removeprefix("BLOB_STATE_").lower(),
        "tasks": item.task_count,
        "age": max(time.time() - item.put_time.seconds, 0.0),
        "type": item.ref.media_type,
        "name": item.ref.name,
    }


@blob.command()
@click.argument("digest")
@output_option
@state_option
def remove(state: Path, output: str, digest: str) -> None:
    """Remove a blob that no task refers to."""
    digest = _digest(digest)

    async def work() -> None:
        async with channel_to(node_target(state)) as channel:
            stub = blob_service_pb2_grpc.BlobServiceStub(channel)
            await ask(stub.RemoveBlob, blob_service_pb2.RemoveBlobRequest(digest=digest))

    run(work())
    emit(output, {"digest": digest}, lambda: f"removed {digest}")


def _digest(given: str) -> str:
    """As it is typed: with or without `sha256:`."""
    return check_digest(given if given.startswith(PREFIX) else PREFIX + given)
