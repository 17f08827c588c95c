"""The node's dead letters: shown, given another chance, forgotten. Requests may be repeated under their request id."""

from __future__ import annotations

import sqlite3
from collections.abc import Awaitable, Callable, Sequence

from google.protobuf.message import DecodeError

from edgenode.api.admin.v1 import admin_service_pb2
from edgenode.api.message.v1 import message_pb2
from edgenode.api.task.v1 import task_pb2
from edgenode.link.errors import FailedPrecondition
from edgenode.link.model.dead_letter import ENTRY, TASK, DeadLetter
from edgenode.link.model.lanes import Lane, Segment
from edgenode.link.ports import Clock
from edgenode.link.store import dead_letters
from edgenode.link.store.database import Database
from edgenode.link.wire import checks
from edgenode.link.wire.dead_letters import (
    MAX_PAGE,
    check_known,
    chosen,
    drop_reason,
    letter_to_pb,
    page_start,
    shown,
)
from edgenode.node import task_store
from edgenode.node.message_log import MessageLog
from edgenode.node.registry_service import RecentRequests

MESSAGE_LANE = Lane.MESSAGE.name.lower()

ReplayTask = Callable[[str, str], Awaitable[str]]  # (task id, request id) -> new task's id


class LetterDesk:
    """What AdminService does about dead letters."""

    def __init__(
        self, database: Database, messages: MessageLog, clock: Clock, node: str, replay_task: ReplayTask | None
    ) -> None:
        self._database = database
        self._messages = messages
        self._clock = clock
        self._node = node
        self._replay = replay_task
        self._replayed: RecentRequests[admin_service_pb2.ReplayDeadLettersResponse] = RecentRequests()
        self._dropped: RecentRequests[admin_service_pb2.DropDeadLettersResponse] = RecentRequests()

    async def page(
        self, request: admin_service_pb2.ListDeadLettersRequest
    ) -> admin_service_pb2.ListDeadLettersResponse:
        """Newest first. Raises InvalidArgument (OUT_OF_RANGE, BAD_PAGE_TOKEN)."""
        checks.in_range(request.page_size, 0, MAX_PAGE, "page_size")
        size = request.page_size or 100
        before = page_start(request.page_token)
        letters = await self._database.read(lambda connection: dead_letters.page(connection, before, size + 1))
        more = len(letters) > size
        return admin_service_pb2.ListDeadLettersResponse(
            dead_letters=[letter_to_pb(letter) for letter in letters[:size]],
            next_page_token=str(letters[size - 1].number) if more else "",
        )

    async def get(self, number: int) -> admin_service_pb2.GetDeadLetterResponse:
        """One with its content. Raises NotFound (UNKNOWN_DEAD_LETTER)."""
        letters = await self._find([number])
        (letter,) = letters
        spec = b""
        if letter.kind == TASK:
            task = await self._database.read(
                lambda connection: task_store.fetch(connection, letter.task_id, self._node)
            )
            spec = (task.spec if task is not None else task_pb2.TaskSpec()).SerializeToString()
        return shown(letter, spec)

    async def _find(self, numbers: list[int] | None) -> list[DeadLetter]:
        letters = await self._database.read(lambda connection: dead_letters.find(connection, numbers))
        check_known(numbers, letters)
        return letters

    async def replay(
        self, request: admin_service_pb2.ReplayDeadLettersRequest
    ) -> admin_service_pb2.ReplayDeadLettersResponse:
        """A message goes to the end of the log, a task is submitted anew.

        Raises NotFound (UNKNOWN_DEAD_LETTER), FailedPrecondition (NOT_REPLAYABLE).
        """
        checks.short(request.request_id, 100, "request_id")
        known = self._replayed.get(request.request_id)
        if known is not None:
            return known
        letters = await self._find(chosen(request.dead_letter_ids, request.all))
        messages = [(letter, _message(letter)) for letter in letters if letter.kind == ENTRY]
        response = admin_service_pb2.ReplayDeadLettersResponse(entry_count=len(messages))
        await self._replay_messages(messages)
        for letter in letters:
            if letter.kind == TASK:
                response.task_ids.append(await self._replay_task(letter, request.request_id))
        self._replayed.put(request.request_id, response)
        return response

    async def _replay_messages(self, messages: Sequence[tuple[DeadLetter, message_pb2.Message]]) -> None:
        if not messages:
            return
        accepted = self._clock.wall()

        def work(connection: sqlite3.Connection) -> Sequence[Segment]:
            return [
                Segment(1, message_pb2.MessageBatch(messages=[message]).SerializeToString(), accepted)
                for letter, message in messages
                # One that went meanwhile, replayed or dropped by another, is not sent a second time.
                if dead_letters.drop(connection, [letter.number], dead_letters.REPLAYED)
            ]

        await self._messages.replay(work)

    async def _replay_task(self, letter: DeadLetter, request_id: str) -> str:
        if self._replay is None:
            raise FailedPrecondition("NOT_REPLAYABLE", "this node runs no tasks", hint="drop the dead letter")
        # The number makes the request's id the letter's own: sent again after a crash it finds the task made before.
        own_id = f"{request_id}/{letter.number}" if request_id else ""
        task_id = await self._replay(letter.task_id, own_id)
        await self._database.write(
            lambda connection: dead_letters.drop(connection, [letter.number], dead_letters.REPLAYED)
        )
        return task_id

    async def drop(
        self, request: admin_service_pb2.DropDeadLettersRequest
    ) -> admin_service_pb2.DropDeadLettersResponse:
        """Forget them. Raises InvalidArgument (BAD_SELECTION, BAD_REASON)."""
        checks.short(request.request_id, 100, "request_id")
        known = self._dropped.get(request.request_id)
        if known is not None:
            return known
        numbers = chosen(request.dead_letter_ids, request.all)
        reason = drop_reason(request.reason)
        count = await self._database.write(lambda connection: dead_letters.drop(connection, numbers, reason))
        response = admin_service_pb2.DropDeadLettersResponse(dropped_count=count)
        self._dropped.put(request.request_id, response)
        return response


def _message(letter: DeadLetter) -> message_pb2.Message:
    """The message a letter holds. Raises FailedPrecondition (NOT_REPLAYABLE) for anything else."""
    if letter.lane == MESSAGE_LANE and letter.subject:
        try:
            return message_pb2.Message.FromString(letter.payload)
        except DecodeError:
            pass  # said below
    what = "an entry of the task lane" if letter.lane != MESSAGE_LANE else "a message that cannot be read"
    raise FailedPrecondition(
        "NOT_REPLAYABLE",
        f"dead letter {letter.number} is {what}",
        hint="submit its task again, then drop it" if letter.lane != MESSAGE_LANE else "drop it",
        dead_letter_id=letter.number,
    )
