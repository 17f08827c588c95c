"""The fleet's registry as its parent is told of it."""

from __future__ import annotations

import logging

from edgenode.api.registry.v1 import registry_pb2
from edgenode.link.model.names import MAX_TREE_DEPTH, below
from edgenode.link.protocol.registry import RegistryLog
from hub.services.view import FleetView, KnownAgent

MAX_TOMBSTONES = 4096  # kept for a parent that is out of reach

_log = logging.getLogger(__name__)


class UpwardRegistry:
    """The fleet's agents as the parent is told of them. `follow` brings the log up to date with the view.

    Incarnations are numbered here: the parent compares what this hub says, not what its agents say.
    """

    def __init__(self, view: FleetView, child: str, epoch: str) -> None:
        self._view = view
        self._child = child
        self._seen = -1
        self._too_deep: set[str] = set()
        self._removed = 0  # tombstones made since they were last forgotten
        self.log = RegistryLog(epoch)

    def follow(self) -> bool:
        """Whether there was anything new."""
        before = self.log.version
        changes = self._view.changes_after(self._seen)
        self._seen = self._view.version
        names = {change.name for change in changes} if changes is not None else set(self._view.names())
        if changes is None:
            known = {entry.name for entry in self.log.entries()}
            for gone in known - {below(self._child, name) for name in names}:
                self._remove(gone)
        for name in names:
            self._put(below(self._child, name), self._view.agent(name))
        if self._removed > MAX_TOMBSTONES:
            self._removed = 0
            self.log.acked(self.log.version)  # a parent that is behind gets a snapshot
        return self.log.version > before

    def _remove(self, name: str) -> None:
        self.log.remove(name, self.log.version + 1)
        self._removed += 1

    def _put(self, name: str, agent: KnownAgent | None) -> None:
        known = self.log.get(name)
        if agent is None:
            if known is not None:
                self._remove(name)
            return
        if name.count("/") - 2 > MAX_TREE_DEPTH:
            if name not in self._too_deep:
                self._too_deep.add(name)
                _log.warning("%s is too deep in the tree for the parent", agent.view.name)
            return
        message = registry_pb2.Agent.FromString(agent.payload)
        message.name = name
        message.version = 0
        message.runtime.incarnation = 0
        health = self._view.health(agent)
        if int(health) != int(message.runtime.health):
            message.runtime.health = int(health)  # type: ignore[assignment]  # the numbers are the contract's
            message.runtime.health_reason = f"{agent.node} is out of reach"
        payload = message.SerializeToString(deterministic=True)
        if known is None or known.payload != payload:
            self.log.put(name, self.log.version + 1, payload)
