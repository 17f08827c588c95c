"""Two stores with blobs and a link between them that does what the test says."""

from __future__ import annotations

import asyncio
import dataclasses
from collections import deque
from collections.abc import AsyncIterator, Callable
from pathlib import Path

import pytest

from edgenode.api.sync.v1 import sync_pb2
from edgenode.link.blobs import exchange, rows
from edgenode.link.blobs.exchange import FETCHES, PATIENCE, UNDER_WAY_BYTES, BlobExchange
from edgenode.link.blobs.room import BlobLimits, Blobs
from edgenode.link.blobs.taken import Taken
from edgenode.link.errors import DataLoss, EdgenodeError, ResourceExhausted, Unimplemented
from edgenode.link.model.blob import PIECE_BYTES, BlobRef
from edgenode.link.wire.values import problem_to_pb
from tests.unit.blobs.test_room import BIG, LIMITS, Clock, Rig, content, digest_of, put, reason_of

HUGE = bytes(range(256)) * (16 * PIECE_BYTES // 256)


class Side:
    """One end: a store, and the messages it has sent that were not delivered."""

    def __init__(self, rig: Rig, blobs: Blobs, clock: Clock) -> None:
        self.rig = rig
        self.blobs = blobs
        self.sent: deque[sync_pb2.BlobExchange] = deque()
        self.full = False
        self.refused = 0
        self.exchange = BlobExchange(rig.database, blobs, self._send, clock)

    def _send(self, _peer: str, frame: sync_pb2.Frame) -> bool:
        if self.full:
            self.refused += 1
        else:
            self.sent.append(frame.blobs)
        return not self.full

    async def refer(self, task_id: str, ref: BlobRef, peer: str = "peer") -> None:
        """A transaction stores a task that came from a peer."""

        def run(connection: object) -> None:
            connection.execute("INSERT INTO task VALUES (?)", (task_id,))  # type: ignore[attr-defined]
            rows.refer(connection, [(task_id, ref)], peer)  # type: ignore[arg-type]

        await self.rig.database.write(run)
        self.exchange.want(peer, [ref])


class Link:
    """`here` wants what `there` has."""

    def __init__(self, here: Side, there: Side) -> None:
        self.here, self.there = here, there
        self.lie: Callable[[sync_pb2.BlobExchange], None] = lambda _message: None

    def up(self) -> None:
        for side in (self.here, self.there):
            side.sent.clear()
            side.exchange.established("peer")

    def down(self) -> None:
        for side in (self.here, self.there):
            side.exchange.closed("peer")

    async def run(self, until: Callable[[], bool]) -> None:
        """Deliver what is sent until something holds."""
        async with asyncio.timeout(20):
            while not until():
                await asyncio.sleep(0.001)
                for side, other in ((self.here, self.there), (self.there, self.here)):
                    while side.sent and not until():
                        message = side.sent.popleft()
                        self.lie(message)
                        other.exchange.receive("peer", message)

    async def fetched(self, ref: BlobRef) -> None:
        await self.run(lambda: self.here.blobs.whole(ref.digest) is not None)


@pytest.fixture
async def link(tmp_path: Path) -> AsyncIterator[Link]:
    (tmp_path / "here").mkdir()
    (tmp_path / "there").mkdir()
    limits = dataclasses.replace(LIMITS, total_bytes=1 << 30)
    here, there = Rig(tmp_path / "here", limits), Rig(tmp_path / "there", limits)
    clock = Clock()
    async with here.opened() as ours, there.opened() as theirs:
        made = Link(Side(here, ours, clock), Side(there, theirs, clock))
        yield made
        for side in (made.here, made.there):
            await side.exchange.stop()
            await side.exchange.stop()


async def test_what_is_referred_to_comes_and_whoever_reads_it_waits(link: Link) -> None:
    refs = [await put(link.there.blobs, data) for data in (BIG, b"", b"small", HUGE)]
    link.up()
    for number, ref in enumerate(refs):
        await link.here.refer(f"t{number}", ref)
    reading = [asyncio.create_task(content(link.here.blobs, ref.digest)) for ref in refs]
    await link.run(lambda: all(task.done() for task in reading))
    assert [task.result() for task in reading] == [BIG, b"", b"small", HUGE]
    await link.run(lambda: not link.here.exchange._peers)  # nothing is left to do
    assert not list(link.here.rig.folder.partials())


async def test_after_a_break_it_goes_on_behind_what_is_here(link: Link) -> None:
    ref = await put(link.there.blobs, HUGE)
    await link.here.refer("t1", ref)
    partial = link.here.rig.folder.partial(ref.digest)
    link.up()
    await link.run(lambda: partial.exists() and partial.stat().st_size > PIECE_BYTES)
    link.down()
    await link.run(lambda: link.here.blobs.partial_bytes(ref.digest) > PIECE_BYTES)
    held = link.here.blobs.partial_bytes(ref.digest)
    asked: list[int] = []
    link.lie = lambda message: asked.append(message.request.offset) if message.HasField("request") else None
    link.up()
    await link.fetched(ref)
    assert min(asked) == held
    assert await content(link.here.blobs, ref.digest) == HUGE


async def test_who_does_not_have_it_yet_tells_when_it_has(link: Link) -> None:
    ref = BlobRef(digest_of(BIG), len(BIG))
    await link.here.refer("t1", ref)
    link.up()
    answers: list[str] = []
    link.lie = lambda message: answers.append(message.problem.reason) if message.HasField("problem") else None
    # There it is wanted as well, from somebody who is away.
    await link.there.refer("t1", ref, "somebody")
    await link.run(lambda: bool(answers))
    assert answers == ["BLOB_PENDING"]
    reading = asyncio.create_task(content(link.here.blobs, ref.digest))
    await put(link.there.blobs, BIG)
    await link.run(reading.done)
    assert reading.result() == BIG


async def test_who_hears_that_it_does_not_come_tells_those_who_wait_for_it(link: Link) -> None:
    ref = BlobRef(digest_of(BIG), len(BIG))
    await link.here.refer("t1", ref)
    await link.there.refer("t1", ref, "somebody")
    reading = asyncio.create_task(content(link.here.blobs, ref.digest))
    link.up()
    await link.run(lambda: bool(link.there.exchange._interested))
    told: list[str] = []
    link.lie = lambda message: told.append(message.ready_digest) if message.ready_digest else None
    somebody = link.there.exchange._peers["somebody"]
    for _ in range(3):  # the same again is nothing new
        link.there.exchange._failed(
            somebody, somebody.wants[ref.digest], DataLoss("BLOB_DAMAGED", "gone", hint="put it")
        )
        await link.run(reading.done)
    assert isinstance(error := reading.exception(), EdgenodeError)
    assert error.reason == "BLOB_ELSEWHERE"
    assert told == [ref.digest]


async def test_what_nobody_has_is_told_and_comes_when_somebody_has_it_again(
    link: Link, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(exchange, "RETRY_SECONDS", 0.05)
    ref = BlobRef(digest_of(BIG), len(BIG))
    await link.here.refer("t1", ref)
    reading = asyncio.create_task(content(link.here.blobs, ref.digest))
    link.up()
    await link.run(reading.done)
    assert isinstance(error := reading.exception(), EdgenodeError)
    assert error.reason == "BLOB_ELSEWHERE"
    assert "BLOB_UNKNOWN" in str(error)
    await put(link.there.blobs, BIG)
    await link.fetched(ref)


async def test_a_peer_that_lies_or_serves_none_gets_nobody_to_store_it(
    link: Link, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(exchange, "RETRY_SECONDS", 0.05)
    ref = await put(link.there.blobs, BIG)
    await link.here.refer("t1", ref)
    answered: list[int] = []

    def wrong(message: sync_pb2.BlobExchange) -> None:
        if message.HasField("data"):
            answered.append(len(message.data))
            message.data = bytes(len(message.data))

    def short(message: sync_pb2.BlobExchange) -> None:
        if message.HasField("data"):
            answered.append(len(message.data))
            message.data = message.data[:-1]

    def refuse(message: sync_pb2.BlobExchange) -> None:
        if message.HasField("data"):
            answered.append(1)
            message.problem.CopyFrom(problem_to_pb(Unimplemented("NOT_SERVED", "an older node").problem))

    link.up()
    for lie in (wrong, short, refuse):
        answered.clear()
        link.lie = lie
        await link.run(lambda: sum(answered) > len(BIG) or len(answered) > 4)
        assert link.here.blobs.whole(ref.digest) is None
    link.lie = lambda _message: None
    await link.fetched(ref)


@pytest.mark.parametrize(
    ("seconds", "least", "most"),
    [(0.0001, 1 << 20, UNDER_WAY_BYTES + PIECE_BYTES), (4 * PATIENCE, 1, 16 << 10)],
    ids=["fast", "slow"],
)
async def test_what_is_under_way_is_bounded_by_what_the_link_carries(
    link: Link, seconds: float, least: int, most: int
) -> None:
    """So nothing urgent waits much longer behind it than PATIENCE."""
    clock = link.here.exchange._clock
    assert isinstance(clock, Clock)
    data = HUGE if seconds < PATIENCE else BIG
    ref = await put(link.there.blobs, data)
    await link.here.refer("t1", ref)
    under_way, seen = 0, list[int]()

    def count(message: sync_pb2.BlobExchange) -> None:
        nonlocal under_way
        if message.HasField("request"):
            under_way += message.request.size_bytes
            seen.append(under_way)
        elif message.HasField("data"):
            under_way -= len(message.data)
            clock.now += seconds

    link.lie = count
    link.up()
    await link.fetched(ref)
    assert least <= max(seen[len(seen) // 2 :]) <= most


async def test_whoever_finds_a_full_link_goes_on_once_it_has_room(link: Link) -> None:
    def has_room(side: Side) -> None:
        side.full = False
        side.exchange.room("peer")

    async def stands_still(side: Side) -> None:
        refused = side.refused
        await link.run(lambda: side.refused > refused)

    refs = [await put(link.there.blobs, BIG), BlobRef(digest_of(BIG[1:]), len(BIG) - 1)]
    for number, ref in enumerate(refs):
        await link.here.refer(f"t{number}", ref)
    link.here.full = link.there.full = True
    link.up()
    await stands_still(link.here)  # who asks
    has_room(link.here)
    await stands_still(link.there)  # who answers
    has_room(link.there)
    await link.fetched(refs[0])
    await link.run(lambda: bool(link.there.exchange._interested))
    link.there.full = True
    await put(link.there.blobs, BIG[1:])
    assert link.there.refused > 1  # who has news
    has_room(link.there)
    await link.fetched(refs[1])


async def test_whoever_asks_for_what_has_no_room_is_told_why_and_when_it_has_come(
    link: Link, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(exchange, "RETRY_SECONDS", 0.05)
    monkeypatch.setattr(link.here.blobs, "_limits", BlobLimits(2_000_000, 2_000_000, 0.9, 60.0, peer_share=0.5))
    monkeypatch.setattr(link.here.blobs, "_taken", Taken(0.5))
    first, second = await put(link.there.blobs, BIG), await put(link.there.blobs, BIG[1:])
    link.up()
    await link.here.refer("t1", first)
    await link.fetched(first)
    await link.here.refer("t2", second)
    told: list[sync_pb2.BlobExchange] = []
    link.lie = told.append
    peers = link.here.exchange._peers
    await link.run(lambda: peers["peer"].wants[second.digest].problem is not None)
    link.here.exchange.established("another")
    request = sync_pb2.BlobPieceRequest(digest=second.digest, size_bytes=10)
    link.here.exchange.receive("another", sync_pb2.BlobExchange(exchange_id=1, request=request))
    await link.run(lambda: any(message.problem.reason == "BLOB_SHARE_FULL" for message in told))
    await link.here.rig.forget("t1")
    await link.here.blobs.sweep()
    await link.here.blobs.remove(first.digest)
    await link.run(lambda: any(message.ready_digest == second.digest for message in told))


async def test_whoever_reads_what_a_neighbour_has_no_room_for_is_told_at_once_and_gets_it_when_it_has_come(
    link: Link, monkeypatch: pytest.MonkeyPatch
) -> None:
    # `there` is a hub: it lacks the room for what an edge called "owner" has, and `here` reads.
    monkeypatch.setattr(link.there.blobs, "_limits", BlobLimits(2_000_000, 2_000_000, 0.9, 60.0, peer_share=0.5))
    monkeypatch.setattr(link.there.blobs, "_taken", Taken(0.5))
    ref = BlobRef(digest_of(BIG), len(BIG))
    send = link.there._send
    of_owner: list[sync_pb2.BlobExchange] = []

    def send_to(peer: str, frame: sync_pb2.Frame) -> bool:
        if peer != "owner":
            return send(peer, frame)
        of_owner.append(frame.blobs)
        return True

    monkeypatch.setattr(link.there.exchange, "_send", send_to)
    await link.there.refer("t", ref, peer="owner")
    await link.here.refer("t", ref)
    link.up()
    link.there.exchange.established("owner")
    reading = asyncio.create_task(content(link.here.blobs, ref.digest))
    await link.run(lambda: bool(of_owner))
    await link.run(lambda: link.here.exchange._peers["peer"].wants[ref.digest].problem is not None)
    assert not reading.done()  # it is on its way so far
    link.there.blobs._taken.add(900_000, "owner")
    answer = sync_pb2.BlobExchange(exchange_id=of_owner[0].exchange_id, data=BIG[:1])
    link.there.exchange.receive("owner", answer)
    await link.run(reading.done)
    with pytest.raises(ResourceExhausted, match="peer has no room: blobs from owner take") as told:
        reading.result()
    assert (told.value.reason, told.value.problem.retry_after) == ("BLOB_SHARE_FULL", 60.0)
    with pytest.raises(ResourceExhausted, match="peer has no room"):  # also who begins to read now
        await content(link.here.blobs, ref.digest)
    link.there.blobs._taken.add(-900_000, "owner")
    await put(link.there.blobs, BIG)
    await link.fetched(ref)
    assert await content(link.here.blobs, ref.digest) == BIG


async def test_no_more_than_a_few_come_at_once(link: Link) -> None:
    refs = [await put(link.there.blobs, BIG[number:]) for number in range(6)]
    for number, ref in enumerate(refs):
        await link.here.refer(f"t{number}", ref)
    link.up()
    most = 0

    def arrived() -> bool:
        nonlocal most
        most = max([most, *(len(peer.fetches) for peer in link.here.exchange._peers.values())])
        return all(link.here.blobs.whole(ref.digest) is not None for ref in refs)

    await link.run(arrived)
    assert 0 < most <= FETCHES


async def test_what_no_task_refers_to_any_more_is_not_wanted_any_more(link: Link) -> None:
    ref = BlobRef(digest_of(BIG), len(BIG))
    await link.here.refer("t1", ref)
    assert ref.digest in link.here.exchange._peers["peer"].wants
    await link.here.rig.forget("t1")
    await link.here.blobs.sweep()
    assert not link.here.exchange._peers
    assert await reason_of(lambda: link.here.blobs.read(ref.digest)) == "BLOB_UNKNOWN"


async def test_a_restart_wants_what_is_not_here_and_keeps_what_came_of_it(link: Link) -> None:
    ref = await put(link.there.blobs, BIG)
    await link.here.refer("t1", ref)
    writer = await link.here.blobs.put(digest=ref.digest, size=ref.size)
    await writer.write(BIG[:100_000])
    await writer.abandon()
    side = link.here
    blobs = Blobs(side.rig.database, side.rig.folder, side.rig.limits, side.rig.clock)
    await blobs.load()
    try:
        again = link.here = Side(side.rig, blobs, side.rig.clock)
        await again.exchange.look()
        side.rig.clock.now += 10 * 3600
        await blobs.sweep()
        assert blobs.partial_bytes(ref.digest) == 100_000
        link.up()
        await link.fetched(ref)
        await again.exchange.stop()
    finally:
        await blobs.close()
