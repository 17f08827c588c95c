"""Assignments, written as bytes that a frame parses all at once.

Each is a few fields around a spec that is there in bytes. To set them one by one on a message, and to parse the spec into it,
costs twice what the join of bytes does. Fields stand in the order of their numbers, as protobuf writes them itself.
"""

from __future__ import annotations

from functools import lru_cache

from google.protobuf.duration_pb2 import Duration

from edgenode.api.task.v1 import task_service_pb2
from edgenode.link.wire.varints import varint

_ASSIGNMENTS_TAG = b"\x12"  # WorkTasksResponse.assignments
_KEY_TAG = b"\x0a"  # Assignment.key
_SPEC_TAG = b"\x12"  # Assignment.spec
_TIMEOUT_TAG = b"\x1a"  # Assignment.timeout_duration
_TASK_ID_TAG = b"\x0a"  # AttemptKey.task_id
PROMPT = task_service_pb2.Assignment(prompt=True).SerializeToString()


def assignment(task_id: str, attempt: int, fence: int, spec: bytes, timeout: float, rest: bytes = b"") -> bytes:
    """A WorkTasksResponse with one Assignment, serialised: of the attempt, of a serialised `spec`, to be done within `timeout`
    seconds (told in whole milliseconds, none less than one). `rest` has the other fields of the Assignment, serialised."""
    name = task_id.encode()
    count = _count(attempt, fence)
    limit = _limit(max(int(timeout * 1000), 1))
    name_size, spec_size = varint(len(name)), varint(len(spec))
    key_size = 1 + len(name_size) + len(name) + len(count)
    key_digits = varint(key_size)
    size = 2 + len(key_digits) + key_size + len(spec_size) + len(spec) + len(limit) + len(rest)
    return b"".join(
        (
            _ASSIGNMENTS_TAG,
            varint(size),
            _KEY_TAG,
            key_digits,
            _TASK_ID_TAG,
            name_size,
            name,
            count,
            _SPEC_TAG,
            spec_size,
            spec,
            limit,
            rest,
        )
    )


@lru_cache(256)
def _count(attempt: int, fence: int) -> bytes:
    return task_service_pb2.AttemptKey(attempt_number=attempt, fence=fence).SerializeToString()


@lru_cache(1024)
def _limit(milliseconds: int) -> bytes:
    seconds, rest = divmod(milliseconds, 1000)
    duration = Duration(seconds=seconds, nanos=rest * 1_000_000).SerializeToString()
    return _TIMEOUT_TAG + varint(len(duration)) + duration
