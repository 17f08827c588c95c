"""`scripts/conformance [FOLDER]`."""

from __future__ import annotations

import asyncio
import sys
import tempfile
from pathlib import Path

import click

from tests.conformance import mcp


def main() -> None:
    """Runs the suite, and says what passed."""
    results = Path(sys.argv[1] if len(sys.argv) > 1 else tempfile.mkdtemp(prefix="conformance-"))
    failed = False
    for revision, verdict in asyncio.run(mcp.judge_all(results)).items():
        required, others = verdict.required, verdict.others
        click.echo(
            f"{revision}: {sum(required.values())} of {len(required)} required server scenarios pass, "
            f"and {sum(others.values())} of {len(others)} others"
        )
        for name in sorted(name for name, passed in (required | others).items() if not passed):
            click.echo(f"  failed: {name}")
        failed = failed or verdict.status != 0
    click.echo(f"details: {results}")
    sys.exit(failed)


if __name__ == "__main__":
    main()
