"""Things that were given up and kept."""

from __future__ import annotations

from dataclasses import dataclass

from edgenode.link.model.problem import Problem

TASK = "task"
ENTRY = "entry"
GRANT = "grant"


@dataclass(frozen=True, slots=True)
class DeadLetter:
    """What is kept. `kind` is `task` (payload: none, the task's row has it), `entry` (payload: the Message or TaskEntry) or
    `grant`: an entry that gave a task to a node, which the hub gives elsewhere by itself.

    `lane` is the lane's name of an entry, `node` who would not take it; `time` is wall clock in seconds; `size` in bytes
    counts against the bounds. `number` is 0 for one that is not kept yet.
    """

    kind: str
    subject: str
    problem: Problem
    time: float
    lane: str = ""
    node: str = ""
    task_id: str = ""
    attempts: int = 0
    size: int = 0
    payload: bytes = b""
    number: int = 0


@dataclass(frozen=True, slots=True)
class LetterBounds:
    """How many letters are kept, and how many bytes; the oldest go first."""

    count: int
    size: int
