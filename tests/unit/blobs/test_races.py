"""Blobs while two things happen at once, or one of them is given up in the middle."""

from __future__ import annotations

import asyncio
import errno
import os
import threading
from collections.abc import Callable, Coroutine, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from edgenode.api.sync.v1 import sync_pb2
from edgenode.link.blobs import exchange, room, rows, writing
from edgenode.link.blobs.room import PARTIAL_SECONDS, BlobLimits, Blobs
from edgenode.link.errors import NotFound
from edgenode.link.model.blob import BlobRef
from tests.unit.blobs.test_exchange import HUGE, Link, link
from tests.unit.blobs.test_room import BIG, DAY, Rig, content, digest_of, put, reason_of, rig

__all__ = ["link", "rig"]  # fixtures


def descriptors() -> int:
    return len(os.listdir("/proc/self/fd"))


class Gate:
    """Holds the first of some calls that threads make until the test lets it go."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, place: Any, name: str) -> None:
        self._reached, self._open = threading.Event(), threading.Event()
        plain = getattr(place, name)

        def held(*args: Any, **kwargs: Any) -> Any:
            if not self._reached.is_set():
                self._reached.set()
                self._open.wait(20)
            return plain(*args, **kwargs)

        monkeypatch.setattr(place, name, held)

    async def reached(self) -> None:
        assert await asyncio.to_thread(self._reached.wait, 20)

    def open(self) -> None:
        self._open.set()


@contextmanager
def meanwhile(blobs: Blobs, method: str, work: Callable[[], Any]) -> Iterator[None]:
    """The next time `blobs` has read or written its store, `work` is done before it hears of it."""
    database = blobs._database
    plain = getattr(database, method)

    async def slow(function: Callable[..., Any], **options: Any) -> Any:
        setattr(database, method, plain)
        found = await plain(function, **options)
        if asyncio.iscoroutine(done := work()):
            await done
        return found

    setattr(database, method, slow)
    try:
        yield
    finally:
        setattr(database, method, plain)


async def test_what_is_put_again_is_durable_before_it_is_told(rig: Rig) -> None:
    async with rig.opened() as blobs:
        ref = await put(blobs, BIG)
        await blobs.sweep()
        await rig.pass_time(DAY - 10)
        assert await blobs.put_again(ref.digest, len(BIG)) == ref
        assert await blobs.put_again(ref.digest, 5) is None
        # It ends here, and has swept no more.
    async with rig.opened() as blobs:
        await rig.pass_time(60)
        await blobs.sweep()
        assert await content(blobs, ref.digest) == BIG


async def test_nobody_counts_on_what_is_being_removed(rig: Rig) -> None:
    async with rig.opened() as blobs:
        ref = await put(blobs, BIG)
        seen: list[Any] = []
        with meanwhile(blobs, "write", lambda: seen.extend((blobs.lacks([ref]), blobs.whole(ref.digest)))):
            await blobs.remove(ref.digest)
        assert isinstance(seen[0], NotFound)
        assert seen[1] is None
        assert (rig.files(), blobs.used_bytes) == ([], 0)


async def test_a_sweep_leaves_what_is_looked_at_while_it_sweeps(rig: Rig) -> None:
    async with rig.opened() as blobs:
        ref = await put(blobs, BIG)
        await rig.pass_time(DAY + 3600)
        blobs._looked_at.clear()
        async with blobs._placing:  # it has found it, and waits
            with meanwhile(blobs, "write", lambda: None):
                sweeping = asyncio.create_task(blobs.sweep())
                while not blobs._background:  # noqa: ASYNC110
                    await asyncio.sleep(0)
            assert blobs.lacks([ref]) is None
        await sweeping
        assert await content(blobs, ref.digest) == BIG


async def test_what_could_not_be_removed_from_the_store_is_still_there(rig: Rig) -> None:
    async with rig.opened() as blobs:
        ref = await put(blobs, BIG)

        def fail() -> None:
            raise NotFound("X", "x")

        with meanwhile(blobs, "write", fail), pytest.raises(NotFound):
            await blobs._remove([ref.digest])
        assert blobs.whole(ref.digest) is not None


async def test_content_that_comes_while_it_is_asked_for_is_read(rig: Rig) -> None:
    async with rig.opened() as blobs:
        await rig.refer("t1", BlobRef(digest_of(BIG), len(BIG)))
        reads: list[Callable[[], Coroutine[Any, Any, bytes]]] = [
            lambda: content(blobs, digest_of(BIG)),
            lambda: blobs.piece(digest_of(BIG), 0, 100),
        ]
        for read in reads:
            with meanwhile(blobs, "read", lambda: put(blobs, BIG)):
                assert BIG.startswith(await asyncio.wait_for(read(), 20))
            await rig.forget("t1")
            await blobs.sweep()
            await blobs.remove(digest_of(BIG))
            await rig.refer("t1", BlobRef(digest_of(BIG), len(BIG)))


async def test_what_is_refused_for_want_of_room_keeps_what_came(rig: Rig) -> None:
    rig.limits = BlobLimits(1_000_000, 1_000_000, 0.95, DAY)
    async with rig.opened() as blobs:
        digest = digest_of(BIG)
        writer = await blobs.put(digest=digest, size=len(BIG))
        await writer.write(BIG[:500_000])
        await writer.abandon()
        other = await put(blobs, b"o" * 300_000)
        assert await reason_of(lambda: blobs.put(digest=digest, size=len(BIG), offset=500_000)) == "STORE_FULL"
        assert blobs.partial_bytes(digest) == 500_000
        assert blobs.used_bytes == 800_000
        await blobs.remove(other.digest)
        await put(blobs, BIG[500_000:], digest=digest, size=len(BIG), offset=500_000)
        assert await content(blobs, digest) == BIG


async def test_who_gives_up_while_a_file_opens_leaves_nothing_open(rig: Rig, monkeypatch: pytest.MonkeyPatch) -> None:
    async with rig.opened() as blobs:
        digest = digest_of(BIG)
        writer = await blobs.put(digest=digest)
        await writer.write(BIG[:500_000])
        await writer.abandon()
        before = descriptors()
        gate = Gate(monkeypatch, writing, "Incoming")
        putting = asyncio.create_task(blobs.put(digest=digest, offset=400_000))
        await gate.reached()
        putting.cancel()
        await asyncio.sleep(0)
        gate.open()
        with pytest.raises(asyncio.CancelledError):
            await putting
        assert descriptors() == before
        assert blobs.partial_bytes(digest) == 400_000


async def test_who_gives_up_before_the_first_piece_leaves_nothing_open(rig: Rig) -> None:
    async with rig.opened() as blobs:
        ref = await put(blobs, BIG)
        before = descriptors()
        _, pieces = await blobs.read(ref.digest)
        assert descriptors() == before + 1
        await pieces.aclose()
        assert descriptors() == before


async def test_nobody_goes_on_behind_what_could_not_be_synced(rig: Rig, monkeypatch: pytest.MonkeyPatch) -> None:
    """It may read well from memory, and not be on the disk."""

    def fail(_descriptor: int) -> None:
        raise OSError(errno.EIO, "I/O error")

    async with rig.opened() as blobs:
        digest = digest_of(BIG)
        with monkeypatch.context() as patch:
            patch.setattr(os, "fsync", fail)
            assert await reason_of(lambda: put(blobs, BIG, digest=digest, size=len(BIG))) == "STORE_FAILED"
        assert (rig.files(), blobs.partial_bytes(digest), blobs.used_bytes) == ([], 0, 0)
        await put(blobs, BIG, digest=digest, size=len(BIG))
        assert await content(blobs, digest) == BIG


async def test_a_sweep_does_not_take_the_file_of_who_begins_again(rig: Rig, monkeypatch: pytest.MonkeyPatch) -> None:
    async with rig.opened() as blobs:
        digest = digest_of(BIG)
        writer = await blobs.put(digest=digest)
        await writer.write(BIG[:1000])
        await writer.abandon()
        await rig.pass_time(PARTIAL_SECONDS + 1)
        gate = Gate(monkeypatch, Path, "unlink")
        sweeping = asyncio.create_task(blobs.sweep())
        await gate.reached()
        writer = await blobs.put(digest=digest, size=len(BIG))
        await writer.write(BIG)
        gate.open()
        await sweeping
        await writer.finish()
        await writer.abandon()
        assert await content(blobs, digest) == BIG


async def test_a_process_with_the_number_of_the_last_one_takes_no_file_of_its(rig: Rig) -> None:
    rig.folder.prepare()
    rig.folder.partial(f"{os.getpid()}-1").write_bytes(b"left")
    async with rig.opened() as blobs:
        writer = await blobs.put()
        await rig.pass_time(PARTIAL_SECONDS + 1)
        await blobs.sweep()
        await writer.write(b"abc")
        ref, _ = await writer.finish()
        await writer.abandon()
        assert await content(blobs, ref.digest) == b"abc"


async def test_what_is_removed_while_it_is_compared_is_gone(rig: Rig, monkeypatch: pytest.MonkeyPatch) -> None:
    rig.folder.prepare()
    rig.folder.partial("t").write_bytes(BIG)
    rig.folder.adopt(rig.folder.partial("t"), digest_of(BIG))
    async with rig.opened() as blobs:
        comparing = Gate(monkeypatch, room, "read_whole")
        reading = asyncio.create_task(blobs.read(digest_of(BIG)))
        await comparing.reached()
        going = Gate(monkeypatch, rows, "remove")
        removing = asyncio.create_task(blobs.remove(digest_of(BIG)))
        await going.reached()
        comparing.open()
        await asyncio.wait([reading], timeout=0.05)  # however far it gets
        going.open()
        await removing
        with pytest.raises(NotFound):
            await reading
        assert await rig.database.read(rows.load) == []
        assert await reason_of(lambda: blobs.stand(digest_of(BIG))) == "BLOB_UNKNOWN"
        assert (rig.files(), blobs.used_bytes) == ([], 0)


async def test_a_backup_lists_what_is_there_while_others_go(rig: Rig) -> None:
    async with rig.opened() as blobs:
        ref = await put(blobs, BIG)
    gone = rig.folder.place(digest_of(b"gone"))
    gone.parent.mkdir()
    gone.symlink_to(rig.path / "nothing")  # listed, and not there when it is looked at
    assert rig.folder.whole() == {ref.digest: len(BIG)}


# --- between nodes ----------------------------------------------------------------------------------------------------


def question(number: int, digest: str) -> sync_pb2.BlobExchange:
    return sync_pb2.BlobExchange(
        exchange_id=number, request=sync_pb2.BlobPieceRequest(digest=digest, offset=0, size_bytes=1)
    )


async def test_a_peer_that_asks_without_end_is_refused(link: Link, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(exchange, "MOST_REQUESTS", 3)
    there = link.there
    there.exchange.established("peer")
    for number in range(5):
        there.exchange.receive("peer", question(number, digest_of(b"%d" % number)))
    there.exchange.receive("peer", question(5, "x" * 1_000_000))
    reasons = {answer.exchange_id: answer.problem.reason for answer in there.sent}
    assert reasons == {3: "TOO_MANY_REQUESTS", 4: "TOO_MANY_REQUESTS", 5: "BAD_DIGEST"}
    assert all(answer.problem.hint for answer in there.sent)
    await link.run(lambda: not there.exchange._tasks)
    assert len(there.exchange._peers["peer"].interests) == 3


@pytest.mark.parametrize("turns", [0, 1, 2])
async def test_questions_of_a_new_session_are_answered_whenever_the_last_one_ended(link: Link, turns: int) -> None:
    ref = await put(link.there.blobs, BIG)
    there = link.there
    there.exchange.established("peer")
    there.exchange.receive("peer", question(1, ref.digest))
    for _ in range(turns):
        await asyncio.sleep(0)
    there.exchange.established("peer")
    there.exchange.receive("peer", question(2, ref.digest))
    await link.run(lambda: any(answer.exchange_id == 2 for answer in there.sent) or not there.exchange._tasks)
    assert [answer.data for answer in there.sent if answer.exchange_id == 2] == [BIG[:1]]


async def test_who_waits_is_not_told_that_nobody_has_it_while_another_may(link: Link) -> None:
    here, ref = link.here, BlobRef(digest_of(HUGE), len(HUGE))
    await here.refer("t1", ref)
    await here.refer("t2", ref, "other")
    reading = asyncio.create_task(content(here.blobs, ref.digest))
    link.up()
    refused: list[str] = []
    link.lie = lambda message: refused.append(message.problem.reason) if message.HasField("problem") else None
    await link.run(lambda: refused == ["BLOB_UNKNOWN"])
    await link.run(lambda: here.exchange._peers["peer"].wants[ref.digest].problem is not None)
    await asyncio.sleep(0)
    assert not reading.done()
    await put(here.blobs, HUGE)
    assert await reading == HUGE


async def test_questions_that_are_never_answered_are_forgotten(link: Link, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(exchange, "ANSWER_SECONDS", 0.01)
    here, ref = link.here, BlobRef(digest_of(HUGE), len(HUGE))
    here.exchange.established("peer")
    await here.refer("t1", ref)
    peer = here.exchange._peers["peer"]
    async with asyncio.timeout(20):
        while (problem := peer.wants[ref.digest].problem) is None:  # noqa: ASYNC110
            await asyncio.sleep(0.001)
    assert (problem.reason, peer.asked) == ("NO_ANSWER", {})


def test_others_do_not_say_which_file_it_becomes() -> None:
    digest = digest_of(b"")
    names = {name: BlobRef(digest, 0, "", name).file_name for name in ("", ".", "..", ".bashrc", "a.b")}
    plain = digest.removeprefix("sha256:")
    assert names == {"": plain, ".": plain, "..": plain, ".bashrc": "bashrc", "a.b": "a.b"}
