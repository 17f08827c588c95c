"""Ids of the skills of a mounted server, from the names it gives them.

An id is `{agent}.{name}`, the name in lower case with `-` for what an id cannot hold. Where that makes one id of several
names, the one whose name it is keeps it and the others end in a part of their name's hash: so an id does not depend on what
else is listed, or in which order.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterable

MAX_ID = 128

_OUTSIDE = re.compile(r"[^a-z0-9._-]+")


def skill_ids(names: Iterable[str], agent: str) -> dict[str, str]:
    """The skill's id for each tool's name."""
    same: dict[str, list[str]] = {}
    for name in names:
        same.setdefault(_id(name, agent), []).append(name)
    ids = {}
    for skill, tools in same.items():
        for name in tools:
            keeps = len(tools) == 1 or f"{agent}.{name}" == skill
            ids[name] = skill if keeps else _marked(skill, name)
    return ids


def _id(name: str, agent: str) -> str:
    skill = f"{agent}.{_OUTSIDE.sub('-', name.lower()).strip('-') or 'tool'}"
    return skill if len(skill) <= MAX_ID else _marked(skill, name)


def _marked(skill: str, name: str) -> str:
    return f"{skill[: MAX_ID - 9]}-{hashlib.sha256(name.encode()).hexdigest()[:8]}"
