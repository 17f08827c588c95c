"""How blobs follow the tasks that refer to them, from node to node: each asks its neighbour for what it lacks.

Theory of operation. A reference (`rows`) names the peer that told of the task: for an edge its hub, for a hub the node that
offered the task or reported its result. Whatever is referred to and not here is wanted from there, piece by piece, for as long
as a session to that peer is up; each piece is written to the partial file of an ordinary put. Nothing else is remembered:
after a break, a kill or a power cut the next session asks for what comes behind what is here, and the digest at the end
decides. So no log is needed: a blob's digest and an offset say what the epochs and sequences of a lane say, and each byte is
written once.

Who is asked for what it does not have itself says so (BLOB_PENDING while it wants it too), and tells later that it has come,
or will not. What nobody has any more, or that cannot be stored here or there, is asked for again every minute: whoever waits
to read it is told, and who says so.

Pieces share a link with everything else. What is asked for and has not come is bounded by what the link has shown to carry in
PATIENCE (`protocol.flight`), so that no sign of life and no urgent task waits longer than that behind them. Questions, answers
and news for which a link has no room wait until it has (`room`).
"""

from __future__ import annotations

import asyncio
import logging
from collections import deque
from collections.abc import Callable, Coroutine, Iterable
from dataclasses import dataclass, field, replace
from typing import Any

from edgenode.api.sync.v1 import sync_pb2
from edgenode.link.blobs import rows
from edgenode.link.blobs.room import BLOB_ELSEWHERE, BLOB_PENDING, BLOB_UNKNOWN, Blobs
from edgenode.link.blobs.taken import BLOB_SHARE_FULL, BLOB_TOO_LARGE
from edgenode.link.blobs.writing import BlobWriter
from edgenode.link.errors import EdgenodeError, Internal, ResourceExhausted, Unavailable, from_problem
from edgenode.link.model.blob import PIECE_BYTES, BlobRef, check_digest
from edgenode.link.model.lanes import Lane
from edgenode.link.model.problem import Problem
from edgenode.link.ports import Clock
from edgenode.link.protocol.flight import Flight
from edgenode.link.store.budget import STORE_FULL
from edgenode.link.store.database import Database
from edgenode.link.wire.values import problem_from_pb, problem_to_pb

PATIENCE = 0.25  # seconds that what is under way may take
UNDER_WAY_BYTES = 4 << 20  # of one blob, at most
FETCHES = 2  # blobs that come from one peer at once
ALL_FETCHES = 32
ANSWER_SECONDS = 60.0
RETRY_SECONDS = 60.0
INTERESTS = 10_000  # blobs a peer asked for in vain, of which it is told
MOST_REQUESTS = 4096  # of a peer that wait
LINK_DOWN = "LINK_DOWN"
_LOST = frozenset({BLOB_UNKNOWN, BLOB_ELSEWHERE, "BLOB_DAMAGED", BLOB_TOO_LARGE})
_NO_ROOM = frozenset({STORE_FULL, BLOB_SHARE_FULL})
_FULL = "full_node"  # of a problem's metadata: who has no room
_MAY_COME = _NO_ROOM | {BLOB_UNKNOWN, BLOB_ELSEWHERE, BLOB_PENDING}

_log = logging.getLogger(__name__)


@dataclass(slots=True)
class _Want:
    """What a peer is to give. `problem`: why it did not, the last time; it is asked again later."""

    digest: str
    size: int
    problem: EdgenodeError | None = None


@dataclass(slots=True)
class _Peer:
    """One with which there is something to do. `ready`: wants to be asked for, in order; `asked`: questions without an answer,
    by number; `requests`: its own; `news`: blobs it is to ask for again; `room`: the link may have room, or is gone."""

    name: str
    wants: dict[str, _Want] = field(default_factory=dict)
    ready: dict[str, None] = field(default_factory=dict)
    fetches: dict[str, asyncio.Task[None]] = field(default_factory=dict)
    asked: dict[int, asyncio.Future[bytes]] = field(default_factory=dict)
    requests: deque[sync_pb2.BlobExchange] = field(default_factory=deque)
    server: asyncio.Task[None] | None = None
    interests: set[str] = field(default_factory=set)
    news: dict[str, None] = field(default_factory=dict)
    room: asyncio.Event = field(default_factory=asyncio.Event)

    @property
    def idle(self) -> bool:
        """Whether there is nothing to do with it any more."""
        return not (self.wants or self.fetches or self.requests or self.server or self.interests or self.news)


class BlobExchange:
    """See the module. `send` sends a frame to a peer, best effort; False if that cannot be now."""

    def __init__(
        self, database: Database, blobs: Blobs, send: Callable[[str, sync_pb2.Frame], bool], clock: Clock
    ) -> None:
        self._database = database
        self._blobs = blobs
        self._send = send
        self._clock = clock
        self._up: set[str] = set()  # peers with a session
        self._peers: dict[str, _Peer] = {}
        self._interested: dict[str, set[str]] = {}  # digest -> peers that asked for it in vain
        self._held_up: dict[str, None] = {}  # peers that wait for their turn, in order
        self._fetching = 0
        self._tasks: set[asyncio.Task[None]] = set()
        self._numbers = 0
        self._retry: asyncio.TimerHandle | None = None
        self._stopped = False
        blobs.why_not = self._why_not
        blobs.held_up = self._no_room_for
        blobs.arrived = self._settled
        blobs.swept = self.look

    async def look(self) -> None:
        """Want what tasks refer to and is not here, and nothing else. Raises as Database."""
        wanted = await self._database.read(rows.wanted)
        named = {(source, digest) for source, digest, _ in wanted}
        for peer in list(self._peers.values()):
            for digest in list(peer.wants):
                if (peer.name, digest) not in named and digest not in peer.fetches:
                    del peer.wants[digest]
                    peer.ready.pop(digest, None)
            self._forget_idle(peer)
        for source, digest, size in wanted:
            self._want(source, digest, size)

    def want(self, peer: str, refs: Iterable[BlobRef]) -> None:
        """A transaction stored tasks that came from a peer and refer to these."""
        for ref in refs:
            if self._blobs.whole(ref.digest) is None:
                self._want(peer, ref.digest, ref.size)

    def _want(self, name: str, digest: str, size: int) -> None:
        peer = self._peer(name)
        if digest not in peer.wants:
            peer.wants[digest] = _Want(digest, size)
            peer.ready[digest] = None
            self._blobs.begin_sweeping()
            self._pump(peer)

    def _peer(self, name: str) -> _Peer:
        peer = self._peers.get(name)
        if peer is None:
            peer = self._peers[name] = _Peer(name)
        return peer

    def _forget_idle(self, peer: _Peer) -> None:
        if peer.idle and self._peers.get(peer.name) is peer:
            del self._peers[peer.name]

    async def stop(self) -> None:
        """End what is under way; what came of it is kept. Safe to call twice."""
        self._stopped = True
        if self._retry is not None:
            self._retry.cancel()
        for name in list(self._up):
            self.closed(name)
        while self._tasks:
            await asyncio.wait(self._tasks)

    def _start(self, work: Coroutine[Any, Any, None], name: str) -> asyncio.Task[None]:
        task = asyncio.create_task(work, name=name)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        return task

    # --- sessions -----------------------------------------------------------------------------------------------------

    def established(self, name: str) -> None:
        """A session to a peer is up."""
        self.closed(name)
        self._up.add(name)
        peer = self._peers.get(name)
        if peer is not None:
            self._ask_again(peer)
            # The session counts as up once its events have returned.
            asyncio.get_running_loop().call_soon(self._pump, peer)

    @staticmethod
    def _ask_again(peer: _Peer) -> None:
        for want in peer.wants.values():
            want.problem = None
            if want.digest not in peer.fetches:
                peer.ready[want.digest] = None

    def closed(self, name: str) -> None:
        """It ended, and with it every exchange."""
        self._up.discard(name)
        peer = self._peers.get(name)
        if peer is None:
            return
        peer.requests.clear()
        for digest in peer.interests:
            self._interested[digest].discard(name)
            if not self._interested[digest]:
                del self._interested[digest]
        peer.interests.clear()
        peer.news.clear()
        peer.room.set()
        if peer.server is not None:
            peer.server.cancel()
            peer.server = None
        for future in peer.asked.values():
            if not future.done():
                future.set_exception(_link_down())
        peer.asked.clear()
        self._forget_idle(peer)

    def room(self, name: str) -> None:
        """What did not fit on the link to a peer may fit now."""
        peer = self._peers.get(name)
        if peer is not None:
            peer.room.set()
            self._tell(peer)

    def receive(self, name: str, message: sync_pb2.BlobExchange) -> None:
        """What a peer asks, answers or tells."""
        peer = self._peer(name)
        kind = message.WhichOneof("content")
        if kind == "request":
            self._take_request(peer, message)
        elif kind == "ready_digest":
            if message.ready_digest in peer.wants:
                peer.ready[message.ready_digest] = None  # where the last answer is being read as well: it is older
                self._pump(peer)
            self._forget_idle(peer)
        else:
            future = peer.asked.pop(message.exchange_id, None)
            if future is None or future.done():
                self._forget_idle(peer)
            elif kind == "problem":
                future.set_exception(from_problem(_said_by(peer.name, problem_from_pb(message.problem))))
            else:
                future.set_result(message.data)

    # --- asking -------------------------------------------------------------------------------------------------------

    def _pump(self, peer: _Peer) -> None:
        """Begin what can be begun of one peer."""
        while peer.ready and peer.name in self._up and len(peer.fetches) < FETCHES and not self._stopped:
            if self._fetching >= ALL_FETCHES:
                self._held_up[peer.name] = None
                return
            digest = next((digest for digest in peer.ready if digest not in peer.fetches), None)
            if digest is None:
                return
            del peer.ready[digest]
            self._fetching += 1
            work = self._fetch(peer, peer.wants[digest])
            peer.fetches[digest] = self._start(work, f"blob {digest} from {peer.name}")

    def _fetched(self, peer: _Peer, digest: str) -> None:
        """There is room for another, first of those who wait for it."""
        del peer.fetches[digest]
        self._fetching -= 1
        while self._held_up and self._fetching < ALL_FETCHES:
            name = next(iter(self._held_up))
            del self._held_up[name]
            if name in self._peers:
                self._pump(self._peers[name])
        self._pump(peer)
        self._forget_idle(peer)

    async def _fetch(self, peer: _Peer, want: _Want) -> None:
        try:
            if self._blobs.whole(want.digest) is None:
                offset = min(self._blobs.partial_bytes(want.digest), want.size)
                if offset < want.size:  # no room is taken for what is not there
                    await self._answered(peer, (await self._ask(peer, want.digest, offset, 1))[1])
                writer = await self._blobs.put(digest=want.digest, size=want.size, offset=offset, peer=peer.name)
                try:
                    await self._transfer(peer, want, writer)
                    await writer.finish()
                finally:
                    await writer.abandon()
            peer.wants.pop(want.digest, None)
            peer.ready.pop(want.digest, None)
        except EdgenodeError as error:
            self._failed(peer, want, error)
        except Exception as error:
            _log.exception("blob %s could not be fetched", want.digest)
            self._failed(peer, want, Internal("BLOB_DEFECT", repr(error), hint="this node's log has the details"))
        finally:
            self._fetched(peer, want.digest)

    def _failed(self, peer: _Peer, want: _Want, error: EdgenodeError) -> None:
        if error.reason == LINK_DOWN:
            peer.ready[want.digest] = None
            return
        known, want.problem = want.problem, error
        if error.reason != BLOB_PENDING:
            _log.warning("blob %s does not come from %s: %s", want.digest, peer.name, error)
        if error.reason in _LOST and (why := self._why_not(want.digest)) is not None:  # nor from anybody else
            self._blobs.given_up(want.digest, why)
            if known is None or known.reason not in _LOST:  # else two that want it of each other would ask for ever
                self._settled(want.digest)
        elif error.reason in _NO_ROOM and (why := self._no_room_for(want.digest)) is not None:
            self._blobs.given_up(want.digest, why)
            if known is None or known.reason not in _NO_ROOM:
                self._settled(want.digest)
        if self._retry is None and not self._stopped:
            self._retry = asyncio.get_running_loop().call_later(RETRY_SECONDS, self._try_again)

    def _try_again(self) -> None:
        self._retry = None
        for peer in list(self._peers.values()):
            self._ask_again(peer)
            self._pump(peer)

    async def _transfer(self, peer: _Peer, want: _Want, writer: BlobWriter) -> None:
        flight = Flight(PATIENCE)
        asked: deque[tuple[int, int, asyncio.Future[bytes]]] = deque()  # (number, end, answer)
        end = writer.size
        try:
            while writer.size < want.size:
                while end < want.size and flight.bytes < UNDER_WAY_BYTES and (flight.room or not asked):
                    size = min(max(flight.room, 1024), PIECE_BYTES - end % PIECE_BYTES, want.size - end)
                    number, answer = await self._ask(peer, want.digest, end, size)
                    end += size
                    flight.sent(Lane.BULK, end, size, self._clock.monotonic())
                    asked.append((number, end, answer))
                _, reached, answer = asked[0]
                data = await self._answered(peer, answer)
                asked.popleft()
                flight.acknowledged(Lane.BULK, reached, self._clock.monotonic())
                if len(data) != reached - writer.size:
                    what = f"{peer.name} gave {len(data)} bytes of {reached - writer.size}"
                    raise Unavailable("NO_ANSWER", what, hint="it is asked again")
                await writer.write(data)
        finally:
            for _, _, answer in asked:
                if not answer.cancel() and not answer.cancelled():
                    answer.exception()  # nobody waits for it

    @staticmethod
    async def _answered(peer: _Peer, answer: asyncio.Future[bytes]) -> bytes:
        try:
            async with asyncio.timeout(ANSWER_SECONDS):
                return await answer
        except TimeoutError:
            raise Unavailable("NO_ANSWER", f"{peer.name} does not answer", hint="it is asked again") from None

    async def _ask(self, peer: _Peer, digest: str, offset: int, size: int) -> tuple[int, asyncio.Future[bytes]]:
        self._numbers += 1
        number = self._numbers
        request = sync_pb2.BlobPieceRequest(digest=digest, offset=offset, size_bytes=size)
        message = sync_pb2.BlobExchange(exchange_id=number, request=request)
        await self._send_surely(peer, message)
        answer = peer.asked[number] = asyncio.get_running_loop().create_future()
        answer.add_done_callback(lambda _: peer.asked.pop(number, None))  # also where nobody waits for it any more
        return number, answer

    async def _send_surely(self, peer: _Peer, message: sync_pb2.BlobExchange) -> None:
        """Sends it once the link has room. Raises Unavailable (LINK_DOWN)."""
        while peer.name in self._up:
            peer.room.clear()
            if self._send(peer.name, sync_pb2.Frame(blobs=message)):
                return
            await peer.room.wait()
        raise _link_down()

    # --- answering ----------------------------------------------------------------------------------------------------

    def _take_request(self, peer: _Peer, message: sync_pb2.BlobExchange) -> None:
        try:
            check_digest(message.request.digest)  # so that what waits is bounded in bytes, too
            if len(peer.requests) >= MOST_REQUESTS:
                raise ResourceExhausted(
                    "TOO_MANY_REQUESTS", f"{MOST_REQUESTS} wait already", hint="ask for less at once"
                )
        except EdgenodeError as error:
            answer = sync_pb2.BlobExchange(exchange_id=message.exchange_id, problem=problem_to_pb(error.problem))
            self._send(peer.name, sync_pb2.Frame(blobs=answer))
            self._forget_idle(peer)
            return
        peer.requests.append(message)
        if peer.server is None:
            peer.server = self._start(self._serve(peer), f"blobs for {peer.name}")

    async def _serve(self, peer: _Peer) -> None:
        try:
            while peer.requests:
                message = peer.requests.popleft()
                request, answer = message.request, sync_pb2.BlobExchange(exchange_id=message.exchange_id)
                try:
                    answer.data = await self._blobs.piece(request.digest, request.offset, request.size_bytes)
                except EdgenodeError as error:
                    answer.problem.CopyFrom(problem_to_pb(error.problem))
                    if error.reason in _MAY_COME and len(peer.interests) < INTERESTS:
                        peer.interests.add(request.digest)
                        self._interested.setdefault(request.digest, set()).add(peer.name)
                await self._send_surely(peer, answer)
        except Unavailable as error:
            _log.debug("%s was not answered: %s", peer.name, error)
        finally:
            if peer.server is asyncio.current_task():
                peer.server = None
                self._forget_idle(peer)

    def _settled(self, digest: str) -> None:
        """It is here whole, or nobody has it: those who asked for it in vain are told, and ask again."""
        for name in self._interested.pop(digest, ()):
            peer = self._peers[name]
            peer.interests.discard(digest)
            peer.news[digest] = None
            self._tell(peer)

    def _tell(self, peer: _Peer) -> None:
        """Tell it what is settled, as far as the link has room."""
        while peer.news:
            digest = next(iter(peer.news))
            if not self._send(peer.name, sync_pb2.Frame(blobs=sync_pb2.BlobExchange(ready_digest=digest))):
                return
            del peer.news[digest]
        self._forget_idle(peer)

    def _no_room_for(self, digest: str) -> EdgenodeError | None:
        """See Blobs.held_up: whoever asks for it is told that nobody gives it as there is no room for it."""
        wants = (peer.wants.get(digest) for peer in self._peers.values())
        problems = [want.problem for want in wants if want is not None]
        if any(error is None or error.reason == BLOB_PENDING for error in problems):
            return None
        full = next((error.problem for error in problems if error is not None and error.reason in _NO_ROOM), None)
        return None if full is None else from_problem(replace(full, retry_after=RETRY_SECONDS))

    def _why_not(self, digest: str) -> EdgenodeError | None:
        """See Blobs.why_not."""
        problem = None
        for name, peer in self._peers.items():
            want = peer.wants.get(digest)
            if want is None:
                continue
            if want.problem is None or want.problem.reason not in _LOST:
                return None
            problem = f"{name} says {want.problem.reason}"
        return Unavailable(
            BLOB_ELSEWHERE,
            f"{digest} does not come: {problem or 'nobody is known who has it'}",
            hint="read it on the node that put it, or have it put there again",
            digest=digest,
            retryable=False,
        )


def _said_by(name: str, problem: Problem) -> Problem:
    """What a peer answers; of one that lacks room it says who that is, which is not always the reader's own neighbour."""
    if problem.reason not in _NO_ROOM or _FULL in problem.metadata:
        return problem
    return replace(
        problem, message=f"{name} has no room: {problem.message}", metadata={**problem.metadata, _FULL: name}
    )


def _link_down() -> Unavailable:
    return Unavailable(LINK_DOWN, "the link ended", hint="it goes on with the next one")
