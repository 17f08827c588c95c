import datetime

from edgenode.api.problem.v1 import problem_pb2 as _problem_pb2
from google.protobuf import duration_pb2 as _duration_pb2
from google.protobuf import timestamp_pb2 as _timestamp_pb2
from google.protobuf.internal import containers as _containers
from google.protobuf.internal import enum_type_wrapper as _enum_type_wrapper
from google.protobuf import descriptor as _descriptor
from google.protobuf import message as _message
from collections.abc import Iterable as _Iterable, Mapping as _Mapping
from typing import ClassVar as _ClassVar, Optional as _Optional, Union as _Union

DESCRIPTOR: _descriptor.FileDescriptor

class MountKind(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
    __slots__ = ()
    MOUNT_KIND_UNSPECIFIED: _ClassVar[MountKind]
    MOUNT_KIND_MCP: _ClassVar[MountKind]
    MOUNT_KIND_A2A: _ClassVar[MountKind]

class MountState(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
    __slots__ = ()
    MOUNT_STATE_UNSPECIFIED: _ClassVar[MountState]
    MOUNT_STATE_PENDING: _ClassVar[MountState]
    MOUNT_STATE_STARTING: _ClassVar[MountState]
    MOUNT_STATE_READY: _ClassVar[MountState]
    MOUNT_STATE_WAITING: _ClassVar[MountState]
    MOUNT_STATE_AUTH_REQUIRED: _ClassVar[MountState]
MOUNT_KIND_UNSPECIFIED: MountKind
MOUNT_KIND_MCP: MountKind
MOUNT_KIND_A2A: MountKind
MOUNT_STATE_UNSPECIFIED: MountState
MOUNT_STATE_PENDING: MountState
MOUNT_STATE_STARTING: MountState
MOUNT_STATE_READY: MountState
MOUNT_STATE_WAITING: MountState
MOUNT_STATE_AUTH_REQUIRED: MountState

class LedgerLine(_message.Message):
    __slots__ = ("hop", "peer", "produced_count", "delivered_count", "pending_count", "dropped_counts", "duplicate_count", "epoch", "balanced", "dead_lettered_count")
    class DroppedCountsEntry(_message.Message):
        __slots__ = ("key", "value")
        KEY_FIELD_NUMBER: _ClassVar[int]
        VALUE_FIELD_NUMBER: _ClassVar[int]
        key: str
        value: int
        def __init__(self, key: _Optional[str] = ..., value: _Optional[int] = ...) -> None: ...
    HOP_FIELD_NUMBER: _ClassVar[int]
    PEER_FIELD_NUMBER: _ClassVar[int]
    PRODUCED_COUNT_FIELD_NUMBER: _ClassVar[int]
    DELIVERED_COUNT_FIELD_NUMBER: _ClassVar[int]
    PENDING_COUNT_FIELD_NUMBER: _ClassVar[int]
    DROPPED_COUNTS_FIELD_NUMBER: _ClassVar[int]
    DUPLICATE_COUNT_FIELD_NUMBER: _ClassVar[int]
    EPOCH_FIELD_NUMBER: _ClassVar[int]
    BALANCED_FIELD_NUMBER: _ClassVar[int]
    DEAD_LETTERED_COUNT_FIELD_NUMBER: _ClassVar[int]
    hop: str
    peer: str
    produced_count: int
    delivered_count: int
    pending_count: int
    dropped_counts: _containers.ScalarMap[str, int]
    duplicate_count: int
    epoch: str
    balanced: bool
    dead_lettered_count: int
    def __init__(self, hop: _Optional[str] = ..., peer: _Optional[str] = ..., produced_count: _Optional[int] = ..., delivered_count: _Optional[int] = ..., pending_count: _Optional[int] = ..., dropped_counts: _Optional[_Mapping[str, int]] = ..., duplicate_count: _Optional[int] = ..., epoch: _Optional[str] = ..., balanced: bool = ..., dead_lettered_count: _Optional[int] = ...) -> None: ...

class LedgerFinding(_message.Message):
    __slots__ = ("node", "hop", "peer", "epoch", "first_sequence", "last_sequence", "reason", "detail")
    NODE_FIELD_NUMBER: _ClassVar[int]
    HOP_FIELD_NUMBER: _ClassVar[int]
    PEER_FIELD_NUMBER: _ClassVar[int]
    EPOCH_FIELD_NUMBER: _ClassVar[int]
    FIRST_SEQUENCE_FIELD_NUMBER: _ClassVar[int]
    LAST_SEQUENCE_FIELD_NUMBER: _ClassVar[int]
    REASON_FIELD_NUMBER: _ClassVar[int]
    DETAIL_FIELD_NUMBER: _ClassVar[int]
    node: str
    hop: str
    peer: str
    epoch: str
    first_sequence: int
    last_sequence: int
    reason: str
    detail: str
    def __init__(self, node: _Optional[str] = ..., hop: _Optional[str] = ..., peer: _Optional[str] = ..., epoch: _Optional[str] = ..., first_sequence: _Optional[int] = ..., last_sequence: _Optional[int] = ..., reason: _Optional[str] = ..., detail: _Optional[str] = ...) -> None: ...

class LaneUsage(_message.Message):
    __slots__ = ("lane", "used_bytes", "limit_bytes")
    LANE_FIELD_NUMBER: _ClassVar[int]
    USED_BYTES_FIELD_NUMBER: _ClassVar[int]
    LIMIT_BYTES_FIELD_NUMBER: _ClassVar[int]
    lane: str
    used_bytes: int
    limit_bytes: int
    def __init__(self, lane: _Optional[str] = ..., used_bytes: _Optional[int] = ..., limit_bytes: _Optional[int] = ...) -> None: ...

class StoreDamage(_message.Message):
    __slots__ = ("damage_time", "cause", "file", "lost_counts")
    class LostCountsEntry(_message.Message):
        __slots__ = ("key", "value")
        KEY_FIELD_NUMBER: _ClassVar[int]
        VALUE_FIELD_NUMBER: _ClassVar[int]
        key: str
        value: int
        def __init__(self, key: _Optional[str] = ..., value: _Optional[int] = ...) -> None: ...
    DAMAGE_TIME_FIELD_NUMBER: _ClassVar[int]
    CAUSE_FIELD_NUMBER: _ClassVar[int]
    FILE_FIELD_NUMBER: _ClassVar[int]
    LOST_COUNTS_FIELD_NUMBER: _ClassVar[int]
    damage_time: _timestamp_pb2.Timestamp
    cause: str
    file: str
    lost_counts: _containers.ScalarMap[str, int]
    def __init__(self, damage_time: _Optional[_Union[datetime.datetime, _timestamp_pb2.Timestamp, _Mapping]] = ..., cause: _Optional[str] = ..., file: _Optional[str] = ..., lost_counts: _Optional[_Mapping[str, int]] = ...) -> None: ...

class DeadLetter(_message.Message):
    __slots__ = ("dead_letter_id", "kind", "task_id", "subject", "problem", "dead_letter_time", "attempt_count", "size_bytes", "lane", "node")
    DEAD_LETTER_ID_FIELD_NUMBER: _ClassVar[int]
    KIND_FIELD_NUMBER: _ClassVar[int]
    TASK_ID_FIELD_NUMBER: _ClassVar[int]
    SUBJECT_FIELD_NUMBER: _ClassVar[int]
    PROBLEM_FIELD_NUMBER: _ClassVar[int]
    DEAD_LETTER_TIME_FIELD_NUMBER: _ClassVar[int]
    ATTEMPT_COUNT_FIELD_NUMBER: _ClassVar[int]
    SIZE_BYTES_FIELD_NUMBER: _ClassVar[int]
    LANE_FIELD_NUMBER: _ClassVar[int]
    NODE_FIELD_NUMBER: _ClassVar[int]
    dead_letter_id: int
    kind: str
    task_id: str
    subject: str
    problem: _problem_pb2.Problem
    dead_letter_time: _timestamp_pb2.Timestamp
    attempt_count: int
    size_bytes: int
    lane: str
    node: str
    def __init__(self, dead_letter_id: _Optional[int] = ..., kind: _Optional[str] = ..., task_id: _Optional[str] = ..., subject: _Optional[str] = ..., problem: _Optional[_Union[_problem_pb2.Problem, _Mapping]] = ..., dead_letter_time: _Optional[_Union[datetime.datetime, _timestamp_pb2.Timestamp, _Mapping]] = ..., attempt_count: _Optional[int] = ..., size_bytes: _Optional[int] = ..., lane: _Optional[str] = ..., node: _Optional[str] = ...) -> None: ...

class LinkStatus(_message.Message):
    __slots__ = ("parent", "state", "state_time", "last_problem", "next_dial_duration", "session_count")
    PARENT_FIELD_NUMBER: _ClassVar[int]
    STATE_FIELD_NUMBER: _ClassVar[int]
    STATE_TIME_FIELD_NUMBER: _ClassVar[int]
    LAST_PROBLEM_FIELD_NUMBER: _ClassVar[int]
    NEXT_DIAL_DURATION_FIELD_NUMBER: _ClassVar[int]
    SESSION_COUNT_FIELD_NUMBER: _ClassVar[int]
    parent: str
    state: str
    state_time: _timestamp_pb2.Timestamp
    last_problem: _problem_pb2.Problem
    next_dial_duration: _duration_pb2.Duration
    session_count: int
    def __init__(self, parent: _Optional[str] = ..., state: _Optional[str] = ..., state_time: _Optional[_Union[datetime.datetime, _timestamp_pb2.Timestamp, _Mapping]] = ..., last_problem: _Optional[_Union[_problem_pb2.Problem, _Mapping]] = ..., next_dial_duration: _Optional[_Union[datetime.timedelta, _duration_pb2.Duration, _Mapping]] = ..., session_count: _Optional[int] = ...) -> None: ...

class LaneStatus(_message.Message):
    __slots__ = ("direction", "lane", "epoch", "last_sequence", "acked_sequence", "pending_count", "pending_bytes", "oldest_age_duration", "earlier")
    DIRECTION_FIELD_NUMBER: _ClassVar[int]
    LANE_FIELD_NUMBER: _ClassVar[int]
    EPOCH_FIELD_NUMBER: _ClassVar[int]
    LAST_SEQUENCE_FIELD_NUMBER: _ClassVar[int]
    ACKED_SEQUENCE_FIELD_NUMBER: _ClassVar[int]
    PENDING_COUNT_FIELD_NUMBER: _ClassVar[int]
    PENDING_BYTES_FIELD_NUMBER: _ClassVar[int]
    OLDEST_AGE_DURATION_FIELD_NUMBER: _ClassVar[int]
    EARLIER_FIELD_NUMBER: _ClassVar[int]
    direction: str
    lane: str
    epoch: str
    last_sequence: int
    acked_sequence: int
    pending_count: int
    pending_bytes: int
    oldest_age_duration: _duration_pb2.Duration
    earlier: _containers.RepeatedCompositeFieldContainer[LaneEpoch]
    def __init__(self, direction: _Optional[str] = ..., lane: _Optional[str] = ..., epoch: _Optional[str] = ..., last_sequence: _Optional[int] = ..., acked_sequence: _Optional[int] = ..., pending_count: _Optional[int] = ..., pending_bytes: _Optional[int] = ..., oldest_age_duration: _Optional[_Union[datetime.timedelta, _duration_pb2.Duration, _Mapping]] = ..., earlier: _Optional[_Iterable[_Union[LaneEpoch, _Mapping]]] = ...) -> None: ...

class LaneEpoch(_message.Message):
    __slots__ = ("epoch", "last_sequence")
    EPOCH_FIELD_NUMBER: _ClassVar[int]
    LAST_SEQUENCE_FIELD_NUMBER: _ClassVar[int]
    epoch: str
    last_sequence: int
    def __init__(self, epoch: _Optional[str] = ..., last_sequence: _Optional[int] = ...) -> None: ...

class Backup(_message.Message):
    __slots__ = ("path", "name", "create_time", "size_bytes", "parts", "blob_count")
    PATH_FIELD_NUMBER: _ClassVar[int]
    NAME_FIELD_NUMBER: _ClassVar[int]
    CREATE_TIME_FIELD_NUMBER: _ClassVar[int]
    SIZE_BYTES_FIELD_NUMBER: _ClassVar[int]
    PARTS_FIELD_NUMBER: _ClassVar[int]
    BLOB_COUNT_FIELD_NUMBER: _ClassVar[int]
    path: str
    name: str
    create_time: _timestamp_pb2.Timestamp
    size_bytes: int
    parts: _containers.RepeatedScalarFieldContainer[str]
    blob_count: int
    def __init__(self, path: _Optional[str] = ..., name: _Optional[str] = ..., create_time: _Optional[_Union[datetime.datetime, _timestamp_pb2.Timestamp, _Mapping]] = ..., size_bytes: _Optional[int] = ..., parts: _Optional[_Iterable[str]] = ..., blob_count: _Optional[int] = ...) -> None: ...

class McpStdioServer(_message.Message):
    __slots__ = ("arguments", "environment", "working_directory")
    class EnvironmentEntry(_message.Message):
        __slots__ = ("key", "value")
        KEY_FIELD_NUMBER: _ClassVar[int]
        VALUE_FIELD_NUMBER: _ClassVar[int]
        key: str
        value: str
        def __init__(self, key: _Optional[str] = ..., value: _Optional[str] = ...) -> None: ...
    ARGUMENTS_FIELD_NUMBER: _ClassVar[int]
    ENVIRONMENT_FIELD_NUMBER: _ClassVar[int]
    WORKING_DIRECTORY_FIELD_NUMBER: _ClassVar[int]
    arguments: _containers.RepeatedScalarFieldContainer[str]
    environment: _containers.ScalarMap[str, str]
    working_directory: str
    def __init__(self, arguments: _Optional[_Iterable[str]] = ..., environment: _Optional[_Mapping[str, str]] = ..., working_directory: _Optional[str] = ...) -> None: ...

class McpHttpServer(_message.Message):
    __slots__ = ("url", "headers_file", "oauth_file")
    URL_FIELD_NUMBER: _ClassVar[int]
    HEADERS_FILE_FIELD_NUMBER: _ClassVar[int]
    OAUTH_FILE_FIELD_NUMBER: _ClassVar[int]
    url: str
    headers_file: str
    oauth_file: str
    def __init__(self, url: _Optional[str] = ..., headers_file: _Optional[str] = ..., oauth_file: _Optional[str] = ...) -> None: ...

class A2aAgent(_message.Message):
    __slots__ = ("url", "headers_file")
    URL_FIELD_NUMBER: _ClassVar[int]
    HEADERS_FILE_FIELD_NUMBER: _ClassVar[int]
    url: str
    headers_file: str
    def __init__(self, url: _Optional[str] = ..., headers_file: _Optional[str] = ...) -> None: ...

class MountPolicy(_message.Message):
    __slots__ = ("repeat_allowed", "attempt_timeout_duration", "start_timeout_duration", "concurrency_count", "lease_duration")
    REPEAT_ALLOWED_FIELD_NUMBER: _ClassVar[int]
    ATTEMPT_TIMEOUT_DURATION_FIELD_NUMBER: _ClassVar[int]
    START_TIMEOUT_DURATION_FIELD_NUMBER: _ClassVar[int]
    CONCURRENCY_COUNT_FIELD_NUMBER: _ClassVar[int]
    LEASE_DURATION_FIELD_NUMBER: _ClassVar[int]
    repeat_allowed: bool
    attempt_timeout_duration: _duration_pb2.Duration
    start_timeout_duration: _duration_pb2.Duration
    concurrency_count: int
    lease_duration: _duration_pb2.Duration
    def __init__(self, repeat_allowed: bool = ..., attempt_timeout_duration: _Optional[_Union[datetime.timedelta, _duration_pb2.Duration, _Mapping]] = ..., start_timeout_duration: _Optional[_Union[datetime.timedelta, _duration_pb2.Duration, _Mapping]] = ..., concurrency_count: _Optional[int] = ..., lease_duration: _Optional[_Union[datetime.timedelta, _duration_pb2.Duration, _Mapping]] = ...) -> None: ...

class Mount(_message.Message):
    __slots__ = ("name", "mcp_stdio", "mcp_http", "a2a", "policy")
    NAME_FIELD_NUMBER: _ClassVar[int]
    MCP_STDIO_FIELD_NUMBER: _ClassVar[int]
    MCP_HTTP_FIELD_NUMBER: _ClassVar[int]
    A2A_FIELD_NUMBER: _ClassVar[int]
    POLICY_FIELD_NUMBER: _ClassVar[int]
    name: str
    mcp_stdio: McpStdioServer
    mcp_http: McpHttpServer
    a2a: A2aAgent
    policy: MountPolicy
    def __init__(self, name: _Optional[str] = ..., mcp_stdio: _Optional[_Union[McpStdioServer, _Mapping]] = ..., mcp_http: _Optional[_Union[McpHttpServer, _Mapping]] = ..., a2a: _Optional[_Union[A2aAgent, _Mapping]] = ..., policy: _Optional[_Union[MountPolicy, _Mapping]] = ...) -> None: ...

class MountStatus(_message.Message):
    __slots__ = ("state", "state_time", "last_problem", "error_lines", "next_start_time", "start_count", "server", "protocol_version", "skill_count", "refused_tools")
    STATE_FIELD_NUMBER: _ClassVar[int]
    STATE_TIME_FIELD_NUMBER: _ClassVar[int]
    LAST_PROBLEM_FIELD_NUMBER: _ClassVar[int]
    ERROR_LINES_FIELD_NUMBER: _ClassVar[int]
    NEXT_START_TIME_FIELD_NUMBER: _ClassVar[int]
    START_COUNT_FIELD_NUMBER: _ClassVar[int]
    SERVER_FIELD_NUMBER: _ClassVar[int]
    PROTOCOL_VERSION_FIELD_NUMBER: _ClassVar[int]
    SKILL_COUNT_FIELD_NUMBER: _ClassVar[int]
    REFUSED_TOOLS_FIELD_NUMBER: _ClassVar[int]
    state: MountState
    state_time: _timestamp_pb2.Timestamp
    last_problem: _problem_pb2.Problem
    error_lines: _containers.RepeatedScalarFieldContainer[str]
    next_start_time: _timestamp_pb2.Timestamp
    start_count: int
    server: str
    protocol_version: str
    skill_count: int
    refused_tools: _containers.RepeatedScalarFieldContainer[str]
    def __init__(self, state: _Optional[_Union[MountState, str]] = ..., state_time: _Optional[_Union[datetime.datetime, _timestamp_pb2.Timestamp, _Mapping]] = ..., last_problem: _Optional[_Union[_problem_pb2.Problem, _Mapping]] = ..., error_lines: _Optional[_Iterable[str]] = ..., next_start_time: _Optional[_Union[datetime.datetime, _timestamp_pb2.Timestamp, _Mapping]] = ..., start_count: _Optional[int] = ..., server: _Optional[str] = ..., protocol_version: _Optional[str] = ..., skill_count: _Optional[int] = ..., refused_tools: _Optional[_Iterable[str]] = ...) -> None: ...

class MountRecord(_message.Message):
    __slots__ = ("mount", "status")
    MOUNT_FIELD_NUMBER: _ClassVar[int]
    STATUS_FIELD_NUMBER: _ClassVar[int]
    mount: Mount
    status: MountStatus
    def __init__(self, mount: _Optional[_Union[Mount, _Mapping]] = ..., status: _Optional[_Union[MountStatus, _Mapping]] = ...) -> None: ...
