"""`edgenode mcp`."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from edgenode.cli import mounts
from edgenode.cli.demo.fleet import EDGENODE
from tests.unit.cli.conftest import Run
from tests.unit.cli.fakes import FakeNode


def test_mounting_a_program(edgenode: Run, node: FakeNode, tmp_path: Path) -> None:
    words = ["--env", "A=b=c", "--env", "HOME", "--directory", str(tmp_path), "--allow-repeat", "--concurrency", "2"]
    options = ["mcp", "add", "files", "--state", str(node.state), *words, "--start-timeout", "1min"]
    result = edgenode(*options, "--", sys.executable, "-m", "x", "--flag")
    assert (result.exit_code, result.stdout) == (0, "mounted files: ready, 3 skills of files 1.0\n")
    mount = node.admin.mounts["files"]
    assert list(mount.mcp_stdio.arguments) == [sys.executable, "-m", "x", "--flag"]
    assert mount.mcp_stdio.working_directory == str(tmp_path)
    environment = dict(mount.mcp_stdio.environment)
    assert (environment["A"], environment["HOME"]) == ("b=c", os.environ["HOME"])
    policy = mount.policy
    assert (policy.repeat_allowed, policy.concurrency_count, policy.start_timeout_duration.seconds) == (True, 2, 60)


def test_mounting_by_address(edgenode: Run, node: FakeNode, tmp_path: Path) -> None:
    headers = tmp_path / "headers"
    headers.write_text("Authorization: Bearer x\n")
    words = ("mcp", "add", "web", "--url", "https://host/mcp", "--headers-file", str(headers), "-o", "json")
    shown = json.loads(edgenode(*words, state=node.state).stdout)
    assert shown["mount"]["mcp_http"] == {"url": "https://host/mcp", "headers_file": str(headers), "oauth_file": ""}
    assert shown["status"]["state"] == "READY"


@pytest.mark.parametrize(
    "words",
    [
        ("files",),
        ("files", "--url", "http://x/", "--", "program"),
        ("files", "--headers-file", "/dev/null", "--", "program"),
        ("files", "--oauth-file", "/dev/null", "--", "program"),
        ("files", "--url", "http://x/", "--env", "A=b"),
        ("files", "--env", "NOT_SET_ANYWHERE", "--", "program"),
    ],
)
def test_what_does_not_go_together_is_refused(edgenode: Run, node: FakeNode, words: tuple[str, ...]) -> None:
    result = edgenode("mcp", "add", "--state", str(node.state), *words)
    assert result.exit_code == 2, result.stdout
    assert node.admin.mounts == {}


def test_a_server_that_does_not_start_is_shown_with_its_last_lines(edgenode: Run, node: FakeNode) -> None:
    result = edgenode("mcp", "add", "broken", "--state", str(node.state), "--", "program")
    assert result.exit_code == 7
    assert result.stderr.splitlines()[-1] == "reason: MCP_SERVER_NOT_STARTED (exit 7)"
    table = edgenode("mcp", state=node.state).stdout
    assert table.splitlines()[0].split() == ["MOUNT", "STATE", "SKILLS", "STARTS", "SERVER", "RUNS"]
    assert "broken: it did not list its tools within 30 s (MCP_SERVER_NOT_STARTED)" in table
    assert "\x1b" not in table


def test_a_server_that_still_starts_is_said_to(edgenode: Run, node: FakeNode, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(mounts, "_SAYING", 0.0)
    words = ("mcp", "add", "slow", "--start-timeout", "10ms", "--state", str(node.state), "--", "program")
    result = edgenode(*words)
    assert (result.exit_code, result.stdout) == (7, "mounted slow: starting\n")
    assert result.stderr.splitlines()[1:] == [
        "hint: it goes on; see: edgenode mcp list",
        "reason: NOT_READY (exit 7)",
    ]


def test_a_server_that_wants_a_person_says_what_to_do_and_is_tried_again(edgenode: Run, node: FakeNode) -> None:
    result = edgenode("mcp", "add", "guarded", "--url", "https://host/mcp", state=node.state)
    assert (result.exit_code, result.stdout) == (7, "mounted guarded: auth_required\n")
    assert result.stderr.splitlines()[1:] == ["hint: edgenode mcp login guarded", "reason: AUTH_REQUIRED (exit 7)"]
    assert "hint: edgenode mcp login guarded" in edgenode("mcp", state=node.state).stdout
    assert edgenode("mcp", "retry", "guarded", state=node.state).exit_code == 7
    assert node.admin.retried == ["guarded"]
    assert edgenode("mcp", "retry", "other", state=node.state).exit_code == 3


def test_serving_needs_somebody_at_the_other_end(edgenode: Run, node: FakeNode, tmp_path: Path) -> None:
    served = [*EDGENODE, "mcp", "serve", "--state", str(node.state)]
    (tmp_path / "file").touch()
    for name in (os.devnull, str(tmp_path / "file")):
        with open(name) as nobody:
            ended = subprocess.run(served, stdin=nobody, capture_output=True, text=True, timeout=60, check=False)
        assert (ended.returncode, ended.stdout) == (1, "")
        assert ended.stderr.splitlines()[1:] == [
            "hint: put this command into a client's configuration, or add --http 127.0.0.1:7882",
            "reason: NO_CLIENT (exit 1)",
        ]


def test_nobody_logs_in_to_a_program(edgenode: Run, node: FakeNode) -> None:
    edgenode("mcp", "add", "files", "--state", str(node.state), "--", "program")
    result = edgenode("mcp", "login", "files", state=node.state)
    assert (result.exit_code, result.stderr.splitlines()[-1]) == (1, "reason: NO_LOGIN (exit 1)")


def test_removing(edgenode: Run, node: FakeNode) -> None:
    edgenode("mcp", "add", "files", "--state", str(node.state), "--", "program")
    tokens = node.state / "mcp" / "oauth" / "files.json"
    tokens.parent.mkdir(parents=True)
    tokens.touch()
    assert edgenode("mcp", "remove", "files", state=node.state).stdout == "removed files\n"
    assert not tokens.exists()
    result = edgenode("mcp", "remove", "files", state=node.state)
    assert (result.exit_code, result.stderr.splitlines()[-1]) == (3, "reason: UNKNOWN_MOUNT (exit 3)")
    assert edgenode("mcp", "list", state=node.state).stdout == "no mounts\n"


def test_no_node(edgenode: Run, tmp_path: Path) -> None:
    result = edgenode("mcp", "add", "files", "--state", str(tmp_path), "--", "program")
    assert (result.exit_code, result.stderr.splitlines()[-1]) == (5, "reason: NODE_NOT_RUNNING (exit 5)")
    assert "edgenode run" in result.stderr
