"""A hundred seeds: every entry applied once and in order, nothing acknowledged early, everything drained at the end."""

from __future__ import annotations

import pytest

from tests.simulation.link.run import Report, Simulation

CHUNK = 10


@pytest.mark.parametrize("first", range(0, 100, CHUNK))
def test_everything_arrives_once_and_in_order(first: int) -> None:
    reports = [Simulation(seed).run() for seed in range(first, first + CHUNK)]
    assert all(report.entry_count > 100 for report in reports)
    assert sum(sum(report.faults.values()) for report in reports) > 20


# Seeds that show defects the cores once had; test_mutants.py brings each back and sees it caught.
# 601: an older session's apply was still on its way to the disk when the next one greeted.
# 56: an older session sent entries that were appended after the next one had read the heads.
@pytest.mark.parametrize("seed", [601, 56])
def test_a_seed_that_failed_once_holds(seed: int) -> None:
    Simulation(seed).run()


def test_a_seed_gives_the_same_run_again() -> None:
    def facts(report: Report) -> tuple[object, ...]:
        return report.faults, report.endings, report.entry_count, report.step_count

    assert facts(Simulation(7).run()) == facts(Simulation(7).run())
    assert facts(Simulation(7).run()) != facts(Simulation(8).run())
