"""MessageService of the hub: what the edges published, in the order it came, for whoever subscribes."""

from __future__ import annotations

import asyncio
import logging
import re
from collections.abc import AsyncIterator, Callable

from google.protobuf.message import DecodeError

from edgenode.api.message.v1 import message_pb2
from edgenode.api.message.v1 import message_service_pb2 as pb
from edgenode.api.message.v1 import message_service_pb2_grpc as pb_grpc
from edgenode.link.errors import AlreadyExists, EdgenodeError, InvalidArgument, Unavailable, Unimplemented
from edgenode.link.model.lanes import Applied, Chunk, Segment
from edgenode.link.model.names import check_name, topic_matcher
from edgenode.link.wire.status import Context
from edgenode.link.wire.values import timestamp_to_pb
from hub.store.ports import MessageStore
from hub.store.records import Intake

CHUNK_COUNT = 1024
CHUNK_BYTES = 512 * 1024
SCANNED_STEP = 1024  # a subscriber to which nothing matches hears of its position this often, in entries
MAX_CREDITS = 1 << 30
SWEEP_BYTES = 4 << 20  # retention is looked at after this much came in

_log = logging.getLogger(__name__)


class MessageDesk:
    """Takes messages from the links, wakes subscribers, keeps the log within its bounds. Bounds in bytes."""

    def __init__(self, store: MessageStore, keep_bytes: int, hard_bytes: int) -> None:
        self._store = store
        self._keep_bytes = keep_bytes
        self._hard_bytes = max(hard_bytes, keep_bytes)
        self._subscribers: set[Callable[[], None]] = set()
        self._since_sweep = 0
        self._sweeper: asyncio.Task[None] | None = None
        self.poison_count = 0
        self.last_sequence = 0

    @property
    def store(self) -> MessageStore:
        """Where the messages are."""
        return self._store

    async def start(self) -> None:
        """Read where the log stands."""
        _, self.last_sequence = await self._store.bounds()

    async def apply(self, intake: Intake) -> Applied:
        """Store a batch of a node's message lane."""
        applied, last = await self._store.append(intake)
        self.last_sequence = max(self.last_sequence, last)
        for wake in self._subscribers:
            wake()
        self._since_sweep += sum(len(segment.payload) for segment in intake.segments)
        if self._since_sweep >= min(SWEEP_BYTES, max(self._keep_bytes // 16, 1)) and self._sweeper is None:
            self._since_sweep = 0
            self._sweeper = asyncio.create_task(self._sweep(), name="message retention")
        return applied

    async def stop(self) -> None:
        """Wait for a sweep that is under way."""
        if self._sweeper is not None:
            await asyncio.wait({self._sweeper})

    def watch(self, wake: Callable[[], None]) -> Callable[[], None]:
        """Call `wake` when there are new messages; returns what ends that."""
        self._subscribers.add(wake)
        return lambda: self._subscribers.discard(wake)

    async def _sweep(self) -> None:
        try:
            while await self._store.sweep(self._keep_bytes, self._hard_bytes):
                pass
        except EdgenodeError as error:
            _log.warning("old messages could not be deleted: %s", error)
        finally:
            self._sweeper = None


class MessageService(pb_grpc.MessageServiceServicer):
    """Serves subscriptions."""

    def __init__(self, desk: MessageDesk) -> None:
        self._desk = desk
        self._in_use: set[str] = set()
        self._running: set[_Subscription] = set()

    async def Publish(
        self, request_iterator: AsyncIterator[pb.PublishRequest], context: Context
    ) -> AsyncIterator[pb.PublishResponse]:
        """Not here."""
        raise Unimplemented(
            "PUBLISH_ON_AN_EDGE", "a hub takes messages from edges only", hint="publish on the edge node of your device"
        )
        yield pb.PublishResponse()  # makes it a generator

    async def Subscribe(
        self, request_iterator: AsyncIterator[pb.SubscribeRequest], context: Context
    ) -> AsyncIterator[pb.SubscribeResponse]:
        """Messages from a position on, as credits allow."""
        first = await anext(aiter(request_iterator), None)
        if first is None or not first.HasField("start"):
            raise InvalidArgument(
                "NO_START", "the first frame names no topics", hint="send `start` first", field="start"
            )
        topics = topic_matcher(list(first.start.topics))
        name = first.start.subscription
        if name:
            check_name(name, "subscription")
            if name in self._in_use:
                raise AlreadyExists(
                    "SUBSCRIPTION_IN_USE", f"another stream has subscription {name}", hint="end it, or choose a name"
                )
            self._in_use.add(name)
        subscription = None
        try:
            after = await self._position(first.start)
            subscription = _Subscription(self._desk, topics, name, after)
            self._running.add(subscription)
            subscription.take(first)
            async for response in subscription.run(request_iterator):
                yield response
        finally:
            self._in_use.discard(name)
            if subscription is not None:
                self._running.discard(subscription)

    def stop(self) -> None:
        """End every subscription: the hub stops."""
        for subscription in self._running:
            subscription.stop()

    async def _position(self, start: pb.SubscribeStart) -> int:
        first, last = await self._desk.store.bounds()
        match start.position:
            case pb.START_POSITION_START:
                after = first - 1
            case pb.START_POSITION_CURSOR:
                after = start.after_sequence
                if not 0 <= after <= last:
                    raise InvalidArgument(
                        "BAD_CURSOR", f"after_sequence is {after}; the log ends at {last}", hint="start anew from START"
                    )
            case pb.START_POSITION_NEW | pb.START_POSITION_UNSPECIFIED:
                after = last
            case other:
                raise InvalidArgument(
                    "UNKNOWN_VALUE", f"position is {other}", hint="NEW, START or CURSOR", field="position"
                )
        if start.subscription:
            return await self._desk.store.subscribe(f"subscription/{start.subscription}", after)
        return after


class _Subscription:
    """One stream: a reader task takes acknowledgements and credits, `run` writes what they allow."""

    def __init__(self, desk: MessageDesk, topics: re.Pattern[str], name: str, after: int) -> None:
        self._desk = desk
        self._topics = topics
        self._name = f"subscription/{name}" if name else ""
        self._after = after  # everything up to here was looked at
        self._told = after
        self._acknowledged = 0
        self._credits = 0
        self._wake = asyncio.Event()
        self._problem: EdgenodeError | None = None
        self._ended = False

    def take(self, request: pb.SubscribeRequest) -> None:
        """Note credits and an acknowledgement."""
        self._credits = min(self._credits + max(request.credit_count, 0), MAX_CREDITS)
        self._acknowledged = max(self._acknowledged, request.ack_sequence)
        self._wake.set()

    def stop(self) -> None:
        """End with HUB_STOPPING."""
        self._problem = Unavailable("HUB_STOPPING", "the hub is stopping", hint="subscribe again once it is up")
        self._wake.set()

    async def run(self, requests: AsyncIterator[pb.SubscribeRequest]) -> AsyncIterator[pb.SubscribeResponse]:
        """Responses, until the subscriber ends its side."""
        reader = asyncio.create_task(self._read(requests), name="subscription reader")
        unwatch = self._desk.watch(self._wake.set)
        stored = 0
        try:
            while True:
                self._wake.clear()
                if self._problem is not None:
                    raise self._problem
                if self._name and stored < (due := min(self._acknowledged, self._after)):
                    await self._desk.store.acknowledge(self._name, due)
                    stored = due
                    continue  # the last acknowledgement may have come meanwhile, with the end behind it
                if self._ended:
                    return
                response = await self._next() if self._credits > 0 else None
                if response is not None:
                    yield response
                elif self._credits <= 0 or self._after >= self._desk.last_sequence:
                    await self._wake.wait()
        finally:
            unwatch()
            reader.cancel()
            await asyncio.wait({reader})

    async def _read(self, requests: AsyncIterator[pb.SubscribeRequest]) -> None:
        try:
            async for request in requests:
                self.take(request)
        except Exception as error:  # the stream broke; whoever waits for it is told by its end
            _log.debug("a subscriber's stream ended: %r", error)
        finally:
            self._ended = True
            self._wake.set()

    async def _next(self) -> pb.SubscribeResponse | None:
        """What comes next, as far as credits allow; None when there is nothing to tell."""
        if self._after >= self._desk.last_sequence:
            return None
        chunk = await self._desk.store.read(self._after, CHUNK_COUNT, CHUNK_BYTES)
        response = pb.SubscribeResponse()
        end = self._desk.last_sequence if not chunk.segments else chunk.base - 1
        if end > self._after:
            self._gap(response, end, "RETENTION")
        self._scan(chunk, response)
        response.scanned_sequence = self._after
        if not response.messages and not response.HasField("gap") and self._after - self._told < SCANNED_STEP:
            return None
        self._told = self._after
        return response

    def _gap(self, response: pb.SubscribeResponse, last: int, reason: str) -> None:
        response.gap.CopyFrom(pb.MessageGap(first_sequence=self._after + 1, last_sequence=last, reason=reason))
        self._after = last

    def _scan(self, chunk: Chunk, response: pb.SubscribeResponse) -> None:
        base = chunk.base
        for segment in chunk.segments:
            end = base + segment.count - 1
            try:
                batch = message_pb2.MessageBatch.FromString(segment.payload)
                if len(batch.messages) != segment.count:
                    raise DecodeError(f"{len(batch.messages)} messages where {segment.count} were announced")
            except DecodeError as error:
                if response.messages or response.HasField("gap"):
                    return  # a frame's gap comes before its messages: tell of this one in the next frame
                self._desk.poison_count += 1
                _log.warning("messages %d to %d cannot be read: %s", self._after + 1, end, error)
                self._gap(response, end, "UNREADABLE")
            else:
                self._match(segment, base, batch, response)
                if self._credits <= 0 and self._after < end:
                    return
            base = end + 1

    def _match(
        self, segment: Segment, base: int, batch: message_pb2.MessageBatch, response: pb.SubscribeResponse
    ) -> None:
        accepted = timestamp_to_pb(segment.accepted)
        for index in range(max(self._after + 1 - base, 0), segment.count):
            message = batch.messages[index]
            if self._topics.fullmatch(message.topic) is not None:
                if self._credits <= 0:
                    return
                self._credits -= 1
                response.messages.add(
                    message=message,
                    sequence=base + index,
                    origin_node=segment.origin_node,
                    origin_epoch=segment.origin_epoch,
                    origin_sequence=segment.origin_sequence + index,
                    accept_time=accepted,
                )
            self._after = base + index
