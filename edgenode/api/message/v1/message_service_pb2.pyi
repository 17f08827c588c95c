from edgenode.api.message.v1 import message_pb2 as _message_pb2
from edgenode.api.problem.v1 import problem_pb2 as _problem_pb2
from edgenode.api.receipt.v1 import receipt_pb2 as _receipt_pb2
from google.protobuf.internal import containers as _containers
from google.protobuf.internal import enum_type_wrapper as _enum_type_wrapper
from google.protobuf import descriptor as _descriptor
from google.protobuf import message as _message
from collections.abc import Iterable as _Iterable, Mapping as _Mapping
from typing import ClassVar as _ClassVar, Optional as _Optional, Union as _Union

DESCRIPTOR: _descriptor.FileDescriptor

class StartPosition(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
    __slots__ = ()
    START_POSITION_UNSPECIFIED: _ClassVar[StartPosition]
    START_POSITION_NEW: _ClassVar[StartPosition]
    START_POSITION_START: _ClassVar[StartPosition]
    START_POSITION_CURSOR: _ClassVar[StartPosition]
START_POSITION_UNSPECIFIED: StartPosition
START_POSITION_NEW: StartPosition
START_POSITION_START: StartPosition
START_POSITION_CURSOR: StartPosition

class PublishRequest(_message.Message):
    __slots__ = ("producer_id", "first_sequence", "batch", "ack_level")
    PRODUCER_ID_FIELD_NUMBER: _ClassVar[int]
    FIRST_SEQUENCE_FIELD_NUMBER: _ClassVar[int]
    BATCH_FIELD_NUMBER: _ClassVar[int]
    ACK_LEVEL_FIELD_NUMBER: _ClassVar[int]
    producer_id: str
    first_sequence: int
    batch: _message_pb2.MessageBatch
    ack_level: _receipt_pb2.ReceiptLevel
    def __init__(self, producer_id: _Optional[str] = ..., first_sequence: _Optional[int] = ..., batch: _Optional[_Union[_message_pb2.MessageBatch, _Mapping]] = ..., ack_level: _Optional[_Union[_receipt_pb2.ReceiptLevel, str]] = ...) -> None: ...

class PublishRejection(_message.Message):
    __slots__ = ("sequence", "problem")
    SEQUENCE_FIELD_NUMBER: _ClassVar[int]
    PROBLEM_FIELD_NUMBER: _ClassVar[int]
    sequence: int
    problem: _problem_pb2.Problem
    def __init__(self, sequence: _Optional[int] = ..., problem: _Optional[_Union[_problem_pb2.Problem, _Mapping]] = ...) -> None: ...

class PublishResponse(_message.Message):
    __slots__ = ("durable_local_sequence", "durable_hub_sequence", "rejections", "epoch", "log_sequence", "resume_sequence")
    DURABLE_LOCAL_SEQUENCE_FIELD_NUMBER: _ClassVar[int]
    DURABLE_HUB_SEQUENCE_FIELD_NUMBER: _ClassVar[int]
    REJECTIONS_FIELD_NUMBER: _ClassVar[int]
    EPOCH_FIELD_NUMBER: _ClassVar[int]
    LOG_SEQUENCE_FIELD_NUMBER: _ClassVar[int]
    RESUME_SEQUENCE_FIELD_NUMBER: _ClassVar[int]
    durable_local_sequence: int
    durable_hub_sequence: int
    rejections: _containers.RepeatedCompositeFieldContainer[PublishRejection]
    epoch: str
    log_sequence: int
    resume_sequence: int
    def __init__(self, durable_local_sequence: _Optional[int] = ..., durable_hub_sequence: _Optional[int] = ..., rejections: _Optional[_Iterable[_Union[PublishRejection, _Mapping]]] = ..., epoch: _Optional[str] = ..., log_sequence: _Optional[int] = ..., resume_sequence: _Optional[int] = ...) -> None: ...

class SubscribeStart(_message.Message):
    __slots__ = ("topics", "subscription", "position", "after_sequence")
    TOPICS_FIELD_NUMBER: _ClassVar[int]
    SUBSCRIPTION_FIELD_NUMBER: _ClassVar[int]
    POSITION_FIELD_NUMBER: _ClassVar[int]
    AFTER_SEQUENCE_FIELD_NUMBER: _ClassVar[int]
    topics: _containers.RepeatedScalarFieldContainer[str]
    subscription: str
    position: StartPosition
    after_sequence: int
    def __init__(self, topics: _Optional[_Iterable[str]] = ..., subscription: _Optional[str] = ..., position: _Optional[_Union[StartPosition, str]] = ..., after_sequence: _Optional[int] = ...) -> None: ...

class SubscribeRequest(_message.Message):
    __slots__ = ("start", "ack_sequence", "credit_count")
    START_FIELD_NUMBER: _ClassVar[int]
    ACK_SEQUENCE_FIELD_NUMBER: _ClassVar[int]
    CREDIT_COUNT_FIELD_NUMBER: _ClassVar[int]
    start: SubscribeStart
    ack_sequence: int
    credit_count: int
    def __init__(self, start: _Optional[_Union[SubscribeStart, _Mapping]] = ..., ack_sequence: _Optional[int] = ..., credit_count: _Optional[int] = ...) -> None: ...

class MessageGap(_message.Message):
    __slots__ = ("first_sequence", "last_sequence", "reason")
    FIRST_SEQUENCE_FIELD_NUMBER: _ClassVar[int]
    LAST_SEQUENCE_FIELD_NUMBER: _ClassVar[int]
    REASON_FIELD_NUMBER: _ClassVar[int]
    first_sequence: int
    last_sequence: int
    reason: str
    def __init__(self, first_sequence: _Optional[int] = ..., last_sequence: _Optional[int] = ..., reason: _Optional[str] = ...) -> None: ...

class SubscribeResponse(_message.Message):
    __slots__ = ("messages", "gap", "scanned_sequence")
    MESSAGES_FIELD_NUMBER: _ClassVar[int]
    GAP_FIELD_NUMBER: _ClassVar[int]
    SCANNED_SEQUENCE_FIELD_NUMBER: _ClassVar[int]
    messages: _containers.RepeatedCompositeFieldContainer[_message_pb2.ReceivedMessage]
    gap: MessageGap
    scanned_sequence: int
    def __init__(self, messages: _Optional[_Iterable[_Union[_message_pb2.ReceivedMessage, _Mapping]]] = ..., gap: _Optional[_Union[MessageGap, _Mapping]] = ..., scanned_sequence: _Optional[int] = ...) -> None: ...
