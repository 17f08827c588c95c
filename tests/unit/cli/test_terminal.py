from __future__ import annotations

import sys
from typing import Any

import click
import pytest
from click.testing import CliRunner

from edgenode.api.registry.v1 import registry_pb2
from edgenode.api.task.v1 import task_pb2
from edgenode.link.errors import DeadlineExceeded, Unauthenticated
from edgenode.link.terminal.failures import ExitCode, exit_code, three_lines
from edgenode.link.terminal.lazy import App, DefaultGroup
from edgenode.link.terminal.output import clean, col, facts, human_bytes, human_seconds, table
from edgenode.link.terminal.plain import plain


def test_tables_are_aligned_and_end_without_spaces() -> None:
    rows: list[dict[str, object]] = [{"name": "a", "size": 1}, {"name": "long one", "size": None}]
    assert table(rows, [col("name"), col("size", form=human_bytes, right=True), col("x", "name")]) == (
        "NAME      SIZE  X\na          1 B  a\nlong one     -  long one"
    )
    assert table([], [col("name")], empty="none") == "none"


def test_facts_leave_out_what_is_not_there() -> None:
    assert facts([("a", 1), ("long", ""), ("b", None), ("cc", 0)]) == "a   1\ncc  0"


def test_text_of_others_stays_on_its_line() -> None:
    assert clean("a\nb\x1b[0m\tc é") == "a\N{RETURN SYMBOL}b\N{REPLACEMENT CHARACTER}[0m\N{REPLACEMENT CHARACTER}c é"


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        (0.0, "0ms"),
        (0.25, "250ms"),
        (0.9999, "1.0s"),
        (3.21, "3.2s"),
        (9.97, "10s"),
        (59.6, "1m00s"),
        (192, "3m12s"),
        (7500, "2h05m"),
        (273_600, "3d04h"),
        (-45, "-45s"),
    ],
)
def test_times(seconds: float, text: str) -> None:
    assert human_seconds(seconds) == text


@pytest.mark.parametrize(
    ("count", "text"), [(0, "0 B"), (1023, "1023 B"), (1536, "1.5 KiB"), (64 << 20, "64.0 MiB"), (5 << 40, "5.0 TiB")]
)
def test_sizes(count: int, text: str) -> None:
    assert human_bytes(count) == text


def test_messages_as_plain_values() -> None:
    task = task_pb2.Task(task_id="T", state=task_pb2.TASK_STATE_PARKED, fence=1 << 60)
    task.spec.annotations["a"] = "b"
    task.spec.input = b"\xff"
    task.submit_time.seconds = 5
    task.submit_time.nanos = 500_000_000
    shown = plain(task)
    assert (shown["state"], shown["fence"], shown["submit_time"], shown["output"]) == ("PARKED", 1 << 60, 5.5, None)
    assert shown["spec"]["annotations"] == {"a": "b"}
    assert shown["spec"]["input"] == {"base64": "/w=="}
    assert shown["spec"]["priority"] is None
    assert shown["level"] == ""


def test_an_enum_value_from_a_newer_side_is_its_number() -> None:
    runtime = registry_pb2.AgentRuntime()
    runtime.MergeFromString(b"\x20\x63")  # field 4 (health) = 99
    assert plain(runtime)["health"] == "99"


def test_exit_codes_of_problems() -> None:
    assert exit_code(Unauthenticated("NOT_LOCAL", "x").problem) is ExitCode.DENIED
    assert exit_code(DeadlineExceeded("RPC_DEADLINE", "x").problem) is ExitCode.UNAVAILABLE
    assert exit_code(DeadlineExceeded("DEADLINE_EXCEEDED", "x").problem) is ExitCode.FAILED


def test_three_lines_always() -> None:
    assert three_lines("bad\nthing", "", "REASON", ExitCode.FAILED).splitlines() == [
        "error: bad\N{RETURN SYMBOL}thing",
        "hint: the node's log may say more",
        "reason: REASON (exit 1)",
    ]


LAZY = {
    "loud": ("tests.unit.cli.lazy_command:loud", "A command."),
    "later": ("tests.unit.cli.not_there_yet:command", "Not installed."),
}


@click.group(cls=App, lazy=LAZY)
def app() -> None:
    """An app."""


def run(*words: str) -> Any:
    return CliRunner().invoke(app, list(words), prog_name="app")


def test_help_imports_no_command() -> None:
    sys.modules.pop("tests.unit.cli.lazy_command", None)
    result = run("--help")
    assert result.exit_code == 0
    assert "loud  A command." in result.stdout
    assert "later" not in result.stdout
    assert "tests.unit.cli.lazy_command" not in sys.modules


def test_a_command_that_is_not_installed_does_not_exist() -> None:
    result = run("later")
    assert result.exit_code == 2
    assert result.stderr.splitlines()[-1] == "reason: USAGE (exit 2)"


@pytest.mark.parametrize(
    ("word", "code", "reason"),
    [
        ("denied", 4, "FORBIDDEN"),
        ("file", 1, "OS_ERROR"),
        ("interrupt", 130, None),
        ("exit", 7, None),
        ("usage", 2, "USAGE"),
        ("fails", 1, "FAILED"),
    ],
)
def test_errors_end_in_codes(word: str, code: int, reason: str | None) -> None:
    result = run("loud", word)
    assert result.exit_code == code
    if reason is None:
        assert result.stderr.strip() == ""
    else:
        assert len(result.stderr.splitlines()) == 3
        assert result.stderr.splitlines()[-1] == f"reason: {reason} (exit {code})"


def test_no_command_shows_help_as_usage_error() -> None:
    result = run()
    assert result.exit_code == 2
    assert "Usage: app" in result.stderr


def test_a_defect_of_ours_is_not_hidden() -> None:
    assert isinstance(run("loud", "defect").exception, ZeroDivisionError)


def test_the_default_command_of_a_group() -> None:
    @click.group(cls=DefaultGroup)
    def group() -> None:
        """A group."""

    @group.command("list")
    @click.option("-o")
    def list_(o: str | None) -> None:
        click.echo(f"list {o}")

    invoke = CliRunner().invoke
    assert invoke(group, []).output == "list None\n"
    assert invoke(group, ["-o", "json"]).output == "list json\n"
    assert invoke(group, ["list"]).output == "list None\n"
    assert invoke(group, ["--help"]).output.startswith("Usage")
    assert invoke(group, ["else"]).exit_code == 2
