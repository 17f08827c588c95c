"""Programs the node keeps running, with real processes."""

from __future__ import annotations

import asyncio
import os
import random
import signal
import sys
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path

import pytest

from edgenode.link import telemetry
from edgenode.link.ports import SystemClock
from edgenode.link.protocol.supervision import Phase
from edgenode.node.supervisor import Program, Supervisor, spawn

# Notes its id and waits for the end of its input; `stubborn` minds neither that nor SIGTERM, and has a child.
PROGRAM = """
import os, signal, subprocess, sys, time
notes, manner = sys.argv[1:]
if manner == "stubborn":
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    child = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(600)"])
    open(notes, "a").write(f"{child.pid}\\n")
print('{"level": "warning", "event": "told", "detail": 7}', flush=True)
print("plain text", flush=True)
open(notes, "a").write(f"{os.getpid()}\\n")
sys.stdin.read()
time.sleep(600 if manner == "stubborn" else 0)
"""


@asynccontextmanager
async def supervised(notes: Path, manner: str = "", grace: float = 10.0) -> AsyncIterator[Supervisor]:
    program = Program("test", [sys.executable, "-c", PROGRAM, str(notes), manner])
    made = Supervisor(program, SystemClock(), random.Random(3), spawn, grace)
    try:
        yield made
    finally:
        await made.close()


async def until(condition: Callable[[], bool]) -> None:
    async with asyncio.timeout(30):
        while not condition():  # noqa: ASYNC110
            await asyncio.sleep(0.01)


def noted(notes: Path) -> list[int]:
    return [int(line) for line in notes.read_text().split()] if notes.exists() else []


def alive(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


async def test_one_that_ends_is_started_again_and_what_it_says_is_logged(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    telemetry.set_level("info")
    notes = tmp_path / "notes"
    try:
        async with supervised(notes) as program:
            program.want()
            program.want()
            await until(lambda: len(noted(notes)) == 1)
            os.kill(noted(notes)[0], signal.SIGKILL)
            await until(lambda: len(noted(notes)) == 2)
            assert program.phase.value == "running"
        assert program.phase is Phase.IDLE
        assert not any(map(alive, noted(notes)))
        program.want()  # not after it was closed
        assert program.phase is Phase.IDLE
    finally:
        telemetry.set_level("warning")
    said = capsys.readouterr().err
    assert '"detail": 7, "event": "told", "level": "warning"' in said
    assert '"line": "plain text"' in said
    assert '"code": -9' in said


async def test_one_that_does_not_end_is_killed_with_all_it_started(tmp_path: Path) -> None:
    notes = tmp_path / "notes"
    async with supervised(notes, "stubborn", grace=0.1) as program:
        program.want()
        await until(lambda: len(noted(notes)) == 2)
        program.unwant()
        await until(lambda: program.phase is Phase.IDLE)
        await until(lambda: not any(map(alive, noted(notes))))


async def test_one_that_cannot_be_started_is_tried_again(tmp_path: Path) -> None:
    program = Supervisor(Program("none", ["/nowhere/program"]), SystemClock(), random.Random(1), spawn)
    program.want()
    await until(lambda: program.phase is Phase.WAITING)
    await program.close()
    assert program.phase is Phase.IDLE
