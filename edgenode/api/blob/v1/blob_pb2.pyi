import datetime

from google.protobuf import timestamp_pb2 as _timestamp_pb2
from google.protobuf.internal import enum_type_wrapper as _enum_type_wrapper
from google.protobuf import descriptor as _descriptor
from google.protobuf import message as _message
from collections.abc import Mapping as _Mapping
from typing import ClassVar as _ClassVar, Optional as _Optional, Union as _Union

DESCRIPTOR: _descriptor.FileDescriptor

class BlobState(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
    __slots__ = ()
    BLOB_STATE_UNSPECIFIED: _ClassVar[BlobState]
    BLOB_STATE_WHOLE: _ClassVar[BlobState]
    BLOB_STATE_PARTIAL: _ClassVar[BlobState]
    BLOB_STATE_ELSEWHERE: _ClassVar[BlobState]
    BLOB_STATE_DAMAGED: _ClassVar[BlobState]
BLOB_STATE_UNSPECIFIED: BlobState
BLOB_STATE_WHOLE: BlobState
BLOB_STATE_PARTIAL: BlobState
BLOB_STATE_ELSEWHERE: BlobState
BLOB_STATE_DAMAGED: BlobState

class BlobRef(_message.Message):
    __slots__ = ("digest", "size", "media_type", "name")
    DIGEST_FIELD_NUMBER: _ClassVar[int]
    SIZE_FIELD_NUMBER: _ClassVar[int]
    MEDIA_TYPE_FIELD_NUMBER: _ClassVar[int]
    NAME_FIELD_NUMBER: _ClassVar[int]
    digest: str
    size: int
    media_type: str
    name: str
    def __init__(self, digest: _Optional[str] = ..., size: _Optional[int] = ..., media_type: _Optional[str] = ..., name: _Optional[str] = ...) -> None: ...

class Blob(_message.Message):
    __slots__ = ("ref", "state", "stored_bytes", "task_count", "put_time", "peer")
    REF_FIELD_NUMBER: _ClassVar[int]
    STATE_FIELD_NUMBER: _ClassVar[int]
    STORED_BYTES_FIELD_NUMBER: _ClassVar[int]
    TASK_COUNT_FIELD_NUMBER: _ClassVar[int]
    PUT_TIME_FIELD_NUMBER: _ClassVar[int]
    PEER_FIELD_NUMBER: _ClassVar[int]
    ref: BlobRef
    state: BlobState
    stored_bytes: int
    task_count: int
    put_time: _timestamp_pb2.Timestamp
    peer: str
    def __init__(self, ref: _Optional[_Union[BlobRef, _Mapping]] = ..., state: _Optional[_Union[BlobState, str]] = ..., stored_bytes: _Optional[int] = ..., task_count: _Optional[int] = ..., put_time: _Optional[_Union[datetime.datetime, _timestamp_pb2.Timestamp, _Mapping]] = ..., peer: _Optional[str] = ...) -> None: ...
