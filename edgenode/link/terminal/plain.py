"""The contract's messages as plain values for tables and JSON.

Keys are those of the contract and always there. Enums become their short name (`READY`), timestamps seconds since 1970,
durations seconds, bytes text (or `{"base64": ...}` where they are no UTF-8); messages that are not set become null.
Unlike protobuf's own JSON, 64-bit numbers stay numbers.
"""

from __future__ import annotations

import base64
from typing import Any

from google.protobuf.descriptor import EnumDescriptor
from google.protobuf.message import Message


def plain(message: Message) -> dict[str, Any]:
    """`message` as a dictionary."""
    return {field.name: _field(message, field) for field in message.DESCRIPTOR.fields}


def short_enum(descriptor: EnumDescriptor, number: int) -> str:
    """`READY` for HEALTH_READY; empty for the unspecified value; the number itself where a newer side sent an unknown one."""
    if number == 0:
        return ""
    value = descriptor.values_by_number.get(number)
    if value is None:
        return str(number)
    prefix = descriptor.values_by_number[0].name.removesuffix("UNSPECIFIED")
    return value.name.removeprefix(prefix)


def _field(message: Message, field: Any) -> Any:
    value = getattr(message, field.name)
    if field.is_repeated:
        entry = field.message_type
        if entry is not None and entry.GetOptions().map_entry:
            values = entry.fields_by_name["value"]
            return {str(key): _value(value[key], values) for key in sorted(value)}
        return [_value(item, field) for item in value]
    if field.has_presence and not message.HasField(field.name):
        return None
    return _value(value, field)


def _value(value: Any, field: Any) -> Any:
    if field.message_type is not None:
        if field.message_type.full_name in ("google.protobuf.Timestamp", "google.protobuf.Duration"):
            return value.seconds + value.nanos / 1e9
        return plain(value)
    if field.enum_type is not None:
        return short_enum(field.enum_type, value)
    if isinstance(value, bytes):
        try:
            return value.decode()
        except UnicodeDecodeError:
            return {"base64": base64.b64encode(value).decode()}
    return value
