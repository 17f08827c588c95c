import pytest
from hypothesis import given
from hypothesis import strategies as st

from edgenode.api.message.v1 import message_pb2
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
        assert not rules.refusals(messages, b"")
    assert len(checked) == 10_000
