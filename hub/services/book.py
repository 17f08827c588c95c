"""One decision under way: what each of its steps does to rows and logs. `mover` says when, and why it is safe."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

from msgspec.structs import replace

from edgenode.link.errors import AlreadyExists, EdgenodeError
from edgenode.link.model.problem import Code, Problem
from edgenode.link.model.task import OnLost, TaskState
from edgenode.link.protocol.scheduler import Demand
from edgenode.link.protocol.tasks import TaskEvent, next_state
from edgenode.link.store.seals import TASK_DAMAGED, TaskDamaged
from hub.services.moves import (
    Answered,
    CancelAsked,
    Codec,
    Entry,
    Malformed,
    Offered,
    Reported,
    Restated,
    Returned,
    Unacceptable,
)
from hub.store.records import IN_DOUBT_AT_HOLDER, IN_DOUBT_AT_ORIGIN, PARENT, Decision, TaskRecord, Tasks, WaitKey

_NOTHING = Demand("")


@dataclass(frozen=True, slots=True)
class Terms:
    """What holds for every decision. `hub` is the hub's own name: tasks of that origin have no log to report to."""

    hub: str
    codec: Codec
    avoid_seconds: float  # for how long a node that gave a task back does not get it again
    fence_base: Callable[[], int] = int  # what the fence of every grant is above
    forgetful: Callable[[], bool] = bool  # whether nodes may hold what this hub has forgotten that it granted
    home: str | None = None  # the origin of tasks of this fleet that come from the parent


class Book:
    """Tasks as read, overlaid by what was decided so far. `upstream` says what is different about the parent."""

    def __init__(self, terms: Terms, known: Tasks, now: float) -> None:
        self._terms = terms
        self._codec = terms.codec
        self._known = known
        self._now = now
        self.decision = Decision()

    def get(self, task_id: str) -> TaskRecord | None:
        """The task as it is by now."""
        decided = self.decision.tasks.get(task_id)
        return decided if decided is not None or task_id in self.decision.forgotten else self._known.get(task_id)

    def tasks(self) -> list[TaskRecord]:
        """What was selected, as it is by now, and what is new."""
        names = [*self._known, *(name for name in self.decision.tasks if name not in self._known)]
        return [task for name in names if (task := self.get(name)) is not None]

    @property
    def codec(self) -> Codec:
        """Makes the entries."""
        return self._codec

    @property
    def now(self) -> float:
        """Wall clock, seconds."""
        return self._now

    def put(self, task: TaskRecord) -> None:
        """This is how the task is now."""
        self.decision.tasks[task.task_id] = task

    def change(self, task: TaskRecord, **changes: object) -> TaskRecord:
        """The task with these changes, which is how it is now."""
        before = self._known.get(task.task_id)
        sequence = task.sequence if before is None else before.sequence + 1
        after = replace(task, update_time=self._now, sequence=sequence, **changes)
        self.put(after)
        return after

    def send(self, node: str, entry: bytes) -> None:
        """An entry for a node's log."""
        self.decision.entries.append((node, entry))

    def tell_origin(self, task: TaskRecord, outcome: bytes) -> None:
        """Tell whoever waits for it: its origin, and the parent if that granted it."""
        if task.origin != self._terms.hub and not task.from_above:
            self.send(task.origin, self._codec.report(outcome))
        if task.upstream > 0:
            self.send(PARENT, self._codec.report_up(outcome, task.upstream))

    def admit(self, task: TaskRecord, old: bool) -> None:
        """A task that the parent granted. If the grant is `old` a node may have it already, where this hub has forgotten."""
        in_doubt = old and self._terms.forgetful() and task.on_lost is not OnLost.RETRY
        self.put(replace(task, doubt=IN_DOUBT_AT_HOLDER) if in_doubt else task)

    def half_known(self, known: TaskRecord, node: str) -> bool:
        """Whether this hub has forgotten, of a task that `node` offers, what was to be done or who wants it.

        Then it knows of it from who holds it, or from the parent, which tells apart no nodes of this fleet.
        """
        without_demand = known.origin == node and not known.demand.skill
        return not known.state.terminal and (without_demand or known.origin == self._terms.home)

    def complete(self, known: TaskRecord, task: TaskRecord, doubt: int) -> None:
        """A task that was half known is offered: that is what was to be done, and for whom."""
        self.decision.forgotten[known.task_id] = "RESTATED"
        whole = replace(
            known,
            origin=known.origin if task.from_above else task.origin,
            demand=task.demand,
            priority=task.priority,
            submit_time=task.submit_time,
            deadline=task.deadline,
            on_lost=task.on_lost,
            context_id=task.context_id,
            spec=task.spec,
            doubt=doubt,
        )
        self.put(whole)

    def void(self, task: TaskRecord) -> None:
        """Its holder is to forget it; the parent cannot be told so, but that nobody wants it."""
        if task.holder == PARENT:
            self.send(PARENT, self._codec.cancel(task.task_id, "its origin has ended it"))
        elif task.held:
            self.send(task.holder, self._codec.revoke(task.task_id, task.fence))

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
            case Restated():
                self.decision.discarded["RESTATED"] += 1  # nobody asked, or it is asked anew
            case Offered(task):
                self._offered(task, parked)
            case Unacceptable(task_id, problem):
                self._unacceptable(node, task_id, problem)
            case _:
                known = self.get(entry.task_id)
                if known is None:
                    self._unknown(node, entry)
                elif isinstance(entry, Reported):
                    self.reported(node, known, entry)
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
        if known is not None and self.half_known(known, task.origin):
            self.complete(known, task, known.doubt & ~IN_DOUBT_AT_ORIGIN)
        elif known is not None:
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
        if known.origin != node and known.holder == PARENT:
            # It came round: hubs are being joined to a circle. Whoever breaks it has it again.
            self.decision.discarded["LOOP_IN_TREE"] += 1
        elif known.origin not in (node, self._terms.home):
            self.decision.discarded["FOREIGN_TASK"] += 1
            self._tell_end(node, known.task_id, TaskState.FAILED, _foreign(known, node))
        else:
            self.decision.discarded["DUPLICATE_OFFER"] += 1
            # An origin that offers it again has lost its knowledge of the outcome.
            if known.state.terminal:
                self.tell_origin(replace(known, origin=node), known.outcome)

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

    def reported(self, node: str, task: TaskRecord, report: Reported) -> None:
        """Its holder says what became of it."""
        if task.state.terminal:
            self.decision.discarded["ENDED"] += 1
            return
        taken_back = not task.holder and task.avoid == node and report.state.terminal
        # The parent has fences of its own; what it was offered it holds until it grants it back.
        if (report.fence != task.fence and node != PARENT) or not (task.holder == node or taken_back):
            self.decision.discarded["FENCED"] += 1
            return
        state = report.state
        if node != PARENT and state in (TaskState.QUEUED, TaskState.PARKED):
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
            avoid_until=self._now + self._terms.avoid_seconds,
            doubt=task.doubt & IN_DOUBT_AT_ORIGIN,  # the holder has spoken
        )

    def cancel(self, task: TaskRecord, reason: str) -> None:
        """Its end is asked for."""
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
        """A question is answered, for whoever works on it, now or later."""
        if task.state.terminal:
            self.decision.discarded["ENDED"] += 1
            return
        self.change(task, answers=task.answers + self._codec.answers(key, answer))
        if task.holder:
            self.send(task.holder, self._codec.answer(task.task_id, key, answer))

    def grant(self, task: TaskRecord, node: str) -> None:
        """The node gets it."""
        after = self.change(
            task,
            state=next_state(task.state, TaskEvent.ASSIGN),
            state_reason="",
            holder=node,
            fence=max(task.fence, self._terms.fence_base()) + 1,
        )
        self.send(node, self._codec.grant(after))

    def grant_again(self, task: TaskRecord) -> None:
        """Its holder may have forgotten it. The fence is a new one: what it still says of the former grant is outdated."""
        after = self.change(task, fence=max(task.fence, self._terms.fence_base()) + 1)
        self.send(task.holder, self._codec.grant(after))
        if task.cancel_reason is not None:
            self.send(task.holder, self._codec.cancel(task.task_id, task.cancel_reason))

    def expire(self, task: TaskRecord) -> None:
        """Its deadline passed."""
        problem = Problem(
            Code.DEADLINE_EXCEEDED,
            "DEADLINE_PASSED",
            "its deadline passed first",
            hint="submit it with a later deadline",
        )
        self.void(task)
        self.conclude(task, TaskEvent.EXPIRE, "", problem)

    def give_up_damaged(self, task: TaskRecord) -> None:
        """What is stored of it is not what was stored: nobody gets it, and whoever waits is told."""
        if task.state.terminal:
            return
        self.void(task)
        self.conclude(task, TaskEvent.FAIL, TASK_DAMAGED, TaskDamaged(task.task_id).problem)

    def as_told(self, task: TaskRecord) -> TaskRecord:
        """A damaged task that has ended, with an outcome that says so to whoever did not hear of its end."""
        ended = self.get(task.task_id) or task
        if ended.outcome:
            return ended
        failed = replace(ended, state=TaskState.FAILED, state_reason=TASK_DAMAGED)
        return replace(ended, outcome=self._codec.outcome(failed, TaskDamaged(task.task_id).problem))

    def lost(self, task: TaskRecord, movable: bool) -> None:
        """Its holder, a node, is out of reach; `movable`: somebody else fits."""
        if task.on_lost is OnLost.FAIL:
            problem = Problem(
                Code.UNAVAILABLE,
                "NODE_LOST",
                f"{task.holder} went out of reach while it had the task",
                hint="it may have run there; check before you submit it again",
            )
            self.void(task)
            self.conclude(task, TaskEvent.FAIL, "", problem)
        elif task.cancel_reason is not None:
            self.void(task)
            self._canceled(task, task.cancel_reason)
        elif task.on_lost is OnLost.RETRY and movable:
            self.void(task)
            reason = f"taken back from {task.holder}: out of reach"
            doubt = task.doubt & IN_DOUBT_AT_ORIGIN
            self.change(task, state=TaskState.QUEUED, state_reason=reason, holder="", avoid=task.holder, doubt=doubt)


def _foreign(task: TaskRecord, node: str) -> Problem:
    error: EdgenodeError = AlreadyExists(
        "TASK_OF_ANOTHER_NODE",
        f"task {task.task_id} belongs to {task.origin}, not to {node}",
        hint="task ids are minted by the node that accepts the task",
        task_id=task.task_id,
    )
    return error.problem
