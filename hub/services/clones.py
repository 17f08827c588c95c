"""Two processes with one identity: found out, kept out, and let in again.

Every process of a node has a boot id of its own, and a node has one process at a time: what holds its state directory
locks it. So a boot id that speaks again after another one was admitted belongs to a second state directory with the same
identity: a copy. A restart, a reconnect, a move to another channel, a process that was paused, and a state restored from a
backup never look like that, because whoever was outdated there never speaks again.

Speaking means now: bytes of a process that has died since may have been held up on the way, so a greeting alone proves
nothing, of either of the two.
- The outdated process is refused with a challenge (OUTDATED_PROCESS), and only one that repeats the challenge in its next
  greeting lives. Meanwhile the session of the other one is not touched.
- The newest process lives if it said anything after it was let in; a process that got its Welcome does at once. One that
  never did may have died before its successor started, its greeting overtaken by that of its successor. Then the one that
  proved alive is the newest from here on, and known to live; the other one is outdated and must prove itself.
So a node is quarantined when each of the two was heard after the hub had let the other one in: both were up at the same
time. Two that live change places once at most before that is known.

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

from edgenode.link.errors import Aborted
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
        self._answered: dict[str, str] = {}  # by node the boot id that was last heard after it was let in

    def answered(self, node: str, boot_id: str) -> None:
        """The newest process of a node said something after it was let in."""
        self._answered[node] = boot_id

    async def outdated(self, node: str, newest: str, hello: Hello) -> None:
        """The outdated process that sent `hello` came; returns if it is to be let in as the newest.

        Raises Aborted (OUTDATED_PROCESS), and PermissionDenied (CLONED_IDENTITY) once it is known that `newest`, the boot
        id of the process that was let in last, and this one both live: the node is quarantined then.
        """
        boot_id, challenge = self._asked.get(node, ("", ""))
        if hello.boot_id != boot_id or hello.challenge != challenge:
            asked = self._new_challenge()
            self._asked[node] = hello.boot_id, asked
            raise Aborted(
                "OUTDATED_PROCESS",
                f"another process speaks for {node} by now",
                hint="dial again; if both live, the node is quarantined",
                retryable=True,
                retry_after=CHALLENGE_RETRY_SECONDS,
                **{CHALLENGE: asked},
            )
        del self._asked[node]
        if not self._newest_lives(node, newest):
            _log.info("%s: the process %s lives, %s never said more than its greeting", node, boot_id, newest)
            await self._fleet.forget_processes(node, boot_id)
            self._answered[node] = boot_id  # by its challenge: it need not say more before the other one is found out
            return
        await self._enrollment.quarantine(node, self._clock.wall())
        error = cloned(node)
        _log.error("%s is quarantined: the process %s lives and is not the newest", node, hello.boot_id)
        self._end(node, error.problem)
        raise error

    def _newest_lives(self, node: str, newest: str) -> bool:
        return self._answered.get(node) == newest

    async def release(self, node: str) -> bool:
        """Let a node in again, whichever process comes next; whether it was quarantined. Raises NotFound (UNKNOWN_NODE)."""
        released = await self._enrollment.release(node)
        if released:
            await self._fleet.forget_processes(node)
            self._answered.pop(node, None)
            _log.info("%s is released from quarantine", node)
        return released
