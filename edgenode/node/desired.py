"""What the hub wants of this node: one signed, versioned document.

It is believed only if a hub of this fleet signed it for this node; versions only rise; it is stored before it counts, so
that the last good one is in force again after a restart, also when its signer's certificate has ended by then. A document
with anything unknown or out of bounds is refused whole, and the one before stays in force.
"""

from __future__ import annotations

import asyncio
import sqlite3
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, field

from google.protobuf.message import DecodeError

from edgenode.api.sync.v1 import sync_pb2
from edgenode.link import telemetry
from edgenode.link.errors import EdgenodeError, FailedPrecondition, InvalidArgument, Unauthenticated
from edgenode.link.model.lanes import Lane
from edgenode.link.store.database import Database
from edgenode.link.wire import checks
from edgenode.link.wire.values import problem_to_pb

SCHEMA = """
CREATE TABLE desired (
    version INTEGER PRIMARY KEY,
    state BLOB NOT NULL
) STRICT;
"""

LOG_LEVELS = ("debug", "info", "warning", "error")
_LANES = {lane.name.lower(): lane for lane in Lane}
# Bounds of the limits a hub may set; the same as in the node's own configuration.
LIMITS = {
    "max_input_bytes": (1 << 10, 16 << 20),
    "max_queued_tasks": (1, 10_000_000),
    "store_bytes": (16 << 20, 1 << 50),
}

_log = telemetry.logger("node.desired")


@dataclass(frozen=True, slots=True)
class DesiredSettings:
    """What a document asks for; what it leaves out stays as the node's own configuration has it."""

    version: int = 0
    log_level: str = ""
    lane_weights: Mapping[Lane, int] = field(default_factory=dict)
    limits: Mapping[str, int] = field(default_factory=dict)


Verify = Callable[[sync_pb2.DesiredState], None]


def settings_from(document: sync_pb2.DesiredDocument) -> DesiredSettings:
    """The checked content. Raises InvalidArgument naming the field."""
    if document.log_level and document.log_level not in LOG_LEVELS:
        raise InvalidArgument(
            "BAD_LOG_LEVEL",
            f"log_level is {document.log_level[:40]!r}",
            hint=f"expected one of {', '.join(LOG_LEVELS)}",
            field="log_level",
        )
    weights = {}
    for name, weight in document.lane_weights.items():
        if name not in _LANES:
            raise _unknown("lane_weights", name, _LANES)
        checks.in_range(weight, 1, 1000, f"lane_weights.{name}")
        weights[_LANES[name]] = weight
    for name, value in document.limits.items():
        if name not in LIMITS:
            raise _unknown("limits", name, LIMITS)
        checks.in_range(value, *LIMITS[name], f"limits.{name}")
    return DesiredSettings(document.version, document.log_level, weights, dict(document.limits))


class DesiredStates:
    """Applies documents, one at a time. `apply` gets the settings that count now, after each that was accepted.

    `verify` raises Unauthenticated for a state that no hub of the fleet signed.
    """

    def __init__(
        self, database: Database, node: str, verify: Verify, apply: Callable[[DesiredSettings], Awaitable[None]]
    ) -> None:
        self.settings = DesiredSettings()
        self._database = database
        self._node = node
        self._verify = verify
        self._apply = apply
        self._turn = asyncio.Lock()

    @property
    def applied_version(self) -> int:
        """Version in force; 0 for none."""
        return self.settings.version

    async def load(self) -> None:
        """Put the last good document in force again."""
        row = await self._database.read(
            lambda connection: connection.execute("SELECT state FROM desired ORDER BY version DESC LIMIT 1").fetchone()
        )
        if row is None:
            return
        state = sync_pb2.DesiredState.FromString(row[0])
        try:
            settings = settings_from(sync_pb2.DesiredDocument.FromString(state.document))
        except EdgenodeError as error:
            # Stored by a version that knew more: the node's own configuration counts until the hub sends another.
            _log.error(telemetry.DESIRED_REFUSED, version=state.version, reason=error.reason, problem=str(error))
            return
        await self._take(settings)

    async def receive(self, state: sync_pb2.DesiredState) -> sync_pb2.DesiredStateReport:
        """Apply a state the hub sent, or refuse it; the report says which. Raises what the store raises."""
        async with self._turn:
            try:
                await self._receive(state)
            except (InvalidArgument, FailedPrecondition, Unauthenticated) as error:
                _log.warning(telemetry.DESIRED_REFUSED, version=state.version, reason=error.reason, problem=str(error))
                return sync_pb2.DesiredStateReport(
                    applied_version=self.applied_version,
                    refused_version=state.version,
                    problem=problem_to_pb(error.problem),
                )
            return sync_pb2.DesiredStateReport(applied_version=self.applied_version)

    async def _receive(self, state: sync_pb2.DesiredState) -> None:
        if state.version == self.applied_version:
            return  # sent again
        if state.version < self.applied_version:
            raise FailedPrecondition(
                "VERSION_OUTDATED",
                f"version {state.version} came after {self.applied_version}",
                hint="versions only rise; if the hub was restored, make the change again",
            )
        self._verify(state)
        try:
            document = sync_pb2.DesiredDocument.FromString(state.document)
        except DecodeError:
            raise InvalidArgument("BAD_DOCUMENT", "the document cannot be read", hint="see the hub's log") from None
        if document.node != self._node or document.version != state.version:
            raise InvalidArgument(
                "BAD_DOCUMENT",
                f"the document is version {document.version} for {document.node!r}, not {state.version} for {self._node}",
                hint="see the hub's log",
            )
        settings = settings_from(document)
        blob = state.SerializeToString()

        def store(connection: sqlite3.Connection) -> None:
            connection.execute("DELETE FROM desired")
            connection.execute("INSERT INTO desired VALUES (?, ?)", (state.version, blob))

        await self._database.write(store)
        await self._take(settings)
        _log.info(telemetry.DESIRED_APPLIED, version=settings.version)

    async def _take(self, settings: DesiredSettings) -> None:
        self.settings = settings
        await self._apply(settings)


def _unknown(field_name: str, name: str, known: Mapping[str, object]) -> InvalidArgument:
    return InvalidArgument(
        "UNKNOWN_VALUE",
        f"{field_name} names {name[:40]!r}",
        hint=f"this version knows {', '.join(known)}",
        field=field_name,
    )
