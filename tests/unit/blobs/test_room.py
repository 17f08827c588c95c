"""The blobs of a store: whole or not there, within bounds, and gone when nobody has a use for them."""

from __future__ import annotations

import asyncio
import hashlib
import os
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from edgenode.link.blobs import rows
from edgenode.link.blobs.auditing import audit_blobs
from edgenode.link.blobs.files import Folder, Incoming, read_whole
from edgenode.link.blobs.room import LEAST_CHARGE, LOOKED_AT_SECONDS, PARTIAL_SECONDS, BlobLimits, Blobs
from edgenode.link.errors import EdgenodeError
from edgenode.link.model.blob import PIECE_BYTES, BlobRef
from edgenode.link.store import run_time
from edgenode.link.store.database import Database

SCHEMA = f"{run_time.SCHEMA}{rows.SCHEMA}CREATE TABLE task (task_id TEXT PRIMARY KEY) STRICT;"
DAY = 86_400.0
LIMITS = BlobLimits(16 << 20, 4 << 20, 0.95, DAY)
BIG = bytes(range(256)) * 3000  # three pieces


class Clock:
    def __init__(self) -> None:
        self.now = 1000.0

    def monotonic(self) -> float:
        return self.now

    def wall(self) -> float:
        return self.now


class Rig:
    """A state directory whose blobs can be opened again."""

    def __init__(self, path: Path, limits: BlobLimits = LIMITS) -> None:
        self.path = path
        self.folder = Folder(path / "blobs")
        self.clock = Clock()
        self.limits = limits

    @asynccontextmanager
    async def opened(self) -> AsyncIterator[Blobs]:
        self.database = await Database.open(self.path / "x.db", [SCHEMA], application_id=7)
        blobs = Blobs(self.database, self.folder, self.limits, self.clock)
        try:
            await blobs.load()
            yield blobs
        finally:
            await blobs.close()
            await self.database.close()

    async def refer(self, task_id: str, ref: BlobRef, peer: str = "") -> None:
        def run(connection: object) -> None:
            connection.execute("INSERT INTO task VALUES (?)", (task_id,))  # type: ignore[attr-defined]
            rows.refer(connection, [(task_id, ref)], peer)  # type: ignore[arg-type]

        await self.database.write(run)

    async def forget(self, task_id: str) -> None:
        await self.database.write(lambda c: c.execute("DELETE FROM task WHERE task_id = ?", (task_id,)))

    async def pass_time(self, seconds: float) -> None:
        self.clock.now += seconds
        await self.database.write(lambda connection: run_time.pass_time(connection, seconds))

    def files(self) -> list[str]:
        return sorted(path.name for path in self.folder.path.rglob("*") if path.is_file())


@pytest.fixture
def rig(tmp_path: Path) -> Rig:
    return Rig(tmp_path)


def digest_of(data: bytes) -> str:
    return f"sha256:{hashlib.sha256(data).hexdigest()}"


async def put(blobs: Blobs, data: bytes, *, step: int = PIECE_BYTES, **known: object) -> BlobRef:
    writer = await blobs.put(**known)  # type: ignore[arg-type]
    try:
        for first in range(0, len(data), step):
            await writer.write(data[first : first + step])
        return (await writer.finish("x/y", "a"))[0]
    finally:
        await writer.abandon()


async def content(blobs: Blobs, digest: str, offset: int = 0) -> bytes:
    _, pieces = await blobs.read(digest, offset)
    return b"".join([piece async for piece in pieces])


async def reason_of(work: Callable[[], object]) -> str:
    with pytest.raises(EdgenodeError) as caught:
        await work()  # type: ignore[misc]
    assert caught.value.problem.hint or caught.value.reason == "NOT_DURABLE"
    return caught.value.reason


async def test_what_was_put_is_there_whole_and_after_a_restart(rig: Rig) -> None:
    async with rig.opened() as blobs:
        ref = await put(blobs, BIG, step=100_000)
        assert ref == BlobRef(digest_of(BIG), len(BIG), "x/y", "a")
        assert await put(blobs, BIG, digest=ref.digest, size=ref.size) == ref
        assert rig.files() == [ref.digest.removeprefix("sha256:")]
        assert rig.folder.place(ref.digest).stat().st_mode & 0o777 == 0o600
    async with rig.opened() as blobs:
        assert await content(blobs, ref.digest) == BIG
        assert await content(blobs, ref.digest, PIECE_BYTES + 7) == BIG[PIECE_BYTES + 7 :]
        assert await content(blobs, ref.digest, len(BIG)) == b""
        assert await reason_of(lambda: blobs.read(ref.digest, len(BIG) + 1)) == "OUT_OF_RANGE"
        assert blobs.used_bytes == len(BIG)
        empty = await put(blobs, b"")
        assert await content(blobs, empty.digest) == b""


async def test_what_is_not_what_was_said_is_refused_and_leaves_nothing(rig: Rig) -> None:
    async with rig.opened() as blobs:
        digest = digest_of(BIG)
        for data, known in (
            (BIG, {"size": 5}),
            (BIG[:-1], {"size": len(BIG)}),
            (BIG[:-1] + b"x", {"digest": digest, "size": len(BIG)}),
        ):
            assert await reason_of(lambda data=data, known=known: put(blobs, data, **known)) == "BLOB_MISMATCH"  # type: ignore[misc]
        assert await reason_of(lambda: blobs.read(digest)) == "BLOB_UNKNOWN"
        assert await reason_of(lambda: blobs.stand(digest)) == "BLOB_UNKNOWN"
        assert (rig.files(), blobs.used_bytes) == ([], 0)


async def test_a_broken_transfer_goes_on_where_it_was_also_after_a_restart(rig: Rig) -> None:
    digest = digest_of(BIG)
    async with rig.opened() as blobs:
        writer = await blobs.put(digest=digest, size=len(BIG))
        await writer.write(BIG[:300_000])
        await writer.abandon()
        assert (await blobs.stand(digest)).partial_bytes == 300_000
        assert await reason_of(lambda: blobs.put(digest=digest, offset=300_001)) == "BLOB_OFFSET"
    async with rig.opened() as blobs:
        assert (await blobs.stand(digest)).partial_bytes == 300_000
        ref = await put(blobs, BIG[290_000:], digest=digest, size=len(BIG), offset=290_000)
        assert await content(blobs, ref.digest) == BIG
        assert blobs.used_bytes == len(BIG)
        # Bytes that never reached the disk are found out, and nobody goes on with them.
        other = await blobs.put(digest=digest_of(b"x" * 1000))
        await other.write(b"y" * 10)
        await other.abandon()
        assert (
            await reason_of(lambda: put(blobs, b"x" * 990, digest=digest_of(b"x" * 1000), offset=10)) == "BLOB_MISMATCH"
        )
        assert await reason_of(lambda: blobs.stand(digest_of(b"x" * 1000))) == "BLOB_UNKNOWN"


async def test_two_writers_of_one_blob_do_not_meet(rig: Rig) -> None:
    async with rig.opened() as blobs:
        digest = digest_of(BIG)
        writers = [await blobs.put(digest=digest, size=len(BIG)) for _ in range(2)]
        for first in range(0, len(BIG), PIECE_BYTES):
            for writer in writers:
                await writer.write(BIG[first : first + PIECE_BYTES])
        done = await asyncio.gather(*(writer.finish() for writer in writers))
        for writer in writers:
            await writer.abandon()
        assert sorted(known for _, known in done) == [False, True]
        assert (len(rig.files()), blobs.used_bytes) == (1, len(BIG))
        assert await content(blobs, digest) == BIG


@pytest.mark.parametrize("damage", ["flip", "cut", "gone"])
async def test_damage_is_told_and_never_served_until_it_is_put_again(rig: Rig, damage: str) -> None:
    async with rig.opened() as blobs:
        ref = await put(blobs, BIG)
        place = rig.folder.place(ref.digest)
        if damage == "flip":
            place.write_bytes(BIG[:600_000] + b"\xff" + BIG[600_001:])
        elif damage == "cut":
            os.truncate(place, 1000)
        else:
            place.unlink()
        assert [found.reason for found in await audit_blobs(rig.database, rig.folder)] == ["DAMAGED"]
        assert await reason_of(lambda: content(blobs, ref.digest)) == "BLOB_DAMAGED"
        assert await reason_of(lambda: content(blobs, ref.digest, 700_000)) == "BLOB_DAMAGED"
        lacking = blobs.lacks([ref])
        assert lacking is not None
        assert lacking.reason == "BLOB_DAMAGED"
    async with rig.opened() as blobs:
        assert await reason_of(lambda: content(blobs, ref.digest)) == "BLOB_DAMAGED"
        await put(blobs, BIG)
        assert await content(blobs, ref.digest) == BIG
        assert await audit_blobs(rig.database, rig.folder) == []


async def test_damage_while_nobody_looks_is_found_at_the_start_or_the_first_reading(rig: Rig) -> None:
    async with rig.opened() as blobs:
        cut, flipped = await put(blobs, BIG), await put(blobs, BIG[1:])
    os.truncate(rig.folder.place(cut.digest), 5)
    rig.folder.place(flipped.digest).write_bytes(b"z" + BIG[2:])
    async with rig.opened() as blobs:
        assert blobs.whole(cut.digest) is None
        _, pieces = await blobs.read(flipped.digest)
        assert await reason_of(lambda: anext(pieces)) == "BLOB_DAMAGED"


async def test_a_file_the_store_does_not_know_is_taken_up_and_compared_before_it_is_served(rig: Rig) -> None:
    """It is what a crash between renaming and the commit leaves, or a store that was set aside."""
    whole, wrong = digest_of(BIG), digest_of(b"w")
    rig.folder.prepare()
    for digest, data in ((whole, BIG), (wrong, b"v")):
        rig.folder.partial("t").write_bytes(data)
        rig.folder.adopt(rig.folder.partial("t"), digest)
    async with rig.opened() as blobs:
        assert await content(blobs, whole) == BIG
        assert await reason_of(lambda: content(blobs, wrong)) == "BLOB_DAMAGED"


async def test_bounds_of_one_of_all_and_of_the_disk(rig: Rig) -> None:
    rig.limits = BlobLimits(1_000_000, 800_000, 0.95, DAY)
    async with rig.opened() as blobs:
        assert await reason_of(lambda: blobs.put(size=800_001)) == "BLOB_TOO_LARGE"
        assert await reason_of(lambda: put(blobs, BIG + BIG)) == "BLOB_TOO_LARGE"
        first = await put(blobs, BIG)
        assert await reason_of(lambda: blobs.put(size=700_000)) == "STORE_FULL"
        assert await reason_of(lambda: put(blobs, BIG[1:])) == "STORE_FULL"  # its size is not known beforehand
        small = await put(blobs, b"a")
        assert blobs.used_bytes == len(BIG) + LEAST_CHARGE
        await blobs.remove(first.digest)
        await put(blobs, BIG[1:])
        await blobs.remove(small.digest)
        assert len(rig.files()) == 1
    rig.limits = BlobLimits(1 << 60, 1 << 60, 1e-9, DAY)
    async with rig.opened() as blobs:
        assert await reason_of(lambda: blobs.put(size=1 << 20)) == "STORE_FULL"


async def test_each_peer_has_a_share_of_the_room(rig: Rig) -> None:
    rig.limits = BlobLimits(3_000_000, 3_000_000, 0.95, DAY, peer_share=1 / 3)
    async with rig.opened() as blobs:
        first = await put(blobs, BIG, peer="a")
        assert await reason_of(lambda: blobs.put(size=600_000, peer="a")) == "BLOB_SHARE_FULL"
        assert await reason_of(lambda: blobs.put(size=1_000_001, peer="b")) == "BLOB_TOO_LARGE"
        assert await reason_of(lambda: blobs.put(size=2_400_000)) == "STORE_FULL"  # put here: bounded by all there is
        assert await put(blobs, BIG, peer="b") == first  # it stays with whoever brought it
        writer = await blobs.put(digest=digest_of(BIG[1:]), size=900_000, peer="b")
        await writer.write(BIG[1:])
        await writer.abandon()  # what came of it counts as well, also behind a restart
        await rig.refer("t1", BlobRef(digest_of(BIG[1:]), 900_000), "b")
    async with rig.opened() as blobs:
        assert await reason_of(lambda: blobs.put(size=600_000, peer="a")) == "BLOB_SHARE_FULL"
        assert await reason_of(lambda: blobs.put(size=600_000, peer="b")) == "BLOB_SHARE_FULL"
        await blobs.remove(first.digest)
        await (await blobs.put(size=600_000, peer="a")).abandon()
        await (await blobs.put(digest=digest_of(BIG[1:]), size=900_000, offset=1, peer="b")).abandon()
        await rig.forget("t1")
        await rig.pass_time(PARTIAL_SECONDS + 60)
        await blobs.sweep()
        assert blobs.used_bytes == 0
        await (await blobs.put(size=999_999, peer="b")).abandon()


async def test_what_a_task_refers_to_stays_and_the_rest_goes_after_a_time(rig: Rig) -> None:
    async with rig.opened() as blobs:
        held, unused = await put(blobs, BIG), await put(blobs, b"unused")
        await rig.refer("t1", held)
        await rig.pass_time(DAY + 60)
        looked_at = await put(blobs, b"looked at")
        await blobs.sweep()
        assert await reason_of(lambda: blobs.stand(unused.digest)) == "BLOB_UNKNOWN"
        assert (await blobs.stand(held.digest)).task_count == 1
        assert await reason_of(lambda: blobs.remove(held.digest)) == "BLOB_IN_USE"
        await rig.pass_time(DAY)
        assert blobs.lacks([looked_at]) is None
        await rig.forget("t1")
        await blobs.sweep()
        assert blobs.whole(held.digest) is None
        assert len(rig.files()) == 1
        assert await content(blobs, looked_at.digest) == b"looked at"
        await rig.pass_time(DAY + LOOKED_AT_SECONDS + 120)
        await blobs.sweep()
        await rig.pass_time(DAY + LOOKED_AT_SECONDS + 120)
        await blobs.sweep()
        assert (rig.files(), blobs.used_bytes) == ([], 0)


async def test_a_partial_file_goes_after_an_hour(rig: Rig) -> None:
    async with rig.opened() as blobs:
        writer = await blobs.put(digest=digest_of(BIG))
        await writer.write(BIG[:1000])
        await writer.abandon()
        await rig.pass_time(PARTIAL_SECONDS - 1)
        await blobs.sweep()
        assert len(rig.files()) == 1
        await rig.pass_time(2)
        await blobs.sweep()
        assert (rig.files(), blobs.used_bytes) == ([], 0)


async def test_references_must_fit_what_is_here(rig: Rig) -> None:
    async with rig.opened() as blobs:
        ref = await put(blobs, b"abc")
        reasons = [
            error.reason if (error := blobs.lacks([BlobRef(digest, size)])) is not None else ""
            for digest, size in ((ref.digest, 3), (ref.digest, 4), (digest_of(b"no"), 2))
        ]
        assert reasons == ["", "BLOB_MISMATCH", "BLOB_UNKNOWN"]
        await rig.refer("t1", BlobRef(digest_of(b"far away"), 8))
        assert await reason_of(lambda: blobs.read(digest_of(b"far away"))) == "BLOB_ELSEWHERE"


async def test_a_store_in_memory_keeps_none(rig: Rig) -> None:
    database = await Database.open(":memory:", [SCHEMA], application_id=7)
    blobs = Blobs(database, None, LIMITS, rig.clock)
    await blobs.load()
    assert await reason_of(blobs.put) == "NOT_DURABLE"
    assert await reason_of(lambda: blobs.read(digest_of(b""))) == "NOT_DURABLE"
    await blobs.close()
    await database.close()


@settings(max_examples=40)
@given(
    size=st.integers(0, 3 * PIECE_BYTES + 1),
    cut=st.integers(0, 3 * PIECE_BYTES),
    step=st.sampled_from([1 + PIECE_BYTES // 3, PIECE_BYTES - 1, PIECE_BYTES]),
)
def test_checks_do_not_depend_on_how_content_came(
    tmp_path_factory: pytest.TempPathFactory, size: int, cut: int, step: int
) -> None:
    data = (b"0123456789abcdef" * (size // 16 + 1))[:size]
    path = tmp_path_factory.getbasetemp() / "incoming"
    path.write_bytes(data[:cut] + b"left over")
    incoming = Incoming(path, min(cut, size))
    for first in range(min(cut, size), size, step):
        incoming.write(data[first : first + step])
    digest, checks = incoming.sync()
    incoming.close()
    incoming.close()
    assert (digest, size, checks) == read_whole(path)
    assert digest == digest_of(data)
