"""The faults' tests notice when a protection is missing: the same fault, in processes with one taken away."""

from __future__ import annotations

from tests.faults.mutants import MUTANTS


def test_every_mutant_says_what_it_takes_away() -> None:
    assert all(mutant.__doc__ for mutant in MUTANTS.values())
