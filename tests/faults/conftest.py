"""Real processes, below a short path: Unix sockets have room for about a hundred characters."""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import pytest

from tests.faults.fleet import Rig


@pytest.fixture
def folder() -> Iterator[Path]:
    path = Path(tempfile.mkdtemp(prefix="faults-"))
    yield path
    shutil.rmtree(path)


@pytest.fixture
async def rig(folder: Path) -> AsyncIterator[Rig]:
    """Not started yet: `await rig.start("north", "south")`."""
    made = Rig(folder)
    try:
        yield made
    finally:
        await made.stop()
