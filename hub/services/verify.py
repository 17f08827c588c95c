"""Whether the hub's ledger adds up, what exactly does not, and on request whether each edge's says the same.

An edge that is not connected cannot be asked: it is named as not compared, which is not the same as all being well.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from pathlib import Path

from edgenode.api.admin.v1 import admin_pb2, admin_service_pb2
from edgenode.api.fleet.v1 import fleet_service_pb2 as pb
from edgenode.api.sync.v1 import sync_pb2
from edgenode.link.blobs.files import FOLDER, Folder
from edgenode.link.errors import EdgenodeError, Unimplemented
from edgenode.link.model import finding
from edgenode.link.model.finding import MAX_FINDINGS, Finding
from edgenode.link.model.lanes import Lane, LaneHead
from edgenode.link.ports import Clock
from edgenode.link.store.inspection import Inspection
from edgenode.link.wire.ledger import finding_to_pb, imbalances
from edgenode.link.wire.values import problem_to_pb, timestamp_to_pb
from hub.ca.ports import EnrollmentStore
from hub.services.comparison import Sent, Taken, compare
from hub.services.ledger import ledger_lines
from hub.services.node_admin import VERIFY_SECONDS, NodeAdmin
from hub.services.view import FleetView
from hub.store.audit import audit_store
from hub.store.ports import FleetStore, LinkStore
from hub.store.records import Audit, DownlinkCounts, LedgerFacts, NodeRow, UplinkCounts
from hub.store.schema import APPLICATION_ID, migrations

AT_ONCE = 16
# What a refill is just bringing is there a moment later: only what stays is a finding.
ATTEMPTS = 3
PAUSE_SECONDS = 1.0


async def verify_stopped(path: Path) -> pb.VerifyFleetLedgerResponse:
    """The hub's side, from the file of a hub that is not running. Raises as Inspection."""
    with Inspection(path, APPLICATION_ID, len(migrations())) as store:
        return _response(await audit_store(store, Folder(path.parent / FOLDER)), "the parent")


def _response(audit: Audit, parent: str) -> pb.VerifyFleetLedgerResponse:
    """What looking at the hub's store alone comes to."""
    lines = ledger_lines(audit.facts, parent=parent if audit.facts.to_parent else "")
    response = pb.VerifyFleetLedgerResponse(lines=lines, entry_count=audit.entries)
    _add(response, [*audit.findings, *imbalances(lines), *_check_letters(audit.facts)])
    return response


def _add(response: pb.VerifyFleetLedgerResponse, findings: Sequence[Finding | admin_pb2.LedgerFinding]) -> None:
    response.finding_count += len(findings)
    response.findings.extend(_to_pb(found) for found in findings[: max(MAX_FINDINGS - len(response.findings), 0)])


class FleetAuditor:
    """`verify` may be called at any time; it holds nothing up for long.

    `audit()` looks at everything in the store, `heads(node)` are the logs for a node, `parent()` is the address of the hub's
    own parent.
    """

    def __init__(
        self,
        audit: Callable[[], Awaitable[Audit]],
        heads: Callable[[str], Awaitable[Sequence[LaneHead]]],
        fleet: FleetStore,
        links: LinkStore,
        enrollment: EnrollmentStore,
        nodes: NodeAdmin,
        view: FleetView,
        clock: Clock,
        parent: Callable[[], str],
    ) -> None:
        self._audit = audit
        self._heads = heads
        self._fleet = fleet
        self._links = links
        self._enrollment = enrollment
        self._nodes = nodes
        self._view = view
        self._clock = clock
        self._parent = parent

    async def verify(self, everybody: bool) -> pb.VerifyFleetLedgerResponse:
        """Look at everything here; with `everybody` ask each edge as well."""
        response = _response(await self._audit(), self._parent())
        if everybody:
            rows = await self._fleet.nodes()
            gate = asyncio.Semaphore(AT_ONCE)
            for comparison, found in await asyncio.gather(*(self._node(row, gate) for row in rows)):
                if comparison is not None:
                    response.nodes.append(comparison)
                _add(response, found)
        return response

    async def _node(
        self, row: NodeRow, gate: asyncio.Semaphore
    ) -> tuple[pb.LedgerComparison | None, Sequence[Finding | admin_pb2.LedgerFinding]]:
        record = await self._enrollment.node(row.node)
        if record is not None and record.revoked:
            return None, ()  # nothing of it is waited for any more
        age = self._view.staleness(row.node, self._clock.monotonic())
        comparison = pb.LedgerComparison(node=row.node, last_contact_time=timestamp_to_pb(self._clock.wall() - age))
        try:
            if row.hub:
                raise Unimplemented(
                    "NODE_IS_A_HUB", f"{row.node} is a hub", hint="ask it for itself: edgehub ledger verify --all there"
                )
            async with gate:
                found = await self._compare(row.node)
        except EdgenodeError as error:
            comparison.problem.CopyFrom(problem_to_pb(error.problem))
            return comparison, ()
        comparison.compared = True
        return comparison, found

    async def _compare(self, node: str) -> Sequence[Finding | admin_pb2.LedgerFinding]:
        """The node's own findings, and what does not fit with the hub's side. Raises as NodeAdmin.ask."""
        attempt = 1
        while True:
            sent = await self._links.sent(node)
            heads = await self._heads(node)
            question = sync_pb2.AdminExchange(verify_ledger=admin_service_pb2.VerifyLedgerRequest())
            answer = (await self._nodes.ask(node, question, VERIFY_SECONDS)).ledger_verified
            taken = await self._links.received(node)
            between = [*_upward(node, answer, taken), *_downward(node, answer, sent, heads)]
            if not between or attempt == ATTEMPTS:
                break
            attempt += 1
            await asyncio.sleep(PAUSE_SECONDS)
        own = list(answer.findings)
        for found in own:
            found.node = node
        return [*own, *between]


def _upward(node: str, answer: admin_service_pb2.VerifyLedgerResponse, taken: Sequence[UplinkCounts]) -> list[Finding]:
    """The edge's logs against the hub's cursors, which were read after them."""
    lines = {line.hop: line for line in answer.lines}
    findings: list[Finding] = []
    for lane in answer.lanes:
        line = lines.get(f"{lane.lane}.uplink")
        if lane.direction != "up" or line is None:
            continue
        sent = Sent(
            line.hop,
            lane.epoch,
            {earlier.epoch: earlier.last_sequence for earlier in lane.earlier},
            line.dropped_counts.get("BEFORE_JOIN", 0),
            lane.acked_sequence,
            line.dead_lettered_count,
        )
        cursors = [
            Taken(cursor.epoch, cursor.sequence, cursor.applied + cursor.gap, cursor.rejected)
            for cursor in taken
            if cursor.lane.name.lower() == lane.lane
        ]
        findings += compare(node, sent, cursors, counts=True)
    return findings


def _downward(
    node: str,
    answer: admin_service_pb2.VerifyLedgerResponse,
    sent: Sequence[DownlinkCounts],
    heads: Sequence[LaneHead],
) -> list[Finding]:
    """The hub's logs, read before, against the edge's cursors."""
    by_lane: dict[Lane, LaneHead] = {head.lane: head for head in heads}
    findings: list[Finding] = []
    for log in sent:
        name = log.lane.name.lower()
        head = by_lane[log.lane]
        earlier = {end.epoch: end.last for end in head.earlier}
        side = Sent(f"{name}.downlink", head.epoch, earlier, log.start, log.acked, log.rejected)
        cursors = [
            Taken(lane.epoch, lane.last_sequence)
            for lane in answer.lanes
            if lane.direction == "down" and lane.lane == name
        ]
        findings += compare(node, side, cursors, counts=False)
    return findings


def _check_letters(facts: LedgerFacts) -> list[Finding]:
    """Whatever the hops say they dead-lettered was added to the dead letters."""
    said = facts.tasks_ended.get("DEAD_LETTERED", 0)
    said += sum(log.rejected for log in (*facts.downlinks, *facts.to_parent))
    added = facts.letters.get("ADDED", 0)
    if said == added:
        return []
    return [Finding("deadletters", finding.WRONG_COUNT, f"the hops dead-lettered {said}, {added} were added")]


def _to_pb(found: Finding | admin_pb2.LedgerFinding) -> admin_pb2.LedgerFinding:
    return finding_to_pb(found) if isinstance(found, Finding) else found
