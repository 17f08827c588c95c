"""`python -m tests.faults.mutated MUTANT[+MUTANT] edgenode|edgehub ARGUMENTS...`: the command, without some protection."""

from __future__ import annotations

import sys
from importlib import import_module

from tests.faults.mutants import MUTANTS

MAINS = {"edgenode": "edgenode.cli.main", "edgehub": "hub.cli.main"}


def main() -> None:
    """Patch, then run the command in this process."""
    if len(sys.argv) < 3 or not MUTANTS.keys() >= set(sys.argv[1].split("+")) or sys.argv[2] not in MAINS:
        sys.exit(f"usage: mutated MUTANT {'|'.join(MAINS)} ARGUMENTS...\nmutants: {', '.join(MUTANTS)}")
    mutants, command = sys.argv[1].split("+"), sys.argv[2]
    del sys.argv[:2]  # what is left is the command's own
    for mutant in mutants:
        MUTANTS[mutant]()
    import_module(MAINS[command]).main()


if __name__ == "__main__":
    main()
