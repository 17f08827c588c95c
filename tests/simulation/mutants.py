"""Protections taken away on purpose. The simulation must notice each within a few seeds, or it does not look.

A mutant patches the product through pytest's monkeypatch; `kinds` are the faults that bring it to light.
"""

from __future__ import annotations

import asyncio
import dataclasses
import sqlite3
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import pytest
from msgspec.structs import replace

from edgenode.api.message.v1 import message_pb2
from edgenode.api.sync.v1 import sync_pb2
from edgenode.link.errors import InvalidArgument, Unavailable
from edgenode.link.model.frames import Ack
from edgenode.link.model.task import TaskState
from edgenode.link.protocol.exchange import Exchange
from edgenode.link.protocol.greeting import Greeting
from edgenode.link.protocol.lanes import LaneReceiver, LaneSender
from edgenode.link.protocol.registry import RegistryLog
from edgenode.link.store import inbox, logs
from edgenode.link.store.budget import Budget
from edgenode.link.store.database import Database
from edgenode.link.store.mark import Mark
from edgenode.link.store.retention import Retention
from edgenode.link.store.writes import Unsure
from edgenode.link.wire import driver
from edgenode.link.wire.frames import frame_from_pb
from edgenode.link.wire.subscriptions import SubscribeStream
from edgenode.node.dispatch import Dispatcher
from edgenode.node.message_log import Frame, MessageLog, Producer
from edgenode.node.task_book import TaskBook
from hub.services.book import Book
from hub.services.clones import CloneWatch
from hub.store import fleet as hub_fleet
from hub.store import messages as hub_messages
from hub.store import restating
from hub.store import tasks as hub_tasks
from hub.store.messages import SqliteMessageStore

Patch = pytest.MonkeyPatch

_FLIPS = ("bit flip in a segment", "long outage")
_DEATHS = ("kill in a commit", "power cut in a commit", "kill at a step")


@dataclass(frozen=True)
class Mutant:
    """`apply` breaks the product; `seed` is one that shows it."""

    apply: Callable[[Patch], None]
    kinds: Sequence[str] = _DEATHS
    seed: int = 0


def sync_nothing(patch: Patch) -> None:
    """A commit is told before the disk has it."""
    honest = Database._prepare

    def prepare(self: Database, connection: sqlite3.Connection) -> None:
        honest(self, connection)
        connection.execute("PRAGMA synchronous = OFF")

    patch.setattr(Database, "_prepare", prepare)


def acknowledge_before_the_commit(patch: Patch) -> None:
    """A publisher is told what was submitted, not what is stored."""
    honest = MessageLog.submit

    def submit(self: MessageLog, frame: Frame) -> None:
        honest(self, frame)
        frame.producer.committed = frame.last
        frame.settled(frame)
        frame.settled = lambda _: None

    patch.setattr(MessageLog, "submit", submit)


def acknowledge_over_the_link_before_the_commit(patch: Patch) -> None:
    """The receiver of a batch acknowledges it as it begins to store it."""
    honest = Exchange._apply_next

    def hasty(self: Exchange, receiver: LaneReceiver) -> None:
        if receiver._queue:
            self._send(Ack(receiver.lane, receiver.epoch, receiver._queue[-1].end))
        honest(self, receiver)

    patch.setattr(Exchange, "_apply_next", hasty)


def reuse_a_sequence(patch: Patch) -> None:
    """After each start the last number of a log is given once more."""
    honest = logs.open_log

    def open_log(connection: sqlite3.Connection, name: str, new_epoch: str) -> logs.LogState:
        connection.execute(
            "UPDATE log SET next_sequence = next_sequence - 1 WHERE name = ? AND next_sequence > 1", (name,)
        )
        return honest(connection, name, new_epoch)

    patch.setattr(logs, "open_log", open_log)


def renew_no_epoch(patch: Patch) -> None:
    """A log goes on under its old epoch, whatever its disk has forgotten."""

    def keep(connection: sqlite3.Connection, name: str, epoch: str) -> logs.LogState:
        return logs.log_state(connection, name)

    patch.setattr(logs, "renew_epoch", keep)


def forget_the_cursor(patch: Patch) -> None:
    """What is received is stored, and how far it came is not."""
    honest = inbox.accept

    def accept(
        connection: sqlite3.Connection, peer: str, lane: Any, epoch: str, base: int, segments: Any, gap: Any
    ) -> inbox.Fresh:
        fresh = honest(connection, peer, lane, epoch, base, segments, gap)
        connection.execute("UPDATE inbox_cursor SET sequence = ? WHERE peer = ? AND lane = ?", (base - 1, peer, lane))
        return fresh

    patch.setattr(inbox, "accept", accept)


def forget_producers(patch: Patch) -> None:
    """A publisher that comes back is taken for a new one."""
    honest = MessageLog.attach

    async def attach(self: MessageLog, producer_id: str) -> Producer:
        producer = await honest(self, producer_id)
        producer.submitted = producer.committed = 0
        return producer

    patch.setattr(MessageLog, "attach", attach)


def believe_a_commit_that_failed(patch: Patch) -> None:
    """A commit that failed is taken for done."""

    async def find_out(self: Database, unsure: Unsure, count: int) -> Any:
        await self._disconnect()
        results = unsure.done + unsure.unsure
        return results + [(None, unsure.error)] * (count - len(results))

    patch.setattr(Database, "_find_out", find_out)


def take_a_failed_commit_for_lost(patch: Patch) -> None:
    """A commit that failed is taken for undone, although it may be in the file."""

    async def find_out(self: Database, unsure: Unsure, count: int) -> Any:
        await self._disconnect()
        failure = Unavailable("STORE_FAILED", "the store failed")
        return unsure.done + [(None, failure)] * (count - len(unsure.done))

    patch.setattr(Database, "_find_out", find_out)


def hand_over_without_a_note(patch: Patch) -> None:
    """Work that must not run twice is given to its agent before the store knows."""

    async def careless(self: Dispatcher, pairs: Any) -> None:
        for live, worker in pairs:
            self._hand_over(worker, [live])

    patch.setattr(Dispatcher, "_hand_over_stored", careless)


def tell_the_end_before_the_commit(patch: Patch) -> None:
    """A submitter hears of an end that may not last."""
    honest = TaskBook.commit_outcomes

    async def hasty(self: TaskBook, lives: Any) -> None:
        for live in lives:
            for listener in live.listeners if live.finishing else ():
                listener(live)
            if live.finishing:
                live.listeners = []
        await asyncio.sleep(0.5)
        await honest(self, lives)

    patch.setattr(TaskBook, "commit_outcomes", hasty)


def drop_the_fence(patch: Patch) -> None:
    """The hub believes whoever once had a task."""
    honest = Book.reported

    def credulous(self: Book, node: str, task: Any, report: Any) -> None:
        if not task.state.terminal:
            task = replace(task, holder=node)
        honest(self, node, task, dataclasses.replace(report, fence=task.fence))

    patch.setattr(Book, "reported", credulous)


def overwrite_an_end(patch: Patch) -> None:
    """The hub takes a report of a task that has ended."""
    honest = Book.reported

    def credulous(self: Book, node: str, task: Any, report: Any) -> None:
        if task.state.terminal:
            task = replace(task, state=TaskState.WORKING, holder=node, fence=report.fence)
        honest(self, node, task, report)

    patch.setattr(Book, "reported", credulous)
    patch.setattr(hub_tasks, "_UPDATE", hub_tasks._UPDATE.replace(" AND state < 8", ""))


def forget_tombstones(patch: Patch) -> None:
    """What left the registry is not told; nor does the digest look."""
    honest = RegistryLog.remove

    def forgetful(self: RegistryLog, name: str, incarnation: int) -> object:
        tombstone = honest(self, name, incarnation)
        del self._entries[name]
        return tombstone

    patch.setattr(RegistryLog, "remove", forgetful)
    patch.setattr("edgenode.link.protocol.registry_sync.RegistrySink.compared", lambda self, digest: None)


def resume_after_what_was_sent(patch: Patch) -> None:
    """A new session goes on behind what the older one sent, not behind what was committed."""
    honest = LaneSender.__init__

    def eager(self: LaneSender, *args: Any, **settings: Any) -> None:
        honest(self, *args, **settings)
        self.next = self._expected = self.last + 1

    patch.setattr(LaneSender, "__init__", eager)


def let_go_of_what_the_parent_lacks(patch: Patch) -> None:
    """A hub keeps as many bytes of messages as it is told, whether or not the hub above has the rest."""
    honest = SqliteMessageStore.sweep

    async def sweep(self: SqliteMessageStore, keep_bytes: int, drop_bytes: int) -> int:
        return await honest(self, keep_bytes, keep_bytes)

    patch.setattr(SqliteMessageStore, "sweep", sweep)


def take_what_came_another_way(patch: Patch) -> None:
    """A hub looks only at the cursor of a link for what it has already, not at where a message began."""
    patch.setattr(hub_messages, "_known_entries", lambda *_: 0)


def ask_no_hub_below(patch: Patch) -> None:
    """A hub that comes back without what it was granted is treated as a node is, and not asked, as a node is."""

    def in_force(connection: sqlite3.Connection, node: str, task_id: str, fence: int) -> bool:
        row = connection.execute(
            "SELECT 1 FROM task WHERE task_id = ? AND holder = ? AND fence = ? AND state < 8 AND on_lost = 1",
            (task_id, node, fence),
        ).fetchone()
        return row is not None

    patch.setattr(restating, "in_force", in_force)


def grant_nothing_again(patch: Patch) -> None:
    """A hub that comes back without grants that are not kept any more is left to miss them."""
    patch.setattr(restating, "lacks", lambda *_: (False, False))


def trust_segments(patch: Patch) -> None:
    """What a log's segment says is believed, whatever became of its bytes."""
    patch.setattr(logs, "segment_checksum", lambda facts, payload: 0)


def trust_the_write_ahead_log(patch: Patch) -> None:
    """A store that lost its last commits is taken for one that never had them."""
    patch.setattr(Mark, "read", lambda self: None)


def know_no_former_process(patch: Patch) -> None:
    """Whoever speaks for a node is let in, also a process that another one took over from."""
    patch.setattr(hub_fleet, "_outdated", lambda connection, node, boot_id: False)


def let_the_copies_session_go_on(patch: Patch) -> None:
    """A node is kept out when it dials, and a session that it has lasts."""
    honest = CloneWatch.__init__

    def lenient(self: CloneWatch, enrollment: Any, fleet: Any, clock: Any, new_challenge: Any, end: Any) -> None:
        honest(self, enrollment, fleet, clock, new_challenge, lambda node, problem: None)

    patch.setattr(CloneWatch, "__init__", lenient)


def keep_what_everybody_has(patch: Patch) -> None:
    """Nothing that was acknowledged is ever let go."""
    patch.setattr(Retention, "trim", lambda self, connection, log_id, max_segments=0: 0)


def count_no_arrivals(patch: Patch) -> None:
    """What has arrived in a store counts as on its way to it for ever."""
    honest = Budget.admit
    patch.setattr(Budget, "admit", lambda self, lane, size: honest(self, lane, max(size, 0)))


def take_what_was_sent_for_dealt_with(patch: Patch) -> None:
    """A durable subscription goes on behind what its subscriber was sent."""
    patch.setattr(SubscribeStream, "_settled", lambda self: self._scanned)


def end_the_session_at_what_is_not_known(patch: Patch) -> None:
    """A frame of a kind that is not known is an error."""

    def strict(message: sync_pb2.Frame) -> Any:
        if message.WhichOneof("frame") is None:
            raise InvalidArgument("UNKNOWN_FRAME", "a frame of no kind that is known here")
        return frame_from_pb(message)

    patch.setattr(driver, "frame_from_pb", strict)


def write_anew_what_is_carried(patch: Patch) -> None:
    """A hub reads the messages that it carries, and writes what it understood of them."""
    honest = SqliteMessageStore._new_segments

    def meddling(self: SqliteMessageStore, *arguments: Any) -> Any:
        segments, *rest = honest(self, *arguments)
        for segment in segments:
            batch = message_pb2.MessageBatch.FromString(segment.payload)
            batch.DiscardUnknownFields()
            object.__setattr__(segment, "payload", batch.SerializeToString())
        return segments, *rest

    patch.setattr(SqliteMessageStore, "_new_segments", meddling)


def store_a_batch_backwards(patch: Patch) -> None:
    """A hub stores what came last first."""
    honest = SqliteMessageStore._new_segments

    def backwards(self: SqliteMessageStore, *arguments: Any) -> Any:
        segments, *rest = honest(self, *arguments)
        return segments[::-1], *rest

    patch.setattr(SqliteMessageStore, "_new_segments", backwards)


def compare_no_versions(patch: Patch) -> None:
    """Whoever greets is let in, whatever it speaks."""
    patch.setattr(Greeting, "_agree", lambda _self, _lowest, highest: highest)


MUTANTS: dict[str, Mutant] = {
    "sync nothing": Mutant(sync_nothing, ("power cut", "power cut in a commit")),
    "acknowledge before the commit": Mutant(acknowledge_before_the_commit, seed=2),
    "acknowledge over the link before the commit": Mutant(acknowledge_over_the_link_before_the_commit, seed=17),
    "reuse a sequence": Mutant(reuse_a_sequence, ("kill",)),
    "renew no epoch": Mutant(renew_no_epoch, ("edge restored",)),
    "forget the cursor": Mutant(forget_the_cursor),
    "forget producers": Mutant(forget_producers, seed=1),
    "believe a commit that failed": Mutant(believe_a_commit_that_failed, ("fsync error",)),
    "take a failed commit for lost": Mutant(take_a_failed_commit_for_lost, ("fsync error",), 4),
    "hand over without a note": Mutant(hand_over_without_a_note, ("kill at a step", "kill in a commit"), 2),
    "tell the end before the commit": Mutant(tell_the_end_before_the_commit, ("kill", "kill at a step"), 27),
    "drop the fence": Mutant(drop_the_fence, ("long outage",), 284),
    "overwrite an end": Mutant(overwrite_an_end, ("one-way cut", "half-open", "outage", "pause"), 33),
    "forget tombstones": Mutant(forget_tombstones, ("agent leaves",), 1),
    "resume after what was sent": Mutant(resume_after_what_was_sent, ("cut",), 1),
    "know no former process": Mutant(know_no_former_process, ("cloned edge",)),
    "let the copy's session go on": Mutant(let_the_copies_session_go_on, ("cloned edge",)),
    "keep what everybody has": Mutant(keep_what_everybody_has, ("cut",), 5),
    "count no arrivals": Mutant(count_no_arrivals, ("cut",)),
    "trust segments": Mutant(trust_segments, _FLIPS),
    "trust the write-ahead log": Mutant(trust_the_write_ahead_log, ("bit flip in a write-ahead log",), 9),
    # Those below are seen by subscribers only, where versions differ only, or in trees only.
    "let go of what the parent lacks": Mutant(let_go_of_what_the_parent_lacks, ("parent hub down",), 3),
    "take what came another way": Mutant(take_what_came_another_way, ("hub restored",), 11),
    # Where a copy and a restored hub excuse much.
    "store a batch backwards": Mutant(store_a_batch_backwards, ("cloned edge", "hub restored")),
    "take what was sent for dealt with": Mutant(take_what_was_sent_for_dealt_with, ("subscriber crash",), 5),
    "end the session at what is not known": Mutant(end_the_session_at_what_is_not_known, ("other version",), 4),
    "write anew what is carried": Mutant(write_anew_what_is_carried, ("other version",), 4),
    "compare no versions": Mutant(compare_no_versions, ("other version",), 4),
    "ask no hub below": Mutant(ask_no_hub_below, ("hub restored",), 39),
    "grant nothing again": Mutant(grant_nothing_again, (), 12355),
}
