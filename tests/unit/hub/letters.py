"""What the stores need to keep dead letters."""

from __future__ import annotations

from edgenode.link.model.dead_letter import LetterBounds
from hub.services.entries import refused_content, task_letter
from hub.store.dead_letters import LetterKeeper


def keeper(count: int = 1000, size: int = 1 << 20) -> LetterKeeper:
    return LetterKeeper(LetterBounds(count, size), refused_content, task_letter, lambda: 1.0)
