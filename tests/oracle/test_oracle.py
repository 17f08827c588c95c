"""The oracle against real processes: it finds nothing where nothing is lost, and what is lost where something is."""

from __future__ import annotations

import asyncio
import json
import shutil
import sys
import tempfile
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from edgenode.cli.demo.fleet import Fleet
from scripts.receipts.check import check
from scripts.receipts.drive import Load, drive
from scripts.receipts.journal import Journal, load

pytestmark = pytest.mark.timeout(120)

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture
async def site() -> AsyncIterator[tuple[Fleet, int]]:
    """A hub and north, and the port north dials."""
    folder = Path(tempfile.mkdtemp(prefix="or-"))
    made = Fleet(folder)
    try:
        port = await made.start_hub()
        await made.join("north")
        await made.start_edge("north", port)
        yield made, port
    finally:
        await made.stop()
        shutil.rmtree(folder)


async def wanted(journal: Journal, messages: int, tasks: int) -> None:
    """Returns once there are so many more receipts."""
    messages += journal.receipts.message_count
    tasks += len(journal.receipts.tasks)
    async with asyncio.timeout(60):
        while True:
            if journal.receipts.message_count >= messages and len(journal.receipts.tasks) >= tasks:
                return
            await asyncio.sleep(0.02)


async def test_every_receipt_is_true_after_a_kill_and_a_missing_one_is_named(site: tuple[Fleet, int]) -> None:
    fleet, port = site
    path = fleet.folder / "journal"
    edges, hub = [fleet.socket("north")], fleet.socket("hub")

    async def story(journal: Journal) -> None:
        await wanted(journal, 200, 20)
        await fleet.children["north"].kill()
        await fleet.start_edge("north", port)
        await wanted(journal, 200, 20)

    with Journal(path) as journal:
        await drive(edges, journal, story(journal), Load(messages=400, tasks=40))
    verdict = await check(hub, edges, load(path), settle=30)
    assert verdict.passed, verdict.text()
    assert {row.what: row.lost for row in verdict.rows}["messages at the hub"] == 0

    with Journal(path) as journal:  # receipts for what was never sent
        journal.note("message", journal.leg, "north", "k0", 1, "DURABLE_LOCAL")
        journal.note("task", "01NEVER", "north", "w", "DURABLE_LOCAL", False)
    verdict = await check(hub, edges, load(path), settle=3)
    assert not verdict.passed
    assert [row.what for row in verdict.rows if row.lost] == ["messages at the hub", "tasks of north"]


async def test_the_command_drives_continues_and_checks(site: tuple[Fleet, int]) -> None:
    fleet, _ = site
    command = [sys.executable, "-m", "scripts.receipts"]
    where = ["--journal", str(fleet.folder / "journal"), "--edge", str(fleet.socket("north"))]

    async def oracle(*arguments: str) -> tuple[int | None, str]:
        process = await asyncio.create_subprocess_exec(
            *command, *arguments, cwd=ROOT, stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.PIPE
        )
        out, _ = await process.communicate()
        return process.returncode, out.decode()

    assert (await oracle("drive", *where, "--seconds", "1"))[0] == 0
    hub = ["--hub", str(fleet.socket("hub"))]
    code, out = await oracle("both", *where, *hub, "--seconds", "1", "--json")
    assert code == 0, out
    verdict = json.loads(out)
    assert verdict["passed"]
    assert verdict["rows"][0]["acked"] > 0
    assert load(fleet.folder / "journal").legs == 2
    assert (await oracle("check", *where))[0] == 2
    await fleet.children["north"].stop()
    assert (await oracle("check", *where, *hub, "--settle", "1"))[0] == 5
