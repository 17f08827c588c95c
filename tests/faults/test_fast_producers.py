"""A producer faster than the disk, or a reader that never reads: memory stays within the bounds of that way in."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator
from contextlib import contextmanager
from pathlib import Path
from shutil import rmtree

import pytest
import pytest_asyncio

from tests.faults.disk.control import memory_folder
from tests.faults.flooded_hub import LIMIT, OFFERED, flooded_hub
from tests.faults.flooding import CHUNK, WAYS, Edge, flood, flooded

pytestmark = pytest.mark.timeout(120)

# A bound taken away, and the way in that shows it. `scripts/flood --mutant` has others.
LOST_BOUNDS = {"read-without-bound": "publish-many", "send-to-the-deaf": "deaf-agent"}


@contextmanager
def _folder() -> Iterator[Path]:
    path = memory_folder()
    try:
        yield path
    finally:
        rmtree(path)


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def edge() -> AsyncIterator[Edge]:
    """One for all floods."""
    with _folder() as folder:
        async with flooded(folder) as made:
            yield made


@pytest.mark.asyncio(loop_scope="module")
@pytest.mark.parametrize("way", WAYS)
async def test_an_edge_keeps_its_bounds(edge: Edge, way: str) -> None:
    memory = await flood(edge, way)
    assert memory.growth <= WAYS[way].limit


async def test_a_hub_keeps_its_bounds(tmp_path: Path) -> None:
    async with flooded_hub(tmp_path) as site:
        refused = await site.call(OFFERED)
        assert site.memory.growth <= LIMIT
        assert 0 < refused < OFFERED // CHUNK


@pytest.mark.parametrize(("mutant", "way"), LOST_BOUNDS.items())
async def test_a_lost_bound_shows(mutant: str, way: str) -> None:
    with _folder() as folder:
        async with flooded(folder, mutant) as edge:
            memory = await flood(edge, way)
            assert memory.growth > WAYS[way].limit
