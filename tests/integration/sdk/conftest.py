from __future__ import annotations

import shutil
import tempfile
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import pytest

from edgenode.sdk import Client
from edgenode.sdk.testing import LocalNode


@pytest.fixture
def state() -> Iterator[Path]:
    """A state directory whose sockets have short paths."""
    directory = Path(tempfile.mkdtemp(prefix="sdk"))
    yield directory
    shutil.rmtree(directory, ignore_errors=True)


@pytest.fixture
async def node() -> AsyncIterator[LocalNode]:
    async with LocalNode() as node:
        yield node


@pytest.fixture
async def client(node: LocalNode) -> AsyncIterator[Client]:
    async with node.client() as client:
        yield client
