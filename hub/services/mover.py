"""How tasks move between nodes: every decision, none of the doing.

Theory of operation. A task's row at the hub is the truth about who holds it. The hub gives a task to a node by raising the
task's fence and naming the node in the row; only that node, with that fence, may say what became of it. Whoever held it
before is outdated from the moment the new fence is committed, whether or not it has heard of it: its reports are
counted and discarded. So a task may be worked on twice (a node is cut off, not dead), but only one outcome ever counts,
and a terminal state never changes.

An entry is rejected only if not even its task can be read, because a rejection travels once, in the acknowledgement, and may
be lost with it. Whatever speaks of a task that the hub cannot take or does not know is answered by a report in the log of
the node that waits.

What a decision writes, it writes at once: the rows, the entries for the nodes concerned (the grant to the holder, the
report to the origin) and the cursor of the batch that caused it go into one transaction, so no crash parts them. The
functions here are given the rows as read inside that transaction and may run more than once; they have no effect but their
result.

A task taken back from a lost or unwilling node keeps its fence until the next grant raises it: a result that node
has written in the meantime is as good as any other, and is taken.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence

from msgspec.structs import replace

from edgenode.link.errors import AlreadyExists, EdgenodeError, FailedPrecondition
from edgenode.link.model.problem import Code, Problem
from edgenode.link.model.task import OnLost, TaskState
from edgenode.link.protocol.scheduler import Demand
from edgenode.link.protocol.tasks import TaskEvent, next_state
from hub.services.moves import Answered, CancelAsked, Codec, Entry, Malformed, Offered, Reported, Returned, Unacceptable
from hub.store.records import Decide, Decision, TaskRecord, Tasks, WaitKey

_NOTHING = Demand("")


class Mover:
    """Makes the decisions. `hub` is the hub's own name: tasks of that origin have no log to report to."""

    def __init__(self, hub: str, codec: Codec, avoid_seconds: float = 5.0) -> None:
        self._hub = hub
        self._codec = codec
        self.avoid_seconds = avoid_seconds

    def intake(
        self, node: str, entries: Sequence[tuple[int, Entry]], parked: Mapping[WaitKey, str], now: float
    ) -> Decide:
        """Apply numbered entries of a node; those up to the last one applied before are passed over."""
        reasons = dict(parked)

        def decide(known: Tasks, applied_before: int) -> Decision:
            book = _Book(self, known, now)
            for sequence, entry in entries:
                if sequence > applied_before:
                    book.take(sequence, node, entry, reasons)
            return book.decision

        return decide

    def submit(self, tasks: Sequence[TaskRecord], now: float) -> Decide:
        """Store tasks of the hub's own callers, but for those whose request id or idempotency key is known."""

        def decide(known: Tasks, _: int) -> Decision:
            book = _Book(self, known, now)
            for task in tasks:
                if duplicate_of(task, [*known.values(), *book.decision.tasks.values()]) is None:
                    book.put(task)
            return book.decision

        return decide

    def cancel(self, task_id: str, reason: str, now: float) -> Decide:
        """The end of a task was asked for on the hub."""

        def decide(known: Tasks, _: int) -> Decision:
            book = _Book(self, known, now)
            if task_id in known:
                book.cancel(known[task_id], reason)
            return book.decision

        return decide

    def answer(self, task_id: str, key: str, answer: bytes, now: float) -> Decide:
        """A question was answered on the hub. Refusal: FailedPrecondition (NO_INPUT_REQUESTED)."""

        def decide(known: Tasks, _: int) -> Decision:
            book = _Book(self, known, now)
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
            book = _Book(self, known, now)
            free = {key: list(nodes) for key, nodes in slots.items()}
            for task in known.values():
                node = _take_slot(task, free[task.wait_key], spares.get(task.wait_key, ""), now)
                if node is not None:
                    book.grant(task, node)
            return book.decision

        return decide

    def park(self, reasons: Mapping[WaitKey, str], now: float) -> Decide:
        """Nobody fits these queues: say so in the rows and to the origins."""

        def decide(known: Tasks, _: int) -> Decision:
            book = _Book(self, known, now)
            for task in known.values():
                book.conclude(task, TaskEvent.PARK, reasons[task.wait_key])
            return book.decision

        return decide

    def expire(self, now: float) -> Decide:
        """End what is past its deadline."""

        def decide(known: Tasks, _: int) -> Decision:
            book = _Book(self, known, now)
            for task in known.values():
                if 0 < task.deadline <= now:
                    book.expire(task)
            return book.decision

        return decide

    def lost(self, node: str, movable: Collection[WaitKey], now: float) -> Decide:
        """A holder has been out of reach for too long. `movable` are the queues that somebody else fits."""
        keys = frozenset(movable)

        def decide(known: Tasks, _: int) -> Decision:
            book = _Book(self, known, now)
            for task in known.values():
                if task.holder == node:
                    book.lost(task, task.wait_key in keys)
            return book.decision

        return decide

    def avoid_until(self, now: float) -> float:
        """Until when a node that gave a task back does not get it again."""
        return now + self.avoid_seconds

    @property
    def codec(self) -> Codec:
        """The entries' form."""
        return self._codec

    @property
    def hub(self) -> str:
        """The hub's own name."""
        return self._hub


def duplicate_of(task: TaskRecord, known: Collection[TaskRecord]) -> TaskRecord | None:
    """The task submitted before under the same request id or idempotency key."""
    for other in known:
        if task.request_id and other.request_id == task.request_id:
            return other
        if task.idempotency_key and other.idempotency_key == task.idempotency_key:
            return other
    return None


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
    avoided = task.avoid if task.avoid_until > now else ""
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


class _Book:
    """One decision under way: tasks as read, overlaid by what was decided so far."""

    def __init__(self, mover: Mover, known: Tasks, now: float) -> None:
        self._mover = mover
        self._codec = mover.codec
        self._known = known
        self._now = now
        self.decision = Decision()

    def get(self, task_id: str) -> TaskRecord | None:
        return self.decision.tasks.get(task_id) or self._known.get(task_id)

    def put(self, task: TaskRecord) -> None:
        self.decision.tasks[task.task_id] = task

    def change(self, task: TaskRecord, **changes: object) -> TaskRecord:
        before = self._known.get(task.task_id)
        sequence = task.sequence if before is None else before.sequence + 1
        after = replace(task, update_time=self._now, sequence=sequence, **changes)
        self.put(after)
        return after

    def send(self, node: str, entry: bytes) -> None:
        self.decision.entries.append((node, entry))

    def tell_origin(self, task: TaskRecord, outcome: bytes) -> None:
        if task.origin != self._mover.hub:
            self.send(task.origin, self._codec.report(outcome))

    def conclude(
        self, task: TaskRecord, event: TaskEvent, reason: str = "", problem: Problem | None = None, **changes: object
    ) -> None:
        """A change the hub makes by itself, of which the origin is told."""
        after = self.change(task, state=next_state(task.state, event), state_reason=reason, **changes)
        after = replace(after, outcome=self._codec.outcome(after, problem))
        self.put(after)
        self.tell_origin(after, after.outcome)

    def take(self, sequence: int, node: str, entry: Entry, parked: Mapping[WaitKey, str]) -> None:
        """One entry of a node."""
        match entry:
            case Malformed(problem):
                self.decision.rejected.append((sequence, problem))
            case Offered(task):
                self._offered(task, parked)
            case Unacceptable(task_id, problem):
                self._unacceptable(node, task_id, problem)
            case _:
                known = self.get(entry.task_id)
                if known is None:
                    self._unknown(node, entry)
                elif isinstance(entry, Reported):
                    self._reported(node, known, entry)
                elif isinstance(entry, Returned):
                    self._returned(node, known, entry)
                elif known.origin != node:
                    self.decision.discarded["FOREIGN_TASK"] += 1
                elif isinstance(entry, CancelAsked):
                    self.cancel(known, entry.reason)
                else:
                    self.answer(known, entry.key, entry.answer)

    def _offered(self, task: TaskRecord, parked: Mapping[WaitKey, str]) -> None:
        known = self.get(task.task_id)
        if known is not None:
            self._offered_again(known, task.origin)
        elif 0 < task.deadline <= self._now:
            self.expire(task)
        else:
            reason = parked.get(task.wait_key)
            if reason is None:
                self.put(task)
            else:
                self.conclude(task, TaskEvent.PARK, reason)

    def _offered_again(self, known: TaskRecord, node: str) -> None:
        if known.origin != node:
            self.decision.discarded["FOREIGN_TASK"] += 1
            self._tell_end(node, known.task_id, TaskState.FAILED, _foreign(known, node))
            return
        self.decision.discarded["DUPLICATE_OFFER"] += 1
        # An origin that offers it again has lost its knowledge of the outcome.
        if known.state.terminal:
            self.tell_origin(known, known.outcome)

    def _unacceptable(self, node: str, task_id: str, problem: Problem) -> None:
        known = self.get(task_id)
        if known is not None:
            self._offered_again(known, node)
        else:
            self.decision.discarded["UNACCEPTABLE_OFFER"] += 1
            self._tell_end(node, task_id, TaskState.FAILED, problem)

    def _unknown(self, node: str, entry: Reported | Returned | CancelAsked | Answered) -> None:
        """A task without a row: swept long after its end was told, or lost when the hub was restored from a backup."""
        self.decision.discarded["UNKNOWN_TASK"] += 1
        problem = Problem(
            Code.NOT_FOUND,
            "UNKNOWN_TASK",
            f"the hub has no task {entry.task_id} any more",
            hint="it may have run; submit it again if it may twice",
        )
        # If the origin still waits, nobody else will tell it; if not, it discards this.
        if isinstance(entry, CancelAsked):
            self._tell_end(node, entry.task_id, TaskState.CANCELED, problem)
        elif isinstance(entry, Answered):
            self._tell_end(node, entry.task_id, TaskState.FAILED, problem)

    def _tell_end(self, node: str, task_id: str, state: TaskState, problem: Problem) -> None:
        """Report the end of a task that has no row here."""
        end = TaskRecord(
            task_id, node, _NOTHING, 0, self._now, state=state, state_reason=problem.reason, update_time=self._now
        )
        self.send(node, self._codec.report(self._codec.outcome(end, problem)))

    def _reported(self, node: str, task: TaskRecord, report: Reported) -> None:
        if task.state.terminal:
            self.decision.discarded["ENDED"] += 1
            return
        taken_back = not task.holder and task.avoid == node and report.state.terminal
        if report.fence != task.fence or not (task.holder == node or taken_back):
            self.decision.discarded["FENCED"] += 1
            return
        state = report.state
        if state in (TaskState.QUEUED, TaskState.PARKED):
            state = TaskState.ASSIGNED  # it waits over there; here it has been given away
        self.change(
            task,
            state=state,
            state_reason=report.state_reason,
            attempt_count=max(task.attempt_count, report.attempt_count),
            agent=report.agent or task.agent,
            outcome=report.outcome,
            holder=node if state.terminal else task.holder,
        )
        self.tell_origin(task, report.outcome)

    def _returned(self, node: str, task: TaskRecord, returned: Returned) -> None:
        if task.state.terminal or task.holder != node or task.fence != returned.fence:
            self.decision.discarded["ENDED" if task.state.terminal else "FENCED"] += 1
            return
        if task.cancel_reason is not None:
            self._canceled(task, task.cancel_reason)
            return
        self.change(
            task,
            state=TaskState.QUEUED,
            state_reason=f"given back by {node}: {returned.reason}",
            holder="",
            avoid=node,
            avoid_until=self._mover.avoid_until(self._now),
        )

    def cancel(self, task: TaskRecord, reason: str) -> None:
        if task.state.terminal or task.cancel_reason is not None:
            return
        if task.holder:
            self.change(task, cancel_reason=reason)
            self.send(task.holder, self._codec.cancel(task.task_id, reason))
        else:
            self._canceled(task, reason)

    def _canceled(self, task: TaskRecord, reason: str) -> None:
        problem = Problem(Code.CANCELLED, "CANCELED", reason or "its submitter asked for its end")
        self.conclude(task, TaskEvent.CANCEL, reason, problem, cancel_reason=reason)

    def answer(self, task: TaskRecord, key: str, answer: bytes) -> None:
        if task.state.terminal:
            self.decision.discarded["ENDED"] += 1
            return
        self.change(task, answers=task.answers + self._codec.answers(key, answer))
        if task.holder:
            self.send(task.holder, self._codec.answer(task.task_id, key, answer))

    def grant(self, task: TaskRecord, node: str) -> None:
        after = self.change(
            task,
            state=next_state(task.state, TaskEvent.ASSIGN),
            state_reason="",
            holder=node,
            fence=task.fence + 1,
        )
        self.send(node, self._codec.grant(after))

    def expire(self, task: TaskRecord) -> None:
        problem = Problem(
            Code.DEADLINE_EXCEEDED,
            "DEADLINE_PASSED",
            "its deadline passed first",
            hint="submit it with a later deadline",
        )
        if task.held:
            self.send(task.holder, self._codec.revoke(task.task_id, task.fence))
        self.conclude(task, TaskEvent.EXPIRE, "", problem)

    def lost(self, task: TaskRecord, movable: bool) -> None:
        revoke = self._codec.revoke(task.task_id, task.fence)
        if task.on_lost is OnLost.FAIL:
            problem = Problem(
                Code.UNAVAILABLE,
                "NODE_LOST",
                f"{task.holder} went out of reach while it had the task",
                hint="it may have run there; check before you submit it again",
            )
            self.send(task.holder, revoke)
            self.conclude(task, TaskEvent.FAIL, "", problem)
        elif task.cancel_reason is not None:
            self.send(task.holder, revoke)
            self._canceled(task, task.cancel_reason)
        elif task.on_lost is OnLost.RETRY and movable:
            self.send(task.holder, revoke)
            reason = f"taken back from {task.holder}: out of reach"
            self.change(task, state=TaskState.QUEUED, state_reason=reason, holder="", avoid=task.holder)


def _foreign(task: TaskRecord, node: str) -> Problem:
    error: EdgenodeError = AlreadyExists(
        "TASK_OF_ANOTHER_NODE",
        f"task {task.task_id} belongs to {task.origin}, not to {node}",
        hint="task ids are minted by the node that accepts the task",
        task_id=task.task_id,
    )
    return error.problem
