"""The official MCP conformance suite against the side that mounts servers."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests import npm
from tests.conformance.mounting import KNOWN, REQUIRED, client_under_test, judge

pytestmark = pytest.mark.timeout(400)


async def test_all_that_is_required_of_a_client(tmp_path: Path) -> None:
    suite = npm.installed(Path(__file__).with_name("suite"))
    async with client_under_test() as place:
        for revision, count in REQUIRED.items():
            status, passed, output = await judge(suite, place, revision, tmp_path / revision)
            assert status == 0, output
            assert len(passed) >= count, output
            assert {name for name, good in passed.items() if not good} <= KNOWN, output
