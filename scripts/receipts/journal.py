"""The oracle's own memory: every receipt it was given, fsynced, so that a killed oracle still knows what it was promised.

One line of JSON for each fact. A line cut short by a kill is passed over: a receipt that is not in the journal is not checked,
which errs on the safe side. Each time a journal is opened for driving begins a new leg, so no number is used twice.
"""

from __future__ import annotations

import json
import os
import secrets
import threading
from collections import Counter, defaultdict
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType
from typing import Any

from scripts.receipts.names import Stream


@dataclass(frozen=True, slots=True)
class TaskReceipt:
    """A stored task: who took it, what it is to do, at which level it was acknowledged, and whether it may run twice."""

    edge: str
    work: str
    level: str
    once: bool


@dataclass(slots=True)
class Receipts:
    """All that a journal says. `ends` are the outcomes that were seen, by task; `runs` counts the runs of each work."""

    run: str = ""
    legs: int = 0
    messages: dict[Stream, dict[int, str]] = field(default_factory=lambda: defaultdict(dict))  # number -> level
    tasks: dict[str, TaskReceipt] = field(default_factory=dict)
    ends: dict[str, list[str]] = field(default_factory=lambda: defaultdict(list))
    runs: Counter[str] = field(default_factory=Counter)
    calls: Counter[str] = field(default_factory=Counter)
    refused: Counter[str] = field(default_factory=Counter)
    wrong: list[str] = field(default_factory=list)

    @property
    def message_count(self) -> int:
        """Messages acknowledged."""
        return sum(len(numbers) for numbers in self.messages.values())

    def take(self, line: list[Any]) -> None:
        """One fact."""
        match line:
            case ["run", run, leg]:
                self.run, self.legs = run, leg
            case ["message", leg, edge, key, number, level]:
                self.messages[Stream(leg, edge, key)][number] = level
            case ["task", task_id, edge, work, level, once]:
                self.tasks[task_id] = TaskReceipt(edge, work, level, once)
            case ["end", task_id, outcome]:
                self.ends[task_id].append(outcome)
            case ["ran", work]:
                self.runs[work] += 1
            case ["call", outcome]:
                self.calls[outcome] += 1
            case ["refused", reason]:
                self.refused[reason] += 1
            case ["wrong", text]:
                self.wrong.append(text)


def load(path: Path) -> Receipts:
    """Read a journal. Raises FileNotFoundError."""
    receipts = Receipts()
    for line in _lines(path):
        receipts.take(line)
    return receipts


def _lines(path: Path) -> Iterator[list[Any]]:
    with path.open("rb") as file:
        for text in file:
            try:
                line = json.loads(text)
            except ValueError:
                continue  # cut short by a kill
            if isinstance(line, list):
                yield line


class Journal:
    """Opens for driving: `note` facts from any thread; they are on disk soon after, at the latest with `close`."""

    def __init__(self, path: Path) -> None:
        self.receipts = load(path) if path.exists() else Receipts()
        self._file = path.open("ab")
        self._waiting: list[bytes] = []
        self._wake = threading.Condition()
        self._closing = False
        if path.stat().st_size:
            self._waiting.append(b"\n")  # behind a line that was cut short
        self.run = self.receipts.run or secrets.token_hex(4)
        self.leg = self.receipts.legs + 1
        self.note("run", self.run, self.leg)
        self._flush()  # the leg's number is taken before anything is sent under it
        self._writer = threading.Thread(target=self._write, name="journal")
        self._writer.start()

    def note(self, *fact: Any) -> None:
        """Keep a fact."""
        line = list(fact)
        with self._wake:
            self.receipts.take(line)
            self._waiting.append(json.dumps(line, separators=(",", ":")).encode() + b"\n")
            self._wake.notify()

    def close(self) -> None:
        """Everything noted is on disk."""
        with self._wake:
            self._closing = True
            self._wake.notify()
        self._writer.join()
        self._file.close()

    def _write(self) -> None:
        while True:
            with self._wake:
                self._wake.wait_for(lambda: self._waiting or self._closing)
                if not self._waiting:
                    return
            self._flush()

    def _flush(self) -> None:
        with self._wake:
            lines, self._waiting = self._waiting, []
        self._file.write(b"".join(lines))
        self._file.flush()
        os.fsync(self._file.fileno())

    def __enter__(self) -> Journal:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()
