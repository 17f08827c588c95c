"""Messages that differ in their payload alone, written as a batch, and known again in one, all at once.

To make a protobuf message of each, or to read its fields, costs several times what its bytes do. What such messages have in
common is serialised once; the bytes before a payload depend on its length alone, so that a run is a join of bytes, and is
known again by a look at the bytes before and after each payload. Fields stand in the order of their numbers, as protobuf
writes them itself: what is parsed and written again is the same bytes. A batch in
another order is no run, that is all.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import chain, repeat

from edgenode.api.message.v1 import message_pb2
from edgenode.link.wire.varints import read_varint, varint

_MESSAGES_TAG = b"\x0a"  # MessageBatch.messages
_PAYLOAD_TAG = b"\x1a"  # Message.payload
_MAX_LEADS = 1024


class MessageRun:
    """Writes and knows messages that have all of `common` but its payload, which is not looked at."""

    __slots__ = ("_head", "_known", "_leads", "_tail", "_widths")

    def __init__(self, common: message_pb2.Message) -> None:
        self._head = message_pb2.Message(topic=common.topic, key=common.key).SerializeToString()
        self._tail = message_pb2.Message(
            content_type=common.content_type, headers=common.headers, traceparent=common.traceparent
        ).SerializeToString()
        self._leads: dict[int, bytes] = {}  # what stands before a payload of that length
        self._known: dict[bytes, int] = {}  # such a lead, and the size of what it begins
        self._widths: list[int] = []  # their lengths, the last one seen first

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

    def holds(self, batch: bytes, most: int) -> bool:
        """Whether a serialised MessageBatch is such messages alone, none of them with a payload of over `most` bytes."""
        known, tail = self._known.get, self._tail
        width, tail_size, longest = self._widths[0] if self._widths else 1, len(tail), self._size(most)
        start, end = 0, len(batch)
        while start < end:
            size = known(batch[start : start + width])
            if size is None:
                width = self._width_at(batch, start)
                if not width:
                    return False
                size = self._known[batch[start : start + width]]
            start += size
            if size > longest or batch[start - tail_size : start] != tail:
                return False
        return start == end

    def _width_at(self, batch: bytes, start: int) -> int:
        """How long the lead of the message is that begins at `start`; 0 where it is none of these."""
        widths = self._widths
        for index, width in enumerate(widths):
            if batch[start : start + width] in self._known:
                widths.insert(0, widths.pop(index))
                return width
        beside = len(self._head) + len(self._tail)
        with_payload = read_varint(batch, start + len(_MESSAGES_TAG)) - beside - len(_PAYLOAD_TAG)
        for size in (0, *(with_payload - digits for digits in (1, 2, 3, 4))):
            lead = self._lead(size) if size >= 0 else b""
            if lead and batch.startswith(lead, start):
                if len(self._known) >= _MAX_LEADS:
                    self._known.clear()
                self._known[lead] = self._size(size)
                if len(lead) in widths:
                    widths.remove(len(lead))
                widths.insert(0, len(lead))
                return len(lead)
        return 0

    def _size(self, payload: int) -> int:
        return len(self._lead(payload)) + payload + len(self._tail)

    def _lead(self, size: int) -> bytes:
        head = self._head + _PAYLOAD_TAG + varint(size) if size else self._head
        return _MESSAGES_TAG + varint(len(head) + size + len(self._tail)) + head
