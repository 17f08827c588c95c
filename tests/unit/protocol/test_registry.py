"""The registry's log, its replica and the digest, together under any order of changes and losses."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from edgenode.link.errors import Aborted, FailedPrecondition, NotFound
from edgenode.link.model.agent import RegistryEntry
from edgenode.link.model.frames import RegistryAck, RegistryDelta, RegistryDigest, RegistryDigestRequest
from edgenode.link.protocol.registry import BUCKETS, RegistryChanges, RegistryLog, RegistryReplica, bucket_of
from edgenode.link.protocol.registry_sync import RegistrySink, RegistrySource

MANY = 10_000


def _source(log: RegistryLog, epoch: str = "", version: int = 0, *, count: int = MANY) -> RegistrySource:
    return RegistrySource(log, epoch, version, 0.0, max_count=count, max_bytes=1 << 20, digest_interval=60.0)


def _settle(source: RegistrySource, sink: RegistrySink, now: float = 0.0) -> list[object]:
    """Pass frames to and fro until both are silent; returns the frames that went up."""
    frames: list[object] = []
    while (frame := source.next_frame(now)) is not None:
        frames.append(frame)
        assert len(frames) < 2000, "they never come to rest"
        if isinstance(frame, RegistryDigest):
            request = sink.compared(frame)
            if request is not None:
                source.requested(request)
        else:
            answer = sink.received(frame)
            if isinstance(answer, RegistryChanges):
                answer = sink.applied(answer.epoch, answer.version)
            source.acknowledged(answer)
    return frames


def _records(log: RegistryLog) -> dict[str, tuple[int, int]]:
    return {entry.name: (entry.incarnation, entry.version) for entry in log.entries()}


# --- the log ----------------------------------------------------------------------------------------------------------


def test_every_change_has_the_next_version() -> None:
    log = RegistryLog("e", 7)
    assert log.put("a", 1, b"1").version == 8
    assert log.put("b", 1, b"1").version == 9
    assert log.remove("a", 1) == RegistryEntry("a", 1, 10, None)
    assert (log.version, log.get("a")) == (10, None)
    assert [entry.name for entry in log.entries()] == ["b"]


def test_the_higher_incarnation_wins_the_name() -> None:
    log = RegistryLog("e")
    log.put("a", 5, b"new")
    with pytest.raises(Aborted) as caught:
        log.put("a", 4, b"old")
    assert caught.value.reason == "INCARNATION_OUTDATED"
    with pytest.raises(Aborted):
        log.remove("a", 4)
    log.put("a", 5, b"changed")
    log.remove("a", 5)
    with pytest.raises(Aborted):
        log.put("a", 5, b"removed before")
    log.put("a", 6, b"back")
    assert log.get("a") == RegistryEntry("a", 6, 4, b"back")


def test_what_is_not_there_cannot_be_removed() -> None:
    log = RegistryLog("e")
    log.put("a", 1, b"")
    log.remove("a", 1)
    for name in ("a", "b"):
        with pytest.raises(NotFound):
            log.remove(name, 1)


def test_a_delta_holds_what_is_newer_oldest_first_and_only_the_newest_of_each() -> None:
    log = RegistryLog("e")
    for name in ("a", "b", "a", "c"):
        log.put(name, 1, b"x")
    log.remove("b", 1)
    delta = log.delta(1, MANY, MANY)
    assert [(entry.name, entry.version, entry.payload) for entry in delta.entries] == [
        ("a", 3, b"x"),
        ("c", 4, b"x"),
        ("b", 5, None),
    ]
    assert delta.version == 5


def test_a_delta_is_cut_by_count_and_size_but_holds_one_at_least() -> None:
    log = RegistryLog("e")
    for number in range(5):
        log.put(f"a{number}", 1, b"x" * 100)
    assert (len(log.delta(0, 2, MANY).entries), log.delta(0, 2, MANY).version) == (2, 2)
    assert len(log.delta(0, MANY, 300).entries) == 2
    assert len(log.delta(0, MANY, 1).entries) == 1
    assert log.delta(5, MANY, MANY) == RegistryDelta("e", 5, ())


def test_acknowledged_tombstones_go_and_those_behind_them_get_a_snapshot() -> None:
    log = RegistryLog("e")
    log.put("a", 1, b"")
    log.put("b", 1, b"")
    log.remove("a", 1)
    log.remove("b", 1)
    log.acked(3)
    assert [entry.name for entry in log.delta(0, MANY, MANY).entries] == ["b"]
    assert (log.needs_snapshot(2), log.needs_snapshot(3)) == (True, False)


def test_a_log_read_from_a_store_owes_a_snapshot_to_those_behind_unless_it_kept_tombstones() -> None:
    entries = [RegistryEntry("b", 1, 4, b""), RegistryEntry("a", 1, 2, b"")]
    assert RegistryLog("e", 6, entries).needs_snapshot(5)
    log = RegistryLog("e", 6, entries, floor=0)
    assert not log.needs_snapshot(1)
    assert [entry.name for entry in log.delta(1, MANY, MANY).entries] == ["a", "b"]


# --- the replica ------------------------------------------------------------------------------------------------------


def test_an_outdated_delta_brings_nothing_back() -> None:
    log, replica = RegistryLog("e"), RegistryReplica("e")
    log.put("a", 1, b"")
    early = log.delta(0, MANY, MANY)
    replica.apply(early)
    log.remove("a", 1)
    replica.apply(log.delta(1, MANY, MANY))
    assert replica.apply(early) == RegistryChanges("e", 2, (), ())
    assert replica.records() == {}


def test_another_epoch_needs_a_snapshot() -> None:
    replica = RegistryReplica("e")
    with pytest.raises(FailedPrecondition) as caught:
        replica.plan(RegistryDelta("other", 1, ()))
    assert caught.value.reason == "REGISTRY_EPOCH"


def test_a_snapshot_replaces_everything_and_says_what_went() -> None:
    replica = RegistryReplica("old", 90, [RegistryEntry("a", 1, 80, b""), RegistryEntry("b", 1, 90, b"")])
    fresh = RegistryEntry("b", 2, 1, b"new")
    assert replica.apply(RegistryDelta("new", 1, (fresh,), snapshot=True)) == RegistryChanges(
        "new", 1, (fresh,), ("a",)
    )
    assert replica.records() == {"b": (2, 1)}


def test_the_same_numbers_mean_something_else_in_another_epoch() -> None:
    replica = RegistryReplica("old", 1, [RegistryEntry("a", 1, 1, b"old")])
    fresh = RegistryEntry("a", 1, 1, b"new")
    assert replica.apply(RegistryDelta("new", 1, (fresh,), snapshot=True)).upserts == (fresh,)
    assert replica.apply(RegistryDelta("new", 1, (fresh,), snapshot=True)).upserts == ()


def test_an_outdated_snapshot_of_the_same_epoch_changes_nothing() -> None:
    replica = RegistryReplica("e", 5, [RegistryEntry("a", 1, 5, b"")])
    assert replica.apply(RegistryDelta("e", 4, (), snapshot=True)) == RegistryChanges("e", 5, (), ())


def test_nothing_changes_before_the_commit() -> None:
    log, replica = RegistryLog("e"), RegistryReplica("e")
    log.put("a", 1, b"")
    changes = replica.plan(log.delta(0, MANY, MANY))
    assert (replica.version, replica.records()) == (0, {})
    replica.commit(changes)
    assert (replica.version, replica.records()) == (1, {"a": (1, 1)})


OPERATIONS = st.lists(
    st.tuples(st.sampled_from(["put", "remove", "send", "lose", "ack lost", "old", "repair"]), st.integers(0, 5)),
    max_size=60,
)


@given(OPERATIONS, st.integers(1, 4))
def test_the_replica_ends_up_equal_whatever_is_lost_or_comes_late(
    operations: list[tuple[str, int]], count: int
) -> None:
    log, replica = RegistryLog("e"), RegistryReplica("e")
    incarnation = cursor = 0
    past: list[RegistryDelta] = []
    for kind, number in operations:
        name = f"agent-{number}"
        if kind == "put":
            incarnation += 1
            log.put(name, incarnation, b"x")
        elif kind == "remove" and (known := log.get(name)) is not None:
            log.remove(name, known.incarnation)
        elif kind == "old" and past:
            replica.apply(past[number % len(past)])
        elif kind == "repair":
            replica.apply(log.bucket_delta((bucket_of(name),), cursor, MANY, MANY))
        elif kind in ("send", "lose", "ack lost"):
            past.append(log.delta(cursor, count, MANY))
            if kind != "lose":
                replica.apply(past[-1])
            if kind == "send":
                cursor = past[-1].version
                log.acked(cursor)
    while cursor < log.version:
        delta = log.delta(cursor, count, MANY)
        replica.apply(delta)
        cursor = delta.version
    assert replica.records() == _records(log)
    assert replica.digest() == log.digest()


# --- the digest -------------------------------------------------------------------------------------------------------


@given(st.lists(st.tuples(st.text(min_size=1, max_size=5), st.booleans()), max_size=40))
def test_the_digest_depends_on_what_is_there_and_not_on_how_it_came(steps: list[tuple[str, bool]]) -> None:
    log = RegistryLog("e")
    for number, (name, keep) in enumerate(steps, 1):
        log.put(name, number, b"x")
        if not keep:
            log.remove(name, number)
    again = RegistryLog("e", log.version, log.entries())
    assert again.digest(with_buckets=True) == log.digest(with_buckets=True)
    replica = RegistryReplica("e", log.version, log.entries())
    assert replica.digest(with_buckets=True) == log.digest(with_buckets=True)


def test_the_digest_sees_a_record_that_differs_and_names_its_bucket() -> None:
    log = RegistryLog("e")
    for number in range(50):
        log.put(f"agent-{number}", 1, b"x")
    entries = list(log.entries())
    replica = RegistryReplica("e", 50, entries[1:])
    assert len(log.digest().root) == 16
    assert log.digest().root != replica.digest().root
    assert replica.differing(log.digest(with_buckets=True).buckets) == (bucket_of("agent-0"),)


# --- one session ------------------------------------------------------------------------------------------------------


def test_a_new_peer_gets_a_snapshot_then_a_digest() -> None:
    log = RegistryLog("e", 100)
    log.put("a", 1, b"")
    sink = RegistrySink(RegistryReplica("before", 900, [RegistryEntry("x", 1, 1, b"")]))
    frames = _settle(_source(log, "before", 900), sink)
    assert [type(frame) for frame in frames] == [RegistryDelta, RegistryDigest]
    assert sink.replica.records() == _records(log)


def test_a_large_snapshot_goes_in_pieces() -> None:
    log = RegistryLog("e", 100)
    for number in range(25):
        log.put(f"agent-{number}", 1, b"")
    log.remove("agent-3", 1)
    sink = RegistrySink(RegistryReplica())
    frames = [frame for frame in _settle(_source(log, count=4), sink) if isinstance(frame, RegistryDelta)]
    assert [frame.snapshot for frame in frames] == [True] + [False] * 6
    assert sink.replica.records() == _records(log)


def test_one_delta_at_a_time_and_the_next_carries_everything_newer() -> None:
    log = RegistryLog("e")
    source = _source(log, "e")
    log.put("a", 1, b"")
    first = source.next_frame(0.0)
    log.put("b", 1, b"")
    log.put("b", 1, b"again")
    assert source.next_frame(0.0) is None
    source.acknowledged(RegistryAck("e", 1))
    second = source.next_frame(0.0)
    assert isinstance(first, RegistryDelta)
    assert isinstance(second, RegistryDelta)
    assert [entry.version for entry in second.entries] == [3]


def test_a_peer_ahead_of_us_gets_a_snapshot_above_its_version() -> None:
    log = RegistryLog("e", 5, [RegistryEntry("a", 1, 4, b"")])
    sink = RegistrySink(RegistryReplica("e", 40, [RegistryEntry("a", 1, 30, b""), RegistryEntry("b", 1, 40, b"")]))
    _settle(_source(log, "e", 40), sink)
    assert log.version > 40
    assert sink.replica.records() == {"a": (1, 4)}
    assert sink.replica.digest() == log.digest()


def test_a_digest_that_differs_is_repaired_bucket_by_bucket() -> None:
    log = RegistryLog("e")
    for number in range(40):
        log.put(f"agent-{number}", 1, b"x")
    entries = [entry for entry in log.entries() if not entry.name.endswith("7")]
    entries[0] = RegistryEntry(entries[0].name, 9, 99, b"wrong")
    entries.append(RegistryEntry("nobody", 1, 12, b"x"))
    sink = RegistrySink(RegistryReplica("e", 40, entries))
    frames = _settle(_source(log, "e", 40, count=2), sink, now=60.0)
    assert [type(frame) for frame in frames[:2]] == [RegistryDigest, RegistryDigest]
    assert sink.replica.records() == _records(log)
    assert sum(len(frame.complete_buckets) for frame in frames if isinstance(frame, RegistryDelta)) < BUCKETS / 2
    assert isinstance(_settle(_source(log, "e", 40), sink)[0], RegistryDigest), "and then they agree"


def test_a_repair_overtaken_by_a_change_loses_neither() -> None:
    log = RegistryLog("e")
    log.put("a", 1, b"")
    log.put("b", 1, b"")
    sink = RegistrySink(RegistryReplica("e", 2, [RegistryEntry("b", 1, 2, b"")]))
    source = _source(log, "e", 2)
    source.requested(RegistryDigestRequest((bucket_of("a"), bucket_of("b"))))
    repair = source.next_frame(0.0)
    assert isinstance(repair, RegistryDelta)
    assert repair.complete_buckets
    log.remove("b", 1)
    log.put("a", 2, b"new")
    changes = sink.received(repair)
    assert isinstance(changes, RegistryChanges)
    source.acknowledged(sink.applied(changes.epoch, changes.version))
    _settle(source, sink)
    assert sink.replica.records() == {"a": (2, 4)}


def test_a_digest_of_another_time_is_not_answered() -> None:
    log = RegistryLog("e")
    log.put("a", 1, b"")
    sink = RegistrySink(RegistryReplica("e", 0))
    assert sink.compared(log.digest()) is None
    assert sink.compared(RegistryDigest("other", 0, b"\0" * 16)) is None


def test_digests_come_at_intervals_and_only_when_all_is_acknowledged() -> None:
    log = RegistryLog("e")
    source, sink = _source(log, "e"), RegistrySink(RegistryReplica("e"))
    assert [type(frame) for frame in _settle(source, sink, 1.0)] == [RegistryDigest]
    assert source.next_deadline(20.0) == 61.0
    assert _settle(source, sink, 60.9) == []
    log.put("a", 1, b"")
    assert [type(frame) for frame in _settle(source, sink, 61.0)] == [RegistryDelta, RegistryDigest]


def test_a_missing_acknowledgement_is_noticed() -> None:
    log = RegistryLog("e")
    log.put("a", 1, b"")
    source = _source(log, "e")
    source.next_frame(3.0)
    assert source.next_deadline(20.0) == 23.0
    assert (source.stalled(22.9, 20.0), source.stalled(23.0, 20.0)) == (False, True)


@pytest.mark.parametrize("ack", [RegistryAck("e", 0), RegistryAck("e", 2), RegistryAck("other", 1)])
def test_an_acknowledgement_of_what_was_not_sent_is_refused(ack: RegistryAck) -> None:
    log = RegistryLog("e")
    log.put("a", 1, b"")
    source = _source(log, "e")
    source.next_frame(0.0)
    with pytest.raises(FailedPrecondition):
        source.acknowledged(ack)


def test_a_second_delta_before_the_acknowledgement_is_refused() -> None:
    log = RegistryLog("e")
    sink = RegistrySink(RegistryReplica("e"))
    log.put("a", 1, b"")
    sink.received(log.delta(0, MANY, MANY))
    with pytest.raises(FailedPrecondition):
        sink.received(log.delta(0, MANY, MANY))
