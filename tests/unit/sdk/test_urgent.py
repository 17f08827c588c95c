"""Urgent work goes in frames of its own before what waits: a client's submissions, an agent's results."""

from __future__ import annotations

from edgenode.link.errors import Unavailable
from edgenode.sdk.results import MAX_FRAME_COUNT, Results
from edgenode.sdk.submitter import Submitter


def ids(submitter: Submitter) -> list[int]:
    frame = submitter.next_frame()
    return [submission.correlation_id for submission in frame.submissions] if frame is not None else []


async def test_calls_and_urgent_tasks_overtake_a_thousand_that_wait() -> None:
    submitter = Submitter()
    for number in range(1000):
        submitter.submit("work", b"", "", 0.0, f"r{number}", {"priority": 7})
    urgent = submitter.submit("work", b"", "", 0.0, "u", {"priority": 8}).correlation_id
    call = submitter.call("work", b"", "", 0.0, 60.0, {}).correlation_id
    assert ids(submitter) == [urgent, call]
    more = submitter.submit("work", b"", "", 0.0, "v", {"priority": 9}).correlation_id
    assert 0 < len(ids(submitter)) <= MAX_FRAME_COUNT, "never two in a row while others wait"
    assert ids(submitter) == [more]
    left: list[int] = []
    while frame := ids(submitter):
        left += frame
    assert left == sorted(left)
    assert left[-1] == 1000


async def test_after_a_reconnect_too() -> None:
    submitter = Submitter()
    entries = [
        submitter.submit("work", b"", "", 0.0, name, {"priority": 9 if name == "urgent" else 0})
        for name in ("a", "urgent", "b")
    ]
    assert ids(submitter) + ids(submitter) == [2, 1, 3]
    submitter.broken(_broken())
    assert [entry.sent for entry in entries] == [False] * 3
    assert ids(submitter) + ids(submitter) == [2, 1, 3]


def test_prompt_results_overtake_frames_of_others() -> None:
    results = Results()
    for number in range(2 * MAX_FRAME_COUNT):
        results.add(10, prompt=False).key.attempt_number = number
    results.add(10, prompt=True).key.task_id = "urgent"
    assert [result.key.task_id for result in results.next_frame().results] == ["urgent"]
    left = [result.key.attempt_number for _ in range(2) for result in results.next_frame().results]
    assert left == list(range(2 * MAX_FRAME_COUNT))
    assert not results
    assert not results.next_frame().results


def _broken() -> Unavailable:
    return Unavailable("STREAM_CLOSED", "the stream was closed")
