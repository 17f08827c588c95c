"""The hub's stores over one database, with what they are told of the entries they hold."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from edgenode.link.ports import Clock
from edgenode.link.store.database import Database
from edgenode.link.store.retention import Retention
from hub.config import HubConfig
from hub.services.entries import cut_messages, pack, refused_content, retell, task_letter
from hub.store.dead_letters import LetterKeeper, SqliteDeadLetterStore
from hub.store.enrollment import SqliteEnrollmentStore
from hub.store.fleet import SqliteFleetStore
from hub.store.link import SqliteLinkStore
from hub.store.messages import SqliteMessageStore
from hub.store.tasks import SqliteTaskStore


@dataclass(frozen=True, slots=True)
class Stores:
    """All of them; they share the database's transactions, and nothing else."""

    enrollment: SqliteEnrollmentStore
    letters: SqliteDeadLetterStore
    fleet: SqliteFleetStore
    tasks: SqliteTaskStore
    link: SqliteLinkStore
    messages: SqliteMessageStore


def make_stores(
    config: HubConfig, database: Database, clock: Clock, retention: Retention, new_epoch: Callable[[], str]
) -> Stores:
    """Without effects. `retention` is what the logs for nodes keep of what was acknowledged."""
    keeper = LetterKeeper(config.dead_letter_bounds, refused_content, task_letter, clock.wall)
    return Stores(
        enrollment=SqliteEnrollmentStore(database),
        letters=SqliteDeadLetterStore(database, pack(clock)),
        fleet=SqliteFleetStore(database, new_epoch, keeper, retention, retell),
        tasks=SqliteTaskStore(database, pack(clock), new_epoch, keeper),
        link=SqliteLinkStore(database),
        messages=SqliteMessageStore(database, cut_messages, new_epoch),
    )
