from __future__ import annotations

import dataclasses
from collections.abc import AsyncIterator, Sequence

import pytest
from msgspec import structs

from edgenode.api.message.v1 import message_pb2
from edgenode.link.errors import Internal
from edgenode.link.model.lanes import Gap, Lane, Segment
from edgenode.link.model.task import TaskState
from edgenode.link.protocol.scheduler import Demand
from edgenode.link.store import inbox, logs
from edgenode.link.store.database import Database
from hub.services.entries import cut_messages
from hub.services.ledger import ledger_lines
from hub.store.fleet import SqliteFleetStore
from hub.store.link import SqliteLinkStore
from hub.store.messages import SqliteMessageStore
from hub.store.records import (
    AgentRow,
    Decision,
    Intake,
    Selection,
    SignedDocument,
    TaskFilter,
    TaskRecord,
    Tasks,
    WaitKey,
)
from hub.store.schema import MESSAGE_LOG, open_database
from hub.store.tasks import SqliteTaskStore, task_log
from tests.unit.hub.letters import keeper

KEY = WaitKey(Demand("code.metrics", "zone=a", "", 2.5), 7)


def pack(entries: Sequence[bytes]) -> list[Segment]:
    return [Segment(len(entries), b"".join(entries), 1.0)]


class Store:
    """All SQLite stores over one database in memory."""

    def __init__(self, database: Database) -> None:
        numbers = iter(range(1_000_000))
        epoch = lambda: f"epoch-{next(numbers)}"  # noqa: E731
        self.database = database
        self.tasks = SqliteTaskStore(database, pack, epoch, keeper())
        self.fleet = SqliteFleetStore(database, epoch, keeper())
        self.messages = SqliteMessageStore(database, cut_messages, epoch)
        self.link = SqliteLinkStore(database)

    async def put(self, *tasks: TaskRecord, entries: Sequence[tuple[str, bytes]] = ()) -> None:
        def decide(known: Tasks, _: int) -> Decision:
            return Decision({task.task_id: task for task in tasks}, list(entries))

        await self.tasks.transact(Selection(task_ids=[task.task_id for task in tasks]), decide)

    async def select(self, selection: Selection) -> list[str]:
        seen: list[str] = []

        def decide(known: Tasks, _: int) -> Decision:
            seen[:] = known
            return Decision()

        await self.tasks.transact(selection, decide)
        return seen

    async def unbalanced(self) -> list[str]:
        facts = await self.link.ledger()
        return [f"{line.hop} {line.peer} {line.epoch}" for line in ledger_lines(facts) if not line.balanced]


@pytest.fixture
async def store() -> AsyncIterator[Store]:
    database = await open_database(None, 1 << 26)
    made = Store(database)
    await made.messages.prepare()
    yield made
    await database.close()


def task(task_id: str = "t", **facts: object) -> TaskRecord:
    return TaskRecord(task_id, "south", KEY.demand, KEY.priority, submit_time=1.0, spec=b"spec", **facts)  # type: ignore[arg-type]


async def test_a_task_is_read_as_it_was_written(store: Store) -> None:
    full = task(
        deadline=9.0,
        context_id="c",
        idempotency_key="i",
        request_id="r",
        replay_of="p",
        state=TaskState.WORKING,
        state_reason="why",
        holder="north",
        fence=3,
        attempt_count=2,
        agent="nodes/north/agents/x",
        outcome=b"outcome",
        answers=b"answers",
        cancel_reason="enough",
        avoid="east",
        avoid_until=5.0,
        update_time=4.0,
        sequence=6,
    )
    await store.put(full)
    assert await store.tasks.get("t") == full
    assert await store.tasks.get("other") is None
    assert [record.spec for _, record in await store.tasks.page(TaskFilter(skill="code.metrics"))] == [b""]


async def test_selections_find_what_they_name(store: Store) -> None:
    await store.put(
        task("a"),
        task("b", holder="north", state=TaskState.ASSIGNED, deadline=5.0),
        task("c", avoid="north", avoid_until=10.0),
        task("d", state=TaskState.COMPLETED, deadline=5.0, request_id="r-1"),
        task("e", state=TaskState.PARKED, idempotency_key="key"),
    )
    assert await store.select(Selection(waiting={KEY: 10})) == ["a", "c", "e"]
    assert await store.select(Selection(waiting={KEY: 10}, not_parked=True)) == ["a", "c"]
    assert await store.select(Selection(waiting={KEY: 10}, sole={KEY: "north"}, now=9.0)) == ["a", "e"]
    assert await store.select(Selection(waiting={KEY: 10}, sole={KEY: "north"}, now=10.0)) == ["a", "c", "e"]
    assert await store.select(Selection(waiting={KEY: 1})) == ["a"]
    assert await store.select(Selection(due=5.0)) == ["b"]
    assert await store.select(Selection(holder="north")) == ["b"]
    assert await store.select(Selection(holder="north", after_task_id="b")) == []
    assert await store.select(Selection(request_ids=["r-1"], idempotency_keys=["key", ""])) == ["d", "e"]
    workload = await store.tasks.workload()
    assert (workload.waiting, workload.held, workload.next_deadline) == ({KEY: 3}, {"north": 1}, 5.0)
    assert await store.tasks.held_queues("north") == [KEY]


async def test_a_change_against_an_outdated_row_is_a_defect_and_writes_nothing(store: Store) -> None:
    await store.put(task())
    ended = task(state=TaskState.COMPLETED, sequence=2)
    await store.put(ended)
    with pytest.raises(Internal):
        await store.put(structs.replace(ended, state=TaskState.FAILED, sequence=3), entries=[("north", b"x")])
    found = await store.tasks.get("t")
    assert found is not None
    assert found.state is TaskState.COMPLETED
    assert (await store.link.ledger()).downlinks == ()


async def test_cursor_rows_and_entries_are_one_transaction(store: Store) -> None:
    intake = Intake("south", Lane.TASK, "e1", 1, (Segment(2, b"", 1.0),))

    def fail(known: Tasks, applied_before: int) -> Decision:
        raise ValueError("a defect")

    with pytest.raises(ValueError, match="a defect"):
        await store.tasks.transact(Selection(), fail, intake)
    assert await store.link.cursors("south", ()) == []
    seen: list[int] = []

    def decide(known: Tasks, applied_before: int) -> Decision:
        seen.append(applied_before)
        return Decision({"t": task()} if applied_before < 2 else {}, [("north", b"grant")])

    committed = await store.tasks.transact(Selection(task_ids=["t"]), decide, intake)
    assert committed.appended == {"north": 1}
    assert committed.applied is not None
    assert committed.applied.sequence == 2
    await store.tasks.transact(Selection(task_ids=["t"]), decide, intake)
    assert seen == [0, 2]
    (cursor,) = await store.link.cursors("south", ())
    assert cursor.sequence == 2
    assert await store.unbalanced() == []
    state = await store.database.read(lambda connection: logs.log_state(connection, task_log("north")))
    assert state.last == 2


async def test_ended_tasks_are_swept_in_bounds_and_the_ledger_still_adds_up(store: Store) -> None:
    # Whatever the wall clock said when they ended: what counts is how long the store has been in use since.
    ended = [task(f"t{index}", state=TaskState.COMPLETED, update_time=1e12) for index in range(5)]
    await store.put(*ended)
    assert await store.tasks.pass_time(9.0) == 0.0
    assert await store.tasks.pass_time(-1.0) == 9.0
    await store.put(task("new", state=TaskState.FAILED, update_time=1.0), task("open"))
    assert await store.tasks.sweep(5.0, 3) == 3
    assert await store.tasks.sweep(5.0, 3) == 2
    assert await store.tasks.sweep(5.0, 3) == 0
    assert await store.tasks.state_counts() == {"FAILED": 1, "QUEUED": 1}
    assert await store.unbalanced() == []


def messages(*topics: str) -> Segment:
    batch = message_pb2.MessageBatch(messages=[message_pb2.Message(topic=topic) for topic in topics])
    return Segment(len(topics), batch.SerializeToString(), 1.0)


async def stored(store: Store) -> list[tuple[str, str, int]]:
    """(topic, epoch, sequence at the origin) of all that is held."""
    chunk = (await store.messages.read(0, 1000, 1 << 20)).chunk
    found = []
    for segment in chunk.segments:
        batch = message_pb2.MessageBatch.FromString(segment.payload)
        found += [
            (message.topic, segment.origin_epoch, segment.origin_sequence + index)
            for index, message in enumerate(batch.messages)
        ]
    return found


async def test_messages_are_stored_once_under_their_origins_key(store: Store) -> None:
    intake = Intake("north", Lane.MESSAGE, "e1", 1, (messages("a", "b"), messages("c")))
    await store.messages.append(intake)
    await store.messages.append(intake)
    # Cut otherwise than before: only what is new of it is taken.
    await store.messages.append(Intake("north", Lane.MESSAGE, "e1", 2, (messages("b", "c", "d"),)))
    assert await stored(store) == [("a", "e1", 1), ("b", "e1", 2), ("c", "e1", 3), ("d", "e1", 4)]
    assert await store.unbalanced() == []


async def test_what_a_renewed_log_sends_again_is_known(store: Store) -> None:
    await store.messages.append(Intake("north", Lane.MESSAGE, "e1", 1, (messages("a", "b"),)))
    again = [
        dataclasses.replace(messages("a", "b", "c"), origin_epoch="e1", origin_sequence=1),
        messages("d"),
    ]
    await store.messages.append(Intake("north", Lane.MESSAGE, "e2", 1, tuple(again)))
    again[1] = dataclasses.replace(again[1], origin_epoch="e2", origin_sequence=4)
    await store.messages.append(Intake("north", Lane.MESSAGE, "e3", 1, tuple(again)))
    assert await stored(store) == [("a", "e1", 1), ("b", "e1", 2), ("c", "e1", 3), ("d", "e2", 4)]
    assert await store.unbalanced() == []
    (cursor,) = await store.link.cursors("north", ())
    assert (cursor.epoch, cursor.sequence) == ("e3", 4)


def keyed(epoch: str, sequence: int, *topics: str) -> Segment:
    return dataclasses.replace(messages(*topics), origin_epoch=epoch, origin_sequence=sequence)


@pytest.mark.parametrize("restarted", [False, True])
async def test_what_two_copies_of_a_disk_append_is_never_taken_for_the_same(store: Store, restarted: bool) -> None:
    """Both have a and b; the copy sends them and its own c; the original has another c at the same place."""

    async def take(epoch: str, base: int, segments: tuple[Segment, ...]) -> None:
        await store.messages.append(Intake("north", Lane.MESSAGE, epoch, base, segments))

    await take("original", 1, (messages("a"),))
    await take("copy", 2, (keyed("original", 2, "b"), messages("copy's c")))
    if restarted:  # ... and one held entry that the hub has from it
        await take("restarted", 1, (keyed("original", 1, "a", "b", "original's c"), messages("d")))
    else:
        await take("original", 1, (messages("a", "b", "original's c"), messages("d")))
    assert await stored(store) == [
        ("a", "original", 1),
        ("b", "original", 2),
        ("copy's c", "copy", 3),
        ("original's c", "original", 3),
        ("d", "restarted" if restarted else "original", 4),
    ]
    assert await store.unbalanced() == []


async def test_what_is_remembered_of_restarts_with_a_backlog_is_bounded(
    store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each process sends what the one before it left, over a link of its own and through a hub, where others do the same."""
    monkeypatch.setattr(inbox, "KEPT_CURSORS", 4)
    origins = ("", "west", "east")

    def left_by(number: int, origin: str) -> Segment:
        made = keyed(f"{origin or 'north'}-{number}", number, f"{origin}{number}")
        return dataclasses.replace(made, origin_node=origin)

    def sent(number: int, base: int, *left: int) -> list[Intake]:
        direct = tuple(left_by(old, "") for old in left)
        below = tuple(left_by(old, origin) for old in left for origin in origins[1:])
        return [
            Intake("north", Lane.MESSAGE, f"north-{number}", base, direct),
            Intake("hub", Lane.MESSAGE, f"hub-{number}", 2 * base - 1, below),
        ]

    for number in range(1, 21):
        for intake in sent(number + 1, number, number):
            await store.messages.append(intake)
    rows = "SELECT origin_node, count(*) FROM known_origin GROUP BY 1 ORDER BY 1"
    counts = await store.database.read(lambda connection: connection.execute(rows).fetchall())
    assert counts == [("hub/east", 4), ("hub/west", 4), ("north", 4)]
    held = await stored(store)
    assert len(held) == 60
    for intake in sent(22, 17, 17, 18, 19, 20):  # acknowledgements were lost
        await store.messages.append(intake)
    assert await stored(store) == held
    assert await store.unbalanced() == []


async def test_retention_keeps_what_is_not_read_until_the_hard_bound(store: Store) -> None:
    await store.messages.subscribe("reader", 0)
    for index in range(10):
        payload = messages("a").payload + bytes(0)
        segment = Segment(1, payload, 1.0)
        await store.messages.append(Intake("north", Lane.MESSAGE, "e1", index + 1, (segment,)))
    size, taken = len(messages("a").payload), logs.disk_bytes(len(messages("a").payload))
    assert await store.messages.sweep(2 * size, 0) == 0
    assert await store.messages.sweep(2 * size, 10 * taken) == 0
    assert await store.messages.sweep(2 * size, 10 * taken - 5 * size) == 5
    assert await store.messages.bounds() == (6, 10)
    assert await store.messages.subscribe("reader", 0) == 5
    await store.messages.acknowledge("reader", 9)
    assert await store.messages.sweep(2 * size, 0) == 3
    assert await store.messages.bounds() == (9, 10)
    assert await store.unbalanced() == []
    facts = await store.link.ledger()
    assert facts.messages_dropped == {"UNREAD": 5, "RETENTION": 3}
    state = await store.database.read(lambda connection: logs.log_state(connection, MESSAGE_LOG))
    assert state.held_bytes == 2 * size


async def test_a_lane_that_is_not_served_is_refused_entry_by_entry(store: Store) -> None:
    applied = await store.link.refuse(Intake("north", Lane.BULK, "e1", 1, (Segment(3, b"", 1.0),)), "NOT", "no")
    assert [rejection.sequence for rejection in applied.rejections] == [1, 2, 3]
    assert await store.unbalanced() == []


async def test_a_log_that_begins_later_balances_from_there(store: Store) -> None:
    await store.link.refuse(Intake("north", Lane.BULK, "e2", 11, (Segment(3, b"", 1.0),)), "NOT", "no")
    await store.link.refuse(
        Intake("north", Lane.BULK, "e2", 20, (Segment(1, b"", 1.0),), Gap("EXPIRED", 13)), "NOT", "no"
    )
    (up,) = (await store.link.ledger()).uplinks
    assert (up.start, up.sequence, up.rejected, up.gap) == (10, 20, 4, 6)
    assert await store.unbalanced() == []


async def test_agents_are_found_by_their_words(store: Store) -> None:
    row = AgentRow("north", "nodes/north/agents/code", 1, 1, b"", "code\nanalyses python files\nmetrics")
    other = AgentRow("north", "nodes/north/agents/cam", 1, 2, b"", "camera\ntakes pictures")
    await store.fleet.open_session("north", "boot", 1, "fake/1", 1.0)
    await store.fleet.apply_registry("north", "r1", 2, [row, other], [])
    assert list(await store.fleet.search("analysing")) == ["nodes/north/agents/code"]
    assert list(await store.fleet.search('pic "*) OR')) == ["nodes/north/agents/cam"]
    assert await store.fleet.search('"*"') == {}
    await store.fleet.apply_registry("north", "r1", 3, [dataclasses.replace(row, text="something else")], [other.name])
    assert await store.fleet.search("python pictures") == {}
    assert [agent.name for agent in await store.fleet.agents()] == ["nodes/north/agents/code"]
    (node,) = await store.fleet.nodes()
    assert (node.registry_epoch, node.registry_version, node.fence) == ("r1", 3, 1)
    session = await store.fleet.open_session("north", "boot-2", 1, "fake/1", 2.0)
    assert session is not None
    assert session.fence == 2


async def test_desired_states_have_growing_versions(store: Store) -> None:
    def sign(version: int) -> SignedDocument:
        return SignedDocument(version, b"document", b"signature", (b"leaf", b"issuer"))

    await store.fleet.report_desired("north", 0, 0, b"")
    assert (await store.fleet.desired("north")).wanted is None
    await store.fleet.set_desired("north", sign)
    signed = await store.fleet.set_desired("north", sign)
    await store.fleet.report_desired("north", 1, 2, b"why")
    row = await store.fleet.desired("north")
    assert row.wanted == signed
    assert (signed.version, row.applied_version, row.refused_version, row.problem) == (2, 1, 2, b"why")


async def test_what_comes_through_a_hub_keeps_its_key_and_is_named_with_the_way(store: Store) -> None:
    through = dataclasses.replace(keyed("e1", 1, "a", "b"), origin_node="north")
    await store.messages.append(Intake("berlin", Lane.MESSAGE, "log-1", 1, (through,)))
    chunk = (await store.messages.read(0, 10, 1 << 20)).chunk
    assert [(segment.origin_node, segment.origin_epoch) for segment in chunk.segments] == [("berlin/north", "e1")]
    # The child stored it anew under another epoch, or it comes by another way: it is known by its key.
    await store.messages.append(Intake("berlin", Lane.MESSAGE, "log-2", 1, (through,)))
    await store.messages.append(Intake("paris", Lane.MESSAGE, "log-3", 1, (through,)))
    assert await stored(store) == [("a", "e1", 1), ("b", "e1", 2)]
    assert await store.unbalanced() == []


async def test_what_comes_from_too_deep_is_refused_by_itself(store: Store) -> None:
    deep = dataclasses.replace(keyed("e1", 1, "a", "b"), origin_node="/".join(["hub"] * 7 + ["north"]))
    near = dataclasses.replace(keyed("e2", 1, "c"), origin_node="north")
    applied, _ = await store.messages.append(Intake("berlin", Lane.MESSAGE, "log-1", 1, (deep, near)))
    assert [(rejection.sequence, rejection.problem.reason) for rejection in applied.rejections] == [
        (1, "BAD_NAME"),
        (2, "BAD_NAME"),
    ]
    assert await stored(store) == [("c", "e2", 1)]
    assert await store.unbalanced() == []


async def test_the_log_waits_for_the_parent_and_what_is_dropped_is_counted(store: Store) -> None:
    await store.messages.append(Intake("north", Lane.MESSAGE, "e1", 1, (messages("old"),)))
    await store.messages.sweep(0, 0)
    outbox = await store.fleet.parent_outbox()
    for index in range(4):
        await store.messages.append(Intake("north", Lane.MESSAGE, "e1", index + 2, (messages("a"),)))
    assert await store.messages.sweep(0, 0) == 0, "the parent lacks them"
    (head,) = [head for head in await outbox.heads() if head.lane is Lane.MESSAGE]
    await outbox.acknowledged(Lane.MESSAGE, head.epoch, 3, [])
    assert await store.messages.sweep(0, 0) == 2
    assert await store.messages.sweep(0, 1) == 2
    lines = {line.hop: line for line in ledger_lines(await store.link.ledger(), parent="above") if line.peer == "above"}
    line = lines["message.uplink"]
    assert (line.produced_count, line.delivered_count, line.pending_count) == (5, 2, 0)
    assert dict(line.dropped_counts) == {"BEFORE_JOIN": 1, "UNREAD": 2}
    assert line.balanced
