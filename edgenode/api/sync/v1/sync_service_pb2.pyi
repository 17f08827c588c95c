from edgenode.api.sync.v1 import sync_pb2 as _sync_pb2
from google.protobuf.internal import containers as _containers
from google.protobuf import descriptor as _descriptor
from google.protobuf import message as _message
from collections.abc import Iterable as _Iterable, Mapping as _Mapping
from typing import ClassVar as _ClassVar, Optional as _Optional, Union as _Union

DESCRIPTOR: _descriptor.FileDescriptor

class SyncRequest(_message.Message):
    __slots__ = ("frames",)
    FRAMES_FIELD_NUMBER: _ClassVar[int]
    frames: _containers.RepeatedCompositeFieldContainer[_sync_pb2.Frame]
    def __init__(self, frames: _Optional[_Iterable[_Union[_sync_pb2.Frame, _Mapping]]] = ...) -> None: ...

class SyncResponse(_message.Message):
    __slots__ = ("frames",)
    FRAMES_FIELD_NUMBER: _ClassVar[int]
    frames: _containers.RepeatedCompositeFieldContainer[_sync_pb2.Frame]
    def __init__(self, frames: _Optional[_Iterable[_Union[_sync_pb2.Frame, _Mapping]]] = ...) -> None: ...
