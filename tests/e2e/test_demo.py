import json

import pytest
from click.testing import CliRunner

from edgenode.cli.demo import command

# More than the thousand tasks that the demo asks for; the longest files cost a processor a minute and tell nothing new.
FILES = 1_100


@pytest.mark.timeout(300)
def test_the_demo_loses_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    shortest = sorted(command.source_files(), key=lambda path: path.stat().st_size)[:FILES]
    monkeypatch.setattr(command, "source_files", lambda: shortest)
    ended = CliRunner().invoke(command.demo, ["--seconds", "15", "--json"])
    assert ended.exit_code == 0, (ended.stdout, ended.stderr)
    report = json.loads(ended.stdout)
    assert report["passed"]
    assert report["lost"] == 0
    assert report["results_checked"] > 100
    messages, tasks = report["totals"].values()
    assert messages["produced"] == messages["applied"] > 100
    assert tasks["produced"] == tasks["applied"] > 0
