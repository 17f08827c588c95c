"""Bits that flip on a disk, and what may be missing then: the entries that were hit, where that is said, and no others.

In a stored segment: it fails its checksum, its entries are given up, and whoever reads on is told of a gap. In a write-ahead
log: SQLite takes it for one that ends there, the store's mark shows that it had come further. An edge then sets its store
aside and goes on with what can be read; a hub does not start until it is restored from a backup.
"""

from __future__ import annotations

import contextlib
import random
import sqlite3
from collections import Counter
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING

from google.protobuf.message import DecodeError

from edgenode.api.message.v1 import message_pb2
from edgenode.api.sync.v1 import sync_pb2
from edgenode.link.model.lanes import Lane
from edgenode.link.store import logs
from tests.simulation.disk import Files, flip_bit
from tests.simulation.skew import FUTURE, has_skew

if TYPE_CHECKING:
    from tests.simulation.machines import Machine
    from tests.simulation.oracle import Produced
    from tests.simulation.world import World

WAL = "-wal"
MESSAGES = "messages"


class Damages:
    """What was done to the disks of a world."""

    def __init__(self, world: World) -> None:
        self._world = world
        self._backups: dict[str, Files] = {}  # of hubs whose store may have to be restored
        self._hit: set[tuple[str, int]] = set()  # (producer, number) of messages in segments that were hit
        self._hit_tasks: set[str] = set()  # tasks that a segment that was hit spoke of
        self._hit_rows: set[tuple[str, int]] = set()  # (machine, position)
        self._set_back: set[str] = set()  # edges whose write-ahead log was hit
        self._missing: Counter[str] = Counter()  # by edge: acknowledged, and not at the hub
        self._hub_lacks = 0  # entries of the hub's log that were hit, and nobody has read since
        self.old: set[str] = set()  # edges that got an old disk, and cannot know what they lack

    # --- faults -------------------------------------------------------------------------------------------------------

    def flip_in_a_segment(self, machine: Machine, rng: random.Random) -> None:
        """The machine is off, one of its segments changes, it is on again."""
        if not machine.serving:
            return
        machine.crash(power=False, silent=False)
        with contextlib.closing(sqlite3.connect(machine.disk.path, isolation_level=None)) as sql:
            rows = sql.execute(
                "SELECT position, payload, log.name FROM segment JOIN log ON log_id = position >> 44"
                " WHERE length(payload) > 0"
            ).fetchall()
            hit = self._hit_rows
            rows = [
                row for row in rows if (machine.name, row[0]) not in hit and (row[2] == MESSAGES or tasks_of(row[1]))
            ]
            if rows:
                position, payload, log = rng.choice(rows)
                place = rng.randrange(len(payload))
                flipped = bytearray(payload)
                flipped[place] ^= 1 << rng.randrange(8)
                sql.execute("UPDATE segment SET payload = ? WHERE position = ?", (bytes(flipped), position))
                self._note(machine, position, payload, log)
                self._world.note(machine.name, "a bit flips", f"in {log} {logs.row_place(position)}")
        machine.boot()

    def _note(self, machine: Machine, position: int, payload: bytes, log: str) -> None:
        self._hit_rows.add((machine.name, position))
        if log == MESSAGES:
            self._hit.update(messages_of(payload))
        else:
            self._hit_tasks.update(tasks_of(payload))

    def flip_in_the_write_ahead_log(self, machine: Machine, rng: random.Random) -> None:
        """The machine is off, its write-ahead log changes, it is on again."""
        if not machine.serving:
            return
        backup = machine.disk.files()

        def happen() -> None:
            if self._world.calm or not machine.serving:
                return
            machine.crash(power=False, silent=False)
            if flip_bit(machine.disk.path, rng, WAL):
                self._world.note(machine.name, "a bit flips", "in the write-ahead log")
                if machine is self._world.hub:
                    self._backups[machine.name] = backup
                else:
                    self._world.oracle.restored(machine)
                    self._set_back.add(machine.name)
            machine.boot()

        self._world.loop.later(rng.uniform(0.5, 15.0), happen)

    def refused(self, machine: Machine) -> None:
        """It does not start because its store is damaged. The operator does what it asks for."""
        backup = self._backups.pop(machine.name, None)
        if backup is None:
            self._world.fail(f"{machine.name} does not start, its store is damaged")
            return
        self._world.struck["hub restored after a bit flip"] += 1
        machine.restore(backup, by_command=True)
        machine.boot()

    # --- what may be missing ------------------------------------------------------------------------------------------

    def whole_messages(self, hub: sqlite3.Connection) -> Iterator[tuple[str, int, str]]:
        """(producer, number, epoch) of what the hub's log holds, in order; the epoch is that of the process that stored it.

        What the hub gave up, or will, must have been hit.
        """
        log_id = logs.log_state(hub, MESSAGES).log_id
        after = 0
        while True:
            try:
                chunk = logs.read(hub, log_id, after, 10_000, 1 << 30)
            except logs.SegmentDamaged as damaged:
                hit = (self._world.hub.name, logs.row_at(log_id, damaged.first)) in self._hit_rows
                self._world.check(hit, f"the hub's entries {damaged.first} to {damaged.last} are damaged")
                self._hub_lacks += damaged.last - damaged.first + 1
                after = damaged.last
                continue
            if not chunk.segments:
                break
            for segment in chunk.segments:
                whole = not has_skew(self._world.seed) or segment.payload.count(FUTURE) == segment.count
                self._world.check(whole, "messages lost on their way what is not known here")
                try:
                    yield from ((*message, segment.origin_epoch) for message in messages_of(segment.payload))
                except (DecodeError, ValueError):
                    self._world.fail(f"no publisher made what the hub has: {segment}")
                    return
            after = chunk.end

    @property
    def hub_was_hit(self) -> bool:
        """Whether it may lack what it had acknowledged."""
        return any(machine == self._world.hub.name for machine, _ in self._hit_rows)

    def may_lack(self, produced: Produced, number: int) -> bool:
        """Whether the message was in a segment that was hit."""
        return (produced.producer, number) in self._hit

    @property
    def in_segments(self) -> bool:
        """Whether any segment was hit."""
        return bool(self._hit_rows)

    def may_hang(self, task_id: str) -> bool:
        """Whether what one side was to hear of the task was in a segment that was hit."""
        return task_id in self._hit_tasks

    def count_missing(self, produced: Produced, arrived: Sequence[int]) -> None:
        """`arrived`: the numbers of a producer that the hub has."""
        self._missing[produced.edge] += len(set(range(1, produced.acked + 1)) - produced.refused - set(arrived))

    def check_stated(self, hub: sqlite3.Connection) -> None:
        """A damaged store says how much it lost; one that is merely old does not know."""
        if not self._hit_rows and not self._set_back:
            return
        stated = dict(
            hub.execute("SELECT peer, sum(gap_count) FROM inbox_cursor WHERE lane = ? GROUP BY peer", (Lane.MESSAGE,))
        )
        given_up = self._hub_lacks + logs.lost(hub, logs.log_state(hub, MESSAGES).log_id)
        for edge, count in self._missing.items():
            if edge not in self.old:
                said = stated.get(edge, 0) + given_up
                self._world.check(count <= said, f"{edge}: {count} missing for damage, {said} stated as a gap")


def tasks_of(payload: bytes) -> set[str]:
    """The tasks that a segment speaks of; none if it asks or says which there are, for that is asked once in a session."""
    tasks = set()
    for entry in sync_pb2.TaskEntryBatch.FromString(payload).entries:
        kind = str(entry.WhichOneof("entry"))
        if kind in ("restate", "restated"):
            return set()
        tasks.add(entry.report.task.task_id if kind == "report" else getattr(entry, kind).task_id)
    return tasks


def last_held(sql: sqlite3.Connection, log_id: int) -> int:
    """The last entry that a log still holds, 0 if it holds none: a gap behind it is told with the next entry."""
    row = sql.execute(
        "SELECT position, entry_count FROM segment WHERE position >= ? AND position < ? ORDER BY position DESC LIMIT 1",
        (logs.row_at(log_id, 0), logs.row_at(log_id + 1, 0)),
    ).fetchone()
    return 0 if row is None else int(logs.row_place(row[0])[1] + row[1] - 1)


def messages_of(payload: bytes) -> list[tuple[str, int]]:
    """(producer, number) of each message; raises ValueError, DecodeError where they are not what a publisher made."""
    found = []
    for message in message_pb2.MessageBatch.FromString(payload).messages:
        producer, number, rest = message.payload.split(b"/", 2)
        if rest.strip(b".") or message.key != str(int(number) % 2) or not message.topic.startswith("load."):
            raise ValueError(f"no publisher made {message}")
        found.append((producer.decode(), int(number)))
    return found
