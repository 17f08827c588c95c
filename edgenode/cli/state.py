"""`--state`: which node a command is about. Apart from `place`, as not every command needs grpc."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

import click

F = TypeVar("F", bound=Callable[..., Any])


def state_option(command: F) -> F:
    """`--state DIR`."""
    option = click.option(
        "--state",
        type=click.Path(file_okay=False, resolve_path=True, path_type=Path),
        envvar="EDGENODE_STATE",
        default=lambda: Path("~/.edgenode").expanduser(),
        show_default="~/.edgenode",
        help="State directory of the node [env: EDGENODE_STATE].",
    )
    return option(command)
