"""Calls and answers on a link: frames that fit, and a word where an answer does not."""

from edgenode.api.sync.v1 import sync_pb2
from edgenode.api.task.v1 import task_pb2
from edgenode.link.wire.call_batches import FRAME_BYTES, cancel, frames, refused_answers


def answer(number: int, size: int) -> sync_pb2.CallResult:
    result = sync_pb2.CallResult(call_id=number)
    result.output.data = bytes(size)
    return result


def test_a_batch_goes_in_frames_that_are_not_too_large() -> None:
    batch = sync_pb2.CallBatch(cancel_call_ids=[7], results=[answer(n, FRAME_BYTES // 3) for n in range(5)])
    batch.calls.add(call_id=9)
    parts = [frame.calls for frame in frames(batch)]
    assert [[result.call_id for result in part.results] for part in parts] == [[0, 1], [2, 3], [4]]
    assert all(part.ByteSize() <= FRAME_BYTES for part in parts)
    whole = sync_pb2.CallBatch()
    for part in parts:
        whole.MergeFrom(part)
    assert whole == batch


def test_one_large_thing_goes_alone_and_nothing_goes_for_nothing() -> None:
    assert [len(frame.calls.results) for frame in frames(sync_pb2.CallBatch(results=[answer(1, 3 << 20)]))] == [1]
    assert list(frames(sync_pb2.CallBatch())) == []


def test_an_answer_that_does_not_fit_is_refused_by_its_number() -> None:
    refused = refused_answers(sync_pb2.CallBatch(results=[answer(n, 1 << 20) for n in (3, 4)]))
    assert [(result.call_id, result.problem.reason) for result in refused.results] == [
        (3, "LINK_FULL"),
        (4, "LINK_FULL"),
    ]
    assert refused.ByteSize() < 1000


def test_pieces_go_before_answers_and_are_refused_by_their_number() -> None:
    piece = task_pb2.TaskPiece(index=1, data=bytes(FRAME_BYTES // 2))
    batch = sync_pb2.CallBatch(results=[answer(1, FRAME_BYTES // 3)], allowances=[sync_pb2.CallAllowance(call_id=9)])
    batch.pieces.extend(sync_pb2.CallPieces(call_id=number, pieces=[piece]) for number in (1, 2))
    parts = [frame.calls for frame in frames(batch)]
    assert [([given.call_id for given in part.pieces], len(part.results)) for part in parts] == [([1], 0), ([2], 1)]
    assert [len(part.allowances) for part in parts] == [1, 0]
    assert [result.call_id for result in refused_answers(batch).results] == [1, 2]


def test_a_call_that_is_cancelled_before_it_went_does_not_go_and_one_that_went_is_cancelled() -> None:
    batch = sync_pb2.CallBatch()
    for number in (4, 6, 7):
        batch.calls.add(call_id=number)
    for number in (3, 5, 6, 8):
        cancel(batch, number)
    assert [call.call_id for call in batch.calls] == [4, 7]
    assert list(batch.cancel_call_ids) == [3, 5, 8]
