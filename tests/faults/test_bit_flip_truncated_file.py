"""Bits that flip, files that end early: the node starts unaided and serves, has what was not hit, and states the rest."""

from __future__ import annotations

import asyncio
import json
import random
from pathlib import Path

import pytest

from edgenode.cli.demo.fleet import EDGEHUB, EDGENODE
from edgenode.link.errors import EdgenodeError, Internal
from edgenode.link.failpoints import Failpoint
from edgenode.link.store.quarantine import note_path
from edgenode.sdk import Client
from edgenode.sdk.subscription import Gap
from tests.faults.fleet import Rig
from tests.faults.oracle import ledger_lines
from tests.faults.points import RARER, died

pytestmark = pytest.mark.timeout(150)

MESSAGES = 300
TOPIC = "damage.numbers"
BODY = "x" * 3000


async def _publish(client: Client, first: int, count: int) -> None:
    await asyncio.gather(
        *(client.publish(TOPIC, {"n": number, "body": BODY}) for number in range(first, first + count))
    )


async def _edge_with_backlog(rig: Rig, *, joined: bool = False, mutant: str = "") -> Path:
    """An edge that is killed with messages it acknowledged and nobody has taken; its store."""
    if joined:
        await rig.start("north")
        await rig.kill("hub")
    else:
        await rig.start_edge("north", port=1, mutant=mutant)
    async with rig.client("north") as client:
        for first in range(0, MESSAGES, 10):
            await _publish(client, first, 10)
    await rig.kill("north")
    return rig.fleet.state("north") / "node.db"


async def _numbers(client: Client, count: int, patience: float) -> tuple[list[int], int]:
    """(numbers that can be read, messages that a gap stands for), until `count` are accounted for."""
    numbers: list[int] = []
    missing = 0

    def gap(found: Gap) -> None:
        nonlocal missing
        missing += found.last - found.first + 1

    async with client.subscribe([TOPIC], position="start", on_gap=gap) as messages, asyncio.timeout(patience):
        async for message in messages:
            assert message.value()["body"] == BODY, "it is not what was published"
            numbers.append(message.value()["n"])
            if len(numbers) + missing >= count:
                break
    return numbers, missing


async def _status(rig: Rig) -> dict[str, object]:
    where = ["--state", str(rig.fleet.state("north")), "-o", "json"]
    process = await asyncio.create_subprocess_exec(
        *EDGENODE, "status", *where, stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.DEVNULL
    )
    out, _ = await process.communicate()
    found: dict[str, object] = json.loads(out)
    return found


async def _look(rig: Rig, patience: float = 40.0) -> tuple[int, int]:
    """(messages that are there, messages lost); fails unless every one is there, or is told as lost where it must be."""
    async with rig.client("north") as client:
        await _publish(client, MESSAGES, 10)
        numbers, missing = await _numbers(client, MESSAGES + 10, patience)
        lines = await ledger_lines(client, "north")
    assert numbers[-10:] == list(range(MESSAGES, MESSAGES + 10)), "fresh traffic does not flow"
    assert len(set(numbers)) == len(numbers)
    assert len(numbers) + missing == MESSAGES + 10
    assert all(line.balanced for line in lines), lines
    assert all(line.dropped_counts.get("DAMAGED", 0) == missing for line in lines if line.hop == "message.uplink")
    status = await _status(rig)
    damages: list[dict[str, dict[str, int]]] = status["damages"]  # type: ignore[assignment]
    assert len(damages) <= 1, "the store was set aside more than once"
    told = status["damaged_entry_count"] + sum(damage["lost_counts"].get("messages", 0) for damage in damages)  # type: ignore[operator]
    assert told == missing
    return len(numbers) - 10, missing


def _flip(path: Path, places: list[int]) -> None:
    data = bytearray(path.read_bytes())
    for place in places:
        data[place % len(data)] ^= 1 << (place % 8)
    path.write_bytes(data)


async def test_bits_flipped_in_the_file(rig: Rig) -> None:
    store = await _edge_with_backlog(rig, joined=True)
    await _checkpointed(rig, store)
    rng = random.Random(1)
    _flip(store, [rng.randrange(1 << 40) for _ in range(12)])
    await rig.start_edge("north", port=rig.hub_port or 1)
    held, lost = await _look(rig)
    assert 0 < lost < MESSAGES, "nothing was hit, or everything"
    await rig.start_hub()
    await _arrives(rig, held + 10, lost)


async def _checkpointed(rig: Rig, store: Path, mutant: str = "") -> None:
    """A start and a stop in order move everything into the one file."""
    await rig.start_edge("north", port=1, mutant=mutant)
    await rig.fleet.children["north"].stop()
    assert not Path(f"{store}-wal").exists()


async def _arrives(rig: Rig, count: int, lost: int) -> None:
    """Everything that is left comes to the hub, and its ledger says what does not."""
    async with (
        rig.client("hub") as client,
        client.subscribe([TOPIC], position="start") as messages,
        asyncio.timeout(40),
    ):
        seen = 0
        async for _ in messages:
            seen += 1
            if seen == count:
                break
        lines = await ledger_lines(client, "hub")
    gaps = sum(line.dropped_counts.get("GAP", 0) for line in lines if line.hop == "message.uplink")
    assert gaps == lost
    assert all(line.balanced for line in lines), lines


@pytest.mark.parametrize("cut", [True, False], ids=["cut", "flipped-and-killed-while-it-is-set-aside"])
async def test_the_write_ahead_log_ends_early(rig: Rig, cut: bool) -> None:
    store = await _edge_with_backlog(rig, joined=cut)
    wal = Path(f"{store}-wal")
    size = wal.stat().st_size
    place = random.Random(7).randrange(size // 2, size - 20_000)
    if cut:
        wal.write_bytes(wal.read_bytes()[:place])
    else:
        _flip(wal, [place])
        await _dies_while_it_is_set_aside(rig, store)
    await rig.start_edge("north", port=rig.hub_port or 1)
    held, lost = await _look(rig)
    assert held > 0
    assert lost > 0
    assert len(list(store.parent.glob("*.quarantine-?"))) == 1
    assert not note_path(store).exists()
    if cut:
        await rig.start_hub()
        await _arrives(rig, held + 10, lost)


async def _dies_while_it_is_set_aside(rig: Rig, store: Path) -> None:
    """kill -9 between the store that goes and the one that is made of it; the next start goes on from there."""
    death = next(death for death in RARER if death.point is Failpoint.STORE_QUARANTINED)
    with pytest.raises(Internal):
        await rig.start_edge("north", port=1, failpoint=death.armed)
    assert not await died(rig, "north", death)
    assert note_path(store).exists()
    assert not store.exists()


@pytest.mark.parametrize("share", [0.0, 0.5])
async def test_the_file_ends_early(rig: Rig, share: float) -> None:
    store = await _edge_with_backlog(rig)
    await _checkpointed(rig, store)
    data = store.read_bytes()
    store.write_bytes(data[: int(len(data) * share)])
    await rig.start_edge("north", port=1)
    _, lost = await _look(rig)
    assert lost > 0


@pytest.mark.parametrize("mutant", ["trust-segments", "trust-the-write-ahead-log"])
async def test_without_the_protection_the_loss_is_silent(rig: Rig, mutant: str) -> None:
    store = await _edge_with_backlog(rig, mutant=mutant)
    if mutant == "trust-segments":
        await _checkpointed(rig, store, mutant)
        rng = random.Random(1)
        _flip(store, [rng.randrange(1 << 40) for _ in range(12)])
    else:
        wal = Path(f"{store}-wal")
        wal.write_bytes(wal.read_bytes()[: wal.stat().st_size // 2])
    await rig.start_edge("north", port=1, mutant=mutant)
    with pytest.raises((AssertionError, TimeoutError, EdgenodeError, ValueError)):
        await _look(rig, 5)


async def test_a_hub_whose_store_is_damaged_ends_and_says_how_to_restore_it(rig: Rig) -> None:
    await rig.start()
    await rig.fleet.children["hub"].stop()
    (store,) = rig.fleet.state("hub").glob("*.db")
    store.write_bytes(b"no database" * 5000)
    process = await asyncio.create_subprocess_exec(
        *EDGEHUB, "serve", "--state", str(rig.fleet.state("hub")), stderr=asyncio.subprocess.PIPE
    )
    _, err = await asyncio.wait_for(process.communicate(), 60)
    assert process.returncode
    assert "STATE_DAMAGED" in err.decode()
    assert f"edgehub restore BACKUP --force --state {rig.fleet.state('hub')}" in err.decode()
