from __future__ import annotations

import logging
from collections.abc import Callable, Iterator
from pathlib import Path

import click
import pytest
from click.testing import CliRunner, Result

from edgenode.cli.main import main as edgenode_main
from hub.cli.main import main as edgehub_main
from tests.unit.cli.fakes import FakeHub, FakeNode

Run = Callable[..., Result]


@pytest.fixture(autouse=True)
def _no_word_of_shared_pollers() -> Iterator[None]:
    """grpc logs a harmless BlockingIOError where two event loops share a process, as the fakes and the commands do here."""

    def keep(record: logging.LogRecord) -> bool:
        return "PollerCompletionQueue._handle_events" not in record.getMessage()

    logger = logging.getLogger("asyncio")
    logger.addFilter(keep)
    yield
    logger.removeFilter(keep)


@pytest.fixture
def node() -> Iterator[FakeNode]:
    with FakeNode() as fake:
        yield fake


@pytest.fixture
def hub() -> Iterator[FakeHub]:
    with FakeHub() as fake:
        yield fake


def _runner(command: click.Command) -> Run:
    def run(
        *words: str, state: Path | None = None, stdin: str | bytes | None = None, env: dict[str, str] | None = None
    ) -> Result:
        args = [*words, "--state", str(state)] if state is not None else list(words)
        result = CliRunner().invoke(command, args, input=stdin, env=env)
        if result.exception is not None and not isinstance(result.exception, SystemExit):
            raise result.exception
        return result

    return run


@pytest.fixture
def edgenode() -> Run:
    return _runner(edgenode_main)


@pytest.fixture
def edgehub() -> Run:
    return _runner(edgehub_main)
