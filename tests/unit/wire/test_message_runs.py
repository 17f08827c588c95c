"""Runs of messages are the bytes that protobuf writes; messages of one shape are told from everything else."""

from __future__ import annotations

from google.protobuf.message import DecodeError
from hypothesis import example, given
from hypothesis import strategies as st

from edgenode.api.message.v1 import message_pb2
from edgenode.link.errors import InvalidArgument
from edgenode.link.model.names import check_topic
from edgenode.link.wire import message_runs
from edgenode.link.wire.message_runs import MessageRun, MessageShape

MOST = 16_384
TOPICS = ["a", "b", "device.cpu", "device.memory", "t" * 26, "t" * 127, "t" * 128, "t" * 200]
NO_TOPICS = ["", "A", ".", "a.", "a..b", "a b", "\u00e4", "t" * 201, "a\x1a\x02", "a\n"]
SIZES = st.lists(st.sampled_from([0, 1, 80, 100, 126, 127, 128, 200, 256, 16_383, 16_384]), min_size=1, max_size=20)
COMMON = st.builds(
    message_pb2.Message,
    topic=st.sampled_from(["a", "device.cpu", "t" * 200]),
    key=st.sampled_from(["", "k"]),
    content_type=st.sampled_from(["", "application/json"]),
    traceparent=st.sampled_from(["", "00-1-2-01"]),
    headers=st.sampled_from([{}, {"h": "v"}]),
)


def messages(common: message_pb2.Message, sizes: list[int]) -> list[message_pb2.Message]:
    made = []
    for size in sizes:
        message = message_pb2.Message(payload=b"\x1a" * size)
        message.MergeFrom(common)
        made.append(message)
    return made


def serialised(some: list[message_pb2.Message]) -> bytes:
    return message_pb2.MessageBatch(messages=some).SerializeToString()


def is_topic(topic: bytes) -> bool:
    try:
        check_topic(topic.decode("latin-1"))
    except InvalidArgument:
        return False
    return True


def shape_of(common: message_pb2.Message, most: int = MOST) -> MessageShape:
    return MessageShape(common, most, {b"device.cpu"}, is_topic)


def are_of_shape(batch: bytes, common: message_pb2.Message) -> bool:
    """What a shape tells by the bytes, told by protobuf."""
    try:
        read = message_pb2.MessageBatch.FromString(batch)
    except DecodeError:
        return False
    if serialised(list(read.messages)) != batch:
        return False  # not as protobuf writes it
    common = message_pb2.Message.FromString(common.SerializeToString())
    common.ClearField("topic")
    for message in read.messages:
        if not is_topic(message.topic.encode()) or len(message.payload) > MOST:
            return False
        message.ClearField("topic")
        message.ClearField("payload")
        if message.SerializeToString(deterministic=True) != common.SerializeToString(deterministic=True):
            return False
    return True


@given(COMMON, SIZES)
@example(message_pb2.Message(topic="a"), [0])
@example(message_pb2.Message(topic="a"), [1, 0])
def test_a_run_is_what_protobuf_writes_and_is_of_its_shape(common: message_pb2.Message, sizes: list[int]) -> None:
    some = messages(common, sizes)
    batch = MessageRun(common).batch([message.payload for message in some])
    assert batch == serialised(some)
    shape = shape_of(common, max(sizes))
    assert [shape.holds(batch) for _ in range(2)] == [True, True]
    assert not (max(sizes) and shape_of(common, max(sizes) - 1).holds(batch))


@given(COMMON, st.lists(st.tuples(st.sampled_from(TOPICS), SIZES), min_size=1, max_size=5))
def test_messages_with_topics_of_their_own_are_of_one_shape(
    common: message_pb2.Message, runs: list[tuple[str, list[int]]]
) -> None:
    some = []
    for topic, sizes in runs:
        common.topic = topic
        some += messages(common, sizes)
    shape = shape_of(common)
    for batch in (serialised(some), serialised(some[::-1]), serialised(some)):
        assert shape.holds(batch)


@given(COMMON, SIZES, st.integers(0, 19), COMMON, st.sampled_from(NO_TOPICS))
def test_one_that_differs_is_seen(
    common: message_pb2.Message, sizes: list[int], place: int, other: message_pb2.Message, bad: str
) -> None:
    shape = shape_of(common)
    some = messages(common, sizes)
    assert shape.holds(serialised(some))
    some[place % len(some)] = messages(other, [sizes[place % len(some)]])[0]
    other.topic = common.topic
    assert shape.holds(serialised(some)) is (other == common)
    some[place % len(some)] = messages(common, [sizes[place % len(some)]])[0]
    some[place % len(some)].topic = bad
    assert not shape.holds(serialised(some))


# --- bytes that nobody's protobuf wrote -------------------------------------------------------------------------------

USUAL = message_pb2.Message(topic="a", key="k", content_type="application/json")
TAIL = b"\x22\x10application/json"


def varint(number: int, padding: int = 0) -> bytes:
    """`padding`: how many bytes it has more than it needs."""
    written = bytearray()
    while number > 0x7F or padding > 0:
        padding -= number <= 0x7F
        written.append(number & 0x7F | 0x80)
        number >>= 7
    written.append(number)
    return bytes(written)


def field(number: int, content: bytes, more: int = 0, padding: int = 0) -> bytes:
    """`more`: how much its length is wrong."""
    return bytes([number << 3 | 2]) + varint(max(len(content) + more, 0), padding) + content


GOOD = serialised([message_pb2.Message(topic="b", key="k", payload=b"x" * 100, content_type="application/json")])
CONTENTS = [b"", b"x", b"x" * 77, b"x" * 100, b"x" * 127, b"x" * 128, b"x" * 300, GOOD, TAIL + GOOD, GOOD[:-20], TAIL]
ODD_FIELDS = [
    field(5, field(1, b"h") + field(2, b"v")),
    field(6, b"00-1-2-01"),
    field(7, b"unknown"),
    field(7, TAIL),
    b"\x40\x01",
    b"\x1a\x00",
    b"\x12\x00",
    b"\x0a\x01b",
    b"\x0a\x01B",
    TAIL,
    b"\x22\x01x",
]
OTHER_TAILS = [field(4, b"application/jsom"), field(5, field(1, b"h") + field(2, b"v" * 11)), field(7, b"x" * 16)]
BYTES = [topic.encode() for topic in [*TOPICS * 2, *NO_TOPICS]] + [b"\xff", b"a\xc3"]


@st.composite
def raw_messages(draw: st.DrawFn) -> bytes:
    """A message in a batch: good, or with a few things wrong about it."""
    parts = [field(1, draw(st.sampled_from(TOPICS)).encode()), field(2, b"k"), b"", TAIL]
    if content := draw(st.sampled_from(CONTENTS)):
        parts[2] = field(3, content)
    wrong = draw(st.sampled_from([0, 0, 0, 1, 2]))
    for _ in range(wrong):
        place, other = draw(st.integers(0, len(parts) - 1)), draw(st.integers(0, len(parts) - 1))
        match draw(st.sampled_from(["topic", "swap", "twice", "gone", "odd", "tail", "length", "padding", "cut"])):
            case "topic":
                parts[0] = field(1, draw(st.sampled_from(BYTES)))
            case "swap":
                parts[place], parts[other] = parts[other], parts[place]
            case "twice":
                parts.insert(other, parts[place])
            case "gone":
                parts[place] = b""
            case "odd":
                parts.insert(place, draw(st.sampled_from(ODD_FIELDS)))
            case "tail":
                parts[-1] = draw(st.sampled_from(OTHER_TAILS))
            case "length":
                parts[2] = field(3, content, more=draw(st.integers(-30, 30)))
            case "padding":
                parts[2] = field(3, content, padding=draw(st.integers(1, 4)))
            case "cut":
                parts[place] = parts[place][: draw(st.integers(0, 20))]
    more = padding = 0
    if wrong:
        more, padding = draw(st.sampled_from([0, 0, 0, -1, 1, 18, -18, 150])), draw(st.sampled_from([0, 0, 0, 1]))
    return field(1, b"".join(parts), more, padding)


@given(st.lists(st.lists(raw_messages(), max_size=6), min_size=1, max_size=4), st.integers(0, 40))
def test_bytes_are_of_a_shape_where_protobuf_reads_it_from_them(batches: list[list[bytes]], cut: int) -> None:
    shape = shape_of(USUAL)
    for batch in map(b"".join, batches):
        for part in (batch[: len(batch) - cut], batch, batch[cut:]):
            assert shape.holds(part) is are_of_shape(part, USUAL)
            assert shape.holds(part) is are_of_shape(part, USUAL)  # by what was remembered


@given(COMMON, SIZES, st.integers(0, 1 << 20), st.integers(0, 255))
@example(message_pb2.Message(topic="a", content_type="application/json"), [1], -1, ord("m"))
def test_a_byte_that_is_another_is_seen(common: message_pb2.Message, sizes: list[int], place: int, byte: int) -> None:
    shape = shape_of(common)
    good = serialised(messages(common, sizes))
    assert shape.holds(good)
    assert not shape.holds(good[:-1])
    batch = bytearray(good)
    batch[place % len(batch)] = byte
    assert shape.holds(bytes(batch)) is are_of_shape(bytes(batch), common)


def test_half_a_topic_is_not_remembered() -> None:
    """Else the rest of it could be anything, once a message of another layout has told where to look."""
    shape = shape_of(message_pb2.Message())
    other = serialised([message_pb2.Message(topic="a", payload=bytes(MOST))])
    good, bad = (field(1, field(1, topic)) for topic in (b"a" * 150, b"a" * 5 + b"!" * 145))
    for length in range(len(good)):
        assert not shape.holds(good[:length]) or not length
    assert shape.holds(other)
    assert not shape.holds(bad)
    assert shape.holds(good)


def test_what_is_remembered_is_told_and_of_a_batch_bounded() -> None:
    shape = shape_of(message_pb2.Message())
    assert shape.held == 0
    some = [message_pb2.Message(topic=f"topic-{number}", payload=b"x") for number in range(500)]
    assert shape.holds(serialised(some))
    learnt = len(shape._sizes)
    assert learnt == message_runs._LEARNT
    assert shape.held >= learnt * 200
    while len(shape._sizes) < len(some):
        assert shape.holds(serialised(some))
        assert learnt < len(shape._sizes) <= learnt + message_runs._LEARNT
        learnt = len(shape._sizes)
    assert len(shape._layouts) == 3


def test_what_is_remembered_to_write_is_bounded() -> None:
    common = message_pb2.Message(topic="a")
    run = MessageRun(common)
    sizes = range(3 * message_runs._MAX_LEADS)
    for size in sizes:
        assert run.batch([bytes(size)]) == serialised([message_pb2.Message(topic="a", payload=bytes(size))])
    assert len(run._leads) <= message_runs._MAX_LEADS + 1
