"""SQL that every supported Python takes."""

import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
FILES = [path for package in ("edgenode", "hub") for path in (ROOT / package).rglob("*.py") if "api" not in path.parts]


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(ROOT)))
def test_no_numbered_placeholders(path: Path) -> None:
    """Python 3.14 refuses `?1` with a sequence of values; use `?`, or `:name` with a mapping."""
    assert re.search(r"[ (]\?\d", path.read_text()) is None
