"""Messages that have most in common, written as a batch, and known again in one, without a look at their fields.

To make a protobuf message of each, or to read its fields, costs several times what its bytes do. Fields stand in the order of
their numbers, as protobuf writes them itself: topic, key, payload, media type. So what stands before a payload, the message's
lead, follows from its topic and its length, and what stands behind it, its tail, is the same in all of them. Messages that
differ in their payload alone, a run, are a join of such bytes.

Messages that differ in topic and payload, those of one shape, are known again by their leads. A lead that was read once is
looked up from then on, and tells where the next message begins. Where it is new, as many are where topics and lengths vary,
its parts are looked at one by one: what stands before the topic, which tells where all the rest is; the topic; what stands
between topic and payload. Either way the first look takes in the tail of the message before. So every byte is looked at but
those of the payloads, and their number follows from what was looked at: nothing else fits between. A batch with anything else
in it, or in another order, is not of the shape, that is all.
"""

from __future__ import annotations

from collections.abc import Callable, Container, Sequence
from itertools import chain, repeat
from typing import NamedTuple

from edgenode.api.message.v1 import message_pb2
from edgenode.link.wire.varints import content_size, opening, read_varint, varint

_MESSAGES_TAG = b"\x0a"  # MessageBatch.messages
_TOPIC_TAG = b"\x0a"  # Message.topic
_PAYLOAD_TAG = b"\x1a"  # Message.payload
_MAX_LEADS = 1024
_LEARNT = 64  # leads of a batch: where few of them come again, to learn them all would cost more than it saves
_HINTS = 4  # lengths of messages and of payloads have a byte or two, most of them
_HELD = 320  # bytes of memory of a lead or a layout with the longest topic, beside those of key and tail


class MessageRun:
    """Writes messages that have all of `common` but its payload, which is not looked at."""

    __slots__ = ("_head", "_leads", "_tail")

    def __init__(self, common: message_pb2.Message) -> None:
        self._head = message_pb2.Message(topic=common.topic, key=common.key).SerializeToString()
        self._tail = _behind_payload(common)
        self._leads: dict[int, bytes] = {}  # what stands before a payload of that length

    def batch(self, payloads: Sequence[bytes]) -> bytes:
        """A MessageBatch of such messages, serialised."""
        leads = self._leads
        sizes = list(map(len, payloads))
        if missing := set(sizes).difference(leads):
            if len(leads) > _MAX_LEADS:
                leads.clear()
                missing = set(sizes)
            leads.update((size, self._lead(size)) for size in missing)
        return b"".join(
            chain.from_iterable(zip(map(leads.__getitem__, sizes), payloads, repeat(self._tail), strict=False))
        )

    def _lead(self, size: int) -> bytes:
        head = self._head + opening(_PAYLOAD_TAG, size)
        return _MESSAGES_TAG + varint(len(head) + size + len(self._tail)) + head


class _Layout(NamedTuple):
    """Of messages of one length with topics of one length: where things stand, counted from the first byte."""

    topic_at: int
    topic_end: int
    lead_end: int
    size: int
    middle: bytes  # from topic to payload
    hint: tuple[int, int]  # where the topic's length stands, and what is to be added to it to have the lead's


class MessageShape:
    """Knows messages that have all of `common` but topic and payload.

    `topics` has some of the topics that may be, `is_topic` says it of any other, and of none that is longer than topics are; a
    payload has at most `most` bytes. What is remembered grows with what is looked at: whoever keeps the shape bounds it.
    """

    __slots__ = ("_hints", "_is_topic", "_key", "_layouts", "_most", "_sizes", "_tail", "_topics")

    def __init__(
        self, common: message_pb2.Message, most: int, topics: Container[bytes], is_topic: Callable[[bytes], bool]
    ) -> None:
        self._key = message_pb2.Message(key=common.key).SerializeToString()
        self._tail = _behind_payload(common)
        self._most = most
        self._topics = topics
        self._is_topic = is_topic
        self._sizes: dict[bytes, int] = {}  # of messages, by the tail of the one before and their lead
        self._layouts: dict[bytes, _Layout] = {}  # by that tail and what stands before the topic
        self._hints: list[tuple[int, int]] = []  # of the layouts that were learnt last

    @property
    def held(self) -> int:
        """Bytes of memory, at most."""
        return (len(self._sizes) + len(self._layouts)) * (_HELD + len(self._key) + len(self._tail))

    def holds(self, batch: bytes) -> bool:
        """Whether a serialised MessageBatch is such messages alone."""
        batch = self._tail + batch  # so that the first message stands behind a tail like all others
        start = self._skip(batch)
        return self._read(batch, start) == len(batch) and batch.endswith(self._tail)

    def _skip(self, batch: bytes) -> int:
        """The first message whose lead is not known."""
        known, hints, before, end = self._sizes.get, self._hints, len(self._tail), len(batch)
        start, length_at, beside = before, 0, 0
        try:
            while start < end:
                size = known(batch[start - before : start + batch[start + length_at] + beside])
                if size is None:
                    for length_at, beside in hints:
                        if size := known(batch[start - before : start + batch[start + length_at] + beside]):
                            break
                    else:
                        return start
                start += size
        except IndexError:  # it ends within a message
            pass
        return start

    def _read(self, batch: bytes, start: int) -> int:
        """Behind the last of the messages from `start` on; -1 where there are others among them."""
        layouts, topics, before, end = self._layouts.get, self._topics, len(self._tail), len(batch)
        left = _LEARNT
        while start < end:
            layout = (
                layouts(batch[start - before : start + 5])  # messages of 128 bytes and more
                or layouts(batch[start - before : start + 4])  # and of less
                or self._layout(batch, start)
            )
            if layout is None:
                return -1
            topic_at, topic_end, lead_end, size, middle, hint = layout
            topic = batch[start + topic_at : start + topic_end]
            if batch[start + topic_end : start + lead_end] != middle or (
                topic not in topics and not self._is_topic(topic)
            ):
                return -1
            if left and start + size <= end:  # half a topic is none
                self._sizes[batch[start - before : start + lead_end]] = size
                if hint not in self._hints:
                    self._hints.insert(0, hint)
                    del self._hints[_HINTS:]
                left -= 1
            start += size
        return start

    def _layout(self, batch: bytes, start: int) -> _Layout | None:
        """That of the message which begins at `start`; None where it does not begin as one of these."""
        before = len(self._tail)
        for width in (6, 7):  # messages of 16 KiB and more, topics of 128 letters and more
            if layout := self._layouts.get(batch[start - before : start + width]):
                return layout
        try:
            length, topic_tag_at = read_varint(batch, start + len(_MESSAGES_TAG))
            topic, topic_at = read_varint(batch, topic_tag_at + len(_TOPIC_TAG))
        except IndexError:
            return None
        heading = self._tail + _MESSAGES_TAG + varint(length) + _TOPIC_TAG + varint(topic)
        size, topic_at, topic_end = topic_tag_at + length - start, topic_at - start, topic_at + topic - start
        payload = content_size(size - topic_end - len(self._key) - len(self._tail))
        # Lengths that are written in more bytes than they need, or tags of something else, are not in what was made here.
        if not batch.startswith(heading, start - before) or not 0 <= payload <= self._most:
            return None
        middle = self._key + opening(_PAYLOAD_TAG, payload)
        lead_end, length_at = topic_end + len(middle), topic_tag_at + len(_TOPIC_TAG)
        # A length in two bytes, of 128 to 255, has itself as its first byte: that byte is looked at in either case.
        hint = (length_at - start, lead_end - batch[length_at])
        layout = self._layouts[heading] = _Layout(topic_at, topic_end, lead_end, size, middle, hint)
        return layout


def _behind_payload(common: message_pb2.Message) -> bytes:
    return message_pb2.Message(
        content_type=common.content_type, headers=common.headers, traceparent=common.traceparent
    ).SerializeToString()
