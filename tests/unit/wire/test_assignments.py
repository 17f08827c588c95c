"""An assignment written as bytes is the message that its fields make."""

import pytest
from google.protobuf.duration_pb2 import Duration

from edgenode.api.task.v1 import task_pb2, task_service_pb2
from edgenode.link.wire.assignments import PROMPT, assignment

SPECS = [
    task_pb2.TaskSpec(),
    task_pb2.TaskSpec(skill="echo", input=b"x" * 96),  # its length, and that of what it is in, take another byte
    task_pb2.TaskSpec(skill="echo", input=b"x" * 20_000, content_type="text/plain", annotations={"a": "b", "c": "d"}),
]


@pytest.mark.parametrize("spec", SPECS, ids=[str(spec.ByteSize()) for spec in SPECS])
@pytest.mark.parametrize(
    ("task_id", "attempt", "fence"), [("call-1", 1, 0), ("t" * 26, 300, 1 << 40), ("é" * 100, 1, 1)]
)
@pytest.mark.parametrize("timeout", [0.0, 0.001, 300.0, 1.2345, 1e9])
def test_it_is_the_message_of_its_fields(
    spec: task_pb2.TaskSpec, task_id: str, attempt: int, fence: int, timeout: float
) -> None:
    rest = task_service_pb2.Assignment(prompt=True, piece_room_bytes=5)
    frame = task_service_pb2.WorkTasksResponse(
        assignments=[
            task_service_pb2.Assignment(
                key=task_service_pb2.AttemptKey(task_id=task_id, attempt_number=attempt, fence=fence),
                spec=spec,
                timeout_duration=Duration(
                    seconds=int(timeout), nanos=max(int(timeout % 1 * 1000), timeout < 1) * 1_000_000
                ),
                prompt=True,
                piece_room_bytes=5,
            )
        ]
    )
    wire = spec.SerializeToString(deterministic=True)
    written = assignment(task_id, attempt, fence, wire, timeout, rest.SerializeToString())
    assert written == frame.SerializeToString(deterministic=True)


def test_what_is_prompt_says_so_and_frames_are_joined() -> None:
    joined = task_service_pb2.WorkTasksResponse.FromString(
        assignment("a", 1, 0, b"", 1.0, PROMPT) + assignment("b", 2, 3, b"", 1.0)
    )
    assert [
        (item.key.task_id, item.key.attempt_number, item.key.fence, item.prompt) for item in joined.assignments
    ] == [
        ("a", 1, 0, True),
        ("b", 2, 3, False),
    ]
