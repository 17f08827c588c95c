"""When two submissions with one idempotency key are the same."""

from __future__ import annotations

import pytest

from edgenode.api.task.v1 import task_pb2
from edgenode.node.submissions import CANONICAL_BYTES, fingerprint


def spec(data: bytes = b'{"a": 1, "b": [2.5, "x"]}', content_type: str = "", **fields: object) -> task_pb2.TaskSpec:
    return task_pb2.TaskSpec(skill="s", idempotency_key="k", input=data, content_type=content_type, **fields)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    "same",
    [
        spec(b'{"b":[2.5,"x"],"a":1.0}'),
        spec(content_type="application/json"),
        spec(traceparent="00-1-2-01", tracestate="t"),
        spec(deadline_time={"seconds": 5}),
    ],
)
def test_the_same(same: task_pb2.TaskSpec) -> None:
    assert fingerprint(same) == fingerprint(spec())


@pytest.mark.parametrize(
    "other",
    [
        spec(b'{"a": 1, "b": ["x", 2.5]}'),
        spec(b'{"a": "1", "b": [2.5, "x"]}'),
        spec(content_type="text/plain"),
        spec(priority=7),
        spec(b"not json"),
        spec(b'{"a": 9007199254740993, "b": [2.5, "x"]}'),
    ],
)
def test_another(other: task_pb2.TaskSpec) -> None:
    assert fingerprint(other) != fingerprint(spec())


def test_large_inputs_are_their_bytes() -> None:
    text = b'"' + b"x" * CANONICAL_BYTES + b'"'
    assert fingerprint(spec(text)) != fingerprint(spec(b" " + text))
    assert fingerprint(spec(text)) == fingerprint(spec(text))


def test_without_a_key_there_is_none() -> None:
    assert fingerprint(task_pb2.TaskSpec(skill="s")) == b""
