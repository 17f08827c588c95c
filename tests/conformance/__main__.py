"""`scripts/conformance [FOLDER]`."""

from __future__ import annotations

import asyncio
import sys
import tempfile
from pathlib import Path

import click

from edgenode.link.telemetry import configure_logging
from tests import npm
from tests.conformance import mcp, mounting


def main() -> None:
    """Runs the suite, and says what passed."""
    configure_logging("error")  # servers that refuse a client without a token are many here
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
    failed = asyncio.run(_mounts(results / "client")) or failed
    click.echo(f"details: {results}")
    sys.exit(failed)


async def _mounts(results: Path) -> bool:
    """The client scenarios, for the side that mounts servers; True if one failed that is not known to."""
    failed = False
    suite = npm.installed(Path(__file__).with_name("suite"))
    async with mounting.client_under_test() as place:
        for revision in mounting.REQUIRED:
            status, passed, _ = await mounting.judge(suite, place, revision, results / revision)
            click.echo(f"{revision}: {sum(passed.values())} of {len(passed)} client scenarios pass")
            unknown = sorted(name for name, good in passed.items() if not good and name not in mounting.KNOWN)
            for name in unknown:
                click.echo(f"  failed: {name}")
            failed = failed or status != 0
    return failed


if __name__ == "__main__":
    main()
