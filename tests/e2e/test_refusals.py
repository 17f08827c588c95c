"""What a person gets who starts things wrongly: a cause, a hint, a reason and an exit code, and nothing changed."""

from __future__ import annotations

import asyncio
import sqlite3
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from edgenode.cli.demo.fleet import EDGEHUB, EDGENODE, Fleet

pytestmark = pytest.mark.timeout(90)


async def command(*words: str) -> tuple[int, str]:
    """Exit code and standard error."""
    process = await asyncio.create_subprocess_exec(
        *words, stdin=asyncio.subprocess.DEVNULL, stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.PIPE
    )
    _, err = await asyncio.wait_for(process.communicate(), 60)
    assert process.returncode is not None
    return process.returncode, err.decode()


async def alone(fleet: Fleet, name: str) -> None:
    """An edge that never joined a hub."""
    child = await fleet.spawn(name, EDGENODE, "run", "--state", str(fleet.state(name)), "--node", name)
    await child.ready()


@pytest.fixture
async def fleet(folder: Path) -> AsyncIterator[Fleet]:
    made = Fleet(folder)
    yield made
    await made.stop()


async def test_second_node_on_one_state(fleet: Fleet) -> None:
    await alone(fleet, "north")
    code, err = await command(*EDGENODE, "run", "--state", str(fleet.state("north")), "--node", "north")
    assert (code != 0, "STATE_IN_USE" in err) == (True, True), err
    assert "Traceback" not in err
    assert (await command(*EDGENODE, "status", "--state", str(fleet.state("north"))))[0] == 0


async def test_state_of_another_edge(fleet: Fleet) -> None:
    await alone(fleet, "north")
    await fleet.children["north"].stop()
    code, err = await command(*EDGENODE, "run", "--state", str(fleet.state("north")), "--node", "south")
    assert (code != 0, "STATE_OF_OTHER_NODE" in err) == (True, True), err


async def test_state_of_a_newer_version(fleet: Fleet) -> None:
    await alone(fleet, "north")
    await fleet.children["north"].stop()
    (store,) = fleet.state("north").glob("*.db")
    connection = sqlite3.connect(store)
    connection.execute("PRAGMA user_version = 99")
    connection.close()
    code, err = await command(*EDGENODE, "run", "--state", str(fleet.state("north")), "--node", "north")
    assert (code != 0, "STATE_TOO_NEW" in err) == (True, True), err


async def test_damaged_store_is_put_aside_and_the_node_serves(fleet: Fleet) -> None:
    await alone(fleet, "north")
    await fleet.children["north"].stop()
    (store,) = fleet.state("north").glob("*.db")
    store.write_bytes(b"this is not a database" * 1000)
    await alone(fleet, "north")
    assert list(fleet.state("north").glob("*.quarantine-*"))


async def test_damaged_configuration_names_file_line_and_key(fleet: Fleet) -> None:
    state = fleet.state("north")
    state.mkdir()
    (state / "edgenode.toml").write_text('node = "north"\n\nlog_levle = "info"\n')
    code, err = await command(*EDGENODE, "run", "--state", str(state))
    assert code == 2
    assert all(part in err for part in ("edgenode.toml", "3", "log_levle", "log_level")), err


async def test_port_taken_and_plaintext_off_loopback(fleet: Fleet) -> None:
    await fleet.start_hub()
    port = fleet.enroll_address.rpartition(":")[2]
    state = str(fleet.state("north"))
    code, err = await command(*EDGENODE, "run", "--state", state, "--node", "north", "--listen", f"127.0.0.1:{port}")
    assert (code != 0, "PORT_TAKEN" in err) == (True, True), err
    code, err = await command(*EDGENODE, "run", "--state", state, "--node", "north", "--listen", "0.0.0.0:9999")
    assert code == 2, err


async def test_joining_wrongly(fleet: Fleet) -> None:
    await fleet.start_hub()
    enroll = fleet.enroll_address
    where = ["--state", str(fleet.state("north")), "--hub"]
    code, err = await command(*EDGENODE, "join", *where, enroll, "--token", "enj1_rubbish")
    assert (code, "BAD_TOKEN" in err) == (2, True), err
    made = await fleet.run(EDGEHUB, "token", "create", "north", "--state", str(fleet.state("hub")), "-o", "json")
    token = made.split('"token": "')[1].split('"')[0]
    code, err = await command(*EDGENODE, "join", *where, "127.0.0.1:1", "--token", token)
    assert (code, "HUB_UNREACHABLE" in err) == (5, True), err
    code, err = await command(*EDGENODE, "join", *where, enroll, "--token", token)
    assert code == 0, err
    other = ["--state", str(fleet.state("thief")), "--hub"]
    code, err = await command(*EDGENODE, "join", *other, enroll, "--token", token)
    assert (code, "TOKEN_USED" in err) == (4, True), err


async def test_commands_without_a_node_say_how_to_start_one(fleet: Fleet) -> None:
    code, err = await command(*EDGENODE, "status", "--state", str(fleet.state("north")))
    assert code == 5
    assert "edgenode run" in err
    code, err = await command(*EDGEHUB, "nodes", "--state", str(fleet.state("hub")))
    assert code == 5
    assert "edgehub" in err
