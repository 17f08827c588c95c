"""Agents, tasks, lanes and ledgers as tables. Rows come from `plain`; ages count from `now`, wall-clock seconds."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

from edgenode.link.model.task import TaskState
from edgenode.link.terminal.output import Column, Row, clean, col, facts, human_bytes, human_seconds, table

Plain = Mapping[str, Any]


def age_from(now: float) -> Callable[[float], str]:
    """Shows a wall-clock time as its age."""
    return lambda time: human_seconds(max(0.0, now - time))


def agents_table(agents: Sequence[Plain], now: float) -> str:
    """Agents, one a line."""
    return table(agents, _agent_columns(now), empty="no agents")


def _agent_columns(now: float) -> list[Column]:
    return [
        col("agent", "name", short_agent),
        Column("health", lambda agent: agent["runtime"]["health"] or "-"),
        Column(
            "load", lambda agent: f"{agent['runtime']['in_flight_count']}/{agent['runtime']['capacity_count']}", True
        ),
        Column("queued", lambda agent: agent["runtime"]["queue_depth_count"], True),
        Column("latency", lambda agent: _maybe(agent["runtime"]["latency_duration"], human_seconds), True),
        Column("seen", lambda agent: _maybe(agent["runtime"]["observed_time"], age_from(now)), True),
        Column("skills", lambda agent: ", ".join(skill["id"] for skill in agent["card"]["skills"]) or "-"),
        Column("labels", lambda agent: _pairs(agent["runtime"]["labels"]) or "-"),
    ]


def find_text(answer: Plain, now: float) -> str:
    """Candidates with their reasons, who was left out, and whether the hub was asked."""
    parts = [
        table(
            [{"candidate": candidate, "rank": rank} for rank, candidate in enumerate(answer["candidates"], 1)],
            [
                col("rank", right=True),
                Column("agent", lambda row: short_agent(row["candidate"]["agent"]["name"])),
                Column("score", lambda row: f"{row['candidate']['score']:.3f}", True),
                Column("stale", lambda row: _maybe(row["candidate"]["staleness_duration"], human_seconds), True),
                Column("why", lambda row: "; ".join(row["candidate"]["reasons"]) or "-"),
            ],
            empty="no agent fits",
        )
    ]
    if answer["exclusions"]:
        columns = [col("left out", "name", short_agent), col("reason"), col("detail")]
        parts.append(table(answer["exclusions"], columns))
    return "\n\n".join(parts)


def tasks_table(tasks: Sequence[Plain], now: float) -> str:
    """Tasks, one a line."""
    columns = [
        col("task", "task_id"),
        Column("skill", lambda task: task["spec"]["skill"]),
        col("state"),
        col("tries", "attempt_count", right=True),
        col("age", "submit_time", age_from(now), True),
        col("changed", "update_time", age_from(now), True),
        col("agent", form=short_agent),
        Column("why", _why),
    ]
    return table(tasks, columns, empty="no tasks")


def task_text(task: Plain, now: float) -> str:
    """One task, a fact a line."""
    spec, age = task["spec"], age_from(now)
    question = task["input_request"]
    return facts(
        [
            ("task", task["task_id"]),
            ("skill", spec["skill"]),
            ("state", standing(task)),
            ("why", _why(task) if task["problem"] or task["state_reason"] else None),
            ("level", task["level"]),
            ("agent", task["agent"]),
            ("progress", progress_text(task["progress"])),
            ("question", question and f"{question['prompt']} (key {question['key']})"),
            ("attempts", task["attempt_count"]),
            ("submitted", f"{age(task['submit_time'])} ago" if task["submit_time"] else None),
            ("changed", f"{age(task['update_time'])} ago" if task["update_time"] else None),
            (
                "next attempt",
                task["next_attempt_time"] and f"in {human_seconds(max(0.0, task['next_attempt_time'] - now))}",
            ),
            ("deadline", spec["deadline_time"] and f"in {human_seconds(spec['deadline_time'] - now)}"),
            ("origin", task["origin_node"]),
            ("holder", task["holder_node"]),
            ("fence", task["fence"] or None),
            ("priority", spec["priority"]),
            ("scope", spec["scope"]),
            ("selector", spec["selector"]),
            ("context", spec["context_id"]),
            ("key", spec["idempotency_key"]),
            ("replay of", task["replay_of_task_id"]),
            ("output", task["output"] and payload_text(task["output"]["data"])),
        ]
    )


def standing(task: Plain) -> str:
    """Where a task stands, in a word or three."""
    state = str(task["state"])
    ended = state in TaskState.__members__ and TaskState[state].terminal
    return f"{state}, cancellation requested" if task["cancel_requested"] and not ended else state


def progress_text(progress: Plain | None) -> str:
    """`40 % third page`; empty where nothing was said."""
    if progress is None:
        return ""
    share = "" if progress["fraction"] is None else f"{progress['fraction']:.0%} "
    return f"{share}{progress['message']}".strip()


def payload_text(value: object) -> str:
    """A payload as `plain` gives it, on one line."""
    if isinstance(value, dict):
        return f"base64 {value['base64']}"
    return clean(str(value))


def link_text(link: Plain | None, now: float) -> str:
    """How the link to the parent is; empty where there is none."""
    if link is None or not link["parent"]:
        return ""
    text = f"{link['state']} to {link['parent']}"
    if link["state_time"]:
        text += f" for {human_seconds(max(0.0, now - link['state_time']))}"
    if link["next_dial_duration"]:
        text += f", next try in {human_seconds(link['next_dial_duration'])}"
    problem = link["last_problem"]
    if problem and link["state"] != "established":
        text += f"; {problem['reason']}: {problem['message']}"
    return text


def lanes_table(lanes: Sequence[Plain]) -> str:
    """Lanes of a link, one a line."""
    columns = [
        col("lane", form=str),
        col("way", "direction"),
        col("last", "last_sequence", right=True),
        col("acked", "acked_sequence", right=True),
        col("pending", "pending_count", right=True),
        col("bytes", "pending_bytes", human_bytes, True),
        col("oldest", "oldest_age_duration", human_seconds, True),
        col("epoch"),
    ]
    return table(lanes, columns, empty="no lanes")


def store_text(shown: Plain) -> str:
    """What a store has of what it may have, and each lane of it."""
    total = f"{human_bytes(shown['store_bytes'])} of {human_bytes(shown['store_limit_bytes'])}"
    lanes = [
        f"{usage['lane']}s {human_bytes(usage['used_bytes'])} of {human_bytes(usage['limit_bytes'])}"
        for usage in shown["lane_usages"]
    ]
    return f"{total} ({', '.join(lanes)})" if lanes else total


def ledger_table(lines: Sequence[Plain]) -> str:
    """The counts of every hop and whether they add up."""
    columns = [
        col("hop"),
        col("peer"),
        col("produced", "produced_count", right=True),
        col("delivered", "delivered_count", right=True),
        col("pending", "pending_count", right=True),
        col("dead", "dead_lettered_count", right=True),
        Column("dropped", lambda line: sum(line["dropped_counts"].values()), True),
        col("again", "duplicate_count", right=True),
        Column("adds up", lambda line: "yes" if line["balanced"] else "NO"),
        Column("why dropped", lambda line: _pairs(line["dropped_counts"]) or "-"),
    ]
    return table(lines, columns, empty="no hops yet")


def short_agent(name: str) -> str:
    """`north/camera` for `nodes/north/agents/camera`, `berlin/north/camera` where the node is below a hub."""
    parts = name.split("/")
    return "/".join([*parts[1:-2], parts[-1]]) if len(parts) >= 4 else name


def counts_text(counts: Mapping[str, int]) -> str:
    """`3 ready, 1 draining`; `none` where there is nothing."""
    return ", ".join(f"{count} {name.lower()}" for name, count in counts.items() if count) or "none"


def _why(row: Row) -> str:
    problem = row["problem"]
    if problem:
        return f"{problem['reason']}: {problem['message']}"
    return row["state_reason"] or "-"


def _maybe(value: float | None, form: Callable[[float], str]) -> str:
    return "-" if value is None else form(value)


def _pairs(values: Mapping[str, object] | Iterable[Any]) -> str:
    return ",".join(f"{key}={value}" for key, value in dict(values).items())
