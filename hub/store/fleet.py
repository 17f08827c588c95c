"""Nodes, their registries and desired states in SQLite."""

from __future__ import annotations

import re
import sqlite3
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import replace

import msgspec

from edgenode.link.model.lanes import Lane, Rejection, Segment
from edgenode.link.store import logs
from edgenode.link.store.database import Database
from edgenode.link.store.outbox import OnRejected, SqliteOutbox, Tell
from edgenode.link.store.retention import Retention, holding
from hub.store import restating
from hub.store.dead_letters import LetterKeeper
from hub.store.records import PARENT, AgentRow, DesiredRow, NodeRow, SignedDocument
from hub.store.schema import MESSAGE_LOG
from hub.store.tasks import task_log

# A word of free text; everything else would be syntax to FTS5.
_WORD = re.compile(r"[\w-]+")
_SEARCH_LIMIT = 10_000
# What one transaction looks at when it lets go of what nodes acknowledged long ago.
_TRIM_LOGS = 50
_TRIM_SEGMENTS = 100
_ALL_BYTES = 1 << 62
UP_LOGS = {Lane.TASK: task_log(PARENT), Lane.MESSAGE: MESSAGE_LOG}
# Former processes of a node that are known again when they speak. One that was replaced more often is taken for a new one,
# and then it is the present one that comes back after another.
KEPT_PROCESSES = 16


def control_log(node: str) -> str:
    """Name of the log of control entries for a node."""
    return f"down/{node}/control"


def down_logs(node: str) -> dict[Lane, str]:
    """The logs the hub keeps for a node."""
    return {Lane.CONTROL: control_log(node), Lane.TASK: task_log(node)}


Retell = Callable[[bytes, int, Callable[[str, int], bool]], bytes]
"""From a segment's payload, how many of its entries the node had before, and whether a grant (task, fence) is in force."""


def _teller(node: str, retell: Retell) -> Tell:
    def tell(connection: sqlite3.Connection, lane: Lane, segment: Segment, known: int) -> Segment:
        if lane is not Lane.TASK:
            return segment
        payload = retell(
            segment.payload, known, lambda task_id, fence: restating.in_force(connection, node, task_id, fence)
        )
        return replace(segment, payload=payload)

    return tell


class SqliteFleetStore:
    """hub.store.ports.FleetStore."""

    def __init__(
        self,
        database: Database,
        new_epoch: Callable[[], str],
        keeper: LetterKeeper,
        retention: Retention | None = None,
        retell: Retell | None = None,
    ) -> None:
        """`keeper` keeps what nodes would not take; `retention` is what the log of each lane of each node keeps of what the
        node acknowledged; `retell` is how task entries are told to a node that had them before and has forgotten them."""
        self._retell = retell
        self._database = database
        self._new_epoch = new_epoch
        self._keeper = keeper
        self._retention = retention or Retention()

    async def prepare(self) -> None:
        """Open the logs of all nodes for this process: under epochs of its own, see `logs.open_log`."""

        def run(connection: sqlite3.Connection) -> None:
            for (name,) in connection.execute("SELECT name FROM log WHERE name LIKE 'down/%'").fetchall():
                logs.open_log(connection, name, self._new_epoch())

        await self._database.write(run)

    async def trim(self) -> None:
        """See FleetStore."""
        after = 0

        def run(connection: sqlite3.Connection) -> int:
            found = holding(connection, after, _TRIM_LOGS)
            for log_id in found:
                (name,) = connection.execute("SELECT name FROM log WHERE log_id = ?", (log_id,)).fetchone()
                if name != MESSAGE_LOG:  # it has a rule of its own
                    self._retention.trim(connection, log_id, _TRIM_SEGMENTS)
            return found[-1] if len(found) == _TRIM_LOGS else 0

        while after := await self._database.write(run):
            pass

    async def nodes(self) -> Sequence[NodeRow]:
        """See FleetStore."""
        return await self._database.read(
            lambda connection: [NodeRow(*row) for row in connection.execute(f"{_SELECT_NODE} ORDER BY node")]
        )

    async def agents(self) -> Sequence[AgentRow]:
        """See FleetStore."""
        query = "SELECT node, name, incarnation, version, payload FROM agent ORDER BY name"
        return await self._database.read(lambda connection: [AgentRow(*row) for row in connection.execute(query)])

    def outbox(self, node: str) -> SqliteOutbox:
        """The logs for a node; entries the node rejects become dead letters."""

        lanes = down_logs(node)
        retention = dict.fromkeys(lanes, self._retention)
        tell = None if self._retell is None else _teller(node, self._retell)
        keep = self._keep_rejected(node, lanes)
        return SqliteOutbox(self._database, lanes, node, self._new_epoch, keep, retention, tell)

    def _keep_rejected(self, node: str, lanes: Mapping[Lane, str]) -> OnRejected:
        """Keeps what `node` would not take of these logs."""

        def keep(connection: sqlite3.Connection, lane: Lane, rejections: Sequence[Rejection]) -> None:
            self._keeper.keep_rejected(connection, node, lane, lanes[lane], rejections)

        return keep

    async def parent_outbox(self) -> SqliteOutbox:
        """The logs for the parent, made if they are missing: its task log, and the one message log of which it is a consumer.

        What the message log let go before counts as BEFORE_JOIN; it is trimmed by its own rule, not by acknowledgements.
        """
        keep = self._keep_rejected(PARENT, UP_LOGS)
        retention = {Lane.TASK: self._retention, Lane.MESSAGE: Retention(_ALL_BYTES)}
        outbox = SqliteOutbox(self._database, UP_LOGS, PARENT, self._new_epoch, keep, retention)

        def run(connection: sqlite3.Connection) -> None:
            for name in UP_LOGS.values():
                logs.open_log(connection, name, self._new_epoch())
            outbox.ensure(connection)

        await self._database.write(run)
        return outbox

    async def forget_parent(self) -> None:
        """There is no parent, or no more: nothing is kept for it."""

        def run(connection: sqlite3.Connection) -> None:
            for name in UP_LOGS.values():
                row = connection.execute("SELECT log_id FROM log WHERE name = ?", (name,)).fetchone()
                if row is not None:
                    logs.remove_consumer(connection, row[0], PARENT)

        await self._database.write(run)

    async def open_session(
        self,
        node: str,
        boot_id: str,
        generation: int,
        software: str,
        now: float,
        hub: str = "",
        tasks: restating.TaskLane | None = None,
    ) -> NodeRow | None:
        """See FleetStore."""
        epochs = [self._new_epoch() for _ in down_logs(node)]
        restate_id = self._new_epoch()

        def run(connection: sqlite3.Connection) -> NodeRow | None:
            if _outdated(connection, node, boot_id):
                return None
            connection.execute(
                "INSERT INTO node (node, fence, boot_id, generation, software, last_contact, hub)"
                " VALUES (?, 1, ?, ?, ?, ?, ?) ON CONFLICT DO UPDATE SET fence = fence + 1, boot_id = excluded.boot_id,"
                " generation = excluded.generation, software = excluded.software, last_contact = excluded.last_contact,"
                " hub = excluded.hub",
                (node, boot_id, generation, software, now, hub),
            )
            for name, epoch in zip(down_logs(node).values(), epochs, strict=True):
                log = logs.ensure_log(connection, name, epoch)
                logs.ensure_consumer(connection, log.log_id, node, log.first - 1)
            if tasks is not None:
                restating.note(connection, node, task_log(node), tasks, now, restate_id)
            return NodeRow(*connection.execute(f"{_SELECT_NODE} WHERE node = ?", (node,)).fetchone())

        return await self._database.write(run)

    async def forget_processes(self, node: str, boot_id: str | None = None) -> None:
        """See FleetStore."""

        def run(connection: sqlite3.Connection) -> None:
            if boot_id is not None:
                connection.execute("DELETE FROM former_process WHERE node = ? AND boot_id = ?", (node, boot_id))
                return
            connection.execute("DELETE FROM former_process WHERE node = ?", (node,))
            connection.execute("UPDATE node SET boot_id = '' WHERE node = ?", (node,))

        await self._database.write(run)

    async def lacks_tasks(self, node: str, tasks: restating.TaskLane, now: float) -> tuple[bool, bool]:
        """See FleetStore."""
        return await self._database.write(
            lambda connection: restating.lacks(connection, node, task_log(node), tasks, now)
        )

    async def settled(self, node: str, restate_id: str, highest_fence: int) -> int:
        """See FleetStore."""
        return await self._database.write(
            lambda connection: restating.settled(connection, node, restate_id, highest_fence)
        )

    async def give_up(self, nodes: Collection[str]) -> None:
        """See FleetStore."""

        def run(connection: sqlite3.Connection) -> None:
            for node in nodes:
                restating.give_up(connection, node)

        await self._database.write(run)

    async def fence_base(self) -> int:
        """See FleetStore."""
        return await self._database.read(restating.fence_base)

    async def touch(self, last_contacts: Mapping[str, float]) -> None:
        """See FleetStore."""
        rows = [(time, node) for node, time in last_contacts.items()]
        await self._database.write(
            lambda connection: connection.executemany("UPDATE node SET last_contact = ? WHERE node = ?", rows)
        )

    async def apply_registry(
        self, node: str, epoch: str, version: int, upserts: Sequence[AgentRow], removals: Sequence[str]
    ) -> None:
        """See FleetStore."""

        def run(connection: sqlite3.Connection) -> None:
            gone = [(name,) for name in (*removals, *(agent.name for agent in upserts))]
            connection.executemany(
                "DELETE FROM agent_text WHERE rowid = (SELECT agent_number FROM agent WHERE name = ?)", gone
            )
            connection.executemany("DELETE FROM agent WHERE name = ?", [(name,) for name in removals])
            for agent in upserts:
                number = connection.execute(
                    "INSERT INTO agent (name, node, incarnation, version, payload) VALUES (?, ?, ?, ?, ?)"
                    " ON CONFLICT (name) DO UPDATE SET node = excluded.node, incarnation = excluded.incarnation,"
                    " version = excluded.version, payload = excluded.payload RETURNING agent_number",
                    (agent.name, node, agent.incarnation, agent.version, agent.payload),
                ).fetchone()[0]
                connection.execute("INSERT INTO agent_text (rowid, text) VALUES (?, ?)", (number, agent.text))
            connection.execute(
                "UPDATE node SET registry_epoch = ?, registry_version = ? WHERE node = ?", (epoch, version, node)
            )

        await self._database.write(run)

    async def search(self, query: str) -> Mapping[str, float]:
        """See FleetStore."""
        words = _WORD.findall(query)
        if not words:
            return {}
        match = " OR ".join(f'"{word}"*' for word in words)

        def run(connection: sqlite3.Connection) -> dict[str, float]:
            return dict(
                connection.execute(
                    "SELECT name, -bm25(agent_text) FROM agent_text JOIN agent ON agent_number = agent_text.rowid"
                    " WHERE agent_text MATCH ? ORDER BY 2 DESC LIMIT ?",
                    (match, _SEARCH_LIMIT),
                ).fetchall()
            )

        scores = await self._database.read(run)
        # bm25 has no upper bound and may fall below zero in tiny collections; relevance is a share of the best.
        best = max(scores.values(), default=0.0)
        return {name: score / best if best > 0 and score > 0 else 0.0 for name, score in scores.items()}

    async def desired(self, node: str) -> DesiredRow:
        """See FleetStore."""
        return await self._database.read(lambda connection: _desired(connection, node))

    async def set_desired(self, node: str, sign: Callable[[int], SignedDocument]) -> SignedDocument:
        """See FleetStore."""

        def run(connection: sqlite3.Connection) -> SignedDocument:
            # Above what the node has seen, too: a hub that was restored has forgotten versions it sent.
            row = connection.execute(
                "SELECT max(version, applied_version, refused_version) FROM desired_state WHERE node = ?", (node,)
            ).fetchone()
            signed = sign(1 if row is None else row[0] + 1)
            connection.execute(
                "INSERT INTO desired_state (node, version, document, signature, certificates) VALUES (?, ?, ?, ?, ?)"
                " ON CONFLICT DO UPDATE SET version = excluded.version, document = excluded.document,"
                " signature = excluded.signature, certificates = excluded.certificates",
                (node, signed.version, signed.document, signed.signature, msgspec.msgpack.encode(signed.certificates)),
            )
            return signed

        return await self._database.write(run)

    async def report_desired(self, node: str, applied: int, refused: int, problem: bytes) -> None:
        """See FleetStore."""
        await self._database.write(
            lambda connection: connection.execute(
                "INSERT INTO desired_state (node, applied_version, refused_version, problem) VALUES (?, ?, ?, ?)"
                " ON CONFLICT DO UPDATE SET applied_version = excluded.applied_version,"
                " refused_version = excluded.refused_version, problem = excluded.problem",
                (node, applied, refused, problem),
            )
        )


_SELECT_NODE = (
    "SELECT node, fence, boot_id, generation, software, last_contact, registry_epoch, registry_version, hub, restate_id"
    " FROM node"
)


def _outdated(connection: sqlite3.Connection, node: str, boot_id: str) -> bool:
    """Whether another process took over from this one; if it is new, it takes over now."""
    row = connection.execute("SELECT boot_id, fence FROM node WHERE node = ?", (node,)).fetchone()
    if row is None or row[0] == boot_id:
        return False
    former = "SELECT 1 FROM former_process WHERE node = ? AND boot_id = ?"
    if connection.execute(former, (node, boot_id)).fetchone() is not None:
        return True
    if row[0]:
        connection.execute("INSERT INTO former_process VALUES (?, ?, ?)", (node, *row))
        connection.execute(
            "DELETE FROM former_process WHERE node = :node AND boot_id NOT IN"
            " (SELECT boot_id FROM former_process WHERE node = :node ORDER BY fence DESC LIMIT :kept)",
            {"node": node, "kept": KEPT_PROCESSES},
        )
    return False


def _desired(connection: sqlite3.Connection, node: str) -> DesiredRow:
    row = connection.execute(
        "SELECT version, document, signature, certificates, applied_version, refused_version, problem"
        " FROM desired_state WHERE node = ?",
        (node,),
    ).fetchone()
    if row is None:
        return DesiredRow(None)
    version, document, signature, certificates, *report = row
    if not version:
        return DesiredRow(None, *report)
    chain = msgspec.msgpack.decode(certificates, type=tuple[bytes, ...])
    return DesiredRow(SignedDocument(version, document, signature, chain), *report)
