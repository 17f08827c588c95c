"""The README does what it says."""

from __future__ import annotations

import asyncio
import json
import os
import re
import shutil
import sys
import tempfile
import textwrap
from collections.abc import Iterator
from pathlib import Path

import pytest
from mcp import Client, StdioServerParameters

from edgenode.cli.demo.fleet import free_port
from tests.e2e.tour import Command, SavedFile, Shell, blocks, parse
from tests.npm import NODE, installed

ROOT = Path(__file__).resolve().parents[2]
README = (ROOT / "README.md").read_text()


@pytest.fixture
def folder() -> Iterator[Path]:
    """A short path: Unix sockets have room for about a hundred characters."""
    path = Path(tempfile.mkdtemp(prefix="tour-"))
    yield path
    shutil.rmtree(path)


def environment(sync: int, enroll: int) -> dict[str, str]:
    """A reader's, whose hub listens on these ports."""
    environ = {key: value for key, value in os.environ.items() if not key.startswith(("EDGENODE_", "EDGEHUB_"))}
    environ["PATH"] = f"{Path(sys.executable).parent}:{environ['PATH']}"
    environ["EDGEHUB_LISTEN"] = f"127.0.0.1:{sync}"
    environ["EDGEHUB_ENROLL_LISTEN"] = f"127.0.0.1:{enroll}"
    return environ


def desktop_section(text: str) -> str:
    """The one with a fleet of its own."""
    return text[text.index("### In a desktop client") : text.index("### A2A, both ways")]


@pytest.mark.timeout(300)
async def test_a_desktop_client_uses_a_tool_on_another_device(folder: Path) -> None:
    packages = installed(Path(__file__).with_name("peers")) / "node_modules"
    files, sync, enroll = folder / "files", free_port(), free_port()
    files.mkdir()
    (files / "hello.txt").write_text("hello\n")
    bin = folder / "bin"
    bin.mkdir()
    npx = bin / "npx"  # finds in place what it would fetch
    npx.write_text(f'#!/bin/sh\nshift\npackage=$1\nshift\nexec "{NODE}" "{packages}/$package/dist/index.js" "$@"\n')
    npx.chmod(0o755)
    text = desktop_section(README).replace("/srv/files", str(files)).replace("/home/me/", f"{folder}/")
    text = text.replace(":7443", f":{sync}").replace(":7444", f":{enroll}")
    environ = environment(sync, enroll) | {"HOME": str(folder)}
    environ["PATH"] = f"{bin}:{environ['PATH']}"
    steps = parse(text)
    assert len(steps) == 5
    with Shell(folder, environ, folder) as shell:
        for step in steps:
            assert isinstance(step, Command)
            await asyncio.to_thread(shell.perform, step)
        (configuration,) = [json.loads(content) for content, _ in blocks(text, "json")]
        desktop = StdioServerParameters(**configuration["mcpServers"]["edgenode"], env=environ)
        async with Client(desktop, mode="legacy") as mcp:
            assert "files__read_text_file" in {tool.name for tool in (await mcp.list_tools()).tools}
            read = await mcp.call_tool("files__read_text_file", {"path": str(files / "hello.txt")})
            assert read.structured_content == {"content": "hello\n"}


@pytest.mark.timeout(300)
def test_the_tour_works_as_printed(folder: Path) -> None:
    sync, enroll = free_port(), free_port()
    text = README.replace("/tmp/tour", f"{folder}/tour").replace(":7443", f":{sync}").replace(":7444", f":{enroll}")
    environ = environment(sync, enroll)
    steps = parse(text.replace(desktop_section(text), ""))
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
