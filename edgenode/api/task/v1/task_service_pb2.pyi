import datetime

from edgenode.api.problem.v1 import problem_pb2 as _problem_pb2
from edgenode.api.receipt.v1 import receipt_pb2 as _receipt_pb2
from edgenode.api.task.v1 import task_pb2 as _task_pb2
from google.protobuf import duration_pb2 as _duration_pb2
from google.protobuf.internal import containers as _containers
from google.protobuf import descriptor as _descriptor
from google.protobuf import message as _message
from collections.abc import Iterable as _Iterable, Mapping as _Mapping
from typing import ClassVar as _ClassVar, Optional as _Optional, Union as _Union

DESCRIPTOR: _descriptor.FileDescriptor

class SubmitTaskRequest(_message.Message):
    __slots__ = ("request_id", "spec", "wait_level", "wait_duration")
    REQUEST_ID_FIELD_NUMBER: _ClassVar[int]
    SPEC_FIELD_NUMBER: _ClassVar[int]
    WAIT_LEVEL_FIELD_NUMBER: _ClassVar[int]
    WAIT_DURATION_FIELD_NUMBER: _ClassVar[int]
    request_id: str
    spec: _task_pb2.TaskSpec
    wait_level: _receipt_pb2.ReceiptLevel
    wait_duration: _duration_pb2.Duration
    def __init__(self, request_id: _Optional[str] = ..., spec: _Optional[_Union[_task_pb2.TaskSpec, _Mapping]] = ..., wait_level: _Optional[_Union[_receipt_pb2.ReceiptLevel, str]] = ..., wait_duration: _Optional[_Union[datetime.timedelta, _duration_pb2.Duration, _Mapping]] = ...) -> None: ...

class SubmitTaskResponse(_message.Message):
    __slots__ = ("task", "receipt")
    TASK_FIELD_NUMBER: _ClassVar[int]
    RECEIPT_FIELD_NUMBER: _ClassVar[int]
    task: _task_pb2.Task
    receipt: _receipt_pb2.Receipt
    def __init__(self, task: _Optional[_Union[_task_pb2.Task, _Mapping]] = ..., receipt: _Optional[_Union[_receipt_pb2.Receipt, _Mapping]] = ...) -> None: ...

class Submission(_message.Message):
    __slots__ = ("correlation_id", "spec", "call", "want_outcome", "request_id")
    CORRELATION_ID_FIELD_NUMBER: _ClassVar[int]
    SPEC_FIELD_NUMBER: _ClassVar[int]
    CALL_FIELD_NUMBER: _ClassVar[int]
    WANT_OUTCOME_FIELD_NUMBER: _ClassVar[int]
    REQUEST_ID_FIELD_NUMBER: _ClassVar[int]
    correlation_id: int
    spec: _task_pb2.TaskSpec
    call: bool
    want_outcome: bool
    request_id: str
    def __init__(self, correlation_id: _Optional[int] = ..., spec: _Optional[_Union[_task_pb2.TaskSpec, _Mapping]] = ..., call: bool = ..., want_outcome: bool = ..., request_id: _Optional[str] = ...) -> None: ...

class SubmitTasksRequest(_message.Message):
    __slots__ = ("submissions", "cancel_correlation_ids")
    SUBMISSIONS_FIELD_NUMBER: _ClassVar[int]
    CANCEL_CORRELATION_IDS_FIELD_NUMBER: _ClassVar[int]
    submissions: _containers.RepeatedCompositeFieldContainer[Submission]
    cancel_correlation_ids: _containers.RepeatedScalarFieldContainer[int]
    def __init__(self, submissions: _Optional[_Iterable[_Union[Submission, _Mapping]]] = ..., cancel_correlation_ids: _Optional[_Iterable[int]] = ...) -> None: ...

class SubmissionReceipt(_message.Message):
    __slots__ = ("correlation_id", "task_id", "level")
    CORRELATION_ID_FIELD_NUMBER: _ClassVar[int]
    TASK_ID_FIELD_NUMBER: _ClassVar[int]
    LEVEL_FIELD_NUMBER: _ClassVar[int]
    correlation_id: int
    task_id: str
    level: _receipt_pb2.ReceiptLevel
    def __init__(self, correlation_id: _Optional[int] = ..., task_id: _Optional[str] = ..., level: _Optional[_Union[_receipt_pb2.ReceiptLevel, str]] = ...) -> None: ...

class SubmissionOutcome(_message.Message):
    __slots__ = ("correlation_id", "task_id", "state", "output", "problem")
    CORRELATION_ID_FIELD_NUMBER: _ClassVar[int]
    TASK_ID_FIELD_NUMBER: _ClassVar[int]
    STATE_FIELD_NUMBER: _ClassVar[int]
    OUTPUT_FIELD_NUMBER: _ClassVar[int]
    PROBLEM_FIELD_NUMBER: _ClassVar[int]
    correlation_id: int
    task_id: str
    state: _task_pb2.TaskState
    output: _task_pb2.TaskOutput
    problem: _problem_pb2.Problem
    def __init__(self, correlation_id: _Optional[int] = ..., task_id: _Optional[str] = ..., state: _Optional[_Union[_task_pb2.TaskState, str]] = ..., output: _Optional[_Union[_task_pb2.TaskOutput, _Mapping]] = ..., problem: _Optional[_Union[_problem_pb2.Problem, _Mapping]] = ...) -> None: ...

class SubmitTasksResponse(_message.Message):
    __slots__ = ("receipts", "outcomes")
    RECEIPTS_FIELD_NUMBER: _ClassVar[int]
    OUTCOMES_FIELD_NUMBER: _ClassVar[int]
    receipts: _containers.RepeatedCompositeFieldContainer[SubmissionReceipt]
    outcomes: _containers.RepeatedCompositeFieldContainer[SubmissionOutcome]
    def __init__(self, receipts: _Optional[_Iterable[_Union[SubmissionReceipt, _Mapping]]] = ..., outcomes: _Optional[_Iterable[_Union[SubmissionOutcome, _Mapping]]] = ...) -> None: ...

class CallAgentRequest(_message.Message):
    __slots__ = ("spec",)
    SPEC_FIELD_NUMBER: _ClassVar[int]
    spec: _task_pb2.TaskSpec
    def __init__(self, spec: _Optional[_Union[_task_pb2.TaskSpec, _Mapping]] = ...) -> None: ...

class CallAgentResponse(_message.Message):
    __slots__ = ("output", "agent")
    OUTPUT_FIELD_NUMBER: _ClassVar[int]
    AGENT_FIELD_NUMBER: _ClassVar[int]
    output: _task_pb2.TaskOutput
    agent: str
    def __init__(self, output: _Optional[_Union[_task_pb2.TaskOutput, _Mapping]] = ..., agent: _Optional[str] = ...) -> None: ...

class StreamCallRequest(_message.Message):
    __slots__ = ("spec",)
    SPEC_FIELD_NUMBER: _ClassVar[int]
    spec: _task_pb2.TaskSpec
    def __init__(self, spec: _Optional[_Union[_task_pb2.TaskSpec, _Mapping]] = ...) -> None: ...

class StreamCallResponse(_message.Message):
    __slots__ = ("pieces", "output", "agent")
    PIECES_FIELD_NUMBER: _ClassVar[int]
    OUTPUT_FIELD_NUMBER: _ClassVar[int]
    AGENT_FIELD_NUMBER: _ClassVar[int]
    pieces: _containers.RepeatedCompositeFieldContainer[_task_pb2.TaskPiece]
    output: _task_pb2.TaskOutput
    agent: str
    def __init__(self, pieces: _Optional[_Iterable[_Union[_task_pb2.TaskPiece, _Mapping]]] = ..., output: _Optional[_Union[_task_pb2.TaskOutput, _Mapping]] = ..., agent: _Optional[str] = ...) -> None: ...

class GetTaskRequest(_message.Message):
    __slots__ = ("task_id",)
    TASK_ID_FIELD_NUMBER: _ClassVar[int]
    task_id: str
    def __init__(self, task_id: _Optional[str] = ...) -> None: ...

class GetTaskResponse(_message.Message):
    __slots__ = ("task",)
    TASK_FIELD_NUMBER: _ClassVar[int]
    task: _task_pb2.Task
    def __init__(self, task: _Optional[_Union[_task_pb2.Task, _Mapping]] = ...) -> None: ...

class ListTasksRequest(_message.Message):
    __slots__ = ("states", "skill", "context_id", "page_size", "page_token")
    STATES_FIELD_NUMBER: _ClassVar[int]
    SKILL_FIELD_NUMBER: _ClassVar[int]
    CONTEXT_ID_FIELD_NUMBER: _ClassVar[int]
    PAGE_SIZE_FIELD_NUMBER: _ClassVar[int]
    PAGE_TOKEN_FIELD_NUMBER: _ClassVar[int]
    states: _containers.RepeatedScalarFieldContainer[_task_pb2.TaskState]
    skill: str
    context_id: str
    page_size: int
    page_token: str
    def __init__(self, states: _Optional[_Iterable[_Union[_task_pb2.TaskState, str]]] = ..., skill: _Optional[str] = ..., context_id: _Optional[str] = ..., page_size: _Optional[int] = ..., page_token: _Optional[str] = ...) -> None: ...

class ListTasksResponse(_message.Message):
    __slots__ = ("tasks", "next_page_token")
    TASKS_FIELD_NUMBER: _ClassVar[int]
    NEXT_PAGE_TOKEN_FIELD_NUMBER: _ClassVar[int]
    tasks: _containers.RepeatedCompositeFieldContainer[_task_pb2.Task]
    next_page_token: str
    def __init__(self, tasks: _Optional[_Iterable[_Union[_task_pb2.Task, _Mapping]]] = ..., next_page_token: _Optional[str] = ...) -> None: ...

class WatchTaskRequest(_message.Message):
    __slots__ = ("task_id", "after_sequence")
    TASK_ID_FIELD_NUMBER: _ClassVar[int]
    AFTER_SEQUENCE_FIELD_NUMBER: _ClassVar[int]
    task_id: str
    after_sequence: int
    def __init__(self, task_id: _Optional[str] = ..., after_sequence: _Optional[int] = ...) -> None: ...

class WatchTaskResponse(_message.Message):
    __slots__ = ("events", "gap", "task")
    EVENTS_FIELD_NUMBER: _ClassVar[int]
    GAP_FIELD_NUMBER: _ClassVar[int]
    TASK_FIELD_NUMBER: _ClassVar[int]
    events: _containers.RepeatedCompositeFieldContainer[_task_pb2.TaskEvent]
    gap: bool
    task: _task_pb2.Task
    def __init__(self, events: _Optional[_Iterable[_Union[_task_pb2.TaskEvent, _Mapping]]] = ..., gap: bool = ..., task: _Optional[_Union[_task_pb2.Task, _Mapping]] = ...) -> None: ...

class CancelTaskRequest(_message.Message):
    __slots__ = ("request_id", "task_id", "reason")
    REQUEST_ID_FIELD_NUMBER: _ClassVar[int]
    TASK_ID_FIELD_NUMBER: _ClassVar[int]
    REASON_FIELD_NUMBER: _ClassVar[int]
    request_id: str
    task_id: str
    reason: str
    def __init__(self, request_id: _Optional[str] = ..., task_id: _Optional[str] = ..., reason: _Optional[str] = ...) -> None: ...

class CancelTaskResponse(_message.Message):
    __slots__ = ("task",)
    TASK_FIELD_NUMBER: _ClassVar[int]
    task: _task_pb2.Task
    def __init__(self, task: _Optional[_Union[_task_pb2.Task, _Mapping]] = ...) -> None: ...

class ProvideTaskInputRequest(_message.Message):
    __slots__ = ("request_id", "task_id", "key", "answer")
    REQUEST_ID_FIELD_NUMBER: _ClassVar[int]
    TASK_ID_FIELD_NUMBER: _ClassVar[int]
    KEY_FIELD_NUMBER: _ClassVar[int]
    ANSWER_FIELD_NUMBER: _ClassVar[int]
    request_id: str
    task_id: str
    key: str
    answer: _task_pb2.TaskOutput
    def __init__(self, request_id: _Optional[str] = ..., task_id: _Optional[str] = ..., key: _Optional[str] = ..., answer: _Optional[_Union[_task_pb2.TaskOutput, _Mapping]] = ...) -> None: ...

class ProvideTaskInputResponse(_message.Message):
    __slots__ = ("task",)
    TASK_FIELD_NUMBER: _ClassVar[int]
    task: _task_pb2.Task
    def __init__(self, task: _Optional[_Union[_task_pb2.Task, _Mapping]] = ...) -> None: ...

class ReplayTaskRequest(_message.Message):
    __slots__ = ("request_id", "task_id")
    REQUEST_ID_FIELD_NUMBER: _ClassVar[int]
    TASK_ID_FIELD_NUMBER: _ClassVar[int]
    request_id: str
    task_id: str
    def __init__(self, request_id: _Optional[str] = ..., task_id: _Optional[str] = ...) -> None: ...

class ReplayTaskResponse(_message.Message):
    __slots__ = ("task",)
    TASK_FIELD_NUMBER: _ClassVar[int]
    task: _task_pb2.Task
    def __init__(self, task: _Optional[_Union[_task_pb2.Task, _Mapping]] = ...) -> None: ...

class WorkAttach(_message.Message):
    __slots__ = ("agent", "instance_id", "attempts")
    AGENT_FIELD_NUMBER: _ClassVar[int]
    INSTANCE_ID_FIELD_NUMBER: _ClassVar[int]
    ATTEMPTS_FIELD_NUMBER: _ClassVar[int]
    agent: str
    instance_id: str
    attempts: _containers.RepeatedCompositeFieldContainer[AttemptKey]
    def __init__(self, agent: _Optional[str] = ..., instance_id: _Optional[str] = ..., attempts: _Optional[_Iterable[_Union[AttemptKey, _Mapping]]] = ...) -> None: ...

class AttemptKey(_message.Message):
    __slots__ = ("task_id", "attempt_number", "fence")
    TASK_ID_FIELD_NUMBER: _ClassVar[int]
    ATTEMPT_NUMBER_FIELD_NUMBER: _ClassVar[int]
    FENCE_FIELD_NUMBER: _ClassVar[int]
    task_id: str
    attempt_number: int
    fence: int
    def __init__(self, task_id: _Optional[str] = ..., attempt_number: _Optional[int] = ..., fence: _Optional[int] = ...) -> None: ...

class AttemptResult(_message.Message):
    __slots__ = ("key", "state", "output", "problem")
    KEY_FIELD_NUMBER: _ClassVar[int]
    STATE_FIELD_NUMBER: _ClassVar[int]
    OUTPUT_FIELD_NUMBER: _ClassVar[int]
    PROBLEM_FIELD_NUMBER: _ClassVar[int]
    key: AttemptKey
    state: _task_pb2.TaskState
    output: _task_pb2.TaskOutput
    problem: _problem_pb2.Problem
    def __init__(self, key: _Optional[_Union[AttemptKey, _Mapping]] = ..., state: _Optional[_Union[_task_pb2.TaskState, str]] = ..., output: _Optional[_Union[_task_pb2.TaskOutput, _Mapping]] = ..., problem: _Optional[_Union[_problem_pb2.Problem, _Mapping]] = ...) -> None: ...

class AttemptUpdate(_message.Message):
    __slots__ = ("key", "progress", "input_request")
    KEY_FIELD_NUMBER: _ClassVar[int]
    PROGRESS_FIELD_NUMBER: _ClassVar[int]
    INPUT_REQUEST_FIELD_NUMBER: _ClassVar[int]
    key: AttemptKey
    progress: _task_pb2.TaskProgress
    input_request: _task_pb2.InputRequest
    def __init__(self, key: _Optional[_Union[AttemptKey, _Mapping]] = ..., progress: _Optional[_Union[_task_pb2.TaskProgress, _Mapping]] = ..., input_request: _Optional[_Union[_task_pb2.InputRequest, _Mapping]] = ...) -> None: ...

class WorkTasksRequest(_message.Message):
    __slots__ = ("attach", "credit_count", "results", "updates")
    ATTACH_FIELD_NUMBER: _ClassVar[int]
    CREDIT_COUNT_FIELD_NUMBER: _ClassVar[int]
    RESULTS_FIELD_NUMBER: _ClassVar[int]
    UPDATES_FIELD_NUMBER: _ClassVar[int]
    attach: WorkAttach
    credit_count: int
    results: _containers.RepeatedCompositeFieldContainer[AttemptResult]
    updates: _containers.RepeatedCompositeFieldContainer[AttemptUpdate]
    def __init__(self, attach: _Optional[_Union[WorkAttach, _Mapping]] = ..., credit_count: _Optional[int] = ..., results: _Optional[_Iterable[_Union[AttemptResult, _Mapping]]] = ..., updates: _Optional[_Iterable[_Union[AttemptUpdate, _Mapping]]] = ...) -> None: ...

class WorkAttached(_message.Message):
    __slots__ = ("node", "lease_duration")
    NODE_FIELD_NUMBER: _ClassVar[int]
    LEASE_DURATION_FIELD_NUMBER: _ClassVar[int]
    node: str
    lease_duration: _duration_pb2.Duration
    def __init__(self, node: _Optional[str] = ..., lease_duration: _Optional[_Union[datetime.timedelta, _duration_pb2.Duration, _Mapping]] = ...) -> None: ...

class Assignment(_message.Message):
    __slots__ = ("key", "spec", "timeout_duration", "answers", "prompt", "piece_room_bytes")
    class AnswersEntry(_message.Message):
        __slots__ = ("key", "value")
        KEY_FIELD_NUMBER: _ClassVar[int]
        VALUE_FIELD_NUMBER: _ClassVar[int]
        key: str
        value: _task_pb2.TaskOutput
        def __init__(self, key: _Optional[str] = ..., value: _Optional[_Union[_task_pb2.TaskOutput, _Mapping]] = ...) -> None: ...
    KEY_FIELD_NUMBER: _ClassVar[int]
    SPEC_FIELD_NUMBER: _ClassVar[int]
    TIMEOUT_DURATION_FIELD_NUMBER: _ClassVar[int]
    ANSWERS_FIELD_NUMBER: _ClassVar[int]
    PROMPT_FIELD_NUMBER: _ClassVar[int]
    PIECE_ROOM_BYTES_FIELD_NUMBER: _ClassVar[int]
    key: AttemptKey
    spec: _task_pb2.TaskSpec
    timeout_duration: _duration_pb2.Duration
    answers: _containers.MessageMap[str, _task_pb2.TaskOutput]
    prompt: bool
    piece_room_bytes: int
    def __init__(self, key: _Optional[_Union[AttemptKey, _Mapping]] = ..., spec: _Optional[_Union[_task_pb2.TaskSpec, _Mapping]] = ..., timeout_duration: _Optional[_Union[datetime.timedelta, _duration_pb2.Duration, _Mapping]] = ..., answers: _Optional[_Mapping[str, _task_pb2.TaskOutput]] = ..., prompt: bool = ..., piece_room_bytes: _Optional[int] = ...) -> None: ...

class PieceAllowance(_message.Message):
    __slots__ = ("key", "room_bytes")
    KEY_FIELD_NUMBER: _ClassVar[int]
    ROOM_BYTES_FIELD_NUMBER: _ClassVar[int]
    key: AttemptKey
    room_bytes: int
    def __init__(self, key: _Optional[_Union[AttemptKey, _Mapping]] = ..., room_bytes: _Optional[int] = ...) -> None: ...

class AttemptAnswer(_message.Message):
    __slots__ = ("key", "input_key", "answer")
    KEY_FIELD_NUMBER: _ClassVar[int]
    INPUT_KEY_FIELD_NUMBER: _ClassVar[int]
    ANSWER_FIELD_NUMBER: _ClassVar[int]
    key: AttemptKey
    input_key: str
    answer: _task_pb2.TaskOutput
    def __init__(self, key: _Optional[_Union[AttemptKey, _Mapping]] = ..., input_key: _Optional[str] = ..., answer: _Optional[_Union[_task_pb2.TaskOutput, _Mapping]] = ...) -> None: ...

class ResultProblem(_message.Message):
    __slots__ = ("key", "problem")
    KEY_FIELD_NUMBER: _ClassVar[int]
    PROBLEM_FIELD_NUMBER: _ClassVar[int]
    key: AttemptKey
    problem: _problem_pb2.Problem
    def __init__(self, key: _Optional[_Union[AttemptKey, _Mapping]] = ..., problem: _Optional[_Union[_problem_pb2.Problem, _Mapping]] = ...) -> None: ...

class WorkTasksResponse(_message.Message):
    __slots__ = ("attached", "assignments", "cancels", "confirmations", "result_problems", "answers", "piece_allowances")
    ATTACHED_FIELD_NUMBER: _ClassVar[int]
    ASSIGNMENTS_FIELD_NUMBER: _ClassVar[int]
    CANCELS_FIELD_NUMBER: _ClassVar[int]
    CONFIRMATIONS_FIELD_NUMBER: _ClassVar[int]
    RESULT_PROBLEMS_FIELD_NUMBER: _ClassVar[int]
    ANSWERS_FIELD_NUMBER: _ClassVar[int]
    PIECE_ALLOWANCES_FIELD_NUMBER: _ClassVar[int]
    attached: WorkAttached
    assignments: _containers.RepeatedCompositeFieldContainer[Assignment]
    cancels: _containers.RepeatedCompositeFieldContainer[AttemptKey]
    confirmations: _containers.RepeatedCompositeFieldContainer[AttemptKey]
    result_problems: _containers.RepeatedCompositeFieldContainer[ResultProblem]
    answers: _containers.RepeatedCompositeFieldContainer[AttemptAnswer]
    piece_allowances: _containers.RepeatedCompositeFieldContainer[PieceAllowance]
    def __init__(self, attached: _Optional[_Union[WorkAttached, _Mapping]] = ..., assignments: _Optional[_Iterable[_Union[Assignment, _Mapping]]] = ..., cancels: _Optional[_Iterable[_Union[AttemptKey, _Mapping]]] = ..., confirmations: _Optional[_Iterable[_Union[AttemptKey, _Mapping]]] = ..., result_problems: _Optional[_Iterable[_Union[ResultProblem, _Mapping]]] = ..., answers: _Optional[_Iterable[_Union[AttemptAnswer, _Mapping]]] = ..., piece_allowances: _Optional[_Iterable[_Union[PieceAllowance, _Mapping]]] = ...) -> None: ...
