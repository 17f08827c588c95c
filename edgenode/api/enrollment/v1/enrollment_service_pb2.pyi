import datetime

from google.protobuf import timestamp_pb2 as _timestamp_pb2
from google.protobuf import descriptor as _descriptor
from google.protobuf import message as _message
from collections.abc import Mapping as _Mapping
from typing import ClassVar as _ClassVar, Optional as _Optional, Union as _Union

DESCRIPTOR: _descriptor.FileDescriptor

class GetTrustBundleRequest(_message.Message):
    __slots__ = ()
    def __init__(self) -> None: ...

class GetTrustBundleResponse(_message.Message):
    __slots__ = ("trust_domain", "root_certificate", "edge_ca_certificate", "hub_ca_certificate")
    TRUST_DOMAIN_FIELD_NUMBER: _ClassVar[int]
    ROOT_CERTIFICATE_FIELD_NUMBER: _ClassVar[int]
    EDGE_CA_CERTIFICATE_FIELD_NUMBER: _ClassVar[int]
    HUB_CA_CERTIFICATE_FIELD_NUMBER: _ClassVar[int]
    trust_domain: str
    root_certificate: bytes
    edge_ca_certificate: bytes
    hub_ca_certificate: bytes
    def __init__(self, trust_domain: _Optional[str] = ..., root_certificate: _Optional[bytes] = ..., edge_ca_certificate: _Optional[bytes] = ..., hub_ca_certificate: _Optional[bytes] = ...) -> None: ...

class EnrollRequest(_message.Message):
    __slots__ = ("token_id", "secret", "csr")
    TOKEN_ID_FIELD_NUMBER: _ClassVar[int]
    SECRET_FIELD_NUMBER: _ClassVar[int]
    CSR_FIELD_NUMBER: _ClassVar[int]
    token_id: str
    secret: bytes
    csr: bytes
    def __init__(self, token_id: _Optional[str] = ..., secret: _Optional[bytes] = ..., csr: _Optional[bytes] = ...) -> None: ...

class EnrollResponse(_message.Message):
    __slots__ = ("node", "certificate", "hub", "generation", "sync_port", "expire_time")
    NODE_FIELD_NUMBER: _ClassVar[int]
    CERTIFICATE_FIELD_NUMBER: _ClassVar[int]
    HUB_FIELD_NUMBER: _ClassVar[int]
    GENERATION_FIELD_NUMBER: _ClassVar[int]
    SYNC_PORT_FIELD_NUMBER: _ClassVar[int]
    EXPIRE_TIME_FIELD_NUMBER: _ClassVar[int]
    node: str
    certificate: bytes
    hub: str
    generation: int
    sync_port: int
    expire_time: _timestamp_pb2.Timestamp
    def __init__(self, node: _Optional[str] = ..., certificate: _Optional[bytes] = ..., hub: _Optional[str] = ..., generation: _Optional[int] = ..., sync_port: _Optional[int] = ..., expire_time: _Optional[_Union[datetime.datetime, _timestamp_pb2.Timestamp, _Mapping]] = ...) -> None: ...

class RenewRequest(_message.Message):
    __slots__ = ("certificate", "csr", "proof", "generation")
    CERTIFICATE_FIELD_NUMBER: _ClassVar[int]
    CSR_FIELD_NUMBER: _ClassVar[int]
    PROOF_FIELD_NUMBER: _ClassVar[int]
    GENERATION_FIELD_NUMBER: _ClassVar[int]
    certificate: bytes
    csr: bytes
    proof: bytes
    generation: int
    def __init__(self, certificate: _Optional[bytes] = ..., csr: _Optional[bytes] = ..., proof: _Optional[bytes] = ..., generation: _Optional[int] = ...) -> None: ...

class RenewResponse(_message.Message):
    __slots__ = ("certificate", "generation", "expire_time")
    CERTIFICATE_FIELD_NUMBER: _ClassVar[int]
    GENERATION_FIELD_NUMBER: _ClassVar[int]
    EXPIRE_TIME_FIELD_NUMBER: _ClassVar[int]
    certificate: bytes
    generation: int
    expire_time: _timestamp_pb2.Timestamp
    def __init__(self, certificate: _Optional[bytes] = ..., generation: _Optional[int] = ..., expire_time: _Optional[_Union[datetime.datetime, _timestamp_pb2.Timestamp, _Mapping]] = ...) -> None: ...
