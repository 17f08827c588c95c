"""Backups as the two command lines make, check and restore them."""

from __future__ import annotations

import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any, TypeVar

import click

from edgenode.api.admin.v1 import admin_pb2
from edgenode.link.backup.archive import Check, Kind, Manifest, verify
from edgenode.link.backup.restore import Restored
from edgenode.link.terminal.output import emit, facts, human_bytes, human_seconds
from edgenode.link.terminal.plain import plain

F = TypeVar("F", bound=Callable[..., Any])

BACKUP_TIMEOUT = 3600.0  # seconds the service has to write it

FILE = click.Path(dir_okay=False, resolve_path=True, path_type=Path)
TARGET = click.Path(resolve_path=True, path_type=Path)


def restore_options(command: F) -> F:
    """`--force`, `--dry-run`."""
    for option in (
        click.option("--dry-run", is_flag=True, help="Check everything and say what would be done."),
        click.option("--force", is_flag=True, help="Move aside what the state directory holds already."),
    ):
        command = option(command)
    return command


def show_backup(made: admin_pb2.Backup, output: str) -> None:
    """Print what was made. It holds private keys, and says so."""
    shown = plain(made)
    click.echo("it holds private keys: keep it where nobody else can read it", err=True)
    emit(
        output,
        shown,
        lambda: facts(
            [
                ("backup", shown["path"]),
                ("of", shown["name"]),
                ("size", human_bytes(shown["size_bytes"])),
                ("parts", ", ".join(shown["parts"])),
                ("blobs", shown["blob_count"] or None),
            ]
        ),
    )


def show_verified(path: Path, kind: Kind, checks: Sequence[Check], output: str) -> None:
    """Check a backup and print what it is. Raises as `archive.verify`."""
    # Beside the backup, where there is room for what is as large as it.
    with tempfile.TemporaryDirectory(prefix=".verify-", dir=path.parent if path.parent.is_dir() else None) as scratch:
        manifest = verify(path, kind, Path(scratch) / "copy", checks)
    emit(output, _manifest(path, manifest), lambda: _facts(manifest, [("verified", str(path))]))


def show_restored(path: Path, state: Path, done: Restored, hints: Sequence[str], dry_run: bool, output: str) -> None:
    """Print what a restore did, or would do."""
    shown = {
        **_manifest(path, done.manifest),
        "state": str(state),
        "placed": list(done.placed),
        "replaced": list(done.replaced),
        "moved_to": "" if done.aside is None else str(done.aside),
        "renewed": list(done.renewed),
        "dry_run": dry_run,
    }
    lines: list[tuple[str, object]] = [
        ("would restore" if dry_run else "restored", f"{', '.join(done.placed)} in {state}"),
        ("moved aside", done.aside and f"{', '.join(done.replaced)} to {done.aside}"),
        *(("begun anew", what) for what in done.renewed),
        *(("note", hint) for hint in hints),
    ]
    emit(output, shown, lambda: _facts(done.manifest, lines))


def _manifest(path: Path, manifest: Manifest) -> dict[str, Any]:
    return {"path": str(path), **asdict(manifest), "size_bytes": manifest.size}


def _facts(manifest: Manifest, more: Sequence[tuple[str, object]]) -> str:
    age = max(time.time() - manifest.create_time, 0.0)
    return facts(
        [
            ("backup of", manifest.name),
            ("made", f"{human_seconds(age)} ago by {manifest.software}"),
            ("size", f"{human_bytes(manifest.size)} in {len(manifest.parts)} parts"),
            *more,
        ]
    )
