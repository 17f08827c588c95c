"""What was promised to whom, and when by the journal; and whether a store keeps it.

A promise is noted by the one who was given it, after it was given, with the length the journal had then: whatever it rests on
stands in the journal before that.
"""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field

from edgenode.api.admin.v1 import admin_pb2
from edgenode.api.message.v1 import message_pb2
from edgenode.link.model.task import TaskState

KINDS = ("message", "task", "done", "agent", "generation", "token", "node")


@dataclass(slots=True)
class Promises:
    """By kind: what, and the journal's length when it was told. `position` tells that length."""

    position: Callable[[], int]
    told: dict[str, dict[str, int]] = field(default_factory=lambda: {kind: {} for kind in KINDS})

    def note(self, kind: str, what: str) -> None:
        """It was promised just now."""
        self.told[kind].setdefault(what, self.position())

    def due(self, kind: str, position: int) -> set[str]:
        """What was promised of this kind when the journal was `position` long."""
        return {what for what, told in self.told[kind].items() if told <= position}

    def __str__(self) -> str:
        return ", ".join(f"{len(told):,} of kind {kind}" for kind, told in self.told.items() if told)


def payload(name: str, size: int) -> bytes:
    """A payload that says what it is and whether it is whole; at least a hundred bytes."""
    body = (name + "|").encode().ljust(size - 65, b"#")
    return body + b"|" + hashlib.sha256(body).hexdigest().encode()


def read_payload(data: bytes) -> str:
    """The name of a payload, or "" if it is not whole."""
    body, _, digest = data.rpartition(b"|")
    if hashlib.sha256(body).hexdigest().encode() != digest:
        return ""
    return body.partition(b"|")[0].decode()


@dataclass(slots=True)
class Found:
    """What a store was found to hold."""

    messages: Counter[str] = field(default_factory=Counter)
    damaged: int = 0
    tasks: dict[str, TaskState] = field(default_factory=dict)
    agents: set[str] = field(default_factory=set)
    tokens: set[str] = field(default_factory=set)
    nodes: set[str] = field(default_factory=set)
    generation: int = 0

    def take(self, batches: Iterable[bytes]) -> None:
        """Note the messages of segments."""
        for batch in batches:
            for message in message_pb2.MessageBatch.FromString(batch).messages:
                name = read_payload(message.payload)
                self.messages[name] += 1
                self.damaged += not name


def broken(
    promises: Promises, position: int, found: Found, lines: Iterable[admin_pb2.LedgerLine], who: str
) -> list[str]:
    """Everything promised by then that the store does not keep, and everything else that is wrong with it."""
    wrong = []
    held: dict[str, set[str]] = {
        "message": set(found.messages),
        "task": set(found.tasks),
        "done": {task for task, state in found.tasks.items() if state is TaskState.COMPLETED},
        "agent": found.agents,
        "generation": {str(number) for number in range(1, found.generation + 1)},
        "token": found.tokens,
        "node": found.nodes,
    }
    for kind in KINDS:
        lost = sorted(promises.due(kind, position) - held[kind])
        if lost:
            wrong.append(f"LOST {len(lost)} of kind {kind}: {', '.join(lost[:3])}...")
    twice = [name for name, count in found.messages.items() if count > 1 and name]
    if twice:
        wrong.append(f"TWICE {len(twice)} messages: {', '.join(twice[:3])}...")
    if found.damaged:
        wrong.append(f"{found.damaged} messages are not whole")
    return wrong + unbalanced(who, lines)


def unbalanced(who: str, lines: Iterable[admin_pb2.LedgerLine]) -> list[str]:
    """Hops of a ledger that do not add up."""
    return [f"{who}: {line.hop} {line.peer} does not add up" for line in lines if not line.balanced]
