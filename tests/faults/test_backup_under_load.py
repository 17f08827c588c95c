"""Backups of services that are at work: whole, verified, with everything that was acknowledged before they began."""

from __future__ import annotations

import asyncio
import json
import sqlite3
import tarfile
from contextlib import closing
from pathlib import Path

import pytest

from edgenode.api.message.v1 import message_pb2
from edgenode.cli.demo.fleet import EDGEHUB
from edgenode.link.errors import Internal
from edgenode.sdk import Level
from tests.faults.fleet import Rig
from tests.faults.restoring import TOPIC, at_hub, back_up, ledger, offline, restore, state

pytestmark = pytest.mark.timeout(300)


def _numbers(backup: Path, store: str, folder: Path) -> list[int]:
    """The numbers in the store of a backup, in order."""
    with tarfile.open(backup) as tar:
        tar.extract(store, folder, filter="data")
    with closing(sqlite3.connect(folder / store)) as connection:
        rows = connection.execute(
            "SELECT payload FROM segment WHERE position >> 44 = (SELECT log_id FROM log WHERE name = 'messages')"
            " ORDER BY position"
        ).fetchall()
    return [
        json.loads(message.payload)
        for (payload,) in rows
        for message in message_pb2.MessageBatch.FromString(payload).messages
        if message.topic == TOPIC
    ]


async def test_everything_acknowledged_before_is_in_it_and_it_can_be_restored(rig: Rig) -> None:
    await rig.start("north")
    acked = {Level.DURABLE_LOCAL: 0, Level.DURABLE_HUB: 0}
    stopping = asyncio.Event()

    async def load() -> None:
        async with rig.client("north") as client:
            sent = 0
            while not stopping.is_set():
                level = Level.DURABLE_HUB if sent % 1000 == 0 else Level.DURABLE_LOCAL
                wave = [client.publish(TOPIC, sent + n, key="n", level=level, wait=60) for n in range(100)]
                await asyncio.gather(*wave)
                sent += 100
                acked[Level.DURABLE_LOCAL] = sent
                if level is Level.DURABLE_HUB:
                    acked[level] = sent

    loading = asyncio.create_task(load())
    try:
        backups = {}
        for node in ("north", "hub"):
            before = acked[Level.DURABLE_HUB if node == "hub" else Level.DURABLE_LOCAL]
            backup = await back_up(rig, node)
            verified = await asyncio.to_thread(offline, node, "verify", str(backup))
            assert verified.exit_code == 0, verified.output
            numbers = _numbers(backup, "edgehub.db" if node == "hub" else "node.db", rig.fleet.folder)
            assert numbers == list(range(len(numbers)))
            assert len(numbers) >= before
            backups[node] = backup
    finally:
        stopping.set()
        await loading
    assert acked[Level.DURABLE_HUB] > 0
    async with rig.client("north") as client:
        await client.publish(TOPIC, acked[Level.DURABLE_LOCAL], key="n", level=Level.DURABLE_HUB, wait=60)

    await _refusals(rig, backups)
    for node in ("north", "hub"):
        await rig.kill(node)
        await restore(rig, node, backups[node])
    await rig.start_hub()
    await rig.start_edge("north")
    there = await at_hub(rig, 1)
    assert there == sorted(set(there))
    for node in ("north", "hub"):
        await ledger(rig, node)


async def _refusals(rig: Rig, backups: dict[str, Path]) -> None:
    """What restore does not do, and that it changes nothing then."""
    hub, other = state(rig, "hub"), str(rig.fleet.folder / "other")

    def refused(*arguments: str) -> str:
        done = offline("hub", "restore", *arguments)
        assert done.exit_code == 1
        return done.output

    assert offline("hub", "init", "--state", other, "--domain", "other.example").exit_code == 0
    backup = str(backups["hub"])
    cut = rig.fleet.folder / "cut.tar"
    cut.write_bytes(backups["hub"].read_bytes()[:-20_000])
    assert "STATE_IN_USE" in await asyncio.to_thread(refused, backup, "--state", hub, "--force")
    assert "STATE_EXISTS" in refused(backup, "--state", other)
    assert "WRONG_BACKUP" in refused(str(backups["north"]), "--state", other, "--force")
    assert "BACKUP_DAMAGED" in refused(str(cut), "--state", other, "--force")
    planned = offline("hub", "restore", backup, "--state", other, "--dry-run", "-o", "json")
    assert json.loads(planned.stdout)["replaced"] == ["ca"]
    assert not (Path(other) / "edgehub.db").exists()
    with pytest.raises(Internal) as again:
        await rig.fleet.run(EDGEHUB, "backup", backup, "--state", hub)
    assert "BACKUP_EXISTS" in str(again.value)
