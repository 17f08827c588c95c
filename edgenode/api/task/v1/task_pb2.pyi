import datetime

from edgenode.api.blob.v1 import blob_pb2 as _blob_pb2
from edgenode.api.problem.v1 import problem_pb2 as _problem_pb2
from edgenode.api.receipt.v1 import receipt_pb2 as _receipt_pb2
from edgenode.api.registry.v1 import registry_service_pb2 as _registry_service_pb2
from google.protobuf import duration_pb2 as _duration_pb2
from google.protobuf import timestamp_pb2 as _timestamp_pb2
from google.protobuf.internal import containers as _containers
from google.protobuf.internal import enum_type_wrapper as _enum_type_wrapper
from google.protobuf import descriptor as _descriptor
from google.protobuf import message as _message
from collections.abc import Iterable as _Iterable, Mapping as _Mapping
from typing import ClassVar as _ClassVar, Optional as _Optional, Union as _Union

DESCRIPTOR: _descriptor.FileDescriptor

class TaskState(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
    __slots__ = ()
    TASK_STATE_UNSPECIFIED: _ClassVar[TaskState]
    TASK_STATE_QUEUED: _ClassVar[TaskState]
    TASK_STATE_PARKED: _ClassVar[TaskState]
    TASK_STATE_ASSIGNED: _ClassVar[TaskState]
    TASK_STATE_WORKING: _ClassVar[TaskState]
    TASK_STATE_INPUT_REQUIRED: _ClassVar[TaskState]
    TASK_STATE_AUTH_REQUIRED: _ClassVar[TaskState]
    TASK_STATE_RETRY_WAIT: _ClassVar[TaskState]
    TASK_STATE_COMPLETED: _ClassVar[TaskState]
    TASK_STATE_FAILED: _ClassVar[TaskState]
    TASK_STATE_CANCELED: _ClassVar[TaskState]
    TASK_STATE_REJECTED: _ClassVar[TaskState]
    TASK_STATE_EXPIRED: _ClassVar[TaskState]
    TASK_STATE_DEAD_LETTERED: _ClassVar[TaskState]

class OnLost(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
    __slots__ = ()
    ON_LOST_UNSPECIFIED: _ClassVar[OnLost]
    ON_LOST_RETRY: _ClassVar[OnLost]
    ON_LOST_WAIT: _ClassVar[OnLost]
    ON_LOST_FAIL: _ClassVar[OnLost]
TASK_STATE_UNSPECIFIED: TaskState
TASK_STATE_QUEUED: TaskState
TASK_STATE_PARKED: TaskState
TASK_STATE_ASSIGNED: TaskState
TASK_STATE_WORKING: TaskState
TASK_STATE_INPUT_REQUIRED: TaskState
TASK_STATE_AUTH_REQUIRED: TaskState
TASK_STATE_RETRY_WAIT: TaskState
TASK_STATE_COMPLETED: TaskState
TASK_STATE_FAILED: TaskState
TASK_STATE_CANCELED: TaskState
TASK_STATE_REJECTED: TaskState
TASK_STATE_EXPIRED: TaskState
TASK_STATE_DEAD_LETTERED: TaskState
ON_LOST_UNSPECIFIED: OnLost
ON_LOST_RETRY: OnLost
ON_LOST_WAIT: OnLost
ON_LOST_FAIL: OnLost

class RetryPolicy(_message.Message):
    __slots__ = ("max_attempt_count", "initial_backoff_duration", "max_backoff_duration", "backoff_multiplier", "retryable_reasons")
    MAX_ATTEMPT_COUNT_FIELD_NUMBER: _ClassVar[int]
    INITIAL_BACKOFF_DURATION_FIELD_NUMBER: _ClassVar[int]
    MAX_BACKOFF_DURATION_FIELD_NUMBER: _ClassVar[int]
    BACKOFF_MULTIPLIER_FIELD_NUMBER: _ClassVar[int]
    RETRYABLE_REASONS_FIELD_NUMBER: _ClassVar[int]
    max_attempt_count: int
    initial_backoff_duration: _duration_pb2.Duration
    max_backoff_duration: _duration_pb2.Duration
    backoff_multiplier: float
    retryable_reasons: _containers.RepeatedScalarFieldContainer[str]
    def __init__(self, max_attempt_count: _Optional[int] = ..., initial_backoff_duration: _Optional[_Union[datetime.timedelta, _duration_pb2.Duration, _Mapping]] = ..., max_backoff_duration: _Optional[_Union[datetime.timedelta, _duration_pb2.Duration, _Mapping]] = ..., backoff_multiplier: _Optional[float] = ..., retryable_reasons: _Optional[_Iterable[str]] = ...) -> None: ...

class TaskSpec(_message.Message):
    __slots__ = ("skill", "selector", "agent", "input", "content_type", "priority", "deadline_time", "scope", "retry_policy", "on_lost", "attempt_timeout_duration", "idempotency_key", "context_id", "parent_task_id", "traceparent", "tracestate", "tenant", "cost_limit", "annotations", "blobs")
    class AnnotationsEntry(_message.Message):
        __slots__ = ("key", "value")
        KEY_FIELD_NUMBER: _ClassVar[int]
        VALUE_FIELD_NUMBER: _ClassVar[int]
        key: str
        value: str
        def __init__(self, key: _Optional[str] = ..., value: _Optional[str] = ...) -> None: ...
    SKILL_FIELD_NUMBER: _ClassVar[int]
    SELECTOR_FIELD_NUMBER: _ClassVar[int]
    AGENT_FIELD_NUMBER: _ClassVar[int]
    INPUT_FIELD_NUMBER: _ClassVar[int]
    CONTENT_TYPE_FIELD_NUMBER: _ClassVar[int]
    PRIORITY_FIELD_NUMBER: _ClassVar[int]
    DEADLINE_TIME_FIELD_NUMBER: _ClassVar[int]
    SCOPE_FIELD_NUMBER: _ClassVar[int]
    RETRY_POLICY_FIELD_NUMBER: _ClassVar[int]
    ON_LOST_FIELD_NUMBER: _ClassVar[int]
    ATTEMPT_TIMEOUT_DURATION_FIELD_NUMBER: _ClassVar[int]
    IDEMPOTENCY_KEY_FIELD_NUMBER: _ClassVar[int]
    CONTEXT_ID_FIELD_NUMBER: _ClassVar[int]
    PARENT_TASK_ID_FIELD_NUMBER: _ClassVar[int]
    TRACEPARENT_FIELD_NUMBER: _ClassVar[int]
    TRACESTATE_FIELD_NUMBER: _ClassVar[int]
    TENANT_FIELD_NUMBER: _ClassVar[int]
    COST_LIMIT_FIELD_NUMBER: _ClassVar[int]
    ANNOTATIONS_FIELD_NUMBER: _ClassVar[int]
    BLOBS_FIELD_NUMBER: _ClassVar[int]
    skill: str
    selector: str
    agent: str
    input: bytes
    content_type: str
    priority: int
    deadline_time: _timestamp_pb2.Timestamp
    scope: _registry_service_pb2.Scope
    retry_policy: RetryPolicy
    on_lost: OnLost
    attempt_timeout_duration: _duration_pb2.Duration
    idempotency_key: str
    context_id: str
    parent_task_id: str
    traceparent: str
    tracestate: str
    tenant: str
    cost_limit: float
    annotations: _containers.ScalarMap[str, str]
    blobs: _containers.RepeatedCompositeFieldContainer[_blob_pb2.BlobRef]
    def __init__(self, skill: _Optional[str] = ..., selector: _Optional[str] = ..., agent: _Optional[str] = ..., input: _Optional[bytes] = ..., content_type: _Optional[str] = ..., priority: _Optional[int] = ..., deadline_time: _Optional[_Union[datetime.datetime, _timestamp_pb2.Timestamp, _Mapping]] = ..., scope: _Optional[_Union[_registry_service_pb2.Scope, str]] = ..., retry_policy: _Optional[_Union[RetryPolicy, _Mapping]] = ..., on_lost: _Optional[_Union[OnLost, str]] = ..., attempt_timeout_duration: _Optional[_Union[datetime.timedelta, _duration_pb2.Duration, _Mapping]] = ..., idempotency_key: _Optional[str] = ..., context_id: _Optional[str] = ..., parent_task_id: _Optional[str] = ..., traceparent: _Optional[str] = ..., tracestate: _Optional[str] = ..., tenant: _Optional[str] = ..., cost_limit: _Optional[float] = ..., annotations: _Optional[_Mapping[str, str]] = ..., blobs: _Optional[_Iterable[_Union[_blob_pb2.BlobRef, _Mapping]]] = ...) -> None: ...

class TaskProgress(_message.Message):
    __slots__ = ("fraction", "message", "pieces")
    FRACTION_FIELD_NUMBER: _ClassVar[int]
    MESSAGE_FIELD_NUMBER: _ClassVar[int]
    PIECES_FIELD_NUMBER: _ClassVar[int]
    fraction: float
    message: str
    pieces: _containers.RepeatedCompositeFieldContainer[TaskPiece]
    def __init__(self, fraction: _Optional[float] = ..., message: _Optional[str] = ..., pieces: _Optional[_Iterable[_Union[TaskPiece, _Mapping]]] = ...) -> None: ...

class TaskPiece(_message.Message):
    __slots__ = ("index", "data", "content_type", "last")
    INDEX_FIELD_NUMBER: _ClassVar[int]
    DATA_FIELD_NUMBER: _ClassVar[int]
    CONTENT_TYPE_FIELD_NUMBER: _ClassVar[int]
    LAST_FIELD_NUMBER: _ClassVar[int]
    index: int
    data: bytes
    content_type: str
    last: bool
    def __init__(self, index: _Optional[int] = ..., data: _Optional[bytes] = ..., content_type: _Optional[str] = ..., last: bool = ...) -> None: ...

class InputRequest(_message.Message):
    __slots__ = ("key", "prompt", "schema", "authorization")
    KEY_FIELD_NUMBER: _ClassVar[int]
    PROMPT_FIELD_NUMBER: _ClassVar[int]
    SCHEMA_FIELD_NUMBER: _ClassVar[int]
    AUTHORIZATION_FIELD_NUMBER: _ClassVar[int]
    key: str
    prompt: str
    schema: str
    authorization: bool
    def __init__(self, key: _Optional[str] = ..., prompt: _Optional[str] = ..., schema: _Optional[str] = ..., authorization: bool = ...) -> None: ...

class TaskOutput(_message.Message):
    __slots__ = ("data", "content_type", "blobs")
    DATA_FIELD_NUMBER: _ClassVar[int]
    CONTENT_TYPE_FIELD_NUMBER: _ClassVar[int]
    BLOBS_FIELD_NUMBER: _ClassVar[int]
    data: bytes
    content_type: str
    blobs: _containers.RepeatedCompositeFieldContainer[_blob_pb2.BlobRef]
    def __init__(self, data: _Optional[bytes] = ..., content_type: _Optional[str] = ..., blobs: _Optional[_Iterable[_Union[_blob_pb2.BlobRef, _Mapping]]] = ...) -> None: ...

class Task(_message.Message):
    __slots__ = ("task_id", "spec", "state", "state_reason", "attempt_count", "agent", "origin_node", "holder_node", "fence", "output", "problem", "progress", "input_request", "cancel_requested", "submit_time", "update_time", "next_attempt_time", "sequence", "level", "replay_of_task_id")
    TASK_ID_FIELD_NUMBER: _ClassVar[int]
    SPEC_FIELD_NUMBER: _ClassVar[int]
    STATE_FIELD_NUMBER: _ClassVar[int]
    STATE_REASON_FIELD_NUMBER: _ClassVar[int]
    ATTEMPT_COUNT_FIELD_NUMBER: _ClassVar[int]
    AGENT_FIELD_NUMBER: _ClassVar[int]
    ORIGIN_NODE_FIELD_NUMBER: _ClassVar[int]
    HOLDER_NODE_FIELD_NUMBER: _ClassVar[int]
    FENCE_FIELD_NUMBER: _ClassVar[int]
    OUTPUT_FIELD_NUMBER: _ClassVar[int]
    PROBLEM_FIELD_NUMBER: _ClassVar[int]
    PROGRESS_FIELD_NUMBER: _ClassVar[int]
    INPUT_REQUEST_FIELD_NUMBER: _ClassVar[int]
    CANCEL_REQUESTED_FIELD_NUMBER: _ClassVar[int]
    SUBMIT_TIME_FIELD_NUMBER: _ClassVar[int]
    UPDATE_TIME_FIELD_NUMBER: _ClassVar[int]
    NEXT_ATTEMPT_TIME_FIELD_NUMBER: _ClassVar[int]
    SEQUENCE_FIELD_NUMBER: _ClassVar[int]
    LEVEL_FIELD_NUMBER: _ClassVar[int]
    REPLAY_OF_TASK_ID_FIELD_NUMBER: _ClassVar[int]
    task_id: str
    spec: TaskSpec
    state: TaskState
    state_reason: str
    attempt_count: int
    agent: str
    origin_node: str
    holder_node: str
    fence: int
    output: TaskOutput
    problem: _problem_pb2.Problem
    progress: TaskProgress
    input_request: InputRequest
    cancel_requested: bool
    submit_time: _timestamp_pb2.Timestamp
    update_time: _timestamp_pb2.Timestamp
    next_attempt_time: _timestamp_pb2.Timestamp
    sequence: int
    level: _receipt_pb2.ReceiptLevel
    replay_of_task_id: str
    def __init__(self, task_id: _Optional[str] = ..., spec: _Optional[_Union[TaskSpec, _Mapping]] = ..., state: _Optional[_Union[TaskState, str]] = ..., state_reason: _Optional[str] = ..., attempt_count: _Optional[int] = ..., agent: _Optional[str] = ..., origin_node: _Optional[str] = ..., holder_node: _Optional[str] = ..., fence: _Optional[int] = ..., output: _Optional[_Union[TaskOutput, _Mapping]] = ..., problem: _Optional[_Union[_problem_pb2.Problem, _Mapping]] = ..., progress: _Optional[_Union[TaskProgress, _Mapping]] = ..., input_request: _Optional[_Union[InputRequest, _Mapping]] = ..., cancel_requested: bool = ..., submit_time: _Optional[_Union[datetime.datetime, _timestamp_pb2.Timestamp, _Mapping]] = ..., update_time: _Optional[_Union[datetime.datetime, _timestamp_pb2.Timestamp, _Mapping]] = ..., next_attempt_time: _Optional[_Union[datetime.datetime, _timestamp_pb2.Timestamp, _Mapping]] = ..., sequence: _Optional[int] = ..., level: _Optional[_Union[_receipt_pb2.ReceiptLevel, str]] = ..., replay_of_task_id: _Optional[str] = ...) -> None: ...

class TaskEvent(_message.Message):
    __slots__ = ("sequence", "event_time", "state", "state_reason", "attempt_count", "agent", "progress")
    SEQUENCE_FIELD_NUMBER: _ClassVar[int]
    EVENT_TIME_FIELD_NUMBER: _ClassVar[int]
    STATE_FIELD_NUMBER: _ClassVar[int]
    STATE_REASON_FIELD_NUMBER: _ClassVar[int]
    ATTEMPT_COUNT_FIELD_NUMBER: _ClassVar[int]
    AGENT_FIELD_NUMBER: _ClassVar[int]
    PROGRESS_FIELD_NUMBER: _ClassVar[int]
    sequence: int
    event_time: _timestamp_pb2.Timestamp
    state: TaskState
    state_reason: str
    attempt_count: int
    agent: str
    progress: TaskProgress
    def __init__(self, sequence: _Optional[int] = ..., event_time: _Optional[_Union[datetime.datetime, _timestamp_pb2.Timestamp, _Mapping]] = ..., state: _Optional[_Union[TaskState, str]] = ..., state_reason: _Optional[str] = ..., attempt_count: _Optional[int] = ..., agent: _Optional[str] = ..., progress: _Optional[_Union[TaskProgress, _Mapping]] = ...) -> None: ...
