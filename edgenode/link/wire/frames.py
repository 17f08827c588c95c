"""Link frames: model.frames <-> Frame messages.

Segments and passthrough messages are carried, not read. A field of Frame that is not known here (a newer peer) gives None.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

from edgenode.api.registry.v1 import registry_pb2
from edgenode.api.sync.v1 import sync_pb2
from edgenode.link.errors import InvalidArgument
from edgenode.link.model import frames
from edgenode.link.model.agent import RegistryEntry
from edgenode.link.model.frames import Carried
from edgenode.link.wire import lanes
from edgenode.link.wire.values import (
    duration_from_pb,
    duration_to_pb,
    lenient_duration,
    problem_from_pb,
    problem_to_pb,
)

_CARRIED = {
    Carried.DESIRED_STATE: sync_pb2.DesiredState,
    Carried.DESIRED_STATE_REPORT: sync_pb2.DesiredStateReport,
    Carried.CALLS: sync_pb2.CallBatch,
    Carried.NOTICES: sync_pb2.NoticeBatch,
    Carried.FIND: sync_pb2.FindExchange,
    Carried.ADMIN: sync_pb2.AdminExchange,
    Carried.BLOBS: sync_pb2.BlobExchange,
}


def frame_to_pb(frame: frames.Frame) -> sync_pb2.Frame:
    """The message of `frame`. Raises TypeError for a passthrough whose message is not of its kind."""
    return _TO_PB[type(frame)](frame)


def frame_from_pb(message: sync_pb2.Frame) -> frames.Frame | None:
    """The frame in `message`; None for a kind that is not known here. Raises InvalidArgument for a malformed one."""
    field = message.WhichOneof("frame")
    read = _FROM_PB.get(field) if field is not None else None
    return None if read is None else read(getattr(message, field))


def passthrough(message: sync_pb2.Frame) -> frames.Passthrough:
    """The carried frame in `message`. Raises InvalidArgument (NOT_CARRIED) for one the session itself speaks."""
    field = message.WhichOneof("frame")
    try:
        kind = Carried(field or "")
    except ValueError:
        raise InvalidArgument(
            "NOT_CARRIED", f"frame {field} cannot be sent from outside the session", hint=f"one of {', '.join(Carried)}"
        ) from None
    return frames.Passthrough(kind, getattr(message, kind))


# --- to messages ------------------------------------------------------------------------------------------------------


def _hello_to_pb(hello: frames.Hello) -> sync_pb2.Frame:
    return sync_pb2.Frame(
        hello=sync_pb2.Hello(
            node=hello.node,
            boot_id=hello.boot_id,
            generation=hello.generation,
            heads=[lanes.head_to_pb(head) for head in hello.heads],
            cursors=[lanes.cursor_to_pb(cursor) for cursor in hello.cursors],
            credits=[_credit_to_pb(credit) for credit in hello.credits],
            registry_epoch=hello.registry_epoch,
            registry_version=hello.registry_version,
            applied_version=hello.applied_version,
            min_protocol_version=hello.min_protocol_version,
            max_protocol_version=hello.max_protocol_version,
            software=hello.software,
            hub_id=hello.hub,
            challenge=hello.challenge,
        )
    )


def _welcome_to_pb(welcome: frames.Welcome) -> sync_pb2.Frame:
    return sync_pb2.Frame(
        welcome=sync_pb2.Welcome(
            node=welcome.node,
            boot_id=welcome.boot_id,
            fence=welcome.fence,
            heads=[lanes.head_to_pb(head) for head in welcome.heads],
            cursors=[lanes.cursor_to_pb(cursor) for cursor in welcome.cursors],
            credits=[_credit_to_pb(credit) for credit in welcome.credits],
            registry_epoch=welcome.registry_epoch,
            registry_version=welcome.registry_version,
            protocol_version=welcome.protocol_version,
            heartbeat_duration=duration_to_pb(welcome.heartbeat),
            lease_duration=duration_to_pb(welcome.lease),
            hub_path=welcome.path,
        )
    )


def _batch_to_pb(batch: frames.Batch) -> sync_pb2.Frame:
    frame = sync_pb2.Frame()
    message = frame.batch
    message.lane = lanes.lane_to_pb(batch.lane)
    message.epoch = batch.epoch
    message.base_sequence = batch.base
    for segment in batch.segments:
        lanes.write_segment(segment, message.segments.add())
    message.missing_count = batch.missing
    message.gap_reason = batch.gap_reason
    return frame


def _ack_to_pb(ack: frames.Ack) -> sync_pb2.Frame:
    message = sync_pb2.Ack(
        lane=lanes.lane_to_pb(ack.lane),
        epoch=ack.epoch,
        sequence=ack.sequence,
        rejections=[lanes.rejection_to_pb(rejection) for rejection in ack.rejections],
        credit=None if ack.credit is None else _credit_to_pb(ack.credit),
    )
    return sync_pb2.Frame(ack=message)


def _delta_to_pb(delta: frames.RegistryDelta) -> sync_pb2.Frame:
    return sync_pb2.Frame(
        registry_delta=sync_pb2.RegistryDelta(
            epoch=delta.epoch,
            version=delta.version,
            agents=[_agent_to_pb(entry, entry.payload) for entry in delta.entries if entry.payload is not None],
            removals=[
                registry_pb2.Tombstone(name=entry.name, incarnation=entry.incarnation, version=entry.version)
                for entry in delta.entries
                if entry.payload is None
            ],
            snapshot=delta.snapshot,
            complete_buckets=delta.complete_buckets,
        )
    )


def _agent_to_pb(entry: RegistryEntry, payload: bytes) -> registry_pb2.Agent:
    # The log numbers the records: what it says counts, also where the payload was serialised before it had a version.
    agent = registry_pb2.Agent.FromString(payload)
    agent.name = entry.name
    agent.version = entry.version
    agent.runtime.incarnation = entry.incarnation
    return agent


def _digest_to_pb(digest: frames.RegistryDigest) -> sync_pb2.Frame:
    return sync_pb2.Frame(
        registry_digest=sync_pb2.RegistryDigest(
            epoch=digest.epoch, version=digest.version, root=digest.root, buckets=digest.buckets
        )
    )


def _heartbeat_to_pb(heartbeat: frames.Heartbeat) -> sync_pb2.Frame:
    return sync_pb2.Frame(
        heartbeat=sync_pb2.Heartbeat(
            number=heartbeat.number,
            reply_wanted=heartbeat.reply_wanted,
            loads=[
                sync_pb2.AgentLoad(agent=load.agent, in_flight_count=load.in_flight, queue_depth_count=load.queue_depth)
                for load in heartbeat.loads
            ],
        )
    )


def _pace_to_pb(pace: frames.Pace) -> sync_pb2.Frame:
    return sync_pb2.Frame(
        pace=sync_pb2.Pace(
            retry_after_duration=duration_to_pb(pace.retry_after), bytes_per_second=pace.bytes_per_second
        )
    )


def _passthrough_to_pb(frame: frames.Passthrough) -> sync_pb2.Frame:
    expected = _CARRIED[frame.kind]
    if not isinstance(frame.message, expected):
        raise TypeError(f"{frame.kind} carries {type(frame.message).__name__}, expected {expected.__name__}")
    message = sync_pb2.Frame()
    getattr(message, frame.kind).CopyFrom(frame.message)
    return message


def _credit_to_pb(credit: frames.Credit) -> sync_pb2.LaneCredit:
    return sync_pb2.LaneCredit(
        lane=lanes.lane_to_pb(credit.lane), added_bytes=credit.added_bytes, added_count=credit.added_count
    )


_TO_PB: dict[type, Callable[[Any], sync_pb2.Frame]] = {
    frames.Hello: _hello_to_pb,
    frames.Welcome: _welcome_to_pb,
    frames.Batch: _batch_to_pb,
    frames.Ack: _ack_to_pb,
    frames.Credit: lambda credit: sync_pb2.Frame(credit=_credit_to_pb(credit)),
    frames.RegistryDelta: _delta_to_pb,
    frames.RegistryAck: lambda ack: sync_pb2.Frame(
        registry_ack=sync_pb2.RegistryAck(epoch=ack.epoch, version=ack.version)
    ),
    frames.RegistryDigest: _digest_to_pb,
    frames.RegistryDigestRequest: lambda request: sync_pb2.Frame(
        registry_digest_request=sync_pb2.RegistryDigestRequest(buckets=request.buckets)
    ),
    frames.Heartbeat: _heartbeat_to_pb,
    frames.GoAway: lambda away: sync_pb2.Frame(go_away=sync_pb2.GoAway(problem=problem_to_pb(away.problem))),
    frames.Pace: _pace_to_pb,
    frames.Passthrough: _passthrough_to_pb,
}


# --- from messages ----------------------------------------------------------------------------------------------------


def _hello_from_pb(message: sync_pb2.Hello) -> frames.Hello:
    return frames.Hello(
        node=message.node,
        boot_id=message.boot_id,
        generation=message.generation,
        heads=tuple(lanes.head_from_pb(head) for head in message.heads),
        cursors=tuple(lanes.cursor_from_pb(cursor) for cursor in message.cursors),
        credits=_credits_from_pb(message.credits),
        registry_epoch=message.registry_epoch,
        registry_version=message.registry_version,
        applied_version=message.applied_version,
        min_protocol_version=message.min_protocol_version,
        max_protocol_version=message.max_protocol_version,
        software=message.software,
        hub=message.hub_id,
        challenge=message.challenge,
    )


def _welcome_from_pb(message: sync_pb2.Welcome) -> frames.Welcome:
    return frames.Welcome(
        node=message.node,
        boot_id=message.boot_id,
        fence=message.fence,
        heads=tuple(lanes.head_from_pb(head) for head in message.heads),
        cursors=tuple(lanes.cursor_from_pb(cursor) for cursor in message.cursors),
        credits=_credits_from_pb(message.credits),
        registry_epoch=message.registry_epoch,
        registry_version=message.registry_version,
        protocol_version=message.protocol_version,
        heartbeat=duration_from_pb(message.heartbeat_duration, "welcome.heartbeat_duration"),
        lease=duration_from_pb(message.lease_duration, "welcome.lease_duration"),
        path=tuple(message.hub_path),
    )


def _batch_from_pb(message: sync_pb2.Batch) -> frames.Batch:
    return frames.Batch(
        lane=lanes.lane_from_pb(message.lane),
        epoch=message.epoch,
        base=message.base_sequence,
        segments=lanes.segments_from_pb(message.segments),
        missing=message.missing_count,
        gap_reason=message.gap_reason,
    )


def _ack_from_pb(message: sync_pb2.Ack) -> frames.Ack:
    return frames.Ack(
        lane=lanes.lane_from_pb(message.lane),
        epoch=message.epoch,
        sequence=message.sequence,
        rejections=tuple(lanes.rejection_from_pb(rejection) for rejection in message.rejections),
        credit=_credit_from_pb(message.credit) if message.HasField("credit") else None,
    )


def _delta_from_pb(message: sync_pb2.RegistryDelta) -> frames.RegistryDelta:
    agents = [
        RegistryEntry(agent.name, agent.runtime.incarnation, agent.version, agent.SerializeToString())
        for agent in message.agents
    ]
    removals = [RegistryEntry(gone.name, gone.incarnation, gone.version, None) for gone in message.removals]
    return frames.RegistryDelta(
        epoch=message.epoch,
        version=message.version,
        entries=tuple(sorted([*agents, *removals], key=lambda entry: entry.version)),
        snapshot=message.snapshot,
        complete_buckets=tuple(message.complete_buckets),
    )


def _heartbeat_from_pb(message: sync_pb2.Heartbeat) -> frames.Heartbeat:
    loads = tuple(frames.AgentLoad(load.agent, load.in_flight_count, load.queue_depth_count) for load in message.loads)
    return frames.Heartbeat(message.number, message.reply_wanted, loads)


def _credit_from_pb(message: sync_pb2.LaneCredit) -> frames.Credit:
    return frames.Credit(lanes.lane_from_pb(message.lane), message.added_bytes, message.added_count)


def _credits_from_pb(messages: Iterable[sync_pb2.LaneCredit]) -> tuple[frames.Credit, ...]:
    return tuple(_credit_from_pb(message) for message in messages)


def _pace_from_pb(message: sync_pb2.Pace) -> frames.Pace:
    return frames.Pace(lenient_duration(message.retry_after_duration) or 0.0, message.bytes_per_second)


def _carried_from_pb(kind: Carried) -> Callable[[Any], frames.Frame]:
    return lambda message: frames.Passthrough(kind, message)


_FROM_PB: dict[str, Callable[[Any], frames.Frame]] = {
    "hello": _hello_from_pb,
    "welcome": _welcome_from_pb,
    "batch": _batch_from_pb,
    "ack": _ack_from_pb,
    "credit": _credit_from_pb,
    "registry_delta": _delta_from_pb,
    "registry_ack": lambda message: frames.RegistryAck(message.epoch, message.version),
    "registry_digest": lambda message: frames.RegistryDigest(
        message.epoch, message.version, message.root, message.buckets
    ),
    "registry_digest_request": lambda message: frames.RegistryDigestRequest(tuple(message.buckets)),
    "heartbeat": _heartbeat_from_pb,
    "go_away": lambda message: frames.GoAway(problem_from_pb(message.problem)),
    "pace": _pace_from_pb,
    **{str(kind): _carried_from_pb(kind) for kind in Carried},
}
