"""AdminService: what operators on the device look at and do. Every number is read when it is asked for."""

from __future__ import annotations

import os
import sqlite3
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import dataclass
from pathlib import Path

from edgenode import __version__
from edgenode.api.admin.v1 import admin_pb2, admin_service_pb2, admin_service_pb2_grpc
from edgenode.link.blobs.files import Folder
from edgenode.link.errors import EdgenodeError, FailedPrecondition
from edgenode.link.ports import Clock
from edgenode.link.store import dead_letters
from edgenode.link.store.database import Database
from edgenode.link.wire import checks
from edgenode.link.wire.ledger import usages_to_pb
from edgenode.link.wire.status import Context
from edgenode.link.wire.values import timestamp_to_pb
from edgenode.node import ledger, salvage, task_store
from edgenode.node.ledger_audit import verify
from edgenode.node.letters import LetterDesk
from edgenode.node.local_agent import health_counts
from edgenode.node.message_log import MessageLog
from edgenode.node.mounts import Mounts
from edgenode.node.registry import AgentRegistry


@dataclass(slots=True)
class NodeFacts:
    """What the composition tells about the node; callables are asked for each answer. Times are wall clock, seconds."""

    node: str
    start_time: float
    identity: Callable[[], str] = lambda: ""
    certificate_expire_time: Callable[[], float | None] = lambda: None
    draining: Callable[[], bool] = lambda: False
    applied_version: Callable[[], int] = lambda: 0
    link: Callable[[], admin_pb2.LinkStatus] = lambda: admin_pb2.LinkStatus(state="disabled")
    back_up: Callable[[Path], Awaitable[admin_pb2.Backup]] | None = None  # to a file or directory
    blob_folder: Folder | None = None
    replay_task: Callable[[str, str], Awaitable[str]] | None = None  # (task id, request id) -> new task's id


class AdminService(admin_service_pb2_grpc.AdminServiceServicer):
    """The servicer."""

    def __init__(
        self,
        database: Database,
        registry: AgentRegistry,
        messages: MessageLog,
        mounts: Mounts,
        clock: Clock,
        facts: NodeFacts,
    ) -> None:
        self._database = database
        self._registry = registry
        self._messages = messages
        self._mounts = mounts
        self._clock = clock
        self._facts = facts
        self._letters = LetterDesk(database, messages, clock, facts.node, facts.replay_task)

    async def GetStatus(
        self, request: admin_service_pb2.GetStatusRequest, context: Context
    ) -> admin_service_pb2.GetStatusResponse:
        """See AdminService."""
        facts = self._facts
        link = facts.link()
        now_time = self._clock.wall()

        def run(connection: sqlite3.Connection) -> tuple[list[admin_pb2.LaneStatus], dict[str, int], int]:
            lanes = ledger.lane_statuses(connection, now_time) if link.parent else []
            return lanes, task_store.counts_by_state(connection), dead_letters.count(connection)

        damages: list[admin_pb2.StoreDamage] = []
        given_up = 0
        try:
            lanes, tasks, letters = await self._database.read(run)
            damages, given_up = await self._database.read(lambda c: (salvage.damages(c), salvage.given_up(c)))
        except EdgenodeError as error:  # all the more is it to be told how the node is
            lanes, tasks, letters = [], {}, 0
            reasons = self._troubles(given_up) or [str(error)]
        else:
            reasons = self._troubles(given_up)
        response = admin_service_pb2.GetStatusResponse(
            node=facts.node,
            identity=facts.identity(),
            version=__version__,
            sqlite_version=sqlite3.sqlite_version,
            process_id=os.getpid(),
            start_time=timestamp_to_pb(facts.start_time),
            health="draining" if facts.draining() else "degraded" if reasons else "ready",
            health_reasons=reasons,
            link=link,
            lanes=lanes,
            agent_counts=health_counts(self._registry.all()),
            task_counts={name.lower(): count for name, count in tasks.items()},
            store_bytes=self._database.file_bytes(),
            store_limit_bytes=self._database.limit_bytes,
            applied_version=facts.applied_version(),
            resident_bytes=_resident_bytes(),
            dead_letter_count=letters,
            lane_usages=usages_to_pb(self._database.budget.usage()),
            damages=damages,
            damaged_entry_count=given_up,
        )
        expiry = facts.certificate_expire_time()
        if expiry is not None:
            response.certificate_expire_time.CopyFrom(timestamp_to_pb(expiry))
        return response

    def _troubles(self, given_up: int) -> list[str]:
        """Why the node is not fully well. A hub out of reach is no trouble of the node's."""
        troubles = [self._database.trouble] if self._database.trouble else []
        if given_up:
            troubles.append(f"{given_up} entries were damaged on the disk and given up: check the disk")
        if self._database.quarantined is not None:
            troubles.append(f"the store was damaged and moved to {self._database.quarantined}")
        if self._database.budget.nearly_full:
            troubles.append("the store is full: new work is refused until some has drained")
        return troubles

    async def GetLedger(
        self, request: admin_service_pb2.GetLedgerRequest, context: Context
    ) -> admin_service_pb2.GetLedgerResponse:
        """See AdminService."""
        parent = self._facts.link().parent
        duplicates = self._messages.unwritten_duplicates
        lines = await self._database.read(lambda connection: ledger.lines(connection, parent, duplicates))
        return admin_service_pb2.GetLedgerResponse(lines=lines)

    async def VerifyLedger(
        self, request: admin_service_pb2.VerifyLedgerRequest, context: Context | None
    ) -> admin_service_pb2.VerifyLedgerResponse:
        """See AdminService."""
        parent = self._facts.link().parent
        return await verify(
            self._database,
            parent,
            self._clock.wall(),
            lambda: self._messages.unwritten_duplicates,
            self._facts.blob_folder,
        )

    async def ListDeadLetters(
        self, request: admin_service_pb2.ListDeadLettersRequest, context: Context | None
    ) -> admin_service_pb2.ListDeadLettersResponse:
        """See AdminService."""
        return await self._letters.page(request)

    async def GetDeadLetter(
        self, request: admin_service_pb2.GetDeadLetterRequest, context: Context | None
    ) -> admin_service_pb2.GetDeadLetterResponse:
        """See AdminService."""
        return await self._letters.get(request.dead_letter_id)

    async def ReplayDeadLetters(
        self, request: admin_service_pb2.ReplayDeadLettersRequest, context: Context | None
    ) -> admin_service_pb2.ReplayDeadLettersResponse:
        """See AdminService. A message goes to the end of the log, a task is submitted anew."""
        return await self._letters.replay(request)

    async def CreateBackup(
        self, request: admin_service_pb2.CreateBackupRequest, context: Context
    ) -> admin_service_pb2.CreateBackupResponse:
        """See AdminService."""
        target = checks.absolute_path(request.path, "path")
        if self._facts.back_up is None:
            raise FailedPrecondition("NOT_DURABLE", "this node keeps nothing on disk: there is nothing to back up")
        return admin_service_pb2.CreateBackupResponse(backup=await self._facts.back_up(target))

    async def DropDeadLetters(
        self, request: admin_service_pb2.DropDeadLettersRequest, context: Context | None
    ) -> admin_service_pb2.DropDeadLettersResponse:
        """See AdminService."""
        return await self._letters.drop(request)

    async def AddMount(
        self, request: admin_service_pb2.AddMountRequest, context: Context
    ) -> admin_service_pb2.AddMountResponse:
        """See AdminService."""
        return await self._mounts.add(request)

    async def ListMounts(
        self, request: admin_service_pb2.ListMountsRequest, context: Context
    ) -> admin_service_pb2.ListMountsResponse:
        """See AdminService."""
        return self._mounts.page(request)

    async def RemoveMount(
        self, request: admin_service_pb2.RemoveMountRequest, context: Context
    ) -> admin_service_pb2.RemoveMountResponse:
        """See AdminService."""
        return await self._mounts.remove(request)

    async def RetryMount(
        self, request: admin_service_pb2.RetryMountRequest, context: Context
    ) -> admin_service_pb2.RetryMountResponse:
        """See AdminService."""
        return self._mounts.retry(request)

    async def WatchMounts(
        self, request: admin_service_pb2.WatchMountsRequest, context: Context
    ) -> AsyncIterator[admin_service_pb2.WatchMountsResponse]:
        """See AdminService."""
        async for response in self._mounts.watch(request.kind):
            yield response

    async def ReportMount(
        self, request: admin_service_pb2.ReportMountRequest, context: Context
    ) -> admin_service_pb2.ReportMountResponse:
        """See AdminService."""
        return self._mounts.report(request)


def _resident_bytes() -> int:
    """Resident memory of this process; 0 where the system does not tell."""
    try:
        pages = int(Path("/proc/self/statm").read_text(encoding="ascii").split()[1])
    except OSError:
        return 0
    return pages * os.sysconf("SC_PAGE_SIZE")
