from __future__ import annotations

import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager

PROGRAM = """
import asyncio
from edgenode.link.errors import FailedPrecondition
from edgenode.link.terminal.signals import serve

class Service:
    def __init__(self):
        self.starting = None
    async def start(self):
        if "{start}" == "fail":
            raise FailedPrecondition("PORT_TAKEN", "no")
        print("starting", flush=True)
        if "{start}" == "hang":
            self.starting = asyncio.current_task()
            await asyncio.Event().wait()
    async def damaged(self):
        await asyncio.Event().wait()
    async def stop(self):
        if self.starting is not None:
            self.starting.cancel()
        print("stopping", flush=True)
        if "{stop}" == "hang":
            await asyncio.Event().wait()

asyncio.run(serve(Service(), lambda: "ready"))
print("stopped", flush=True)
"""


@contextmanager
def service(start: str = "", stop: str = "") -> Iterator[subprocess.Popen[str]]:
    program = PROGRAM.format(start=start, stop=stop)
    with subprocess.Popen(
        [sys.executable, "-c", program], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    ) as process:
        try:
            yield process
        finally:
            process.kill()


def heard(process: subprocess.Popen[str]) -> str:
    assert process.stdout is not None
    return process.stdout.readline().strip()


def test_the_first_signal_stops_in_order() -> None:
    for number in (signal.SIGTERM, signal.SIGINT):
        with service() as process:
            assert [heard(process), heard(process)] == ["starting", "ready"]
            process.send_signal(number)
            assert [heard(process), heard(process)] == ["stopping", "stopped"]
            assert process.wait(10) == 0


def test_the_second_signal_ends_at_once() -> None:
    with service(stop="hang") as process:
        assert [heard(process), heard(process)] == ["starting", "ready"]
        process.send_signal(signal.SIGTERM)
        assert heard(process) == "stopping"
        process.send_signal(signal.SIGINT)
        assert process.wait(10) == 128 + signal.SIGINT


def test_a_signal_during_the_start_stops_too() -> None:
    with service(start="hang") as process:
        assert heard(process) == "starting"
        process.send_signal(signal.SIGTERM)
        assert [heard(process), heard(process)] == ["stopping", "stopped"]
        assert process.wait(10) == 0


def test_a_start_that_fails_is_stopped_and_told() -> None:
    with service(start="fail") as process:
        assert heard(process) == "stopping"
        _, errors = process.communicate(timeout=10)
        assert "PORT_TAKEN" in errors
        assert process.returncode == 1
