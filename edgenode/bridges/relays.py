"""Nodes mounted on nodes: a skill goes over one mount, and not over the next.

A node lists what its mounts offer beside what its own agents do. Two nodes that mount each other would list each other's
lists without end, and so would a node that mounts itself, or another of its own fleet. Hence a mount marks what it has from a
node, and takes nothing that is marked over there already: that node has it from a node itself. The mark is one of the skill's
tags, which every protocol carries; no node has to be known by name.
"""

from __future__ import annotations

from collections.abc import Collection

RELAYED = "edgenode:relayed"
_MOST_TAGS = 32  # of a skill


def is_relayed(tags: object) -> bool:
    """Whether a node that lists a skill with these tags has it from another node; whatever else stands there is no mark."""
    return isinstance(tags, Collection) and RELAYED in tags


def marked(tags: Collection[str]) -> list[str]:
    """The tags of a skill that comes from a node."""
    return [*list(tags)[: _MOST_TAGS - 1], RELAYED]
