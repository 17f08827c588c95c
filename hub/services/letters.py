"""Dead letters from the hub: its own, and over the link those of a node."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from edgenode.api.admin.v1 import admin_service_pb2
from edgenode.api.fleet.v1 import fleet_service_pb2 as pb
from edgenode.api.sync.v1 import sync_pb2
from edgenode.link.errors import FailedPrecondition
from edgenode.link.model.dead_letter import ENTRY, TASK, DeadLetter
from edgenode.link.model.lanes import Lane
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
from hub.services.node_admin import NodeAdmin
from hub.services.task_desk import TaskDesk
from hub.store.ports import DeadLetterStore, TaskStore

TASK_LANE = Lane.TASK.name.lower()

Replayed = admin_service_pb2.ReplayDeadLettersResponse


class FleetLetters:
    """What FleetService does about dead letters. Requests name a node, or nobody: the hub.

    `log_of(node)` names the log of task entries for a node, `appended(node, lane, last)` is told what went to it again.
    """

    def __init__(
        self,
        store: DeadLetterStore,
        tasks: TaskStore,
        desk: TaskDesk,
        nodes: NodeAdmin,
        log_of: Callable[[str], str],
        appended: Callable[[str, Lane, int], None],
    ) -> None:
        self._store = store
        self._tasks = tasks
        self._desk = desk
        self._nodes = nodes
        self._log_of = log_of
        self._appended = appended

    async def page(self, request: pb.ListFleetDeadLettersRequest) -> pb.ListFleetDeadLettersResponse:
        """Newest first."""
        checks.in_range(request.page_size, 0, MAX_PAGE, "page_size")
        if request.node:
            asked = admin_service_pb2.ListDeadLettersRequest(page_size=request.page_size, page_token=request.page_token)
            answer = await self._nodes.ask(request.node, sync_pb2.AdminExchange(list_dead_letters=asked))
            listed = answer.dead_letters_listed
            return pb.ListFleetDeadLettersResponse(
                dead_letters=listed.dead_letters, next_page_token=listed.next_page_token
            )
        size = request.page_size or 100
        letters = await self._store.page(page_start(request.page_token), size + 1)
        more = len(letters) > size
        return pb.ListFleetDeadLettersResponse(
            dead_letters=[letter_to_pb(letter) for letter in letters[:size]],
            next_page_token=str(letters[size - 1].number) if more else "",
        )

    async def get(self, request: pb.GetFleetDeadLetterRequest) -> pb.GetFleetDeadLetterResponse:
        """One with its content."""
        if request.node:
            asked = admin_service_pb2.GetDeadLetterRequest(dead_letter_id=request.dead_letter_id)
            answer = await self._nodes.ask(request.node, sync_pb2.AdminExchange(get_dead_letter=asked))
            return pb.GetFleetDeadLetterResponse(letter=answer.dead_letter)
        (letter,) = await self._find([request.dead_letter_id])
        task = await self._tasks.get(letter.task_id) if letter.kind == TASK else None
        return pb.GetFleetDeadLetterResponse(letter=shown(letter, b"" if task is None else task.spec))

    async def replay(self, request: pb.ReplayFleetDeadLettersRequest) -> pb.ReplayFleetDeadLettersResponse:
        """Another chance. Raises NotFound (UNKNOWN_DEAD_LETTER), FailedPrecondition (NOT_REPLAYABLE)."""
        if request.node:
            question = sync_pb2.AdminExchange(replay_dead_letters=request.letters)
            answer = await self._nodes.ask(request.node, question)
            return pb.ReplayFleetDeadLettersResponse(replayed=answer.dead_letters_replayed)
        checks.short(request.letters.request_id, 100, "request_id")
        letters = await self._find(chosen(request.letters.dead_letter_ids, request.letters.all))
        for letter in letters:
            _check_replayable(letter)
        replayed = Replayed()
        entries = [letter for letter in letters if letter.kind == ENTRY]
        for node, last in (await self._store.send_again(entries, self._log_of)).items():
            self._appended(node, Lane.TASK, last)
        replayed.entry_count = len(entries)
        for letter in letters:
            if letter.kind == TASK:
                # The number makes the request's id the letter's own: sent again it finds the task made before.
                own_id = f"{request.letters.request_id}/{letter.number}" if request.letters.request_id else ""
                replayed.task_ids.append((await self._desk.replay(letter.task_id, own_id)).task_id)
                await self._store.replayed([letter.number])
        return pb.ReplayFleetDeadLettersResponse(replayed=replayed)

    async def drop(self, request: pb.DropFleetDeadLettersRequest) -> pb.DropFleetDeadLettersResponse:
        """Forget them. Raises InvalidArgument (BAD_SELECTION, BAD_REASON)."""
        if request.node:
            question = sync_pb2.AdminExchange(drop_dead_letters=request.letters)
            answer = await self._nodes.ask(request.node, question)
            return pb.DropFleetDeadLettersResponse(dropped_count=answer.dead_letters_dropped.dropped_count)
        numbers = chosen(request.letters.dead_letter_ids, request.letters.all)
        count = await self._store.drop(numbers, drop_reason(request.letters.reason))
        return pb.DropFleetDeadLettersResponse(dropped_count=count)

    async def _find(self, numbers: list[int] | None) -> Sequence[DeadLetter]:
        letters = await self._store.find(numbers)
        check_known(numbers, letters)
        return letters


def _check_replayable(letter: DeadLetter) -> None:
    if letter.kind == TASK or (letter.kind == ENTRY and letter.lane == TASK_LANE and letter.subject):
        return
    raise FailedPrecondition(
        "NOT_REPLAYABLE",
        f"dead letter {letter.number} is a {letter.kind} of the {letter.lane} lane that cannot go to {letter.node} again",
        hint="drop it; a grant is given elsewhere by itself",
        dead_letter_id=letter.number,
    )
