"""Which messages a node takes. A message that breaks a rule is refused by itself; the rest of its frame is stored."""

from __future__ import annotations

from collections.abc import Sequence

from edgenode.api.message.v1 import message_pb2
from edgenode.link.errors import EdgenodeError
from edgenode.link.model.names import check_topic
from edgenode.link.model.problem import Problem
from edgenode.link.wire import checks
from edgenode.link.wire.message_runs import MessageRun

MAX_BATCH = 1024
MAX_KEY = 256
MAX_TRACEPARENT = 128
MAX_KNOWN_TOPICS = 16_384
MAX_KNOWN_MEDIA_TYPES = 256
MAX_KNOWN_RUNS = 16
LEAST_RUN = 16  # messages, below which each is looked at


class MessageRules:
    """Checks messages; `max_payload` in bytes. Topics and media types that passed are remembered: most checks look them up."""

    def __init__(self, max_payload: int) -> None:
        self.max_payload = max_payload
        self._topics: set[str] = set()
        self._media_types = {""}
        self._runs: dict[tuple[str, str, str], MessageRun] = {}  # of what passed, by topic, key and media type

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
        """Whether all have what the first has, which is good, and no payload is too large: nobody looks at each then."""
        first, last = messages[0], messages[-1]
        facts = (first.topic, first.key, first.content_type)
        if facts != (last.topic, last.key, last.content_type):
            return False
        run = self._runs.get(facts)
        if run is None:
            if first.headers or first.traceparent:
                return False
            try:
                self._check(first)
            except EdgenodeError:
                return False
            if len(self._runs) >= MAX_KNOWN_RUNS:
                self._runs.clear()
            run = self._runs[facts] = MessageRun(first)
        return run.holds(batch, self.max_payload)

    def _check(self, message: message_pb2.Message) -> None:
        """Raises InvalidArgument or ResourceExhausted naming the field."""
        if message.topic not in self._topics:
            check_topic(message.topic)
            if len(self._topics) >= MAX_KNOWN_TOPICS:
                self._topics.clear()
            self._topics.add(message.topic)
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
