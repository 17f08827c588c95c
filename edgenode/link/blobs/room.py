"""The blobs of a node: immutable content, known by its digest, beside the store that knows of it.

Theory of operation. What is put is written to a file of another name, compared with its digest, synced, and only then renamed
to its own (`files`); then a row in the store says so, and then whoever put it is told. A crash between two of these leaves a
partial file, which is gone on with or removed after an hour; or a file without a row, which is whole and is taken up at the
next start as if it had been put then. Removal goes the other way: row, file, answer; a crash between leaves a file that comes
back at the start, and its remover was not told.

Each piece of 256 KiB has a checksum in the row. A piece is compared with it each time before it is given to anybody; where it
differs the blob is noted as damaged and refused from then on, until somebody puts it again.

Room is bounded by bytes and by a share of the disk (`BlobLimits`). What is on its way counts in full from its first byte, as
far as its size is known. A blob counts as 64 KiB at least, which bounds their number. What is refused says so (STORE_FULL):
nothing that was accepted is pushed out by something new. Of what tasks of other nodes refer to, each peer that brings it has a
share (BLOB_SHARE_FULL), so that none fills the room of all (`taken`).

A blob that a task of this node refers to stays as long as the node knows the task; references are rows, written with the
task's (`rows`). Any other stays for `retention_seconds` after it was last put, read or looked at by a submission. A submission
looks before its row is written, so the sweep leaves alone what was looked at within LOOKED_AT_SECONDS.

What a task from another node refers to is brought by `exchange`; who reads it before it is here waits.
"""

from __future__ import annotations

import asyncio
import functools
import logging
import os
from collections.abc import AsyncGenerator, Awaitable, Callable, Coroutine, Iterable, Sequence
from contextlib import aclosing
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, TypeVar

from edgenode.link.blobs import rows
from edgenode.link.blobs.files import Folder, read_piece, read_whole
from edgenode.link.blobs.rows import Stored
from edgenode.link.blobs.taken import Taken, too_large
from edgenode.link.blobs.writing import BlobWriter, raise_storage
from edgenode.link.errors import (
    DataLoss,
    EdgenodeError,
    FailedPrecondition,
    InvalidArgument,
    NotFound,
    Unavailable,
    from_problem,
)
from edgenode.link.failpoints import Failpoint, reach
from edgenode.link.gil import on_thread
from edgenode.link.model.blob import PIECE_BYTES, PREFIX, BlobRef
from edgenode.link.ports import Clock
from edgenode.link.store import run_time
from edgenode.link.store.database import Database

LEAST_CHARGE = 64 * 1024  # bytes a blob counts as at least
PARTIAL_SECONDS = 3600.0  # that what came of a broken transfer is kept
LOOKED_AT_SECONDS = 600.0
SWEEP_SECONDS = 60.0
BLOB_UNKNOWN = "BLOB_UNKNOWN"
BLOB_ELSEWHERE = "BLOB_ELSEWHERE"
BLOB_PENDING = "BLOB_PENDING"

T = TypeVar("T")

_log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class BlobLimits:
    """Bounds: bytes of all, bytes of one, what of the disk's free space they may take, seconds unused ones stay, and what of
    all of it may be from one peer.
    """

    total_bytes: int
    each_bytes: int
    disk_share: float
    retention_seconds: float
    peer_share: float = 1.0


@dataclass(frozen=True, slots=True)
class Standing:
    """Where the node stands with a blob. `stored` is None unless it is or was whole; `partial_bytes` as far as it came."""

    stored: Stored | None
    size: int
    partial_bytes: int
    task_count: int


class Blobs:
    """See the module. `folder` is None for a store in memory, where everything is refused (NOT_DURABLE)."""

    def __init__(self, database: Database, folder: Folder | None, limits: BlobLimits, clock: Clock) -> None:
        self._database = database
        self._folder = folder
        self._limits = limits
        self._clock = clock
        self._stored: dict[str, Stored] = {}
        # What nobody writes: (bytes, when it was left, who brought it) by file name.
        self._partials: dict[str, tuple[int, float, str]] = {}
        self._writing: set[str] = set()  # file names
        self._taken = Taken(limits.peer_share)  # by all of that
        self._looked_at: dict[str, float] = {}
        self._names = 0
        self._placing = asyncio.Lock()  # held while a file and its row come or go
        self._background: set[asyncio.Task[Any]] = set()
        self._sweeper: asyncio.Task[None] | None = None
        self._awaited: dict[str, set[asyncio.Future[None]]] = {}  # by those who want to read what is on its way
        # Set by whoever brings what is not here: why a blob that a task refers to does not come (None: it is on its way),
        # why it has to wait, who is told of each that is here whole, and what is looked at again with each sweep.
        self.why_not: Callable[[str], EdgenodeError | None] = _elsewhere
        self.held_up: Callable[[str], EdgenodeError | None] = lambda _digest: None
        self.arrived: Callable[[str], None] = lambda _digest: None
        self.swept: Callable[[], Awaitable[None]] | None = None

    async def load(self) -> None:
        """Take up what is on the disk. Raises as Database, OSError."""
        folder = self._folder
        if folder is None:
            return
        known = await self._database.read(rows.load)
        files = await on_thread(folder.whole) if folder.path.is_dir() else {}
        changed = []
        for stored in known:
            size = files.pop(stored.ref.digest, -1)
            if size != stored.ref.size and not stored.damaged:
                _log.error("blob %s is not on the disk as it was stored", stored.ref.digest)
                stored = replace(stored, damaged=True)
                changed.append(stored)
            self._hold(stored)
        for digest, size in files.items():
            stored = Stored(BlobRef(digest, size), b"", False, self._clock.wall())
            changed.append(stored)
            self._hold(stored)
        if changed:
            await self._database.write(lambda connection: rows.put(connection, changed))
        now = self._clock.monotonic()
        for entry in folder.partials():
            digest, size = PREFIX + entry.name, entry.stat().st_size
            peer = await self._database.read(functools.partial(rows.source, digest=digest))
            self._partials[entry.name] = size, now, peer
            self._taken.add(size, peer)
        if self._stored or self._partials:
            self.begin_sweeping()

    async def close(self) -> None:
        """Wait for what must come to its end. Safe to call twice."""
        if self._sweeper is not None:
            self._sweeper.cancel()
            await asyncio.wait([self._sweeper])
        while self._background:
            await asyncio.wait(self._background)

    # --- looking ------------------------------------------------------------------------------------------------------

    @property
    def used_bytes(self) -> int:
        """What all blobs count as."""
        return self._taken.all

    @property
    def limit_bytes(self) -> int:
        """What they may count as now."""
        share = int((self._place().free_bytes() + self._taken.all) * self._limits.disk_share)
        return min(self._limits.total_bytes, share)

    def whole(self, digest: str) -> Stored | None:
        """A blob that is here whole, which counts as used; None for any other."""
        stored = self._stored.get(digest)
        if stored is None or stored.damaged:
            return None
        self._looked_at[digest] = self._clock.monotonic()
        return stored

    def lacks(self, refs: Iterable[BlobRef]) -> EdgenodeError | None:
        """Why a task may not refer to these, if there is a reason; else they stay until its row is written."""
        for ref in refs:
            stored = self._stored.get(ref.digest)
            if stored is None:
                return _unknown(ref.digest)
            if stored.damaged:
                return _damaged(ref.digest)
            if stored.ref.size != ref.size:
                return InvalidArgument(
                    "BLOB_MISMATCH",
                    f"{ref.digest} has {stored.ref.size} bytes, the reference says {ref.size}",
                    hint="refer to it by what PutBlob answered",
                    digest=ref.digest,
                )
            self._looked_at[ref.digest] = self._clock.monotonic()
        return None

    async def stand(self, digest: str) -> Standing:
        """Where the node stands with a blob. Raises NotFound (BLOB_UNKNOWN), FailedPrecondition (NOT_DURABLE)."""
        name = self._place().partial(digest).name
        count, size = await self._database.read(lambda connection: rows.referred(connection, digest))
        stored = self._stored.get(digest)
        partial = self._partials.get(name)
        if stored is None and partial is None and name not in self._writing and not count:
            raise _unknown(digest)
        return Standing(stored, stored.ref.size if stored is not None else size, partial[0] if partial else 0, count)

    async def page(self, after: str, count: int) -> list[Standing]:
        """The next `count` by digest that are or were whole."""
        digests = sorted(digest for digest in self._stored if digest > after)[:count]
        counts = await self._database.read(
            lambda connection: [rows.referred(connection, digest)[0] for digest in digests]
        )
        found = zip((self._stored.get(digest) for digest in digests), counts, strict=True)
        return [Standing(stored, stored.ref.size, 0, tasks) for stored, tasks in found if stored is not None]

    # --- putting ------------------------------------------------------------------------------------------------------

    async def put(self, *, digest: str = "", size: int | None = None, offset: int = 0, peer: str = "") -> BlobWriter:
        """Begin to write content of that digest and size, as far as they are known, behind `offset` bytes that are here.
        `peer`: who brings it, if it is not put here.

        Raises ResourceExhausted (BLOB_TOO_LARGE, STORE_FULL, BLOB_SHARE_FULL), FailedPrecondition (BLOB_OFFSET, NOT_DURABLE),
        Unavailable (STORE_FAILED).
        """
        folder = await self._prepare()
        name = folder.partial(digest).name if digest else ""
        kept = self._partials.get(name)
        partial, brought_by = (kept[0], kept[2]) if kept is not None else (0, "")
        if offset and (offset > partial or (size is not None and offset > size)):
            raise FailedPrecondition(
                "BLOB_OFFSET",
                f"the data begins at {offset}, {partial} bytes are here",
                hint="ask StatBlob, or begin at 0",
                stored_bytes=partial,
            )
        if not name or name in self._writing:
            name = self._new_name()  # two write the same, or the digest is not known
        writer = BlobWriter(self, digest, size, name, peer)
        self._taken.add(-partial, brought_by)
        try:
            writer.charge(max(size or 0, offset, LEAST_CHARGE))
        except BaseException:
            self._taken.add(partial, brought_by)  # it stays for another time
            raise
        self._partials.pop(name, None)
        self._writing.add(name)
        try:
            await writer.open(offset)
        except BaseException:
            await writer.abandon()
            raise
        return writer

    def _new_name(self) -> str:
        """Of a file that is not there: a process of before may have had our number."""
        self._names += 1
        while (name := f"{os.getpid()}-{self._names}") in self._partials:
            self._names += 1
        return name

    def partial(self, name: str) -> Path:
        """The file that is written under a name."""
        return self._place().partial(name)

    async def put_again(self, digest: str, size: int | None) -> BlobRef | None:
        """What is here whole counts as put, durably, once this has told what it is; None for others. Raises as Database."""
        stored = self.whole(digest)
        if stored is None or size not in (None, stored.ref.size):
            return None
        await self._database.write(lambda connection: rows.touch(connection, [digest]))
        return stored.ref if self.whole(digest) is not None else None

    def charge(self, more: int, total: int, peer: str) -> None:
        """Count `more` bytes for a blob of a peer's that has `total` then. Raises as `put`."""
        if total > self._limits.each_bytes:
            raise too_large(total, self._limits.each_bytes, "raise max_blob_bytes")
        self._taken.check(more, total, peer, self.limit_bytes)
        self._taken.add(more, peer)

    def place(self, writer: BlobWriter, ref: BlobRef, checks: bytes) -> asyncio.Task[tuple[BlobRef, bool]]:
        """What was written is whole and synced: (what it is called, whether it was here before). Once begun it goes on."""
        return self._spawn(self._put_in_place(writer, ref, checks))

    async def _put_in_place(self, writer: BlobWriter, ref: BlobRef, checks: bytes) -> tuple[BlobRef, bool]:
        async with self._placing:
            known = self._stored.get(ref.digest)
            if known is not None and not known.damaged:
                await on_thread(writer.path.unlink)
                await self._database.write(lambda connection: rows.touch(connection, [ref.digest]))
                self.left(writer, keep=False)
                return known.ref, True
            stored = Stored(ref, checks, False, self._clock.wall(), writer.peer)
            try:
                await on_thread(self._place().adopt, writer.path, ref.digest)
            except OSError as error:
                raise_storage(error)
            await self._database.write(lambda connection: rows.put(connection, [stored]))
            reach(Failpoint.BLOB_COMMITTED)
            self.left(writer, keep=False)
            self._hold(stored)
        self.begin_sweeping()
        for future in self._awaited.pop(ref.digest, ()):
            if not future.done():
                future.set_result(None)
        self.arrived(ref.digest)
        return ref, False

    def left(self, writer: BlobWriter, *, keep: bool) -> None:
        """Nobody writes there any more; `keep`: the file stays for whoever goes on with it."""
        if writer.name not in self._writing:
            return
        self._writing.discard(writer.name)
        self._taken.add(-writer.charged, writer.peer)
        if keep:
            self._partials[writer.name] = writer.size, self._clock.monotonic(), writer.peer
            self._taken.add(writer.size, writer.peer)
            self.begin_sweeping()

    # --- reading ------------------------------------------------------------------------------------------------------

    async def read(self, digest: str, offset: int = 0) -> tuple[Stored, AsyncGenerator[bytes, None]]:
        """A blob and its content from `offset` on in pieces, each compared with its checksum; close the generator.

        One that is on its way here is waited for.

        Raises, also between pieces, NotFound (BLOB_UNKNOWN), Unavailable (BLOB_ELSEWHERE), ResourceExhausted (STORE_FULL,
        BLOB_SHARE_FULL) where a node on its way has no room for it, DataLoss (BLOB_DAMAGED), InvalidArgument (OUT_OF_RANGE).
        """
        folder = self._place()
        while (stored := self._stored.get(digest)) is None:
            await self._arrival(digest)
        if stored.damaged:
            raise _damaged(digest)
        if not 0 <= offset <= stored.ref.size:
            raise InvalidArgument(
                "OUT_OF_RANGE", f"the offset is {offset}", hint=f"expected 0 to {stored.ref.size}", field="offset"
            )
        self._looked_at[digest] = self._clock.monotonic()
        stored = await self._verified(stored)
        try:
            descriptor = os.open(folder.place(digest), os.O_RDONLY | os.O_CLOEXEC)
        except OSError as error:
            raise await self._found_damaged(stored, str(error)) from error
        pieces = self._pieces(stored, descriptor, offset)
        await anext(pieces)  # from here on its end closes the descriptor
        return stored, pieces

    async def _pieces(self, stored: Stored, descriptor: int, offset: int) -> AsyncGenerator[bytes, None]:
        reading: asyncio.Future[bytes | None] | None = None
        try:
            yield b""
            for number in range(offset // PIECE_BYTES, len(stored.checks) // 4):
                reading = asyncio.ensure_future(on_thread(read_piece, descriptor, number, stored.checks))
                try:
                    piece = await asyncio.shield(reading)
                except OSError as error:
                    raise await self._found_damaged(stored, str(error)) from error
                if piece is None:
                    raise await self._found_damaged(stored, f"piece {number} has another checksum")
                yield piece[offset - number * PIECE_BYTES :] if offset > number * PIECE_BYTES else piece
        finally:
            if reading is not None and not reading.done():  # the thread still has the descriptor
                await asyncio.wait([reading])
            os.close(descriptor)

    async def _verified(self, stored: Stored) -> Stored:
        """With checksums. Raises DataLoss (BLOB_DAMAGED)."""
        if stored.checks or not stored.ref.size:
            return stored
        try:
            digest, size, checks = await on_thread(read_whole, self._place().place(stored.ref.digest))
        except OSError as error:
            raise await self._found_damaged(stored, str(error)) from error
        if (digest, size) != (stored.ref.digest, stored.ref.size):
            raise await self._found_damaged(stored, f"it is {digest} of {size} bytes")
        whole = replace(stored, checks=checks)
        async with self._placing:
            if self._stored.get(digest) is stored:  # and not removed or put anew meanwhile
                await self._database.write(lambda connection: rows.put(connection, [whole]))
                self._stored[digest] = whole
        return whole

    async def _found_damaged(self, stored: Stored, why: str) -> EdgenodeError:
        digest = stored.ref.digest
        async with self._placing:
            known = self._stored.get(digest)
            if known is None:
                return _unknown(digest)  # it was removed meanwhile
            if not known.damaged:
                _log.error("blob %s is damaged: %s", digest, why)
                damaged = replace(known, damaged=True)
                await self._database.write(lambda connection: rows.put(connection, [damaged]))
                self._stored[digest] = damaged
        return _damaged(digest)

    async def piece(self, digest: str, offset: int, size: int) -> bytes:
        """Part of a blob that lies within one piece. Raises as `read`, but Unavailable (BLOB_PENDING) for one on its way."""
        if not 0 < size <= PIECE_BYTES - offset % PIECE_BYTES:
            raise InvalidArgument(
                "OUT_OF_RANGE", f"{size} bytes from {offset} on are no part of a piece", hint="see BlobPieceRequest"
            )
        if digest not in self._stored:
            error = await self._why_not(digest)
            if error is not None or digest not in self._stored:
                pending = Unavailable(
                    BLOB_PENDING, f"{digest} is on its way here", hint="it is told when it has come", digest=digest
                )
                raise error or self.held_up(digest) or pending
        _, pieces = await self.read(digest, offset)
        async with aclosing(pieces):
            async for piece in pieces:
                return piece[:size]
        return b""

    def partial_bytes(self, digest: str) -> int:
        """How much came of a transfer that broke."""
        return self._partials.get(self._place().partial(digest).name, (0,))[0]

    async def _arrival(self, digest: str) -> None:
        if (error := await self._why_not(digest)) is not None:
            raise error
        if digest in self._stored:
            return
        if (error := self.held_up(digest)) is not None:
            raise from_problem(error.problem)  # others are told as well
        future: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._awaited.setdefault(digest, set()).add(future)
        try:
            await future
        finally:
            self._awaited.get(digest, set()).discard(future)

    def given_up(self, digest: str, error: EdgenodeError) -> None:
        """What was on its way does not come: tell those who wait."""
        for future in self._awaited.pop(digest, ()):
            if not future.done():
                future.set_exception(from_problem(error.problem))

    async def _why_not(self, digest: str) -> EdgenodeError | None:
        """Why a blob that is not here does not come; None if it does, or came while this was found out."""
        count, _ = await self._database.read(lambda connection: rows.referred(connection, digest))
        if digest in self._stored:
            return None
        return self.why_not(digest) if count else _unknown(digest)

    # --- removing -----------------------------------------------------------------------------------------------------

    async def remove(self, digest: str) -> None:
        """Remove a blob. Raises NotFound (BLOB_UNKNOWN), FailedPrecondition (BLOB_IN_USE)."""
        self._place()
        count, _ = await self._database.read(lambda connection: rows.referred(connection, digest))
        if digest not in self._stored:
            raise _unknown(digest)
        if count or not await asyncio.shield(self._spawn(self._remove([digest]))):
            raise FailedPrecondition(
                "BLOB_IN_USE",
                f"tasks of this node refer to {digest}",
                hint="it goes by itself some time after they are forgotten",
                digest=digest,
            )

    async def _remove(self, digests: Sequence[str], *, unless_looked_at: bool = False) -> list[str]:
        async with self._placing:
            # Nobody may count on them from now on, though their rows go a little later.
            leaving = {
                digest: self._stored.pop(digest)
                for digest in digests
                if digest in self._stored and not (unless_looked_at and digest in self._looked_at)
            }
            gone: list[str] = []
            try:
                gone = await self._database.write(lambda connection: rows.remove(connection, leaving))
            finally:
                self._stored |= {digest: stored for digest, stored in leaving.items() if digest not in gone}
            for digest in gone:
                self._taken.add(-_charge(leaving[digest].ref.size), leaving[digest].peer)
                self._looked_at.pop(digest, None)
            try:
                for digest in gone:
                    await on_thread(self._place().remove, digest)
            except OSError as error:
                raise_storage(error)
        return gone

    def begin_sweeping(self) -> None:
        """There is something to sweep."""
        if self._sweeper is None:
            self._sweeper = asyncio.create_task(self._sweep_now_and_then(), name="blob-sweeper")

    async def _sweep_now_and_then(self) -> None:
        while True:
            try:
                await self.sweep()
            except (EdgenodeError, OSError) as error:
                _log.warning("blobs could not be swept: %s", error)
            await asyncio.sleep(SWEEP_SECONDS)

    async def sweep(self) -> None:
        """Remove what nobody refers to and nobody used for long, and what came of transfers that were given up."""
        now = self._clock.monotonic()
        looked_at, self._looked_at = (
            self._looked_at,
            {digest: when for digest, when in self._looked_at.items() if when > now - LOOKED_AT_SECONDS},
        )
        retention = self._limits.retention_seconds

        def look(connection: Any) -> list[str]:
            rows.touch(connection, looked_at)
            rows.drop_void(connection)
            return rows.unused(connection, run_time.pass_time(connection, 0.0) - retention)

        found = await self._database.write(look)
        if found:
            await asyncio.shield(self._spawn(self._remove(found, unless_looked_at=True)))
        if self.swept is not None:
            await self.swept()
        for name, (size, left, peer) in list(self._partials.items()):
            coming = PREFIX + name not in self._stored and self.why_not(PREFIX + name) is None
            if now - left >= PARTIAL_SECONDS and not coming and self._partials.pop(name, None) is not None:
                self._taken.add(-size, peer)
                self._writing.add(name)  # nobody else begins with it while it goes
                try:
                    await on_thread(self.partial(name).unlink, True)
                finally:
                    self._writing.discard(name)

    # --- what all of it needs -----------------------------------------------------------------------------------------

    def _hold(self, stored: Stored) -> None:
        known = self._stored.get(stored.ref.digest)
        if known is not None:
            self._taken.add(-_charge(known.ref.size), known.peer)
        self._taken.add(_charge(stored.ref.size), stored.peer)
        self._stored[stored.ref.digest] = stored

    def _place(self) -> Folder:
        if self._folder is None:
            raise FailedPrecondition("NOT_DURABLE", "this node keeps nothing on disk, so it keeps no blobs")
        return self._folder

    async def _prepare(self) -> Folder:
        """The folder, made if it is not there. Raises as BlobWriter.open."""
        folder = self._place()
        try:
            await on_thread(folder.prepare)
        except OSError as error:
            raise_storage(error)
        return folder

    def _spawn(self, work: Coroutine[Any, Any, T]) -> asyncio.Task[T]:
        """Run it to its end; wait for it shielded, so that a caller who is cancelled stops nothing."""
        task = asyncio.create_task(work)
        self._background.add(task)
        task.add_done_callback(self._background.discard)
        return task


def _charge(size: int) -> int:
    return max(size, LEAST_CHARGE)


def _unknown(digest: str) -> NotFound:
    return NotFound(BLOB_UNKNOWN, f"no blob {digest} here", hint="put it first; see: edgenode blob list", digest=digest)


def _elsewhere(digest: str) -> EdgenodeError | None:
    return Unavailable(
        BLOB_ELSEWHERE,
        f"{digest} is on another node: tasks here refer to it, and nobody brings its content",
        hint="read it on the node that put it",
        digest=digest,
        retryable=False,
    )


def _damaged(digest: str) -> DataLoss:
    return DataLoss(
        "BLOB_DAMAGED",
        f"blob {digest} is not what was stored any more",
        hint="put it again, and check the disk",
        digest=digest,
    )
