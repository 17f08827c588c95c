"""`edgenode agent run`."""

from __future__ import annotations

import asyncio
import importlib.util
import sys
from pathlib import Path

import click

from edgenode.cli.state import state_option
from edgenode.link.config import LOG_LEVELS
from edgenode.link.errors import InvalidArgument
from edgenode.link.telemetry import configure_logging
from edgenode.link.terminal.event_loop import run_on
from edgenode.link.terminal.signals import StopSignal
from edgenode.link.wire.channels import unix_target
from edgenode.node.config import load_node_config
from edgenode.sdk.agent import Agent


@click.group()
def agent() -> None:
    """Run an agent written with edgenode.sdk."""


@agent.command()
@click.argument("place", metavar="FILE:NAME")
@click.option(
    "--grace", type=click.FloatRange(min=0), default=10.0, show_default=True, help="Seconds to finish on stop."
)
@click.option("--log-level", type=click.Choice(LOG_LEVELS), default="warning", show_default=True)
@state_option
def run(state: Path, place: str, grace: float, log_level: str) -> None:
    """Run the Agent object NAME of FILE on this machine's node until SIGTERM or SIGINT."""
    configure_logging(log_level)
    found = load_agent(place)
    config = load_node_config(state).config
    run_on(config.event_loop, lambda: _serve(found, unix_target(config.socket_path), grace))


async def _serve(found: Agent, target: str, grace: float) -> None:
    def attached(node: str) -> None:
        click.echo(f"ready agent={found.name} node={node}")

    with StopSignal() as stop:
        running = asyncio.ensure_future(found.run(target=target, on_attached=attached))
        asked = asyncio.ensure_future(stop.wait())
        try:
            await asyncio.wait([running, asked], return_when=asyncio.FIRST_COMPLETED)
            if not running.done():
                await found.stop(grace)
            await running
        finally:
            asked.cancel()
            running.cancel()


def load_agent(place: str) -> Agent:
    """The Agent at `FILE:NAME`. Raises InvalidArgument (BAD_AGENT); what FILE itself raises passes."""
    file, colon, name = place.rpartition(":")
    if not colon or not file or not name:
        raise _bad(f"the agent is {place!r}", "expected FILE:NAME, e.g. greeter.py:agent")
    path = Path(file).resolve()
    if not path.is_file():
        raise _bad(f"there is no file {path}", "expected FILE:NAME, e.g. greeter.py:agent")
    spec = importlib.util.spec_from_file_location(path.stem, path)
    if spec is None or spec.loader is None:
        raise _bad(f"{path} is no Python file", "its name must end in .py")
    module = importlib.util.module_from_spec(spec)
    # As if the file had been started: its neighbours can be imported, and so can it itself.
    sys.path.insert(0, str(path.parent))
    sys.modules[path.stem] = module
    spec.loader.exec_module(module)
    found = getattr(module, name, None)
    if not isinstance(found, Agent):
        names = sorted(key for key, value in vars(module).items() if isinstance(value, Agent))
        what = "is no edgenode.sdk.Agent" if hasattr(module, name) else "is not there"
        raise _bad(f"{name} {what} in {path}", f"it has: {', '.join(names)}" if names else "it makes no Agent")
    return found


def _bad(message: str, hint: str) -> InvalidArgument:
    return InvalidArgument("BAD_AGENT", message, hint=hint, field="FILE:NAME")
