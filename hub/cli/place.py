"""`--state`: which hub a command is about, and the one place where it gets the hub's address."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

import click

from edgenode.link.terminal.rpc import check_listening
from hub.config import load_hub_config

F = TypeVar("F", bound=Callable[..., Any])


def state_option(command: F) -> F:
    """`--state DIR`."""
    option = click.option(
        "--state",
        type=click.Path(file_okay=False, resolve_path=True, path_type=Path),
        envvar="EDGEHUB_STATE",
        default=lambda: Path("~/.edgehub").expanduser(),
        show_default="~/.edgehub",
        help="State directory of the hub [env: EDGEHUB_STATE].",
    )
    return option(command)


def hub_target(state: Path) -> str:
    """`unix:PATH` of the running hub. Raises Unavailable (HUB_NOT_RUNNING), InvalidArgument (BAD_CONFIG)."""
    path = load_hub_config(state).config.socket_path
    return check_listening(path, "HUB_NOT_RUNNING", "hub", f"edgehub serve --state {state}")
