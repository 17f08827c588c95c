from __future__ import annotations

import shutil
import tempfile
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import pytest

from tests.integration.hub.edges import Edges
from tests.integration.hub.forest import Forest
from tests.integration.hub.site import Site


@pytest.fixture
def state_dir() -> Iterator[Path]:
    path = Path(tempfile.mkdtemp())
    yield path
    shutil.rmtree(path)


@pytest.fixture
async def site(state_dir: Path) -> AsyncIterator[Site]:
    site = Site(state_dir)
    try:
        yield site
    finally:
        await site.close()


@pytest.fixture
async def forest(state_dir: Path) -> AsyncIterator[Forest]:
    forest = Forest(state_dir)
    try:
        yield forest
    finally:
        await forest.close()


@pytest.fixture
async def edges(forest: Forest, state_dir: Path) -> AsyncIterator[Edges]:
    """They end before the hubs do."""
    edges = Edges(state_dir / "edges")
    try:
        yield edges
    finally:
        await edges.stack.aclose()
