import datetime

from edgenode.api.registry.v1 import registry_pb2 as _registry_pb2
from google.protobuf import duration_pb2 as _duration_pb2
from google.protobuf.internal import containers as _containers
from google.protobuf.internal import enum_type_wrapper as _enum_type_wrapper
from google.protobuf import descriptor as _descriptor
from google.protobuf import message as _message
from collections.abc import Iterable as _Iterable, Mapping as _Mapping
from typing import ClassVar as _ClassVar, Optional as _Optional, Union as _Union

DESCRIPTOR: _descriptor.FileDescriptor

class Scope(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
    __slots__ = ()
    SCOPE_UNSPECIFIED: _ClassVar[Scope]
    SCOPE_LOCAL: _ClassVar[Scope]
    SCOPE_FLEET: _ClassVar[Scope]
SCOPE_UNSPECIFIED: Scope
SCOPE_LOCAL: Scope
SCOPE_FLEET: Scope

class RegisterAgentRequest(_message.Message):
    __slots__ = ("request_id", "card", "instance_id", "incarnation", "labels", "capacity_count", "cost", "lease_duration")
    class LabelsEntry(_message.Message):
        __slots__ = ("key", "value")
        KEY_FIELD_NUMBER: _ClassVar[int]
        VALUE_FIELD_NUMBER: _ClassVar[int]
        key: str
        value: str
        def __init__(self, key: _Optional[str] = ..., value: _Optional[str] = ...) -> None: ...
    REQUEST_ID_FIELD_NUMBER: _ClassVar[int]
    CARD_FIELD_NUMBER: _ClassVar[int]
    INSTANCE_ID_FIELD_NUMBER: _ClassVar[int]
    INCARNATION_FIELD_NUMBER: _ClassVar[int]
    LABELS_FIELD_NUMBER: _ClassVar[int]
    CAPACITY_COUNT_FIELD_NUMBER: _ClassVar[int]
    COST_FIELD_NUMBER: _ClassVar[int]
    LEASE_DURATION_FIELD_NUMBER: _ClassVar[int]
    request_id: str
    card: _registry_pb2.AgentCard
    instance_id: str
    incarnation: int
    labels: _containers.ScalarMap[str, str]
    capacity_count: int
    cost: float
    lease_duration: _duration_pb2.Duration
    def __init__(self, request_id: _Optional[str] = ..., card: _Optional[_Union[_registry_pb2.AgentCard, _Mapping]] = ..., instance_id: _Optional[str] = ..., incarnation: _Optional[int] = ..., labels: _Optional[_Mapping[str, str]] = ..., capacity_count: _Optional[int] = ..., cost: _Optional[float] = ..., lease_duration: _Optional[_Union[datetime.timedelta, _duration_pb2.Duration, _Mapping]] = ...) -> None: ...

class RegisterAgentResponse(_message.Message):
    __slots__ = ("agent", "lease_duration")
    AGENT_FIELD_NUMBER: _ClassVar[int]
    LEASE_DURATION_FIELD_NUMBER: _ClassVar[int]
    agent: _registry_pb2.Agent
    lease_duration: _duration_pb2.Duration
    def __init__(self, agent: _Optional[_Union[_registry_pb2.Agent, _Mapping]] = ..., lease_duration: _Optional[_Union[datetime.timedelta, _duration_pb2.Duration, _Mapping]] = ...) -> None: ...

class RenewLeaseRequest(_message.Message):
    __slots__ = ("agent", "instance_id", "health", "health_reason")
    AGENT_FIELD_NUMBER: _ClassVar[int]
    INSTANCE_ID_FIELD_NUMBER: _ClassVar[int]
    HEALTH_FIELD_NUMBER: _ClassVar[int]
    HEALTH_REASON_FIELD_NUMBER: _ClassVar[int]
    agent: str
    instance_id: str
    health: _registry_pb2.Health
    health_reason: str
    def __init__(self, agent: _Optional[str] = ..., instance_id: _Optional[str] = ..., health: _Optional[_Union[_registry_pb2.Health, str]] = ..., health_reason: _Optional[str] = ...) -> None: ...

class RenewLeaseResponse(_message.Message):
    __slots__ = ("lease_duration",)
    LEASE_DURATION_FIELD_NUMBER: _ClassVar[int]
    lease_duration: _duration_pb2.Duration
    def __init__(self, lease_duration: _Optional[_Union[datetime.timedelta, _duration_pb2.Duration, _Mapping]] = ...) -> None: ...

class DeregisterAgentRequest(_message.Message):
    __slots__ = ("request_id", "agent", "instance_id")
    REQUEST_ID_FIELD_NUMBER: _ClassVar[int]
    AGENT_FIELD_NUMBER: _ClassVar[int]
    INSTANCE_ID_FIELD_NUMBER: _ClassVar[int]
    request_id: str
    agent: str
    instance_id: str
    def __init__(self, request_id: _Optional[str] = ..., agent: _Optional[str] = ..., instance_id: _Optional[str] = ...) -> None: ...

class DeregisterAgentResponse(_message.Message):
    __slots__ = ()
    def __init__(self) -> None: ...

class GetAgentRequest(_message.Message):
    __slots__ = ("name",)
    NAME_FIELD_NUMBER: _ClassVar[int]
    name: str
    def __init__(self, name: _Optional[str] = ...) -> None: ...

class GetAgentResponse(_message.Message):
    __slots__ = ("agent", "staleness_duration")
    AGENT_FIELD_NUMBER: _ClassVar[int]
    STALENESS_DURATION_FIELD_NUMBER: _ClassVar[int]
    agent: _registry_pb2.Agent
    staleness_duration: _duration_pb2.Duration
    def __init__(self, agent: _Optional[_Union[_registry_pb2.Agent, _Mapping]] = ..., staleness_duration: _Optional[_Union[datetime.timedelta, _duration_pb2.Duration, _Mapping]] = ...) -> None: ...

class ListAgentsRequest(_message.Message):
    __slots__ = ("page_size", "page_token", "scope", "known_state")
    PAGE_SIZE_FIELD_NUMBER: _ClassVar[int]
    PAGE_TOKEN_FIELD_NUMBER: _ClassVar[int]
    SCOPE_FIELD_NUMBER: _ClassVar[int]
    KNOWN_STATE_FIELD_NUMBER: _ClassVar[int]
    page_size: int
    page_token: str
    scope: Scope
    known_state: str
    def __init__(self, page_size: _Optional[int] = ..., page_token: _Optional[str] = ..., scope: _Optional[_Union[Scope, str]] = ..., known_state: _Optional[str] = ...) -> None: ...

class ListAgentsResponse(_message.Message):
    __slots__ = ("agents", "next_page_token", "fleet_included", "state", "unchanged")
    AGENTS_FIELD_NUMBER: _ClassVar[int]
    NEXT_PAGE_TOKEN_FIELD_NUMBER: _ClassVar[int]
    FLEET_INCLUDED_FIELD_NUMBER: _ClassVar[int]
    STATE_FIELD_NUMBER: _ClassVar[int]
    UNCHANGED_FIELD_NUMBER: _ClassVar[int]
    agents: _containers.RepeatedCompositeFieldContainer[_registry_pb2.Agent]
    next_page_token: str
    fleet_included: bool
    state: str
    unchanged: bool
    def __init__(self, agents: _Optional[_Iterable[_Union[_registry_pb2.Agent, _Mapping]]] = ..., next_page_token: _Optional[str] = ..., fleet_included: bool = ..., state: _Optional[str] = ..., unchanged: bool = ...) -> None: ...

class FindAgentsRequest(_message.Message):
    __slots__ = ("skill", "selector", "query", "max_cost", "max_staleness_duration", "scope", "explain", "page_size")
    SKILL_FIELD_NUMBER: _ClassVar[int]
    SELECTOR_FIELD_NUMBER: _ClassVar[int]
    QUERY_FIELD_NUMBER: _ClassVar[int]
    MAX_COST_FIELD_NUMBER: _ClassVar[int]
    MAX_STALENESS_DURATION_FIELD_NUMBER: _ClassVar[int]
    SCOPE_FIELD_NUMBER: _ClassVar[int]
    EXPLAIN_FIELD_NUMBER: _ClassVar[int]
    PAGE_SIZE_FIELD_NUMBER: _ClassVar[int]
    skill: str
    selector: str
    query: str
    max_cost: float
    max_staleness_duration: _duration_pb2.Duration
    scope: Scope
    explain: bool
    page_size: int
    def __init__(self, skill: _Optional[str] = ..., selector: _Optional[str] = ..., query: _Optional[str] = ..., max_cost: _Optional[float] = ..., max_staleness_duration: _Optional[_Union[datetime.timedelta, _duration_pb2.Duration, _Mapping]] = ..., scope: _Optional[_Union[Scope, str]] = ..., explain: bool = ..., page_size: _Optional[int] = ...) -> None: ...

class AgentCandidate(_message.Message):
    __slots__ = ("agent", "score", "reasons", "staleness_duration")
    AGENT_FIELD_NUMBER: _ClassVar[int]
    SCORE_FIELD_NUMBER: _ClassVar[int]
    REASONS_FIELD_NUMBER: _ClassVar[int]
    STALENESS_DURATION_FIELD_NUMBER: _ClassVar[int]
    agent: _registry_pb2.Agent
    score: float
    reasons: _containers.RepeatedScalarFieldContainer[str]
    staleness_duration: _duration_pb2.Duration
    def __init__(self, agent: _Optional[_Union[_registry_pb2.Agent, _Mapping]] = ..., score: _Optional[float] = ..., reasons: _Optional[_Iterable[str]] = ..., staleness_duration: _Optional[_Union[datetime.timedelta, _duration_pb2.Duration, _Mapping]] = ...) -> None: ...

class AgentExclusion(_message.Message):
    __slots__ = ("name", "reason", "detail")
    NAME_FIELD_NUMBER: _ClassVar[int]
    REASON_FIELD_NUMBER: _ClassVar[int]
    DETAIL_FIELD_NUMBER: _ClassVar[int]
    name: str
    reason: str
    detail: str
    def __init__(self, name: _Optional[str] = ..., reason: _Optional[str] = ..., detail: _Optional[str] = ...) -> None: ...

class FindAgentsResponse(_message.Message):
    __slots__ = ("candidates", "exclusions", "fleet_included")
    CANDIDATES_FIELD_NUMBER: _ClassVar[int]
    EXCLUSIONS_FIELD_NUMBER: _ClassVar[int]
    FLEET_INCLUDED_FIELD_NUMBER: _ClassVar[int]
    candidates: _containers.RepeatedCompositeFieldContainer[AgentCandidate]
    exclusions: _containers.RepeatedCompositeFieldContainer[AgentExclusion]
    fleet_included: bool
    def __init__(self, candidates: _Optional[_Iterable[_Union[AgentCandidate, _Mapping]]] = ..., exclusions: _Optional[_Iterable[_Union[AgentExclusion, _Mapping]]] = ..., fleet_included: bool = ...) -> None: ...

class WatchAgentsRequest(_message.Message):
    __slots__ = ("after_version",)
    AFTER_VERSION_FIELD_NUMBER: _ClassVar[int]
    after_version: int
    def __init__(self, after_version: _Optional[int] = ...) -> None: ...

class WatchAgentsResponse(_message.Message):
    __slots__ = ("agents", "removals", "version", "snapshot")
    AGENTS_FIELD_NUMBER: _ClassVar[int]
    REMOVALS_FIELD_NUMBER: _ClassVar[int]
    VERSION_FIELD_NUMBER: _ClassVar[int]
    SNAPSHOT_FIELD_NUMBER: _ClassVar[int]
    agents: _containers.RepeatedCompositeFieldContainer[_registry_pb2.Agent]
    removals: _containers.RepeatedCompositeFieldContainer[_registry_pb2.Tombstone]
    version: int
    snapshot: bool
    def __init__(self, agents: _Optional[_Iterable[_Union[_registry_pb2.Agent, _Mapping]]] = ..., removals: _Optional[_Iterable[_Union[_registry_pb2.Tombstone, _Mapping]]] = ..., version: _Optional[int] = ..., snapshot: bool = ...) -> None: ...
