"""What both revisions of MCP require of a server, by the official suite."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.conformance import mcp


@pytest.mark.timeout(300)
async def test_all_required_server_scenarios_pass(tmp_path: Path) -> None:
    verdicts = await mcp.judge_all(tmp_path)
    for revision, verdict in verdicts.items():
        failed = [name for name, passed in verdict.required.items() if not passed]
        assert failed == [], verdict.output
        assert len(verdict.required) == mcp.REQUIRED[revision], verdict.output
        assert verdict.status == 0, verdict.output
