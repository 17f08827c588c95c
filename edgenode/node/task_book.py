"""What the rooms of the task engine share: the tasks that have not ended, their rows, followers and timers.

An end is decided in memory first: the task is marked `finishing`, nothing else may happen to it, and its new row joins the
next group commit. Only after that commit are submitters and watchers told and the agent's result confirmed. If the store
fails, the decided end is written again until it succeeds; nobody is told before.

Work that must come to its end (a commit and what follows it in memory) belongs to the book, not to the stream that asked for
it: a caller that goes away stops waiting, and the work goes on.
"""

from __future__ import annotations

import asyncio
import logging
import sqlite3
from collections.abc import Callable, Coroutine, Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol, TypeVar

from edgenode.api.sync.v1 import sync_pb2
from edgenode.api.task.v1 import task_pb2
from edgenode.link.blobs import rows as blob_rows
from edgenode.link.errors import EdgenodeError
from edgenode.link.failpoints import Failpoint, reach
from edgenode.link.model.dead_letter import DeadLetter
from edgenode.link.model.problem import Problem
from edgenode.link.model.task import URGENT, Level, TaskState
from edgenode.link.ports import Clock
from edgenode.link.protocol.tasks import TaskEvent
from edgenode.link.protocol.timers import Timer, Timers
from edgenode.link.store import run_time
from edgenode.link.store.database import Database, Statement
from edgenode.link.wire.blobs import ref_from_pb
from edgenode.link.wire.tasks import TaskLimits
from edgenode.node import task_entries, task_store
from edgenode.node.task_state import LiveTask
from edgenode.node.turns import Turns

TASK_LOG = "up/task"
HUB = "hub"  # holder of a task the hub has, until it says which node got it
AT_HUB = "AT_HUB: no agent here, the hub looks for one"
SWEEP_INTERVAL = 60.0
_STORE_RETRY = 1.0

T = TypeVar("T")
OnDeadLetter = Callable[[sqlite3.Connection, DeadLetter], None]

_log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class TaskSettings:
    """Bounds and defaults; durations in seconds."""

    max_queued: int = 100_000
    attempt_timeout: float = 300.0
    call_timeout: float = 30.0
    lost_grace: float = 15.0
    retention: float = 86_400.0
    limits: TaskLimits = field(default_factory=TaskLimits)


class TaskUplink(Protocol):
    """The way to the hub, as the engine sees it. Without a hub there is none."""

    def appended(self, last: int) -> None:
        """A commit appended to the task log."""
        ...

    def send_call(self, live: LiveTask, timeout: float) -> bool:
        """Send a call to the hub; False when the link is down. The answer comes to `Dispatcher.end_call`."""
        ...

    def cancel_call(self, live: LiveTask) -> None:
        """Nobody waits for the call any more."""
        ...

    def allow_pieces(self, live: LiveTask, size: int) -> None:
        """Whoever runs a call that was sent may give so many more bytes of pieces."""
        ...

    def send_progress(self, live: LiveTask) -> None:
        """Tell a granted task's origin how far it has come, best effort."""
        ...


class TaskBook:
    """See the module. `live` has every task that has not ended, calls included, by id."""

    def __init__(
        self, node: str, database: Database, clock: Clock, settings: TaskSettings, on_dead_letter: OnDeadLetter
    ) -> None:
        self.node = node
        self.database = database
        self.clock = clock
        self.settings = settings
        self.live: dict[str, LiveTask] = {}
        self.call_bytes = 0  # of the inputs of calls that have not ended
        self.turns = Turns()
        self.uplink: TaskUplink | None = None
        self.stopped = False
        self._on_dead_letter = on_dead_letter
        self._timers = Timers(self._set_alarm)
        self._alarm: asyncio.TimerHandle | None = None
        self._swept = clock.monotonic()
        self._background: set[asyncio.Task[Any]] = set()

    async def stop(self) -> None:
        """Stop timers; let commits under way come to their end."""
        self.stopped = True
        if self._alarm is not None:
            self._alarm.cancel()
        while self._background:
            await asyncio.wait(self._background)

    def has(self, live: LiveTask) -> bool:
        """Whether the task is still this one to act on: not ended, not revoked, not granted anew."""
        return not live.finishing and self.live.get(live.task_id) is live

    def after(self, seconds: float, callback: Callable[[], None]) -> Timer:
        """Call back on the loop in so many seconds."""
        return self._timers.at(self.clock.monotonic() + seconds, callback)

    def decide(
        self,
        live: LiveTask,
        event: TaskEvent,
        *,
        output: task_pb2.TaskOutput | None = None,
        problem: Problem | None = None,
    ) -> bool:
        """Decide a task's end. Calls end here; for stored tasks True asks the caller to `commit_outcomes`."""
        live.output = output
        live.problem = problem
        live.input_request = None
        live.cancel_requested = False
        live.apply(event, self.clock.wall(), problem.reason if problem is not None else "")
        live.finishing = True
        live.clear_timers()
        if live.call:
            self.forget(live)
            return False
        live.level = Level.DONE
        return True

    async def commit_outcomes(self, lives: Sequence[LiveTask], entries: Sequence[sync_pb2.TaskEntry] = ()) -> None:
        """Store decided ends and failed attempts, with `entries` for the hub, then tell everyone of the ends.

        Returns after the commit, however often it must be tried. `spawn` it.
        """
        prompt = lives[0].prompt
        if not prompt:
            await self.turns.step(len(lives))
        ended = [live for live in lives if live.finishing]
        await self.write(lives, [*self.reports(ended), *entries])
        reach(Failpoint.OUTCOME_COMMITTED)
        if ended and not prompt:
            await self.turns.take(len(ended))
        for live in ended:
            self.forget(live)

    def reports(self, lives: Iterable[LiveTask]) -> list[sync_pb2.TaskEntry]:
        """What the hub must know of changes to tasks it granted."""
        return [task_entries.report(live, self.node) for live in lives if live.fence]

    def forget(self, live: LiveTask) -> None:
        """The task has ended, for good: tell everyone. One that was granted anew meanwhile has another end to come."""
        if self.live.get(live.task_id) is not live:
            return
        del self.live[live.task_id]
        if live.call:
            self.call_bytes -= len(live.spec.wire)
        if live.watchers:
            self.tell_watchers(live)
        if live.level_waiters:
            self._tell_level(live)
        for listener in live.listeners:
            listener(live)

    async def write(self, lives: Sequence[LiveTask], entries: Sequence[sync_pb2.TaskEntry] = ()) -> None:
        """Store tasks as they stand, and entries for the hub, in one transaction; again until the store takes it.

        Raises Unavailable (STORE_CLOSED) once the node stops.
        """
        rows = [task_store.update_row(live) for live in lives]
        dead = [live.state is TaskState.DEAD_LETTERED for live in lives]
        references = [
            (live.task_id, ref_from_pb(ref)) for live in lives if live.output is not None for ref in live.output.blobs
        ]
        now_time = self.clock.wall()

        def store(connection: sqlite3.Connection) -> int:
            if references:
                blob_rows.refer(connection, references)
            changed = task_store.update(connection, rows)
            for number, live in enumerate(lives):
                if changed[number] and dead[number]:
                    self._on_dead_letter(connection, live.dead_letter(now_time))
            return task_entries.append(connection, TASK_LOG, entries, now_time)

        self.appended(await self._insist(store, lives))

    async def write_offers(self, lives: Sequence[LiveTask]) -> None:
        """As `write`, with an offer for each task; where it stands in the log is stored with it."""
        rows = [task_store.update_row(live) for live in lives]
        offers = [task_entries.offer(live) for live in lives]
        now_time = self.clock.wall()

        def store(connection: sqlite3.Connection) -> int:
            task_store.update(connection, rows)
            last = task_entries.append(connection, TASK_LOG, offers, now_time)
            first = last - len(lives) + 1
            task_store.set_offer_sequences(connection, [(first + n, live.task_id) for n, live in enumerate(lives)])
            return last

        last = await self._insist(store, lives)
        for number, live in enumerate(lives):
            live.offer_sequence = last - len(lives) + 1 + number
        self.appended(last)

    async def let_go(self, task_id: str, fence: int, entries: Sequence[sync_pb2.TaskEntry]) -> None:
        """Store that a granted task went back to the hub, with the entries that tell it; nothing if it was revoked before."""
        now_time = self.clock.wall()

        def store(connection: sqlite3.Connection) -> int:
            if not task_store.let_go(connection, task_id, fence, self.node, "RETURNED"):
                return 0
            return task_entries.append(connection, TASK_LOG, entries, now_time)

        last = await self._insist(store, ())
        reach(Failpoint.RETURN_COMMITTED)
        self.appended(last)

    def appended(self, last: int) -> None:
        """A commit appended to the task log up to `last`; 0 for nothing."""
        if last and self.uplink is not None:
            self.uplink.appended(last)

    async def _insist(self, store: Statement[T], lives: Sequence[LiveTask]) -> T:
        """Write what `store` does to these tasks, however often it must be tried."""
        rows = max(len(lives), 1)
        urgent = bool(lives) and all(live.urgent for live in lives)
        held = [] if urgent else [live for live in lives if live.spec.priority >= URGENT]
        for live in held:
            live.behind += 1
        try:
            while True:
                try:
                    with self.turns.committing(urgent=urgent):
                        return await self.database.write(store, rows=rows, urgent=urgent)
                except EdgenodeError as error:
                    if self.stopped:
                        raise
                    _log.error("could not store %d task changes, trying again: %s", rows, error)
                    await asyncio.sleep(_STORE_RETRY)
        finally:
            for live in held:
                live.behind -= 1

    def tell_watchers(self, live: LiveTask) -> None:
        """The task changed."""
        for watcher in tuple(live.watchers):
            watcher(live)

    def raise_level(self, live: LiveTask, level: Level) -> None:
        """The task has come so far; levels never fall."""
        if level > live.level:
            live.level = level
            if live.level_waiters:
                self._tell_level(live)

    def _tell_level(self, live: LiveTask) -> None:
        for waiter in tuple(live.level_waiters):
            waiter(live)

    def _set_alarm(self, when: float) -> None:
        if self._alarm is not None:
            self._alarm.cancel()
        delay = max(when - self.clock.monotonic(), 0.0)
        self._alarm = asyncio.get_running_loop().call_later(delay, self.ring)

    def ring(self) -> None:
        """Call what is due; the alarm does it."""
        self._alarm = None
        self._timers.run_due(self.clock.monotonic())
        due = self._timers.next_due()
        if due is not None and not self.stopped:
            self._set_alarm(due)

    def sweep(self) -> None:
        """Forget tasks that ended long ago, by the store's running time; now and every minute."""
        self.after(SWEEP_INTERVAL, self.sweep)
        now = self.clock.monotonic()
        passed, self._swept = now - self._swept, now

        async def run() -> None:
            try:
                running = await self.database.write(lambda connection: run_time.pass_time(connection, passed))
                before = running - self.settings.retention
                while await self.database.write(lambda connection: task_store.sweep(connection, before)):
                    pass
            except EdgenodeError as error:
                _log.warning("could not sweep ended tasks: %s", error)

        self.spawn(run())

    def spawn(self, work: Coroutine[Any, Any, T]) -> asyncio.Task[T]:
        """Run work to its end, whoever waits for it."""
        task = asyncio.get_running_loop().create_task(work)
        self._background.add(task)
        task.add_done_callback(self._background_done)
        return task

    async def finish(self, work: Coroutine[Any, Any, T]) -> T:
        """As `spawn`, and wait for it; a caller that is cancelled stops waiting, the work goes on."""
        return await asyncio.shield(self.spawn(work))

    def _background_done(self, task: asyncio.Task[Any]) -> None:
        self._background.discard(task)
        if not task.cancelled() and (error := task.exception()) is not None and not isinstance(error, EdgenodeError):
            _log.error("background work failed", exc_info=error)
