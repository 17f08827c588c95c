"""`edgenode a2a`."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from tests.unit.cli.conftest import Run
from tests.unit.cli.fakes import FakeNode


def test_mounting_an_agent(edgenode: Run, node: FakeNode, tmp_path: Path) -> None:
    headers = tmp_path / "headers"
    words = ("a2a", "add", "planner", "https://host/", "--headers-file", str(headers), "--allow-repeat", "-o", "json")
    shown = json.loads(edgenode(*words, state=node.state).stdout)
    assert shown["mount"]["a2a"] == {"url": "https://host/", "headers_file": str(headers)}
    assert node.admin.mounts["planner"].policy.repeat_allowed
    assert "https://host/" in edgenode("a2a", state=node.state).stdout
    assert edgenode("a2a", "remove", "planner", state=node.state).stdout == "removed planner\n"


def test_no_node(edgenode: Run, tmp_path: Path) -> None:
    for words in (("add", "planner", "https://host/"), ("serve",)):
        result = edgenode("a2a", *words, "--state", str(tmp_path))
        assert (result.exit_code, result.stderr.splitlines()[-1]) == (5, "reason: NODE_NOT_RUNNING (exit 5)")


@pytest.mark.parametrize(
    ("words", "reason"),
    [
        (("--listen", "0.0.0.0:0", "--no-grpc"), "PLAINTEXT_REFUSED"),
        (("--listen", "somewhere", "--no-grpc"), "BAD_ADDRESS"),
        (("--listen", "", "--listen-grpc", "192.0.2.1:0"), "PLAINTEXT_REFUSED"),
        (("--allow-webhooks", "everything"), "BAD_NETWORK"),
    ],
)
def test_what_is_not_served(edgenode: Run, node: FakeNode, words: tuple[str, ...], reason: str) -> None:
    result = edgenode("a2a", "serve", *words, state=node.state)
    assert (result.exit_code, result.stderr.splitlines()[-1]) == (2, f"reason: {reason} (exit 2)")
