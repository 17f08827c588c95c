"""Disk full (the store's own budget): refusals are explicit, what must proceed does, and a drained file is small again."""

from __future__ import annotations

from pathlib import Path

import pytest

from edgenode.link.store.budget import Budget
from edgenode.link.store.database import Database
from tests.faults.filling import fill

pytestmark = pytest.mark.timeout(180)

BUDGET = 32 << 20
MESSAGE = 32 << 10


async def test_disk_budget_filled_to_the_brim_and_drained(folder: Path) -> None:
    filling = await fill(folder, BUDGET, MESSAGE)
    assert filling.wrong == []
    assert filling.messages * MESSAGE > 0.4 * BUDGET
    assert filling.tasks * MESSAGE > 0.1 * BUDGET
    assert filling.drained_bytes < BUDGET // 4


async def test_disk_budget_without_shares_one_lane_starves_the_other(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    honest = Budget.__init__
    monkeypatch.setattr(Budget, "__init__", lambda self, limit_bytes, shares=None: honest(self, limit_bytes))
    assert (await fill(folder, BUDGET, MESSAGE)).wrong


async def test_disk_budget_without_giving_space_back_the_file_stays(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Database, "_busy", property(lambda self: bool(self._pending)))
    wrong = (await fill(folder, 16 << 20, MESSAGE, patience=4)).wrong
    assert any("the drained file takes" in problem for problem in wrong), wrong
