"""ListTasks of A2A on the node's: newest change first, counted, filtered by what the node has no filter for.

The node lists by the time of submission. So the newest SCANNED tasks that its own filters let through are read, without
inputs and outputs, put in order and cut into pages; tasks before those are not seen, and `total_size` does not count them.
"""

from __future__ import annotations

import base64
import binascii
from collections.abc import Callable, Sequence

from a2a.types import a2a_pb2
from google.protobuf.timestamp_pb2 import Timestamp

from edgenode.api.task.v1 import task_pb2
from edgenode.bridges.a2a.states import our_states, task_of
from edgenode.link.errors import InvalidArgument, NotFound
from edgenode.link.model.task import TaskState
from edgenode.sdk.client import Client

SCANNED = 10_000
PAGE = 50
MAX_PAGE = 100

Place = tuple[int, str]  # nanoseconds of the last change, id


async def list_tasks(
    client: Client, request: a2a_pb2.ListTasksRequest, visible: Callable[[task_pb2.Task], bool]
) -> a2a_pb2.ListTasksResponse:
    """A page. Raises InvalidArgument (BAD_PAGE, BAD_STATE)."""
    size = request.page_size if request.HasField("page_size") else PAGE
    if not 1 <= size <= MAX_PAGE:
        raise InvalidArgument("BAD_PAGE", f"page_size is {size}", hint=f"1 to {MAX_PAGE}", field="page_size")
    states = our_states(request.status) if request.status else []
    if request.status and not states:
        raise InvalidArgument("BAD_STATE", f"status is {request.status}", hint="a state of A2A 1.0", field="status")
    found = await client.list_tasks(states=states, context_id=request.context_id, limit=SCANNED)
    if request.context_id:
        found += await _context_of_its_own(client, request.context_id, states)
    since = _nanoseconds(request.status_timestamp_after) if request.HasField("status_timestamp_after") else None
    places = {
        task.task_id: (_nanoseconds(task.update_time), task.task_id)
        for task in found
        if visible(task) and (since is None or _nanoseconds(task.update_time) >= since)
    }
    wanted = sorted((task for task in found if task.task_id in places), key=lambda t: places[t.task_id], reverse=True)
    total = len(wanted)
    if request.page_token:
        after = _place(request.page_token)
        wanted = [task for task in wanted if places[task.task_id] < after]
    page = wanted[:size]
    response = a2a_pb2.ListTasksResponse(page_size=size, total_size=total)
    if len(wanted) > size:
        response.next_page_token = _token(places[page[-1].task_id])
    history = request.history_length if request.HasField("history_length") else 0
    for task in page:
        whole = task
        if request.include_artifacts or history:
            whole = await client.get_task(task.task_id)
        made = task_of(whole, history)
        if not request.include_artifacts:
            made.ClearField("artifacts")
        response.tasks.append(made)
    return response


async def _context_of_its_own(client: Client, context_id: str, states: Sequence[TaskState]) -> list[task_pb2.Task]:
    """The task whose id this is, if it was submitted without a context."""
    try:
        task = await client.get_task(context_id)
    except NotFound:
        return []
    return [task] if not task.spec.context_id and (not states or TaskState(task.state) in states) else []


def _nanoseconds(time: Timestamp) -> int:
    return time.seconds * 1_000_000_000 + time.nanos


def _token(place: Place) -> str:
    return base64.urlsafe_b64encode(f"{place[0]}.{place[1]}".encode()).decode()


def _place(token: str) -> Place:
    try:
        time, _, task_id = base64.urlsafe_b64decode(token.encode()).decode().partition(".")
        return int(time), task_id
    except (ValueError, binascii.Error) as error:
        raise InvalidArgument(
            "BAD_PAGE", f"page_token is {token[:80]!r}", hint="one of an earlier page", field="page_token"
        ) from error
