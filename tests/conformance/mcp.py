"""The official MCP conformance suite against `edgenode mcp serve --http`, with the fixtures an ordinary agent provides.

Everything is as in use: a node, an agent and the bridge as processes, HTTP on loopback, the bridge's token. What is known to
fail stands in expected-failures.yaml beside this file, each entry with its reason.
"""

from __future__ import annotations

import asyncio
import re
import tempfile
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path

from edgenode.cli.demo.fleet import EDGENODE, Fleet
from tests import npm
from tests.conformance.official import PACKAGE, run

HERE = Path(__file__).parent
BASELINE = HERE / "expected-failures.yaml"
REQUIRED = {"2026-07-28": 37, "2025-11-25": 30}  # server scenarios by revision


@dataclass(frozen=True)
class Server:
    """Where the server under test is, and the token it wants."""

    url: str
    token: str


@dataclass(frozen=True)
class Verdict:
    """What the suite said: passed or not, by the scenario's name. `required` are those that the revision asks of a server."""

    status: int
    required: dict[str, bool]
    others: dict[str, bool]
    output: str


@asynccontextmanager
async def server() -> AsyncIterator[Server]:
    """A node with the fixture agent, served over MCP."""
    with tempfile.TemporaryDirectory(prefix="mcp-", dir="/tmp") as folder:
        fleet = Fleet(Path(folder))
        try:
            state = fleet.state("north")
            edge = await fleet.spawn("north", EDGENODE, "run", "--state", str(state), "--node", "north")
            await edge.ready()
            agent = f"{HERE / 'fixture_agent.py'}:agent"
            await (await fleet.spawn("fixtures", EDGENODE, "agent", "run", agent, "--state", str(state))).ready()
            bridge = await fleet.spawn(
                "bridge", EDGENODE, "mcp", "serve", "--http", "127.0.0.1:0", "--state", str(state)
            )
            ready = await bridge.ready()
            yield Server(ready["http"], Path(ready["token"]).read_text().strip())
        finally:
            await fleet.stop()


async def judge(suite: Path, served: Server, revision: str, results: Path, *more: str) -> Verdict:
    """Runs what a revision requires, and what it does not. `suite`: an installed folder; `results`: a folder for details."""
    code, passed, text = await run(
        suite,
        *("server", "--url", served.url, "--requirements", revision, "-o", str(results)),
        *("--expected-failures", str(BASELINE)),
        *more,
        node_options=("--import", str(suite / "with_token.mjs")),
        environment={"BRIDGE_URL": served.url, "BRIDGE_TOKEN": served.token},
    )
    required = _required(suite, revision)
    return Verdict(
        code,
        {name: passed.get(name, False) for name in required},
        {name: good for name, good in passed.items() if name not in required},
        text,
    )


def _required(suite: Path, revision: str) -> list[str]:
    """The server's scenarios in the suite's own list of what a revision requires."""
    text = (suite / PACKAGE / "requirements" / f"{revision}.yaml").read_text()
    return re.findall(r"^  - ([\w-]+)$", text.partition("\nserver:\n")[2].partition("\nclient:\n")[0], re.MULTILINE)


async def judge_all(results: Path) -> dict[str, Verdict]:
    """Both revisions at once, as they wait more than they work."""
    suite = npm.installed(HERE / "suite")
    async with server() as served:
        verdicts = await asyncio.gather(*(judge(suite, served, revision, results / revision) for revision in REQUIRED))
    return dict(zip(REQUIRED, verdicts, strict=True))
