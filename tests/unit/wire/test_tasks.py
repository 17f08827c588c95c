from typing import Any

import pytest
from google.protobuf.duration_pb2 import Duration
from google.protobuf.timestamp_pb2 import Timestamp

from edgenode.api.registry.v1 import registry_service_pb2
from edgenode.api.task.v1 import task_pb2
from edgenode.link import errors
from edgenode.link.model.task import OnLost, RetryPolicy, Scope, TaskSpec
from edgenode.link.wire.tasks import SpecReader, TaskLimits, check_output, task_spec_from_proto

NOW = 1_700_000_000.0


def read(message: task_pb2.TaskSpec, limits: TaskLimits = TaskLimits()) -> TaskSpec:  # noqa: B008
    return task_spec_from_proto(message, limits=limits, now=NOW, node="north")


def test_defaults() -> None:
    message = task_pb2.TaskSpec(skill="ocr", input=b"x")
    assert read(message) == TaskSpec(skill="ocr", wire=message.SerializeToString())


def test_everything_set() -> None:
    message = task_pb2.TaskSpec(
        skill="ocr",
        selector="zone=a",
        agent="nodes/south/agents/reader",
        priority=0,
        deadline_time=Timestamp(seconds=int(NOW) + 5),
        scope=registry_service_pb2.SCOPE_FLEET,
        retry_policy=task_pb2.RetryPolicy(
            max_attempt_count=7,
            initial_backoff_duration=Duration(nanos=1_000_000),
            max_backoff_duration=Duration(seconds=2),
            backoff_multiplier=1.5,
            retryable_reasons=["AGENT_LOST"],
        ),
        on_lost=task_pb2.ON_LOST_FAIL,
        attempt_timeout_duration=Duration(seconds=9),
        idempotency_key="key",
        context_id="context",
        cost_limit=0.0,
        annotations={"b": "2", "a": "1"},
    )
    spec = read(message)
    assert spec == TaskSpec(
        skill="ocr",
        wire=spec.wire,
        selector="zone=a",
        agent="nodes/south/agents/reader",
        priority=0,
        deadline=NOW + 5,
        scope=Scope.FLEET,
        retry=RetryPolicy(7, 0.001, 2.0, 1.5, ("AGENT_LOST",)),
        on_lost=OnLost.FAIL,
        attempt_timeout=9.0,
        idempotency_key="key",
        context_id="context",
        cost_limit=0.0,
    )
    assert task_pb2.TaskSpec.FromString(spec.wire) == message


def test_a_bare_agent_name_becomes_full_in_the_wire_form_too() -> None:
    message = task_pb2.TaskSpec(skill="ocr", agent="reader")
    spec = read(message)
    assert spec.agent == "nodes/north/agents/reader"
    assert task_pb2.TaskSpec.FromString(spec.wire).agent == spec.agent
    assert message.agent == "reader"


def test_equal_specs_are_equal_bytes_whatever_the_order_of_their_maps() -> None:
    keys = [f"k{n}" for n in range(20)]
    one = task_pb2.TaskSpec(skill="ocr", annotations=dict.fromkeys(keys, "v"))
    other = task_pb2.TaskSpec(skill="ocr", annotations=dict.fromkeys(reversed(keys), "v"))
    assert read(one).wire == read(other).wire


def test_a_long_first_wait_lifts_the_default_bound() -> None:
    message = task_pb2.TaskSpec(
        skill="ocr", retry_policy=task_pb2.RetryPolicy(initial_backoff_duration=Duration(seconds=600))
    )
    assert read(message).retry.max_backoff == 600.0


def retry(**fields: object) -> dict[str, object]:
    return {"retry_policy": task_pb2.RetryPolicy(**fields)}  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("fields", "reason", "field"),
    [
        ({"skill": ""}, "BAD_NAME", "spec.skill"),
        ({"skill": "No"}, "BAD_NAME", "spec.skill"),
        ({"skill": "x" * 129}, "BAD_NAME", "spec.skill"),
        ({"selector": "a=="}, "BAD_SELECTOR", "spec.selector"),
        ({"agent": "../x"}, "BAD_NAME", "spec.agent"),
        ({"agent": "nodes/A/agents/b"}, "BAD_NAME", "spec.agent"),
        ({"priority": 10}, "OUT_OF_RANGE", "spec.priority"),
        ({"priority": -1}, "OUT_OF_RANGE", "spec.priority"),
        ({"cost_limit": -0.5}, "OUT_OF_RANGE", "spec.cost_limit"),
        ({"cost_limit": float("nan")}, "OUT_OF_RANGE", "spec.cost_limit"),
        ({"scope": 9}, "UNKNOWN_VALUE", "spec.scope"),
        ({"on_lost": 9}, "UNKNOWN_VALUE", "spec.on_lost"),
        ({"deadline_time": Timestamp(seconds=-5)}, "BAD_TIME", "spec.deadline_time"),
        ({"attempt_timeout_duration": Duration()}, "OUT_OF_RANGE", "spec.attempt_timeout_duration"),
        ({"idempotency_key": "x" * 129}, "TOO_LONG", "spec.idempotency_key"),
        ({"content_type": "a\nb"}, "BAD_MEDIA_TYPE", "spec.content_type"),
        ({"annotations": {str(n): "" for n in range(33)}}, "TOO_MANY", "spec.annotations"),
        (retry(max_attempt_count=101), "OUT_OF_RANGE", "spec.retry_policy.max_attempt_count"),
        (retry(max_attempt_count=-1), "OUT_OF_RANGE", "spec.retry_policy.max_attempt_count"),
        (
            retry(initial_backoff_duration=Duration(seconds=3601)),
            "OUT_OF_RANGE",
            "spec.retry_policy.initial_backoff_duration",
        ),
        (retry(initial_backoff_duration=Duration()), "OUT_OF_RANGE", "spec.retry_policy.initial_backoff_duration"),
        (
            retry(max_backoff_duration=Duration(seconds=86401)),
            "OUT_OF_RANGE",
            "spec.retry_policy.max_backoff_duration",
        ),
        (retry(max_backoff_duration=Duration(nanos=5)), "OUT_OF_RANGE", "spec.retry_policy.max_backoff_duration"),
        (retry(backoff_multiplier=0.5), "OUT_OF_RANGE", "spec.retry_policy.backoff_multiplier"),
        (retry(retryable_reasons=["lower"]), "BAD_REASON", "spec.retry_policy.retryable_reasons"),
    ],
)
def test_refusals_name_the_field(fields: dict[str, object], reason: str, field: str) -> None:
    with pytest.raises(errors.InvalidArgument) as caught:
        read(task_pb2.TaskSpec(**{"skill": "ocr", **fields}))  # type: ignore[arg-type]
    assert (caught.value.reason, caught.value.problem.metadata["field"]) == (reason, field)
    assert caught.value.problem.hint


def test_oversized_input_says_the_limit_and_is_not_worth_retrying() -> None:
    with pytest.raises(errors.ResourceExhausted) as caught:
        read(task_pb2.TaskSpec(skill="ocr", input=b"12345"), TaskLimits(max_input_bytes=4))
    problem = caught.value.problem
    assert (problem.reason, problem.retryable, problem.metadata["limit"]) == ("INPUT_TOO_LARGE", False, "4")


def test_a_deadline_that_passed() -> None:
    with pytest.raises(errors.DeadlineExceeded, match="PAST_DEADLINE"):
        read(task_pb2.TaskSpec(skill="ocr", deadline_time=Timestamp(seconds=int(NOW))))


@pytest.mark.parametrize(
    "fields",
    [
        {},
        {"priority": 0, "selector": "zone=a", "cost_limit": 2.0, "attempt_timeout_duration": Duration(seconds=9)},
        {"agent": "nodes/south/agents/reader", "scope": registry_service_pb2.SCOPE_FLEET},
        {"agent": "reader"},
        {"annotations": {"b": "2", "a": "1"}},
        {"idempotency_key": "key", "context_id": "context"},
        {"traceparent": "00-1-2-01", "parent_task_id": "T"},
    ],
)
def test_one_that_reads_many_says_the_same(fields: dict[str, Any]) -> None:
    limits = TaskLimits(max_input_bytes=4)
    reader = SpecReader(lambda: limits, "north")
    for content in (b"one", b"", b"two"):
        for deadline in (None, Timestamp(seconds=5), Timestamp(seconds=6, nanos=7)):
            message = task_pb2.TaskSpec(skill="ocr", input=content, deadline_time=deadline, **fields)
            expected = task_spec_from_proto(message, limits=limits, now=None, node="north")
            assert reader.read(message) == expected
            assert not expected.idempotency_key or message.input == content  # its fingerprint is still to be made
    with pytest.raises(errors.ResourceExhausted, match="INPUT_TOO_LARGE"):
        reader.read(task_pb2.TaskSpec(skill="ocr", input=b"12345", **fields))
    limits = TaskLimits(max_input_bytes=5)
    assert reader.read(task_pb2.TaskSpec(skill="ocr", input=b"12345", **fields)).skill == "ocr"
    with pytest.raises(errors.InvalidArgument, match="BAD_NAME"):
        reader.read(task_pb2.TaskSpec(skill="O C R", **fields))


def test_one_that_reads_many_knows_them_by_what_is_beside_their_input() -> None:
    """Inputs of every length of a length, some like what stands behind them; shapes in turn, with fields that are unknown."""
    limits = TaskLimits(max_input_bytes=300_000)
    reader = SpecReader(lambda: limits, "north")
    plain = task_pb2.TaskSpec(skill="ocr")
    typed = task_pb2.TaskSpec(skill="ocr", selector="zone=a", content_type="text/plain", priority=3)
    unknown = task_pb2.TaskSpec.FromString(typed.SerializeToString() + b"\xf8\x3f\x07")  # field 1023 is 7
    longer = task_pb2.TaskSpec(skill="ocr", content_type="text/plainer")
    behind = typed.SerializeToString()[-14:]
    for size in (0, 1, 13, 14, 15, 127, 128, 129, 16_383, 16_384, 2_097_151 // 8):
        for content in (b"x" * size, (behind * (size // 14 + 1))[:size], (b"\x22\x01" * (size // 2 + 1))[:size]):
            for shape in (plain, typed, typed, unknown, longer, typed):
                message = task_pb2.TaskSpec()
                message.CopyFrom(shape)
                message.input = content
                expected = task_spec_from_proto(message, limits=limits, now=None, node="north")
                assert expected.wire == message.SerializeToString()
                assert reader.read(message) == expected
    too_large = task_pb2.TaskSpec(skill="ocr", input=bytes(300_001))
    reader.read(plain)
    with pytest.raises(errors.ResourceExhausted, match="INPUT_TOO_LARGE"):
        reader.read(too_large)


def test_oversized_result() -> None:
    with pytest.raises(errors.ResourceExhausted, match="RESULT_TOO_LARGE"):
        check_output(task_pb2.TaskOutput(data=b"12345"), limits=TaskLimits(max_output_bytes=4))
    check_output(task_pb2.TaskOutput(data=b"1234"), limits=TaskLimits(max_output_bytes=4))
