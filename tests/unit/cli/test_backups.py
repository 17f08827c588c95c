"""Backups from the command line, of a hub and an edge that do not run."""

from __future__ import annotations

import asyncio
import json
from pathlib import Path

import pytest

from edgenode.node.config import NodeConfig
from edgenode.node.store import count_boot, open_store
from tests.unit.cli.conftest import Run


def last_line(text: str) -> str:
    return text.strip().splitlines()[-1]


@pytest.fixture
def hub_state(edgehub: Run, tmp_path: Path) -> Path:
    state = tmp_path / "hub"
    assert edgehub("init", "--domain", "fleet.example", state=state).exit_code == 0
    assert edgehub("token", "create", "north", state=state).exit_code == 0  # makes the store
    return state


@pytest.fixture
def edge_state(tmp_path: Path) -> Path:
    state = tmp_path / "north"
    state.mkdir()

    async def make() -> None:
        database = await open_store(NodeConfig(state_dir=state))
        await database.write(lambda connection: count_boot(connection, "", "north", ""))
        await database.close()

    asyncio.run(make())
    return state


def test_a_hub_is_backed_up_verified_and_put_on_another_machine(edgehub: Run, hub_state: Path, tmp_path: Path) -> None:
    made = edgehub("backup", str(tmp_path), "-o", "json", state=hub_state)
    assert made.exit_code == 0, made.stderr
    assert "private keys" in made.stderr
    backup = json.loads(made.stdout)
    assert "ca/edge-ca.pem" in backup["parts"]
    assert "ca/root.key" not in backup["parts"]
    assert Path(backup["path"]).name.startswith("edgehub-hub-2")
    verified = json.loads(edgehub("verify", backup["path"], "-o", "json").stdout)
    assert (verified["name"], verified["encryption"]) == ("hub", "none")
    shown = edgehub("restore", backup["path"], state=tmp_path / "new").stdout
    assert "join tokens are void" in shown
    assert "fences above" in shown
    again = edgehub("token", "create", "south", state=tmp_path / "new")
    assert again.exit_code == 0, again.stderr
    assert not (tmp_path / "new" / "ca" / "root.key").exists()
    refused = edgehub("restore", backup["path"], state=hub_state)
    assert (refused.exit_code, last_line(refused.stderr)) == (1, "reason: STATE_EXISTS (exit 1)")
    forced = json.loads(edgehub("restore", backup["path"], "--force", "-o", "json", state=hub_state).stdout)
    assert forced["moved_to"] == str(hub_state / "replaced-1")
    assert (hub_state / "replaced-1" / "ca" / "root.key").exists()


def test_an_edge_likewise(edgenode: Run, edgehub: Run, edge_state: Path, tmp_path: Path) -> None:
    target = tmp_path / "north.tar"
    assert edgenode("backup", str(target), state=edge_state).exit_code == 0
    assert last_line(edgenode("backup", str(target), state=edge_state).stderr) == "reason: BACKUP_EXISTS (exit 1)"
    assert "verified" in edgenode("verify", str(target)).stdout
    assert last_line(edgehub("verify", str(target)).stderr) == "reason: WRONG_BACKUP (exit 1)"
    planned = edgenode("restore", str(target), "--dry-run", state=tmp_path / "new")
    assert "would restore" in planned.stdout
    assert not (tmp_path / "new" / "node.db").exists()
    done = edgenode("restore", str(target), state=tmp_path / "new")
    assert "new epochs for no logs" in done.stdout
    assert (tmp_path / "new" / "node.db").exists()


def test_what_there_is_no_backup_of(edgenode: Run, edgehub: Run, tmp_path: Path) -> None:
    nothing = edgenode("backup", str(tmp_path / "x.tar"), state=tmp_path)
    assert (nothing.exit_code, last_line(nothing.stderr)) == (3, "reason: NO_STATE (exit 3)")
    missing = edgehub("verify", str(tmp_path / "none.tar"))
    assert (missing.exit_code, last_line(missing.stderr)) == (3, "reason: NO_BACKUP (exit 3)")
    (tmp_path / "rubbish").write_bytes(b"no tar")
    rubbish = edgehub("restore", str(tmp_path / "rubbish"), state=tmp_path / "new")
    assert (rubbish.exit_code, last_line(rubbish.stderr)) == (1, "reason: BACKUP_DAMAGED (exit 1)")
