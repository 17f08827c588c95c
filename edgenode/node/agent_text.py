"""Free-text search over the agents of this node, by SQLite's FTS5.

The index is a temporary table of the store's connection, made when the first question comes: most nodes are never asked,
the registry in memory is the truth, and a table in memory costs no fsync for each registration. Changes are noted and
written before the next question. A connection that was opened anew has no such table, so the index is made again.
"""

from __future__ import annotations

import re
import sqlite3
from collections.abc import Mapping, Sequence

from edgenode.link.errors import InvalidArgument
from edgenode.link.store.database import Database
from edgenode.node.registry import AgentRegistry, LocalAgent

MAX_WORDS = 32
_WORD = re.compile(r"\w+")
_Row = tuple[str, str, str]


class AgentText:
    """Relevance of agents to a text."""

    def __init__(self, database: Database, registry: AgentRegistry) -> None:
        self._database = database
        self._registry = registry
        self._changed: set[str] = set()
        registry.on_change(self._changed.add)

    async def scores(self, text: str) -> dict[str, float]:
        """Agents (by resource name) with any word of `text` in name, descriptions or tags, and their relevance in (0, 1].

        Words match by stem and by beginning. Raises InvalidArgument (BAD_QUERY) for a text without words.
        """
        words = _WORD.findall(text.lower())[:MAX_WORDS]
        if not words:
            raise InvalidArgument("BAD_QUERY", f"query is {text[:80]!r}", hint="give at least one word", field="query")
        expression = " OR ".join(f'"{word}"*' for word in words)
        found = await self._ask(expression, self._changes())
        if found is None:
            self._changed.clear()
            found = await self._ask(expression, {agent.name: _row(agent) for agent in self._registry.all()}, anew=True)
        best = min((rank for _, rank in found or ()), default=0.0)
        return {name: rank / best if best else 1.0 for name, rank in found or ()}

    def _changes(self) -> dict[str, _Row | None]:
        changes: dict[str, _Row | None] = {}
        for name in self._changed:
            agent = self._registry.get(name)
            changes[name] = None if agent is None else _row(agent)
        self._changed.clear()
        return changes

    async def _ask(
        self, expression: str, changes: Mapping[str, _Row | None], *, anew: bool = False
    ) -> Sequence[tuple[str, float]] | None:
        """(resource name, rank) of what matches; a lower rank is better. None: there is no index yet."""

        def run(connection: sqlite3.Connection) -> Sequence[tuple[str, float]] | None:
            if anew:
                connection.execute("DROP TABLE IF EXISTS temp.agent_text")
                connection.execute(
                    "CREATE VIRTUAL TABLE temp.agent_text USING"
                    " fts5(name UNINDEXED, resource UNINDEXED, title, body, tokenize = 'porter unicode61')"
                )
            elif not connection.execute("SELECT 1 FROM temp.sqlite_master WHERE name = 'agent_text'").fetchone():
                return None
            for name, row in changes.items():
                connection.execute("DELETE FROM temp.agent_text WHERE name = ?", (name,))
                if row is not None:
                    connection.execute("INSERT INTO temp.agent_text VALUES (?, ?, ?, ?)", (name, *row))
            return connection.execute(
                "SELECT resource, bm25(agent_text, 0, 0, 4, 1) FROM temp.agent_text WHERE agent_text MATCH ?",
                (expression,),
            ).fetchall()

        try:
            return await self._database.read(run)
        except BaseException:
            # What was noted may not have been written: it comes again with the next question.
            self._changed.update(changes)
            raise


def _row(agent: LocalAgent) -> _Row:
    card = agent.card
    title = [agent.name, *(f"{skill.id} {skill.name} {' '.join(skill.tags)}" for skill in card.skills)]
    body = [card.description, *(skill.description for skill in card.skills)]
    return agent.resource, " ".join(title), " ".join(body)
