"""Dead letters: what an entry of a segment is, and the letters' messages."""

from __future__ import annotations

import re
from collections.abc import Sequence

from google.protobuf.message import DecodeError

from edgenode.api.admin.v1 import admin_pb2, admin_service_pb2
from edgenode.api.message.v1 import message_pb2
from edgenode.api.sync.v1 import sync_pb2
from edgenode.api.task.v1 import task_pb2
from edgenode.link.errors import InvalidArgument, NotFound
from edgenode.link.model.dead_letter import ENTRY, TASK, DeadLetter
from edgenode.link.model.lanes import Lane
from edgenode.link.wire import checks
from edgenode.link.wire.values import problem_to_pb, timestamp_to_pb

MAX_IDS = 1000
MAX_PAGE = 1000
NEWEST = 1 << 62
MAX_CONTENT = 1 << 20  # bytes of a letter's content that are shown
ENTRY_TYPE = "application/x-protobuf; messageType=edgenode.api.sync.v1.TaskEntry"
_REASON = re.compile(r"[A-Z][A-Z0-9_]{0,39}")
_ACCOUNTING = frozenset({"ADDED", "REPLAYED", "EVICTED"})


def entry_content(lane: Lane, payload: bytes, place: int) -> tuple[str, str, str, bytes] | None:
    """(kind, subject, task id, bytes) of the entry at `place` of a segment; None where it cannot be read."""
    try:
        if lane is Lane.MESSAGE:
            message = message_pb2.MessageBatch.FromString(payload).messages[place]
            return ENTRY, message.topic, "", message.SerializeToString()
        entry = sync_pb2.TaskEntryBatch.FromString(payload).entries[place]
    except (DecodeError, IndexError):
        return None
    kind = entry.WhichOneof("entry")
    task_id = "" if kind is None else _task_id(getattr(entry, kind))
    subject = entry.offer.spec.skill or entry.grant.spec.skill or kind or ""
    return ENTRY, subject, task_id, entry.SerializeToString()


def _task_id(part: sync_pb2.TaskReport | sync_pb2.TaskOffer) -> str:
    return part.task.task_id if isinstance(part, sync_pb2.TaskReport) else part.task_id


def letter_to_pb(letter: DeadLetter) -> admin_pb2.DeadLetter:
    """The message of a letter."""
    return admin_pb2.DeadLetter(
        dead_letter_id=letter.number,
        kind=letter.kind,
        task_id=letter.task_id,
        subject=letter.subject,
        problem=problem_to_pb(letter.problem),
        dead_letter_time=timestamp_to_pb(letter.time),
        attempt_count=letter.attempts,
        size_bytes=letter.size,
        lane=letter.lane,
        node=letter.node,
    )


def shown(letter: DeadLetter, spec: bytes) -> admin_service_pb2.GetDeadLetterResponse:
    """A letter with its content; `spec` is the TaskSpec of a task's letter, serialised."""
    content, content_type = letter.payload, ENTRY_TYPE
    if letter.kind == TASK:
        task = task_pb2.TaskSpec.FromString(spec)
        content, content_type = task.input, task.content_type
    elif letter.lane == Lane.MESSAGE.name.lower() and letter.subject:
        message = message_pb2.Message.FromString(letter.payload)
        content, content_type = message.payload, message.content_type
    elif not letter.subject:
        content_type = "application/octet-stream"
    return admin_service_pb2.GetDeadLetterResponse(
        dead_letter=letter_to_pb(letter),
        content=content[:MAX_CONTENT],
        content_type=content_type,
        truncated=len(content) > MAX_CONTENT,
    )


def drop_reason(text: str) -> str:
    """Under which reason letters are counted as dropped. Raises InvalidArgument (BAD_REASON)."""
    if text and (_REASON.fullmatch(text) is None or text in _ACCOUNTING):
        raise InvalidArgument(
            "BAD_REASON",
            f"reason is {text[:80]!r}",
            hint="up to 40 of A-Z, 0-9 and _, e.g. OBSOLETE; not one the ledger counts by itself",
            field="reason",
        )
    return text or "DROPPED"


def page_start(token: str) -> int:
    """The number below which a page begins. Raises InvalidArgument (BAD_PAGE_TOKEN)."""
    if not token:
        return NEWEST
    if not (token.isascii() and token.isdigit() and len(token) < 19):
        raise InvalidArgument(
            "BAD_PAGE_TOKEN",
            f"page_token is {token[:40]!r}",
            hint="use the token of the page before",
            field="page_token",
        )
    return int(token)


def chosen(ids: Sequence[int], everything: bool) -> list[int] | None:
    """The letters a request names; None for all of them. Raises InvalidArgument (BAD_SELECTION, TOO_MANY)."""
    if everything == bool(ids):
        raise InvalidArgument(
            "BAD_SELECTION", "name dead letters or ask for all, not both", hint="see the list", field="dead_letter_ids"
        )
    checks.at_most(len(ids), MAX_IDS, "dead_letter_ids")
    return None if everything else list(dict.fromkeys(ids))


def check_known(numbers: Sequence[int] | None, letters: Sequence[DeadLetter]) -> None:
    """Raises NotFound (UNKNOWN_DEAD_LETTER) when one that was named is not kept."""
    missing = set(numbers or ()) - {letter.number for letter in letters}
    if missing:
        raise NotFound(
            "UNKNOWN_DEAD_LETTER",
            f"there is no dead letter {min(missing)}",
            hint="list them to see which are kept",
            dead_letter_id=min(missing),
        )
