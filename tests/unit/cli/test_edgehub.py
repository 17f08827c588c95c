from __future__ import annotations

import json
from pathlib import Path

from tests.unit.cli.conftest import Run
from tests.unit.cli.fakes import DONE_ID, PARKED_ID, FakeHub, hole


def last_line(text: str) -> str:
    return text.strip().splitlines()[-1]


def test_no_hub(edgehub: Run, tmp_path: Path) -> None:
    result = edgehub("nodes", state=tmp_path)
    assert (result.exit_code, last_line(result.stderr)) == (5, "reason: HUB_NOT_RUNNING (exit 5)")


def test_init_and_a_token_without_a_running_hub(edgehub: Run, tmp_path: Path) -> None:
    state = tmp_path / "hub"
    result = edgehub("init", "--domain", "fleet.example", "-o", "json", state=state)
    assert result.exit_code == 0
    made = json.loads(result.stdout)
    assert (made["trust_domain"], made["hub"]) == ("fleet.example", "hub")
    result = edgehub("token", "create", "north", state=state)
    assert result.exit_code == 0, result.stderr
    assert result.stdout.startswith("enj1_north.")
    assert made["root_hash"] in result.stdout
    again = edgehub("init", "--domain", "fleet.example", state=state)
    assert (again.exit_code, last_line(again.stderr)) == (1, "reason: STATE_EXISTS (exit 1)")


def test_token_of_no_hub(edgehub: Run, tmp_path: Path) -> None:
    result = edgehub("token", "create", "north", state=tmp_path)
    assert (result.exit_code, last_line(result.stderr)) == (1, "reason: NOT_INITIALISED (exit 1)")


def test_bad_names(edgehub: Run, tmp_path: Path) -> None:
    assert edgehub("init", "--domain", "UPPER CASE", state=tmp_path).exit_code == 2
    edgehub("init", "--domain", "fleet.example", state=tmp_path)
    assert edgehub("token", "create", "North!", state=tmp_path).exit_code == 2
    assert edgehub("token", "create", "north", "--ttl", "1s", state=tmp_path).exit_code == 2


def test_token_through_the_hub(edgehub: Run, hub: FakeHub) -> None:
    result = edgehub("token", "create", "north", "--ttl", "2h", "--rejoin", state=hub.state)
    assert (result.exit_code, result.stdout) == (0, "enj1_x\n")
    (request,) = hub.fleet.tokens
    assert (request.node, request.ttl_duration.seconds, request.rejoin) == ("north", 7200, True)


def test_status(edgehub: Run, hub: FakeHub) -> None:
    result = edgehub("status", state=hub.state)
    assert result.exit_code == 0
    assert "sync 7443, enrollment 7444" in result.stdout


def test_status_of_a_hub_that_has_a_parent(edgehub: Run, hub: FakeHub) -> None:
    hub.fleet.below = True
    shown = edgehub("status", state=hub.state).stdout
    assert "established to parent.example:7443" in shown
    assert "spiffe://above.example/edge/berlin" in shown
    assert "hub@above.example#1 > hub@fleet.example#2" in shown
    assert "message" in shown


def test_join_of_no_hub(edgehub: Run, tmp_path: Path) -> None:
    result = edgehub("join", "--hub", "127.0.0.1:1", "--token", "enj1_x", state=tmp_path)
    assert (result.exit_code, last_line(result.stderr)) == (1, "reason: NOT_INITIALISED (exit 1)")


def test_leave_without_a_parent(edgehub: Run, tmp_path: Path) -> None:
    edgehub("init", "--domain", "fleet.example", state=tmp_path)
    result = edgehub("leave", state=tmp_path)
    assert (result.exit_code, last_line(result.stderr)) == (3, "reason: NO_PARENT (exit 3)")


def test_join_with_a_bad_token(edgehub: Run, tmp_path: Path) -> None:
    edgehub("init", "--domain", "fleet.example", state=tmp_path)
    result = edgehub("join", "--hub", "127.0.0.1:1", "--token", "enj1_x", state=tmp_path)
    assert (result.exit_code, last_line(result.stderr)) == (2, "reason: BAD_TOKEN (exit 2)")


def test_a_quarantined_node_is_shown_and_released(edgehub: Run, hub: FakeHub) -> None:
    hub.fleet.quarantined = True
    shown = edgehub("nodes", "show", "north", state=hub.state)
    assert shown.exit_code == 7
    assert "two processes use its identity" in shown.stdout
    assert "edgehub nodes release north" in shown.stdout
    assert "edgehub token create north --rejoin" in shown.stdout
    assert edgehub("nodes", "release", "north", state=hub.state).stdout == "released\n"
    shown = edgehub("nodes", "show", "north", state=hub.state)
    assert shown.exit_code == 0
    assert "to do" not in shown.stdout
    assert edgehub("nodes", "release", "north", state=hub.state).stdout == "it was not quarantined\n"


def test_nodes(edgehub: Run, hub: FakeHub) -> None:
    titles, row = edgehub("nodes", state=hub.state).stdout.splitlines()
    assert titles.split()[:5] == ["NODE", "KIND", "STATE", "CONTACT", "AGENTS"]
    assert titles.split()[5:] == ["UP", "DOWN", "DESIRED", "CERTIFICATE", "SOFTWARE"]
    words = row.split()
    assert words[:3] == ["north", "edge", "unreachable"]
    assert words[4:9] == ["2", "3", "0", "2", "pending"]
    assert json.loads(edgehub("nodes", "-o", "json", state=hub.state).stdout)[0]["lanes"][0]["pending_bytes"] == 2048


def test_agents_and_find(edgehub: Run, hub: FakeHub) -> None:
    assert "north/device" in edgehub("agents", state=hub.state).stdout
    assert edgehub("find", "code.metrics", state=hub.state).exit_code == 0
    assert hub.registry.asked[0].scope == 2
    assert edgehub("find", "ocr", state=hub.state).exit_code == 3


def test_tasks(edgehub: Run, hub: FakeHub) -> None:
    assert DONE_ID in edgehub("tasks", state=hub.state).stdout
    assert edgehub("tasks", "get", DONE_ID, state=hub.state).exit_code == 0
    assert edgehub("tasks", "get", "nope", state=hub.state).exit_code == 3


def test_ledger(edgehub: Run, hub: FakeHub) -> None:
    assert edgehub("ledger", state=hub.state).exit_code == 0
    assert edgehub("ledger", "--node", "south", state=hub.state).exit_code == 1


def test_ledger_verify(edgehub: Run, hub: FakeHub) -> None:
    result = edgehub("ledger", "verify", state=hub.state)
    assert (result.exit_code, result.stdout) == (0, "everything adds up: 12 entries looked at\n")
    result = edgehub("ledger", "verify", "--all", state=hub.state)
    assert result.exit_code == 0
    assert result.stdout.splitlines()[3].split()[:2] == ["north", "yes"]
    hub.fleet.south_offline = True
    result = edgehub("ledger", "verify", "--all", state=hub.state)
    assert result.exit_code == 7
    assert "south could not be asked" in result.stderr
    assert "NODE_OFFLINE: south has no link to this hub now" in result.stdout
    hub.fleet.findings = [hole()]
    result = edgehub("ledger", "verify", "--all", state=hub.state)
    assert result.exit_code == 1
    assert "HOLE in messages 6-8" in result.stderr


def test_dead_letters(edgehub: Run, hub: FakeHub) -> None:
    assert "HANDLER_FAILED: boom" in edgehub("deadletters", "--node", "north", state=hub.state).stdout
    assert edgehub("deadletters", "list", "--node", "south", state=hub.state).exit_code == 5
    assert '{"path":"x"}' in edgehub("deadletters", "show", "4", state=hub.state).stdout
    assert edgehub("deadletters", "show", "5", "--node", "north", state=hub.state).exit_code == 3
    result = edgehub("deadletters", "replay", "4", "--node", "north", state=hub.state)
    assert result.stdout == f"1 submitted again\n2 appended again\n{PARKED_ID}\n"
    result = edgehub("deadletters", "drop", "--all", "--reason", "OBSOLETE", state=hub.state)
    assert result.stdout == "1 dropped\n"
    replayed, dropped = hub.fleet.letters
    assert (replayed.node, list(replayed.letters.dead_letter_ids)) == ("north", [4])
    assert (dropped.node, dropped.letters.all, dropped.letters.reason) == ("", True, "OBSOLETE")
    assert edgehub("deadletters", "drop", state=hub.state).exit_code == 2


def test_desired(edgehub: Run, hub: FakeHub) -> None:
    words = ("--log-level", "debug", "--weight", "task=5", "--limit", "max_queued_tasks=10")
    result = edgehub("desired", "set", "north", *words, state=hub.state)
    assert (result.exit_code, result.stdout) == (0, "version 3 for north\n")
    document = hub.fleet.document
    assert (document.log_level, dict(document.lane_weights)) == ("debug", {"task": 5})
    assert dict(document.limits) == {"max_queued_tasks": 10, "store_bytes": 9}
    text = edgehub("desired", "get", "north", state=hub.state).stdout
    assert "lane weights  task=5" in text
    assert edgehub("desired", "get", "south", state=hub.state).exit_code == 3


def test_desired_refuses(edgehub: Run, hub: FakeHub) -> None:
    for words in ((), ("--weight", "task"), ("--weight", "fast=1"), ("--limit", "x=y"), ("--log-level", "loud")):
        assert edgehub("desired", "set", "north", *words, state=hub.state).exit_code == 2
    assert hub.fleet.document.version == 2


def test_subscribe(edgehub: Run, hub: FakeHub) -> None:
    result = edgehub("subscribe", "device.>", "--from", "start", "--count", "2", "-o", "json", state=hub.state)
    assert result.exit_code == 0, result.stderr
    assert [json.loads(line)["sequence"] for line in result.stdout.splitlines()] == [3, 4]
    assert "messages 1 to 2 are gone: RETENTION" in result.stderr.splitlines()
    assert hub.messages.ended.wait(10)
    assert hub.messages.acked == 4


def test_damaged_configuration(edgehub: Run, tmp_path: Path) -> None:
    (tmp_path / "edgehub.toml").write_text("listen = 7443\n")
    result = edgehub("nodes", state=tmp_path)
    assert result.exit_code == 2
    assert result.stderr.splitlines()[0] == f"error: {tmp_path}/edgehub.toml:1: listen is 7443"
