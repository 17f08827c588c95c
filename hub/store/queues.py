"""A queue of waiting tasks as one line of text: the priority upside down first, so that lines sort by it."""

from __future__ import annotations

from functools import lru_cache

import msgspec

from edgenode.link.protocol.scheduler import Demand
from hub.store.records import WaitKey

_FORM = tuple[int, str, str, str, float | None]


@lru_cache(maxsize=4096)
def queue_text(key: WaitKey) -> str:
    """The line for a queue."""
    demand = key.demand
    return msgspec.json.encode(
        (9 - key.priority, demand.skill, demand.selector, demand.agent, demand.cost_limit)
    ).decode()


@lru_cache(maxsize=4096)
def queue_key(text: str) -> WaitKey:
    """The queue of a line."""
    upside_down, skill, selector, agent, cost_limit = msgspec.json.decode(text, type=_FORM)
    return WaitKey(Demand(skill, selector, agent, cost_limit), 9 - upside_down)
