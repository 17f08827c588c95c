"""`python -m tests.faults.mutated MUTANT edgenode|edgehub ARGUMENTS...`: the command, with one protection taken away."""

from __future__ import annotations

import sys
from importlib import import_module

from tests.faults.mutants import MUTANTS

MAINS = {"edgenode": "edgenode.cli.main", "edgehub": "hub.cli.main"}


def main() -> None:
    """Patch, then run the command in this process."""
    if len(sys.argv) < 3 or sys.argv[1] not in MUTANTS or sys.argv[2] not in MAINS:
        sys.exit(f"usage: mutated MUTANT {'|'.join(MAINS)} ARGUMENTS...\nmutants: {', '.join(MUTANTS)}")
    mutant, command = sys.argv[1], sys.argv[2]
    del sys.argv[:2]  # what is left is the command's own
    MUTANTS[mutant]()
    import_module(MAINS[command]).main()


if __name__ == "__main__":
    main()
