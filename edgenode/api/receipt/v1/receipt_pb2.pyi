import datetime

from google.protobuf import timestamp_pb2 as _timestamp_pb2
from google.protobuf.internal import enum_type_wrapper as _enum_type_wrapper
from google.protobuf import descriptor as _descriptor
from google.protobuf import message as _message
from collections.abc import Mapping as _Mapping
from typing import ClassVar as _ClassVar, Optional as _Optional, Union as _Union

DESCRIPTOR: _descriptor.FileDescriptor

class ReceiptLevel(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
    __slots__ = ()
    RECEIPT_LEVEL_UNSPECIFIED: _ClassVar[ReceiptLevel]
    RECEIPT_LEVEL_ACCEPTED: _ClassVar[ReceiptLevel]
    RECEIPT_LEVEL_DURABLE_LOCAL: _ClassVar[ReceiptLevel]
    RECEIPT_LEVEL_DURABLE_HUB: _ClassVar[ReceiptLevel]
    RECEIPT_LEVEL_DELIVERED: _ClassVar[ReceiptLevel]
    RECEIPT_LEVEL_DONE: _ClassVar[ReceiptLevel]
RECEIPT_LEVEL_UNSPECIFIED: ReceiptLevel
RECEIPT_LEVEL_ACCEPTED: ReceiptLevel
RECEIPT_LEVEL_DURABLE_LOCAL: ReceiptLevel
RECEIPT_LEVEL_DURABLE_HUB: ReceiptLevel
RECEIPT_LEVEL_DELIVERED: ReceiptLevel
RECEIPT_LEVEL_DONE: ReceiptLevel

class Receipt(_message.Message):
    __slots__ = ("level", "node", "epoch", "sequence", "commit_time")
    LEVEL_FIELD_NUMBER: _ClassVar[int]
    NODE_FIELD_NUMBER: _ClassVar[int]
    EPOCH_FIELD_NUMBER: _ClassVar[int]
    SEQUENCE_FIELD_NUMBER: _ClassVar[int]
    COMMIT_TIME_FIELD_NUMBER: _ClassVar[int]
    level: ReceiptLevel
    node: str
    epoch: str
    sequence: int
    commit_time: _timestamp_pb2.Timestamp
    def __init__(self, level: _Optional[_Union[ReceiptLevel, str]] = ..., node: _Optional[str] = ..., epoch: _Optional[str] = ..., sequence: _Optional[int] = ..., commit_time: _Optional[_Union[datetime.datetime, _timestamp_pb2.Timestamp, _Mapping]] = ...) -> None: ...
