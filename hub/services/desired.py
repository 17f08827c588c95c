"""Desired states: one signed, versioned document for each node, sent when it changes and when a node comes that lacks it."""

from __future__ import annotations

import logging
from collections.abc import Callable

from edgenode.api.problem.v1 import problem_pb2
from edgenode.api.sync.v1 import sync_pb2
from edgenode.link.errors import InvalidArgument
from edgenode.link.model.lanes import Lane
from edgenode.link.wire import checks
from hub.store.ports import FleetStore
from hub.store.records import DesiredRow, SignedDocument

LOG_LEVELS = ("debug", "info", "warning", "error")
LIMITS = ("max_input_bytes", "max_queued_tasks", "store_bytes")

_log = logging.getLogger(__name__)

Sign = Callable[[bytes], tuple[bytes, tuple[bytes, bytes]]]
Send = Callable[[str, sync_pb2.Frame], bool]


class DesiredDesk:
    """`sign(document)` gives signature and chain; `send(node, frame)` is best effort: what is lost is sent on reconnect."""

    def __init__(self, store: FleetStore, sign: Sign, send: Send) -> None:
        self._store = store
        self._sign = sign
        self._send = send

    async def set(self, document: sync_pb2.DesiredDocument) -> int:
        """Replace a node's desired state; returns its version. Raises InvalidArgument naming the field."""
        _check(document)
        wanted = sync_pb2.DesiredDocument()
        wanted.CopyFrom(document)

        def sign(version: int) -> SignedDocument:
            wanted.version = version
            data = wanted.SerializeToString(deterministic=True)
            signature, chain = self._sign(data)
            return SignedDocument(version, data, signature, chain)

        signed = await self._store.set_desired(document.node, sign)
        self._push(document.node, signed)
        return signed.version

    async def get(self, node: str) -> tuple[sync_pb2.DesiredDocument, sync_pb2.DesiredStateReport]:
        """What is wanted of a node (an empty document: nothing yet), and what it said last."""
        row = await self._store.desired(node)
        document = sync_pb2.DesiredDocument(node=node)
        if row.wanted is not None:
            document = sync_pb2.DesiredDocument.FromString(row.wanted.document)
        return document, _report(row)

    async def node_connected(self, node: str, applied_version: int) -> None:
        """Send what the node has not applied."""
        row = await self._store.desired(node)
        if row.wanted is not None and row.wanted.version != applied_version:
            self._push(node, row.wanted)

    async def reported(self, node: str, report: sync_pb2.DesiredStateReport) -> None:
        """Keep what the node said."""
        problem = report.problem.SerializeToString() if report.HasField("problem") else b""
        await self._store.report_desired(node, report.applied_version, report.refused_version, problem)
        if report.refused_version:
            _log.warning("%s refused desired state %d: %s", node, report.refused_version, report.problem.message)

    def _push(self, node: str, signed: SignedDocument) -> None:
        frame = sync_pb2.Frame(
            desired_state=sync_pb2.DesiredState(
                version=signed.version,
                document=signed.document,
                signature=signed.signature,
                certificates=signed.certificates,
            )
        )
        if not self._send(node, frame):
            _log.info("desired state %d of %s waits until the node connects", signed.version, node)


def _report(row: DesiredRow) -> sync_pb2.DesiredStateReport:
    report = sync_pb2.DesiredStateReport(applied_version=row.applied_version, refused_version=row.refused_version)
    if row.problem:
        report.problem.CopyFrom(problem_pb2.Problem.FromString(row.problem))
    return report


def _check(document: sync_pb2.DesiredDocument) -> None:
    if document.log_level and document.log_level not in LOG_LEVELS:
        raise InvalidArgument(
            "UNKNOWN_VALUE",
            f"log_level is {document.log_level!r}",
            hint=f"one of {', '.join(LOG_LEVELS)}",
            field="document.log_level",
        )
    lanes = [lane.name.lower() for lane in Lane]
    for lane, weight in document.lane_weights.items():
        if lane not in lanes:
            raise InvalidArgument(
                "UNKNOWN_VALUE",
                f"lane_weights names {lane!r}",
                hint=f"one of {', '.join(lanes)}",
                field="document.lane_weights",
            )
        checks.in_range(weight, 1, 1000, f"document.lane_weights[{lane}]")
    for name, limit in document.limits.items():
        if name not in LIMITS:
            raise InvalidArgument(
                "UNKNOWN_VALUE", f"limits names {name!r}", hint=f"one of {', '.join(LIMITS)}", field="document.limits"
            )
        checks.in_range(limit, 1, 1 << 50, f"document.limits[{name}]")
