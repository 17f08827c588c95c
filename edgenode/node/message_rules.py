"""Which messages a node takes. A message that breaks a rule is refused by itself; the rest of its frame is stored."""

from __future__ import annotations

from collections.abc import Sequence

from edgenode.api.message.v1 import message_pb2
from edgenode.link.errors import EdgenodeError
from edgenode.link.model.names import check_topic
from edgenode.link.model.problem import Problem
from edgenode.link.wire import checks
from edgenode.link.wire.message_runs import MessageShape

MAX_BATCH = 1024
MAX_KEY = 256
MAX_TRACEPARENT = 128
MAX_KNOWN_TOPICS = 16_384
MAX_KNOWN_MEDIA_TYPES = 256
MAX_KNOWN_SHAPES = 16
MAX_SHAPE_BYTES = 8 << 20  # of memory, of all together
LEAST_RUN = 16  # messages, below which each is looked at


class MessageRules:
    """Checks messages; `max_payload` in bytes. Topics and media types that passed are remembered: most checks look them up."""

    def __init__(self, max_payload: int) -> None:
        self.max_payload = max_payload
        self._topics: set[str] = set()
        self._topic_bytes: set[bytes] = set()  # the same, as they stand in a frame
        self._media_types = {""}
        self._shapes: dict[tuple[str, str], MessageShape] = {}  # of what passed, by key and media type

    def refusals(self, messages: Sequence[message_pb2.Message], batch: bytes) -> list[tuple[int, Problem]]:
        """(index, problem) of the messages that are refused; `batch` has all of them, serialised."""
        if len(messages) >= LEAST_RUN and self._is_good_run(messages, batch):
            return []
        # Nothing in a frame is larger than the frame: small frames, the usual ones, need no look at each payload.
        small = len(batch) <= self.max_payload
        topics, media_types = self._topics, self._media_types
        refused: list[tuple[int, Problem]] = []
        for index, message in enumerate(messages):
            if (
                message.topic in topics
                and (small or len(message.payload) <= self.max_payload)
                and len(message.key) <= MAX_KEY
                and message.content_type in media_types
                and not message.traceparent
                and not message.headers
            ):
                continue
            try:
                self._check(message)
            except EdgenodeError as error:
                refused.append((index, error.problem))
        return refused

    def _is_good_run(self, messages: Sequence[message_pb2.Message], batch: bytes) -> bool:
        """Whether all have what the first has, which is good, but for good topics and payloads of their own: nobody looks at
        each then."""
        first, last = messages[0], messages[-1]
        facts = (first.key, first.content_type)
        if facts != (last.key, last.content_type):
            return False
        shape = self._shapes.get(facts)
        if shape is None:
            if first.headers or first.traceparent:
                return False
            try:
                self._check(first)
            except EdgenodeError:
                return False
            if len(self._shapes) >= MAX_KNOWN_SHAPES:
                self._shapes.clear()
            shape = MessageShape(first, self.max_payload, self._topic_bytes, self._is_topic)
            self._shapes[facts] = shape
        good = shape.holds(batch)
        if sum(shape.held for shape in self._shapes.values()) > MAX_SHAPE_BYTES:
            self._shapes.clear()
        return good

    def _is_topic(self, topic: bytes) -> bool:
        try:
            self._check_topic(str(topic, "latin-1"))  # whose letters beyond ASCII are in no topic
        except EdgenodeError:
            return False
        return True

    def _check_topic(self, topic: str) -> None:
        """Raises InvalidArgument."""
        if topic not in self._topics:
            check_topic(topic)
            if len(self._topics) >= MAX_KNOWN_TOPICS:
                self._topics.clear()
                self._topic_bytes.clear()
            self._topics.add(topic)
            self._topic_bytes.add(topic.encode())

    def _check(self, message: message_pb2.Message) -> None:
        """Raises InvalidArgument or ResourceExhausted naming the field."""
        self._check_topic(message.topic)
        checks.fits(len(message.payload), self.max_payload, "payload", "MESSAGE_TOO_LARGE")
        checks.short(message.key, MAX_KEY, "key")
        if message.content_type not in self._media_types:
            checks.media_type(message.content_type, "content_type")
            if len(self._media_types) >= MAX_KNOWN_MEDIA_TYPES:
                self._media_types = {""}
            self._media_types.add(message.content_type)
        checks.short(message.traceparent, MAX_TRACEPARENT, "traceparent")
        if message.headers:
            checks.free_facts(message.headers, "headers")
