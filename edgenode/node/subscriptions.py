"""Subscriptions to the messages of this node. A durable one is a consumer of the log, kept until it has acknowledged."""

from __future__ import annotations

import sqlite3
from collections.abc import Callable

from edgenode.link.store import logs
from edgenode.link.store.database import Database
from edgenode.link.store.retention import Retention
from edgenode.link.wire.subscriptions import Stretch, start_after, subscription_in_use
from edgenode.node.message_log import LOG_NAME, MessageLog

CONSUMER_PREFIX = "sub/"


class LogSubscriptions:
    """`edgenode.link.wire.subscriptions.MessageSource` over the node's log."""

    def __init__(self, database: Database, log: MessageLog, node: str, retention: Retention) -> None:
        self._database = database
        self._log = log
        self._node = node
        self._retention = retention
        self._attached: set[str] = set()
        self._listeners: list[Callable[[], None]] = []
        log.on_append.append(self._appended)

    @property
    def node(self) -> str:
        """See MessageSource."""
        return self._node

    @property
    def attached(self) -> frozenset[str]:
        """Names that a stream holds now."""
        return frozenset(self._attached)

    async def attach(self, subscription: str, position: int, after: int) -> int:
        """See MessageSource."""
        if subscription:
            if subscription in self._attached:
                raise subscription_in_use(subscription)
            self._attached.add(subscription)
        try:
            return await self._cursor(subscription, position, after)
        except BaseException:
            self.detach(subscription)
            raise

    async def _cursor(self, subscription: str, position: int, after: int) -> int:
        name = CONSUMER_PREFIX + subscription
        log_id = self._log.log_id

        def run(connection: sqlite3.Connection) -> int:
            known = logs.consumers(connection, log_id).get(name) if subscription else None
            if known is not None:
                return known
            state = logs.log_state(connection, LOG_NAME)
            cursor = start_after(position, after, state.first, state.last)
            if subscription:
                logs.ensure_consumer(connection, log_id, name, cursor)
            return cursor

        return await (self._database.write(run) if subscription else self._database.read(run))

    def detach(self, subscription: str) -> None:
        """See MessageSource."""
        self._attached.discard(subscription)

    async def read(self, after: int, max_count: int, max_bytes: int) -> Stretch:
        """See MessageSource."""
        return await self._log.read(after, max_count, max_bytes)

    async def acknowledge(self, subscription: str, sequence: int) -> None:
        """See MessageSource."""

        def run(connection: sqlite3.Connection) -> None:
            if logs.acknowledge(connection, self._log.log_id, CONSUMER_PREFIX + subscription, sequence):
                self._retention.trim(connection, self._log.log_id)

        await self._database.write(run)

    def listen(self, wake: Callable[[], None]) -> None:
        """See MessageSource."""
        self._listeners.append(wake)

    def unlisten(self, wake: Callable[[], None]) -> None:
        """See MessageSource."""
        self._listeners.remove(wake)

    def _appended(self, last: int) -> None:
        for wake in self._listeners:
            wake()
