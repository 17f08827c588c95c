import asyncio
import json
import sysconfig
from pathlib import Path

import pytest

EDGENODE = Path(sysconfig.get_path("scripts")) / "edgenode"


@pytest.mark.timeout(300)
async def test_the_demo_loses_nothing() -> None:
    process = await asyncio.create_subprocess_exec(
        EDGENODE, "demo", "--seconds", "15", "--json", stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.PIPE
    )
    out, err = await process.communicate()
    assert process.returncode == 0, (out.decode(), err.decode())
    report = json.loads(out)
    assert report["passed"]
    assert report["lost"] == 0
    assert report["results_checked"] > 100
    messages, tasks = report["totals"].values()
    assert messages["produced"] == messages["applied"] > 100
    assert tasks["produced"] == tasks["applied"] > 0
