"""What becomes of tasks when one side has forgotten some of what it knew: a hub or a node came back with an older disk.

Theory of operation. Logs heal by themselves: what was retained comes again, what was not is a gap. Tasks do not, for neither
side knows which of its memories are out of date. So the hub asks (TaskRestate), and the node says again, in one transaction
and in the order of its log: each task of its own that the hub has and that it still waits for (an offer, `again`), each grant
that it holds (a report), and that this was all (TaskRestated). From the question on until the hub has taken that in, nothing
is granted to the node. Until then these are in doubt:

- Whether the origin still waits: of all tasks of a restored hub, and of those that a node offers before its answer, since
  those offers may be retained ones that come again. They wait, and are not granted. Offered `again` they go on; those that
  are not offered again have ended at their origin, which was told by a hub that is forgotten: they end here, and run nowhere
  again. A node that has itself forgotten says nothing about it: its tasks go on.
- Whether the holder has it. What it reports it has; what it does not report it has lost: it goes to others, or fails where
  it must not run twice. A restored hub has forgotten grants as well: a report with a higher fence than the row's, which is
  below where the fences of the hub now begin, is of such a grant, and the node holds it. Reports of tasks that the hub has
  forgotten altogether make a row that knows its holder and its outcome; the origin's offer brings the rest.
- Whether anybody has it: tasks of a restored hub that must not run twice wait until every node has answered, and so do those
  that its parent had granted before their session began: later ones no node can have. A restored hub grants nothing at all
  until all nodes have answered, or were out of reach for as long as nodes keep their tasks (`recovery`).

What the hub grants from then on has a fence above all that it ever gave, so whatever a node still does under an older one is
outdated. It cannot remember what it gave; the wall clock stands in for that (`raise_fences`), and where that was ahead before
and is not now, the highest fence that a node knows, which it says with its answer.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from msgspec.structs import replace

from edgenode.link.model.problem import Code, Problem
from edgenode.link.model.task import OnLost, TaskState
from edgenode.link.protocol.scheduler import Demand
from edgenode.link.protocol.tasks import TaskEvent
from hub.services.book import Book
from hub.services.moves import Entry, Malformed, Offered, Reported, Restated, Unacceptable
from hub.store.records import IN_DOUBT_AT_HOLDER, IN_DOUBT_AT_ORIGIN, TaskRecord, WaitKey
from hub.store.restating import HIGHEST_FENCE, forgetful_hub, forgetful_node

RESTORED = "RESTORED"


# --- what a node says while it is asked -----------------------------------------------------------------------------------


def take(book: Book, node: str, entry: Entry, asked: str, fence_base: int, parked: Mapping[WaitKey, str]) -> bool:
    """Take an entry in where it means something else than usual; False: it does not."""
    match entry:
        case Malformed() | Unacceptable():
            return False
        case Restated():
            return True
        case Offered(task, again):
            return _offered(book, task, again, parked)
        case Reported():
            return _reported(book, node, entry, asked, fence_base)
    if book.get(entry.task_id) is None:
        # It will be said whether the origin still waits; until then nobody is told an end.
        book.decision.discarded["UNKNOWN_TASK"] += 1
        return True
    return False


def _offered(book: Book, task: TaskRecord, again: bool, parked: Mapping[WaitKey, str]) -> bool:
    known = book.get(task.task_id)
    doubt = 0 if again else IN_DOUBT_AT_ORIGIN
    if known is None:
        if again or 0 < task.deadline <= book.now:
            return False
        book.put(replace(task, doubt=doubt, state_reason=RESTORED))
        return True
    if book.half_known(known, task.origin):
        book.complete(known, task, known.doubt & ~IN_DOUBT_AT_ORIGIN | doubt)
        return True
    if known.origin != task.origin or known.state.terminal or not again or not known.doubt & IN_DOUBT_AT_ORIGIN:
        return False
    book.decision.discarded["DUPLICATE_OFFER"] += 1
    after = book.change(known, doubt=known.doubt & ~IN_DOUBT_AT_ORIGIN, state_reason="")
    reason = parked.get(after.wait_key)
    if after.waiting and not after.doubt and after.state is TaskState.QUEUED and reason is not None:
        book.conclude(after, TaskEvent.PARK, reason)
    return True


def _reported(book: Book, node: str, report: Reported, asked: str, fence_base: int) -> bool:
    known = book.get(report.task_id)
    if known is None:
        if forgetful_hub(asked) and report.origin:
            _make_row(book, node, report)
            return True
        if report.state.terminal:
            return False
        book.decision.discarded["UNKNOWN_TASK"] += 1
    elif known.state.terminal:
        if report.state.terminal:
            return False
        book.decision.discarded["ENDED"] += 1
    elif (known.holder, known.fence) == (node, report.fence) or (
        known.fence <= fence_base
        and known.fence < report.fence <= (HIGHEST_FENCE if forgetful_hub(asked) else fence_base)
    ):
        held = replace(known, holder=node, fence=report.fence, doubt=known.doubt & ~IN_DOUBT_AT_HOLDER)
        book.reported(node, held, report)
        return True
    else:
        if report.state.terminal:
            return False
        book.decision.discarded["FENCED"] += 1
    book.send(node, book.codec.revoke(report.task_id, report.fence))
    if known is not None and known.state.terminal and known.origin == node:
        # It passed over its end as long as it held the task itself.
        book.send(node, book.codec.report(known.outcome))
    return True


def _make_row(book: Book, node: str, report: Reported) -> None:
    """A task the hub has forgotten, as far as its holder knows it; without a demand until its origin offers it."""
    state = TaskState.ASSIGNED if report.state in (TaskState.QUEUED, TaskState.PARKED) else report.state
    task = TaskRecord(
        report.task_id,
        report.origin,
        Demand(""),
        5,
        book.now,
        state=state,
        state_reason=report.state_reason,
        holder=node,
        fence=report.fence,
        attempt_count=report.attempt_count,
        agent=report.agent,
        outcome=report.outcome,
        update_time=book.now,
        doubt=0 if state.terminal else IN_DOUBT_AT_ORIGIN,
    )
    book.put(task)
    book.tell_origin(task, report.outcome)


# --- once it has said all -------------------------------------------------------------------------------------------------


def settle(book: Book, node: str, tasks: Iterable[TaskRecord], asked: str) -> None:
    """What is still in doubt at a node that has said all; an empty `node`: every node has."""
    for task in tasks:
        if not node:
            book.change(task, doubt=task.doubt & ~IN_DOUBT_AT_HOLDER, state_reason="")
            continue
        if task.origin == node and task.doubt & IN_DOUBT_AT_ORIGIN:
            task = _settle_origin(book, task, asked)
        if not task.state.terminal and task.holder == node and task.doubt & IN_DOUBT_AT_HOLDER:
            _lose(book, task)


def _settle_origin(book: Book, task: TaskRecord, asked: str) -> TaskRecord:
    if forgetful_node(asked) or not forgetful_hub(asked):
        return book.change(task, doubt=task.doubt & ~IN_DOUBT_AT_ORIGIN, state_reason="")
    book.void(task)
    problem = Problem(
        Code.CANCELLED, RESTORED, "its origin has its end already; the hub was restored from a backup made before"
    )
    book.conclude(task, TaskEvent.CANCEL, RESTORED, problem, doubt=0)
    ended = book.get(task.task_id)
    assert ended is not None
    return ended


def _lose(book: Book, task: TaskRecord) -> None:
    """Its holder came back without it."""
    doubt = task.doubt & ~IN_DOUBT_AT_HOLDER
    if task.cancel_reason is not None:
        problem = Problem(Code.CANCELLED, "CANCELED", task.cancel_reason or "its submitter asked for its end")
        book.conclude(task, TaskEvent.CANCEL, task.cancel_reason, problem, doubt=doubt)
    elif task.on_lost is OnLost.RETRY and task.demand.skill:
        reason = f"{task.holder} came back without it"
        book.change(task, state=TaskState.QUEUED, state_reason=reason, holder="", doubt=doubt)
    else:
        problem = Problem(
            Code.UNAVAILABLE,
            "NODE_LOST",
            f"{task.holder} had it, and came back without it",
            hint="it may have run there; check before you submit it again",
        )
        book.conclude(task, TaskEvent.FAIL, "", problem, doubt=doubt)
