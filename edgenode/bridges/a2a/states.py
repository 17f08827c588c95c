"""Tasks of the node as tasks of A2A.

A2A has nine states, the node thirteen, so a state alone would lose what it means. Whatever leaves here carries ours beside
it, in metadata: `dev.edgenode/state` and, where it adds something, `dev.edgenode/reason`; a problem, progress and an attempt
have keys of their own. `our_state` reads it back, and says of a foreign task what comes nearest.

A task whose submitter named no context is a context of its own: its contextId is its id. So a message that is sent again
needs no id that was drawn for it, and is known.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import msgspec
from a2a.types import a2a_pb2
from google.protobuf import json_format
from google.protobuf.timestamp_pb2 import Timestamp

from edgenode.api.blob.v1 import blob_pb2
from edgenode.api.problem.v1 import problem_pb2
from edgenode.api.task.v1 import task_pb2
from edgenode.bridges.a2a.parts import ARTIFACTS, content_of, parts_of
from edgenode.bridges.wishes import BLOBS, PREFIX, REASON_KEY, STATE_KEY
from edgenode.link.model.blob import PREFIX as DIGEST
from edgenode.link.model.task import Level, TaskState
from edgenode.sdk.encoding import OCTETS
from edgenode.sdk.handle import TaskUpdate

SEQUENCE_KEY = PREFIX + "sequence"
PROBLEM_KEY = PREFIX + "problem"
QUESTION_KEY = PREFIX + "input-key"
SCHEMA_KEY = PREFIX + "input-schema"
FRACTION_KEY = PREFIX + "fraction"
CONTENT_TYPE_KEY = PREFIX + "content-type"
OUTPUT = "output"  # id of the artifact that holds a task's output
STREAM = "stream"  # id of the one that holds the pieces of an output that forms; the number of the attempt follows

_S, _A = TaskState, a2a_pb2.TaskState
STATES: Mapping[TaskState, a2a_pb2.TaskState] = {
    _S.QUEUED: _A.TASK_STATE_SUBMITTED,
    _S.PARKED: _A.TASK_STATE_SUBMITTED,
    _S.ASSIGNED: _A.TASK_STATE_SUBMITTED,
    _S.RETRY_WAIT: _A.TASK_STATE_SUBMITTED,
    _S.WORKING: _A.TASK_STATE_WORKING,
    _S.INPUT_REQUIRED: _A.TASK_STATE_INPUT_REQUIRED,
    _S.AUTH_REQUIRED: _A.TASK_STATE_AUTH_REQUIRED,
    _S.COMPLETED: _A.TASK_STATE_COMPLETED,
    _S.FAILED: _A.TASK_STATE_FAILED,
    _S.EXPIRED: _A.TASK_STATE_FAILED,
    _S.DEAD_LETTERED: _A.TASK_STATE_FAILED,
    _S.REJECTED: _A.TASK_STATE_REJECTED,
    _S.CANCELED: _A.TASK_STATE_CANCELED,
}
_NEAREST: Mapping[int, TaskState] = {
    _A.TASK_STATE_SUBMITTED: _S.QUEUED,
    _A.TASK_STATE_WORKING: _S.WORKING,
    _A.TASK_STATE_INPUT_REQUIRED: _S.INPUT_REQUIRED,
    _A.TASK_STATE_AUTH_REQUIRED: _S.AUTH_REQUIRED,
    _A.TASK_STATE_COMPLETED: _S.COMPLETED,
    _A.TASK_STATE_FAILED: _S.FAILED,
    _A.TASK_STATE_REJECTED: _S.REJECTED,
    _A.TASK_STATE_CANCELED: _S.CANCELED,
}
ASKING = frozenset({_S.INPUT_REQUIRED, _S.AUTH_REQUIRED})


def settled(state: TaskState) -> bool:
    """Whether a caller has something to see: the end, or a question."""
    return state.terminal or state in ASKING


def our_states(state: int) -> list[TaskState]:
    """The states of the node that are this one of A2A."""
    return [ours for ours, theirs in STATES.items() if theirs == state]


def our_state(task: a2a_pb2.Task) -> TaskState:
    """The node's state of a task as A2A tells it; of a foreign one what comes nearest, QUEUED for what is unknown."""
    said = task.metadata.fields[STATE_KEY].string_value if STATE_KEY in task.metadata.fields else ""
    if said in TaskState.__members__ and STATES[TaskState[said]] == task.status.state:
        return TaskState[said]
    return _NEAREST.get(task.status.state, TaskState.QUEUED)


def context_of(task: task_pb2.Task) -> str:
    """The task's contextId."""
    return task.spec.context_id or task.task_id


def task_of(task: task_pb2.Task, history: int | None = None) -> a2a_pb2.Task:
    """The whole task; of its messages the newest `history`, None for all that are known."""
    made = a2a_pb2.Task(id=task.task_id, context_id=context_of(task), status=status_of(task))
    made.metadata.update(_facts(task))
    if task.HasField("output"):
        made.artifacts.extend(artifacts_of(task.output))
    if history is None or history > 0:
        made.history.append(_first_message(task))
    return made


def status_of(task: task_pb2.Task) -> a2a_pb2.TaskStatus:
    """State, time and what there is to say of it: the question, the problem, the progress."""
    status = a2a_pb2.TaskStatus(state=STATES[TaskState(task.state)], timestamp=_milliseconds(task.update_time))
    words: dict[str, Any] = {}
    if TaskState(task.state) in ASKING and task.HasField("input_request"):
        asked = task.input_request
        text, name = asked.prompt, asked.key
        words = {QUESTION_KEY: asked.key}
        if asked.schema:
            words[SCHEMA_KEY] = asked.schema
    elif task.HasField("problem"):
        problem = task.problem
        text, name = problem_text(problem), f"attempt-{task.attempt_count}"
    elif task.progress.message and not TaskState(task.state).terminal:
        text, name = task.progress.message, str(task.sequence)
    else:
        return status
    _say(status, task.task_id, context_of(task), text, name, words)
    return status


def update_of(task: task_pb2.Task, update: TaskUpdate) -> a2a_pb2.TaskStatusUpdateEvent:
    """One change of a task; `task` as it is after it where it asks or has ended, else as it was last seen."""
    event = a2a_pb2.TaskStatusUpdateEvent(task_id=task.task_id, context_id=context_of(task))
    if settled(update.state):
        event.status.CopyFrom(status_of(task))
        event.metadata.update(_facts(task))
        return event
    event.status.state = STATES[update.state]
    event.status.timestamp.FromMilliseconds(int(update.time * 1000))
    if text := update.message or update.reason:
        _say(event.status, task.task_id, context_of(task), text, str(update.sequence), {})
    facts: dict[str, Any] = {STATE_KEY: update.state.name, SEQUENCE_KEY: update.sequence}
    if update.reason:
        facts[REASON_KEY] = update.reason
    if update.attempt:
        facts[PREFIX + "attempt"] = update.attempt
    if update.agent:
        facts[PREFIX + "agent"] = update.agent
    if update.fraction is not None:
        facts[FRACTION_KEY] = update.fraction
    if update.gap:
        facts[PREFIX + "gap"] = True
    event.metadata.update(facts)
    return event


def artifacts_of(output: task_pb2.TaskOutput) -> list[a2a_pb2.Artifact]:
    """A task's output: one artifact, unless an A2A agent gave several."""
    if output.content_type == ARTIFACTS:
        found = msgspec.json.decode(output.data, type=list[dict[str, Any]])
        return [json_format.ParseDict(each, a2a_pb2.Artifact(), ignore_unknown_fields=True) for each in found]
    made = a2a_pb2.Artifact(artifact_id=OUTPUT, name=OUTPUT, parts=parts_of(output.data, output.content_type))
    made.metadata[CONTENT_TYPE_KEY] = output.content_type or "application/json"
    return [made, *map(_blob, output.blobs)]


def _blob(ref: blob_pb2.BlobRef) -> a2a_pb2.Artifact:
    """Content too large for an output: a file by its URI, which is read at the node."""
    part = a2a_pb2.Part(url=BLOBS + ref.digest, media_type=ref.media_type or OCTETS, filename=ref.name)
    made = a2a_pb2.Artifact(artifact_id=ref.digest, name=ref.name or ref.digest, parts=[part])
    made.metadata[PREFIX + "size"] = ref.size
    return made


def output_of(task: a2a_pb2.Task) -> tuple[bytes, str]:
    """(bytes, media type) of what a task gave: its only artifact, several as they are, else its last message's parts.

    Content that stays at another node of ours is none of them.
    """
    artifacts = [each for each in task.artifacts if not each.artifact_id.startswith((f"{STREAM}-", DIGEST))]
    if len(artifacts) > 1:
        return msgspec.json.encode([json_format.MessageToDict(each) for each in artifacts]), ARTIFACTS
    if not artifacts:
        return content_of(task.status.message.parts) if task.status.message.parts else (b"null", "")
    (artifact,) = artifacts
    fields = artifact.metadata.fields
    said = fields[CONTENT_TYPE_KEY].string_value if CONTENT_TYPE_KEY in fields else ""
    return content_of(artifact.parts, said)


def reply_of(message_id: str, context_id: str, data: bytes, content_type: str) -> a2a_pb2.Message:
    """What a call gave, as a message: there is no task."""
    made = a2a_pb2.Message(
        message_id=message_id, context_id=context_id, role=a2a_pb2.ROLE_AGENT, parts=parts_of(data, content_type)
    )
    made.metadata.update({STATE_KEY: _S.COMPLETED.name, CONTENT_TYPE_KEY: content_type or "application/json"})
    return made


def result_events(task: task_pb2.Task) -> list[a2a_pb2.TaskArtifactUpdateEvent]:
    """What tells of an ended task's output, if it has one."""
    if not task.HasField("output"):
        return []
    return [
        a2a_pb2.TaskArtifactUpdateEvent(
            task_id=task.task_id, context_id=context_of(task), artifact=artifact, last_chunk=True
        )
        for artifact in artifacts_of(task.output)
    ]


def piece_of(task: task_pb2.Task, update: TaskUpdate, piece: task_pb2.TaskPiece) -> a2a_pb2.TaskArtifactUpdateEvent:
    """A piece of an output that forms. Each attempt has an artifact of its own: what an earlier one gave is void."""
    event = a2a_pb2.TaskArtifactUpdateEvent(task_id=task.task_id, context_id=context_of(task))
    event.artifact.artifact_id = f"{STREAM}-{update.attempt}"
    if piece.data or not piece.last:
        event.artifact.parts.extend(parts_of(piece.data, piece.content_type))
    event.append = piece.index > 1
    event.last_chunk = piece.last
    event.metadata.update({SEQUENCE_KEY: update.sequence, PREFIX + "piece": piece.index})
    return event


def problem_text(problem: problem_pb2.Problem) -> str:
    """For people: reason, message, hint."""
    hint = f" ({problem.hint})" if problem.hint else ""
    return f"{problem.reason}: {problem.message}{hint}"


def _say(
    status: a2a_pb2.TaskStatus, task_id: str, context_id: str, text: str, name: str, facts: Mapping[str, Any]
) -> None:
    message = status.message
    message.message_id = f"{task_id}-{name}"
    message.task_id = task_id
    message.context_id = context_id
    message.role = a2a_pb2.ROLE_AGENT
    message.parts.add(text=text)
    if facts:
        message.metadata.update(facts)


def _facts(task: task_pb2.Task) -> dict[str, Any]:
    """Ours of it, for metadata."""
    facts: dict[str, Any] = {
        STATE_KEY: TaskState(task.state).name,
        SEQUENCE_KEY: task.sequence,
        PREFIX + "skill": task.spec.skill,
        PREFIX + "attempt": task.attempt_count,
    }
    if task.level:
        facts[PREFIX + "level"] = Level(task.level).name
    for name, text in (
        ("reason", task.state_reason),
        ("agent", task.agent),
        ("origin-node", task.origin_node),
        ("holder-node", task.holder_node),
        ("tenant", task.spec.tenant),
        ("parent-task", task.spec.parent_task_id),
        ("replay-of", task.replay_of_task_id),
    ):
        if text:
            facts[PREFIX + name] = text
    if task.cancel_requested:
        facts[PREFIX + "cancel-requested"] = True
    if task.spec.traceparent:
        facts["traceparent"] = task.spec.traceparent
    if task.progress.HasField("fraction"):
        facts[FRACTION_KEY] = task.progress.fraction
    for name, field in (("deadline", task.spec.deadline_time), ("next-attempt", task.next_attempt_time)):
        if field.seconds:
            facts[PREFIX + name] = field.ToJsonString()
    if task.HasField("problem"):
        facts[PROBLEM_KEY] = json_format.MessageToDict(task.problem)
    return facts


def _first_message(task: task_pb2.Task) -> a2a_pb2.Message:
    """What it was submitted with. Its message's id is the idempotency key, if it has one."""
    return a2a_pb2.Message(
        message_id=task.spec.idempotency_key or f"{task.task_id}-input",
        task_id=task.task_id,
        context_id=context_of(task),
        role=a2a_pb2.ROLE_USER,
        parts=parts_of(task.spec.input, task.spec.content_type),
    )


def _milliseconds(time: Timestamp) -> Timestamp:
    """A2A times have milliseconds."""
    made = Timestamp()
    made.FromMilliseconds(time.ToMilliseconds())
    return made
