"""Content on its way into a node's blobs."""

from __future__ import annotations

import asyncio
import errno
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn, TypeVar

from edgenode.link.blobs.files import Incoming
from edgenode.link.errors import FailedPrecondition, InvalidArgument, ResourceExhausted, Unavailable
from edgenode.link.gil import on_thread
from edgenode.link.model.blob import BlobRef
from edgenode.link.store.budget import RETRY_SECONDS, STORE_FULL

if TYPE_CHECKING:
    from edgenode.link.blobs.room import Blobs

T = TypeVar("T")


class BlobWriter:
    """`write` it in order, then `finish`; `abandon` in any case at the end, which is safe after both."""

    def __init__(self, room: Blobs, digest: str, size: int | None, name: str, peer: str) -> None:
        self._room = room
        self._digest = digest
        self._expected = size
        self.name = name
        self.peer = peer  # who brings it; empty for what is put here
        self.charged = 0
        self._incoming: Incoming | None = None
        self._work: asyncio.Future[Any] | None = None  # what a thread does for it

    @property
    def size(self) -> int:
        """Bytes written so far."""
        return self._incoming.size if self._incoming is not None else 0

    @property
    def path(self) -> Path:
        """The file."""
        return self._file().path

    def charge(self, size: int) -> None:
        """Count it as `size` bytes at least. Raises as Blobs.charge."""
        if size > self.charged:
            self._room.charge(size - self.charged, size, self.peer)
            self.charged = size

    async def open(self, offset: int) -> None:
        """Open the file behind `offset` bytes. Raises Unavailable (STORE_FAILED), ResourceExhausted (STORE_FULL)."""
        self._incoming = await self._in_thread(lambda: Incoming(self._room.partial(self.name), offset))

    async def write(self, data: bytes) -> None:
        """Add the next bytes.

        Raises ResourceExhausted (BLOB_TOO_LARGE, STORE_FULL), InvalidArgument (BLOB_MISMATCH), Unavailable (STORE_FAILED).
        """
        incoming = self._file()
        total = incoming.size + len(data)
        if self._expected is not None and total > self._expected:
            raise _mismatch(f"there are more than the {self._expected} bytes that were announced")
        self.charge(total)
        await self._in_thread(lambda: incoming.write(data))

    async def finish(self, media_type: str = "", name: str = "") -> tuple[BlobRef, bool]:
        """The content is whole: (what it is called, whether it was here before), once it is durable.

        Raises InvalidArgument (BLOB_MISMATCH), and as `write`.
        """
        incoming = self._file()
        if self._expected is not None and incoming.size != self._expected:
            raise _mismatch(f"{incoming.size} bytes came of {self._expected}")
        digest, checks = await self._in_thread(incoming.sync)
        if self._digest and digest != self._digest:
            self._digest = ""  # what is here of it is not it: nobody can go on with that
            raise _mismatch(f"the content is {digest}")
        self._digest = ""
        incoming.close()
        self._work = placing = self._room.place(self, BlobRef(digest, incoming.size, media_type, name), checks)
        return await asyncio.shield(placing)

    async def abandon(self) -> None:
        """Nothing more comes. What came is kept for whoever goes on with it, if it is known what it is part of."""
        if self._work is not None:
            await asyncio.wait([self._work])
            # Whoever called for it knows, or has gone: then what was opened for it is still to be closed.
            if not self._work.cancelled() and self._work.exception() is None and self._incoming is None:
                self._incoming = self._work.result()
        incoming = self._incoming
        if incoming is None:
            return self._room.left(self, keep=False)
        incoming.close()
        whole_name = self.name == self._digest.partition(":")[2]
        keep = bool(self._digest and incoming.size and not incoming.unsure) and whole_name
        if not keep:
            await on_thread(incoming.path.unlink, True)
        self._room.left(self, keep=keep)

    def _file(self) -> Incoming:
        if self._incoming is None:
            raise FailedPrecondition("NOT_STARTED", "nothing can be written yet", hint="await open() first")
        return self._incoming

    async def _in_thread(self, function: Callable[[], T]) -> T:
        work = self._work = asyncio.ensure_future(on_thread(function))
        try:
            return await asyncio.shield(work)
        except OSError as error:
            raise_storage(error)


def raise_storage(error: OSError) -> NoReturn:
    """Raises what `error` means: ResourceExhausted (STORE_FULL) or Unavailable (STORE_FAILED)."""
    if error.errno in (errno.ENOSPC, errno.EDQUOT):
        raise ResourceExhausted(
            STORE_FULL, "the disk is full", hint="free space on the disk of the state", retry_after=RETRY_SECONDS
        ) from error
    raise Unavailable("STORE_FAILED", f"the blob cannot be stored: {error}", hint="check the disk") from error


def _mismatch(what: str) -> InvalidArgument:
    return InvalidArgument("BLOB_MISMATCH", what, hint="compare what was sent with its digest and size")
