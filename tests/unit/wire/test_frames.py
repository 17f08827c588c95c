from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from edgenode.api.registry.v1 import registry_pb2
from edgenode.api.sync.v1 import sync_pb2
from edgenode.link.errors import InvalidArgument
from edgenode.link.model import frames
from edgenode.link.model.agent import RegistryEntry
from edgenode.link.model.frames import Carried, RegistryAck
from edgenode.link.model.lanes import Lane, LaneCursor, LaneHead, Rejection, Segment
from edgenode.link.protocol.registry import RegistryLog
from edgenode.link.wire.frames import frame_from_pb, frame_to_pb, passthrough
from tests.unit.wire.test_values import problems

words = st.text(max_size=12)
numbers = st.integers(0, 2**62)
small = st.integers(0, 2**31 - 1)
seconds = st.integers(0, 10**6).map(float)
lanes = st.sampled_from(Lane)
heads = st.builds(LaneHead, lanes, words, numbers, numbers)
cursors = st.builds(LaneCursor, lanes, words, numbers)
credits_ = st.builds(frames.Credit, lanes, numbers, numbers)
segments = st.builds(
    Segment, st.integers(1, 2**31 - 1), st.binary(max_size=30), st.integers(0, 10**9).map(float), words, words, numbers
)


def several(strategy: st.SearchStrategy[Any]) -> st.SearchStrategy[tuple[Any, ...]]:
    return st.lists(strategy, max_size=3).map(tuple)


FRAMES = st.one_of(
    st.builds(
        frames.Hello,
        words, words, numbers, several(heads), several(cursors), several(credits_), words, numbers, numbers, small,
        small, words,
    ),
    st.builds(
        frames.Welcome,
        words, words, numbers, several(heads), several(cursors), several(credits_), words, numbers, small, seconds,
        seconds,
    ),
    st.builds(frames.Batch, lanes, words, numbers, several(segments), numbers, words),
    st.builds(
        frames.Ack, lanes, words, numbers, several(st.builds(Rejection, numbers, problems)), st.none() | credits_
    ),
    credits_,
    st.builds(frames.RegistryAck, words, numbers),
    st.builds(frames.RegistryDigest, words, numbers, st.binary(max_size=16), st.binary(max_size=64)),
    st.builds(frames.RegistryDigestRequest, several(st.integers(0, 255))),
    st.builds(
        frames.Heartbeat, numbers, st.booleans(), several(st.builds(frames.AgentLoad, words, small, small))
    ),
    st.builds(frames.GoAway, problems),
    st.builds(frames.Pace, seconds, numbers),
)  # fmt: skip


def over_the_wire(frame: frames.Frame) -> frames.Frame | None:
    return frame_from_pb(sync_pb2.Frame.FromString(frame_to_pb(frame).SerializeToString()))


@given(FRAMES)
def test_frames_survive_the_wire(frame: frames.Frame) -> None:
    assert over_the_wire(frame) == frame


def test_registry_delta() -> None:
    agent = registry_pb2.Agent(card=registry_pb2.AgentCard(description="reads"))
    delta = frames.RegistryDelta(
        "e",
        9,
        (
            RegistryEntry("nodes/n/agents/gone", 3, 7, None),
            RegistryEntry("nodes/n/agents/reader", 4, 9, agent.SerializeToString()),
        ),
        snapshot=True,
        complete_buckets=(1, 255),
    )
    back = over_the_wire(delta)
    assert isinstance(back, frames.RegistryDelta)
    assert back.entries[0] == delta.entries[0]
    reader = back.entries[1]
    assert (reader.name, reader.incarnation, reader.version) == ("nodes/n/agents/reader", 4, 9)
    assert reader.payload is not None
    received = registry_pb2.Agent.FromString(reader.payload)
    assert (received.version, received.runtime.incarnation, received.card.description) == (9, 4, "reads")
    assert (back.epoch, back.version, back.snapshot, back.complete_buckets) == ("e", 9, True, (1, 255))


CARRIED = [
    (Carried.DESIRED_STATE, sync_pb2.DesiredState(version=3, document=b"d")),
    (Carried.DESIRED_STATE_REPORT, sync_pb2.DesiredStateReport(applied_version=3)),
    (Carried.CALLS, sync_pb2.CallBatch(cancel_call_ids=[1, 2])),
    (Carried.NOTICES, sync_pb2.NoticeBatch()),
    (Carried.FIND, sync_pb2.FindExchange(find_id=4)),
    (Carried.ADMIN, sync_pb2.AdminExchange(exchange_id=5)),
    (Carried.BLOBS, sync_pb2.BlobExchange(exchange_id=6, data=b"x")),
]


@pytest.mark.parametrize(("kind", "message"), CARRIED)
def test_carried_messages_pass_untouched(kind: Carried, message: Any) -> None:
    frame = frames.Passthrough(kind, message)
    assert over_the_wire(frame) == frame
    assert passthrough(frame_to_pb(frame)) == frame


def test_every_kind_of_carried_frame_is_covered() -> None:
    assert {kind for kind, _ in CARRIED} == set(Carried)
    fields = {field.name for field in sync_pb2.Frame.DESCRIPTOR.fields}
    assert {str(kind) for kind in Carried} <= fields


def test_a_carried_message_of_another_kind_is_a_defect() -> None:
    with pytest.raises(TypeError, match="carries FindExchange"):
        frame_to_pb(frames.Passthrough(Carried.CALLS, sync_pb2.FindExchange()))


def test_only_carried_frames_come_from_outside() -> None:
    with pytest.raises(InvalidArgument, match="NOT_CARRIED"):
        passthrough(sync_pb2.Frame(ack=sync_pb2.Ack()))
    with pytest.raises(InvalidArgument, match="NOT_CARRIED"):
        passthrough(sync_pb2.Frame())


def test_a_frame_of_a_newer_peer_is_passed_over() -> None:
    newer = sync_pb2.Frame.FromString(b"\xa2\x06\x00")  # field 100, not known here
    assert frame_from_pb(newer) is None


@pytest.mark.parametrize(
    ("message", "reason"),
    [
        (sync_pb2.Frame(batch=sync_pb2.Batch()), "UNKNOWN_LANE"),
        (
            sync_pb2.Frame(batch=sync_pb2.Batch(lane=sync_pb2.LANE_TASK, segments=[sync_pb2.Segment(payload=b"x")])),
            "BAD_SEGMENT",
        ),
        (sync_pb2.Frame(hello=sync_pb2.Hello(heads=[sync_pb2.LaneHead()])), "UNKNOWN_LANE"),
    ],
)
def test_malformed_frames(message: sync_pb2.Frame, reason: str) -> None:
    with pytest.raises(InvalidArgument, match=reason):
        frame_from_pb(message)


def test_a_change_of_an_agent_is_small_on_the_wire() -> None:
    """At most 400 bytes may pass for one, TLS, HTTP/2 and what comes back included; those take about 170."""
    log = RegistryLog("0" * 26, 7 << 32)
    agent = registry_pb2.Agent(name="nodes/north/agents/watched", card=registry_pb2.AgentCard(name="watched"))
    agent.runtime.instance_id, agent.runtime.node, agent.runtime.health_reason = "i", "north", "change 100"
    log.put(agent.name, 1, agent.SerializeToString())
    before = log.version
    log.put(agent.name, 1, agent.SerializeToString())
    delta = log.delta(before, 512, 1 << 20)
    assert [entry.name for entry in delta.entries] == [agent.name]
    assert frame_to_pb(delta).ByteSize() <= 150
    assert frame_to_pb(RegistryAck(log.epoch, log.version)).ByteSize() <= 50
