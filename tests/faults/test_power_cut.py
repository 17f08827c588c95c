"""Power cut, torn write: recovers to the last acknowledgement, starts unaided. `scripts/powercut` does it at 2,000 points."""

from __future__ import annotations

import random
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.faults.disk.campaign import EDGE, HUB, cut_power
from tests.faults.disk.control import memory_folder
from tests.faults.disk.power import SECTOR, File

pytestmark = pytest.mark.timeout(180)


@pytest.fixture
def folder() -> Iterator[Path]:
    path = memory_folder()
    yield path
    shutil.rmtree(path)


async def test_power_cut_of_an_edge_loses_nothing_acknowledged(folder: Path) -> None:
    recording = await EDGE.record(folder, 3_000_000, lives=2, renew=False)
    outcome = await cut_power(EDGE, recording, 60, starts=1)
    assert outcome.wrong == []
    assert (outcome.points, outcome.started) == (60, 1)
    assert outcome.promised > 1000


async def test_power_cut_of_a_hub_loses_nothing_acknowledged(folder: Path) -> None:
    recording = await HUB.record(folder, 4_000_000, lives=2)
    outcome = await cut_power(HUB, recording, 40, starts=1)
    assert outcome.wrong == []
    assert outcome.promised > 500


async def test_power_cut_is_noticed_where_commits_are_not_synced(folder: Path) -> None:
    recording = await EDGE.record(folder, 1_000_000, lives=1, renew=False, mutant="sync-nothing")
    outcome = await cut_power(EDGE, recording, 100, fail_at=1)
    # What is gone is gone; that the store notices it and is set aside does not bring it back.
    assert any("LOST" in text or "put aside" in text for text in outcome.wrong)


async def test_power_cut_is_noticed_where_an_identity_is_not_synced(folder: Path) -> None:
    recording = await EDGE.record(folder, 0, lives=0, mutant="write-identities-unsynced")
    outcome = await cut_power(EDGE, recording, 200, fail_at=1)
    assert outcome.wrong, "an identity that was never synced survived every cut"


def test_torn_write_is_any_of_its_sectors() -> None:
    file = File()
    file.write(0, b"a" * 2 * SECTOR)
    file.sync()
    file.write(0, b"b" * 2 * SECTOR)
    found = {file.image(random.Random(seed), 0.5) for seed in range(100)}
    assert {(image[:1] + image[SECTOR : SECTOR + 1]).decode() for image in found} == {"aa", "ab", "ba", "bb"}
    assert file.image(random.Random(1), 0.0) == b"a" * 2 * SECTOR


def test_what_a_failed_sync_lost_a_later_one_does_not_bring_back() -> None:
    file = File()
    file.write(0, b"lost" * 1024)
    file.fail_sync()
    file.write(4096, b"kept" * 1024)
    file.sync()
    assert file.image(random.Random(1), 0.0) == bytes(4096) + b"kept" * 1024
    file.write(0, b"kept" * 1024)
    file.sync()
    assert file.image(random.Random(1), 0.0) == b"kept" * 2048


def test_a_file_cut_down_and_grown_again_holds_zeros() -> None:
    file = File()
    file.write(0, b"x" * 8192)
    file.sync()
    file.truncate(0)
    file.truncate(8192)
    file.sync()
    assert file.image(random.Random(1), 0.0) == bytes(8192)
