"""Join tokens and node identities in SQLite; `hub.ca.lifecycle` says what becomes of a record.

A refusal leaves a transaction as a value and is raised outside it: raised inside, it would undo and repeat the whole group
commit, and strangers with wrong tokens could slow down everybody else's writes.
"""

from __future__ import annotations

import dataclasses
import hmac
import sqlite3
from collections.abc import Callable, Sequence
from typing import TypeVar

from edgenode.link.errors import EdgenodeError, NotFound, PermissionDenied, Unauthenticated
from edgenode.link.store.database import Database
from hub.ca import lifecycle
from hub.ca.ports import Issue, IssuedCertificate, NodeRecord, TokenRecord

# The spent token's certificate is kept until the token's end, so that a lost response can be asked for again.
SCHEMA = """
CREATE TABLE join_token (
    token_id TEXT PRIMARY KEY,
    node TEXT NOT NULL,
    secret_hash BLOB NOT NULL,
    create_time REAL NOT NULL,
    expire_time REAL NOT NULL,
    rejoin INTEGER NOT NULL,
    claimed_serial TEXT
) STRICT, WITHOUT ROWID;
CREATE INDEX join_token_expiry ON join_token (expire_time);
CREATE INDEX join_token_node ON join_token (node);
CREATE TABLE node_certificate (
    serial TEXT PRIMARY KEY,
    node TEXT NOT NULL,
    certificate BLOB NOT NULL,
    public_key_hash BLOB NOT NULL,
    not_before REAL NOT NULL,
    expire_time REAL NOT NULL
) STRICT, WITHOUT ROWID;
CREATE INDEX node_certificate_node ON node_certificate (node);
CREATE TABLE node_identity (
    node TEXT PRIMARY KEY,
    joined_time REAL NOT NULL,
    revoked INTEGER NOT NULL,
    current_serial TEXT NOT NULL,
    pending_serial TEXT,
    quarantine_time REAL
) STRICT, WITHOUT ROWID;
"""

# Spent and expired tokens stay this long, so that a late try is told what happened to its token.
KEEP_EXPIRED_SECONDS = 30 * 86_400.0
_SWEEP_COUNT = 100

_T = TypeVar("_T")


class SqliteEnrollmentStore:
    """See hub.ca.ports.EnrollmentStore."""

    def __init__(self, database: Database) -> None:
        self._database = database

    async def create_token(self, token: TokenRecord) -> None:
        """See EnrollmentStore."""

        def create(connection: sqlite3.Connection) -> None:
            if not token.rejoin and _read_node(connection, token.node) is not None:
                raise lifecycle.node_exists(token.node)
            _sweep(connection, token.create_time - KEEP_EXPIRED_SECONDS)
            connection.execute(
                "INSERT INTO join_token VALUES (?, ?, ?, ?, ?, ?, NULL)",
                (token.token_id, token.node, token.secret_hash, token.create_time, token.expire_time, token.rejoin),
            )

        await self._change(create)

    async def claim_token(
        self, token_id: str, secret_hash: bytes, public_key_hash: bytes, now: float, issue: Issue
    ) -> IssuedCertificate:
        """See EnrollmentStore."""

        def claim(connection: sqlite3.Connection) -> IssuedCertificate:
            token = _check_token(_read_token(connection, token_id), secret_hash, public_key_hash, now)
            if token.claimed is not None:
                return token.claimed
            record = lifecycle.join(_read_node(connection, token.node), token.node, token.rejoin, now, issue)
            _write_node(connection, record)
            connection.execute(
                "UPDATE join_token SET claimed_serial = ? WHERE token_id = ?",
                (_serial_text(record.current.serial), token_id),
            )
            return record.current

        return await self._change(claim)

    async def renew(
        self, presented: IssuedCertificate, public_key_hash: bytes, now: float, issue: Issue
    ) -> IssuedCertificate:
        """See EnrollmentStore."""

        def renew(connection: sqlite3.Connection) -> IssuedCertificate:
            before = _read_node(connection, presented.node)
            record = lifecycle.present(before, presented, now)
            record = lifecycle.renew(record, public_key_hash, issue)
            if record != before:
                _write_node(connection, record)
            return record.current if record.pending is None else record.pending

        return await self._change(renew)

    async def admit(self, presented: IssuedCertificate, now: float) -> NodeRecord:
        """See EnrollmentStore."""

        def admit(connection: sqlite3.Connection) -> NodeRecord:
            before = _read_node(connection, presented.node)
            record = lifecycle.present(before, presented, now)
            if record != before:
                _write_node(connection, record)
            return record

        return await self._change(admit)

    async def node(self, name: str) -> NodeRecord | None:
        """See EnrollmentStore."""
        return await self._database.read(lambda connection: _read_node(connection, name))

    async def nodes(self, after: str, max_count: int) -> Sequence[NodeRecord]:
        """See EnrollmentStore."""
        return await self._database.read(
            lambda connection: _read_nodes(
                connection, "WHERE node_identity.node > ? ORDER BY node_identity.node LIMIT ?", (after, max_count)
            )
        )

    async def revoke(self, name: str) -> NodeRecord:
        """See EnrollmentStore."""

        def revoke(connection: sqlite3.Connection) -> NodeRecord:
            record = _joined(connection, name)
            connection.execute("UPDATE node_identity SET revoked = 1 WHERE node = ?", (name,))
            return dataclasses.replace(record, revoked=True)

        return await self._change(revoke)

    async def quarantine(self, name: str, now: float) -> None:
        """See EnrollmentStore."""

        def quarantine(connection: sqlite3.Connection) -> None:
            _joined(connection, name)
            connection.execute("UPDATE node_identity SET quarantine_time = ? WHERE node = ?", (now, name))

        await self._change(quarantine)

    async def release(self, name: str) -> bool:
        """See EnrollmentStore."""

        def release(connection: sqlite3.Connection) -> bool:
            record = _joined(connection, name)
            connection.execute("UPDATE node_identity SET quarantine_time = NULL WHERE node = ?", (name,))
            return record.quarantine_time is not None

        return await self._change(release)

    async def _change(self, function: Callable[[sqlite3.Connection], _T]) -> _T:
        """Run `function` in a transaction. It raises a refusal before its first write."""

        def guarded(connection: sqlite3.Connection) -> _T | EdgenodeError:
            try:
                return function(connection)
            except EdgenodeError as refusal:
                return refusal

        outcome = await self._database.write(guarded)
        if isinstance(outcome, EdgenodeError):
            raise outcome
        return outcome


def _check_token(token: TokenRecord | None, secret_hash: bytes, public_key_hash: bytes, now: float) -> TokenRecord:
    """The token, if this secret and key may have its certificate at `now`."""
    if token is None:
        raise Unauthenticated(
            "UNKNOWN_TOKEN",
            "the hub does not know this join token",
            hint="check that it is this hub's, or create another: edgehub token create NAME",
        )
    if not hmac.compare_digest(token.secret_hash, secret_hash):
        raise Unauthenticated(
            "WRONG_SECRET", f"the secret is not the one of token {token.token_id}", hint="copy the whole token again"
        )
    if token.claimed is not None and token.claimed.public_key_hash != public_key_hash:
        raise PermissionDenied(
            "TOKEN_USED",
            f"token {token.token_id} was used by another key",
            hint=f"create another: edgehub token create {token.node} --rejoin; if you did not use it, someone else did",
            node=token.node,
        )
    if now >= token.expire_time:
        rejoin = " --rejoin" if token.claimed is not None else ""
        raise Unauthenticated(
            "TOKEN_EXPIRED",
            f"token {token.token_id} has expired",
            hint=f"create another: edgehub token create {token.node}{rejoin}",
            node=token.node,
        )
    return token


_CERTIFICATE = "{0}.node, {0}.serial, {0}.certificate, {0}.public_key_hash, {0}.not_before, {0}.expire_time"


def _read_token(connection: sqlite3.Connection, token_id: str) -> TokenRecord | None:
    row = connection.execute(
        "SELECT join_token.node, secret_hash, create_time, join_token.expire_time, rejoin, claimed_serial, "
        f"{_CERTIFICATE.format('claimed')} "
        "FROM join_token LEFT JOIN node_certificate AS claimed ON claimed.serial = claimed_serial WHERE token_id = ?",
        (token_id,),
    ).fetchone()
    if row is None:
        return None
    node, secret_hash, create_time, expire_time, rejoin, claimed_serial = row[:6]
    claimed = None if claimed_serial is None else _certificate(row[6:])
    return TokenRecord(token_id, node, secret_hash, create_time, expire_time, bool(rejoin), claimed)


def _joined(connection: sqlite3.Connection, name: str) -> NodeRecord:
    record = _read_node(connection, name)
    if record is None:
        raise NotFound("UNKNOWN_NODE", f"no node named {name} has joined", hint="see `edgehub nodes`", node=name)
    return record


def _read_node(connection: sqlite3.Connection, name: str) -> NodeRecord | None:
    records = _read_nodes(connection, "WHERE node_identity.node = ?", (name,))
    return records[0] if records else None


def _read_nodes(connection: sqlite3.Connection, condition: str, values: tuple[object, ...]) -> list[NodeRecord]:
    rows = connection.execute(
        "SELECT node_identity.node, joined_time, revoked, pending_serial, quarantine_time, "
        f"{_CERTIFICATE.format('held')}, {_CERTIFICATE.format('next')} "
        "FROM node_identity JOIN node_certificate AS held ON held.serial = current_serial "
        f"LEFT JOIN node_certificate AS next ON next.serial = pending_serial {condition}",
        values,
    )
    return [
        NodeRecord(
            row[0],
            row[1],
            bool(row[2]),
            _certificate(row[5:11]),
            None if row[3] is None else _certificate(row[11:17]),
            row[4],
        )
        for row in rows
    ]


def _write_node(connection: sqlite3.Connection, record: NodeRecord) -> None:
    pending = record.pending
    kept = [record.current] if pending is None else [record.current, pending]
    connection.executemany(
        "INSERT INTO node_certificate (node, serial, certificate, public_key_hash, not_before, expire_time) "
        "VALUES (?, ?, ?, ?, ?, ?) ON CONFLICT DO NOTHING",
        [
            (
                record.node,
                _serial_text(issued.serial),
                issued.certificate,
                issued.public_key_hash,
                issued.not_before,
                issued.expire_time,
            )
            for issued in kept
        ],
    )
    connection.execute(
        "INSERT INTO node_identity VALUES (?, ?, ?, ?, ?, ?) ON CONFLICT DO UPDATE SET joined_time = excluded.joined_time, "
        "revoked = excluded.revoked, current_serial = excluded.current_serial, pending_serial = excluded.pending_serial, "
        "quarantine_time = excluded.quarantine_time",
        (
            record.node,
            record.joined_time,
            record.revoked,
            _serial_text(record.current.serial),
            None if pending is None else _serial_text(pending.serial),
            record.quarantine_time,
        ),
    )
    _forget_certificates(connection, record.node)


def _sweep(connection: sqlite3.Connection, before: float) -> None:
    """Forget some tokens that ended before `before`, and the certificates only they remembered."""
    rows = connection.execute(
        "SELECT token_id, node FROM join_token WHERE expire_time < ? LIMIT ?", (before, _SWEEP_COUNT)
    ).fetchall()
    connection.executemany("DELETE FROM join_token WHERE token_id = ?", [(token_id,) for token_id, _ in rows])
    for node in {node for _, node in rows}:
        _forget_certificates(connection, node)


def _forget_certificates(connection: sqlite3.Connection, node: str) -> None:
    connection.execute(
        "DELETE FROM node_certificate WHERE node = :node AND serial NOT IN ("
        "SELECT current_serial FROM node_identity WHERE node = :node UNION ALL "
        "SELECT pending_serial FROM node_identity WHERE node = :node AND pending_serial IS NOT NULL UNION ALL "
        "SELECT claimed_serial FROM join_token WHERE node = :node AND claimed_serial IS NOT NULL)",
        {"node": node},
    )


def _certificate(row: tuple[str, str, bytes, bytes, float, float]) -> IssuedCertificate:
    node, serial, certificate, key_hash, not_before, expire_time = row
    return IssuedCertificate(node, int(serial, 16), certificate, key_hash, not_before, expire_time)


def _serial_text(serial: int) -> str:
    # Up to 159 bits: more than SQLite's integers hold.
    return f"{serial:x}"
