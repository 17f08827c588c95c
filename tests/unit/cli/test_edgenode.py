from __future__ import annotations

import json
from pathlib import Path

import pytest

from edgenode.api.receipt.v1 import receipt_pb2
from tests.unit.cli.conftest import Run
from tests.unit.cli.fakes import ASKING_ID, DONE_ID, FAILED_ID, PARKED_ID, FakeNode


def last_line(text: str) -> str:
    return text.strip().splitlines()[-1]


def test_no_node(edgenode: Run, tmp_path: Path) -> None:
    result = edgenode("agents", state=tmp_path)
    assert result.exit_code == 5
    cause, hint, reason = result.stderr.splitlines()
    assert cause == f"error: no node answers at {tmp_path}/edgenode.sock (no such file or directory)"
    assert hint == f"hint: start it: edgenode run --state {tmp_path}"
    assert reason == "reason: NODE_NOT_RUNNING (exit 5)"


def test_a_socket_nobody_serves(edgenode: Run, node: FakeNode) -> None:
    result = edgenode("agents", state=node.state, env={"EDGENODE_SOCKET": str(node.state / "old.sock")})
    assert result.exit_code == 5
    assert "old.sock" in result.stderr


def test_state_from_the_environment(edgenode: Run, node: FakeNode) -> None:
    result = edgenode("agents", env={"EDGENODE_STATE": str(node.state)})
    assert result.exit_code == 0, result.stderr


def test_damaged_configuration(edgenode: Run, tmp_path: Path) -> None:
    (tmp_path / "edgenode.toml").write_text("# limits\nlease_second = 3\n")
    for words in (("status",), ("config", "show"), ("run",)):
        result = edgenode(*words, state=tmp_path)
        assert result.exit_code == 2
        assert result.stderr.splitlines() == [
            f"error: {tmp_path}/edgenode.toml:2: unknown key 'lease_second'",
            "hint: did you mean lease_seconds?",
            "reason: BAD_CONFIG (exit 2)",
        ]


def test_agents(edgenode: Run, node: FakeNode) -> None:
    table = edgenode("agents", state=node.state).stdout.splitlines()
    assert table[0].split() == ["AGENT", "HEALTH", "LOAD", "QUEUED", "LATENCY", "SEEN", "SKILLS", "LABELS"]
    assert table[1].startswith("north/code    READY")
    assert table[2].startswith("north/device  READY")
    assert "zone=a" in table[1]
    shown = json.loads(edgenode("agents", "-o", "json", state=node.state).stdout)
    assert [agent["name"] for agent in shown] == ["nodes/north/agents/code", "nodes/north/agents/device"]
    assert len(edgenode("agents", "--limit", "1", state=node.state).stdout.splitlines()) == 2
    away = edgenode("agents", "--scope", "fleet", state=node.state)
    assert (away.exit_code, len(away.stdout.splitlines())) == (7, 3)
    assert "LINK_DOWN" in away.stderr


def test_find(edgenode: Run, node: FakeNode) -> None:
    result = edgenode("find", "code.metrics", "--selector", "zone=a", "--scope", "fleet", "--explain", state=node.state)
    assert result.exit_code == 0
    assert "load 1/4 in flight: +0.75" in result.stdout
    assert "NO_SKILL" in result.stdout
    (asked,) = node.registry.asked
    assert (asked.selector, asked.scope, asked.explain, asked.page_size) == ("zone=a", 2, True, 20)


def test_find_nobody(edgenode: Run, node: FakeNode) -> None:
    result = edgenode("find", "ocr", "--max-staleness", "5min", "--max-cost", "2", state=node.state)
    assert result.exit_code == 3
    assert "no agent fits" in result.stdout
    assert node.registry.asked[0].max_staleness_duration.seconds == 300


def test_call(edgenode: Run, node: FakeNode) -> None:
    assert edgenode("call", "echo", '{"a": 1}', state=node.state).stdout == '{"a": 1}\n'
    assert edgenode("call", "echo", state=node.state).stdout == "{}\n"
    assert edgenode("call", "echo", "-", state=node.state, stdin="[1]\n").stdout == "[1]\n"
    assert edgenode("call", "echo", "--text", "hi", state=node.state).stdout == '"hi"\n'
    assert edgenode("call", "echo", "--text", state=node.state).stdout == '""\n'


def test_call_that_is_read_along(edgenode: Run, node: FakeNode) -> None:
    assert edgenode("call", "echo", "--stream", state=node.state).stdout == '"one"\n2\n'
    gone = edgenode("call", "gone", "--stream", state=node.state)
    assert (gone.exit_code, gone.stdout) == (5, '"one"\n2\n')
    assert last_line(gone.stderr) == "reason: AGENT_LOST (exit 5)"


def test_call_with_a_file(edgenode: Run, node: FakeNode, tmp_path: Path) -> None:
    file = tmp_path / "image.bin"
    file.write_bytes(b"\xff\x00")
    result = edgenode("call", "echo", f"@{file}", "--content-type", "image/x", state=node.state)
    assert result.stdout_bytes == b"\xff\x00\n"
    result = edgenode("call", "echo", f"@{file}", "--text", state=node.state)
    assert result.exit_code == 2
    result = edgenode("call", "echo", f"@{tmp_path}/none", state=node.state)
    assert result.exit_code == 2
    assert result.stderr.startswith(f"error: cannot read {tmp_path}/none: No such file")


def test_input_that_is_no_json(edgenode: Run, node: FakeNode) -> None:
    result = edgenode("call", "echo", "hello", state=node.state)
    assert result.exit_code == 2
    assert "--text sends it as a JSON string" in result.stderr


@pytest.mark.parametrize(("skill", "code", "reason"), [("ocr", 3, "UNKNOWN_SKILL"), ("gone", 5, "AGENT_LOST")])
def test_calls_that_fail(edgenode: Run, node: FakeNode, skill: str, code: int, reason: str) -> None:
    result = edgenode("call", skill, state=node.state)
    assert result.exit_code == code
    assert result.stdout == ""
    assert last_line(result.stderr) == f"reason: {reason} (exit {code})"


def test_submit(edgenode: Run, node: FakeNode) -> None:
    result = edgenode("submit", "parks", "{}", state=node.state)
    assert result.exit_code == 0
    assert result.stdout == f"task {PARKED_ID} PARKED, DURABLE_LOCAL\n"


def test_submit_and_wait(edgenode: Run, node: FakeNode) -> None:
    words = (
        "--scope",
        "fleet",
        "--priority",
        "9",
        "--deadline",
        "1h",
        "--attempts",
        "2",
        "--key",
        "k",
        "--context",
        "c",
    )
    more = (
        "--attempt-timeout",
        "5s",
        "--on-lost",
        "fail",
        "--selector",
        "zone=a",
        "--max-cost",
        "1",
        "--timeout",
        "3s",
    )
    result = edgenode("submit", "code.metrics", "{}", "--wait", *words, *more, state=node.state)
    assert result.exit_code == 0, result.stderr
    assert result.stdout == '{"lines":3}\n'
    (request,) = node.tasks.submitted
    spec = request.spec
    assert (spec.scope, spec.priority, spec.idempotency_key, spec.context_id, spec.on_lost) == (2, 9, "k", "c", 3)
    assert (spec.retry_policy.max_attempt_count, spec.attempt_timeout_duration.seconds) == (2, 5)
    assert (spec.selector, spec.cost_limit, spec.content_type) == ("zone=a", 1.0, "application/json")
    assert spec.HasField("deadline_time")
    assert (request.wait_level, request.wait_duration.seconds) == (5, 3)


def test_submit_that_is_pending_at_the_end_of_the_wait(edgenode: Run, node: FakeNode) -> None:
    result = edgenode("submit", "parks", "--wait", "--timeout", "100ms", state=node.state)
    assert result.exit_code == 6
    cause, hint, reason = result.stderr.splitlines()
    assert f"task {PARKED_ID} is accepted (DURABLE_LOCAL) but after 0.1 s stands at PARKED, NO_AGENT" in cause
    assert hint == f"hint: follow it: edgenode tasks watch {PARKED_ID}"
    assert reason == "reason: WAIT_OVER (exit 6)"


def test_submit_for_a_level(edgenode: Run, node: FakeNode) -> None:
    result = edgenode("submit", "parks", "--wait-level", "durable_hub", "-o", "json", state=node.state)
    assert result.exit_code == 6
    assert json.loads(result.stdout)["level"] == "DURABLE_LOCAL"


def test_a_task_that_ended_is_past_every_level(edgenode: Run, node: FakeNode) -> None:
    node.tasks.tasks[DONE_ID].level = receipt_pb2.RECEIPT_LEVEL_DURABLE_LOCAL
    result = edgenode("submit", "code.metrics", "--wait-level", "durable_hub", state=node.state)
    assert result.exit_code == 0
    assert result.stdout == f"task {DONE_ID} COMPLETED, DONE\n"


def test_submit_whose_task_fails(edgenode: Run, node: FakeNode) -> None:
    result = edgenode("submit", "fails", "--wait", state=node.state)
    assert result.exit_code == 1
    assert "ZeroDivisionError" in result.stderr
    assert last_line(result.stderr) == "reason: HANDLER_FAILED (exit 1)"


def test_submit_conflict(edgenode: Run, node: FakeNode) -> None:
    result = edgenode("submit", "conflict", "--wait", state=node.state)
    assert result.exit_code == 1
    assert last_line(result.stderr) == "reason: IDEMPOTENCY_CONFLICT (exit 1)"


def test_submit_waits_an_hour_at_most(edgenode: Run, node: FakeNode) -> None:
    assert edgenode("submit", "parks", "--wait", "--timeout", "2h", state=node.state).exit_code == 2
    result = edgenode("submit", "parks", "--timeout", "soon", state=node.state)
    assert result.exit_code == 2
    assert "expected a time" in result.stderr


def test_tasks(edgenode: Run, node: FakeNode) -> None:
    listed = edgenode("tasks", state=node.state).stdout
    assert listed == edgenode("tasks", "list", state=node.state).stdout
    assert [line.split()[2] for line in listed.splitlines()] == [
        "STATE",
        "COMPLETED",
        "FAILED",
        "PARKED",
        "INPUT_REQUIRED",
    ]
    only = json.loads(edgenode("tasks", "list", "--status", "parked", "-o", "json", state=node.state).stdout)
    assert [task["task_id"] for task in only] == [PARKED_ID]
    assert edgenode("tasks", "-o", "json", state=node.state).stdout.startswith("[")


def test_tasks_get(edgenode: Run, node: FakeNode) -> None:
    text = edgenode("tasks", "get", DONE_ID, state=node.state).stdout
    assert 'output     {"lines":3}' in text
    shown = json.loads(edgenode("tasks", "get", ASKING_ID, "-o", "json", state=node.state).stdout)
    assert shown["input_request"]["key"] == "colour"
    assert shown["output"] is None


def test_what_agents_write_cannot_drive_the_terminal(edgenode: Run, node: FakeNode) -> None:
    assert "\x1b" not in edgenode("tasks", "get", ASKING_ID, state=node.state).stdout


def test_tasks_get_unknown_and_denied(edgenode: Run, node: FakeNode) -> None:
    result = edgenode("tasks", "get", "nope", state=node.state)
    assert (result.exit_code, last_line(result.stderr)) == (3, "reason: UNKNOWN_TASK (exit 3)")
    result = edgenode("tasks", "get", "denied", state=node.state)
    assert (result.exit_code, last_line(result.stderr)) == (4, "reason: FORBIDDEN (exit 4)")


def test_tasks_watch(edgenode: Run, node: FakeNode) -> None:
    result = edgenode("tasks", "watch", DONE_ID, state=node.state)
    assert result.exit_code == 0
    states = [line.split()[2] for line in result.stdout.splitlines()]
    assert states == ["QUEUED", "WORKING", "COMPLETED"]
    assert "50%  half  north/code" in result.stdout
    result = edgenode("tasks", "watch", FAILED_ID, "--after", "2", "-o", "json", state=node.state)
    assert result.exit_code == 1
    assert [json.loads(line)["state"] for line in result.stdout.splitlines()] == ["FAILED"]
    assert last_line(result.stderr) == "reason: HANDLER_FAILED (exit 1)"


def test_tasks_cancel(edgenode: Run, node: FakeNode) -> None:
    result = edgenode("tasks", "cancel", PARKED_ID, "--reason", "enough", state=node.state)
    assert (result.exit_code, result.stdout) == (6, f"task {PARKED_ID} PARKED, cancellation requested\n")
    assert edgenode("tasks", "cancel", DONE_ID, state=node.state).exit_code == 0


def test_tasks_replay(edgenode: Run, node: FakeNode) -> None:
    result = edgenode("tasks", "replay", FAILED_ID, state=node.state)
    assert (result.exit_code, result.stdout) == (0, f"task {PARKED_ID} PARKED, replay of {FAILED_ID}\n")


def test_tasks_answer(edgenode: Run, node: FakeNode) -> None:
    assert edgenode("tasks", "answer", ASKING_ID, "blue", "--text", state=node.state).exit_code == 0
    assert edgenode("tasks", "answer", ASKING_ID, "3", "--key", "size", state=node.state).exit_code == 0
    assert [(answer.key, answer.answer.data) for answer in node.tasks.answers] == [
        ("colour", b'"blue"'),
        ("size", b"3"),
    ]
    result = edgenode("tasks", "answer", DONE_ID, "1", state=node.state)
    assert (result.exit_code, last_line(result.stderr)) == (1, "reason: NO_INPUT_REQUESTED (exit 1)")


def test_publish(edgenode: Run, node: FakeNode) -> None:
    result = edgenode("publish", "device.cpu", '{"load": 0.5}', "--key", "a", state=node.state)
    assert (result.exit_code, result.stdout) == (0, "published 1 to device.cpu: DURABLE_LOCAL\n")
    (message,) = node.messages.published
    assert (message.topic, message.key, message.payload) == ("device.cpu", "a", b'{"load": 0.5}')


def test_publish_lines(edgenode: Run, node: FakeNode) -> None:
    lines = "".join(f"{number}\n" for number in range(3000)) + "\nlast"
    result = edgenode("publish", "t", "--lines", "--text", "-o", "json", state=node.state, stdin=lines)
    assert result.exit_code == 0, result.stderr
    assert json.loads(result.stdout)["count"] == 3001
    assert [message.payload for message in node.messages.published] == [
        *(f'"{number}"'.encode() for number in range(3000)),
        b'"last"',
    ]


def test_publish_to_the_hub_while_it_is_away(edgenode: Run, node: FakeNode) -> None:
    assert edgenode("publish", "t", "1", "--level", "durable_hub", state=node.state).exit_code == 0
    node.messages.hub_reached = False
    result = edgenode("publish", "t", "1", "--level", "durable_hub", "--timeout", "50ms", state=node.state)
    assert result.exit_code == 6
    assert "stored here (DURABLE_LOCAL), but not at the hub within 0.05 s" in result.stderr


def test_publish_wants_one_source(edgenode: Run, node: FakeNode) -> None:
    assert edgenode("publish", "t", state=node.state).exit_code == 2
    assert edgenode("publish", "t", "1", "--lines", state=node.state).exit_code == 2
    assert node.messages.published == []


def test_subscribe(edgenode: Run, node: FakeNode) -> None:
    result = edgenode("subscribe", "device.>", "--from", "start", "--name", "me", "--count", "2", state=node.state)
    assert result.exit_code == 0, result.stderr
    assert [line.split("  ", 1)[1] for line in result.stdout.splitlines()] == [
        'north/3  device.cpu  {"load":0.5}',
        "north/4  device.cpu  \N{REPLACEMENT CHARACTER}[2Jtext",
    ]
    assert result.stderr == "messages 1 to 2 are gone: RETENTION\n"
    assert node.messages.ended.wait(10)
    assert node.messages.acked == 4


def test_subscribe_json(edgenode: Run, node: FakeNode) -> None:
    result = edgenode("subscribe", "device.>", "--count", "3", "-o", "json", state=node.state)
    payloads = [json.loads(line)["payload"] for line in result.stdout.splitlines()]
    assert payloads == [{"load": 0.5}, "\x1b[2Jtext", {"base64": "/wA="}]


def test_dead_letters(edgenode: Run, node: FakeNode) -> None:
    assert "HANDLER_FAILED: boom" in edgenode("deadletters", state=node.state).stdout
    result = edgenode("deadletters", "replay", "4", state=node.state)
    assert result.stdout == f"1 submitted again\n{PARKED_ID}\n"
    assert list(node.admin.replayed[0].dead_letter_ids) == [4]
    assert edgenode("deadletters", "drop", "--all", "--reason", "OBSOLETE", state=node.state).stdout == "1 dropped\n"
    assert (node.admin.dropped[0].all, node.admin.dropped[0].reason) == (True, "OBSOLETE")
    shown = edgenode("deadletters", "show", "4", state=node.state).stdout
    assert '{"path":"x"}' in shown
    assert "HANDLER_FAILED: boom" in shown
    assert edgenode("deadletters", "show", "5", state=node.state).exit_code == 3
    assert edgenode("deadletters", "drop", state=node.state).exit_code == 2
    assert edgenode("deadletters", "replay", "4", "--all", state=node.state).exit_code == 2


def test_status(edgenode: Run, node: FakeNode) -> None:
    result = edgenode("status", state=node.state)
    assert result.exit_code == 0
    assert "waiting to hub:7443" in result.stdout
    assert "next try in 4.2s; UNREACHABLE: connection refused" in result.stdout
    assert "1.5 KiB of 1.0 GiB" in result.stdout
    assert result.stdout.splitlines()[-1].split() == ["message", "up", "12", "9", "3", "2.0", "KiB", "1m15s", "E"]


def test_status_degraded(edgenode: Run, node: FakeNode) -> None:
    node.admin.health = "degraded"
    result = edgenode("status", "-o", "json", state=node.state)
    assert result.exit_code == 7
    assert json.loads(result.stdout)["health_reasons"] == ["the store is full"]


def test_ledger(edgenode: Run, node: FakeNode) -> None:
    result = edgenode("ledger", state=node.state)
    assert result.exit_code == 0
    assert "RETENTION=1" in result.stdout
    node.admin.balanced = False
    result = edgenode("ledger", state=node.state)
    assert result.exit_code == 1
    assert last_line(result.stderr) == "reason: LEDGER_UNBALANCED (exit 1)"


def test_config_show(edgenode: Run, tmp_path: Path) -> None:
    (tmp_path / "edgenode.toml").write_text("node = 'north'\n")
    env = {"EDGENODE_LEASE_SECONDS": "3s"}
    shown = json.loads(edgenode("config", "show", "-o", "json", state=tmp_path, env=env).stdout)
    assert (shown["node"], shown["lease_seconds"]) == ("north", 3.0)
    text = edgenode("config", "show", "--explain", state=tmp_path, env=env).stdout
    assert f"{tmp_path}/edgenode.toml:1" in text
    assert "environment EDGENODE_LEASE_SECONDS" in text
    assert "flag --state " in text


@pytest.mark.parametrize(
    ("place", "hint"),
    [
        ("agent.py", "expected FILE:NAME"),
        ("none.py:agent", "expected FILE:NAME"),
        ("agent.py:missing", "it has: agent"),
        ("agent.py:other", "it has: agent"),
        ("empty.py:agent", "it makes no Agent"),
        ("notes.txt:agent", "its name must end in .py"),
    ],
)
def test_agent_run_refuses(
    edgenode: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, place: str, hint: str
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(str(tmp_path))  # undone at the end, with what the command adds
    Path("agent.py").write_text("from edgenode.sdk import Agent\nagent = Agent('greeter')\nother = 3\n")
    Path("empty.py").write_text("")
    Path("notes.txt").write_text("")
    result = edgenode("agent", "run", place, state=tmp_path)
    assert result.exit_code == 2
    assert hint in result.stderr
    assert last_line(result.stderr) == "reason: BAD_AGENT (exit 2)"


def test_join_with_a_bad_token(edgenode: Run, tmp_path: Path) -> None:
    result = edgenode("join", "--hub", "127.0.0.1:1", "--token", "x", state=tmp_path)
    assert (result.exit_code, last_line(result.stderr)) == (2, "reason: BAD_TOKEN (exit 2)")
    assert edgenode("join", state=tmp_path).exit_code == 2


def test_ledger_verify(edgenode: Run, node: FakeNode) -> None:
    result = edgenode("ledger", "verify", state=node.state)
    assert (result.exit_code, result.stdout) == (0, "everything adds up: 12 entries looked at\n")
    node.admin.balanced = False
    result = edgenode("ledger", "verify", state=node.state)
    assert result.exit_code == 1
    assert result.stdout.splitlines()[1].split()[:5] == ["messages", "-", "6-8", "HOLE", "E"]
    assert "error: 1 findings: HOLE in messages 6-8" in result.stderr
    assert json.loads(edgenode("ledger", "verify", "-o", "json", state=node.state).stdout)["finding_count"] == 1
