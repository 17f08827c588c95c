"""AdminService: what operators on the device look at and do. Every number is read when it is asked for."""

from __future__ import annotations

import os
import sqlite3
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from edgenode import __version__
from edgenode.api.admin.v1 import admin_pb2, admin_service_pb2, admin_service_pb2_grpc
from edgenode.api.message.v1 import message_pb2
from edgenode.link.errors import FailedPrecondition, InvalidArgument, NotFound
from edgenode.link.model.lanes import Lane, Segment
from edgenode.link.ports import Clock
from edgenode.link.store.database import IN_MEMORY, Database
from edgenode.link.wire import checks
from edgenode.link.wire.status import Context
from edgenode.link.wire.values import timestamp_to_pb
from edgenode.node import dead_letters, ledger, task_store
from edgenode.node.local_agent import health_counts
from edgenode.node.message_log import MessageLog
from edgenode.node.registry import AgentRegistry
from edgenode.node.registry_service import RecentRequests

MAX_PAGE = 1000
MAX_IDS = 1000
MESSAGE_LANE = Lane.MESSAGE.name.lower()
_NEWEST = 1 << 62


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
    replay_task: Callable[[str, str], Awaitable[str]] | None = None  # (task id, request id) -> new task's id


class AdminService(admin_service_pb2_grpc.AdminServiceServicer):
    """The servicer."""

    def __init__(
        self, database: Database, registry: AgentRegistry, messages: MessageLog, clock: Clock, facts: NodeFacts
    ) -> None:
        self._database = database
        self._registry = registry
        self._messages = messages
        self._clock = clock
        self._facts = facts
        self._replayed: RecentRequests[admin_service_pb2.ReplayDeadLettersResponse] = RecentRequests()
        self._dropped: RecentRequests[admin_service_pb2.DropDeadLettersResponse] = RecentRequests()

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

        lanes, tasks, letters = await self._database.read(run)
        reasons = self._troubles()
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
            store_bytes=_file_bytes(self._database),
            store_limit_bytes=self._database.limit_bytes,
            applied_version=facts.applied_version(),
            resident_bytes=_resident_bytes(),
            dead_letter_count=letters,
        )
        expiry = facts.certificate_expire_time()
        if expiry is not None:
            response.certificate_expire_time.CopyFrom(timestamp_to_pb(expiry))
        return response

    def _troubles(self) -> list[str]:
        """Why the node is not fully well. A hub out of reach is no trouble of the node's."""
        troubles = []
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

    async def ListDeadLetters(
        self, request: admin_service_pb2.ListDeadLettersRequest, context: Context
    ) -> admin_service_pb2.ListDeadLettersResponse:
        """See AdminService."""
        checks.in_range(request.page_size, 0, MAX_PAGE, "page_size")
        size = request.page_size or 100
        before = _NEWEST
        if request.page_token:
            if not (request.page_token.isascii() and request.page_token.isdigit() and len(request.page_token) < 19):
                raise InvalidArgument(
                    "BAD_PAGE_TOKEN",
                    f"page_token is {request.page_token[:40]!r}",
                    hint="use the token of the page before",
                    field="page_token",
                )
            before = int(request.page_token)
        letters = await self._database.read(lambda connection: dead_letters.page(connection, before, size + 1))
        more = len(letters) > size
        return admin_service_pb2.ListDeadLettersResponse(
            dead_letters=letters[:size], next_page_token=str(letters[size - 1].dead_letter_id) if more else ""
        )

    async def ReplayDeadLetters(
        self, request: admin_service_pb2.ReplayDeadLettersRequest, context: Context
    ) -> admin_service_pb2.ReplayDeadLettersResponse:
        """See AdminService. A message goes to the end of the log, a task is submitted anew."""
        checks.short(request.request_id, 100, "request_id")
        known = self._replayed.get(request.request_id)
        if known is not None:
            return known
        numbers = _numbers(request.dead_letter_ids, request.all)
        letters = await self._database.read(lambda connection: dead_letters.find(connection, numbers))
        _check_all_known(numbers, letters)
        for letter in letters:
            if letter.kind == dead_letters.ENTRY and letter.lane != MESSAGE_LANE:
                raise FailedPrecondition(
                    "NOT_REPLAYABLE",
                    f"dead letter {letter.dead_letter_id} is an entry of the task lane",
                    hint="submit its task again, then drop it",
                    dead_letter_id=letter.dead_letter_id,
                )
        response = admin_service_pb2.ReplayDeadLettersResponse()
        await self._replay_messages([letter for letter in letters if letter.kind == dead_letters.ENTRY])
        for letter in letters:
            if letter.kind == dead_letters.TASK:
                response.task_ids.append(await self._replay_task(letter, request.request_id))
        self._replayed.put(request.request_id, response)
        return response

    async def _replay_messages(self, letters: Sequence[dead_letters.Kept]) -> None:
        if not letters:
            return
        accepted = self._clock.wall()
        numbers = [letter.dead_letter_id for letter in letters]
        segments = [
            Segment(
                1,
                message_pb2.MessageBatch(messages=[message_pb2.Message.FromString(letter.payload)]).SerializeToString(),
                accepted,
            )
            for letter in letters
        ]

        def work(connection: sqlite3.Connection) -> Sequence[Segment]:
            dead_letters.drop(connection, numbers, "REPLAYED")
            return segments

        await self._messages.replay(work)

    async def _replay_task(self, letter: dead_letters.Kept, request_id: str) -> str:
        if self._facts.replay_task is None:
            raise FailedPrecondition("NOT_REPLAYABLE", "this node runs no tasks", hint="drop the dead letter")
        # The number makes the request's id the letter's own: sent again after a crash it finds the task made before.
        own_id = f"{request_id}/{letter.dead_letter_id}" if request_id else ""
        task_id = await self._facts.replay_task(letter.task_id, own_id)
        await self._database.write(
            lambda connection: dead_letters.drop(connection, [letter.dead_letter_id], "REPLAYED")
        )
        return task_id

    async def CreateBackup(
        self, request: admin_service_pb2.CreateBackupRequest, context: Context
    ) -> admin_service_pb2.CreateBackupResponse:
        """See AdminService."""
        target = checks.absolute_path(request.path, "path")
        if self._facts.back_up is None:
            raise FailedPrecondition("NOT_DURABLE", "this node keeps nothing on disk: there is nothing to back up")
        return admin_service_pb2.CreateBackupResponse(backup=await self._facts.back_up(target))

    async def DropDeadLetters(
        self, request: admin_service_pb2.DropDeadLettersRequest, context: Context
    ) -> admin_service_pb2.DropDeadLettersResponse:
        """See AdminService."""
        checks.short(request.request_id, 100, "request_id")
        known = self._dropped.get(request.request_id)
        if known is not None:
            return known
        numbers = _numbers(request.dead_letter_ids, request.all)
        count = await self._database.write(lambda connection: dead_letters.drop(connection, numbers, "DROPPED"))
        response = admin_service_pb2.DropDeadLettersResponse(dropped_count=count)
        self._dropped.put(request.request_id, response)
        return response


def _numbers(ids: Sequence[int], everything: bool) -> list[int] | None:
    """The letters a request names; None for all of them."""
    if everything == bool(ids):
        raise InvalidArgument(
            "BAD_SELECTION", "name dead letters or ask for all, not both", hint="see the list", field="dead_letter_ids"
        )
    checks.at_most(len(ids), MAX_IDS, "dead_letter_ids")
    return None if everything else list(dict.fromkeys(ids))


def _check_all_known(numbers: Sequence[int] | None, letters: Sequence[dead_letters.Kept]) -> None:
    missing = set(numbers or ()) - {letter.dead_letter_id for letter in letters}
    if missing:
        raise NotFound(
            "UNKNOWN_DEAD_LETTER",
            f"there is no dead letter {min(missing)}",
            hint="list them to see which are kept",
            dead_letter_id=min(missing),
        )


def _file_bytes(database: Database) -> int:
    if database.path == IN_MEMORY:
        return database.used_bytes
    size = 0
    for suffix in ("", "-wal"):
        path = Path(database.path + suffix)
        if path.exists():
            size += path.stat().st_size
    return size


def _resident_bytes() -> int:
    """Resident memory of this process; 0 where the system does not tell."""
    try:
        pages = int(Path("/proc/self/statm").read_text(encoding="ascii").split()[1])
    except OSError:
        return 0
    return pages * os.sysconf("SC_PAGE_SIZE")
