import datetime

from edgenode.api.admin.v1 import admin_pb2 as _admin_pb2
from edgenode.api.admin.v1 import admin_service_pb2 as _admin_service_pb2
from edgenode.api.problem.v1 import problem_pb2 as _problem_pb2
from edgenode.api.sync.v1 import sync_pb2 as _sync_pb2
from google.protobuf import duration_pb2 as _duration_pb2
from google.protobuf import timestamp_pb2 as _timestamp_pb2
from google.protobuf.internal import containers as _containers
from google.protobuf import descriptor as _descriptor
from google.protobuf import message as _message
from collections.abc import Iterable as _Iterable, Mapping as _Mapping
from typing import ClassVar as _ClassVar, Optional as _Optional, Union as _Union

DESCRIPTOR: _descriptor.FileDescriptor

class GetHubStatusRequest(_message.Message):
    __slots__ = ()
    def __init__(self) -> None: ...

class GetHubStatusResponse(_message.Message):
    __slots__ = ("hub", "trust_domain", "version", "start_time", "sync_port", "enrollment_port", "connected_count", "task_counts", "message_sequence", "root_hash", "parent_link", "parent_lanes", "hub_path", "parent_identity", "waiting_count", "delayed_count", "health", "health_reasons", "lane_usages", "store_bytes", "store_limit_bytes")
    class TaskCountsEntry(_message.Message):
        __slots__ = ("key", "value")
        KEY_FIELD_NUMBER: _ClassVar[int]
        VALUE_FIELD_NUMBER: _ClassVar[int]
        key: str
        value: int
        def __init__(self, key: _Optional[str] = ..., value: _Optional[int] = ...) -> None: ...
    HUB_FIELD_NUMBER: _ClassVar[int]
    TRUST_DOMAIN_FIELD_NUMBER: _ClassVar[int]
    VERSION_FIELD_NUMBER: _ClassVar[int]
    START_TIME_FIELD_NUMBER: _ClassVar[int]
    SYNC_PORT_FIELD_NUMBER: _ClassVar[int]
    ENROLLMENT_PORT_FIELD_NUMBER: _ClassVar[int]
    CONNECTED_COUNT_FIELD_NUMBER: _ClassVar[int]
    TASK_COUNTS_FIELD_NUMBER: _ClassVar[int]
    MESSAGE_SEQUENCE_FIELD_NUMBER: _ClassVar[int]
    ROOT_HASH_FIELD_NUMBER: _ClassVar[int]
    PARENT_LINK_FIELD_NUMBER: _ClassVar[int]
    PARENT_LANES_FIELD_NUMBER: _ClassVar[int]
    HUB_PATH_FIELD_NUMBER: _ClassVar[int]
    PARENT_IDENTITY_FIELD_NUMBER: _ClassVar[int]
    WAITING_COUNT_FIELD_NUMBER: _ClassVar[int]
    DELAYED_COUNT_FIELD_NUMBER: _ClassVar[int]
    HEALTH_FIELD_NUMBER: _ClassVar[int]
    HEALTH_REASONS_FIELD_NUMBER: _ClassVar[int]
    LANE_USAGES_FIELD_NUMBER: _ClassVar[int]
    STORE_BYTES_FIELD_NUMBER: _ClassVar[int]
    STORE_LIMIT_BYTES_FIELD_NUMBER: _ClassVar[int]
    hub: str
    trust_domain: str
    version: str
    start_time: _timestamp_pb2.Timestamp
    sync_port: int
    enrollment_port: int
    connected_count: int
    task_counts: _containers.ScalarMap[str, int]
    message_sequence: int
    root_hash: str
    parent_link: _admin_pb2.LinkStatus
    parent_lanes: _containers.RepeatedCompositeFieldContainer[_admin_pb2.LaneStatus]
    hub_path: _containers.RepeatedScalarFieldContainer[str]
    parent_identity: str
    waiting_count: int
    delayed_count: int
    health: str
    health_reasons: _containers.RepeatedScalarFieldContainer[str]
    lane_usages: _containers.RepeatedCompositeFieldContainer[_admin_pb2.LaneUsage]
    store_bytes: int
    store_limit_bytes: int
    def __init__(self, hub: _Optional[str] = ..., trust_domain: _Optional[str] = ..., version: _Optional[str] = ..., start_time: _Optional[_Union[datetime.datetime, _timestamp_pb2.Timestamp, _Mapping]] = ..., sync_port: _Optional[int] = ..., enrollment_port: _Optional[int] = ..., connected_count: _Optional[int] = ..., task_counts: _Optional[_Mapping[str, int]] = ..., message_sequence: _Optional[int] = ..., root_hash: _Optional[str] = ..., parent_link: _Optional[_Union[_admin_pb2.LinkStatus, _Mapping]] = ..., parent_lanes: _Optional[_Iterable[_Union[_admin_pb2.LaneStatus, _Mapping]]] = ..., hub_path: _Optional[_Iterable[str]] = ..., parent_identity: _Optional[str] = ..., waiting_count: _Optional[int] = ..., delayed_count: _Optional[int] = ..., health: _Optional[str] = ..., health_reasons: _Optional[_Iterable[str]] = ..., lane_usages: _Optional[_Iterable[_Union[_admin_pb2.LaneUsage, _Mapping]]] = ..., store_bytes: _Optional[int] = ..., store_limit_bytes: _Optional[int] = ...) -> None: ...

class ListNodesRequest(_message.Message):
    __slots__ = ("page_size", "page_token")
    PAGE_SIZE_FIELD_NUMBER: _ClassVar[int]
    PAGE_TOKEN_FIELD_NUMBER: _ClassVar[int]
    page_size: int
    page_token: str
    def __init__(self, page_size: _Optional[int] = ..., page_token: _Optional[str] = ...) -> None: ...

class Node(_message.Message):
    __slots__ = ("node", "state", "last_contact_time", "agent_count", "lanes", "desired_version", "applied_version", "refused_version", "software", "certificate_expire_time", "generation", "kind", "hub_id", "quarantine_time")
    NODE_FIELD_NUMBER: _ClassVar[int]
    STATE_FIELD_NUMBER: _ClassVar[int]
    LAST_CONTACT_TIME_FIELD_NUMBER: _ClassVar[int]
    AGENT_COUNT_FIELD_NUMBER: _ClassVar[int]
    LANES_FIELD_NUMBER: _ClassVar[int]
    DESIRED_VERSION_FIELD_NUMBER: _ClassVar[int]
    APPLIED_VERSION_FIELD_NUMBER: _ClassVar[int]
    REFUSED_VERSION_FIELD_NUMBER: _ClassVar[int]
    SOFTWARE_FIELD_NUMBER: _ClassVar[int]
    CERTIFICATE_EXPIRE_TIME_FIELD_NUMBER: _ClassVar[int]
    GENERATION_FIELD_NUMBER: _ClassVar[int]
    KIND_FIELD_NUMBER: _ClassVar[int]
    HUB_ID_FIELD_NUMBER: _ClassVar[int]
    QUARANTINE_TIME_FIELD_NUMBER: _ClassVar[int]
    node: str
    state: str
    last_contact_time: _timestamp_pb2.Timestamp
    agent_count: int
    lanes: _containers.RepeatedCompositeFieldContainer[_admin_pb2.LaneStatus]
    desired_version: int
    applied_version: int
    refused_version: int
    software: str
    certificate_expire_time: _timestamp_pb2.Timestamp
    generation: int
    kind: str
    hub_id: str
    quarantine_time: _timestamp_pb2.Timestamp
    def __init__(self, node: _Optional[str] = ..., state: _Optional[str] = ..., last_contact_time: _Optional[_Union[datetime.datetime, _timestamp_pb2.Timestamp, _Mapping]] = ..., agent_count: _Optional[int] = ..., lanes: _Optional[_Iterable[_Union[_admin_pb2.LaneStatus, _Mapping]]] = ..., desired_version: _Optional[int] = ..., applied_version: _Optional[int] = ..., refused_version: _Optional[int] = ..., software: _Optional[str] = ..., certificate_expire_time: _Optional[_Union[datetime.datetime, _timestamp_pb2.Timestamp, _Mapping]] = ..., generation: _Optional[int] = ..., kind: _Optional[str] = ..., hub_id: _Optional[str] = ..., quarantine_time: _Optional[_Union[datetime.datetime, _timestamp_pb2.Timestamp, _Mapping]] = ...) -> None: ...

class ListNodesResponse(_message.Message):
    __slots__ = ("nodes", "next_page_token")
    NODES_FIELD_NUMBER: _ClassVar[int]
    NEXT_PAGE_TOKEN_FIELD_NUMBER: _ClassVar[int]
    nodes: _containers.RepeatedCompositeFieldContainer[Node]
    next_page_token: str
    def __init__(self, nodes: _Optional[_Iterable[_Union[Node, _Mapping]]] = ..., next_page_token: _Optional[str] = ...) -> None: ...

class GetNodeRequest(_message.Message):
    __slots__ = ("node",)
    NODE_FIELD_NUMBER: _ClassVar[int]
    node: str
    def __init__(self, node: _Optional[str] = ...) -> None: ...

class GetNodeResponse(_message.Message):
    __slots__ = ("node",)
    NODE_FIELD_NUMBER: _ClassVar[int]
    node: Node
    def __init__(self, node: _Optional[_Union[Node, _Mapping]] = ...) -> None: ...

class ReleaseNodeRequest(_message.Message):
    __slots__ = ("node",)
    NODE_FIELD_NUMBER: _ClassVar[int]
    node: str
    def __init__(self, node: _Optional[str] = ...) -> None: ...

class ReleaseNodeResponse(_message.Message):
    __slots__ = ("released",)
    RELEASED_FIELD_NUMBER: _ClassVar[int]
    released: bool
    def __init__(self, released: bool = ...) -> None: ...

class GetFleetLedgerRequest(_message.Message):
    __slots__ = ("node",)
    NODE_FIELD_NUMBER: _ClassVar[int]
    node: str
    def __init__(self, node: _Optional[str] = ...) -> None: ...

class GetFleetLedgerResponse(_message.Message):
    __slots__ = ("lines",)
    LINES_FIELD_NUMBER: _ClassVar[int]
    lines: _containers.RepeatedCompositeFieldContainer[_admin_pb2.LedgerLine]
    def __init__(self, lines: _Optional[_Iterable[_Union[_admin_pb2.LedgerLine, _Mapping]]] = ...) -> None: ...

class VerifyFleetLedgerRequest(_message.Message):
    __slots__ = ("all",)
    ALL_FIELD_NUMBER: _ClassVar[int]
    all: bool
    def __init__(self, all: bool = ...) -> None: ...

class LedgerComparison(_message.Message):
    __slots__ = ("node", "compared", "problem", "last_contact_time")
    NODE_FIELD_NUMBER: _ClassVar[int]
    COMPARED_FIELD_NUMBER: _ClassVar[int]
    PROBLEM_FIELD_NUMBER: _ClassVar[int]
    LAST_CONTACT_TIME_FIELD_NUMBER: _ClassVar[int]
    node: str
    compared: bool
    problem: _problem_pb2.Problem
    last_contact_time: _timestamp_pb2.Timestamp
    def __init__(self, node: _Optional[str] = ..., compared: bool = ..., problem: _Optional[_Union[_problem_pb2.Problem, _Mapping]] = ..., last_contact_time: _Optional[_Union[datetime.datetime, _timestamp_pb2.Timestamp, _Mapping]] = ...) -> None: ...

class VerifyFleetLedgerResponse(_message.Message):
    __slots__ = ("lines", "findings", "finding_count", "nodes", "entry_count")
    LINES_FIELD_NUMBER: _ClassVar[int]
    FINDINGS_FIELD_NUMBER: _ClassVar[int]
    FINDING_COUNT_FIELD_NUMBER: _ClassVar[int]
    NODES_FIELD_NUMBER: _ClassVar[int]
    ENTRY_COUNT_FIELD_NUMBER: _ClassVar[int]
    lines: _containers.RepeatedCompositeFieldContainer[_admin_pb2.LedgerLine]
    findings: _containers.RepeatedCompositeFieldContainer[_admin_pb2.LedgerFinding]
    finding_count: int
    nodes: _containers.RepeatedCompositeFieldContainer[LedgerComparison]
    entry_count: int
    def __init__(self, lines: _Optional[_Iterable[_Union[_admin_pb2.LedgerLine, _Mapping]]] = ..., findings: _Optional[_Iterable[_Union[_admin_pb2.LedgerFinding, _Mapping]]] = ..., finding_count: _Optional[int] = ..., nodes: _Optional[_Iterable[_Union[LedgerComparison, _Mapping]]] = ..., entry_count: _Optional[int] = ...) -> None: ...

class ListFleetDeadLettersRequest(_message.Message):
    __slots__ = ("node", "page_size", "page_token")
    NODE_FIELD_NUMBER: _ClassVar[int]
    PAGE_SIZE_FIELD_NUMBER: _ClassVar[int]
    PAGE_TOKEN_FIELD_NUMBER: _ClassVar[int]
    node: str
    page_size: int
    page_token: str
    def __init__(self, node: _Optional[str] = ..., page_size: _Optional[int] = ..., page_token: _Optional[str] = ...) -> None: ...

class ListFleetDeadLettersResponse(_message.Message):
    __slots__ = ("dead_letters", "next_page_token")
    DEAD_LETTERS_FIELD_NUMBER: _ClassVar[int]
    NEXT_PAGE_TOKEN_FIELD_NUMBER: _ClassVar[int]
    dead_letters: _containers.RepeatedCompositeFieldContainer[_admin_pb2.DeadLetter]
    next_page_token: str
    def __init__(self, dead_letters: _Optional[_Iterable[_Union[_admin_pb2.DeadLetter, _Mapping]]] = ..., next_page_token: _Optional[str] = ...) -> None: ...

class GetFleetDeadLetterRequest(_message.Message):
    __slots__ = ("node", "dead_letter_id")
    NODE_FIELD_NUMBER: _ClassVar[int]
    DEAD_LETTER_ID_FIELD_NUMBER: _ClassVar[int]
    node: str
    dead_letter_id: int
    def __init__(self, node: _Optional[str] = ..., dead_letter_id: _Optional[int] = ...) -> None: ...

class GetFleetDeadLetterResponse(_message.Message):
    __slots__ = ("letter",)
    LETTER_FIELD_NUMBER: _ClassVar[int]
    letter: _admin_service_pb2.GetDeadLetterResponse
    def __init__(self, letter: _Optional[_Union[_admin_service_pb2.GetDeadLetterResponse, _Mapping]] = ...) -> None: ...

class ReplayFleetDeadLettersRequest(_message.Message):
    __slots__ = ("node", "letters")
    NODE_FIELD_NUMBER: _ClassVar[int]
    LETTERS_FIELD_NUMBER: _ClassVar[int]
    node: str
    letters: _admin_service_pb2.ReplayDeadLettersRequest
    def __init__(self, node: _Optional[str] = ..., letters: _Optional[_Union[_admin_service_pb2.ReplayDeadLettersRequest, _Mapping]] = ...) -> None: ...

class ReplayFleetDeadLettersResponse(_message.Message):
    __slots__ = ("replayed",)
    REPLAYED_FIELD_NUMBER: _ClassVar[int]
    replayed: _admin_service_pb2.ReplayDeadLettersResponse
    def __init__(self, replayed: _Optional[_Union[_admin_service_pb2.ReplayDeadLettersResponse, _Mapping]] = ...) -> None: ...

class DropFleetDeadLettersRequest(_message.Message):
    __slots__ = ("node", "letters")
    NODE_FIELD_NUMBER: _ClassVar[int]
    LETTERS_FIELD_NUMBER: _ClassVar[int]
    node: str
    letters: _admin_service_pb2.DropDeadLettersRequest
    def __init__(self, node: _Optional[str] = ..., letters: _Optional[_Union[_admin_service_pb2.DropDeadLettersRequest, _Mapping]] = ...) -> None: ...

class DropFleetDeadLettersResponse(_message.Message):
    __slots__ = ("dropped_count",)
    DROPPED_COUNT_FIELD_NUMBER: _ClassVar[int]
    dropped_count: int
    def __init__(self, dropped_count: _Optional[int] = ...) -> None: ...

class CreateJoinTokenRequest(_message.Message):
    __slots__ = ("node", "ttl_duration", "rejoin")
    NODE_FIELD_NUMBER: _ClassVar[int]
    TTL_DURATION_FIELD_NUMBER: _ClassVar[int]
    REJOIN_FIELD_NUMBER: _ClassVar[int]
    node: str
    ttl_duration: _duration_pb2.Duration
    rejoin: bool
    def __init__(self, node: _Optional[str] = ..., ttl_duration: _Optional[_Union[datetime.timedelta, _duration_pb2.Duration, _Mapping]] = ..., rejoin: bool = ...) -> None: ...

class CreateJoinTokenResponse(_message.Message):
    __slots__ = ("token", "expire_time")
    TOKEN_FIELD_NUMBER: _ClassVar[int]
    EXPIRE_TIME_FIELD_NUMBER: _ClassVar[int]
    token: str
    expire_time: _timestamp_pb2.Timestamp
    def __init__(self, token: _Optional[str] = ..., expire_time: _Optional[_Union[datetime.datetime, _timestamp_pb2.Timestamp, _Mapping]] = ...) -> None: ...

class SetDesiredStateRequest(_message.Message):
    __slots__ = ("document",)
    DOCUMENT_FIELD_NUMBER: _ClassVar[int]
    document: _sync_pb2.DesiredDocument
    def __init__(self, document: _Optional[_Union[_sync_pb2.DesiredDocument, _Mapping]] = ...) -> None: ...

class SetDesiredStateResponse(_message.Message):
    __slots__ = ("version",)
    VERSION_FIELD_NUMBER: _ClassVar[int]
    version: int
    def __init__(self, version: _Optional[int] = ...) -> None: ...

class GetDesiredStateRequest(_message.Message):
    __slots__ = ("node",)
    NODE_FIELD_NUMBER: _ClassVar[int]
    node: str
    def __init__(self, node: _Optional[str] = ...) -> None: ...

class GetDesiredStateResponse(_message.Message):
    __slots__ = ("document", "report")
    DOCUMENT_FIELD_NUMBER: _ClassVar[int]
    REPORT_FIELD_NUMBER: _ClassVar[int]
    document: _sync_pb2.DesiredDocument
    report: _sync_pb2.DesiredStateReport
    def __init__(self, document: _Optional[_Union[_sync_pb2.DesiredDocument, _Mapping]] = ..., report: _Optional[_Union[_sync_pb2.DesiredStateReport, _Mapping]] = ...) -> None: ...

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
