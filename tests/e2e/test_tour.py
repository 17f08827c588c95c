"""The README does what it says."""

from __future__ import annotations

import os
import re
import shutil
import sys
import tempfile
import textwrap
from collections.abc import Iterator
from pathlib import Path

import pytest

from edgenode.cli.demo.fleet import free_port
from tests.e2e.tour import Command, SavedFile, Shell, blocks, parse

ROOT = Path(__file__).resolve().parents[2]
README = (ROOT / "README.md").read_text()


@pytest.fixture
def folder() -> Iterator[Path]:
    """A short path: Unix sockets have room for about a hundred characters."""
    path = Path(tempfile.mkdtemp(prefix="tour-"))
    yield path
    shutil.rmtree(path)


@pytest.mark.timeout(300)
def test_the_tour_works_as_printed(folder: Path) -> None:
    sync, enroll = free_port(), free_port()
    text = README.replace("/tmp/tour", f"{folder}/tour").replace(":7443", f":{sync}").replace(":7444", f":{enroll}")
    environ = {key: value for key, value in os.environ.items() if not key.startswith(("EDGENODE_", "EDGEHUB_"))}
    environ["PATH"] = f"{Path(sys.executable).parent}:{environ['PATH']}"
    environ["EDGEHUB_LISTEN"] = f"127.0.0.1:{sync}"
    environ["EDGEHUB_ENROLL_LISTEN"] = f"127.0.0.1:{enroll}"
    steps = parse(text)
    assert len(steps) > 40
    with Shell(ROOT, environ, folder) as shell:
        for step in steps:
            if isinstance(step, SavedFile):
                (shell.working_directory() / step.name).write_text(step.text)
            else:
                shell.perform(step)


def test_the_tour_shows_every_command() -> None:
    typed = "\n".join(step.text for step in parse(README) if isinstance(step, Command))
    for command in (
        *("edgehub init", "edgehub serve", "edgehub token create", "edgehub nodes", "edgehub agents", "edgehub find"),
        *("edgehub tasks", "edgehub ledger", "edgehub subscribe", "edgenode join", "edgenode run", "edgenode status"),
        *("edgenode agents", "edgenode find", "edgenode call", "edgenode submit", "edgenode tasks get"),
        *("edgenode tasks list", "edgenode tasks watch", "edgenode tasks cancel", "edgenode publish"),
        *(
            "edgenode subscribe",
            "edgenode deadletters list",
            "edgenode deadletters replay",
            "edgenode deadletters drop",
        ),
        *("edgenode ledger", "edgenode ledger verify", "edgenode agent run"),
        *("edgehub ledger verify --all", "edgehub deadletters list"),
    ):
        assert command in typed, command


def test_the_readme_shows_the_examples_as_they_are() -> None:
    examples = [path.read_text() for path in (ROOT / "examples").glob("*.py")]
    examples.append(textwrap.dedent((ROOT / "edgenode/sdk/testing.py").read_text()))
    hello = (ROOT / "examples/hello_agent.py").read_text().split('"""\n\n', 1)[1]
    shown = [content for content, _ in blocks(README, "python") if not re.match(r"# \w+\.py\n", content)]
    assert hello in shown
    for content in shown:
        assert any(content.strip() in _unindented(example) or content in example for example in examples), content


def _unindented(text: str) -> str:
    """`text` with four spaces less, where there are any."""
    return re.sub(r"^ {4}", "", text, flags=re.MULTILINE)
