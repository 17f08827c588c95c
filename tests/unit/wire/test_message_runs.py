"""Runs of messages are the bytes that protobuf writes, and are told from everything else."""

from __future__ import annotations

from hypothesis import example, given
from hypothesis import strategies as st

from edgenode.api.message.v1 import message_pb2
from edgenode.link.wire import message_runs
from edgenode.link.wire.message_runs import MessageRun

MOST = 16_384
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


@given(COMMON, SIZES)
@example(message_pb2.Message(topic="a"), [0])
@example(message_pb2.Message(topic="a"), [1, 0])
def test_a_run_is_what_protobuf_writes_and_is_known_again(common: message_pb2.Message, sizes: list[int]) -> None:
    run = MessageRun(common)
    some = messages(common, sizes)
    batch = run.batch([message.payload for message in some])
    assert batch == serialised(some)
    assert [run.holds(batch, max(sizes)) for _ in range(2)] == [True, True]
    assert not (max(sizes) and run.holds(batch, max(sizes) - 1))


@given(COMMON, SIZES, st.integers(0, 19), COMMON)
def test_one_that_differs_is_seen(
    common: message_pb2.Message, sizes: list[int], place: int, other: message_pb2.Message
) -> None:
    run = MessageRun(common)
    some = messages(common, sizes)
    run.holds(serialised(some), MOST)
    some[place % len(some)] = messages(other, [sizes[place % len(some)]])[0]
    assert run.holds(serialised(some), MOST) is (other == common)


@given(COMMON, SIZES, st.integers(0, 1 << 20), st.integers(0, 255))
def test_bytes_that_are_no_batch_are_no_run(
    common: message_pb2.Message, sizes: list[int], place: int, byte: int
) -> None:
    run = MessageRun(common)
    batch = bytearray(serialised(messages(common, sizes)))
    assert not run.holds(bytes(batch[:-1]), MOST)
    batch[place % len(batch)] = byte
    if run.holds(bytes(batch), MOST):  # it was in a payload, or it is what was there
        read = message_pb2.MessageBatch.FromString(bytes(batch)).messages
        assert [len(message.payload) for message in read] == sizes
        for message in read:
            message.ClearField("payload")
        assert set(map(serialised, ([message] for message in read))) == {serialised([common])}


def test_what_is_remembered_of_lengths_is_bounded() -> None:
    common = message_pb2.Message(topic="a")
    run = MessageRun(common)
    sizes = range(3 * message_runs._MAX_LEADS)
    for size in sizes:
        batch = run.batch([bytes(size)])
        assert run.holds(batch, size)
    assert len(run._known) <= message_runs._MAX_LEADS
    assert len(run._leads) <= message_runs._MAX_LEADS + 1
    assert len(run._widths) < 10
    batch = run.batch([bytes(size % 300) for size in sizes])
    assert run.holds(batch, 299)
    assert not run.holds(batch, 298)
