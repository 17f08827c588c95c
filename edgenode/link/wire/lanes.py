"""Heads, cursors, segments and rejections: model values <-> their messages. Payloads pass through unread."""

from __future__ import annotations

from collections.abc import Iterable

from google.protobuf.timestamp_pb2 import Timestamp

from edgenode.api.sync.v1 import sync_pb2
from edgenode.link.errors import InvalidArgument
from edgenode.link.model.lanes import EpochEnd, Lane, LaneCursor, LaneHead, Rejection, Segment
from edgenode.link.wire.values import problem_from_pb, problem_to_pb, stamp_parts

_LANES = {int(lane): lane for lane in Lane}
_NUMBERS = {
    Lane.CONTROL: sync_pb2.LANE_CONTROL,
    Lane.TASK: sync_pb2.LANE_TASK,
    Lane.MESSAGE: sync_pb2.LANE_MESSAGE,
    Lane.BULK: sync_pb2.LANE_BULK,
}
_BILLION = 1e9


def lane_to_pb(lane: Lane) -> sync_pb2.Lane:
    """The contract's value for `lane`."""
    return _NUMBERS[lane]


def lane_from_pb(number: int) -> Lane:
    """Raises InvalidArgument (UNKNOWN_LANE)."""
    lane = _LANES.get(number)
    if lane is None:
        raise InvalidArgument("UNKNOWN_LANE", f"lane is {number}", hint="expected 1 to 4", field="lane")
    return lane


def head_to_pb(head: LaneHead) -> sync_pb2.LaneHead:
    """The message of a head."""
    return sync_pb2.LaneHead(
        lane=lane_to_pb(head.lane),
        epoch=head.epoch,
        first_sequence=head.first,
        last_sequence=head.last,
        earlier_epochs=[sync_pb2.EpochEnd(epoch=end.epoch, last_sequence=end.last) for end in head.earlier],
    )


def head_from_pb(message: sync_pb2.LaneHead) -> LaneHead:
    """A head. Raises InvalidArgument (UNKNOWN_LANE)."""
    earlier = tuple(EpochEnd(end.epoch, end.last_sequence) for end in message.earlier_epochs)
    return LaneHead(lane_from_pb(message.lane), message.epoch, message.first_sequence, message.last_sequence, earlier)


def cursor_to_pb(cursor: LaneCursor) -> sync_pb2.LaneCursor:
    """The message of a cursor."""
    return sync_pb2.LaneCursor(
        lane=lane_to_pb(cursor.lane),
        epoch=cursor.epoch,
        sequence=cursor.sequence,
        rejections=[rejection_to_pb(rejection) for rejection in cursor.rejections],
    )


def cursor_from_pb(message: sync_pb2.LaneCursor) -> LaneCursor:
    """A cursor. Raises InvalidArgument (UNKNOWN_LANE)."""
    rejections = tuple(rejection_from_pb(rejection) for rejection in message.rejections)
    return LaneCursor(lane_from_pb(message.lane), message.epoch, message.sequence, rejections)


def write_segment(segment: Segment, message: sync_pb2.Segment) -> None:
    """Make the empty `message`, where it stands, that of a segment: to put one into another, protobuf writes and reads it."""
    message.entry_count = segment.count
    message.payload = segment.payload
    message.accept_time.seconds, message.accept_time.nanos = stamp_parts(segment.accepted)
    message.origin_node = segment.origin_node
    message.origin_epoch = segment.origin_epoch
    message.origin_sequence = segment.origin_sequence


def segment_from_pb(message: sync_pb2.Segment) -> Segment:
    """A segment. Raises InvalidArgument (BAD_SEGMENT) for one without entries."""
    if message.entry_count < 1:
        raise InvalidArgument("BAD_SEGMENT", f"a segment has {message.entry_count} entries", hint="expected 1 or more")
    return Segment(
        message.entry_count,
        message.payload,
        _stamp(message.accept_time),
        message.origin_node,
        message.origin_epoch,
        message.origin_sequence,
    )


def rejection_to_pb(rejection: Rejection) -> sync_pb2.EntryRejection:
    """The message of a rejection."""
    return sync_pb2.EntryRejection(sequence=rejection.sequence, problem=problem_to_pb(rejection.problem))


def rejection_from_pb(message: sync_pb2.EntryRejection) -> Rejection:
    """A rejection."""
    return Rejection(message.sequence, problem_from_pb(message.problem))


def segments_from_pb(messages: Iterable[sync_pb2.Segment]) -> tuple[Segment, ...]:
    """Segments, in order. Raises InvalidArgument (BAD_SEGMENT)."""
    return tuple(segment_from_pb(message) for message in messages)


def _stamp(time: Timestamp) -> float:
    # A stamp is a fact for people; a clock that was wrong at the origin is no reason to refuse its entries.
    return time.seconds + time.nanos / _BILLION
