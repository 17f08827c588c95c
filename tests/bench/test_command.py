"""The bench at a hundredth of its size: every kind of traffic, real processes, an honest exit code."""

from __future__ import annotations

import json
import shutil
import signal
import subprocess
import sys
import tempfile

import psutil
import pytest

from scripts.benchmarks.__main__ import main
from tests.architecture.source import ROOT

BESIDE_A_LIMIT = {
    "publish, 8192 at once",
    "publish_many, 8 of 1024 at once",
    "publish, one at a time: p50",
    "call, 64 at once",
    "call, one at a time: p50",
    "task, 2048 at once",
    "task, one at a time: p50",
}

GROWTH = (
    "publish with ",
    "find among so many",
    "find among 1",
    "publish to ",
    "deliver ",
    "task with ",
)


def bench(*arguments: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "scripts.benchmarks", *arguments]
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=280, check=False)


def test_every_kind_of_traffic_is_measured() -> None:
    ended = bench("publish", "call", "task", "--rounds", "1", "--scale", "0.01", "--json")
    assert ended.returncode == 0, ended.stderr
    told = json.loads(ended.stdout)
    measured = {metric["name"].partition(",")[0]: metric["median"] for metric in told["metrics"]}
    assert {"publish", "call", "task"} < set(measured)
    assert all(value > 0 for value in measured.values())
    limits = [metric["limit"] for metric in told["metrics"] if metric["name"] in BESIDE_A_LIMIT]
    assert len(limits) == len(BESIDE_A_LIMIT)
    assert all(limit["ratio"] > 0 for limit in limits)
    below = [budget for metric in told["metrics"] for budget in metric["budgets"] if budget["met"] is False]
    assert len(told["budgets_missed"]) == len(below)
    assert all("missed by" in line for line in told["budgets_missed"])
    assert set(told["floors_missed"]) == {metric["name"] for metric in told["metrics"] if metric["met"] is False}


@pytest.mark.timeout(300)
def test_every_case_with_a_hub_is_measured() -> None:
    ended = bench("drain", "hub", "growth", "--rounds", "1", "--scale", "0.01", "--json")
    assert ended.returncode == 0, ended.stderr
    told = json.loads(ended.stdout)["metrics"]
    for case in ("drain, ", "hub memory ", "registry change ", *GROWTH):
        assert any(metric["name"].startswith(case) and metric["median"] > 0 for metric in told), case
    assert sum(len(metric["budgets"]) for metric in told) >= 15
    # The drain, the crowd's memory, the time it takes to come, and finding.
    assert sum(metric["limit"] is not None for metric in told) == 4


@pytest.mark.parametrize("how", [signal.SIGTERM, signal.SIGKILL])
def test_an_ended_bench_ends_what_it_started(how: signal.Signals) -> None:
    if how == signal.SIGKILL and shutil.which("setpriv") is None:
        pytest.skip("there is no setpriv: nothing ties what a killed bench started to it")
    with tempfile.TemporaryDirectory(prefix="b") as folder:  # a short path, as it holds sockets
        command = [sys.executable, "-m", "scripts.benchmarks", "footprint", "--dir", folder]
        with subprocess.Popen(command, cwd=ROOT, stderr=subprocess.PIPE, text=True) as running:
            assert running.stderr is not None
            assert running.stderr.readline() == "footprint ...\n"
            started = psutil.Process(running.pid).children(recursive=True)
            running.send_signal(how)
            assert running.wait(60) == (128 + how if how == signal.SIGTERM else -how)
        assert started
        _, alive = psutil.wait_procs(started, 60)
        assert not alive


@pytest.mark.parametrize(
    "arguments", [("nonsense",), ("--rounds", "0"), ("--dir", "/nonexistent"), ("--plot", "/nonexistent/a.svg")]
)
def test_wrong_arguments_are_refused(arguments: tuple[str, ...], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "argv", ["bench", *arguments])
    with pytest.raises(SystemExit, match="2"):
        main()
