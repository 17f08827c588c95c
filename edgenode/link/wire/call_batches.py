"""Calls and their answers on a link: cut to frames, and what is said where an answer does not fit."""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Iterator

from edgenode.api.sync.v1 import sync_pb2
from edgenode.link.errors import ResourceExhausted
from edgenode.link.wire.values import problem_to_pb

FRAME_BYTES = 1 << 20

_FULL = problem_to_pb(
    ResourceExhausted(
        "LINK_FULL",
        "the answer did not fit on the link: too much waits there already",
        hint="call less at once, or submit it: results of tasks wait in the store",
    ).problem
)


def frames(batch: sync_pb2.CallBatch) -> Iterator[sync_pb2.Frame]:
    """`batch` in frames of at most FRAME_BYTES, or one thing; nothing where there is nothing in it."""
    size = batch.ByteSize()
    if not size:
        return
    if size <= FRAME_BYTES:
        yield sync_pb2.Frame(calls=batch)
        return
    part, size = sync_pb2.CallBatch(cancel_call_ids=batch.cancel_call_ids, allowances=batch.allowances), 0
    for kind in ("pieces", "results", "calls"):
        for item in getattr(batch, kind):
            item_size = item.ByteSize()
            if size and size + item_size > FRAME_BYTES:
                yield sync_pb2.Frame(calls=part)
                part, size = sync_pb2.CallBatch(), 0
            getattr(part, kind).append(item)
            size += item_size
    yield sync_pb2.Frame(calls=part)


def cancel(batch: sync_pb2.CallBatch, number: int) -> None:
    """A call is not wanted any more: one that is still in `batch`, by ascending ids, does not go at all.

    Who gets a batch ends what is cancelled before it begins what is called, so the two must not go together.
    """
    index = bisect_left(batch.calls, number, key=lambda call: call.call_id)
    if index < len(batch.calls) and batch.calls[index].call_id == number:
        del batch.calls[index]
    else:
        batch.cancel_call_ids.append(number)


def refused_answers(batch: sync_pb2.CallBatch) -> sync_pb2.CallBatch:
    """What is sent in the place of answers and pieces of them that do not fit; small enough to fit."""
    numbers = dict.fromkeys([*(result.call_id for result in batch.results), *(given.call_id for given in batch.pieces)])
    return sync_pb2.CallBatch(results=[sync_pb2.CallResult(call_id=number, problem=_FULL) for number in numbers])
