"""What the tests of restored disks share: numbered messages, and what the hub has of them and says of its ledger."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Iterable
from pathlib import Path

from edgenode.cli.demo.fleet import EDGEHUB, EDGENODE
from edgenode.sdk import Level
from tests.faults.fleet import Rig

TOPIC = "restore.numbers"
NOTHING_RETAINED = {
    "EDGENODE_ACK_RETENTION_BYTES": "0",
    "EDGENODE_MESSAGE_RETENTION_BYTES": "0",
    "EDGEHUB_ACK_RETENTION_BYTES": "0",
}


async def publish(rig: Rig, node: str, numbers: Iterable[int], level: Level = Level.DURABLE_HUB) -> None:
    """Publish numbers; returns when each is at `level`."""
    async with rig.client(node) as client:
        work = [client.publish(TOPIC, number, key="n", level=level, wait=60) for number in numbers]
        receipts = await asyncio.gather(*work)
    assert all(receipt.level >= level for receipt in receipts)


async def at_hub(rig: Rig, count: int) -> list[int]:
    """The numbers in the hub's log from its start, in order, once there are `count`; a few seconds more for those too many."""
    numbers: list[int] = []
    async with rig.client("hub") as client, client.subscribe([TOPIC], position="start") as messages:
        try:
            async with asyncio.timeout(60) as limit:
                async for message in messages:
                    numbers.append(message.value())
                    if len(numbers) >= count:
                        limit.reschedule(asyncio.get_running_loop().time() + 1)
        except TimeoutError:
            pass
    return numbers


async def back_up(rig: Rig, node: str) -> Path:
    """A backup of the hub or of an edge, by its command."""
    command = EDGEHUB if node == "hub" else EDGENODE
    made = await rig.fleet.run(command, "backup", str(rig.fleet.folder), "--state", state(rig, node), "-o", "json")
    return Path(json.loads(made)["path"])


async def restore(rig: Rig, node: str, backup: Path) -> None:
    """In place of what is there."""
    command = EDGEHUB if node == "hub" else EDGENODE
    await rig.fleet.run(command, "restore", str(backup), "--force", "--state", state(rig, node))


async def ledger(rig: Rig, node: str) -> list[dict[str, object]]:
    """The lines; fails unless they add up."""
    command = EDGEHUB if node == "hub" else EDGENODE
    lines: list[dict[str, object]] = json.loads(
        await rig.fleet.run(command, "ledger", "--state", state(rig, node), "-o", "json")
    )
    return lines


async def gaps(rig: Rig, node: str, hop: str) -> int:
    """Entries of a hop that the ledger counts as a gap."""
    dropped = [line["dropped_counts"] for line in await ledger(rig, node) if line["hop"] == hop]
    return sum(counts.get("GAP", 0) for counts in dropped if isinstance(counts, dict))


def state(rig: Rig, node: str) -> str:
    """The state directory."""
    return str(rig.fleet.state(node))
