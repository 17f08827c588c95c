"""The simulation of the whole system notices when the product breaks a promise; each mutant breaks one on purpose."""

from __future__ import annotations

import pytest

from tests.simulation.loop import SimulationFailure
from tests.simulation.mutants import MUTANTS
from tests.simulation.world import World

MOST_SEEDS = 80


@pytest.mark.timeout(300)
@pytest.mark.parametrize("name", MUTANTS)
def test_it_is_caught(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    mutant = MUTANTS[name]
    mutant.apply(monkeypatch)
    for seed in (mutant.seed, *range(MOST_SEEDS)):
        try:
            World(seed, kinds=mutant.kinds).run()
        except SimulationFailure:
            return
    pytest.fail(f"{MOST_SEEDS} seeds hold although the product does this: {mutant.apply.__doc__}")


@pytest.mark.parametrize("name", MUTANTS)
def test_without_it_the_same_seed_holds(name: str) -> None:
    World(MUTANTS[name].seed, kinds=MUTANTS[name].kinds).run()
