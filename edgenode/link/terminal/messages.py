"""Received messages as lines: for people, or one JSON object each."""

from __future__ import annotations

import base64
import json
import time
from dataclasses import dataclass
from typing import Any

from edgenode.link.terminal.output import clean, json_text


@dataclass(frozen=True, slots=True)
class Shown:
    """What is shown of a message. `accept_time` is wall clock, seconds."""

    topic: str
    key: str
    payload: bytes
    content_type: str
    sequence: int
    origin_node: str
    origin_epoch: str
    origin_sequence: int
    accept_time: float


def message_line(message: Shown) -> str:
    """`12:00:01  north/17  device.cpu  {"load": 0.5}`."""
    clock = time.strftime("%H:%M:%S", time.localtime(message.accept_time))
    body = message.payload.decode(errors="replace")
    return clean(f"{clock}  {message.origin_node}/{message.origin_sequence}  {message.topic}  {body}")


def message_json(message: Shown) -> str:
    """All facts on one line; the payload as the JSON it is, else as text, else as `{"base64": ...}`."""
    facts = {
        "topic": message.topic,
        "key": message.key,
        "sequence": message.sequence,
        "origin_node": message.origin_node,
        "origin_epoch": message.origin_epoch,
        "origin_sequence": message.origin_sequence,
        "accept_time": message.accept_time,
        "content_type": message.content_type or "application/json",
        "payload": _payload(message.payload, message.content_type),
    }
    return json_text(facts, indent=None)


def gap_line(first: int, last: int, reason: str) -> str:
    """What is said of messages that are gone."""
    return f"messages {first} to {last} are gone: {reason}"


def _payload(data: bytes, content_type: str) -> Any:
    try:
        text = data.decode()
    except UnicodeDecodeError:
        return {"base64": base64.b64encode(data).decode()}
    if content_type and "json" not in content_type:
        return text
    try:
        return json.loads(text)
    except ValueError:
        return text
