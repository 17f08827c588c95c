"""Who has forgotten what, as the greeting of a node and the store show it; `hub.services.restating` says what follows.

Functions of a transaction.
"""

from __future__ import annotations

import sqlite3
from dataclasses import dataclass

from edgenode.link.model.lanes import Lane, LaneCursor, LaneHead
from edgenode.link.protocol.lanes import resume_point
from edgenode.link.store import inbox, logs
from hub.store.records import IN_DOUBT_AT_HOLDER, IN_DOUBT_AT_ORIGIN

# First letters of a restate_id: who lost something.
HUB_FORGOT = "h"
NODE_FORGOT = "n"
GIVEN_UP = "x"  # nobody waits for the answer any more; it is asked for all the same
NOT_WAITED_FOR = GIVEN_UP  # a whole restate_id: what is said in answer is as if it was said unasked
# Fences of grants go on from here after the hub has forgotten some: seconds since 1970 in the upper bits, so that they rise
# from one restore to the next, also of the same backup, and so many grants of one task in between.
FENCE_BITS = 20
# No clock leads as far, and what a node says must not use up the numbers that are left.
HIGHEST_FENCE = 1 << 62


def forgetful_hub(restate_id: str) -> bool:
    """Whether it was the hub that forgot."""
    return HUB_FORGOT in restate_id.partition("-")[0]


def forgetful_node(restate_id: str) -> bool:
    """Whether it was the node that forgot."""
    return NODE_FORGOT in restate_id.partition("-")[0]


def waited_for(restate_id: str) -> bool:
    """Whether a hub that has forgotten grants nothing until it has the answer."""
    return forgetful_hub(restate_id) and GIVEN_UP not in restate_id.partition("-")[0]


def describe(restate_id: str) -> str:
    """For people."""
    who = [name for name, forgot in (("the hub", forgetful_hub), ("the node", forgetful_node)) if forgot(restate_id)]
    return f"{' and '.join(who)} came back with an older disk"


@dataclass(frozen=True, slots=True)
class TaskLane:
    """What a node says in its greeting of the task lane: its log, and how far it has the hub's."""

    head: LaneHead | None
    cursor: LaneCursor | None


def raise_fences(connection: sqlite3.Connection, now_time: float) -> int:
    """Fences of grants go on above all that were given before this time; returns what they are above."""
    row = connection.execute(
        "UPDATE hub SET fence_base = max(fence_base + (1 << ?), ?) RETURNING fence_base",
        (FENCE_BITS, int(now_time) << FENCE_BITS),
    ).fetchone()
    return int(row[0])


def note(connection: sqlite3.Connection, node: str, log_name: str, lane: TaskLane, now_time: float, new_id: str) -> str:
    """See who has forgotten something since the last session, and note what is in doubt now.

    Returns the node's restate_id, a new one for each session while there is something to ask; empty if there is not.
    """
    before: str = connection.execute("SELECT restate_id FROM node WHERE node = ?", (node,)).fetchone()[0]
    fresh = _forgotten(connection, node, log_name, lane)
    if not fresh and not before:
        return ""
    if fresh:
        connection.execute(
            "UPDATE task SET doubt = doubt | ? WHERE holder = ? AND state < 8", (IN_DOUBT_AT_HOLDER, node)
        )
    if HUB_FORGOT in fresh:
        connection.execute(
            "UPDATE task SET doubt = doubt | ? WHERE origin = ? AND state < 8", (IN_DOUBT_AT_ORIGIN, node)
        )
        raise_fences(connection, now_time)
    letters = sorted(set(before.partition("-")[0]) | set(fresh))
    restate_id = f"{''.join(letters)}-{new_id}"
    connection.execute("UPDATE node SET restate_id = ? WHERE node = ?", (restate_id, node))
    return restate_id


def settled(connection: sqlite3.Connection, node: str, restate_id: str, highest_fence: int) -> int:
    """Everything the node said was taken in, may be after nobody waited any more; returns where fences begin now."""
    connection.execute(
        "UPDATE node SET restate_id = '' WHERE node = ? AND restate_id IN (?, ?)",
        (node, restate_id, GIVEN_UP + restate_id),
    )
    if forgetful_hub(restate_id) and highest_fence <= HIGHEST_FENCE:
        connection.execute("UPDATE hub SET fence_base = max(fence_base, ?)", (highest_fence,))
    return fence_base(connection)


def give_up(connection: sqlite3.Connection, node: str) -> None:
    """Nobody waits for the node's answer any more, also not after the next start."""
    connection.execute(
        "UPDATE node SET restate_id = ? || restate_id WHERE node = ? AND restate_id <> ''", (GIVEN_UP, node)
    )


def fence_base(connection: sqlite3.Connection) -> int:
    """What the fence of every grant is above."""
    return int(connection.execute("SELECT fence_base FROM hub").fetchone()[0])


def lacks(
    connection: sqlite3.Connection, node: str, log_name: str, lane: TaskLane, now_time: float
) -> tuple[bool, bool]:
    """Whether this hub lacks what one below has said, and whether that one lacks grants that are in force.

    Either has forgotten what the other does not keep any more. Or this hub has forgotten grants: of a task that it gave twice
    to the same hub, and has back as given once, that hub goes by the fence that is forgotten.
    """
    applied = _applied(connection, node, lane.head) or LaneCursor(Lane.TASK, "", 0)
    here = lane.head is not None and resume_point(lane.head, applied) < lane.head.first - 1
    forgotten = _forgotten(connection, node, log_name, lane)
    if HUB_FORGOT in forgotten:
        raise_fences(connection, now_time)
        return here, True
    if NODE_FORGOT not in forgotten:
        return here, False
    own = logs.head(connection, log_name, Lane.TASK)
    cursor = lane.cursor
    had = 0 if cursor is None or not cursor.epoch else resume_point(own, cursor)
    acknowledged = logs.consumers(connection, logs.log_state(connection, log_name).log_id).get(node, 0)
    return here, had < min(acknowledged, own.first - 1)


def in_force(connection: sqlite3.Connection, node: str, task_id: str, fence: int) -> bool:
    """Whether a grant that the node had before may be given to it again as it is.

    What a hub below does not mention it has not lost: it asks its own nodes, and grants nothing before they have answered. So
    it gets all that it holds; what is to end follows in the same log. For what is not kept any more see `lacks`.
    """
    row = connection.execute(
        "SELECT 1 FROM task WHERE task_id = ? AND holder = ? AND fence = ? AND state < 8 AND (on_lost = 1"
        " AND cancel_reason IS NULL OR EXISTS (SELECT 1 FROM node WHERE node.node = task.holder AND node.hub <> ''))",
        (task_id, node, fence),
    ).fetchone()
    return row is not None


def _forgotten(connection: sqlite3.Connection, node: str, log_name: str, lane: TaskLane) -> set[str]:
    forgotten = set()
    applied = _applied(connection, node, lane.head)
    if applied is not None and lane.head is not None and not _goes_on(lane.head, applied):
        forgotten.add(NODE_FORGOT)
    own = logs.head(connection, log_name, Lane.TASK)
    log_id = logs.log_state(connection, log_name).log_id
    acknowledged = logs.consumers(connection, log_id).get(node, 0)
    cursor = lane.cursor
    if cursor is None or not cursor.epoch:
        if acknowledged:
            forgotten.add(NODE_FORGOT)
    elif not _goes_on(own, cursor):
        forgotten.add(HUB_FORGOT)
    elif resume_point(own, cursor) < acknowledged:
        forgotten.add(NODE_FORGOT)
    return forgotten


def _applied(connection: sqlite3.Connection, node: str, head: LaneHead | None) -> LaneCursor | None:
    """How far this hub has the node's task log, which is at `head`."""
    cursors = inbox.inbox_cursors(connection, node, () if head is None else (head,))
    return {cursor.lane: cursor for cursor in cursors}.get(Lane.TASK)


def _goes_on(head: LaneHead, cursor: LaneCursor) -> bool:
    """Whether a log that is at `head` has everything that was applied from it up to `cursor`."""
    if cursor.epoch == head.epoch:
        return cursor.sequence <= head.last
    return any(cursor.epoch == earlier.epoch and cursor.sequence <= earlier.last for earlier in head.earlier)
