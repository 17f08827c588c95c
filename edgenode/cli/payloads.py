"""Inputs and payloads as they are typed: text, `@FILE`, or `-` for standard input."""

from __future__ import annotations

import asyncio
import concurrent.futures
import contextlib
import json
import sys
import threading
from collections.abc import AsyncIterator
from pathlib import Path
from typing import BinaryIO

import click

JSON_TYPE = "application/json"

_CHUNK_BYTES = 64 * 1024


def read_bytes(given: str) -> bytes:
    """The bytes that were meant. A file that cannot be read is a usage error."""
    if given == "-":
        return sys.stdin.buffer.read()
    if given.startswith("@"):
        try:
            return Path(given[1:]).read_bytes()
        except OSError as error:
            raise click.UsageError(f"cannot read {given[1:]}: {error.strerror}") from error
    return given.encode()


def typed_payload(data: bytes, text: bool, content_type: str) -> tuple[bytes, str]:
    """(bytes, media type): JSON unless told otherwise; `text` makes a JSON string; a `content_type` passes them on."""
    if content_type and content_type != JSON_TYPE:
        return data, content_type
    if text:
        try:
            return json.dumps(data.decode(), ensure_ascii=False).encode(), JSON_TYPE
        except UnicodeDecodeError as error:
            raise click.UsageError("not UTF-8 text; --content-type TYPE sends bytes as they are") from error
    try:
        json.loads(data)
    except ValueError as error:
        raise click.UsageError(
            f"not JSON ({error}); --text sends it as a JSON string, --content-type TYPE as it is"
        ) from error
    return data, JSON_TYPE


async def line_chunks(stream: BinaryIO) -> AsyncIterator[list[bytes]]:
    """Lines of `stream` without their ends, as many at a time as have arrived; empty ones are passed over.

    A thread of our own reads, and is abandoned when the caller stops: one of the loop's pool would have to be waited for,
    and a terminal may never send another line.
    """
    loop = asyncio.get_running_loop()
    chunks: asyncio.Queue[bytes] = asyncio.Queue(maxsize=4)

    def read() -> None:
        # The loop is gone: nobody wants the rest.
        with contextlib.suppress(RuntimeError, concurrent.futures.CancelledError):
            while True:
                chunk = stream.read1(_CHUNK_BYTES)  # type: ignore[attr-defined]
                asyncio.run_coroutine_threadsafe(chunks.put(chunk), loop).result()
                if not chunk:
                    return

    threading.Thread(target=read, name="standard-input", daemon=True).start()
    rest = b""
    while chunk := await chunks.get():
        *lines, rest = (rest + chunk).split(b"\n")
        if found := [line.rstrip(b"\r") for line in lines if line.strip()]:
            yield found
    if rest.strip():
        yield [rest]
