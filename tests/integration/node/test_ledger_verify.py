"""`VerifyLedger` of a running edge, and the same of one that is stopped: damage of every table is found and named."""

from __future__ import annotations

import asyncio
import sqlite3
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner

from edgenode.api.admin.v1 import admin_service_pb2
from edgenode.cli.ledger import ledger as command
from edgenode.link.errors import EdgenodeError
from edgenode.link.model.dead_letter import DeadLetter, LetterBounds
from edgenode.link.model.lanes import Lane, Rejection
from edgenode.link.model.problem import Code, Problem
from edgenode.link.store import dead_letters, inbox, logs
from edgenode.link.terminal.failures import Exit
from edgenode.node.ledger_audit import verify_stopped
from edgenode.node.message_log import LOG_NAME, PARENT
from tests.integration.node.house import House, house, publish, short_directory

PROBLEM = Problem(Code.INVALID_ARGUMENT, "NOT_LIKED", "no")


@pytest.fixture
async def h() -> AsyncIterator[House]:
    """Five messages, of which the hub has three and rejected one; a subscription; a cursor of the hub's task lane."""
    with short_directory() as directory:
        async with house(directory) as made:
            await publish(made, "p", 1, *"abcde")
            await made.node.rooms.database.write(prepare)
            yield made


def prepare(connection: sqlite3.Connection) -> None:
    log = logs.log_state(connection, LOG_NAME)
    logs.ensure_consumer(connection, log.log_id, PARENT, 0)
    logs.ensure_consumer(connection, log.log_id, "sub/slow", 0)
    logs.acknowledge(connection, log.log_id, PARENT, 3, rejected=1)
    letter = DeadLetter("entry", "device.cpu", PROBLEM, 0.0, "message", payload=b"x")
    dead_letters.add(connection, [letter], LetterBounds(10, 1000))
    inbox.accept(connection, PARENT, Lane.TASK, "hubs", 1, [], None)
    connection.execute("UPDATE inbox_cursor SET sequence = 9, applied_count = 9")
    inbox.reject(connection, PARENT, Lane.TASK, "hubs", [Rejection(4, PROBLEM)])


async def findings(h: House, damage: str = "") -> list[tuple[str, str, int, int]]:
    if damage:
        await h.node.rooms.database.write(lambda connection: connection.execute(damage).fetchall())
    response = await h.admin.VerifyLedger(admin_service_pb2.VerifyLedgerRequest(), timeout=30)
    assert response.finding_count == len(response.findings)
    return [(found.hop, found.reason, found.first_sequence, found.last_sequence) for found in response.findings]


async def test_a_sound_node_has_no_findings_while_it_works(h: House) -> None:
    assert await findings(h) == []
    await publish(h, "p", 6, *"fg")
    response = await h.admin.VerifyLedger(admin_service_pb2.VerifyLedgerRequest(), timeout=30)
    assert (list(response.findings), response.entry_count) == ([], 7)
    lines = {line.hop: line for line in response.lines}
    assert lines["message.subscription"].pending_count == 7
    assert lines["deadletters"].pending_count == 1


@pytest.mark.parametrize(
    ("damage", "found"),
    [
        ("UPDATE counter SET value = value + 2 WHERE reason = 'STORED'", ("message.publish", "UNBALANCED", 6, 7)),
        ("UPDATE counter SET value = 4 WHERE reason = 'STORED'", ("message.publish", "UNBALANCED", 5, 5)),
        ("INSERT INTO counter VALUES ('task', 'ACCEPTED', 1)", ("tasks", "UNBALANCED", 0, 0)),
        ("INSERT INTO counter VALUES ('task', 'FAILED', 1)", ("tasks", "UNBALANCED", 0, 0)),
        ("DELETE FROM segment WHERE position & 15 = 1", ("messages", "HOLE", 1, 5)),
        ("UPDATE consumer SET acked_sequence = 8 WHERE name = 'parent'", ("messages", "CURSOR_AHEAD", 6, 8)),
        ("UPDATE inbox_cursor SET applied_count = 6", ("task cursor", "WRONG_COUNT", 8, 9)),
        ("UPDATE producer SET log_sequence = 7", ("message.publish", "CURSOR_AHEAD", 6, 7)),
        ("DELETE FROM dead_letter", ("deadletters", "UNBALANCED", 0, 0)),
        (
            "INSERT INTO dead_letter (kind, lane, node, task_id, subject, problem, time, attempts, size, payload)"
            " SELECT 'task', '', '', 'gone', '', problem, 0, 0, 0, x'' FROM dead_letter",
            ("deadletters", "STRAY", 2, 2),
        ),
    ],
)  # fmt: skip
async def test_each_damage_is_found_and_named(h: House, damage: str, found: tuple[str, str, int, int]) -> None:
    assert found in await findings(h, damage)


async def test_a_stopped_node_is_checked_from_its_file() -> None:
    with short_directory() as directory:
        with pytest.raises(EdgenodeError) as missing:
            await verify_stopped(directory, 0.0)
        assert missing.value.reason == "NO_STORE"
        async with house(directory) as h:
            await publish(h, "p", 1, *"abcde")
            with pytest.raises(EdgenodeError) as busy:
                await verify_stopped(directory, 0.0)
            assert busy.value.reason == "STATE_IN_USE"
        sound = await verify_stopped(directory, 0.0)
        assert (sound.finding_count, sound.entry_count) == (0, 5)
        damage(directory, "DELETE FROM segment")
        (found,) = [found for found in (await verify_stopped(directory, 0.0)).findings if found.reason == "HOLE"]
        assert (found.hop, found.first_sequence, found.last_sequence) == ("messages", 1, 5)
        damage(directory, "PRAGMA user_version = 99")
        with pytest.raises(EdgenodeError) as newer:
            await verify_stopped(directory, 0.0)
        assert newer.value.reason == "OTHER_SCHEMA"


def damage(directory: Path, statement: str) -> None:
    connection = sqlite3.connect(directory / "node.db", isolation_level=None)
    connection.execute(statement)
    connection.close()


def run(directory: Path, *arguments: str) -> Any:
    return CliRunner().invoke(command, ["verify", "--state", str(directory), *arguments])


def test_the_command_names_the_range_of_a_stopped_node() -> None:
    with short_directory() as directory:

        async def fill() -> None:
            async with house(directory) as h:
                await publish(h, "p", 1, *"abcde")

        asyncio.run(fill())
        result = run(directory)
        assert (result.exit_code, result.stdout) == (0, "everything adds up: 5 entries looked at\n")
        damage(directory, "UPDATE log SET next_sequence = 9 WHERE name = 'messages'")
        result = run(directory)
        assert isinstance(result.exception, Exit)
        assert result.exception.code == 1
        assert result.exception.problem is not None
        assert "HOLE in messages 6-8" in result.exception.problem.message
        assert "6-8" in result.stdout
