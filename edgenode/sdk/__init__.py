"""Writing agents and using a node from Python. Everything is imported on first use, so importing this costs nothing."""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from edgenode.link import errors
    from edgenode.link.model.blob import BlobRef
    from edgenode.link.model.task import Level, OnLost, RetryPolicy, Scope, TaskState
    from edgenode.sdk.agent import Agent
    from edgenode.sdk.client import Client
    from edgenode.sdk.context import Context
    from edgenode.sdk.encoding import Payload
    from edgenode.sdk.handle import TaskHandle, TaskUpdate
    from edgenode.sdk.publisher import Receipt
    from edgenode.sdk.skill import SkillClient
    from edgenode.sdk.subscription import Received

_HOMES = {
    "Agent": "edgenode.sdk.agent",
    "BlobRef": "edgenode.link.model.blob",
    "Client": "edgenode.sdk.client",
    "Context": "edgenode.sdk.context",
    "Level": "edgenode.link.model.task",
    "OnLost": "edgenode.link.model.task",
    "Payload": "edgenode.sdk.encoding",
    "Receipt": "edgenode.sdk.publisher",
    "Received": "edgenode.sdk.subscription",
    "RetryPolicy": "edgenode.link.model.task",
    "Scope": "edgenode.link.model.task",
    "SkillClient": "edgenode.sdk.skill",
    "TaskHandle": "edgenode.sdk.handle",
    "TaskState": "edgenode.link.model.task",
    "TaskUpdate": "edgenode.sdk.handle",
}

__all__ = [
    "Agent",
    "BlobRef",
    "Client",
    "Context",
    "Level",
    "OnLost",
    "Payload",
    "Receipt",
    "Received",
    "RetryPolicy",
    "Scope",
    "SkillClient",
    "TaskHandle",
    "TaskState",
    "TaskUpdate",
    "errors",
]


def __getattr__(name: str) -> Any:
    if name == "errors":
        return import_module("edgenode.link.errors")
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(_HOMES[name]), name)
