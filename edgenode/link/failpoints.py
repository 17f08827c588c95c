"""Places between two steps where a process can be made to die, for tests of what survives that.

EDGENODE_FAILPOINT=NAME[:NTH] in the environment of `edgenode run`, `edgenode join` or `edgehub serve` arms one of them: the
NTH time (the first, if not given) the process comes by, it says so on standard error and sends itself SIGKILL, which nothing
can catch.
Unarmed, a point costs one comparison; it stands in drivers and stores, never in a core.

A point is named for what has happened when it is reached. Whatever the next step is, it has not begun.
"""

from __future__ import annotations

import os
import signal
from enum import Enum
from typing import Final

from edgenode.link.errors import InvalidArgument

VARIABLE: Final = "EDGENODE_FAILPOINT"


class Failpoint(Enum):
    """Every point, by room."""

    # The store, of edge and hub. The commit points are passed by every write.
    STORE_OPENED = "store-opened"  # the file is there; nothing was read of it
    STORE_MIGRATING = "store-migrating"  # the schema is made, inside the transaction
    STORE_READY = "store-ready"  # the schema is committed
    STORE_QUARANTINED = "store-quarantined"  # a damaged file was moved aside, the new one is not made
    COMMIT_BEGUN = "commit-begun"  # the functions of a transaction have run, nothing is committed
    COMMIT_DONE = "commit-done"  # it is committed, nobody was told
    CHECKPOINT_DUE = "checkpoint-due"  # the WAL is full
    CHECKPOINT_DONE = "checkpoint-done"  # it was copied into the file
    VACUUM_DUE = "vacuum-due"  # there are free pages to give back
    VACUUM_DONE = "vacuum-done"  # some were given back
    STORE_CLOSING = "store-closing"  # the last write is committed, the file is open

    # The link, of both ends.
    LINK_ADMITTED = "link-admitted"  # hub: the node's fence is raised, it was not welcomed
    LINK_ESTABLISHED = "link-established"  # both have greeted
    BATCH_READ = "batch-read"  # entries were read from a log, not sent
    BATCH_SENT = "batch-sent"  # the transport took them
    BATCH_RECEIVED = "batch-received"  # entries came, the store does not know
    BATCH_COMMITTED = "batch-committed"  # they are committed with the cursor, nobody was told
    ACK_DUE = "ack-due"  # an acknowledgement waits for the writer
    ACK_SENT = "ack-sent"  # the transport took it
    ACK_RECEIVED = "ack-received"  # an acknowledgement came, the outbox does not know
    OUTBOX_ACKNOWLEDGED = "outbox-acknowledged"  # it is committed, and a first stretch trimmed; nobody was told
    OUTBOX_TRIMMED = "outbox-trimmed"  # all of what it frees is deleted
    EPOCH_RENEWED = "epoch-renewed"  # a log has a new epoch, the greeting does not say so yet
    REGISTRY_RECEIVED = "registry-received"  # hub: a delta came, the store does not know
    REGISTRY_COMMITTED = "registry-committed"  # hub: it is committed, the session does not know

    # The edge.
    BOOT_COUNTED = "boot-counted"  # start: the store knows of this start
    ROOMS_MADE = "rooms-made"  # start: everything is read, nobody can connect
    NODE_SERVING = "node-serving"  # start: agents can connect, the link is not dialed
    PUBLISH_COMMITTED = "publish-committed"  # messages are stored, their publishers do not know
    PUBLISH_ACKED = "publish-acked"  # a publisher was told
    SUBMIT_COMMITTED = "submit-committed"  # tasks are stored, with their offers; their submitters do not know
    OFFER_COMMITTED = "offer-committed"  # a task that was to run here is offered to the hub
    HANDOVER_NOTED = "handover-noted"  # work that must not run twice is noted as handed over, no agent has it
    ASSIGNMENT_SENT = "assignment-sent"  # an agent has work
    RESULT_RECEIVED = "result-received"  # an agent's result came
    OUTCOME_COMMITTED = "outcome-committed"  # the end of a task is stored, nobody was told
    RESULT_CONFIRMED = "result-confirmed"  # the agent was told that its result is stored
    ENTRIES_COMMITTED = "entries-committed"  # grants and reports of the hub are stored, memory does not follow yet
    RETURN_COMMITTED = "return-committed"  # a granted task is given back, in the store
    CANCEL_COMMITTED = "cancel-committed"  # a cancellation is stored, nobody was told
    SUBSCRIPTION_ACKED = "subscription-acked"  # edge and hub: a subscriber's position is stored
    AGENT_COMMITTED = "agent-committed"  # a registration is stored, the registry does not know
    BLOB_WRITTEN = "blob-written"  # content is whole and synced under another name
    BLOB_RENAMED = "blob-renamed"  # it has its name, the directory was not synced
    BLOB_COMMITTED = "blob-committed"  # the store knows of it, whoever put it was not told
    NODE_DRAINED = "node-drained"  # stop: nothing runs any more, streams and link are up

    # Certificates of an edge.
    PENDING_KEY_WRITTEN = "pending-key-written"  # the new key is on disk, the hub was not asked
    RENEWAL_ANSWERED = "renewal-answered"  # the hub has answered, nothing of that is on disk
    CREDENTIAL_WRITTEN = "credential-written"  # key and certificate are on disk, the identity points at the old ones
    IDENTITY_WRITTEN = "identity-written"  # the identity points at the new ones, the old ones are there
    FILE_WRITTEN = "file-written"  # a private file's new content is on disk under another name
    FILE_RENAMED = "file-renamed"  # it has its name, the directory was not synced

    # The hub.
    HUB_RESTORED = "hub-restored"  # start: the fleet is read, nothing is granted
    HUB_SERVING = "hub-serving"  # start: edges can connect, the local socket does not stand
    MESSAGES_COMMITTED = "messages-committed"  # messages of an edge are stored, subscribers do not know
    TASKS_COMMITTED = "tasks-committed"  # a change of tasks is stored, memory does not follow yet
    GRANT_COMMITTED = "grant-committed"  # tasks are given to nodes, the links do not know
    JOIN_COMMITTED = "join-committed"  # a certificate was issued for a token, the answer is not sent
    RENEWAL_COMMITTED = "renewal-committed"  # a certificate was renewed, the answer is not sent
    HUB_DRAINED = "hub-drained"  # stop: the links are closed, the listeners are not


# A process dies once, so one point of it is armed at most.
_armed: Failpoint | None = None
_left = 0


def arm_from_environment() -> None:
    """Arm what EDGENODE_FAILPOINT says. Raises InvalidArgument (BAD_FAILPOINT)."""
    arm(os.environ.get(VARIABLE, ""))


def arm(text: str) -> None:
    """Arm `NAME` or `NAME:NTH`; empty: nothing. Raises InvalidArgument (BAD_FAILPOINT)."""
    global _armed, _left
    name, _, nth = text.partition(":")
    try:
        _armed, _left = (Failpoint(name), int(nth or "1")) if text else (None, 0)
    except ValueError as error:
        raise InvalidArgument(
            "BAD_FAILPOINT", f"{VARIABLE} is {text!r}: {error}", hint="NAME or NAME:NTH; unset it outside of tests"
        ) from error


def reach(point: Failpoint) -> None:
    """The process has come to `point`; if that is the one armed, and it is time, it does not come back."""
    if point is not _armed:
        return
    global _left
    _left -= 1
    if _left == 0:
        os.write(2, f"failpoint {point.value} reached\n".encode())
        os.kill(os.getpid(), signal.SIGKILL)


def watching(point: Failpoint) -> bool:
    """Whether `point` is armed, for places that have to look whether they come by it."""
    return point is _armed
