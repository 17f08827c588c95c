"""The documents speak of what there is: commands, tests and files."""

from __future__ import annotations

import ast
import re
from pathlib import Path

import pytest

from tests.architecture.source import ROOT
from tests.architecture.test_commands import MAINS, check_command, shell_commands

DOCUMENTS = [ROOT / name for name in ("README.md", "CONTRIBUTING.md", "CHANGELOG.md")] + sorted(
    (ROOT / "docs").glob("*.md")
)
_INLINE = re.compile(r"(?<!`)`((?:edgenode|edgehub|scripts/\w+)(?:\s[^`]*)?)`(?!`)")
_TEST = re.compile(r"`(tests/[\w/]+\.py)::(\w+)`")
_LINK = re.compile(r"\]\(([^)#:]+)(?:#[\w-]+)?\)")


def inline_commands(markdown: str) -> list[str]:
    """Commands in single backticks, on one line each."""
    text = re.sub(r"^```.*?^```", "", markdown, flags=re.MULTILINE | re.DOTALL)
    return [" ".join(match.split()) for match in _INLINE.findall(text)]


def check_inline(command: str) -> str:
    """What is wrong with a command as prose names it: its words must exist, its arguments may be left out."""
    words = command.split()
    if words[0].startswith("scripts/"):
        return "" if (ROOT / words[0]).is_file() else "no such script"
    if words[0] not in MAINS:
        return ""
    problem = check_command(words)
    # A program or a group named without its command shows its help; that is no mistake in prose.
    return "" if problem.startswith(("Missing", "Usage:")) else problem


def functions(path: Path) -> set[str]:
    """Names of all functions of a file."""
    tree = ast.parse(path.read_text())
    return {node.name for node in ast.walk(tree) if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)}


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda path: path.name)
def test_commands_exist(document: Path) -> None:
    text = document.read_text()
    wrong = {" ".join(words): problem for words in shell_commands(text) if (problem := check_command(words))}
    wrong |= {command: problem for command in inline_commands(text) if (problem := check_inline(command))}
    assert wrong == {}


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda path: path.name)
def test_files_linked_to_exist(document: Path) -> None:
    missing = [target for target in _LINK.findall(document.read_text()) if not (document.parent / target).exists()]
    assert missing == []


def test_guarantees_name_tests_that_exist() -> None:
    named = _TEST.findall((ROOT / "docs/guarantees.md").read_text())
    assert len(named) > 50
    missing = [
        f"{path}::{name}"
        for path, name in named
        if not (ROOT / path).is_file() or name not in functions(ROOT / path) or not name.startswith("test_")
    ]
    assert missing == []


def test_every_promise_and_every_bad_input_has_a_test() -> None:
    text = (ROOT / "docs/guarantees.md").read_text()
    for part in re.split(r"^## ", text, flags=re.MULTILINE)[1:]:
        assert _TEST.search(part), part.splitlines()[0]
    rows = [line for line in text.partition("## Bad input")[2].splitlines() if line.startswith("| ")][1:]
    assert [row for row in rows if not _TEST.search(row)] == []


@pytest.mark.parametrize(
    ("command", "right"),
    [
        ("edgenode status", True),
        ("edgenode call", True),
        ("edgenode tasks watch", True),
        ("scripts/test", True),
        ("edgenode frobnicate", False),
        ("edgehub token frobnicate x", False),
        ("edgenode submit --wait-levels x", False),
        ("scripts/frobnicate", False),
    ],
)
def test_the_rule_for_commands_in_prose_bites(command: str, right: bool) -> None:
    assert inline_commands(f"see `{command}` there") == [command]
    assert (check_inline(command) == "") is right
