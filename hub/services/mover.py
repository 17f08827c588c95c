"""How tasks move between nodes: every decision, none of the doing.

Theory of operation. A task's row at the hub is the truth about who holds it. The hub gives a task to a node by raising the
task's fence and naming the node in the row; only that node, with that fence, may say what became of it. Whoever held it
before is outdated from the moment the new fence is committed, whether or not it has heard of it: its reports are
counted and discarded. So a task may be worked on twice (a node is cut off, not dead), but only one outcome ever counts,
and a terminal state never changes.

An entry is rejected only if not even its task can be read: a rejection tells the node that sent it, and perhaps its operator,
but nobody who waits. Whatever speaks of a task that the hub cannot take or does not know is answered by a report in the log
of the node that waits.

What a decision writes, it writes at once: the rows, the entries for the nodes concerned (the grant to the holder, the
report to the origin) and the cursor of the batch that caused it go into one transaction, so no crash parts them. The
functions here are given the rows as read inside that transaction and may run more than once; they have no effect but their
result.

A task taken back from a lost or unwilling node keeps its fence until the next grant raises it: a result that node
has written in the meantime is as good as any other, and is taken.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Mapping, Sequence

from edgenode.link.errors import AlreadyExists, FailedPrecondition
from edgenode.link.model.task import TaskState
from edgenode.link.protocol.tasks import TaskEvent, is_past
from hub.services import restating, upstream
from hub.services.book import Book, Terms
from hub.services.moves import Codec, Entry, ParentMove, Restated
from hub.store.records import PARENT, Decide, Decision, Selection, TaskRecord, Tasks, WaitKey


class Mover:
    """Makes the decisions; see Terms for what it is given."""

    def __init__(
        self,
        hub: str,
        codec: Codec,
        avoid_seconds: float = 5.0,
        fence_base: Callable[[], int] = int,
        forgetful: Callable[[], bool] = bool,
        home: str | None = None,
    ) -> None:
        self.terms = Terms(hub, codec, avoid_seconds, fence_base, forgetful, home)

    def intake(
        self,
        node: str,
        entries: Sequence[tuple[int, Entry]],
        parked: Mapping[WaitKey, str],
        now: float,
        asked: str = "",
    ) -> Decide:
        """Apply numbered entries of a node; those up to the last one applied before are passed over.

        `asked` is what the node is being asked to say again.
        """
        reasons = dict(parked)
        base = self.terms.fence_base()

        def decide(known: Tasks, applied_before: int) -> Decision:
            book = Book(self.terms, known, now)
            hearing = asked
            for sequence, entry in entries:
                if hearing and isinstance(entry, Restated) and entry.restate_id == hearing:
                    hearing = ""  # it has said all: what follows is as usual
                elif sequence > applied_before and not (
                    hearing and restating.take(book, node, entry, hearing, base, reasons)
                ):
                    book.take(sequence, node, entry, reasons)
            return book.decision

        return decide

    def from_parent(self, entries: Sequence[tuple[int, ParentMove]], now: float, old_until: int) -> Decide:
        """Apply numbered entries of the parent; those up to the last one applied before are passed over.

        What is numbered above `old_until` was never told before, whatever this hub has forgotten.
        """

        def decide(known: Tasks, applied_before: int) -> Decision:
            book = Book(self.terms, known, now)
            for sequence, entry in entries:
                if sequence > applied_before:
                    upstream.take(book, sequence, entry, sequence <= old_until)
            return book.decision

        return decide

    def ask(self, node: str, restate_id: str, now: float) -> Decide:
        """A node is to say again what it has."""

        def decide(known: Tasks, _: int) -> Decision:
            book = Book(self.terms, known, now)
            book.send(node, book.codec.restate(restate_id))
            return book.decision

        return decide

    def settle(self, node: str, asked: str, now: float) -> Decide:
        """What is still in doubt of what was selected, now that a node, or without one every node, has said all."""

        def decide(known: Tasks, _: int) -> Decision:
            book = Book(self.terms, known, now)
            restating.settle(book, node, list(known.values()), asked)
            return book.decision

        return decide

    def hand_up(self, reason: str, now: float) -> Decide:
        """Nobody here fits what was selected, for `reason`: it goes to the parent."""

        def decide(known: Tasks, _: int) -> Decision:
            book = Book(self.terms, known, now)
            for task in known.values():
                upstream.hand_up(book, task, reason)
            return book.decision

        return decide

    def submit(self, tasks: Sequence[TaskRecord], now: float) -> Decide:
        """Store tasks of the hub's own callers, but for those that are late or known by request id or idempotency key."""

        def decide(known: Tasks, _: int) -> Decision:
            book = Book(self.terms, known, now)
            submissions = Submissions(known.values())
            for task in tasks:
                if submissions.first(task) is None and not is_past(task.deadline, now):
                    book.put(task)
                    submissions.add(task)
            return book.decision

        return decide

    def cancel(self, task_id: str, reason: str, now: float) -> Decide:
        """The end of a task was asked for on the hub."""

        def decide(known: Tasks, _: int) -> Decision:
            book = Book(self.terms, known, now)
            if task_id in known:
                book.cancel(known[task_id], reason)
            return book.decision

        return decide

    def answer(self, task_id: str, key: str, answer: bytes, now: float) -> Decide:
        """A question was answered on the hub. Refusal: FailedPrecondition (NO_INPUT_REQUESTED)."""

        def decide(known: Tasks, _: int) -> Decision:
            book = Book(self.terms, known, now)
            task = known.get(task_id)
            if task is not None:
                if task.state not in (TaskState.INPUT_REQUIRED, TaskState.AUTH_REQUIRED):
                    book.decision.refusal = FailedPrecondition(
                        "NO_INPUT_REQUESTED",
                        f"task {task_id} is {task.state.name} and asks nothing",
                        hint="watch the task and answer when it is INPUT_REQUIRED",
                        task_id=task_id,
                    )
                else:
                    book.answer(task, key, answer)
            return book.decision

        return decide

    def grant(self, slots: Mapping[WaitKey, Sequence[str]], spares: Mapping[WaitKey, str], now: float) -> Decide:
        """Give waiting tasks, in order, to the nodes of their queue's slots; see placement.Plan for the spares."""

        def decide(known: Tasks, _: int) -> Decision:
            book = Book(self.terms, known, now)
            free = {key: list(nodes) for key, nodes in slots.items()}
            for task in known.values():
                node = _take_slot(task, free[task.wait_key], spares.get(task.wait_key, ""), now)
                if node is not None:
                    book.grant(task, node)
            return book.decision

        return decide

    def grant_again(self, node: str, now: float) -> Decide:
        """The node may have forgotten what was selected, which it holds."""

        def decide(known: Tasks, _: int) -> Decision:
            book = Book(self.terms, known, now)
            for task in known.values():
                book.grant_again(task)
            return book.decision

        return decide

    def park(self, reasons: Mapping[WaitKey, str], now: float) -> Decide:
        """Nobody fits these queues: say so in the rows and to the origins."""

        def decide(known: Tasks, _: int) -> Decision:
            book = Book(self.terms, known, now)
            for task in known.values():
                book.conclude(task, TaskEvent.PARK, reasons[task.wait_key])
            return book.decision

        return decide

    def expire(self, now: float) -> Decide:
        """End what is past its deadline."""

        def decide(known: Tasks, _: int) -> Decision:
            book = Book(self.terms, known, now)
            for task in known.values():
                if 0 < task.deadline <= now:
                    book.expire(task)
            return book.decision

        return decide

    def orphans(self, now: float) -> Decide:
        """What was selected is with a parent that is none any more."""

        def decide(known: Tasks, _: int) -> Decision:
            book = Book(self.terms, known, now)
            for task in known.values():
                upstream.orphan(book, task)
            return book.decision

        return decide

    def lost(self, node: str, movable: Collection[WaitKey], now: float) -> Decide:
        """A holder has been out of reach for too long. `movable` are the queues that somebody else fits."""
        keys = frozenset(movable)

        def decide(known: Tasks, _: int) -> Decision:
            book = Book(self.terms, known, now)
            for task in known.values():
                if task.holder == node == PARENT:
                    upstream.take_back(book, task, task.wait_key in keys)
                elif task.holder == node:
                    book.lost(task, task.wait_key in keys)
            return book.decision

        return decide

    def spare_damaged(self, selection: Selection, decide: Decide, now: float) -> Decide:
        """`decide` over what was stored and is still the same.

        What is damaged ends before it: where it was asked for by name it is decided over as ended, else not at all.
        """
        named = bool(selection.task_ids or selection.request_ids or selection.idempotency_keys)

        def checked(known: Tasks, applied_before: int) -> Decision:
            damaged = {task_id: task for task_id, task in known.items() if task.damaged}
            if not damaged:
                return decide(known, applied_before)
            book = Book(self.terms, damaged, now)
            for task in damaged.values():
                book.give_up_damaged(task)
            shown = {task_id: book.as_told(task) for task_id, task in damaged.items()} if named else {}
            whole = {task_id: task for task_id, task in known.items() if not task.damaged}
            decision = decide({**whole, **shown}, applied_before)
            decision.tasks = {**book.decision.tasks, **decision.tasks}
            decision.entries[:0] = book.decision.entries
            return decision

        return checked


class Submissions:
    """Tasks of the hub's own callers, by the keys that tell a submission from its repetition."""

    def __init__(self, known: Iterable[TaskRecord]) -> None:
        self._by_request: dict[str, TaskRecord] = {}
        self._by_key: dict[str, TaskRecord] = {}
        for task in known:
            self.add(task)

    def add(self, task: TaskRecord) -> None:
        """One more; the first under a key stays."""
        if task.request_id:
            self._by_request.setdefault(task.request_id, task)
        if task.idempotency_key:
            self._by_key.setdefault(task.idempotency_key, task)

    def first(self, task: TaskRecord) -> TaskRecord | None:
        """The task submitted before under the same request id or idempotency key."""
        return self._by_request.get(task.request_id) or self._by_key.get(task.idempotency_key)


def conflict(first: TaskRecord) -> AlreadyExists:
    """The error for a known key with another spec."""
    return AlreadyExists(
        "IDEMPOTENCY_CONFLICT",
        f"the key was used before, for another spec: task {first.task_id}",
        hint="use a new key for new work, or send the same spec again",
        task_id=first.task_id,
    )


def _take_slot(task: TaskRecord, slots: list[str], spare: str, now: float) -> str | None:
    """A node for the task: not the one that just gave it back, and its own origin only if need be."""
    avoided = task.avoided(now)
    best = None
    for index in range(len(slots) - 1, -1, -1):
        if slots[index] == avoided:
            continue
        best = index
        if slots[index] != task.origin:
            break
    if spare and spare != avoided and slots and (best is None or slots[best] == task.origin):
        slots.pop()
        return spare
    return None if best is None else slots.pop(best)
