from __future__ import annotations

import json
import subprocess
import sys

import pytest

from edgenode.cli.demo import fleet

WITHOUT_PSUTIL = """
import sys
sys.modules["psutil"] = None
from edgenode.cli.main import main
main(["demo"], prog_name="edgenode")
"""


def test_the_demo_without_its_extra_says_what_to_install() -> None:
    done = subprocess.run([sys.executable, "-c", WITHOUT_PSUTIL], capture_output=True, text=True, timeout=30)
    assert done.returncode == 1
    assert done.stderr.splitlines() == [
        "error: the demo needs psutil, which is not installed",
        "hint: pip install 'edgenode[demo]'",
        "reason: EXTRA_MISSING (exit 1)",
    ]


def test_no_two_processes_get_one_port(monkeypatch: pytest.MonkeyPatch) -> None:
    ports = range(20_000, 20_500)
    monkeypatch.setattr(fleet, "_PORTS", ports)
    here = {fleet.free_port() for _ in range(50)}
    take = (
        f"from edgenode.cli.demo import fleet; fleet._PORTS = {ports}; print([fleet.free_port() for _ in range(200)])"
    )
    there = subprocess.run([sys.executable, "-c", take], capture_output=True, text=True, check=True, timeout=60).stdout
    assert here.isdisjoint(json.loads(there))
