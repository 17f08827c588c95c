"""Tasks between this hub and its parent: what goes up, what comes down, as steps of one decision.

Theory of operation. To its parent a hub is an edge. A task that nobody here fits is offered, and from then on the parent
holds it: the row names PARENT as holder and what the parent reports is passed on to the origin, until the parent reports its
end or grants it back. A task that the parent granted has the parent's fence in `upstream`; it moves among the nodes here
under this hub's own fences, and each report of it goes up under the parent's. So every hop has its own numbers, and each
hub's row is the truth about who holds the task at that hop; the id is the same on all of them.

A hub that was restored has forgotten grants. The parent does not wait for what it says it has, as for a node's word: it
grants again what this hub holds (`hub.store.restating.in_force`), and this hub asks its nodes, before it grants anything.
Where this hub has forgotten what the parent does not keep any more, or the parent has forgotten grants that this hub had
(`hub.store.restating.lacks`), it is granted anew all that it holds. Then, and where the parent has forgotten what is not
kept here, this hub is asked, and offers again what it waits for: the parent has it again, or answers with its end.

A grant that nobody here fits any more is given back. If the task began elsewhere its row goes with it, since nobody would
tell this hub of its end; if it began here the parent holds it again.

What the parent holds while it is out of reach is taken back once somebody here fits it, by the same rule as from a lost
node, so that a fleet does not wait for its parent. The parent is told that its copy is not wanted (a cancel); whatever it
still says of the task is outdated, and the task is KEPT: offered again it would meet its own cancelled copy.
"""

from __future__ import annotations

from msgspec.structs import replace

from edgenode.link.model.problem import Code, Problem
from edgenode.link.model.task import OnLost, TaskState
from hub.services.book import Book
from hub.services.moves import (
    Answered,
    Asked,
    CancelAsked,
    Granted,
    GrantRefused,
    Malformed,
    ParentMove,
    Reported,
    Revoked,
)
from hub.store.records import IN_DOUBT_AT_ORIGIN, KEPT, PARENT, TaskRecord

AT_PARENT = "AT_PARENT"


def take(book: Book, sequence: int, entry: ParentMove, old: bool) -> None:
    """One entry of the parent; one that is not `old` it never told before."""
    decision = book.decision
    match entry:
        case Malformed(problem):
            decision.rejected.append((sequence, problem))
        case Granted(task):
            _granted(book, task, old)
        case GrantRefused(task_id, fence, problem):
            book.send(PARENT, book.codec.give_back(task_id, fence, problem))
        case Asked(restate_id):
            _restate(book, restate_id)
        case _:
            known = book.get(entry.task_id)
            if known is None:
                decision.discarded["UNKNOWN_TASK"] += 1
            elif isinstance(entry, Reported):
                book.reported(PARENT, known, entry)
            elif known.upstream <= 0 or known.state.terminal:
                decision.discarded["ENDED" if known.state.terminal else "FENCED"] += 1
            elif isinstance(entry, Revoked):
                _revoked(book, known, entry.fence)
            elif isinstance(entry, CancelAsked):
                book.cancel(known, entry.reason)
            elif isinstance(entry, Answered):
                book.answer(known, entry.key, entry.answer)


def _restate(book: Book, restate_id: str) -> None:
    """Say again what this hub has with its parent; see `restating` for what becomes of it there. Needs the specs."""
    for task in book.tasks():
        if task.state.terminal:
            continue
        if task.holder == PARENT:
            book.send(PARENT, book.codec.offer(task, again=True))
            if task.cancel_reason is not None:
                book.send(PARENT, book.codec.cancel(task.task_id, task.cancel_reason))
        elif task.upstream > 0:
            outcome = task.outcome or book.codec.outcome(task, None)
            book.send(PARENT, book.codec.report_up(outcome, task.upstream))
    book.send(PARENT, book.codec.restated(restate_id))


def _granted(book: Book, task: TaskRecord, old: bool) -> None:
    known = book.get(task.task_id)
    if known is None:
        if 0 < task.deadline <= book.now:
            book.expire(task)
        else:
            book.admit(task, old)
    elif known.state.terminal:
        # It ended here under an older fence: say so again rather than run it twice.
        book.send(PARENT, book.codec.report_up(known.outcome, task.upstream))
        book.decision.discarded["ENDED"] += 1
    elif known.upstream == KEPT:
        problem = _unavailable("TAKEN_BACK", "this hub took it back while its parent was out of reach")
        book.send(PARENT, book.codec.give_back(task.task_id, task.upstream, problem))
    elif known.upstream >= task.upstream:
        book.decision.discarded["FENCED"] += 1
    elif known.holder == PARENT:
        book.change(
            known,
            state=TaskState.QUEUED,
            state_reason="",
            holder="",
            upstream=task.upstream,
            attempt_count=max(known.attempt_count, task.attempt_count),
            answers=known.answers + task.answers,
            doubt=known.doubt & IN_DOUBT_AT_ORIGIN,
        )
    elif not known.demand.skill:
        # This hub was restored and knows of it from the node that holds it: this is the rest.
        book.complete(replace(known, upstream=task.upstream), task, known.doubt & ~IN_DOUBT_AT_ORIGIN)
    else:
        book.change(known, upstream=task.upstream)


def _revoked(book: Book, task: TaskRecord, fence: int) -> None:
    if task.upstream > fence:
        book.decision.discarded["FENCED"] += 1
        return
    book.void(task)
    _leave(book, task, "REVOKED")


def _leave(book: Book, task: TaskRecord, reason: str) -> None:
    """The parent has it again."""
    if task.from_above:
        book.decision.tasks.pop(task.task_id, None)
        book.decision.forgotten[task.task_id] = reason
    else:
        book.change(
            task, state=TaskState.QUEUED, state_reason=AT_PARENT, holder=PARENT, upstream=0, fence=task.fence + 1
        )


def hand_up(book: Book, task: TaskRecord, reason: str) -> None:
    """Nobody here fits a task that waits, for `reason`: the parent gets it, or gets it back. Needs the spec."""
    if task.upstream == KEPT:
        return
    if not task.upstream:
        book.send(PARENT, book.codec.offer(task))
    else:
        if task.attempt_count:  # the attempts made here count where it goes next
            book.send(PARENT, book.codec.report_up(book.codec.outcome(task, None), task.upstream))
        problem = _unavailable("NO_AGENT", reason.removeprefix("NO_AGENT: "))
        book.send(PARENT, book.codec.give_back(task.task_id, task.upstream, problem))
    _leave(book, task, "RETURNED")


def take_back(book: Book, task: TaskRecord, movable: bool) -> None:
    """The parent holds it and is out of reach; `movable`: somebody here fits it."""
    if movable and task.on_lost is OnLost.RETRY and task.cancel_reason is None:
        book.void(task)
        reason = "taken back from the parent: out of reach"
        book.change(
            task,
            state=TaskState.QUEUED,
            state_reason=reason,
            holder="",
            upstream=KEPT,
            doubt=task.doubt & IN_DOUBT_AT_ORIGIN,
        )


def orphan(book: Book, task: TaskRecord) -> None:
    """There is no parent any more: what it held is this hub's, what it granted is nobody's."""
    if task.holder == PARENT and (task.on_lost is OnLost.FAIL or task.cancel_reason is not None):
        book.lost(task, movable=False)
    elif task.holder == PARENT:
        doubt = task.doubt & IN_DOUBT_AT_ORIGIN
        book.change(task, state=TaskState.QUEUED, state_reason="no parent", holder="", upstream=KEPT, doubt=doubt)
    elif task.from_above:
        book.void(task)
        _leave(book, task, "NO_PARENT")
    else:
        book.change(task, upstream=KEPT)


def _unavailable(reason: str, message: str) -> Problem:
    return Problem(Code.UNAVAILABLE, reason, message, hint="see: edgehub find --explain")
