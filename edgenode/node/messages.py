"""MessageService of an edge."""

from __future__ import annotations

from collections.abc import AsyncIterator

from edgenode.api.message.v1 import message_service_pb2, message_service_pb2_grpc
from edgenode.link.ports import Clock
from edgenode.link.wire.status import Context
from edgenode.link.wire.subscriptions import SubscribeStream
from edgenode.node.message_log import MessageLog
from edgenode.node.message_rules import MessageRules
from edgenode.node.publishing import PublishStream, stopping
from edgenode.node.subscriptions import LogSubscriptions


class MessageService(message_service_pb2_grpc.MessageServiceServicer):
    """The servicer."""

    def __init__(self, log: MessageLog, subscriptions: LogSubscriptions, rules: MessageRules, clock: Clock) -> None:
        self._log = log
        self._subscriptions = subscriptions
        self._rules = rules
        self._clock = clock
        self._streams: set[PublishStream | SubscribeStream] = set()
        self._stopping = False

    def stop(self) -> None:
        """End all streams, what was taken before is still acknowledged; new streams are refused."""
        self._stopping = True
        for stream in self._streams:
            stream.end(stopping())

    async def Publish(
        self, request_iterator: AsyncIterator[message_service_pb2.PublishRequest], context: Context
    ) -> None:
        """See MessageService."""
        await self._serve(PublishStream(self._log, self._rules, self._clock.wall, request_iterator, context))

    async def Subscribe(
        self, request_iterator: AsyncIterator[message_service_pb2.SubscribeRequest], context: Context
    ) -> None:
        """See MessageService."""
        await self._serve(SubscribeStream(self._subscriptions, request_iterator, context))

    async def _serve(self, stream: PublishStream | SubscribeStream) -> None:
        if self._stopping:
            raise stopping()
        self._streams.add(stream)
        try:
            await stream.run()
        finally:
            self._streams.discard(stream)
