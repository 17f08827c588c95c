"""The command lines: fast to start, and a rule by which documents are held to them (see test_docs)."""

from __future__ import annotations

import re
import shlex
import subprocess
import sys
from collections.abc import Iterator

import click
import pytest

from edgenode.cli.main import main as edgenode_main
from hub.cli.main import main as edgehub_main
from tests.architecture.source import ROOT

MAINS: dict[str, click.Command] = {"edgenode": edgenode_main, "edgehub": edgehub_main}
HEAVY = ("grpc", "google.protobuf", "cryptography", "sqlite3", "aiosqlite", "structlog", "msgspec", "asyncio")

WORDS = """
import sys
from {module} import main
try:
    main({words!r}, prog_name="x")
except SystemExit:
    pass
print(" ".join(name for name in {heavy!r} if name in sys.modules), file=sys.stderr)
"""


@pytest.mark.parametrize(
    ("module", "words"),
    [("edgenode.cli.main", ["--help"]), ("edgenode.cli.main", ["--version"]), ("hub.cli.main", ["--help"])],
)
def test_help_loads_nothing_heavy(module: str, words: list[str]) -> None:
    program = WORDS.format(module=module, words=words, heavy=HEAVY)
    done = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, cwd=ROOT, timeout=30, check=True
    )
    assert done.stdout
    assert done.stderr.split() == []


def shell_commands(markdown: str) -> Iterator[list[str]]:
    """Words of every `edgenode` and `edgehub` command in shell blocks; in console blocks, of the lines behind `$ `."""
    blocks = re.findall(r"^```(\w*)\n(.*?)^```$", markdown, re.MULTILINE | re.DOTALL)
    for language, block in blocks:
        if language not in ("sh", "bash", "console", "shell"):
            continue
        for line in block.replace("\\\n", " ").splitlines():
            if language == "console" and not line.startswith("$ "):
                continue
            lexer = shlex.shlex(line.removeprefix("$ ").strip(), posix=True, punctuation_chars="|&;<>()")
            lexer.whitespace_split = True
            words: list[str] = []
            for word in [*lexer, ";"]:
                if set(word) <= set("|&;<>()"):
                    if words and words[0] in MAINS:
                        yield words
                    words = []
                elif words or "=" not in word:  # not a variable in front of the command
                    words.append(word.removeprefix("$("))


def check_command(words: list[str]) -> str:
    """What is wrong with a command; empty if nothing: every name and option exists and the arguments fit."""
    command, context = MAINS[words[0]], None
    rest = words[1:]
    try:
        while True:
            context = command.make_context(words[0], list(rest), parent=context, resilient_parsing=False)
            if not isinstance(command, click.Group):
                return ""
            name, found, rest = command.resolve_command(context, [*context._protected_args, *context.args])
            if found is None:
                return f"no command {name}"
            command = found
    except click.exceptions.Exit:
        return ""  # --help, --version
    except click.ClickException as error:
        return error.format_message()


@pytest.mark.parametrize(
    ("line", "right"),
    [
        ("edgehub init --state hub --domain fleet.example", True),
        ('edgenode call greet \'{"name": "you"}\' --state north | head', True),
        ("$ TOKEN=$(edgehub token create north --state hub)", True),
        ("edgenode run --state north &", True),
        ("echo x | edgenode publish a.b --lines", True),
        ("edgenode tasks watch ID", True),
        ("edgenode frobnicate", False),
        ("edgenode tasks frobnicate", False),
        ("edgenode call", False),
        ("edgenode status --stat x", False),
        ("edgenode submit a --priority 11", False),
    ],
)
def test_the_rule_for_commands_bites(line: str, right: bool) -> None:
    (words,) = shell_commands(f"```sh\n{line}\n```\n")
    assert (check_command(words) == "") is right
