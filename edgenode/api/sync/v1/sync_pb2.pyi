import datetime

from edgenode.api.admin.v1 import admin_service_pb2 as _admin_service_pb2
from edgenode.api.problem.v1 import problem_pb2 as _problem_pb2
from edgenode.api.registry.v1 import registry_pb2 as _registry_pb2
from edgenode.api.registry.v1 import registry_service_pb2 as _registry_service_pb2
from edgenode.api.task.v1 import task_pb2 as _task_pb2
from google.protobuf import duration_pb2 as _duration_pb2
from google.protobuf import timestamp_pb2 as _timestamp_pb2
from google.protobuf.internal import containers as _containers
from google.protobuf.internal import enum_type_wrapper as _enum_type_wrapper
from google.protobuf import descriptor as _descriptor
from google.protobuf import message as _message
from collections.abc import Iterable as _Iterable, Mapping as _Mapping
from typing import ClassVar as _ClassVar, Optional as _Optional, Union as _Union

DESCRIPTOR: _descriptor.FileDescriptor

class Lane(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
    __slots__ = ()
    LANE_UNSPECIFIED: _ClassVar[Lane]
    LANE_CONTROL: _ClassVar[Lane]
    LANE_TASK: _ClassVar[Lane]
    LANE_MESSAGE: _ClassVar[Lane]
    LANE_BULK: _ClassVar[Lane]
LANE_UNSPECIFIED: Lane
LANE_CONTROL: Lane
LANE_TASK: Lane
LANE_MESSAGE: Lane
LANE_BULK: Lane

class EpochEnd(_message.Message):
    __slots__ = ("epoch", "last_sequence")
    EPOCH_FIELD_NUMBER: _ClassVar[int]
    LAST_SEQUENCE_FIELD_NUMBER: _ClassVar[int]
    epoch: str
    last_sequence: int
    def __init__(self, epoch: _Optional[str] = ..., last_sequence: _Optional[int] = ...) -> None: ...

class LaneHead(_message.Message):
    __slots__ = ("lane", "epoch", "first_sequence", "last_sequence", "earlier_epochs")
    LANE_FIELD_NUMBER: _ClassVar[int]
    EPOCH_FIELD_NUMBER: _ClassVar[int]
    FIRST_SEQUENCE_FIELD_NUMBER: _ClassVar[int]
    LAST_SEQUENCE_FIELD_NUMBER: _ClassVar[int]
    EARLIER_EPOCHS_FIELD_NUMBER: _ClassVar[int]
    lane: Lane
    epoch: str
    first_sequence: int
    last_sequence: int
    earlier_epochs: _containers.RepeatedCompositeFieldContainer[EpochEnd]
    def __init__(self, lane: _Optional[_Union[Lane, str]] = ..., epoch: _Optional[str] = ..., first_sequence: _Optional[int] = ..., last_sequence: _Optional[int] = ..., earlier_epochs: _Optional[_Iterable[_Union[EpochEnd, _Mapping]]] = ...) -> None: ...

class LaneCursor(_message.Message):
    __slots__ = ("lane", "epoch", "sequence", "rejections")
    LANE_FIELD_NUMBER: _ClassVar[int]
    EPOCH_FIELD_NUMBER: _ClassVar[int]
    SEQUENCE_FIELD_NUMBER: _ClassVar[int]
    REJECTIONS_FIELD_NUMBER: _ClassVar[int]
    lane: Lane
    epoch: str
    sequence: int
    rejections: _containers.RepeatedCompositeFieldContainer[EntryRejection]
    def __init__(self, lane: _Optional[_Union[Lane, str]] = ..., epoch: _Optional[str] = ..., sequence: _Optional[int] = ..., rejections: _Optional[_Iterable[_Union[EntryRejection, _Mapping]]] = ...) -> None: ...

class LaneCredit(_message.Message):
    __slots__ = ("lane", "added_bytes", "added_count")
    LANE_FIELD_NUMBER: _ClassVar[int]
    ADDED_BYTES_FIELD_NUMBER: _ClassVar[int]
    ADDED_COUNT_FIELD_NUMBER: _ClassVar[int]
    lane: Lane
    added_bytes: int
    added_count: int
    def __init__(self, lane: _Optional[_Union[Lane, str]] = ..., added_bytes: _Optional[int] = ..., added_count: _Optional[int] = ...) -> None: ...

class Hello(_message.Message):
    __slots__ = ("node", "boot_id", "generation", "heads", "cursors", "credits", "registry_epoch", "registry_version", "applied_version", "min_protocol_version", "max_protocol_version", "software", "hub_id", "challenge")
    NODE_FIELD_NUMBER: _ClassVar[int]
    BOOT_ID_FIELD_NUMBER: _ClassVar[int]
    GENERATION_FIELD_NUMBER: _ClassVar[int]
    HEADS_FIELD_NUMBER: _ClassVar[int]
    CURSORS_FIELD_NUMBER: _ClassVar[int]
    CREDITS_FIELD_NUMBER: _ClassVar[int]
    REGISTRY_EPOCH_FIELD_NUMBER: _ClassVar[int]
    REGISTRY_VERSION_FIELD_NUMBER: _ClassVar[int]
    APPLIED_VERSION_FIELD_NUMBER: _ClassVar[int]
    MIN_PROTOCOL_VERSION_FIELD_NUMBER: _ClassVar[int]
    MAX_PROTOCOL_VERSION_FIELD_NUMBER: _ClassVar[int]
    SOFTWARE_FIELD_NUMBER: _ClassVar[int]
    HUB_ID_FIELD_NUMBER: _ClassVar[int]
    CHALLENGE_FIELD_NUMBER: _ClassVar[int]
    node: str
    boot_id: str
    generation: int
    heads: _containers.RepeatedCompositeFieldContainer[LaneHead]
    cursors: _containers.RepeatedCompositeFieldContainer[LaneCursor]
    credits: _containers.RepeatedCompositeFieldContainer[LaneCredit]
    registry_epoch: str
    registry_version: int
    applied_version: int
    min_protocol_version: int
    max_protocol_version: int
    software: str
    hub_id: str
    challenge: str
    def __init__(self, node: _Optional[str] = ..., boot_id: _Optional[str] = ..., generation: _Optional[int] = ..., heads: _Optional[_Iterable[_Union[LaneHead, _Mapping]]] = ..., cursors: _Optional[_Iterable[_Union[LaneCursor, _Mapping]]] = ..., credits: _Optional[_Iterable[_Union[LaneCredit, _Mapping]]] = ..., registry_epoch: _Optional[str] = ..., registry_version: _Optional[int] = ..., applied_version: _Optional[int] = ..., min_protocol_version: _Optional[int] = ..., max_protocol_version: _Optional[int] = ..., software: _Optional[str] = ..., hub_id: _Optional[str] = ..., challenge: _Optional[str] = ...) -> None: ...

class Welcome(_message.Message):
    __slots__ = ("node", "boot_id", "fence", "heads", "cursors", "credits", "registry_epoch", "registry_version", "protocol_version", "heartbeat_duration", "lease_duration", "hub_path")
    NODE_FIELD_NUMBER: _ClassVar[int]
    BOOT_ID_FIELD_NUMBER: _ClassVar[int]
    FENCE_FIELD_NUMBER: _ClassVar[int]
    HEADS_FIELD_NUMBER: _ClassVar[int]
    CURSORS_FIELD_NUMBER: _ClassVar[int]
    CREDITS_FIELD_NUMBER: _ClassVar[int]
    REGISTRY_EPOCH_FIELD_NUMBER: _ClassVar[int]
    REGISTRY_VERSION_FIELD_NUMBER: _ClassVar[int]
    PROTOCOL_VERSION_FIELD_NUMBER: _ClassVar[int]
    HEARTBEAT_DURATION_FIELD_NUMBER: _ClassVar[int]
    LEASE_DURATION_FIELD_NUMBER: _ClassVar[int]
    HUB_PATH_FIELD_NUMBER: _ClassVar[int]
    node: str
    boot_id: str
    fence: int
    heads: _containers.RepeatedCompositeFieldContainer[LaneHead]
    cursors: _containers.RepeatedCompositeFieldContainer[LaneCursor]
    credits: _containers.RepeatedCompositeFieldContainer[LaneCredit]
    registry_epoch: str
    registry_version: int
    protocol_version: int
    heartbeat_duration: _duration_pb2.Duration
    lease_duration: _duration_pb2.Duration
    hub_path: _containers.RepeatedScalarFieldContainer[str]
    def __init__(self, node: _Optional[str] = ..., boot_id: _Optional[str] = ..., fence: _Optional[int] = ..., heads: _Optional[_Iterable[_Union[LaneHead, _Mapping]]] = ..., cursors: _Optional[_Iterable[_Union[LaneCursor, _Mapping]]] = ..., credits: _Optional[_Iterable[_Union[LaneCredit, _Mapping]]] = ..., registry_epoch: _Optional[str] = ..., registry_version: _Optional[int] = ..., protocol_version: _Optional[int] = ..., heartbeat_duration: _Optional[_Union[datetime.timedelta, _duration_pb2.Duration, _Mapping]] = ..., lease_duration: _Optional[_Union[datetime.timedelta, _duration_pb2.Duration, _Mapping]] = ..., hub_path: _Optional[_Iterable[str]] = ...) -> None: ...

class Segment(_message.Message):
    __slots__ = ("entry_count", "payload", "accept_time", "origin_node", "origin_epoch", "origin_sequence")
    ENTRY_COUNT_FIELD_NUMBER: _ClassVar[int]
    PAYLOAD_FIELD_NUMBER: _ClassVar[int]
    ACCEPT_TIME_FIELD_NUMBER: _ClassVar[int]
    ORIGIN_NODE_FIELD_NUMBER: _ClassVar[int]
    ORIGIN_EPOCH_FIELD_NUMBER: _ClassVar[int]
    ORIGIN_SEQUENCE_FIELD_NUMBER: _ClassVar[int]
    entry_count: int
    payload: bytes
    accept_time: _timestamp_pb2.Timestamp
    origin_node: str
    origin_epoch: str
    origin_sequence: int
    def __init__(self, entry_count: _Optional[int] = ..., payload: _Optional[bytes] = ..., accept_time: _Optional[_Union[datetime.datetime, _timestamp_pb2.Timestamp, _Mapping]] = ..., origin_node: _Optional[str] = ..., origin_epoch: _Optional[str] = ..., origin_sequence: _Optional[int] = ...) -> None: ...

class Batch(_message.Message):
    __slots__ = ("lane", "epoch", "base_sequence", "segments", "missing_count", "gap_reason")
    LANE_FIELD_NUMBER: _ClassVar[int]
    EPOCH_FIELD_NUMBER: _ClassVar[int]
    BASE_SEQUENCE_FIELD_NUMBER: _ClassVar[int]
    SEGMENTS_FIELD_NUMBER: _ClassVar[int]
    MISSING_COUNT_FIELD_NUMBER: _ClassVar[int]
    GAP_REASON_FIELD_NUMBER: _ClassVar[int]
    lane: Lane
    epoch: str
    base_sequence: int
    segments: _containers.RepeatedCompositeFieldContainer[Segment]
    missing_count: int
    gap_reason: str
    def __init__(self, lane: _Optional[_Union[Lane, str]] = ..., epoch: _Optional[str] = ..., base_sequence: _Optional[int] = ..., segments: _Optional[_Iterable[_Union[Segment, _Mapping]]] = ..., missing_count: _Optional[int] = ..., gap_reason: _Optional[str] = ...) -> None: ...

class EntryRejection(_message.Message):
    __slots__ = ("sequence", "problem")
    SEQUENCE_FIELD_NUMBER: _ClassVar[int]
    PROBLEM_FIELD_NUMBER: _ClassVar[int]
    sequence: int
    problem: _problem_pb2.Problem
    def __init__(self, sequence: _Optional[int] = ..., problem: _Optional[_Union[_problem_pb2.Problem, _Mapping]] = ...) -> None: ...

class Ack(_message.Message):
    __slots__ = ("lane", "epoch", "sequence", "rejections", "credit")
    LANE_FIELD_NUMBER: _ClassVar[int]
    EPOCH_FIELD_NUMBER: _ClassVar[int]
    SEQUENCE_FIELD_NUMBER: _ClassVar[int]
    REJECTIONS_FIELD_NUMBER: _ClassVar[int]
    CREDIT_FIELD_NUMBER: _ClassVar[int]
    lane: Lane
    epoch: str
    sequence: int
    rejections: _containers.RepeatedCompositeFieldContainer[EntryRejection]
    credit: LaneCredit
    def __init__(self, lane: _Optional[_Union[Lane, str]] = ..., epoch: _Optional[str] = ..., sequence: _Optional[int] = ..., rejections: _Optional[_Iterable[_Union[EntryRejection, _Mapping]]] = ..., credit: _Optional[_Union[LaneCredit, _Mapping]] = ...) -> None: ...

class RegistryDelta(_message.Message):
    __slots__ = ("epoch", "version", "agents", "removals", "snapshot", "complete_buckets")
    EPOCH_FIELD_NUMBER: _ClassVar[int]
    VERSION_FIELD_NUMBER: _ClassVar[int]
    AGENTS_FIELD_NUMBER: _ClassVar[int]
    REMOVALS_FIELD_NUMBER: _ClassVar[int]
    SNAPSHOT_FIELD_NUMBER: _ClassVar[int]
    COMPLETE_BUCKETS_FIELD_NUMBER: _ClassVar[int]
    epoch: str
    version: int
    agents: _containers.RepeatedCompositeFieldContainer[_registry_pb2.Agent]
    removals: _containers.RepeatedCompositeFieldContainer[_registry_pb2.Tombstone]
    snapshot: bool
    complete_buckets: _containers.RepeatedScalarFieldContainer[int]
    def __init__(self, epoch: _Optional[str] = ..., version: _Optional[int] = ..., agents: _Optional[_Iterable[_Union[_registry_pb2.Agent, _Mapping]]] = ..., removals: _Optional[_Iterable[_Union[_registry_pb2.Tombstone, _Mapping]]] = ..., snapshot: bool = ..., complete_buckets: _Optional[_Iterable[int]] = ...) -> None: ...

class RegistryAck(_message.Message):
    __slots__ = ("epoch", "version")
    EPOCH_FIELD_NUMBER: _ClassVar[int]
    VERSION_FIELD_NUMBER: _ClassVar[int]
    epoch: str
    version: int
    def __init__(self, epoch: _Optional[str] = ..., version: _Optional[int] = ...) -> None: ...

class RegistryDigest(_message.Message):
    __slots__ = ("epoch", "version", "root", "buckets")
    EPOCH_FIELD_NUMBER: _ClassVar[int]
    VERSION_FIELD_NUMBER: _ClassVar[int]
    ROOT_FIELD_NUMBER: _ClassVar[int]
    BUCKETS_FIELD_NUMBER: _ClassVar[int]
    epoch: str
    version: int
    root: bytes
    buckets: bytes
    def __init__(self, epoch: _Optional[str] = ..., version: _Optional[int] = ..., root: _Optional[bytes] = ..., buckets: _Optional[bytes] = ...) -> None: ...

class RegistryDigestRequest(_message.Message):
    __slots__ = ("buckets",)
    BUCKETS_FIELD_NUMBER: _ClassVar[int]
    buckets: _containers.RepeatedScalarFieldContainer[int]
    def __init__(self, buckets: _Optional[_Iterable[int]] = ...) -> None: ...

class AgentLoad(_message.Message):
    __slots__ = ("agent", "in_flight_count", "queue_depth_count")
    AGENT_FIELD_NUMBER: _ClassVar[int]
    IN_FLIGHT_COUNT_FIELD_NUMBER: _ClassVar[int]
    QUEUE_DEPTH_COUNT_FIELD_NUMBER: _ClassVar[int]
    agent: str
    in_flight_count: int
    queue_depth_count: int
    def __init__(self, agent: _Optional[str] = ..., in_flight_count: _Optional[int] = ..., queue_depth_count: _Optional[int] = ...) -> None: ...

class Heartbeat(_message.Message):
    __slots__ = ("number", "reply_wanted", "loads")
    NUMBER_FIELD_NUMBER: _ClassVar[int]
    REPLY_WANTED_FIELD_NUMBER: _ClassVar[int]
    LOADS_FIELD_NUMBER: _ClassVar[int]
    number: int
    reply_wanted: bool
    loads: _containers.RepeatedCompositeFieldContainer[AgentLoad]
    def __init__(self, number: _Optional[int] = ..., reply_wanted: bool = ..., loads: _Optional[_Iterable[_Union[AgentLoad, _Mapping]]] = ...) -> None: ...

class GoAway(_message.Message):
    __slots__ = ("problem",)
    PROBLEM_FIELD_NUMBER: _ClassVar[int]
    problem: _problem_pb2.Problem
    def __init__(self, problem: _Optional[_Union[_problem_pb2.Problem, _Mapping]] = ...) -> None: ...

class Pace(_message.Message):
    __slots__ = ("retry_after_duration", "bytes_per_second")
    RETRY_AFTER_DURATION_FIELD_NUMBER: _ClassVar[int]
    BYTES_PER_SECOND_FIELD_NUMBER: _ClassVar[int]
    retry_after_duration: _duration_pb2.Duration
    bytes_per_second: int
    def __init__(self, retry_after_duration: _Optional[_Union[datetime.timedelta, _duration_pb2.Duration, _Mapping]] = ..., bytes_per_second: _Optional[int] = ...) -> None: ...

class DesiredState(_message.Message):
    __slots__ = ("version", "document", "signature", "certificates")
    VERSION_FIELD_NUMBER: _ClassVar[int]
    DOCUMENT_FIELD_NUMBER: _ClassVar[int]
    SIGNATURE_FIELD_NUMBER: _ClassVar[int]
    CERTIFICATES_FIELD_NUMBER: _ClassVar[int]
    version: int
    document: bytes
    signature: bytes
    certificates: _containers.RepeatedScalarFieldContainer[bytes]
    def __init__(self, version: _Optional[int] = ..., document: _Optional[bytes] = ..., signature: _Optional[bytes] = ..., certificates: _Optional[_Iterable[bytes]] = ...) -> None: ...

class DesiredDocument(_message.Message):
    __slots__ = ("node", "version", "log_level", "lane_weights", "limits")
    class LaneWeightsEntry(_message.Message):
        __slots__ = ("key", "value")
        KEY_FIELD_NUMBER: _ClassVar[int]
        VALUE_FIELD_NUMBER: _ClassVar[int]
        key: str
        value: int
        def __init__(self, key: _Optional[str] = ..., value: _Optional[int] = ...) -> None: ...
    class LimitsEntry(_message.Message):
        __slots__ = ("key", "value")
        KEY_FIELD_NUMBER: _ClassVar[int]
        VALUE_FIELD_NUMBER: _ClassVar[int]
        key: str
        value: int
        def __init__(self, key: _Optional[str] = ..., value: _Optional[int] = ...) -> None: ...
    NODE_FIELD_NUMBER: _ClassVar[int]
    VERSION_FIELD_NUMBER: _ClassVar[int]
    LOG_LEVEL_FIELD_NUMBER: _ClassVar[int]
    LANE_WEIGHTS_FIELD_NUMBER: _ClassVar[int]
    LIMITS_FIELD_NUMBER: _ClassVar[int]
    node: str
    version: int
    log_level: str
    lane_weights: _containers.ScalarMap[str, int]
    limits: _containers.ScalarMap[str, int]
    def __init__(self, node: _Optional[str] = ..., version: _Optional[int] = ..., log_level: _Optional[str] = ..., lane_weights: _Optional[_Mapping[str, int]] = ..., limits: _Optional[_Mapping[str, int]] = ...) -> None: ...

class DesiredStateReport(_message.Message):
    __slots__ = ("applied_version", "refused_version", "problem")
    APPLIED_VERSION_FIELD_NUMBER: _ClassVar[int]
    REFUSED_VERSION_FIELD_NUMBER: _ClassVar[int]
    PROBLEM_FIELD_NUMBER: _ClassVar[int]
    applied_version: int
    refused_version: int
    problem: _problem_pb2.Problem
    def __init__(self, applied_version: _Optional[int] = ..., refused_version: _Optional[int] = ..., problem: _Optional[_Union[_problem_pb2.Problem, _Mapping]] = ...) -> None: ...

class TaskOffer(_message.Message):
    __slots__ = ("task_id", "spec", "submit_time", "again")
    TASK_ID_FIELD_NUMBER: _ClassVar[int]
    SPEC_FIELD_NUMBER: _ClassVar[int]
    SUBMIT_TIME_FIELD_NUMBER: _ClassVar[int]
    AGAIN_FIELD_NUMBER: _ClassVar[int]
    task_id: str
    spec: _task_pb2.TaskSpec
    submit_time: _timestamp_pb2.Timestamp
    again: bool
    def __init__(self, task_id: _Optional[str] = ..., spec: _Optional[_Union[_task_pb2.TaskSpec, _Mapping]] = ..., submit_time: _Optional[_Union[datetime.datetime, _timestamp_pb2.Timestamp, _Mapping]] = ..., again: bool = ...) -> None: ...

class TaskGrant(_message.Message):
    __slots__ = ("task_id", "spec", "submit_time", "origin_node", "fence", "attempt_count", "answers")
    class AnswersEntry(_message.Message):
        __slots__ = ("key", "value")
        KEY_FIELD_NUMBER: _ClassVar[int]
        VALUE_FIELD_NUMBER: _ClassVar[int]
        key: str
        value: _task_pb2.TaskOutput
        def __init__(self, key: _Optional[str] = ..., value: _Optional[_Union[_task_pb2.TaskOutput, _Mapping]] = ...) -> None: ...
    TASK_ID_FIELD_NUMBER: _ClassVar[int]
    SPEC_FIELD_NUMBER: _ClassVar[int]
    SUBMIT_TIME_FIELD_NUMBER: _ClassVar[int]
    ORIGIN_NODE_FIELD_NUMBER: _ClassVar[int]
    FENCE_FIELD_NUMBER: _ClassVar[int]
    ATTEMPT_COUNT_FIELD_NUMBER: _ClassVar[int]
    ANSWERS_FIELD_NUMBER: _ClassVar[int]
    task_id: str
    spec: _task_pb2.TaskSpec
    submit_time: _timestamp_pb2.Timestamp
    origin_node: str
    fence: int
    attempt_count: int
    answers: _containers.MessageMap[str, _task_pb2.TaskOutput]
    def __init__(self, task_id: _Optional[str] = ..., spec: _Optional[_Union[_task_pb2.TaskSpec, _Mapping]] = ..., submit_time: _Optional[_Union[datetime.datetime, _timestamp_pb2.Timestamp, _Mapping]] = ..., origin_node: _Optional[str] = ..., fence: _Optional[int] = ..., attempt_count: _Optional[int] = ..., answers: _Optional[_Mapping[str, _task_pb2.TaskOutput]] = ...) -> None: ...

class TaskReport(_message.Message):
    __slots__ = ("task",)
    TASK_FIELD_NUMBER: _ClassVar[int]
    task: _task_pb2.Task
    def __init__(self, task: _Optional[_Union[_task_pb2.Task, _Mapping]] = ...) -> None: ...

class TaskCancel(_message.Message):
    __slots__ = ("task_id", "reason")
    TASK_ID_FIELD_NUMBER: _ClassVar[int]
    REASON_FIELD_NUMBER: _ClassVar[int]
    task_id: str
    reason: str
    def __init__(self, task_id: _Optional[str] = ..., reason: _Optional[str] = ...) -> None: ...

class TaskRevoke(_message.Message):
    __slots__ = ("task_id", "fence")
    TASK_ID_FIELD_NUMBER: _ClassVar[int]
    FENCE_FIELD_NUMBER: _ClassVar[int]
    task_id: str
    fence: int
    def __init__(self, task_id: _Optional[str] = ..., fence: _Optional[int] = ...) -> None: ...

class TaskAnswer(_message.Message):
    __slots__ = ("task_id", "key", "answer")
    TASK_ID_FIELD_NUMBER: _ClassVar[int]
    KEY_FIELD_NUMBER: _ClassVar[int]
    ANSWER_FIELD_NUMBER: _ClassVar[int]
    task_id: str
    key: str
    answer: _task_pb2.TaskOutput
    def __init__(self, task_id: _Optional[str] = ..., key: _Optional[str] = ..., answer: _Optional[_Union[_task_pb2.TaskOutput, _Mapping]] = ...) -> None: ...

class TaskReturn(_message.Message):
    __slots__ = ("task_id", "fence", "problem")
    TASK_ID_FIELD_NUMBER: _ClassVar[int]
    FENCE_FIELD_NUMBER: _ClassVar[int]
    PROBLEM_FIELD_NUMBER: _ClassVar[int]
    task_id: str
    fence: int
    problem: _problem_pb2.Problem
    def __init__(self, task_id: _Optional[str] = ..., fence: _Optional[int] = ..., problem: _Optional[_Union[_problem_pb2.Problem, _Mapping]] = ...) -> None: ...

class TaskRestate(_message.Message):
    __slots__ = ("restate_id",)
    RESTATE_ID_FIELD_NUMBER: _ClassVar[int]
    restate_id: str
    def __init__(self, restate_id: _Optional[str] = ...) -> None: ...

class TaskRestated(_message.Message):
    __slots__ = ("restate_id", "highest_fence")
    RESTATE_ID_FIELD_NUMBER: _ClassVar[int]
    HIGHEST_FENCE_FIELD_NUMBER: _ClassVar[int]
    restate_id: str
    highest_fence: int
    def __init__(self, restate_id: _Optional[str] = ..., highest_fence: _Optional[int] = ...) -> None: ...

class TaskEntry(_message.Message):
    __slots__ = ("offer", "grant", "report", "cancel", "revoke", "answer", "returned", "restate", "restated")
    OFFER_FIELD_NUMBER: _ClassVar[int]
    GRANT_FIELD_NUMBER: _ClassVar[int]
    REPORT_FIELD_NUMBER: _ClassVar[int]
    CANCEL_FIELD_NUMBER: _ClassVar[int]
    REVOKE_FIELD_NUMBER: _ClassVar[int]
    ANSWER_FIELD_NUMBER: _ClassVar[int]
    RETURNED_FIELD_NUMBER: _ClassVar[int]
    RESTATE_FIELD_NUMBER: _ClassVar[int]
    RESTATED_FIELD_NUMBER: _ClassVar[int]
    offer: TaskOffer
    grant: TaskGrant
    report: TaskReport
    cancel: TaskCancel
    revoke: TaskRevoke
    answer: TaskAnswer
    returned: TaskReturn
    restate: TaskRestate
    restated: TaskRestated
    def __init__(self, offer: _Optional[_Union[TaskOffer, _Mapping]] = ..., grant: _Optional[_Union[TaskGrant, _Mapping]] = ..., report: _Optional[_Union[TaskReport, _Mapping]] = ..., cancel: _Optional[_Union[TaskCancel, _Mapping]] = ..., revoke: _Optional[_Union[TaskRevoke, _Mapping]] = ..., answer: _Optional[_Union[TaskAnswer, _Mapping]] = ..., returned: _Optional[_Union[TaskReturn, _Mapping]] = ..., restate: _Optional[_Union[TaskRestate, _Mapping]] = ..., restated: _Optional[_Union[TaskRestated, _Mapping]] = ...) -> None: ...

class TaskEntryBatch(_message.Message):
    __slots__ = ("entries",)
    ENTRIES_FIELD_NUMBER: _ClassVar[int]
    entries: _containers.RepeatedCompositeFieldContainer[TaskEntry]
    def __init__(self, entries: _Optional[_Iterable[_Union[TaskEntry, _Mapping]]] = ...) -> None: ...

class Call(_message.Message):
    __slots__ = ("call_id", "spec", "timeout_duration", "piece_room_bytes")
    CALL_ID_FIELD_NUMBER: _ClassVar[int]
    SPEC_FIELD_NUMBER: _ClassVar[int]
    TIMEOUT_DURATION_FIELD_NUMBER: _ClassVar[int]
    PIECE_ROOM_BYTES_FIELD_NUMBER: _ClassVar[int]
    call_id: int
    spec: _task_pb2.TaskSpec
    timeout_duration: _duration_pb2.Duration
    piece_room_bytes: int
    def __init__(self, call_id: _Optional[int] = ..., spec: _Optional[_Union[_task_pb2.TaskSpec, _Mapping]] = ..., timeout_duration: _Optional[_Union[datetime.timedelta, _duration_pb2.Duration, _Mapping]] = ..., piece_room_bytes: _Optional[int] = ...) -> None: ...

class CallPieces(_message.Message):
    __slots__ = ("call_id", "pieces")
    CALL_ID_FIELD_NUMBER: _ClassVar[int]
    PIECES_FIELD_NUMBER: _ClassVar[int]
    call_id: int
    pieces: _containers.RepeatedCompositeFieldContainer[_task_pb2.TaskPiece]
    def __init__(self, call_id: _Optional[int] = ..., pieces: _Optional[_Iterable[_Union[_task_pb2.TaskPiece, _Mapping]]] = ...) -> None: ...

class CallAllowance(_message.Message):
    __slots__ = ("call_id", "room_bytes")
    CALL_ID_FIELD_NUMBER: _ClassVar[int]
    ROOM_BYTES_FIELD_NUMBER: _ClassVar[int]
    call_id: int
    room_bytes: int
    def __init__(self, call_id: _Optional[int] = ..., room_bytes: _Optional[int] = ...) -> None: ...

class CallResult(_message.Message):
    __slots__ = ("call_id", "output", "problem", "agent")
    CALL_ID_FIELD_NUMBER: _ClassVar[int]
    OUTPUT_FIELD_NUMBER: _ClassVar[int]
    PROBLEM_FIELD_NUMBER: _ClassVar[int]
    AGENT_FIELD_NUMBER: _ClassVar[int]
    call_id: int
    output: _task_pb2.TaskOutput
    problem: _problem_pb2.Problem
    agent: str
    def __init__(self, call_id: _Optional[int] = ..., output: _Optional[_Union[_task_pb2.TaskOutput, _Mapping]] = ..., problem: _Optional[_Union[_problem_pb2.Problem, _Mapping]] = ..., agent: _Optional[str] = ...) -> None: ...

class CallBatch(_message.Message):
    __slots__ = ("calls", "results", "cancel_call_ids", "pieces", "allowances")
    CALLS_FIELD_NUMBER: _ClassVar[int]
    RESULTS_FIELD_NUMBER: _ClassVar[int]
    CANCEL_CALL_IDS_FIELD_NUMBER: _ClassVar[int]
    PIECES_FIELD_NUMBER: _ClassVar[int]
    ALLOWANCES_FIELD_NUMBER: _ClassVar[int]
    calls: _containers.RepeatedCompositeFieldContainer[Call]
    results: _containers.RepeatedCompositeFieldContainer[CallResult]
    cancel_call_ids: _containers.RepeatedScalarFieldContainer[int]
    pieces: _containers.RepeatedCompositeFieldContainer[CallPieces]
    allowances: _containers.RepeatedCompositeFieldContainer[CallAllowance]
    def __init__(self, calls: _Optional[_Iterable[_Union[Call, _Mapping]]] = ..., results: _Optional[_Iterable[_Union[CallResult, _Mapping]]] = ..., cancel_call_ids: _Optional[_Iterable[int]] = ..., pieces: _Optional[_Iterable[_Union[CallPieces, _Mapping]]] = ..., allowances: _Optional[_Iterable[_Union[CallAllowance, _Mapping]]] = ...) -> None: ...

class NoticeBatch(_message.Message):
    __slots__ = ("tasks",)
    TASKS_FIELD_NUMBER: _ClassVar[int]
    tasks: _containers.RepeatedCompositeFieldContainer[_task_pb2.Task]
    def __init__(self, tasks: _Optional[_Iterable[_Union[_task_pb2.Task, _Mapping]]] = ...) -> None: ...

class FindExchange(_message.Message):
    __slots__ = ("find_id", "request", "response", "problem", "list_request", "list_response")
    FIND_ID_FIELD_NUMBER: _ClassVar[int]
    REQUEST_FIELD_NUMBER: _ClassVar[int]
    RESPONSE_FIELD_NUMBER: _ClassVar[int]
    PROBLEM_FIELD_NUMBER: _ClassVar[int]
    LIST_REQUEST_FIELD_NUMBER: _ClassVar[int]
    LIST_RESPONSE_FIELD_NUMBER: _ClassVar[int]
    find_id: int
    request: _registry_service_pb2.FindAgentsRequest
    response: _registry_service_pb2.FindAgentsResponse
    problem: _problem_pb2.Problem
    list_request: _registry_service_pb2.ListAgentsRequest
    list_response: _registry_service_pb2.ListAgentsResponse
    def __init__(self, find_id: _Optional[int] = ..., request: _Optional[_Union[_registry_service_pb2.FindAgentsRequest, _Mapping]] = ..., response: _Optional[_Union[_registry_service_pb2.FindAgentsResponse, _Mapping]] = ..., problem: _Optional[_Union[_problem_pb2.Problem, _Mapping]] = ..., list_request: _Optional[_Union[_registry_service_pb2.ListAgentsRequest, _Mapping]] = ..., list_response: _Optional[_Union[_registry_service_pb2.ListAgentsResponse, _Mapping]] = ...) -> None: ...

class AdminExchange(_message.Message):
    __slots__ = ("exchange_id", "verify_ledger", "list_dead_letters", "get_dead_letter", "replay_dead_letters", "drop_dead_letters", "ledger_verified", "dead_letters_listed", "dead_letter", "dead_letters_replayed", "dead_letters_dropped", "problem")
    EXCHANGE_ID_FIELD_NUMBER: _ClassVar[int]
    VERIFY_LEDGER_FIELD_NUMBER: _ClassVar[int]
    LIST_DEAD_LETTERS_FIELD_NUMBER: _ClassVar[int]
    GET_DEAD_LETTER_FIELD_NUMBER: _ClassVar[int]
    REPLAY_DEAD_LETTERS_FIELD_NUMBER: _ClassVar[int]
    DROP_DEAD_LETTERS_FIELD_NUMBER: _ClassVar[int]
    LEDGER_VERIFIED_FIELD_NUMBER: _ClassVar[int]
    DEAD_LETTERS_LISTED_FIELD_NUMBER: _ClassVar[int]
    DEAD_LETTER_FIELD_NUMBER: _ClassVar[int]
    DEAD_LETTERS_REPLAYED_FIELD_NUMBER: _ClassVar[int]
    DEAD_LETTERS_DROPPED_FIELD_NUMBER: _ClassVar[int]
    PROBLEM_FIELD_NUMBER: _ClassVar[int]
    exchange_id: int
    verify_ledger: _admin_service_pb2.VerifyLedgerRequest
    list_dead_letters: _admin_service_pb2.ListDeadLettersRequest
    get_dead_letter: _admin_service_pb2.GetDeadLetterRequest
    replay_dead_letters: _admin_service_pb2.ReplayDeadLettersRequest
    drop_dead_letters: _admin_service_pb2.DropDeadLettersRequest
    ledger_verified: _admin_service_pb2.VerifyLedgerResponse
    dead_letters_listed: _admin_service_pb2.ListDeadLettersResponse
    dead_letter: _admin_service_pb2.GetDeadLetterResponse
    dead_letters_replayed: _admin_service_pb2.ReplayDeadLettersResponse
    dead_letters_dropped: _admin_service_pb2.DropDeadLettersResponse
    problem: _problem_pb2.Problem
    def __init__(self, exchange_id: _Optional[int] = ..., verify_ledger: _Optional[_Union[_admin_service_pb2.VerifyLedgerRequest, _Mapping]] = ..., list_dead_letters: _Optional[_Union[_admin_service_pb2.ListDeadLettersRequest, _Mapping]] = ..., get_dead_letter: _Optional[_Union[_admin_service_pb2.GetDeadLetterRequest, _Mapping]] = ..., replay_dead_letters: _Optional[_Union[_admin_service_pb2.ReplayDeadLettersRequest, _Mapping]] = ..., drop_dead_letters: _Optional[_Union[_admin_service_pb2.DropDeadLettersRequest, _Mapping]] = ..., ledger_verified: _Optional[_Union[_admin_service_pb2.VerifyLedgerResponse, _Mapping]] = ..., dead_letters_listed: _Optional[_Union[_admin_service_pb2.ListDeadLettersResponse, _Mapping]] = ..., dead_letter: _Optional[_Union[_admin_service_pb2.GetDeadLetterResponse, _Mapping]] = ..., dead_letters_replayed: _Optional[_Union[_admin_service_pb2.ReplayDeadLettersResponse, _Mapping]] = ..., dead_letters_dropped: _Optional[_Union[_admin_service_pb2.DropDeadLettersResponse, _Mapping]] = ..., problem: _Optional[_Union[_problem_pb2.Problem, _Mapping]] = ...) -> None: ...

class BlobPieceRequest(_message.Message):
    __slots__ = ("digest", "offset", "size_bytes")
    DIGEST_FIELD_NUMBER: _ClassVar[int]
    OFFSET_FIELD_NUMBER: _ClassVar[int]
    SIZE_BYTES_FIELD_NUMBER: _ClassVar[int]
    digest: str
    offset: int
    size_bytes: int
    def __init__(self, digest: _Optional[str] = ..., offset: _Optional[int] = ..., size_bytes: _Optional[int] = ...) -> None: ...

class BlobExchange(_message.Message):
    __slots__ = ("exchange_id", "request", "data", "problem", "ready_digest")
    EXCHANGE_ID_FIELD_NUMBER: _ClassVar[int]
    REQUEST_FIELD_NUMBER: _ClassVar[int]
    DATA_FIELD_NUMBER: _ClassVar[int]
    PROBLEM_FIELD_NUMBER: _ClassVar[int]
    READY_DIGEST_FIELD_NUMBER: _ClassVar[int]
    exchange_id: int
    request: BlobPieceRequest
    data: bytes
    problem: _problem_pb2.Problem
    ready_digest: str
    def __init__(self, exchange_id: _Optional[int] = ..., request: _Optional[_Union[BlobPieceRequest, _Mapping]] = ..., data: _Optional[bytes] = ..., problem: _Optional[_Union[_problem_pb2.Problem, _Mapping]] = ..., ready_digest: _Optional[str] = ...) -> None: ...

class Frame(_message.Message):
    __slots__ = ("hello", "welcome", "batch", "ack", "credit", "registry_delta", "registry_ack", "registry_digest", "registry_digest_request", "desired_state", "desired_state_report", "heartbeat", "go_away", "pace", "calls", "notices", "find", "admin", "blobs")
    HELLO_FIELD_NUMBER: _ClassVar[int]
    WELCOME_FIELD_NUMBER: _ClassVar[int]
    BATCH_FIELD_NUMBER: _ClassVar[int]
    ACK_FIELD_NUMBER: _ClassVar[int]
    CREDIT_FIELD_NUMBER: _ClassVar[int]
    REGISTRY_DELTA_FIELD_NUMBER: _ClassVar[int]
    REGISTRY_ACK_FIELD_NUMBER: _ClassVar[int]
    REGISTRY_DIGEST_FIELD_NUMBER: _ClassVar[int]
    REGISTRY_DIGEST_REQUEST_FIELD_NUMBER: _ClassVar[int]
    DESIRED_STATE_FIELD_NUMBER: _ClassVar[int]
    DESIRED_STATE_REPORT_FIELD_NUMBER: _ClassVar[int]
    HEARTBEAT_FIELD_NUMBER: _ClassVar[int]
    GO_AWAY_FIELD_NUMBER: _ClassVar[int]
    PACE_FIELD_NUMBER: _ClassVar[int]
    CALLS_FIELD_NUMBER: _ClassVar[int]
    NOTICES_FIELD_NUMBER: _ClassVar[int]
    FIND_FIELD_NUMBER: _ClassVar[int]
    ADMIN_FIELD_NUMBER: _ClassVar[int]
    BLOBS_FIELD_NUMBER: _ClassVar[int]
    hello: Hello
    welcome: Welcome
    batch: Batch
    ack: Ack
    credit: LaneCredit
    registry_delta: RegistryDelta
    registry_ack: RegistryAck
    registry_digest: RegistryDigest
    registry_digest_request: RegistryDigestRequest
    desired_state: DesiredState
    desired_state_report: DesiredStateReport
    heartbeat: Heartbeat
    go_away: GoAway
    pace: Pace
    calls: CallBatch
    notices: NoticeBatch
    find: FindExchange
    admin: AdminExchange
    blobs: BlobExchange
    def __init__(self, hello: _Optional[_Union[Hello, _Mapping]] = ..., welcome: _Optional[_Union[Welcome, _Mapping]] = ..., batch: _Optional[_Union[Batch, _Mapping]] = ..., ack: _Optional[_Union[Ack, _Mapping]] = ..., credit: _Optional[_Union[LaneCredit, _Mapping]] = ..., registry_delta: _Optional[_Union[RegistryDelta, _Mapping]] = ..., registry_ack: _Optional[_Union[RegistryAck, _Mapping]] = ..., registry_digest: _Optional[_Union[RegistryDigest, _Mapping]] = ..., registry_digest_request: _Optional[_Union[RegistryDigestRequest, _Mapping]] = ..., desired_state: _Optional[_Union[DesiredState, _Mapping]] = ..., desired_state_report: _Optional[_Union[DesiredStateReport, _Mapping]] = ..., heartbeat: _Optional[_Union[Heartbeat, _Mapping]] = ..., go_away: _Optional[_Union[GoAway, _Mapping]] = ..., pace: _Optional[_Union[Pace, _Mapping]] = ..., calls: _Optional[_Union[CallBatch, _Mapping]] = ..., notices: _Optional[_Union[NoticeBatch, _Mapping]] = ..., find: _Optional[_Union[FindExchange, _Mapping]] = ..., admin: _Optional[_Union[AdminExchange, _Mapping]] = ..., blobs: _Optional[_Union[BlobExchange, _Mapping]] = ...) -> None: ...
