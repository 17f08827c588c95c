"""The agents of this node.

Theory of operation. The truth is in memory; what a restart must know (who registered, with what) is a row each, committed
before the caller is answered. After a restart every agent is there, UNREACHABLE until it is heard of: nobody has to
register again just because the node was started anew.

A lease says how long an agent is believed. One timer waits for the next lease to run out; a renewal only notes a time. While
an agent's work stream is open the stream itself is the sign of life: the lease is held, and runs again from its end.
A lease that ran out makes the agent UNREACHABLE and never deletes it: only its owner does that.

Of two instances with one name the higher incarnation wins; the lower is told SUPERSEDED when it next speaks. Changes to
one name are made one after the other, so that row and memory never part; a caller that goes away does not interrupt them.

Each change that others should know of (not lease times, not load) is a version of the `RegistryLog`, which the link sends
up and watchers read. Versions begin at the number of this start times 2^32, so that none is used twice on one store and a
watcher's version from an earlier start is recognised.
"""

from __future__ import annotations

import asyncio
import sqlite3
from collections import Counter
from collections.abc import AsyncIterator, Callable, Collection, Coroutine
from contextlib import asynccontextmanager
from typing import Any, TypeVar

from edgenode.api.registry.v1 import registry_pb2, registry_service_pb2
from edgenode.link import telemetry
from edgenode.link.errors import EdgenodeError, InvalidArgument
from edgenode.link.failpoints import Failpoint, reach
from edgenode.link.model.agent import AgentView, Health
from edgenode.link.ports import Clock
from edgenode.link.protocol.discovery import SkillIndex
from edgenode.link.protocol.lease import LeaseTable
from edgenode.link.protocol.registry import RegistryLog
from edgenode.link.store.database import Database
from edgenode.link.wire.agents import DEFAULT_LEASE, Registration, registration_from_proto
from edgenode.link.wire.values import duration_to_pb, timestamp_to_pb
from edgenode.node.local_agent import LocalAgent as LocalAgent  # part of this room's surface, like the two refusals
from edgenode.node.local_agent import check_takeover, removed_before
from edgenode.node.local_agent import superseded as superseded
from edgenode.node.local_agent import unknown_agent as unknown_agent

SCHEMA = """
CREATE TABLE agent (
    name TEXT PRIMARY KEY,
    instance_id TEXT NOT NULL,
    incarnation INTEGER NOT NULL,
    registration BLOB NOT NULL
) STRICT, WITHOUT ROWID;
"""

VERSION_BITS = 32
# Tombstones wait for the parent's acknowledgement; a node without one forgets them now and then.
MAX_TOMBSTONES = 4096

T = TypeVar("T")
LoadOf = Callable[[str], tuple[int, int, float | None]]

_log = telemetry.logger("node.registry")


def no_load(agent: str) -> tuple[int, int, float | None]:
    """Load of an agent nobody gives work to: none in flight, none queued, no latency."""
    return 0, 0, None


class AgentRegistry:
    """Who is here. Make it, `await load()` once, then use it from the event loop; `close()` at the end."""

    def __init__(
        self,
        database: Database,
        clock: Clock,
        node: str,
        boot_id: str,
        boot_number: int,
        default_lease: float = DEFAULT_LEASE,
    ) -> None:
        """`boot_number` counts the starts on this store, from 1; `default_lease` in seconds."""
        self.node = node
        self._default_lease = default_lease
        self.log = RegistryLog(boot_id, boot_number << VERSION_BITS)
        self.load_of: LoadOf = no_load
        self.on_renewal: Callable[[], None] = lambda: None  # somebody waits for the answer of a renewal
        self._database = database
        self._clock = clock
        self._agents: dict[str, LocalAgent] = {}
        self._index = SkillIndex()
        self._leases: LeaseTable[str] = LeaseTable()
        self._held: Counter[tuple[str, str]] = Counter()  # open work streams of (name, instance)
        self._timer: asyncio.TimerHandle | None = None
        self._callbacks: list[Callable[[str], None]] = []
        self._turns: dict[str, tuple[asyncio.Lock, list[None]]] = {}
        self._running: set[asyncio.Task[Any]] = set()
        self._removed: dict[str, int] = {}  # incarnation by name

    # --- reading ----------------------------------------------------------------------------------------------------

    def get(self, agent: str) -> LocalAgent | None:
        """The agent of that name, without the node."""
        return self._agents.get(agent)

    def with_skill(self, skill: str) -> Collection[LocalAgent]:
        """Agents that can do `skill`, whatever their health."""
        return [self._agents[name] for name in self._index.names(skill)]

    def all(self) -> Collection[LocalAgent]:
        """Every agent; a live view."""
        return self._agents.values()

    def skills(self) -> Collection[str]:
        """Every skill somebody registered; a live view."""
        return self._index.skills()

    def on_change(self, callback: Callable[[str], None]) -> None:
        """Call `callback(agent_name)` on the loop after each registration, removal, takeover and change of health."""
        self._callbacks.append(callback)

    def view(self, agent: LocalAgent) -> AgentView:
        """What finding and scheduling need. The node's own agents are never stale to it."""
        in_flight, _, latency = self.load_of(agent.name)
        return AgentView(
            agent.resource,
            agent.skills,
            agent.health,
            agent.labels,
            agent.capacity,
            in_flight,
            agent.cost,
            latency,
        )

    def record(self, agent: LocalAgent) -> registry_pb2.Agent:
        """The whole record as the contract has it."""
        message = registry_pb2.Agent()
        self.fill_record(agent, message)
        return message

    def fill_record(self, agent: LocalAgent, message: registry_pb2.Agent) -> None:
        """The same, into an empty message: an answer with many of them is not copied once more."""
        message.CopyFrom(agent.lasting)
        in_flight, queue_depth, latency = self.load_of(agent.name)
        runtime = message.runtime
        runtime.in_flight_count = in_flight
        runtime.queue_depth_count = queue_depth
        if latency is not None:
            runtime.latency_duration.CopyFrom(duration_to_pb(latency))
        now, wall = self._clock.monotonic(), self._clock.wall()
        if agent.heard is not None:
            runtime.observed_time.CopyFrom(timestamp_to_pb(wall - (now - agent.heard)))
        expiry = self._leases.expiry(agent.name)
        if expiry is not None:
            runtime.lease_expire_time.CopyFrom(timestamp_to_pb(wall + (expiry - now)))

    # --- changing ---------------------------------------------------------------------------------------------------

    async def load(self) -> None:
        """Read the registrations of earlier runs; each agent is UNREACHABLE until it is heard of."""
        rows = await self._database.read(
            lambda connection: connection.execute("SELECT name, registration FROM agent ORDER BY name").fetchall()
        )
        for name, blob in rows:
            request = registry_service_pb2.RegisterAgentRequest.FromString(blob)
            try:
                registration = registration_from_proto(request)
            except EdgenodeError as error:
                _log.error(
                    "the stored registration of %s is not valid any more, it must register again: %s", name, error
                )
                continue
            agent = LocalAgent(self.node, registration, request.card)
            agent.health_reason = "not heard of since the node was started"
            self._put(agent)

    async def register(self, request: registry_service_pb2.RegisterAgentRequest) -> LocalAgent:
        """Register an agent, or the next instance of one; returns it once that is durable.

        Raises InvalidArgument, ResourceExhausted, AlreadyExists (NAME_IN_USE), Aborted (INCARNATION_OUTDATED).
        """
        stored = registry_service_pb2.RegisterAgentRequest()
        stored.CopyFrom(request)
        stored.ClearField("request_id")
        if not stored.HasField("lease_duration"):
            stored.lease_duration.CopyFrom(duration_to_pb(self._default_lease))
        return await self._finish(self._register(stored, registration_from_proto(stored)))

    async def deregister(self, name: str, instance_id: str = "") -> bool:
        """Remove an agent (only this instance, unless empty); returns whether it was there."""
        return await self._finish(self._deregister(name, instance_id))

    def renew(self, name: str, instance_id: str, health: Health, reason: str) -> LocalAgent:
        """The agent is alive and says how it is. Raises NotFound (UNKNOWN_AGENT), Aborted (SUPERSEDED), InvalidArgument."""
        agent = self._agents.get(name)
        if agent is None:
            raise unknown_agent(name, "register it again")
        if agent.instance_id != instance_id:
            raise superseded(agent)
        if health is Health.UNREACHABLE:
            raise InvalidArgument(
                "BAD_HEALTH", f"{name} says that it is unreachable", hint="READY, DEGRADED or DRAINING", field="health"
            )
        agent.stated_health, agent.stated_reason = health, reason if health is not Health.READY else ""
        self.on_renewal()
        self._hear(agent)
        return agent

    def touch(self, name: str, instance_id: str) -> bool:
        """A sign of life on a stream: renews the lease. False if that instance does not hold the name."""
        agent = self._agents.get(name)
        if agent is None or agent.instance_id != instance_id:
            return False
        self._hear(agent)
        return True

    def hold(self, name: str, instance_id: str) -> bool:
        """Its work stream is open: the lease does not run until `release`. False if that instance does not hold the name."""
        self._held[name, instance_id] += 1
        if self.touch(name, instance_id):
            return True
        self.release(name, instance_id)
        return False

    def is_held(self, agent: LocalAgent) -> bool:
        """Whether its work stream is open."""
        return (agent.name, agent.instance_id) in self._held

    def release(self, name: str, instance_id: str) -> None:
        """Its work stream ended: the lease runs from now."""
        self._held[name, instance_id] -= 1
        if not self._held[name, instance_id]:
            del self._held[name, instance_id]
        self.touch(name, instance_id)

    def expire_due(self) -> None:
        """Mark agents whose lease has run out; the timer calls it."""
        for name in self._leases.expire(self._clock.monotonic()):
            agent = self._agents[name]
            self._set_health(agent, Health.UNREACHABLE, f"nothing heard for {agent.lease:g} s")
        self._arm()

    def note_removed(self, name: str, incarnation: int) -> None:
        """Remember what was removed; when it is too much, forget it all: a parent that is behind gets a snapshot."""
        self._removed[name] = incarnation
        if len(self._removed) > MAX_TOMBSTONES:
            self._removed.clear()
            self.log.acked(self.log.version)

    @property
    def timer_due(self) -> float | None:
        """When the timer looks at leases next, on the loop's clock; None while nobody has one."""
        return self._timer.when() if self._timer is not None else None

    async def close(self) -> None:
        """Stop the timer and finish changes under way. Safe to call twice."""
        while self._running:
            await asyncio.wait(self._running)
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    # --- inside -----------------------------------------------------------------------------------------------------

    async def _register(
        self, stored: registry_service_pb2.RegisterAgentRequest, registration: Registration
    ) -> LocalAgent:
        agent = LocalAgent(self.node, registration, stored.card)
        row = (agent.name, agent.instance_id, agent.incarnation, stored.SerializeToString())
        async with self._turn(agent.name):
            held = self._agents.get(agent.name)
            if held is not None:
                check_takeover(held, agent, attached=self.is_held(held))
            elif agent.incarnation <= (removed := self._removed.get(agent.name, -1)):
                raise removed_before(agent, removed)

            def store(connection: sqlite3.Connection) -> None:
                connection.execute("INSERT OR REPLACE INTO agent VALUES (?, ?, ?, ?)", row)

            await self._database.write(store)
            reach(Failpoint.AGENT_COMMITTED)
            self._removed.pop(agent.name, None)
            agent.health = Health.READY
            self._put(agent)
            self._hear(agent)
            self._arm()
        self._changed(agent.name)
        return agent

    async def _deregister(self, name: str, instance_id: str) -> bool:
        async with self._turn(name):
            agent = self._agents.get(name)
            if agent is None or (instance_id and agent.instance_id != instance_id):
                return False

            def delete(connection: sqlite3.Connection) -> None:
                connection.execute("DELETE FROM agent WHERE name = ?", (name,))

            await self._database.write(delete)
            del self._agents[name]
            self._index.discard(name, agent.skills)
            self._leases.drop(name)
            self._arm()
            self.log.remove(agent.resource, agent.incarnation)
            self.note_removed(name, agent.incarnation)
        self._changed(name)
        return True

    def _put(self, agent: LocalAgent) -> None:
        """Take the agent in, in place of an older instance."""
        held = self._agents.get(agent.name)
        if held is not None:
            self._index.discard(held.name, held.skills)
        self._agents[agent.name] = agent
        self._index.add(agent.name, agent.skills)
        self._record_change(agent)

    def _hear(self, agent: LocalAgent) -> None:
        now = self._clock.monotonic()
        new = agent.name not in self._leases
        agent.heard = now
        if (agent.name, agent.instance_id) in self._held:
            self._leases.drop(agent.name)
        else:
            self._leases.renew(agent.name, agent.lease, now)
            if new:
                self._arm()
        if agent.health is not agent.stated_health or agent.health_reason != agent.stated_reason:
            self._set_health(agent, agent.stated_health, agent.stated_reason)

    def _set_health(self, agent: LocalAgent, health: Health, reason: str) -> None:
        agent.health, agent.health_reason = health, reason
        self._record_change(agent)
        self._changed(agent.name)

    def _record_change(self, agent: LocalAgent) -> None:
        agent.version = self.log.version + 1
        agent.lasting = self._lasting_record(agent)
        self.log.put(agent.resource, agent.incarnation, agent.lasting.SerializeToString())

    def _changed(self, name: str) -> None:
        for callback in self._callbacks:
            callback(name)

    def _lasting_record(self, agent: LocalAgent) -> registry_pb2.Agent:
        """The record without what changes all the time: load, latency, lease and observation times."""
        return registry_pb2.Agent(
            name=agent.resource,
            card=agent.card,
            runtime=registry_pb2.AgentRuntime(
                instance_id=agent.instance_id,
                incarnation=agent.incarnation,
                node=self.node,
                health=agent.health.value,  # type: ignore[arg-type]  # the numbers are the contract's
                health_reason=agent.health_reason,
                capacity_count=agent.capacity,
                cost=agent.cost,
                labels=agent.labels,
            ),
            version=agent.version,
        )

    def _arm(self) -> None:
        """Let the timer wait for the next lease to run out."""
        deadline = self._leases.next_deadline()
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        if deadline is not None:
            delay = max(deadline - self._clock.monotonic(), 0.0)
            self._timer = asyncio.get_running_loop().call_later(delay, self.expire_due)

    async def _finish(self, change: Coroutine[Any, Any, T]) -> T:
        """Run a change to its end even if the caller goes away meanwhile."""
        task = asyncio.create_task(change)
        self._running.add(task)
        task.add_done_callback(self._running.discard)
        return await asyncio.shield(task)

    @asynccontextmanager
    async def _turn(self, name: str) -> AsyncIterator[None]:
        """One change to a name at a time."""
        lock, users = self._turns.setdefault(name, (asyncio.Lock(), []))
        users.append(None)
        try:
            async with lock:
                yield
        finally:
            users.pop()
            if not users:
                del self._turns[name]
