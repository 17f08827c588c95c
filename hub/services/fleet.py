"""FleetService: operating a fleet from its hub, on the local socket."""

from __future__ import annotations

from bisect import bisect_right
from collections import defaultdict
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from edgenode.api.admin.v1 import admin_pb2
from edgenode.api.fleet.v1 import fleet_service_pb2 as pb
from edgenode.api.fleet.v1 import fleet_service_pb2_grpc as pb_grpc
from edgenode.link.errors import EdgenodeError, NotFound
from edgenode.link.model.lanes import LaneUsage
from edgenode.link.model.names import check_name
from edgenode.link.model.task import TaskState
from edgenode.link.ports import Clock
from edgenode.link.protocol.admission import AdmissionGate
from edgenode.link.wire import checks
from edgenode.link.wire.ledger import usages_to_pb
from edgenode.link.wire.status import Context
from edgenode.link.wire.values import duration_from_pb, duration_to_pb, timestamp_to_pb
from hub.ca.authority import Authority
from hub.ca.ports import EnrollmentStore, NodeRecord
from hub.services.clones import CloneWatch
from hub.services.desired import DesiredDesk
from hub.services.enrollment import TOKEN_LIFE, create_join_token
from hub.services.ledger import ledger_lines
from hub.services.letters import FleetLetters
from hub.services.message import MessageDesk
from hub.services.pages import make_token, page_size, read_token
from hub.services.placement import Placement
from hub.services.uplink import Uplink
from hub.services.verify import FleetAuditor
from hub.services.view import FleetView
from hub.store.ports import FleetStore, LinkStore, TaskStore
from hub.store.records import PARENT, DownlinkCounts, LedgerFacts, NodeRow, UplinkCounts

_ENROLLED_PAGE = 1000


@dataclass(frozen=True, slots=True)
class HubFacts:
    """What the hub says of itself; `start_time` is wall clock, seconds; `path` its place in the tree, from the root."""

    hub: str
    version: str
    start_time: float
    sync_port: int
    enrollment_port: int
    path: tuple[str, ...] = ()
    troubles: tuple[str, ...] = ()  # why it is degraded; empty when it is well
    usages: tuple[LaneUsage, ...] = ()
    store_bytes: int = 0
    store_limit_bytes: int = 0


class FleetService(pb_grpc.FleetServiceServicer):
    """What the CLI shows and changes."""

    def __init__(
        self,
        facts: Callable[[], HubFacts],
        authority: Authority,
        enrollment: EnrollmentStore,
        fleet: FleetStore,
        links: LinkStore,
        tasks: TaskStore,
        view: FleetView,
        placement: Placement,
        messages: MessageDesk,
        desired: DesiredDesk,
        clones: CloneWatch,
        clock: Clock,
        uplink: Callable[[], Uplink | None],
        back_up: Callable[[Path], Awaitable[admin_pb2.Backup]],
        gate: AdmissionGate,
        letters: FleetLetters,
        auditor: FleetAuditor,
    ) -> None:
        """`back_up` makes a backup at a file or in a directory."""
        self._back_up = back_up
        self._gate = gate
        self._letters = letters
        self._auditor = auditor
        self._facts = facts
        self._uplink = uplink
        self._authority = authority
        self._enrollment = enrollment
        self._fleet = fleet
        self._links = links
        self._tasks = tasks
        self._view = view
        self._placement = placement
        self._messages = messages
        self._desired = desired
        self._clones = clones
        self._clock = clock

    async def GetHubStatus(self, request: pb.GetHubStatusRequest, context: Context) -> pb.GetHubStatusResponse:
        """How the hub is."""
        facts = self._facts()
        troubles = list(facts.troubles)
        uplink = self._uplink()
        counts: dict[str, int] = {}
        lanes: list[admin_pb2.LaneStatus] = []
        try:
            counts = dict(await self._tasks.state_counts())
            if uplink is not None:
                sent, received = await self._links.sent(PARENT), await self._links.received(PARENT)
                lanes = parent_lanes(sent, received, self._clock.wall())
        except EdgenodeError as error:  # all the more is it to be told how the hub is
            troubles = troubles or [str(error)]
        waiting = counts.pop(TaskState.QUEUED.name, 0) + counts.pop(TaskState.PARKED.name, 0)
        parked = min(self._placement.parked_count, waiting)
        counts |= {name: count for name, count in (("QUEUED", waiting - parked), ("PARKED", parked)) if count}
        response = pb.GetHubStatusResponse(
            hub=facts.hub,
            trust_domain=self._authority.trust_domain,
            version=facts.version,
            start_time=timestamp_to_pb(facts.start_time),
            sync_port=facts.sync_port,
            enrollment_port=facts.enrollment_port,
            connected_count=sum(node.connected for node in self._view.nodes()),
            task_counts=counts,
            message_sequence=self._messages.last_sequence,
            lane_usages=usages_to_pb(facts.usages),
            store_bytes=facts.store_bytes,
            store_limit_bytes=facts.store_limit_bytes,
            root_hash=self._authority.root_hash.hex(),
            hub_path=facts.path,
            waiting_count=self._gate.waiting_count(self._clock.monotonic()),
            delayed_count=self._gate.delayed_count,
            health="degraded" if troubles else "ready",
            health_reasons=troubles,
        )
        if uplink is not None:
            response.parent_link.CopyFrom(uplink.status())
            response.parent_identity = uplink.ports.identity
            response.parent_lanes.extend(lanes)
        return response

    async def ListNodes(self, request: pb.ListNodesRequest, context: Context) -> pb.ListNodesResponse:
        """Nodes by name."""
        size = page_size(request.page_size)
        after = read_token(request.page_token)
        rows = {row.node: row for row in await self._fleet.nodes()}
        enrolled = {record.node: record for record in await self._enrolled()}
        names = sorted(rows.keys() | enrolled.keys())
        start = bisect_right(names, after)
        page = names[start : start + size]
        lanes = _lanes_of(await self._links.ledger(), self._clock.wall())
        response = pb.ListNodesResponse(next_page_token=make_token(page[-1]) if start + size < len(names) else "")
        for name in page:
            response.nodes.append(await self._node(name, rows.get(name), enrolled.get(name), lanes))
        return response

    async def GetNode(self, request: pb.GetNodeRequest, context: Context) -> pb.GetNodeResponse:
        """One node."""
        check_name(request.node, "node")
        row = next((row for row in await self._fleet.nodes() if row.node == request.node), None)
        record = await self._enrollment.node(request.node)
        if row is None and record is None:
            raise _unknown_node(request.node)
        lanes = _lanes_of(await self._links.ledger(), self._clock.wall())
        return pb.GetNodeResponse(node=await self._node(request.node, row, record, lanes))

    async def ReleaseNode(self, request: pb.ReleaseNodeRequest, context: Context) -> pb.ReleaseNodeResponse:
        """End a quarantine."""
        check_name(request.node, "node")
        return pb.ReleaseNodeResponse(released=await self._clones.release(request.node))

    async def GetFleetLedger(self, request: pb.GetFleetLedgerRequest, context: Context) -> pb.GetFleetLedgerResponse:
        """The hub's side of every hop."""
        uplink = self._uplink()
        parent = uplink.ports.address if uplink is not None else ""
        return pb.GetFleetLedgerResponse(lines=ledger_lines(await self._links.ledger(), request.node, parent))

    async def VerifyFleetLedger(
        self, request: pb.VerifyFleetLedgerRequest, context: Context
    ) -> pb.VerifyFleetLedgerResponse:
        """Everything the ledger counts looked at, and on request compared with what the edges say."""
        return await self._auditor.verify(request.all)

    async def ListFleetDeadLetters(
        self, request: pb.ListFleetDeadLettersRequest, context: Context
    ) -> pb.ListFleetDeadLettersResponse:
        """Dead letters of the hub or of a node."""
        await self._check_keeper(request.node)
        return await self._letters.page(request)

    async def GetFleetDeadLetter(
        self, request: pb.GetFleetDeadLetterRequest, context: Context
    ) -> pb.GetFleetDeadLetterResponse:
        """One with its content."""
        await self._check_keeper(request.node)
        return await self._letters.get(request)

    async def ReplayFleetDeadLetters(
        self, request: pb.ReplayFleetDeadLettersRequest, context: Context
    ) -> pb.ReplayFleetDeadLettersResponse:
        """Another chance for some."""
        await self._check_keeper(request.node)
        return await self._letters.replay(request)

    async def DropFleetDeadLetters(
        self, request: pb.DropFleetDeadLettersRequest, context: Context
    ) -> pb.DropFleetDeadLettersResponse:
        """Forget some."""
        await self._check_keeper(request.node)
        return await self._letters.drop(request)

    async def CreateJoinToken(self, request: pb.CreateJoinTokenRequest, context: Context) -> pb.CreateJoinTokenResponse:
        """A token that lets one node in."""
        life = (
            duration_from_pb(request.ttl_duration, "ttl_duration") if request.HasField("ttl_duration") else TOKEN_LIFE
        )
        token, expire_time = await create_join_token(
            self._authority, self._enrollment, self._clock, request.node, life, rejoin=request.rejoin
        )
        return pb.CreateJoinTokenResponse(token=token.text(), expire_time=timestamp_to_pb(expire_time))

    async def SetDesiredState(self, request: pb.SetDesiredStateRequest, context: Context) -> pb.SetDesiredStateResponse:
        """Change what the hub wants of a node."""
        await self._check_node(request.document.node)
        return pb.SetDesiredStateResponse(version=await self._desired.set(request.document))

    async def GetDesiredState(self, request: pb.GetDesiredStateRequest, context: Context) -> pb.GetDesiredStateResponse:
        """What the hub wants of a node and what the node applied."""
        await self._check_node(request.node)
        document, report = await self._desired.get(request.node)
        return pb.GetDesiredStateResponse(document=document, report=report)

    async def CreateBackup(self, request: pb.CreateBackupRequest, context: Context) -> pb.CreateBackupResponse:
        """Back up the hub while it goes on."""
        target = checks.absolute_path(request.path, "path")
        return pb.CreateBackupResponse(backup=await self._back_up(target))

    async def _check_keeper(self, node: str) -> None:
        if node:
            await self._check_node(node)

    async def _check_node(self, node: str) -> None:
        check_name(node, "node")
        if self._view.node(node) is None and await self._enrollment.node(node) is None:
            raise _unknown_node(node)

    async def _enrolled(self) -> list[NodeRecord]:
        records: list[NodeRecord] = []
        while True:
            page = await self._enrollment.nodes(records[-1].node if records else "", _ENROLLED_PAGE)
            records += page
            if len(page) < _ENROLLED_PAGE:
                return records

    async def _node(
        self,
        name: str,
        row: NodeRow | None,
        record: NodeRecord | None,
        lanes: Mapping[str, list[admin_pb2.LaneStatus]],
    ) -> pb.Node:
        known = self._view.node(name)
        desired = await self._fleet.desired(name)
        node = pb.Node(
            node=name,
            kind="hub" if row is not None and row.hub else "edge",
            state="never" if row is None or known is None else "connected" if known.connected else "unreachable",
            agent_count=0 if known is None else len(known.agents),
            lanes=lanes.get(name, []),
            desired_version=0 if desired.wanted is None else desired.wanted.version,
            applied_version=desired.applied_version,
            refused_version=desired.refused_version,
        )
        if row is not None:
            age = self._view.staleness(name, self._clock.monotonic())
            node.last_contact_time.CopyFrom(timestamp_to_pb(self._clock.wall() - age))
            node.software = row.software
            node.generation = row.generation
            node.hub_id = row.hub
        if record is not None:
            node.certificate_expire_time.CopyFrom(timestamp_to_pb(record.current.expire_time))
            node.generation = record.current.generation
            if record.quarantine_time is not None:
                node.state = "quarantined"
                node.quarantine_time.CopyFrom(timestamp_to_pb(record.quarantine_time))
        return node


def _unknown_node(node: str) -> NotFound:
    return NotFound("UNKNOWN_NODE", f"no node {node} has joined", hint="list the nodes to see which have", node=node)


def _lanes_of(facts: LedgerFacts, now: float) -> dict[str, list[admin_pb2.LaneStatus]]:
    lanes: dict[str, list[admin_pb2.LaneStatus]] = defaultdict(list)
    newest = {(up.node, up.lane): up for up in facts.uplinks}
    for up in newest.values():
        lanes[up.node].append(_applied_lane("up", up))
    for down in facts.downlinks:
        lanes[down.node].append(_sent_lane("down", down, now))
    return lanes


def parent_lanes(up: Sequence[DownlinkCounts], down: Sequence[UplinkCounts], now: float) -> list[admin_pb2.LaneStatus]:
    """Lanes of the link to the parent; `now` is wall clock, seconds."""
    newest = {counts.lane: counts for counts in down}
    return [
        *(_sent_lane("up", counts, now) for counts in up),
        *(_applied_lane("down", counts) for counts in newest.values()),
    ]


def _applied_lane(direction: str, counts: UplinkCounts) -> admin_pb2.LaneStatus:
    return admin_pb2.LaneStatus(
        direction=direction,
        lane=counts.lane.name.lower(),
        epoch=counts.epoch,
        last_sequence=counts.sequence,
        acked_sequence=counts.sequence,
    )


def _sent_lane(direction: str, counts: DownlinkCounts, now: float) -> admin_pb2.LaneStatus:
    status = admin_pb2.LaneStatus(
        direction=direction,
        lane=counts.lane.name.lower(),
        epoch=counts.epoch,
        last_sequence=counts.last,
        acked_sequence=counts.acked,
        pending_count=counts.held,
        pending_bytes=counts.held_bytes,
    )
    if counts.held:
        status.oldest_age_duration.CopyFrom(duration_to_pb(now - counts.oldest))
    return status
