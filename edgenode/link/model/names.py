"""Names of nodes, agents, skills and topics, and ids. Anything outside these forms is refused at the door."""

from __future__ import annotations

import re
from functools import lru_cache

from edgenode.link.errors import InvalidArgument

_NAME = re.compile(r"[a-z0-9](?:[a-z0-9-]{0,61}[a-z0-9])?")
_SKILL = re.compile(r"[a-z0-9][a-z0-9._-]{0,127}")
_LABEL = re.compile(r"[A-Za-z0-9._/-]{1,63}")
_TOKEN = re.compile(r"[A-Za-z0-9._-]{1,64}")
_TOPIC = re.compile(r"[a-z0-9_-]+(?:\.[a-z0-9_-]+)*")
_TOPIC_PATTERN = re.compile(r"(?:[a-z0-9_-]+|\*)(?:\.(?:[a-z0-9_-]+|\*))*(?:\.>)?|>")
MAX_TOPIC_LENGTH = 200
MAX_TREE_DEPTH = 8  # hubs from the root of a tree down to the lowest

_CROCKFORD = "0123456789ABCDEFGHJKMNPQRSTVWXYZ"
_PAIRS = tuple(first + second for first in _CROCKFORD for second in _CROCKFORD)  # ten bits at a time


def _check(pattern: re.Pattern[str], value: str, field: str, expected: str, reason: str) -> str:
    if pattern.fullmatch(value) is None:
        shown = value if len(value) <= 80 else value[:80] + "..."
        raise InvalidArgument(reason, f"{field} is {shown!r}", hint=f"expected {expected}", field=field)
    return value


def check_name(value: str, field: str) -> str:
    """A node's, agent's or subscription's name; returns it. Raises InvalidArgument (BAD_NAME) naming `field`."""
    return _check(_NAME, value, field, "1-63 of a-z, 0-9 and '-', not first or last", "BAD_NAME")


@lru_cache(1024)
def check_skill(value: str, field: str = "skill") -> str:
    """A skill's id; returns it. Raises InvalidArgument (BAD_NAME)."""
    return _check(_SKILL, value, field, "1-128 of a-z, 0-9, '.', '_' and '-', e.g. code.metrics", "BAD_NAME")


def check_label(value: str, field: str) -> str:
    """A label's key or value; returns it. Raises InvalidArgument (BAD_LABEL)."""
    return _check(_LABEL, value, field, "1-63 of letters, digits, '.', '_', '/' and '-'", "BAD_LABEL")


def check_token(value: str, field: str) -> str:
    """An instance, producer or request id; returns it. Raises InvalidArgument (BAD_NAME)."""
    return _check(_TOKEN, value, field, "1-64 of letters, digits, '.', '_' and '-'", "BAD_NAME")


def check_topic(value: str, field: str = "topic") -> str:
    """A topic; returns it. Raises InvalidArgument (BAD_TOPIC)."""
    if len(value) > MAX_TOPIC_LENGTH:
        raise InvalidArgument("BAD_TOPIC", f"{field} has {len(value)} characters", hint="at most 200", field=field)
    return _check(_TOPIC, value, field, "words of a-z, 0-9, '_' and '-' joined by '.'", "BAD_TOPIC")


def topic_matcher(patterns: list[str] | tuple[str, ...]) -> re.Pattern[str]:
    """A regular expression whose `fullmatch` tells whether a topic is one of `patterns` (`*` one word, final `>` the rest).

    Raises InvalidArgument (BAD_TOPIC) for a malformed or missing pattern.
    """
    if not patterns:
        raise InvalidArgument("BAD_TOPIC", "no topics", hint="name at least one, e.g. device.>", field="topics")
    parts = []
    for pattern in patterns:
        _check(
            _TOPIC_PATTERN, pattern, "topics", "a topic, with * for one word and a final > for the rest", "BAD_TOPIC"
        )
        words = pattern.split(".")
        rest = words[-1] == ">"
        fixed = [r"[^.]+" if word == "*" else re.escape(word) for word in (words[:-1] if rest else words)]
        parts.append(r"\.".join([*fixed, ".+"] if rest else fixed))
    return re.compile("|".join(f"(?:{part})" for part in parts))


def check_node_path(value: str, field: str) -> str:
    """A node's name or, for one below a hub, names down the tree (`berlin/north`); returns it.

    Raises InvalidArgument (BAD_NAME).
    """
    parts = value.split("/")
    if len(parts) > MAX_TREE_DEPTH:
        raise InvalidArgument(
            "BAD_NAME",
            f"{field} lies below {len(parts) - 1} hubs",
            hint=f"a tree has at most {MAX_TREE_DEPTH} hubs one below the other",
            field=field,
        )
    for part in parts:
        check_name(part, field)
    return value


def agent_resource(node: str, agent: str) -> str:
    """`nodes/{node}/agents/{agent}`."""
    return f"nodes/{node}/agents/{agent}"


def below(hub: str, resource: str) -> str:
    """What the parent of `hub` calls the agent that `hub` calls `resource`: `nodes/berlin/north/agents/camera`."""
    return f"nodes/{hub}/{resource.removeprefix('nodes/')}"


def seen_from(hub: str, resource: str) -> str:
    """What `hub` calls the agent that its parent calls `resource`; one that is not below it keeps the parent's name."""
    prefix = f"nodes/{hub}/"
    inside = resource.removeprefix(prefix)
    # `nodes/berlin/agents/camera` is an agent of a node, not of something below it.
    return f"nodes/{inside}" if resource.startswith(prefix) and inside.count("/") > 1 else resource


def parse_agent_resource(name: str, default_node: str, field: str = "name") -> tuple[str, str]:
    """(node, agent) of `nodes/{node}/agents/{agent}` or of an agent's bare name; a node below a hub has a path for a name.

    Raises InvalidArgument (BAD_NAME).
    """
    parts = name.split("/")
    if len(parts) == 1:
        return default_node, check_name(name, field)
    if len(parts) >= 4 and parts[0] == "nodes" and parts[-2] == "agents":
        return check_node_path("/".join(parts[1:-2]), field), check_name(parts[-1], field)
    raise InvalidArgument("BAD_NAME", f"{field} is {name!r}", hint="expected nodes/NODE/agents/AGENT", field=field)


def make_id(wall_time: float, entropy: int) -> str:
    """A 26-character id that sorts by time: 48 bits of milliseconds, 80 bits of `entropy` (the ULID form)."""
    p = _PAIRS
    return (
        f"{_time_of_id(int(wall_time * 1000))}{p[entropy >> 70 & 1023]}{p[entropy >> 60 & 1023]}{p[entropy >> 50 & 1023]}"
        f"{p[entropy >> 40 & 1023]}{p[entropy >> 30 & 1023]}{p[entropy >> 20 & 1023]}{p[entropy >> 10 & 1023]}"
        f"{p[entropy & 1023]}"
    )


@lru_cache(8)  # many are made at one time
def _time_of_id(milliseconds: int) -> str:
    return "".join([_PAIRS[milliseconds >> shift & 1023] for shift in range(40, -1, -10)])
