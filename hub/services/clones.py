"""Two processes with one identity: found out, kept out, and let in again.

Every process of a node has a boot id of its own, and a node has one process at a time: what holds its state directory
locks it. So a boot id that speaks again after another one was admitted belongs to a second state directory with the same
identity: a copy. A restart, a reconnect, a move to another channel, a process that was paused, and a state restored from a
backup never look like that, because whoever was outdated there never speaks again.

Speaking means now: bytes of a process that has died since may have been held up on the way. So the outdated process is
refused with a challenge (OUTDATED_PROCESS), and only one that repeats the challenge in its next greeting lives. Meanwhile
the session of the other one is not touched.

Nobody but the operator can know which of the two is the right one, and both may hold work. So both are kept out
(CLONED_IDENTITY), here, in `enrollment`, where their certificates are looked at: no link and no renewal until one of them
joins anew with a token, which outdates the certificate of the other, or the node is released after the other was ended.
What they have accepted stays in their stores; its keys cannot collide, since each process appends under epochs of its own.
A released node whose processes both live still is found out again.

Two copies that are never up at the same time are one node to the hub, as far as their certificates go: the first renewal
of either makes the other STALE_GENERATION.
"""

from __future__ import annotations

import logging
from collections.abc import Callable

from edgenode.link.errors import Aborted, EdgenodeError
from edgenode.link.model.frames import Hello
from edgenode.link.model.problem import Problem
from edgenode.link.ports import Clock
from edgenode.link.protocol.events import CHALLENGE
from hub.ca.lifecycle import cloned
from hub.ca.ports import EnrollmentStore
from hub.store.ports import FleetStore

# How soon the outdated process may repeat its challenge.
CHALLENGE_RETRY_SECONDS = 1.0

_log = logging.getLogger(__name__)


class CloneWatch:
    """`new_challenge` gives a random text; `end` ends the session of a node with a problem."""

    def __init__(
        self,
        enrollment: EnrollmentStore,
        fleet: FleetStore,
        clock: Clock,
        new_challenge: Callable[[], str],
        end: Callable[[str, Problem], None],
    ) -> None:
        self._enrollment = enrollment
        self._fleet = fleet
        self._clock = clock
        self._new_challenge = new_challenge
        self._end = end
        self._asked: dict[str, tuple[str, str]] = {}  # boot id and challenge by node

    async def outdated(self, node: str, hello: Hello) -> EdgenodeError:
        """What to refuse the outdated process with that sent `hello`; quarantines the node once the process proved alive."""
        boot_id, challenge = self._asked.get(node, ("", ""))
        if hello.boot_id != boot_id or hello.challenge != challenge:
            asked = self._new_challenge()
            self._asked[node] = hello.boot_id, asked
            return Aborted(
                "OUTDATED_PROCESS",
                f"another process speaks for {node} by now",
                hint="dial again; if both live, the node is quarantined",
                retryable=True,
                retry_after=CHALLENGE_RETRY_SECONDS,
                **{CHALLENGE: asked},
            )
        del self._asked[node]
        await self._enrollment.quarantine(node, self._clock.wall())
        error = cloned(node)
        _log.error("%s is quarantined: the process %s lives and is not the newest", node, hello.boot_id)
        self._end(node, error.problem)
        return error

    async def release(self, node: str) -> bool:
        """Let a node in again, whichever process comes next; whether it was quarantined. Raises NotFound (UNKNOWN_NODE)."""
        released = await self._enrollment.release(node)
        if released:
            await self._fleet.forget_processes(node)
            _log.info("%s is released from quarantine", node)
        return released
