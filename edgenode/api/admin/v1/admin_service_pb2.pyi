import datetime

from edgenode.api.admin.v1 import admin_pb2 as _admin_pb2
from google.protobuf import timestamp_pb2 as _timestamp_pb2
from google.protobuf.internal import containers as _containers
from google.protobuf import descriptor as _descriptor
from google.protobuf import message as _message
from collections.abc import Iterable as _Iterable, Mapping as _Mapping
from typing import ClassVar as _ClassVar, Optional as _Optional, Union as _Union

DESCRIPTOR: _descriptor.FileDescriptor

class GetStatusRequest(_message.Message):
    __slots__ = ()
    def __init__(self) -> None: ...

class GetStatusResponse(_message.Message):
    __slots__ = ("node", "identity", "version", "sqlite_version", "process_id", "start_time", "health", "health_reasons", "link", "lanes", "agent_counts", "task_counts", "store_bytes", "store_limit_bytes", "applied_version", "certificate_expire_time", "resident_bytes", "dead_letter_count", "lane_usages", "damages", "damaged_entry_count")
    class AgentCountsEntry(_message.Message):
        __slots__ = ("key", "value")
        KEY_FIELD_NUMBER: _ClassVar[int]
        VALUE_FIELD_NUMBER: _ClassVar[int]
        key: str
        value: int
        def __init__(self, key: _Optional[str] = ..., value: _Optional[int] = ...) -> None: ...
    class TaskCountsEntry(_message.Message):
        __slots__ = ("key", "value")
        KEY_FIELD_NUMBER: _ClassVar[int]
        VALUE_FIELD_NUMBER: _ClassVar[int]
        key: str
        value: int
        def __init__(self, key: _Optional[str] = ..., value: _Optional[int] = ...) -> None: ...
    NODE_FIELD_NUMBER: _ClassVar[int]
    IDENTITY_FIELD_NUMBER: _ClassVar[int]
    VERSION_FIELD_NUMBER: _ClassVar[int]
    SQLITE_VERSION_FIELD_NUMBER: _ClassVar[int]
    PROCESS_ID_FIELD_NUMBER: _ClassVar[int]
    START_TIME_FIELD_NUMBER: _ClassVar[int]
    HEALTH_FIELD_NUMBER: _ClassVar[int]
    HEALTH_REASONS_FIELD_NUMBER: _ClassVar[int]
    LINK_FIELD_NUMBER: _ClassVar[int]
    LANES_FIELD_NUMBER: _ClassVar[int]
    AGENT_COUNTS_FIELD_NUMBER: _ClassVar[int]
    TASK_COUNTS_FIELD_NUMBER: _ClassVar[int]
    STORE_BYTES_FIELD_NUMBER: _ClassVar[int]
    STORE_LIMIT_BYTES_FIELD_NUMBER: _ClassVar[int]
    APPLIED_VERSION_FIELD_NUMBER: _ClassVar[int]
    CERTIFICATE_EXPIRE_TIME_FIELD_NUMBER: _ClassVar[int]
    RESIDENT_BYTES_FIELD_NUMBER: _ClassVar[int]
    DEAD_LETTER_COUNT_FIELD_NUMBER: _ClassVar[int]
    LANE_USAGES_FIELD_NUMBER: _ClassVar[int]
    DAMAGES_FIELD_NUMBER: _ClassVar[int]
    DAMAGED_ENTRY_COUNT_FIELD_NUMBER: _ClassVar[int]
    node: str
    identity: str
    version: str
    sqlite_version: str
    process_id: int
    start_time: _timestamp_pb2.Timestamp
    health: str
    health_reasons: _containers.RepeatedScalarFieldContainer[str]
    link: _admin_pb2.LinkStatus
    lanes: _containers.RepeatedCompositeFieldContainer[_admin_pb2.LaneStatus]
    agent_counts: _containers.ScalarMap[str, int]
    task_counts: _containers.ScalarMap[str, int]
    store_bytes: int
    store_limit_bytes: int
    applied_version: int
    certificate_expire_time: _timestamp_pb2.Timestamp
    resident_bytes: int
    dead_letter_count: int
    lane_usages: _containers.RepeatedCompositeFieldContainer[_admin_pb2.LaneUsage]
    damages: _containers.RepeatedCompositeFieldContainer[_admin_pb2.StoreDamage]
    damaged_entry_count: int
    def __init__(self, node: _Optional[str] = ..., identity: _Optional[str] = ..., version: _Optional[str] = ..., sqlite_version: _Optional[str] = ..., process_id: _Optional[int] = ..., start_time: _Optional[_Union[datetime.datetime, _timestamp_pb2.Timestamp, _Mapping]] = ..., health: _Optional[str] = ..., health_reasons: _Optional[_Iterable[str]] = ..., link: _Optional[_Union[_admin_pb2.LinkStatus, _Mapping]] = ..., lanes: _Optional[_Iterable[_Union[_admin_pb2.LaneStatus, _Mapping]]] = ..., agent_counts: _Optional[_Mapping[str, int]] = ..., task_counts: _Optional[_Mapping[str, int]] = ..., store_bytes: _Optional[int] = ..., store_limit_bytes: _Optional[int] = ..., applied_version: _Optional[int] = ..., certificate_expire_time: _Optional[_Union[datetime.datetime, _timestamp_pb2.Timestamp, _Mapping]] = ..., resident_bytes: _Optional[int] = ..., dead_letter_count: _Optional[int] = ..., lane_usages: _Optional[_Iterable[_Union[_admin_pb2.LaneUsage, _Mapping]]] = ..., damages: _Optional[_Iterable[_Union[_admin_pb2.StoreDamage, _Mapping]]] = ..., damaged_entry_count: _Optional[int] = ...) -> None: ...

class GetLedgerRequest(_message.Message):
    __slots__ = ()
    def __init__(self) -> None: ...

class GetLedgerResponse(_message.Message):
    __slots__ = ("lines",)
    LINES_FIELD_NUMBER: _ClassVar[int]
    lines: _containers.RepeatedCompositeFieldContainer[_admin_pb2.LedgerLine]
    def __init__(self, lines: _Optional[_Iterable[_Union[_admin_pb2.LedgerLine, _Mapping]]] = ...) -> None: ...

class VerifyLedgerRequest(_message.Message):
    __slots__ = ()
    def __init__(self) -> None: ...

class VerifyLedgerResponse(_message.Message):
    __slots__ = ("lines", "lanes", "findings", "finding_count", "entry_count")
    LINES_FIELD_NUMBER: _ClassVar[int]
    LANES_FIELD_NUMBER: _ClassVar[int]
    FINDINGS_FIELD_NUMBER: _ClassVar[int]
    FINDING_COUNT_FIELD_NUMBER: _ClassVar[int]
    ENTRY_COUNT_FIELD_NUMBER: _ClassVar[int]
    lines: _containers.RepeatedCompositeFieldContainer[_admin_pb2.LedgerLine]
    lanes: _containers.RepeatedCompositeFieldContainer[_admin_pb2.LaneStatus]
    findings: _containers.RepeatedCompositeFieldContainer[_admin_pb2.LedgerFinding]
    finding_count: int
    entry_count: int
    def __init__(self, lines: _Optional[_Iterable[_Union[_admin_pb2.LedgerLine, _Mapping]]] = ..., lanes: _Optional[_Iterable[_Union[_admin_pb2.LaneStatus, _Mapping]]] = ..., findings: _Optional[_Iterable[_Union[_admin_pb2.LedgerFinding, _Mapping]]] = ..., finding_count: _Optional[int] = ..., entry_count: _Optional[int] = ...) -> None: ...

class ListDeadLettersRequest(_message.Message):
    __slots__ = ("page_size", "page_token")
    PAGE_SIZE_FIELD_NUMBER: _ClassVar[int]
    PAGE_TOKEN_FIELD_NUMBER: _ClassVar[int]
    page_size: int
    page_token: str
    def __init__(self, page_size: _Optional[int] = ..., page_token: _Optional[str] = ...) -> None: ...

class ListDeadLettersResponse(_message.Message):
    __slots__ = ("dead_letters", "next_page_token")
    DEAD_LETTERS_FIELD_NUMBER: _ClassVar[int]
    NEXT_PAGE_TOKEN_FIELD_NUMBER: _ClassVar[int]
    dead_letters: _containers.RepeatedCompositeFieldContainer[_admin_pb2.DeadLetter]
    next_page_token: str
    def __init__(self, dead_letters: _Optional[_Iterable[_Union[_admin_pb2.DeadLetter, _Mapping]]] = ..., next_page_token: _Optional[str] = ...) -> None: ...

class GetDeadLetterRequest(_message.Message):
    __slots__ = ("dead_letter_id",)
    DEAD_LETTER_ID_FIELD_NUMBER: _ClassVar[int]
    dead_letter_id: int
    def __init__(self, dead_letter_id: _Optional[int] = ...) -> None: ...

class GetDeadLetterResponse(_message.Message):
    __slots__ = ("dead_letter", "content", "content_type", "truncated")
    DEAD_LETTER_FIELD_NUMBER: _ClassVar[int]
    CONTENT_FIELD_NUMBER: _ClassVar[int]
    CONTENT_TYPE_FIELD_NUMBER: _ClassVar[int]
    TRUNCATED_FIELD_NUMBER: _ClassVar[int]
    dead_letter: _admin_pb2.DeadLetter
    content: bytes
    content_type: str
    truncated: bool
    def __init__(self, dead_letter: _Optional[_Union[_admin_pb2.DeadLetter, _Mapping]] = ..., content: _Optional[bytes] = ..., content_type: _Optional[str] = ..., truncated: bool = ...) -> None: ...

class ReplayDeadLettersRequest(_message.Message):
    __slots__ = ("request_id", "dead_letter_ids", "all")
    REQUEST_ID_FIELD_NUMBER: _ClassVar[int]
    DEAD_LETTER_IDS_FIELD_NUMBER: _ClassVar[int]
    ALL_FIELD_NUMBER: _ClassVar[int]
    request_id: str
    dead_letter_ids: _containers.RepeatedScalarFieldContainer[int]
    all: bool
    def __init__(self, request_id: _Optional[str] = ..., dead_letter_ids: _Optional[_Iterable[int]] = ..., all: bool = ...) -> None: ...

class ReplayDeadLettersResponse(_message.Message):
    __slots__ = ("task_ids", "entry_count")
    TASK_IDS_FIELD_NUMBER: _ClassVar[int]
    ENTRY_COUNT_FIELD_NUMBER: _ClassVar[int]
    task_ids: _containers.RepeatedScalarFieldContainer[str]
    entry_count: int
    def __init__(self, task_ids: _Optional[_Iterable[str]] = ..., entry_count: _Optional[int] = ...) -> None: ...

class DropDeadLettersRequest(_message.Message):
    __slots__ = ("request_id", "dead_letter_ids", "all", "reason")
    REQUEST_ID_FIELD_NUMBER: _ClassVar[int]
    DEAD_LETTER_IDS_FIELD_NUMBER: _ClassVar[int]
    ALL_FIELD_NUMBER: _ClassVar[int]
    REASON_FIELD_NUMBER: _ClassVar[int]
    request_id: str
    dead_letter_ids: _containers.RepeatedScalarFieldContainer[int]
    all: bool
    reason: str
    def __init__(self, request_id: _Optional[str] = ..., dead_letter_ids: _Optional[_Iterable[int]] = ..., all: bool = ..., reason: _Optional[str] = ...) -> None: ...

class DropDeadLettersResponse(_message.Message):
    __slots__ = ("dropped_count",)
    DROPPED_COUNT_FIELD_NUMBER: _ClassVar[int]
    dropped_count: int
    def __init__(self, dropped_count: _Optional[int] = ...) -> None: ...

class CreateBackupRequest(_message.Message):
    __slots__ = ("path",)
    PATH_FIELD_NUMBER: _ClassVar[int]
    path: str
    def __init__(self, path: _Optional[str] = ...) -> None: ...

class CreateBackupResponse(_message.Message):
    __slots__ = ("backup",)
    BACKUP_FIELD_NUMBER: _ClassVar[int]
    backup: _admin_pb2.Backup
    def __init__(self, backup: _Optional[_Union[_admin_pb2.Backup, _Mapping]] = ...) -> None: ...

class AddMountRequest(_message.Message):
    __slots__ = ("request_id", "mount")
    REQUEST_ID_FIELD_NUMBER: _ClassVar[int]
    MOUNT_FIELD_NUMBER: _ClassVar[int]
    request_id: str
    mount: _admin_pb2.Mount
    def __init__(self, request_id: _Optional[str] = ..., mount: _Optional[_Union[_admin_pb2.Mount, _Mapping]] = ...) -> None: ...

class AddMountResponse(_message.Message):
    __slots__ = ()
    def __init__(self) -> None: ...

class ListMountsRequest(_message.Message):
    __slots__ = ("page_size", "page_token", "kind")
    PAGE_SIZE_FIELD_NUMBER: _ClassVar[int]
    PAGE_TOKEN_FIELD_NUMBER: _ClassVar[int]
    KIND_FIELD_NUMBER: _ClassVar[int]
    page_size: int
    page_token: str
    kind: _admin_pb2.MountKind
    def __init__(self, page_size: _Optional[int] = ..., page_token: _Optional[str] = ..., kind: _Optional[_Union[_admin_pb2.MountKind, str]] = ...) -> None: ...

class ListMountsResponse(_message.Message):
    __slots__ = ("mounts", "next_page_token")
    MOUNTS_FIELD_NUMBER: _ClassVar[int]
    NEXT_PAGE_TOKEN_FIELD_NUMBER: _ClassVar[int]
    mounts: _containers.RepeatedCompositeFieldContainer[_admin_pb2.MountRecord]
    next_page_token: str
    def __init__(self, mounts: _Optional[_Iterable[_Union[_admin_pb2.MountRecord, _Mapping]]] = ..., next_page_token: _Optional[str] = ...) -> None: ...

class RemoveMountRequest(_message.Message):
    __slots__ = ("request_id", "name")
    REQUEST_ID_FIELD_NUMBER: _ClassVar[int]
    NAME_FIELD_NUMBER: _ClassVar[int]
    request_id: str
    name: str
    def __init__(self, request_id: _Optional[str] = ..., name: _Optional[str] = ...) -> None: ...

class RemoveMountResponse(_message.Message):
    __slots__ = ()
    def __init__(self) -> None: ...

class RetryMountRequest(_message.Message):
    __slots__ = ("request_id", "name")
    REQUEST_ID_FIELD_NUMBER: _ClassVar[int]
    NAME_FIELD_NUMBER: _ClassVar[int]
    request_id: str
    name: str
    def __init__(self, request_id: _Optional[str] = ..., name: _Optional[str] = ...) -> None: ...

class RetryMountResponse(_message.Message):
    __slots__ = ()
    def __init__(self) -> None: ...

class WatchMountsRequest(_message.Message):
    __slots__ = ("kind",)
    KIND_FIELD_NUMBER: _ClassVar[int]
    kind: _admin_pb2.MountKind
    def __init__(self, kind: _Optional[_Union[_admin_pb2.MountKind, str]] = ...) -> None: ...

class WatchMountsResponse(_message.Message):
    __slots__ = ("mounts", "retried_names")
    MOUNTS_FIELD_NUMBER: _ClassVar[int]
    RETRIED_NAMES_FIELD_NUMBER: _ClassVar[int]
    mounts: _containers.RepeatedCompositeFieldContainer[_admin_pb2.Mount]
    retried_names: _containers.RepeatedScalarFieldContainer[str]
    def __init__(self, mounts: _Optional[_Iterable[_Union[_admin_pb2.Mount, _Mapping]]] = ..., retried_names: _Optional[_Iterable[str]] = ...) -> None: ...

class ReportMountRequest(_message.Message):
    __slots__ = ("name", "status")
    NAME_FIELD_NUMBER: _ClassVar[int]
    STATUS_FIELD_NUMBER: _ClassVar[int]
    name: str
    status: _admin_pb2.MountStatus
    def __init__(self, name: _Optional[str] = ..., status: _Optional[_Union[_admin_pb2.MountStatus, _Mapping]] = ...) -> None: ...

class ReportMountResponse(_message.Message):
    __slots__ = ()
    def __init__(self) -> None: ...
