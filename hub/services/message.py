"""MessageService of the hub: what the edges published, in the order it came, for whoever subscribes."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable

from edgenode.api.message.v1 import message_service_pb2 as pb
from edgenode.api.message.v1 import message_service_pb2_grpc as pb_grpc
from edgenode.link.errors import EdgenodeError, ResourceExhausted, Unavailable, Unimplemented
from edgenode.link.failpoints import Failpoint, reach
from edgenode.link.model.lanes import Applied
from edgenode.link.wire.status import Context
from edgenode.link.wire.subscriptions import Stretch, SubscribeStream, start_after, subscription_in_use
from hub.services.background import Background
from hub.store.ports import MessageStore
from hub.store.records import Intake

SWEEP_BYTES = 4 << 20  # retention is looked at after this much came in
SWEEP_ENTRIES = 10_000  # or after the parent has taken so many
CONSUMER_PREFIX = "subscription/"


class MessageDesk:
    """Takes messages from the links, wakes subscribers, keeps the log within its bounds. Bounds in bytes.

    It is the `edgenode.link.wire.subscriptions.MessageSource` of the hub's subscribers.
    """

    def __init__(self, store: MessageStore, keep_bytes: int, drop_bytes: int) -> None:
        """`drop_bytes`: from there on even what a subscription has not read goes; 0: it stays, and no more is taken."""
        self._store = store
        self._keep_bytes = keep_bytes
        self._drop_bytes = drop_bytes
        self._full = False
        self._listeners: list[Callable[[], None]] = []
        self._attached: set[str] = set()
        self._background = Background()
        self._since_sweep = 0
        self._sweeping = False
        self._parent_swept = 0
        self.last_sequence = 0

    async def start(self) -> None:
        """Read where the log stands; the bounds may have been other ones when it was written."""
        _, self.last_sequence = await self._store.bounds()
        self._sweep_soon()

    async def stop(self) -> None:
        """Wait for what is under way."""
        await self._background.close()

    # --- from the links ---

    async def apply(self, intake: Intake) -> Applied:
        """Store a batch of a node's message lane. Raises ResourceExhausted (LANE_FULL, STORE_FULL)."""
        return await self._background.finish(self._apply(intake), "message intake")

    async def _apply(self, intake: Intake) -> Applied:
        try:
            applied, last = await self._store.append(intake)
        except ResourceExhausted:
            self._full = True
            self._sweep_soon()
            raise
        reach(Failpoint.MESSAGES_COMMITTED)
        self._full = False
        self.last_sequence = max(self.last_sequence, last)
        for wake in self._listeners:
            wake()
        self._since_sweep += sum(len(segment.payload) for segment in intake.segments)
        if self._since_sweep >= min(SWEEP_BYTES, max(self._keep_bytes // 16, 1)):
            self._sweep_soon()
        return applied

    def parent_acknowledged(self, sequence: int) -> None:
        """The parent has the log up to `sequence`: what only it still needed may go, looked at now and then."""
        if sequence - self._parent_swept >= SWEEP_ENTRIES:
            self._parent_swept = sequence
            self._sweep_soon()

    def _sweep_soon(self) -> None:
        if not self._sweeping:
            self._sweeping = True
            self._since_sweep = 0
            self._background.start(self._sweep(), "message retention")

    async def _sweep(self) -> None:
        try:
            while await self._store.sweep(self._keep_bytes, self._drop_bytes):
                pass
        finally:
            self._sweeping = False

    # --- for subscribers ---

    @property
    def node(self) -> str:
        """See MessageSource: every segment here names its origin."""
        return ""

    async def attach(self, subscription: str, position: int, after: int) -> int:
        """See MessageSource."""
        if not subscription:
            return start_after(position, after, *await self._store.bounds())
        if subscription in self._attached:
            raise subscription_in_use(subscription)
        self._attached.add(subscription)
        try:
            name = CONSUMER_PREFIX + subscription
            known = await self._store.subscribed(name)
            if known is not None:
                return known
            return await self._store.subscribe(name, start_after(position, after, *await self._store.bounds()))
        except BaseException:
            self.detach(subscription)
            raise

    def detach(self, subscription: str) -> None:
        """See MessageSource."""
        self._attached.discard(subscription)

    async def read(self, after: int, max_count: int, max_bytes: int) -> Stretch:
        """See MessageSource."""
        reading = await self._store.read(after, max_count, max_bytes)
        return Stretch(reading.chunk, reading.state.last, "", reading.gap_reason)

    async def acknowledge(self, subscription: str, sequence: int) -> None:
        """See MessageSource."""
        await self._store.acknowledge(CONSUMER_PREFIX + subscription, sequence)
        if self._full:  # whoever waits for room need not wait until he asks again
            self._sweep_soon()

    def listen(self, wake: Callable[[], None]) -> None:
        """See MessageSource."""
        self._listeners.append(wake)

    def unlisten(self, wake: Callable[[], None]) -> None:
        """See MessageSource."""
        self._listeners.remove(wake)


class MessageService(pb_grpc.MessageServiceServicer):
    """Serves subscriptions."""

    def __init__(self, desk: MessageDesk) -> None:
        self._desk = desk
        self._streams: set[SubscribeStream] = set()
        self._stopping = False

    async def Publish(
        self, request_iterator: AsyncIterator[pb.PublishRequest], context: Context
    ) -> AsyncIterator[pb.PublishResponse]:
        """Not here."""
        raise Unimplemented(
            "PUBLISH_ON_AN_EDGE", "a hub takes messages from edges only", hint="publish on the edge node of your device"
        )
        yield pb.PublishResponse()  # makes it a generator

    async def Subscribe(self, request_iterator: AsyncIterator[pb.SubscribeRequest], context: Context) -> None:
        """Messages from a position on, as credits allow."""
        if self._stopping:
            raise _stopping()
        stream = SubscribeStream(self._desk, request_iterator, context)
        self._streams.add(stream)
        try:
            await stream.run()
        finally:
            self._streams.discard(stream)

    def stop(self) -> None:
        """End every subscription and refuse new ones: the hub stops."""
        self._stopping = True
        for stream in self._streams:
            stream.end(_stopping())


def _stopping() -> EdgenodeError:
    return Unavailable("HUB_STOPPING", "the hub is stopping", hint="subscribe again once it is up")
