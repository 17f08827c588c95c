"""`edgenode demo`: what happens, in order, and what a person sees of it."""

from __future__ import annotations

import asyncio
import json
import shutil
import sys
import sysconfig
import tempfile
from pathlib import Path

import click

from edgenode.cli.demo.story import Story
from edgenode.cli.demo.totals import Verdict
from edgenode.link.errors import EdgenodeError

_COLUMNS = ("produced", "applied", "duplicates", "pending", "dropped", "lost")


@click.command()
@click.option(
    "--seconds", type=click.FloatRange(min=15), default=60.0, show_default=True, help="About how long it takes."
)
@click.option("--json", "as_json", is_flag=True, help="One closing line of JSON instead of the story.")
@click.option("--keep", is_flag=True, help="Keep the folder with the states and logs.")
def demo(seconds: float, as_json: bool, keep: bool) -> None:
    """A hub, two edges and real agents on this machine, with a link that is cut and a node that is killed.

    South submits a task for each Python file of the standard library; agents on north measure them; north's device agent
    publishes this machine's readings all the while. Then every number is added up. Exit code 1 if anything was lost.
    """
    folder = Path(tempfile.mkdtemp(prefix="edgenode-demo-", dir="/tmp"))
    story = Story(folder, source_files(), seconds, (lambda _text: None) if as_json else click.echo)
    try:
        verdict = asyncio.run(story.run())
    except EdgenodeError as error:
        click.echo(f"the demo could not go on: {error}\nlogs are in {folder}", err=True)
        sys.exit(1)
    if verdict.passed and not keep:
        shutil.rmtree(folder)
    else:
        click.echo(f"states and logs are in {folder}", err=True)
    click.echo(json.dumps(summary(verdict)) if as_json else closing(verdict))
    sys.exit(0 if verdict.passed else 1)


def source_files() -> list[Path]:
    """The Python files of the running interpreter's standard library."""
    root = Path(sysconfig.get_paths()["stdlib"])
    return sorted(path for path in root.rglob("*.py") if not {"site-packages", "dist-packages"} & set(path.parts))


def summary(verdict: Verdict) -> dict[str, object]:
    """The closing line of `--json`."""
    return {
        "passed": verdict.passed,
        "lost": verdict.lost,
        "results_checked": verdict.checked,
        "wrong": verdict.wrong,
        "totals": {total.what: {column: getattr(total, column) for column in _COLUMNS} for total in verdict.totals},
    }


def closing(verdict: Verdict) -> str:
    """The closing table."""
    width = max(len(total.what) for total in verdict.totals)
    lines = ["", " " * width + "".join(f"{column:>12}" for column in _COLUMNS)]
    lines.extend(
        f"{total.what:<{width}}" + "".join(f"{getattr(total, column):>12,}" for column in _COLUMNS)
        for total in verdict.totals
    )
    lines.append("")
    lines.append(f"{verdict.checked} results worked out a second time, by other means; {verdict.differing} differ.")
    lines.append(f"{verdict.balanced} hops in the ledgers of hub, north and south add up; {verdict.unbalanced} do not.")
    lines.extend(f"WRONG: {problem}" for problem in verdict.wrong)
    lines.append("Every number adds up, nothing was lost." if verdict.passed else f"FAILED, lost: {verdict.lost}")
    return "\n".join(lines)
