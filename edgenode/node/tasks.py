"""The engine of the edge's tasks: accepts them, has them run, answers for them.

Theory of operation. A task that has not ended lives in memory as a LiveTask; its row is written when it is accepted, when
something happens that a restart must know (a failed attempt, a question, a cancellation, the hand-over of work that must not
run twice) and when it ends. Everything else (assigned, working, progress) is memory only and is found again by running.

The rooms: `task_book` keeps tasks, rows, followers and timers, and knows how a task ends; `dispatch` queues tasks and
follows attempts; `task_hub` speaks with the hub; this one takes requests.

A task without a fit agent here and with scope FLEET is offered to the hub in the transaction that accepts it; from then on
the hub holds it and its reports drive the state. A task the hub grants to this node is run like any other, but each change
its origin must know goes up in the transaction that stores it.

Calls take the same path without rows: they are told of every loss at once and never wait past their deadline.
"""

from __future__ import annotations

import logging
import sqlite3
from collections.abc import Callable, Collection, Iterable, Sequence
from functools import partial
from typing import NamedTuple

from edgenode.api.sync.v1 import sync_pb2
from edgenode.api.task.v1 import task_pb2
from edgenode.link.blobs import rows as blob_rows
from edgenode.link.errors import (
    AlreadyExists,
    Cancelled,
    EdgenodeError,
    FailedPrecondition,
    NotFound,
    ResourceExhausted,
    Unavailable,
)
from edgenode.link.failpoints import Failpoint, reach
from edgenode.link.model.blob import BlobRef
from edgenode.link.model.names import make_id
from edgenode.link.model.problem import Problem
from edgenode.link.model.task import URGENT, Level, OnLost, TaskSpec, TaskState
from edgenode.link.ports import Clock, Rng
from edgenode.link.protocol.tasks import TaskEvent, is_past, past_deadline
from edgenode.link.store.database import Database
from edgenode.link.store.seals import TaskDamaged
from edgenode.link.wire import pieces
from edgenode.node import task_entries, task_store
from edgenode.node.dispatch import Dispatcher
from edgenode.node.refusals import Refusals
from edgenode.node.registry import AgentRegistry
from edgenode.node.task_book import AT_HUB, HUB, TASK_LOG, OnDeadLetter, TaskBook, TaskSettings, TaskUplink
from edgenode.node.task_hub import HubTasks
from edgenode.node.task_state import ASKING, SEQUENCE_SKIP, LiveTask, OnPieces

MAX_CALL_BYTES = 64 << 20  # of inputs that calls hold in memory at any time
CANCEL_GRACE = 10.0  # seconds an agent has to stop before the task is called CANCELED without it

OnEnd = Callable[[LiveTask], None]

_log = logging.getLogger(__name__)

_STOPPING = Unavailable("NODE_STOPPING", "the node is stopping", hint="try again once it is back").problem


class NewTask(NamedTuple):
    """One submission. `on_end` is called once the task has ended; not for one that had ended before."""

    spec: TaskSpec
    request_id: str = ""
    fingerprint: bytes = b""
    on_end: OnEnd | None = None
    replay_of: str = ""


class Submitted(NamedTuple):
    """A stored task, or the problem with it. `live` is None for one that had ended before."""

    task_id: str = ""
    live: LiveTask | None = None
    problem: Problem | None = None


class TaskEngine:
    """See the module. Methods that are not awaited run on the event loop without waiting."""

    def __init__(
        self,
        *,
        node: str,
        database: Database,
        registry: AgentRegistry,
        clock: Clock,
        rng: Rng,
        settings: TaskSettings,
        on_dead_letter: OnDeadLetter,
    ) -> None:
        self.book = TaskBook(node, database, clock, settings, on_dead_letter)
        self.hub = HubTasks(self.book, self.cancel)
        self.dispatcher = Dispatcher(self.book, registry, rng, self.hub.take)
        self.hub.connect(self.dispatcher)
        self.applier = task_entries.EntryApplier(node, TASK_LOG, lambda: self.book.settings.limits, on_dead_letter)
        self._registry = registry
        self._rng = rng
        self.lacks_blobs: Callable[[Iterable[BlobRef]], EdgenodeError | None] = _no_blobs
        self._refusals = Refusals(database, task_store.COUNTER)
        self._accepting = False
        self._calls = 0

    async def start(self, uplink: TaskUplink | None = None) -> None:
        """Take up what the store holds. `uplink` is set when the node has joined a hub."""
        self.book.uplink = uplink
        self.dispatcher.start()
        rows, acknowledged = await self.book.database.read(
            lambda connection: (task_store.load_live(connection), task_entries.acknowledged(connection, TASK_LOG))
        )
        for row in sorted(rows, key=task_store.offer_sequence):
            self._revive(row)
        # What the hub had before the stop is not acknowledged a second time.
        self.hub.acknowledged(acknowledged)
        self.book.sweep()
        self._accepting = True

    def stop_accepting(self) -> None:
        """Refuse new work with NODE_DRAINING and begin nothing more; attempts under way go on."""
        self._accepting = False
        self.dispatcher.close(_STOPPING)

    async def stop(self) -> None:
        """Stop for good. Stored tasks go on after the next start; callers are told NODE_STOPPING."""
        self.stop_accepting()
        for live in [live for live in self.book.live.values() if live.call]:
            self.dispatcher.end_call(live, problem=_STOPPING)
        await self.book.stop()
        await self._refusals.close()

    def _revive(self, row: task_store.Row) -> None:
        live = LiveTask(row[0], TaskSpec(task_store.skill(row), b""), row[5], row[12])
        try:
            message = task_pb2.TaskSpec.FromString(task_store.spec_wire(row))
            live = LiveTask(row[0], self.applier.spec(message), row[5], row[12])
            task_store.revive(row, live)
        except TaskDamaged as damaged:
            task_store.revive_facts(row, live)
            live.sequence += SEQUENCE_SKIP
            self._give_up(live, damaged)
        else:
            live.sequence += SEQUENCE_SKIP
            self._resume(live)

    def _give_up(self, live: LiveTask, damaged: TaskDamaged) -> None:
        """What is stored of it is not what was stored: it ends, and whoever else has it is told."""
        _log.error("%s", damaged)
        self.book.live[live.task_id] = live
        entries = [task_entries.cancel(live, damaged.reason)] if live.holder else []
        if self.book.decide(live, TaskEvent.FAIL, problem=damaged.problem):
            self.book.spawn(self.book.commit_outcomes([live], entries))

    def _resume(self, live: LiveTask) -> None:
        self.book.live[live.task_id] = live
        self.dispatcher.watch_deadline(live)
        if live.cancel_requested and not live.holder:
            # The wish was stored and acknowledged; an agent that still works on it is told to stop when it comes back.
            problem = Cancelled("CANCELLED", "cancelled on request").problem
            if self.book.decide(live, TaskEvent.CANCEL, problem=problem):
                self.book.spawn(self.book.commit_outcomes([live]))
        elif live.holder:
            if live.level < Level.DURABLE_HUB:
                self.hub.note_offer(live)
        elif live.state is TaskState.RETRY_WAIT:
            # No longer than it was to be from the start, should the clock have gone back.
            delay = max(live.next_attempt_time - max(self.book.clock.wall(), live.update_time), 0.0)
            live.timer = self.book.after(delay, partial(self.dispatcher.release, live))
        elif live.state in (TaskState.QUEUED, TaskState.PARKED) or live.spec.on_lost is OnLost.RETRY:
            live.enter(TaskState.QUEUED, self.book.clock.wall(), "RESTART")
            self.dispatcher.enqueue(live)
        else:
            # It was handed over and must not run twice: its agent may come back with it.
            live.timer = self.book.after(self.book.settings.lost_grace, partial(self.dispatcher.lost, live))

    async def submit(self, new: Sequence[NewTask]) -> list[Submitted]:
        """Store tasks in one transaction, in order. Many are better given in slices (`turns`).

        Raises ResourceExhausted (QUEUE_FULL, LANE_FULL, STORE_FULL), Unavailable.
        """
        return await self.book.finish(self._submit(new))

    async def _submit(self, new: Sequence[NewTask]) -> list[Submitted]:
        size = sum(len(task.spec.wire) for task in new)
        try:
            self._check_accepting(len(new))
            self.book.database.check_room(size)
        except ResourceExhausted as error:
            self._refusals.note(error.reason, len(new))
            raise
        now_time = self.book.clock.wall()
        lives = [self._new_live(task, now_time) for task in new]
        rows = [task_store.insert_row(live) for live in lives]
        # One that is late is refused, but for a repetition: that names the task which came in time.
        late = {number for number, live in enumerate(lives) if is_past(live.spec.deadline, now_time)}
        lacking = self._lacking(lives)
        late.update(lacking)
        references = [(live.task_id, ref) for live in lives for ref in live.spec.blobs]
        offers = [
            task_entries.offer(live) if live.holder and number not in late else None
            for number, live in enumerate(lives)
        ]

        def store(connection: sqlite3.Connection) -> tuple[list[task_store.Known | None], list[int]]:
            if references:
                blob_rows.refer(connection, references)
            return _store_new(connection, rows, late, offers, now_time)

        urgent = all(live.urgent for live in lives)
        with self.book.turns.committing(urgent=urgent):
            known, sequences = await self.book.database.write(store, size=size, rows=len(rows), urgent=urgent)
        reach(Failpoint.SUBMIT_COMMITTED)
        results = []
        admitted = []
        for number, (task, live, found, sequence) in enumerate(zip(new, lives, known, sequences, strict=True)):
            if found is None and number in late:
                problem = lacking.get(number) or past_deadline(live.spec.deadline, now_time).problem
                results.append(Submitted(problem=problem))
            elif found is None:
                live.offer_sequence = sequence
                self._admit(live, task.on_end)
                admitted.append(live)
                results.append(Submitted(live.task_id, live))
            else:
                results.append(self._resolve_known(task, found))
        self.book.appended(max(sequences, default=0))
        if new[0].spec.priority < URGENT:
            await self.book.turns.take(len(new))
        for live in admitted:
            self._queue(live)
        self.dispatcher.hand_out()
        return results

    def _lacking(self, lives: Sequence[LiveTask]) -> dict[int, Problem]:
        """Which of them refer to blobs that are not here, and why they may not; the others stay until the rows are written."""
        found = {number: self.lacks_blobs(live.spec.blobs) for number, live in enumerate(lives) if live.spec.blobs}
        return {number: error.problem for number, error in found.items() if error is not None}

    def start_call(
        self,
        spec: TaskSpec,
        on_end: OnEnd,
        *,
        forward: bool = True,
        prompt: bool = True,
        on_pieces: OnPieces | None = None,
        piece_room: int = pieces.ROOM_BYTES,
    ) -> LiveTask:
        """Run a task without storing it. `on_end` gets it with output or problem, at the latest at its deadline. One of many
        that came at once is not `prompt`: it goes with them. `on_pieces`: the caller reads along, and allows `piece_room`
        bytes for a start (`call_stream`).

        Raises NotFound (UNKNOWN_SKILL), Unavailable (NO_AGENT, LINK_DOWN), ResourceExhausted (QUEUE_FULL),
        DeadlineExceeded (PAST_DEADLINE).
        """
        self._check_accepting(1)
        if self.book.call_bytes + len(spec.wire) > MAX_CALL_BYTES:
            raise ResourceExhausted(
                "QUEUE_FULL",
                f"the calls that wait hold {self.book.call_bytes} bytes",
                hint="wait for some to end, or submit it: tasks wait in the store",
                retry_after=1.0,
                limit=MAX_CALL_BYTES,
            )
        now_time = self.book.clock.wall()
        if is_past(spec.deadline, now_time):
            raise past_deadline(spec.deadline, now_time)
        if spec.blobs and (error := self.lacks_blobs(spec.blobs)) is not None:
            raise error
        self._calls += 1
        live = LiveTask(f"call-{self._calls}", spec, self.book.node, now_time, call=True)
        live.prompt = prompt or spec.priority >= URGENT
        live.listeners.append(on_end)
        if on_pieces is not None:
            live.on_pieces, live.piece_room = on_pieces, piece_room
        timeout = spec.deadline - now_time if spec.deadline else self.book.settings.call_timeout
        if not self.dispatcher.fits(live.demand):
            self._forward_call(live, timeout, forward)
        self.book.live[live.task_id] = live
        self.book.call_bytes += len(spec.wire)
        live.deadline_timer = self.book.after(timeout, partial(self.dispatcher.expire, live))
        if not live.holder:
            self.dispatcher.push(live)
        return live

    def _forward_call(self, live: LiveTask, timeout: float, forward: bool) -> None:
        spec = live.spec
        if spec.blobs:
            raise FailedPrecondition(
                "BLOBS_IN_CALL",
                "no agent here has the skill, and a call that refers to blobs does not leave the node",
                hint="submit it instead: what a task refers to follows it",
            )
        if forward and self.book.uplink is not None and self.dispatcher.offers(spec):
            if not self.book.uplink.send_call(live, timeout):
                raise Unavailable(
                    "LINK_DOWN", "no agent here has the skill and the hub is out of reach", hint="submit it instead"
                )
            live.holder = HUB
            return
        if not self._registry.with_skill(spec.skill):
            raise NotFound(
                "UNKNOWN_SKILL", f"no agent of this node has skill {spec.skill!r}", hint="see: edgenode agents"
            )
        raise Unavailable("NO_AGENT", self.dispatcher.why_parked(live.demand), hint="see: edgenode find --explain")

    def _check_accepting(self, count: int) -> None:
        if not self._accepting:
            raise Unavailable("NODE_DRAINING", "the node takes no new work", hint="try again later", retry_after=5.0)
        if len(self.book.live) + count > self.book.settings.max_queued:
            raise ResourceExhausted(
                "QUEUE_FULL",
                f"{len(self.book.live)} tasks have not ended",
                hint="wait for some to end, or raise max_queued_tasks",
                retry_after=1.0,
                limit=self.book.settings.max_queued,
            )

    def _new_live(self, task: NewTask, now_time: float) -> LiveTask:
        live = LiveTask(make_id(now_time, self._rng.getrandbits(80)), task.spec, self.book.node, now_time)
        live.request_id = task.request_id
        live.fingerprint = task.fingerprint
        live.replay_of = task.replay_of
        live.level = Level.DURABLE_LOCAL
        if self.dispatcher.offers(task.spec) and not self.dispatcher.fits(live.demand):
            live.holder = HUB
            live.reason = AT_HUB
        live.note()
        return live

    def _admit(self, live: LiveTask, on_end: OnEnd | None) -> None:
        if on_end is not None:
            live.listeners.append(on_end)
        self.book.live[live.task_id] = live
        if live.holder:
            self.hub.note_offer(live)

    def _queue(self, live: LiveTask) -> None:
        """Let it wait for an agent, unless it ended while it waited for this."""
        if self.book.has(live):
            if live.spec.deadline:
                self.dispatcher.watch_deadline(live)
            if not live.holder:
                self.dispatcher.enqueue(live)

    def _resolve_known(self, task: NewTask, found: task_store.Known) -> Submitted:
        if task.fingerprint != found.fingerprint and task.spec.idempotency_key:
            return Submitted(
                problem=AlreadyExists(
                    "IDEMPOTENCY_CONFLICT",
                    f"key {task.spec.idempotency_key!r} belongs to task {found.task_id} with another spec",
                    hint="use a new key for a new request",
                    task_id=found.task_id,
                ).problem
            )
        live = self.book.live.get(found.task_id)
        if live is not None and task.on_end is not None:
            live.listeners.append(task.on_end)
        return Submitted(found.task_id, live)

    async def cancel(self, task_id: str, reason: str) -> None:
        """Note the wish and act on it. Unknown and ended tasks are left alone."""
        await self.book.finish(self._cancel(task_id, reason))

    async def _cancel(self, task_id: str, reason: str) -> None:
        live = self.book.live.get(task_id)
        if live is None or live.finishing:
            return
        live.cancel_requested = True
        problem = Cancelled("CANCELLED", reason or "cancelled on request").problem
        if live.holder:
            await self.book.write([live], [task_entries.cancel(live, reason)])
            reach(Failpoint.CANCEL_COMMITTED)
        elif live.sink is not None:
            await self.book.write([live])
            if live.sink is not None:
                live.sink.cancel(live)
                self.book.after(CANCEL_GRACE, partial(self._cancel_now, live, problem))
        else:
            self.dispatcher.discard(live)
            if self.book.decide(live, TaskEvent.CANCEL, problem=problem):
                await self.book.commit_outcomes([live])
            return
        self.book.tell_watchers(live)

    def _cancel_now(self, live: LiveTask, problem: Problem) -> None:
        """The agent did not stop in time; whatever it still says is refused."""
        if not self.book.has(live):
            return
        self.dispatcher.withdraw(live)
        if self.book.decide(live, TaskEvent.CANCEL, problem=problem):
            self.book.spawn(self.book.commit_outcomes([live]))

    def cancel_call(self, live: LiveTask) -> None:
        """Nobody waits for the call any more."""
        if not live.finishing:
            live.listeners.clear()
            self.dispatcher.withdraw(live)
            self.book.decide(live, TaskEvent.CANCEL, problem=Cancelled("CANCELLED", "the caller went away").problem)

    async def provide_input(self, task_id: str, key: str, value: task_pb2.TaskOutput) -> None:
        """Answer a question. Raises NotFound (UNKNOWN_TASK), FailedPrecondition (NO_INPUT_REQUESTED)."""
        live = self.book.live.get(task_id)
        if live is None:
            raise NotFound("UNKNOWN_TASK", f"no task {task_id} waits here", hint="see: edgenode tasks list")
        asked = live.input_request.key if live.input_request is not None and live.state in ASKING else ""
        if live.finishing or asked != key or not key:
            raise FailedPrecondition(
                "NO_INPUT_REQUESTED", f"the task asks {asked!r}" if asked else f"the task is {live.state.name}"
            )
        await self.book.finish(self._answer(live, key, value))

    async def _answer(self, live: LiveTask, key: str, value: task_pb2.TaskOutput) -> None:
        if not self.book.has(live):
            raise FailedPrecondition("NO_INPUT_REQUESTED", "the task went elsewhere meanwhile", hint="ask for it again")
        live.answers[key] = value
        live.input_request = None
        live.apply(TaskEvent.BEGIN, self.book.clock.wall())
        entries = [task_entries.answer(live, key, value)] if live.holder else self.book.reports([live])
        await self.book.write([live], entries)
        if live.sink is not None:
            live.sink.answer(live, key, value)
        self.book.tell_watchers(live)


def _no_blobs(refs: Iterable[BlobRef]) -> EdgenodeError | None:
    return FailedPrecondition("NOT_DURABLE", "this node keeps no blobs") if refs else None


def _store_new(
    connection: sqlite3.Connection,
    rows: Sequence[task_store.Change],
    late: Collection[int],
    offers: Sequence[sync_pb2.TaskEntry | None],
    now_time: float,
) -> tuple[list[task_store.Known | None], list[int]]:
    """Insert rows but for the late ones, and append the offers of those that are new; (known rows, offer sequences or 0)."""
    known = task_store.insert(connection, rows, late)
    new_offers = [
        (number, offer)
        for number, (found, offer) in enumerate(zip(known, offers, strict=True))
        if found is None and offer is not None
    ]
    sequences = [0] * len(rows)
    if not new_offers:
        return known, sequences
    last = task_entries.append(connection, TASK_LOG, [offer for _, offer in new_offers], now_time)
    for position, (number, _) in enumerate(new_offers):
        sequences[number] = last - len(new_offers) + 1 + position
    task_store.set_offer_sequences(
        connection, [(sequences[number], rows[number].values[0]) for number, _ in new_offers]
    )
    return known, sequences
