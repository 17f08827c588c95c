"""Every state of the node has one of A2A, and is read back."""

from __future__ import annotations

import pytest
from a2a.types import a2a_pb2

from edgenode.api.task.v1 import task_pb2
from edgenode.bridges.a2a import states
from edgenode.bridges.a2a.parts import ARTIFACTS
from edgenode.link.model.task import TaskState


def task(state: TaskState, **fields: object) -> task_pb2.Task:
    return task_pb2.Task(task_id="t", state=int(state), spec=task_pb2.TaskSpec(skill="s"), **fields)  # type: ignore[arg-type]


@pytest.mark.parametrize("state", TaskState)
def test_there_and_back(state: TaskState) -> None:
    made = states.task_of(task(state, state_reason="NO_AGENT: x"))
    assert made.status.state == states.STATES[state]
    assert states.our_state(made) is state
    assert state in states.our_states(made.status.state)
    assert made.metadata["dev.edgenode/reason"] == "NO_AGENT: x"
    terminal = made.status.state in (
        a2a_pb2.TASK_STATE_COMPLETED,
        a2a_pb2.TASK_STATE_FAILED,
        a2a_pb2.TASK_STATE_CANCELED,
        a2a_pb2.TASK_STATE_REJECTED,
    )
    assert terminal == state.terminal


@pytest.mark.parametrize("number", [number for number in a2a_pb2.TaskState.values() if number])
def test_foreign_states_have_a_nearest_one(number: int) -> None:
    foreign = a2a_pb2.Task(status=a2a_pb2.TaskStatus(state=number))  # type: ignore[arg-type]
    assert states.STATES[states.our_state(foreign)] == number
    foreign.metadata["dev.edgenode/state"] = "PARKED" if number != a2a_pb2.TASK_STATE_SUBMITTED else "COMPLETED"
    assert states.STATES[states.our_state(foreign)] == number  # what contradicts the state is not believed


def test_problems_are_told_with_reason_and_hint() -> None:
    made = states.task_of(
        task(TaskState.DEAD_LETTERED, problem={"reason": "HANDLER_ERROR", "message": "no", "hint": "see the log"})
    )
    assert made.status.message.parts[0].text == "HANDLER_ERROR: no (see the log)"
    assert "HANDLER_ERROR" in str(made.metadata["dev.edgenode/problem"])


def test_content_too_large_for_an_output_is_an_artifact_of_its_own() -> None:
    digest = f"sha256:{'a' * 64}"
    blob = {"digest": digest, "size": 5 << 20, "media_type": "image/png", "name": "plot.png"}
    told = states.task_of(task(TaskState.COMPLETED, output={"data": b'"done"', "blobs": [blob]}))
    output, artifact = told.artifacts
    assert output.parts[0].text == "done"
    (part,) = artifact.parts
    assert (part.url, part.media_type, part.filename) == (f"edgenode://blobs/{digest}", "image/png", "plot.png")
    assert artifact.metadata["dev.edgenode/size"] == 5 << 20
    assert states.output_of(told)[0] == b'"done"'  # as another node has it, where the content is not


def test_an_output_of_several_artifacts_keeps_them() -> None:
    given = a2a_pb2.Task(
        artifacts=[
            a2a_pb2.Artifact(artifact_id="a", name="A", parts=[a2a_pb2.Part(text="x")]),
            a2a_pb2.Artifact(artifact_id="b", parts=[a2a_pb2.Part(raw=b"y", filename="y.bin")]),
            a2a_pb2.Artifact(artifact_id="stream-1", parts=[a2a_pb2.Part(text="void")]),
        ]
    )
    data, content_type = states.output_of(given)
    assert content_type == ARTIFACTS
    told = states.task_of(task(TaskState.COMPLETED, output={"data": data, "content_type": content_type}))
    assert list(told.artifacts) == list(given.artifacts)[:2]
