"""Protections taken away on purpose, for processes started by `tests.faults.mutated`.

Each mutant patches the product in a process that has not begun yet. A fault's test must fail under the mutant that takes
away what it tests: that is how we know that it tests it.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any


def acknowledge_before_the_commit() -> None:
    """A publisher is told DURABLE_LOCAL as soon as the node has the message, not once it is on disk."""
    import asyncio

    from edgenode.node.message_log import Frame, MessageLog

    honest = MessageLog.submit

    def hasty(self: MessageLog, frame: Frame) -> None:
        honest(self, frame)
        frame.producer.committed = frame.last
        tell = frame.settled
        wake = tell.__self__._wake  # type: ignore[attr-defined]
        frame.settled = lambda _frame: wake.set()
        asyncio.get_running_loop().call_soon(tell, frame)

    MessageLog.submit = hasty  # type: ignore[method-assign]


def leave_commits_for_later() -> None:
    """Writers are told once their functions have run. After the first commits, which a start takes, none comes in time."""
    from edgenode.link.errors import EdgenodeError
    from edgenode.link.store.database import Database
    from edgenode.link.store.writes import value_of

    honest = Database._run

    def attempt(connection: Any, write: Any) -> Any:
        connection.execute("SAVEPOINT one")
        try:
            return value_of(write.function(connection)), None
        except EdgenodeError as error:
            connection.execute("ROLLBACK TO one")
            return None, error
        finally:
            connection.execute("RELEASE one")

    def hasty(self: Database, connection: Any, batch: Any, **how: Any) -> Any:
        if self.commits < 30:
            return honest(self, connection, batch, **how)
        if not connection.in_transaction:
            connection.execute("BEGIN IMMEDIATE")
        return [attempt(connection, write) for write in batch]

    Database._run = hasty  # type: ignore[method-assign]


def acknowledge_before_the_hub_commits() -> None:
    """The hub acknowledges a batch before its commit, and stores it a while later."""
    import asyncio

    from edgenode.link.model.lanes import Applied
    from hub.services.message import MessageDesk
    from hub.store.records import Intake

    honest = MessageDesk.apply
    late: set[asyncio.Task[Any]] = set()

    async def apply_late(self: MessageDesk, intake: Intake) -> None:
        await asyncio.sleep(0.5)
        await honest(self, intake)

    async def hasty(self: MessageDesk, intake: Intake) -> Applied:
        task = asyncio.create_task(apply_late(self, intake))
        late.add(task)
        task.add_done_callback(late.discard)
        return Applied(intake.base - 1 + sum(segment.count for segment in intake.segments))

    MessageDesk.apply = hasty  # type: ignore[method-assign]


def forget_the_cursor() -> None:
    """The receiving side of the link says that it has nothing, and applies whatever comes, also what it has applied before."""
    from edgenode.link.store import inbox

    def blind(connection: Any, peer: str, lane: Any, epoch: str, base: int, segments: Any, gap: Any) -> Any:
        honest(connection, peer, lane, epoch, base, segments, gap)
        return inbox.Fresh(base, 0, tuple(segments))

    honest = inbox.accept
    inbox.accept = blind
    inbox.inbox_cursors = lambda connection, peer, heads=(): []


def one_bad_entry_ends_the_batch() -> None:
    """An entry that cannot be taken is an error of its whole batch, and not a rejection of its own."""
    from edgenode.link.errors import from_problem
    from edgenode.node import task_entries
    from hub.services.entries import EntryReader
    from hub.services.moves import Malformed

    unpack, read = task_entries.unpack, EntryReader.read

    def brittle_unpack(fresh: Any) -> Any:
        entries, rejections = unpack(fresh)
        for rejection in rejections:
            raise from_problem(rejection.problem)
        return entries, rejections

    def brittle_read(self: EntryReader, *arguments: Any) -> Any:
        events, task_ids = read(self, *arguments)
        for _, event in events:
            if isinstance(event, Malformed):
                raise from_problem(event.problem)
        return events, task_ids

    task_entries.unpack = brittle_unpack
    EntryReader.read = brittle_read  # type: ignore[method-assign, assignment]


def one_bound_for_sockets_and_links() -> None:
    """A link takes messages no larger than the socket does that brought what is in them."""
    import hub.app
    from edgenode.link.parent import membership
    from edgenode.link.wire.channels import MAX_MESSAGE_BYTES

    membership.MAX_LINK_MESSAGE_BYTES = hub.app.MAX_LINK_MESSAGE_BYTES = MAX_MESSAGE_BYTES  # type: ignore[attr-defined]


def hand_over_without_a_note() -> None:
    """Work that must not run twice is given to its agent before the store knows that it was."""
    from edgenode.node.dispatch import Dispatcher

    async def careless(self: Dispatcher, pairs: Any) -> None:
        for live, worker in pairs:
            self._hand_over(worker, [live])

    Dispatcher._hand_over_stored = careless  # type: ignore[method-assign]


def sync_nothing() -> None:
    """SQLite tells a commit before the disk has it."""
    from edgenode.link.store.database import Database

    honest = Database._prepare

    def careless(self: Database, connection: Any) -> None:
        honest(self, connection)
        connection.execute("PRAGMA synchronous = OFF")

    Database._prepare = careless  # type: ignore[method-assign]


def write_identities_unsynced() -> None:
    """Keys and certificates are renamed into place before they are on disk."""
    import os

    os.fsync = lambda _descriptor: None  # type: ignore[assignment]  # SQLite has its own way to the disk


def let_go_of_what_the_parent_lacks() -> None:
    """A hub's message log does not wait for its parent."""
    from edgenode.link.store import logs

    def hasty(connection: Any, log_id: int, keep_bytes: int = 0, max_segments: int = 500) -> tuple[int, int]:
        connection.execute(
            "UPDATE consumer SET acked_sequence = (SELECT next_sequence - 1 FROM log WHERE log.log_id = consumer.log_id)"
            " WHERE log_id = ? AND name = '..'",
            (log_id,),
        )
        return honest(connection, log_id, keep_bytes, max_segments)

    honest = logs.trim
    logs.trim = hasty


def leave_everything_to_the_parent() -> None:
    """What the parent holds stays with it, however long it is out of reach."""
    from hub.services import upstream

    upstream.take_back = lambda *_: None


def join_whatever_comes() -> None:
    """Nobody looks whether a hub would be below itself."""
    from edgenode.link.protocol import greeting

    greeting.check_tree = lambda *_: None


def believe_the_page_cache() -> None:
    """A file that was opened anew after a failed sync is taken for what is on disk."""
    from edgenode.link.store.wal import WriteAheadLog

    WriteAheadLog.write_again = lambda self: None  # type: ignore[method-assign]


def keep_no_ballast() -> None:
    """Nothing is kept back for a full disk."""
    from edgenode.link.store.disk import Ballast

    Ballast.lay = lambda self: None  # type: ignore[method-assign]


def keep_tasks_by_the_wall_clock() -> None:
    """How long finished tasks are kept, and the order of those that wait, hang on what the wall clock says."""
    import time

    from edgenode.node import task_store

    def sweep(connection: Any, before: float, limit: int = 500) -> int:
        connection.execute("DELETE FROM task WHERE state >= 8 AND update_time < ?", (time.time() - 86_400,))
        return 0

    honest = task_store.load_live
    task_store.sweep = sweep
    task_store.load_live = lambda connection: sorted(honest(connection), key=lambda row: str(row[0]))


def time_attempts_by_the_wall_clock() -> None:
    """What is left of a deadline is looked up on the wall clock when an attempt begins."""
    from edgenode.node.dispatch import Dispatcher
    from edgenode.node.task_state import LiveTask

    honest = Dispatcher._hand_over

    def careless(self: Dispatcher, worker: Any, lives: Sequence[LiveTask]) -> None:
        for live in lives:
            if live.deadline_timer is not None:
                live.deadline_timer.cancel()
                left = max(live.spec.deadline - self._book.clock.wall(), 0.0)
                live.deadline_timer = self._book.after(left, partial(self.expire, live))
        honest(self, worker, lives)

    Dispatcher._hand_over = careless  # type: ignore[method-assign]


def send_without_bound() -> None:
    """A session puts as much under way as there is credit for, however slow the link."""
    from edgenode.link.protocol.flight import MOST_BYTES, Flight

    Flight.room = MOST_BYTES  # type: ignore[assignment, method-assign]


def read_without_bound() -> None:
    """Nobody who sends waits for what came before to be stored."""
    from edgenode.link.wire.unread import Held
    from edgenode.node.publishing import PublishStream

    async def at_once(self: Held) -> None:
        return None

    Held.room = at_once  # type: ignore[method-assign]
    PublishStream._update_room = lambda self: None  # type: ignore[method-assign]


def send_to_the_deaf() -> None:
    """An agent is sent as much as it has credit for, whether or not it reads."""
    from edgenode.node import dispatch

    dispatch.UNSENT_BYTES = 1 << 60


def keep_every_answer() -> None:
    """A submitter's results are kept for it in memory, however long it does not read."""
    from edgenode.link.wire.unread import Unread

    Unread.full = Unread.overfull = False  # type: ignore[assignment, method-assign]


def carry_without_bound() -> None:
    """What waits for a link that does not take it is bounded in number alone."""
    from edgenode.link.wire import driver

    driver.DriverSettings.__init__.__kwdefaults__["carried_bytes"] = 1 << 60  # type: ignore[index]


def believe_any_fence() -> None:
    """The hub takes a report from whoever once held the task."""
    import dataclasses

    from hub.services.book import Book

    honest = Book.reported

    def trusting(self: Book, node: str, task: Any, report: Any) -> None:
        honest(self, task.holder or node, task, dataclasses.replace(report, fence=task.fence))

    Book.reported = trusting  # type: ignore[method-assign]


def believe_silence() -> None:
    """No session is given up for silence."""
    from edgenode.link.protocol.exchange import Exchange

    honest = Exchange.pump

    def trusting(self: Exchange, now: float, *, writable: bool) -> None:
        self.heard(now)
        honest(self, now, writable=writable)

    Exchange.pump = trusting  # type: ignore[method-assign]


def let_everybody_in() -> None:
    """The hub's gate is open."""
    from edgenode.link.protocol.admission import AdmissionGate

    AdmissionGate.ask = lambda self, node, now: 0.0  # type: ignore[method-assign]


def trust_segments() -> None:
    """What a log's segment says is believed, whatever became of its bytes."""
    from edgenode.link.store import logs

    logs.segment_checksum = lambda facts, payload: 0


def trust_tasks() -> None:
    """What stands in a task's row is believed, whatever became of its bytes."""
    from edgenode.link.store import seals

    seals.checksum = lambda task_id, column, content: 0


def trust_the_write_ahead_log() -> None:
    """A store that lost its last commits is taken for one that never had them."""
    from edgenode.link.store.mark import Mark

    Mark.read = lambda self: None  # type: ignore[method-assign]


MUTANTS: dict[str, Callable[[], None]] = {
    mutant.__name__.replace("_", "-"): mutant
    for mutant in (
        acknowledge_before_the_commit,
        acknowledge_before_the_hub_commits,
        carry_without_bound,
        keep_every_answer,
        read_without_bound,
        send_to_the_deaf,
        believe_the_page_cache,
        forget_the_cursor,
        keep_no_ballast,
        leave_commits_for_later,
        hand_over_without_a_note,
        keep_tasks_by_the_wall_clock,
        believe_any_fence,
        believe_silence,
        let_everybody_in,
        one_bad_entry_ends_the_batch,
        one_bound_for_sockets_and_links,
        send_without_bound,
        trust_segments,
        trust_tasks,
        trust_the_write_ahead_log,
        sync_nothing,
        time_attempts_by_the_wall_clock,
        write_identities_unsynced,
        join_whatever_comes,
        leave_everything_to_the_parent,
        let_go_of_what_the_parent_lacks,
    )
}
