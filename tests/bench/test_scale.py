"""`scripts/scale` with a small crowd: what it does is counted, and a hub's work does not grow where it must not."""

from __future__ import annotations

from pathlib import Path

import pytest

from scripts.scaling.__main__ import storms, table
from scripts.scaling.measures import Mismatch, check, measure


def test_everything_two_hundred_edges_do_adds_up(tmp_path: Path) -> None:
    figures = measure(tmp_path, 200, 20)
    assert figures["count.commits for a registry change, alone"] == 1.0
    assert figures["count.commits for a greeting, alone"] == 1.0
    assert "grows by" in table([(200, figures), (2_000, figures)])


def test_all_of_few_edges_may_be_out_of_reach(tmp_path: Path) -> None:
    assert measure(tmp_path, 10, 20)


def test_what_does_not_add_up_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("scripts.scaling.crowd.Fleet.heard", lambda self, kind: 0)
    with pytest.raises(Mismatch, match="heartbeats of the hub: 0 instead of 10"):
        measure(tmp_path, 10, 5)
    with pytest.raises(Mismatch, match="what: 1 instead of 2"):
        check("what", 1, 2)


def test_everybody_comes_in() -> None:
    assert "after hours without a hub" in storms(500)
