from collections.abc import Sequence

import pytest
from hypothesis import given
from hypothesis import strategies as st

from edgenode.api.message.v1 import message_pb2
from edgenode.link.model.problem import Problem
from edgenode.node import message_rules
from edgenode.node.message_rules import MessageRules
from edgenode.node.publishing import HubMarks

LIMIT = 1024


def message(**fields: object) -> message_pb2.Message:
    return message_pb2.Message(**{"topic": "device.cpu", "payload": b"x", **fields})  # type: ignore[arg-type]


def refusals(*messages: message_pb2.Message) -> list[tuple[int, str]]:
    rules = MessageRules(LIMIT)
    batch = message_pb2.MessageBatch(messages=messages).SerializeToString()
    first = [(index, problem.reason) for index, problem in rules.refusals(messages, batch)]
    # The second look goes by what was remembered of the first.
    assert [(index, problem.reason) for index, problem in rules.refusals(messages, batch)] == first
    return first


@pytest.mark.parametrize(
    ("bad", "reason"),
    [
        (message(topic=""), "BAD_TOPIC"),
        (message(topic="Device.CPU"), "BAD_TOPIC"),
        (message(topic="a..b"), "BAD_TOPIC"),
        (message(topic="a.*"), "BAD_TOPIC"),
        (message(topic="a" * 201), "BAD_TOPIC"),
        (message(payload=b"x" * (LIMIT + 1)), "MESSAGE_TOO_LARGE"),
        (message(key="k" * 257), "TOO_LONG"),
        (message(content_type="text/\nplain"), "BAD_MEDIA_TYPE"),
        (message(traceparent="t" * 129), "TOO_LONG"),
        (message(headers={f"h{number}": "v" for number in range(33)}), "TOO_MANY"),
        (message(headers={"h": "v" * 1025}), "TOO_LONG"),
    ],
)
def test_a_bad_message_is_refused_by_itself(bad: message_pb2.Message, reason: str) -> None:
    assert refusals(message(), bad, message(topic="other")) == [(1, reason)]
    many = [message(payload=b"x" * size) for size in range(50)]
    assert refusals(*many, bad, *many) == [(50, reason)]
    assert refusals(*[bad] * 50) == [(index, reason) for index in range(50)]
    assert refusals(bad, *many, bad) == [(0, reason), (51, reason)]


def test_what_just_fits_is_taken() -> None:
    full = message(
        topic="a" * 200,
        payload=b"x" * LIMIT,
        key="k" * 256,
        content_type="application/json",
        traceparent="t" * 128,
        headers={f"h{number}": "v" * 1024 for number in range(32)},
    )
    assert refusals(full, message(payload=b"")) == []


def test_a_large_frame_of_small_messages_is_taken() -> None:
    assert refusals(*(message(payload=b"x" * 100) for _ in range(100))) == []


@given(st.integers(2, 40), st.lists(st.tuples(st.integers(1, 5), st.booleans()), max_size=200))
def test_marks_are_bounded_and_never_early(limit: int, steps: list[tuple[int, bool]]) -> None:
    marks = HubMarks(limit)
    position = reached = hub = 0
    for step, acknowledge in steps:
        position += step
        marks.add(position, position * 10)
        assert marks.count <= limit
        if acknowledge:
            hub = position - step // 2
            number = marks.reached(hub)
            assert number <= hub * 10
            assert number == 0 or number > reached
            reached = number or reached
    assert (marks.reached(position) or reached) == position * 10


def test_ten_thousand_topics_in_turn_are_each_checked_once(monkeypatch: pytest.MonkeyPatch) -> None:
    checked: list[str] = []

    def check(topic: str) -> str:
        checked.append(topic)
        return topic

    monkeypatch.setattr(message_rules, "check_topic", check)
    rules = MessageRules(1000)
    messages = [message_pb2.Message(topic=f"plant.sensor-{number}") for number in range(10_000)]
    for _ in range(2):
        for start in range(0, len(messages), 1000):
            assert refused(rules, messages[start : start + 1000]) == []
    assert len(checked) == 10_000


class EachByItself(MessageRules):
    """Knows no frame by its bytes."""

    def _is_good_run(self, messages: Sequence[message_pb2.Message], batch: bytes) -> bool:
        return False


def refused(rules: MessageRules, messages: Sequence[message_pb2.Message]) -> list[tuple[int, Problem]]:
    return rules.refusals(messages, message_pb2.MessageBatch(messages=messages).SerializeToString())


USUAL: list[dict[str, object]] = [
    {},
    {"topic": "device.memory"},
    {"topic": "t" * 127},
    {"topic": "t" * 200},
    {"payload": b""},
    {"payload": b"x" * 100},
    {"payload": message(topic="b").SerializeToString()},
    {"payload": b"x" * LIMIT},
]
BESIDE: list[dict[str, object]] = [
    {"key": "k"},
    {"key": "\u00e4" * 256},
    {"content_type": "application/json"},
    {"headers": {"h": "v"}},
    {"traceparent": "00-1-2-01"},
]
BAD: list[dict[str, object]] = [
    {"topic": ""},
    {"topic": "Device"},
    {"topic": "a..b"},
    {"topic": "a\n"},
    {"topic": "\u00e4"},
    {"topic": "t" * 201},
    {"payload": b"x" * (LIMIT + 1)},
    {"key": "k" * 257},
    {"content_type": "text/\nplain"},
    {"traceparent": "t" * 129},
    {"headers": {"h" * 64: "v"}},
]
UNKNOWN = message_pb2.Message.FromString(message().SerializeToString() + b"\x3a\x01x")


def made(common: dict[str, object]) -> st.SearchStrategy[message_pb2.Message]:
    """Messages with `common`, most of them good, and a few with something else beside it."""
    return st.builds(
        lambda usual, own: message(**{**common, **usual, **own}),
        st.sampled_from(USUAL),
        st.sampled_from([{}] * 200 + BESIDE + BAD),
    ) | st.just(UNKNOWN)


@given(
    st.lists(
        st.sampled_from([{}, *BESIDE[:3]]).flatmap(lambda common: st.lists(made(common), min_size=16, max_size=24)),
        min_size=1,
        max_size=5,
    )
)
def test_a_frame_is_judged_as_each_of_its_messages_is(frames: list[list[message_pb2.Message]]) -> None:
    rules, slow = MessageRules(LIMIT), EachByItself(LIMIT)
    for frame in [*frames, *frames]:
        assert refused(rules, frame) == refused(slow, frame)


def test_a_frame_of_many_topics_is_known_by_its_bytes(monkeypatch: pytest.MonkeyPatch) -> None:
    looked_at: list[object] = []
    monkeypatch.setattr("edgenode.link.wire.checks.fits", lambda *facts: looked_at.append(facts))
    rules = MessageRules(LIMIT)
    assert refused(rules, [message(headers={"h": "v"})] * 100) == []  # known by nothing, and in nobody's way
    looked_at.clear()
    for usual in USUAL:
        frame = [message(**{"topic": f"device-{number}", **usual}) for number in range(100)]
        assert rules._is_good_run(frame, message_pb2.MessageBatch(messages=frame).SerializeToString())
    assert len(looked_at) == 1  # the first of all


@pytest.mark.parametrize("keys", [1, 4, 250])
def test_what_is_remembered_is_bounded(monkeypatch: pytest.MonkeyPatch, keys: int) -> None:
    monkeypatch.setattr(message_rules, "MAX_SHAPE_BYTES", 200_000)
    monkeypatch.setattr(message_rules, "MAX_KNOWN_TOPICS", 100)
    rules = MessageRules(LIMIT)
    most = shapes = topics = 0
    for number in range(500):
        key = "k" * (number % keys)
        frame = [message(topic=f"device-{number}.{place}", key=key) for place in range(16)]
        assert refused(rules, frame) == []
        most = max(most, sum(shape.held for shape in rules._shapes.values()))
        shapes = max(shapes, len(rules._shapes))
        topics = max(topics, len(rules._topics), len(rules._topic_bytes))
    assert 100_000 < most <= 200_000
    assert shapes == min(keys, message_rules.MAX_KNOWN_SHAPES)
    assert topics == 100
