"""The rooms of a running node, together."""

from __future__ import annotations

from dataclasses import dataclass

from edgenode.link.blobs.room import Blobs
from edgenode.link.store.database import Database
from edgenode.node.desired import DesiredStates
from edgenode.node.message_log import MessageLog
from edgenode.node.mounts import Mounts
from edgenode.node.registry import AgentRegistry
from edgenode.node.subscriptions import LogSubscriptions
from edgenode.node.tasks import TaskEngine


@dataclass(frozen=True, slots=True)
class Rooms:
    """What the composition made; the services and the link are built on it."""

    database: Database
    registry: AgentRegistry
    messages: MessageLog
    subscriptions: LogSubscriptions
    engine: TaskEngine
    desired: DesiredStates
    mounts: Mounts
    blobs: Blobs
