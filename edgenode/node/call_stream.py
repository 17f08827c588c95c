"""Calls whose callers read along: the pieces of an answer between the agent and the caller.

Nothing of a call is stored, so no piece may be dropped on its way: an agent gives what it was allowed to and waits for more.
The caller's node allows `pieces.ROOM_BYTES` with the call, and anew what the caller has read; every hop passes allowances on
towards the agent and pieces towards the caller. So no hop holds more than that for one caller, and a slow one slows its agent
and nobody else. An agent that gives more than it may has its call ended. What ends a call ends its stream, behind what came
before.
"""

from __future__ import annotations

from collections.abc import Sequence

from edgenode.api.task.v1 import task_pb2
from edgenode.link.errors import ResourceExhausted
from edgenode.link.wire import pieces
from edgenode.node.task_book import TaskBook
from edgenode.node.task_state import LiveTask

# What an agent may give at once is as long as anything is left, so the last piece may go beyond by its size.
_MOST_BEYOND = pieces.MAX_PIECE_BYTES + pieces.cost([task_pb2.TaskPiece()])


def take_pieces(live: LiveTask, given: Sequence[task_pb2.TaskPiece]) -> ResourceExhausted | None:
    """An attempt's agent gave pieces of a call's answer: they go on, or it gave more than it may and the call must end."""
    if live.on_pieces is None:
        return None
    live.piece_room -= pieces.cost(given)
    if live.piece_room < -_MOST_BEYOND:
        return ResourceExhausted(
            "PIECES_UNASKED",
            f"{live.agent} gave {-live.piece_room} bytes of pieces more than its caller allowed",
            hint="an agent waits for piece_allowances; see Assignment.piece_room_bytes",
            retryable=False,
        )
    live.on_pieces(given)
    return None


def allow_pieces(book: TaskBook, live: LiveTask, size: int) -> None:
    """The caller has read so much: whoever runs the call may give as much again."""
    live.piece_room += size
    if live.sink is not None:
        live.sink.allow(live, size)
    elif live.holder and book.uplink is not None:
        book.uplink.allow_pieces(live, size)
