"""Runs the shell sessions of a document as a reader would: one bash, real processes, output compared with what is printed.

A ```console block holds commands behind `$ ` and, below each, its output. `...` stands for anything, and runs of white space
are equal, as the widths of tables vary. A ```python block that begins with `# NAME.py` is a file the reader saves. A command
that ends in ` &` goes on in the background; its output is that line by which it says that it is ready.

A reader is slower than this: a command that only looks is repeated for a while until it shows what is printed.
"""

from __future__ import annotations

import contextlib
import doctest
import os
import re
import select
import signal
import subprocess
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType

LOOK_SECONDS = 15.0
COMMAND_SECONDS = 90.0

_FENCE = re.compile(r"^```(\w*)\n(.*?)^```$", re.MULTILINE | re.DOTALL)
_FILE_NAME = re.compile(r"# (\w+\.py)\n")
_EXIT = re.compile(r"\(exit (\d+)\)|# exit code (\d+)$", re.MULTILINE)
_LOOKS = re.compile(r"edge(node|hub) (status|agents|find|nodes|ledger|tasks (list|get)|tasks$|deadletters list)")
_SAME = doctest.ELLIPSIS | doctest.NORMALIZE_WHITESPACE


@dataclass(frozen=True, slots=True)
class Command:
    """What is typed and what is printed, and the line of the document."""

    text: str
    output: str
    line: int

    @property
    def exit_code(self) -> int:
        """0 unless the output or a comment behind the command says otherwise."""
        match = _EXIT.search(f"{self.text}\n{self.output}")
        return int(match[1] or match[2]) if match else 0

    def shown(self, output: str) -> bool:
        """Whether `output` is what is printed."""
        return doctest.OutputChecker().check_output(self.output, output, _SAME)


@dataclass(frozen=True, slots=True)
class SavedFile:
    """A file the reader saves."""

    name: str
    text: str


def blocks(text: str, language: str) -> Iterator[tuple[str, int]]:
    """(content, line of its beginning) of each fenced block of `language`."""
    for match in _FENCE.finditer(text):
        if match[1] == language:
            yield match[2], text.count("\n", 0, match.start(2)) + 1


def parse(text: str) -> list[Command | SavedFile]:
    """What the reader of a document does, in order."""
    steps: list[tuple[int, Command | SavedFile]] = []
    for content, line in blocks(text, "console"):
        steps.extend((command.line, command) for command in _commands(content, line))
    for content, line in blocks(text, "python"):
        if name := _FILE_NAME.match(content):
            steps.append((line, SavedFile(name[1], content)))
    return [step for _, step in sorted(steps, key=lambda item: item[0])]


def _commands(content: str, line: int) -> Iterator[Command]:
    typed, output, at = "", "", 0
    for number, text in enumerate(content.splitlines(keepends=True), line):
        if text.startswith("$ "):
            if typed:
                yield Command(typed, output, at)
            typed, output, at = text[2:].strip(), "", number
        elif not typed:
            raise ValueError(f"line {number}: a console block begins with a command")
        else:
            output += text
    if typed:
        yield Command(typed, output, at)


class Shell:
    """One bash that is told commands. Everything it started ends with it."""

    def __init__(self, folder: Path, environ: Mapping[str, str], logs: Path) -> None:
        self._process = subprocess.Popen(
            ["bash", "--norc", "--noprofile"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            cwd=folder,
            env=dict(environ),
            start_new_session=True,
        )
        self._logs = logs
        self._count = 0

    def __enter__(self) -> Shell:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Ends the session that bash began, and waits for bash."""
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self._process.pid, signal.SIGKILL)
        self._process.stdin.close()
        self._process.stdout.close()
        self._process.wait()

    def perform(self, command: Command) -> None:
        """Types a command and compares what it prints. Raises AssertionError that shows both."""
        if command.text.endswith(" &"):
            self._start(command)
            return
        deadline = time.monotonic() + (LOOK_SECONDS if _LOOKS.match(command.text) else 0.0)
        while True:
            output, code = self._say(command.text)
            if command.shown(output) and code == command.exit_code:
                return
            if time.monotonic() >= deadline:
                raise AssertionError(self._report(command, output, code))
            time.sleep(0.1)

    def working_directory(self) -> Path:
        """Where the reader is."""
        return Path(self._say("pwd")[0].strip())

    def _start(self, command: Command) -> None:
        """Starts a background command and waits for its first output."""
        self._count += 1
        log = self._logs / f"{self._count}.log"
        text = command.text.removesuffix("&")
        together = f"{{ {text}; }}" if "&&" in text else text  # a group is a process more, which `kill %1` would hit
        self._say(f"{together} > {log} 2>&1 &")
        deadline = time.monotonic() + LOOK_SECONDS
        while not command.shown(output := log.read_text() if log.exists() else ""):
            if time.monotonic() >= deadline:
                raise AssertionError(self._report(command, output, None))
            time.sleep(0.05)

    def _say(self, text: str) -> tuple[str, int]:
        """(output, exit code) of `text`."""
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        mark = f"--end-of-{os.urandom(8).hex()}--"
        self._process.stdin.write(f"{text}\nprintf '%s %d\\n' {mark} $?\n".encode())
        self._process.stdin.flush()
        deadline = time.monotonic() + COMMAND_SECONDS
        received = b""
        while True:
            ready, _, _ = select.select([self._process.stdout], [], [], max(0.0, deadline - time.monotonic()))
            chunk = os.read(self._process.stdout.fileno(), 65536) if ready else b""
            if not chunk:
                raise AssertionError(f"`{text}` did not end within {COMMAND_SECONDS:g} s:\n{received.decode()}")
            received += chunk
            output, found, code = received.decode(errors="replace").partition(mark)
            if found and code.endswith("\n"):
                return output, int(code)

    def _report(self, command: Command, output: str, code: int | None) -> str:
        logs = [f"--- {log.name}\n{log.read_text()[-3000:]}" for log in sorted(self._logs.glob("*.log"))]
        return "\n".join(
            [
                f"line {command.line}: $ {command.text}",
                f"--- printed (exit {command.exit_code})\n{command.output}",
                f"--- came (exit {code})\n{output}",
                *logs,
            ]
        )
