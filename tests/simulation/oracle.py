"""What was promised to whom, and whether it is kept: from receipts and outcomes outside, and from the stores inside.

What a restored or damaged disk may have taken is known here (`excused`): that much may be missing, and no more.
"""

from __future__ import annotations

import itertools
import sqlite3
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from edgenode.api.admin.v1 import admin_pb2
from edgenode.api.registry.v1 import registry_pb2
from edgenode.api.task.v1 import task_pb2
from edgenode.api.task.v1 import task_service_pb2 as tasks
from edgenode.link.model.lanes import Lane
from edgenode.link.model.names import below
from edgenode.link.model.task import OnLost, TaskState
from edgenode.link.store import logs
from edgenode.node import ledger as edge_ledger
from hub.services.ledger import ledger_lines
from hub.store.fleet import UP_LOGS
from hub.store.link import ledger_facts as hub_facts
from hub.store.records import KEPT, PARENT
from tests.simulation import bounds, tree
from tests.simulation.damage import MESSAGES, last_held
from tests.simulation.machines import Edge, Hub, Machine
from tests.simulation.tree import ChildHub

if TYPE_CHECKING:
    from tests.simulation.world import World

RETRYABLE = ("QUEUE_FULL", "STORE_FULL", "STORE_FAILED", "STORE_CLOSED", "NODE_DRAINING", "NODE_STOPPING")


@dataclass
class Produced:
    """What one producer was promised; numbers are its own. `excused` is what a disk took that was acknowledged."""

    producer: str
    edge: str
    sent: int = 0
    acked: int = 0
    hub_acked: int = 0
    refused: set[int] = field(default_factory=set)
    excused: bool = False


@dataclass
class Submitted:
    """A task or a call, as its submitter knows it."""

    key: str
    edge: str
    spec: task_pb2.TaskSpec
    call: bool
    time: float
    sent: bool = False
    gone: bool = False  # its deadline passed before anybody said that it was accepted
    past: bool = False  # it cannot be submitted again
    task_id: str = ""
    level: int = 0
    state: TaskState | None = None
    output: bytes = b""
    over_time: float = 0.0


@dataclass(frozen=True)
class Attempt:
    """An assignment as an agent saw it."""

    task_id: str
    number: int
    fence: int
    agent: str
    instance: str
    spec: task_pb2.TaskSpec


class Oracle:
    """Told of everything that programs see; `audit` looks inside, `settled` and `verdict` at the end."""

    def __init__(self, world: World) -> None:
        self.world = world
        self.producers: dict[str, Produced] = {}
        self.submissions: list[Submitted] = []
        self.abandoned: set[str] = set()  # tasks whose agent forgot that it works on them
        self.excused_edges: set[str] = set()  # whose disk lost what was acknowledged
        self.excused_hubs: set[str] = set()  # likewise
        self._old_disks: dict[str, dict[str, int]] = {}  # by machine that had two: how far producers had come
        self.entry_count = 0  # messages at the root
        self._tasks: dict[str, Submitted] = {}
        self._attempts: dict[str, list[Attempt]] = {}
        self._running: Counter[str] = Counter()
        self._ends: dict[tuple[str, str], int] = {}  # (store, task) -> terminal state

    @property
    def hub_excused(self) -> bool:
        """Whether the disk of some hub lost what was acknowledged."""
        return bool(self.excused_hubs)

    # --- messages -----------------------------------------------------------------------------------------------------

    def producer(self, name: str, edge: str) -> Produced:
        """A new one."""
        produced = self.producers[name] = Produced(name, edge)
        return produced

    def acknowledged(self, produced: Produced, number: int, edge: Edge) -> None:
        """Everything up to `number` is durable on the node."""
        self.world.check(number <= produced.sent, f"{produced.producer}: {number} acknowledged, {produced.sent} sent")
        produced.acked = max(produced.acked, number)

    def hub_acknowledged(self, produced: Produced, number: int) -> None:
        """Everything up to `number` is durable at the hub."""
        self.world.check(
            number <= produced.acked, f"{produced.producer}: {number} at the hub, {produced.acked} on the node"
        )
        produced.hub_acked = max(produced.hub_acked, number)

    def forgotten(self, produced: Produced) -> None:
        """The node does not know what it acknowledged."""
        self.world.check(
            produced.edge in self.excused_edges,
            f"{produced.edge} has forgotten {produced.acked} of {produced.producer}",
        )
        produced.excused = True

    # --- tasks --------------------------------------------------------------------------------------------------------

    def submitted(self, submitted: Submitted) -> None:
        """About to be sent."""
        self.submissions.append(submitted)

    def receipt(self, submitted: Submitted, task_id: str, level: int) -> None:
        """The node has it."""
        if submitted.task_id and submitted.task_id != task_id:
            self.world.check(
                submitted.edge in self.excused_edges, f"key {submitted.key} is {submitted.task_id} and {task_id}"
            )
        submitted.task_id = task_id
        submitted.level = max(submitted.level, level)
        self._tasks[task_id] = submitted

    def outcome(self, submitted: Submitted, outcome: tasks.SubmissionOutcome) -> bool:
        """An end, or a refusal: True if there is nothing more to wait for."""
        if not outcome.state:
            reason = outcome.problem.reason
            if submitted.call:
                submitted.over_time = self.world.loop.now
                return True
            if reason == "PAST_DEADLINE" and not submitted.task_id:
                submitted.over_time = self.world.loop.now
                submitted.gone = True
                return True
            self.world.check(
                reason in RETRYABLE or reason == "PAST_DEADLINE", f"task {submitted.key} was refused: {reason}"
            )
            return False
        state = TaskState(outcome.state)
        self.world.check(state.terminal, f"{submitted.key} has the outcome {state.name}")
        if submitted.state is not None and submitted.edge not in self.excused_edges:
            same = (state, outcome.output.data) == (submitted.state, submitted.output)
            self.world.check(same, f"{submitted.key} was {submitted.state.name} and is {state.name}")
        submitted.state, submitted.output = state, outcome.output.data
        submitted.over_time = self.world.loop.now
        if not submitted.call:
            self.world.check(bool(outcome.task_id), f"{submitted.key} has an outcome without a task")
            self.receipt(submitted, outcome.task_id, 0)
        return True

    def assigned(self, attempt: Attempt) -> None:
        """An agent was given work."""
        attempts = self._attempts.setdefault(attempt.task_id, [])
        spec = attempt.spec
        once = int(spec.on_lost) in (OnLost.FAIL, OnLost.WAIT) and spec.retry_policy.max_attempt_count == 1
        call = attempt.task_id.startswith("call-")
        excused = self.hub_excused or self.excused_edges or self.world.clones.nodes
        if once and attempts and not call and not excused:
            first = attempts[0]
            self.world.fail(
                f"{attempt.task_id} must run once and was given to {first.agent} {first.instance}"
                f" (attempt {first.number}, fence {first.fence}) and to {attempt.agent} {attempt.instance}"
                f" (attempt {attempt.number}, fence {attempt.fence})"
            )
        if not call:
            attempts.append(attempt)
        self._running[attempt.task_id] += 1

    def over(self, task_id: str, number: int, fence: int) -> None:
        """An agent is done with an attempt."""
        self._running[task_id] -= 1

    def restored(self, machine: Machine) -> None:
        """Its disk is an old one: it may have forgotten what it had acknowledged since."""
        excused = self.excused_edges if machine in self.world.edges else self.excused_hubs
        excused.add(machine.name)
        self.copied(machine)
        self._ends = {key: state for key, state in self._ends.items() if key[0] != machine.name}

    def copied(self, machine: Machine) -> None:
        """Of its log there are two disks now, one after the other or side by side: the older may hold what the other lacks."""
        self._old_disks[machine.name] = {produced.producer: produced.sent for produced in self.producers.values()}

    # --- inside -------------------------------------------------------------------------------------------------------

    def audit(self) -> None:
        """What must hold at every moment, of all stores that can be looked at now."""
        bounds.check(self.world)
        for hub in self.world.hubs:
            sql = hub.disk.sql
            if sql is not None and hub.serving:
                self.world.clones.check_quarantine(sql)
                parent = "" if hub is self.world.hub else "parent"
                self._balanced(hub.name, ledger_lines(hub_facts(sql), parent=parent))
                self._ends_stay(hub.name, sql)
        for edge in self.world.edges:
            sql = edge.disk.sql
            if sql is None or not edge.serving or edge.node is None:
                continue
            lines = edge_ledger.lines(sql, "hub", edge.node.rooms.messages.unwritten_duplicates)
            self._balanced(edge.name, lines)
            self._ends_stay(edge.name, sql)
            self._numbers_kept(edge.name, sql)
        for dialer in self.world.dialers:
            below, above = dialer.disk.sql, dialer.hub.disk.sql
            up = dialer.serving and dialer.hub.serving
            if below is not None and above is not None and up and not self._excuses(dialer, dialer.hub):
                if dialer.name in self.world.clones.nodes:
                    continue  # of what the hub sent to the node, its copy took some
                self._cursors(dialer, below, above)

    def _balanced(self, who: str, lines: Sequence[admin_pb2.LedgerLine]) -> None:
        for line in lines:
            if not line.balanced:
                self.world.fail(f"the ledger of {who} does not add up: {line}".replace("\n", " "))

    def _ends_stay(self, who: str, sql: sqlite3.Connection) -> None:
        for task_id, state in sql.execute("SELECT task_id, state FROM task WHERE state >= 8"):
            known = self._ends.setdefault((who, task_id), state)
            if known != state and who not in self.excused_edges | self.excused_hubs:
                self.world.fail(f"{task_id} ended {TaskState(known).name} at {who} and is {TaskState(state).name} now")

    def _numbers_kept(self, edge: str, sql: sqlite3.Connection) -> None:
        """What a publisher was told is what the store knows."""
        if edge in self.excused_edges:
            return
        stored = dict(sql.execute("SELECT producer_id, last_sequence FROM producer"))
        for produced in self.producers.values():
            if produced.edge == edge and not produced.excused:
                self.world.check(
                    stored.get(produced.producer, 0) >= produced.acked,
                    f"{edge} acknowledged {produced.acked} of {produced.producer}"
                    f" and has {stored.get(produced.producer, 0)}",
                )

    def _excuses(self, *machines: Machine) -> bool:
        """Whether the disk of one of them lost what was acknowledged."""
        return any(machine.name in self.excused_edges | self.excused_hubs for machine in machines)

    def _cursors(self, dialer: Edge | ChildHub, sql: sqlite3.Connection, hub: sqlite3.Connection) -> None:
        """Nobody takes for acknowledged what the other side does not have."""
        name = dialer.name
        up_logs, parent = _upward(dialer)
        for lane, log_name in up_logs.items():
            state = logs.log_state(sql, log_name)
            acked = logs.consumers(sql, state.log_id).get(parent, 0)
            there = _cursor(hub, name, lane)
            self.world.check(acked <= there, f"{name} {lane.name}: acknowledged {acked}, the hub has {there}")
        row = hub.execute("SELECT log_id FROM log WHERE name = ?", (f"down/{name}/task",)).fetchone()
        if row is not None:
            acked = logs.consumers(hub, row[0]).get(name, 0)
            there = _cursor(sql, parent, Lane.TASK)
            self.world.check(acked <= there, f"hub to {name}: acknowledged {acked}, it has {there}")

    # --- at rest ------------------------------------------------------------------------------------------------------

    def unsettled(self) -> str:
        """What is still under way; empty at rest."""
        world = self.world
        for machine in world.machines:
            if not machine.serving or machine.disk.sql is None:
                return f"{machine.name} is not up"
        for publisher in world.publishers:
            if not publisher.settled and not self._ends_in_a_gap(publisher.edge):
                return f"{publisher.name} waits for acknowledgements"
        for submitter in world.submitters:
            for submitted in submitter.open:
                if not self._may_hang(submitted):
                    return f"{submitted.key} ({submitted.task_id or 'no receipt'}) has not ended"
        for edge in world.edges:
            if edge.node is not None and any(live.finishing for live in edge.node.rooms.engine.book.live.values()):
                return f"{edge.name} stores how a task ended"
        if elsewhere := world.clones.unsettled() or bounds.waiting(world):
            return elsewhere
        waiting = (self._waits(dialer) for dialer in world.dialers)
        lacking = (subscriber.lacks() for subscriber in world.subscribers)
        return next(filter(None, itertools.chain(waiting, lacking)), "")

    def _ends_in_a_gap(self, edge: Edge) -> bool:
        """Whether the last messages are given up: publishers hear of the hub again with the next one, which tells the gap."""
        assert edge.disk.sql is not None
        state = logs.log_state(edge.disk.sql, MESSAGES)
        lost = "SELECT 1 FROM lost_range WHERE log_id = ? AND last_sequence >= ?"
        return edge.disk.sql.execute(lost, (state.log_id, state.last)).fetchone() is not None

    def _waits(self, dialer: Edge | ChildHub) -> str:
        """What a link has not carried yet."""
        name, sql, hub = dialer.name, dialer.disk.sql, dialer.hub.disk.sql
        assert sql is not None
        assert hub is not None
        up_logs, parent = _upward(dialer)
        for lane, log_name in up_logs.items():
            state = logs.log_state(sql, log_name)
            acked = logs.consumers(sql, state.log_id)[parent]
            last = last_held(sql, state.log_id)
            if _cursor(hub, name, lane) < last:
                return f"{name} {lane.name}: the hub has not come to {last}"
            if acked < last:
                return f"{name} {lane.name}: {last - acked} entries wait for the hub"
        for log_name, log_id, acked in hub.execute(
            "SELECT log.name, log_id, acked_sequence FROM log JOIN consumer USING (log_id) WHERE log.name LIKE ?",
            (f"down/{name}/%",),
        ).fetchall():
            if acked < (last := last_held(hub, log_id)):
                return f"{log_name}: {last - acked} entries wait for the edge"
        return self._registry_difference(dialer, hub)

    def _may_hang(self, submitted: Submitted) -> bool:
        """A task that waits for an agent which has forgotten it, or never heard of it, as it was asked to.

        Or for word that a disk destroyed, or in a fleet that took it back from its parent and has nobody left for it.
        """
        return (
            self.world.damages.may_hang(submitted.task_id)
            or self._kept_for_nobody(submitted)
            or (
                int(submitted.spec.on_lost) == OnLost.WAIT
                and (submitted.task_id in self.abandoned or self._waits_for_agent(submitted.task_id))
            )
        )

    def _kept_for_nobody(self, submitted: Submitted) -> bool:
        """A hub that took it back does not offer it to its parent again: it waits, PARKED, for somebody to come."""
        for hub in self.world.hubs[1:]:
            assert hub.disk.sql is not None
            kept = hub.disk.sql.execute(
                "SELECT 1 FROM task WHERE task_id = ? AND upstream = ? AND holder = '' AND state = ?",
                (submitted.task_id, KEPT, int(TaskState.PARKED)),
            ).fetchone()
            if kept is not None:
                return not any(
                    agent.can(submitted.spec.skill) for agent in self.world.agents if hub in tree.way_up(agent.edge)
                )
        return False

    def _waits_for_agent(self, task_id: str) -> bool:
        for edge in self.world.edges:
            live = edge.node.rooms.engine.book.live.get(task_id) if edge.node is not None and edge.serving else None
            if live is not None and live.reason.startswith("AGENT_LOST"):
                return True
        return False

    def _registry_difference(self, dialer: Edge | ChildHub, hub: sqlite3.Connection) -> str:
        entries = dialer.registry_log().entries()
        mine = {
            entry.name: (entry.incarnation, entry.version, _bare(entry.payload))
            for entry in entries
            if entry.payload is not None
        }
        there = {
            name: (incarnation, version, _bare(payload))
            for name, incarnation, version, payload in hub.execute(
                "SELECT name, incarnation, version, payload FROM agent WHERE node = ?", (dialer.name,)
            )
        }
        if mine != there:
            wrong = sorted(name for name in mine.keys() | there.keys() if mine.get(name) != there.get(name))
            return (
                f"the hub knows otherwise of agents of {dialer.name}: {[(n, there.get(n), mine.get(n)) for n in wrong]}"
            )
        if isinstance(dialer, ChildHub) and dialer.disk.sql is not None:
            names = {below(dialer.name, name) for (name,) in dialer.disk.sql.execute("SELECT name FROM agent")}
            if names != set(mine):
                return f"{dialer.name} tells of {sorted(mine)} instead of {sorted(names)}"
        return ""

    def verdict(self) -> None:
        """At rest: everything that was accepted has arrived, once and in order."""
        self.audit()
        stated: Counter[str] = Counter()
        for dialer in self.world.dialers:
            assert dialer.hub.disk.sql is not None
            gaps = "SELECT coalesce(sum(gap_count), 0) FROM inbox_cursor WHERE peer = ? AND lane = ?"
            stated[dialer.name] = dialer.hub.disk.sql.execute(gaps, (dialer.name, Lane.MESSAGE)).fetchone()[0]
        for hub in self.world.hubs:
            self._messages(hub, stated)
        assert self.world.hub.disk.sql is not None
        self.world.damages.check_stated(self.world.hub.disk.sql)
        for submitted in self.submissions:
            if not (submitted.call or submitted.gone or self._may_hang(submitted)):
                self._task_ended(submitted)

    def _messages(self, hub: Hub, stated: Counter[str]) -> None:
        """All that was published below a hub is there, once and in order; `stated` are the gaps by who dialed."""
        arrived = self._arrived(hub)
        if hub is self.world.hub:
            self.entry_count = sum(map(len, arrived.values()))
        missing: Counter[str] = Counter()
        gaps: dict[str, int] = {}
        for edge in self.world.edges:
            way = tree.way_up(edge)
            if hub not in way:
                continue
            passed = [edge, *way[: way.index(hub)]]
            gaps[passed[-1].name] = gaps.get(passed[-1].name, stated[passed[-1].name]) + sum(
                stated[dialer.name] for dialer in passed[:-1]
            )
            for produced in self.producers.values():
                if produced.edge == edge.name:
                    numbers = arrived.pop(produced.producer, [])
                    if hub is self.world.hub:
                        self.world.damages.count_missing(produced, numbers)
                    self._in_order(hub, produced, numbers, passed)
                    excused = self._excuses(hub, *passed[1:])
                    missing[passed[-1].name] += self._message_list(hub, produced, numbers, excused)
        for name, count in missing.items():
            # Where the backup of a hub knows only another disk's log, of a copy or of before a restore, it cannot tell what is
            # gone before the first entry of this one.
            twice = self._excuses(hub) and (name in self.excused_hubs or name in self.world.clones.nodes)
            self.world.check(
                count <= gaps[name] or twice, f"{name}: {count} missing at {hub.name}, {gaps[name]} stated as a gap"
            )
        self.world.clones.check_messages(arrived)
        self.world.check(not arrived, f"messages of nobody at {hub.name}: {sorted(arrived)}")

    def _arrived(self, hub: Hub) -> dict[str, list[int]]:
        """Numbers of the messages that a hub has, by producer, in the order of its log."""
        sql = hub.disk.sql
        assert sql is not None
        arrived: dict[str, list[int]] = {}
        newest: dict[tuple[str, str], int] = {}
        for producer, number, epoch in self.world.damages.whole_messages(sql):
            arrived.setdefault(producer, []).append(number)
            before = newest.get((producer, epoch), 0)
            self.world.check(before < number, f"{producer}: {number} behind {before} of one epoch at {hub.name}")
            newest[producer, epoch] = number
        return arrived

    def _in_order(self, hub: Hub, produced: Produced, numbers: list[int], passed: Sequence[Machine]) -> None:
        """What a hub has of a producer, which came to it through `passed`: once, and in order.

        A hub that was restored may hear first that messages are gone, from a disk that does not keep them any more, and then
        get them from an older one, or from a copy: they are taken, behind what followed them, for nobody else has them. So
        what comes late is what such a disk can hold. (Within one epoch nothing comes late whatever happens, see `_arrived`.)
        """
        if produced.edge in self.excused_edges:
            return
        greatest = itertools.accumulate(numbers, max)
        late = [number for number, before in zip(numbers, greatest, strict=True) if number < before]
        old = [self._old_disks[machine.name] for machine in passed if machine.name in self._old_disks]
        held = max((disk.get(produced.producer, 0) for disk in old), default=0)
        filled_up = self._excuses(hub) or self.world.damages.in_segments
        good = not late or (filled_up and max(late) <= held)
        once = len(set(numbers)) == len(numbers)
        self.world.check(good and once, f"{produced.producer}: not once and in order at {hub.name}: {numbers}")

    def _message_list(self, hub: Hub, produced: Produced, numbers: list[int], hub_excused: bool) -> int:
        """How many are missing that a restored hub may lack, if it says so."""
        world, name = self.world, produced.producer
        expected = set(range(1, produced.acked + 1)) - produced.refused
        if isinstance(hub, ChildHub) and hub.forgets:
            expected &= set(numbers)
        missing = {number for number in expected - set(numbers) if not world.damages.may_lack(produced, number)}
        if produced.edge in self.excused_edges or produced.excused:
            missing = {number for number in missing if number <= produced.hub_acked}
        world.check(not produced.refused & set(numbers), f"{name}: refused and at {hub.name} all the same")
        if hub_excused:
            # It is refilled with what the edges have kept; what they have not, for they keep it for a while, is a gap.
            return 0 if produced.edge in self.excused_edges else len(missing)
        world.check(not missing, f"{name}: acknowledged and not at {hub.name}: {sorted(missing)[:20]}")
        return 0

    def _task_ended(self, submitted: Submitted) -> None:
        self.world.check(submitted.state is not None, f"{submitted.key} has no outcome")
        edge = self.world.edge(submitted.edge)
        assert edge.disk.sql is not None
        row = edge.disk.sql.execute("SELECT state FROM task WHERE task_id = ?", (submitted.task_id,)).fetchone()
        if submitted.edge not in self.excused_edges:
            self.world.check(row is not None, f"{submitted.key} is not known to {submitted.edge} any more")
            self.world.check(
                row is None or row[0] == submitted.state,
                f"{submitted.key} was told as {submitted.state!r} and is {row}",
            )
        if self.hub_excused or self.excused_edges or self.world.clones.nodes:
            return
        for hub in self.world.hubs:
            assert hub.disk.sql is not None
            there = hub.disk.sql.execute(
                "SELECT state, fence FROM task WHERE task_id = ?", (submitted.task_id,)
            ).fetchone()
            if there is not None:
                self.world.check(there[0] >= 8, f"{submitted.key} ended at its origin, {there[0]} at {hub.name}")
                if there[0] == TaskState.COMPLETED and submitted.output:
                    self._outcome_is_latest(submitted, hub, there[1])

    def _outcome_is_latest(self, submitted: Submitted, hub: Hub, taken: int) -> None:
        """A hub that granted it to one of its nodes took the result of nobody it had taken it from before.

        A node that has ended it already says so again under a newer fence, which is the one that was `taken`; another
        node's grant outdates it. Where the origin has run it itself, its submitter is told at once, and the hub may have
        taken another's result meanwhile.
        """

        def edge_of(agent: str) -> Edge:
            return self.world.edge(agent.partition("-")[0])

        agent, *_, fence = submitted.output.decode().split()
        edge = edge_of(agent)
        if edge.hub is hub and int(fence) and edge.name != submitted.edge:
            for attempt in self._attempts.get(submitted.task_id, ()):
                newer = attempt.fence > int(fence) if edge_of(attempt.agent) is edge else attempt.fence >= taken
                late = newer and edge_of(attempt.agent).hub is hub
                self.world.check(not late, f"{submitted.key} has the result of fence {fence}, not {attempt.fence}")


def _bare(payload: bytes) -> bytes:
    """An agent without the numbers of who tells of it: a hub numbers anew what it tells its parent."""
    agent = registry_pb2.Agent.FromString(payload)
    agent.version = 0
    agent.runtime.incarnation = 0
    return agent.SerializeToString(deterministic=True)


def _upward(dialer: Edge | ChildHub) -> tuple[Mapping[Lane, str], str]:
    """(its logs for the hub by lane, what it calls the hub)."""
    return (UP_LOGS, PARENT) if isinstance(dialer, ChildHub) else (edge_ledger.LANE_LOGS, "parent")


def _cursor(sql: sqlite3.Connection, peer: str, lane: Lane) -> int:
    row = sql.execute("SELECT max(sequence) FROM inbox_cursor WHERE peer = ? AND lane = ?", (peer, lane)).fetchone()
    return row[0] or 0
