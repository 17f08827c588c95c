from __future__ import annotations

import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest


@pytest.fixture
def state() -> Iterator[Path]:
    """A state directory whose sockets have short paths."""
    directory = Path(tempfile.mkdtemp(prefix="sdk"))
    yield directory
    shutil.rmtree(directory, ignore_errors=True)
