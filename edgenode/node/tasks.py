"""The engine of the edge's tasks: accepts them, finds them an agent, follows attempts, ends them.

Theory of operation. A task that has not ended lives in memory as a LiveTask; its row is written when it is accepted, when
something happens that a restart must know (a failed attempt, a question, a cancellation, the hand-over of work that must not
run twice) and when it ends. Everything else (assigned, working, progress) is memory only and is found again by running.

An end is decided in memory first: the task is marked `finishing`, nothing else may happen to it, and its new row joins the
next group commit. Only after that commit are submitters and watchers told and the agent's result confirmed. If the store
fails, the decided end is written again until it succeeds; nobody is told before.

A task without a fit agent here and with scope FLEET is offered to the hub in the transaction that accepts it; from then on
the hub holds it and its reports drive the state. A task the hub grants to this node is run like any other, but each change
its origin must know goes up in the transaction that stores it.

Calls take the same path without rows: they are told of every loss at once and never wait past their deadline.
"""

from __future__ import annotations

import asyncio
import logging
import sqlite3
from collections import deque
from collections.abc import Callable, Coroutine, Iterable, Sequence
from dataclasses import dataclass, field
from functools import lru_cache, partial
from typing import Any, Protocol

from edgenode.api.sync.v1 import sync_pb2
from edgenode.api.task.v1 import task_pb2
from edgenode.link.errors import (
    AlreadyExists,
    Cancelled,
    DeadlineExceeded,
    EdgenodeError,
    FailedPrecondition,
    NotFound,
    ResourceExhausted,
    Unavailable,
)
from edgenode.link.model import selector
from edgenode.link.model.agent import Health
from edgenode.link.model.names import agent_resource, make_id
from edgenode.link.model.problem import Problem
from edgenode.link.model.task import Level, OnLost, Scope, TaskSpec, TaskState
from edgenode.link.ports import Clock, Rng
from edgenode.link.protocol.scheduler import Demand, Scheduler, Worker
from edgenode.link.protocol.tasks import TaskEvent, after_failure, after_loss
from edgenode.link.protocol.timers import Timers
from edgenode.link.store.database import Database
from edgenode.link.wire.tasks import TaskLimits
from edgenode.link.wire.values import problem_from_pb
from edgenode.node import task_entries, task_store
from edgenode.node.registry import AgentRegistry, LocalAgent
from edgenode.node.task_state import SEQUENCE_SKIP, AttemptSink, LiveTask

TASK_LOG = "up/task"
CANCEL_GRACE = 10.0  # seconds an agent has to stop before the task is called CANCELED without it
SWEEP_INTERVAL = 60.0
_STORE_RETRY = 1.0
_HUB = "hub"
_WORKING_HEALTH = (Health.READY, Health.DEGRADED)
_ASK = (TaskState.INPUT_REQUIRED, TaskState.AUTH_REQUIRED)

_log = logging.getLogger(__name__)
_selector = lru_cache(1024)(selector.parse)


@dataclass(frozen=True, slots=True)
class TaskSettings:
    """Bounds and defaults; durations in seconds."""

    max_queued: int = 100_000
    attempt_timeout: float = 300.0
    call_timeout: float = 30.0
    lost_grace: float = 15.0
    retention: float = 86_400.0
    limits: TaskLimits = field(default_factory=TaskLimits)


class TaskUplink(Protocol):
    """The way to the hub, as the engine sees it. Without a hub the engine has none."""

    def appended(self, last: int) -> None:
        """A commit appended to the task log."""
        ...

    def send_call(self, live: LiveTask, timeout: float) -> bool:
        """Send a call to the hub; False when the link is down. The answer comes to `TaskEngine.end_call`."""
        ...

    def cancel_call(self, live: LiveTask) -> None:
        """Nobody waits for the call any more."""
        ...

    def send_progress(self, live: LiveTask) -> None:
        """Tell a granted task's origin how far it has come, best effort."""
        ...


class WorkerStream(AttemptSink, Protocol):
    """An attached agent."""

    def assign(self, live: LiveTask, timeout: float) -> None:
        """Hand over an attempt that may run `timeout` seconds."""
        ...

    def agent_changed(self) -> None:
        """The registry's record of the agent changed; another instance may hold the name now."""
        ...


OnEnd = Callable[[LiveTask], None]


@dataclass(frozen=True, slots=True)
class NewTask:
    """One submission. `on_end` is called once the task has ended, also when it had ended before."""

    spec: TaskSpec
    request_id: str = ""
    fingerprint: bytes = b""
    on_end: OnEnd | None = None
    replay_of: str = ""


@dataclass(frozen=True, slots=True)
class Submitted:
    """A stored task, or the problem with it. `live` is None for one that had ended before."""

    task_id: str = ""
    live: LiveTask | None = None
    problem: Problem | None = None


class TaskEngine:
    """See the module. Everything but the awaited methods runs on the event loop without waiting."""

    def __init__(
        self,
        *,
        node: str,
        database: Database,
        registry: AgentRegistry,
        clock: Clock,
        rng: Rng,
        settings: TaskSettings,
        on_dead_letter: Callable[[sqlite3.Connection, LiveTask], None],
    ) -> None:
        self.node = node
        self.settings = settings
        self.clock = clock
        self.live: dict[str, LiveTask] = {}
        self.database = database
        self.applier = task_entries.EntryApplier(node, TASK_LOG, settings.limits)
        self._registry = registry
        self._rng = rng
        self._on_dead_letter = on_dead_letter
        self._uplink: TaskUplink | None = None
        self._scheduler: Scheduler[LiveTask] = Scheduler(self._fit_workers, rng)
        self._streams: dict[str, WorkerStream] = {}
        self._timers = Timers(self._set_alarm)
        self._alarm: asyncio.TimerHandle | None = None
        self._parked: set[Demand] = set()  # demands nobody here fits
        self._offered: deque[tuple[int, LiveTask]] = deque()
        self._background: set[asyncio.Task[None]] = set()
        self._settled = 0.0  # until then agents of before the restart may come back
        self._pumping = False
        self._accepting = False
        self._stopped = False
        self._calls = 0

    # --- start and stop -------------------------------------------------------------------------------------------

    async def start(self, uplink: TaskUplink | None = None) -> None:
        """Take up what the store holds. `uplink` is set when the node has joined a hub."""
        self._uplink = uplink
        self._settled = self.clock.monotonic() + self.settings.lost_grace
        self._timers.at(self._settled, self._settle)
        rows = await self.database.read(task_store.load_live)
        now_time = self.clock.wall()
        for row in rows:
            message = task_pb2.TaskSpec.FromString(task_store.spec_wire(row))
            live = LiveTask(row[0], self.applier.spec(message, now_time), row[5], row[12])
            task_store.revive(row, live)
            live.sequence += SEQUENCE_SKIP
            self._resume(live)
        self._registry.on_change(self._agent_changed)
        self._registry.load_of = self._load_of
        self._timers.at(self.clock.monotonic() + SWEEP_INTERVAL, self._sweep)
        self._accepting = True

    def stop_accepting(self) -> None:
        """Refuse new work with NODE_DRAINING; what was accepted goes on."""
        self._accepting = False

    async def stop(self) -> None:
        """Stop for good. Stored tasks go on after the next start; callers are told NODE_STOPPING."""
        self._accepting = False
        self._stopped = True
        if self._alarm is not None:
            self._alarm.cancel()
        problem = Unavailable("NODE_STOPPING", "the node is stopping", hint="try again once it is back").problem
        for live in [live for live in self.live.values() if live.call]:
            self.end_call(live, problem=problem)
        for task in list(self._background):
            task.cancel()
        await asyncio.gather(*self._background, return_exceptions=True)

    def _resume(self, live: LiveTask) -> None:
        self.live[live.task_id] = live
        self._watch_deadline(live)
        now = self.clock.monotonic()
        if live.holder:
            if live.level < Level.DURABLE_HUB:
                self._offered.append((live.offer_sequence, live))
        elif live.state is TaskState.RETRY_WAIT:
            delay = max(live.next_attempt_time - self.clock.wall(), 0.0)
            live.timer = self._timers.at(now + delay, lambda: self._release(live))
        elif live.state in (TaskState.QUEUED, TaskState.PARKED) or live.spec.on_lost is OnLost.RETRY:
            live.enter(TaskState.QUEUED, self.clock.wall(), "RESTART")
            self._enqueue(live)
        else:
            # It was handed over and must not run twice: its agent may come back with it.
            live.timer = self._timers.at(now + self.settings.lost_grace, lambda: self._lost(live))

    # --- accepting ------------------------------------------------------------------------------------------------

    async def submit(self, new: Sequence[NewTask]) -> list[Submitted]:
        """Store tasks in one transaction, in order. Raises ResourceExhausted (QUEUE_FULL, STORE_FULL), Unavailable."""
        self._check_accepting(len(new))
        self.database.check_room(sum(len(task.spec.wire) for task in new))
        now_time = self.clock.wall()
        lives = [self._new_live(task, now_time) for task in new]
        rows = [task_store.insert_row(live) for live in lives]
        offers = [task_entries.offer(live) if live.holder else None for live in lives]

        def store(connection: sqlite3.Connection) -> tuple[list[task_store.Known | None], list[int]]:
            return _store_new(connection, rows, offers, now_time)

        known, sequences = await self.database.write(store)
        results = []
        for task, live, found, sequence in zip(new, lives, known, sequences, strict=True):
            if found is None:
                live.offer_sequence = sequence
                self._admit(live, task.on_end)
                results.append(Submitted(live.task_id, live))
            else:
                results.append(self._resolve_known(task, found))
        if any(sequences) and self._uplink is not None:
            self._uplink.appended(max(sequences))
        return results

    def start_call(self, spec: TaskSpec, on_end: OnEnd, *, forward: bool = True) -> LiveTask:
        """Run a task without storing it. `on_end` gets it with output or problem, at the latest at its deadline.

        Raises NotFound (UNKNOWN_SKILL), Unavailable (NO_AGENT, LINK_DOWN), ResourceExhausted (QUEUE_FULL).
        """
        self._check_accepting(1)
        now_time = self.clock.wall()
        self._calls += 1
        live = LiveTask(f"call-{self._calls}", spec, self.node, now_time, call=True)
        live.listeners.append(on_end)
        timeout = spec.deadline - now_time if spec.deadline else self.settings.call_timeout
        if not self._fit_agents(live.demand):
            self._forward_call(live, timeout, forward)
        self.live[live.task_id] = live
        live.deadline_timer = self._timers.at(self.clock.monotonic() + timeout, lambda: self._expire(live))
        if not live.holder:
            self._enqueue(live)
        return live

    def _forward_call(self, live: LiveTask, timeout: float, forward: bool) -> None:
        spec = live.spec
        if forward and spec.scope is Scope.FLEET and self._uplink is not None:
            if not self._uplink.send_call(live, timeout):
                raise Unavailable(
                    "LINK_DOWN", "no agent here has the skill and the hub is out of reach", hint="submit it instead"
                )
            live.holder = _HUB
            return
        if not self._registry.with_skill(spec.skill):
            raise NotFound(
                "UNKNOWN_SKILL", f"no agent of this node has skill {spec.skill!r}", hint="see: edgenode agents"
            )
        raise Unavailable("NO_AGENT", self._why_parked(live.demand), hint="see: edgenode find --explain")

    def _check_accepting(self, count: int) -> None:
        if not self._accepting:
            raise Unavailable("NODE_DRAINING", "the node takes no new work", hint="try again later", retry_after=5.0)
        if len(self.live) + count > self.settings.max_queued:
            raise ResourceExhausted(
                "QUEUE_FULL",
                f"{len(self.live)} tasks have not ended",
                hint="wait for some to end, or raise max_queued_tasks",
                retry_after=1.0,
                limit=self.settings.max_queued,
            )

    def _new_live(self, task: NewTask, now_time: float) -> LiveTask:
        live = LiveTask(make_id(now_time, self._rng.getrandbits(80)), task.spec, self.node, now_time)
        live.request_id = task.request_id
        live.fingerprint = task.fingerprint
        live.replay_of = task.replay_of
        live.level = Level.DURABLE_LOCAL
        if self._to_hub(task.spec) and not self._fit_agents(live.demand):
            live.holder = _HUB
            live.reason = "AT_HUB"
        live.note()
        return live

    def _to_hub(self, spec: TaskSpec) -> bool:
        return spec.scope is Scope.FLEET and self._uplink is not None

    def _admit(self, live: LiveTask, on_end: OnEnd | None) -> None:
        if on_end is not None:
            live.listeners.append(on_end)
        self.live[live.task_id] = live
        self._watch_deadline(live)
        if live.holder:
            self._offered.append((live.offer_sequence, live))
        else:
            self._enqueue(live)

    def _resolve_known(self, task: NewTask, found: task_store.Known) -> Submitted:
        if task.fingerprint != found.fingerprint and task.spec.idempotency_key:
            return Submitted(
                problem=AlreadyExists(
                    "IDEMPOTENCY_CONFLICT",
                    f"key {task.spec.idempotency_key!r} belongs to task {found.task_id} with another spec",
                    hint="use a new key for a new request",
                    task_id=found.task_id,
                ).problem
            )
        live = self.live.get(found.task_id)
        if live is not None and task.on_end is not None:
            live.listeners.append(task.on_end)
        return Submitted(found.task_id, live)

    # --- scheduling -----------------------------------------------------------------------------------------------

    def _enqueue(self, live: LiveTask, *, first: bool = False) -> None:
        if live.state is TaskState.PARKED:
            self._parked.add(live.demand)
        elif live.demand in self._parked or not self._fit_agents(live.demand):
            self._park(live.demand, [live])
            if live.holder or live.finishing:
                return
        self._scheduler.push(live.task_id, live.demand, live.spec.priority, live, first=first)
        self._kick()

    def _kick(self) -> None:
        if not self._pumping and not self._stopped:
            self._pumping = True
            asyncio.get_running_loop().call_soon(self._pump)

    def _pump(self) -> None:
        self._pumping = False
        stored: list[tuple[LiveTask, Worker]] = []
        limit = 1024
        assigned = self._scheduler.assign(self.clock.monotonic(), limit)
        for live, worker in assigned:
            self._begin(live, worker)
            if live.call or live.spec.on_lost is OnLost.RETRY:
                self._hand_over(live, worker)
            else:
                stored.append((live, worker))
        if stored:
            self._spawn(self._hand_over_stored(stored))
        if len(assigned) == limit:
            self._kick()

    def _begin(self, live: LiveTask, worker: Worker) -> None:
        live.attempts += 1
        live.agent = agent_resource(self.node, worker.name)
        live.started = self.clock.monotonic()
        live.apply(TaskEvent.ASSIGN, self.clock.wall())

    async def _hand_over_stored(self, pairs: Sequence[tuple[LiveTask, Worker]]) -> None:
        """Work that must not run twice is known to the store before an agent sees it."""
        await self._write_rows([live for live, _ in pairs])
        for live, worker in pairs:
            if live.state is TaskState.ASSIGNED and not live.finishing:
                self._hand_over(live, worker)

    def _hand_over(self, live: LiveTask, worker: Worker) -> None:
        stream = self._streams.get(worker.name)
        if stream is None:
            self._lost(live)
            return
        agent = self._registry.get(worker.name)
        timeout = live.spec.attempt_timeout or (agent.skill_timeouts.get(live.spec.skill, 0.0) if agent else 0.0)
        timeout = timeout or self.settings.attempt_timeout
        if live.spec.deadline:
            timeout = min(timeout, max(live.spec.deadline - self.clock.wall(), 0.001))
        live.sink = stream
        live.timer = self._timers.at(live.started + timeout, lambda: self._timed_out(live, timeout))
        stream.assign(live, timeout)
        self._raise_level(live, Level.DELIVERED)

    def _fit_agents(self, demand: Demand) -> list[LocalAgent]:
        return [
            agent
            for agent in self._registry.with_skill(demand.skill)
            if agent.health in _WORKING_HEALTH and self._unfit_reason(agent, demand) is None
        ]

    def _unfit_reason(self, agent: LocalAgent, demand: Demand) -> str | None:
        if demand.agent and demand.agent != agent_resource(self.node, agent.name):
            return f"it is for {demand.agent}"
        if demand.cost_limit is not None and agent.cost > demand.cost_limit:
            return f"{agent.name} costs {agent.cost:g}, the limit is {demand.cost_limit:g}"
        if demand.selector and not _selector(demand.selector).matches(agent.labels):
            return f"{agent.name} does not match {demand.selector!r}"
        return None

    def _why_parked(self, demand: Demand) -> str:
        agents = self._registry.with_skill(demand.skill)
        if not agents:
            return f"no agent has skill {demand.skill}"
        reasons = [self._unfit_reason(agent, demand) or f"{agent.name} is {agent.health.name}" for agent in agents]
        return "; ".join(sorted(reasons)[:3])

    def _fit_workers(self, demand: Demand) -> list[str]:
        return [agent.name for agent in self._fit_agents(demand)]

    def _agent_changed(self, agent: str) -> None:
        stream = self._streams.get(agent)
        if stream is not None:
            stream.agent_changed()
        self._reconsider()

    def _reconsider(self) -> None:
        """Agents came, went or changed: wake what somebody fits again; park, offer or end what nobody does any more."""
        self._scheduler.changed()
        for demand in self._scheduler.demands():
            fit = bool(self._fit_agents(demand))
            if fit == (demand not in self._parked):
                continue
            if fit:
                self._parked.discard(demand)
                for live in self._scheduler.items(demand):
                    live.apply(TaskEvent.RELEASE, self.clock.wall())
                    self._tell_watchers(live)
            else:
                self._park(demand, self._scheduler.items(demand))
        self._kick()

    def _park(self, demand: Demand, lives: Sequence[LiveTask]) -> None:
        """Nobody here fits these."""
        why = self._why_parked(demand)
        offers: list[LiveTask] = []
        for live in lives:
            if live.call:
                self.end_call(live, problem=Unavailable("NO_AGENT", why, hint="see: edgenode find --explain").problem)
            elif self._to_hub(live.spec) and live.fence == 0 and self.clock.monotonic() >= self._settled:
                live.holder = _HUB
                offers.append(live)
            else:
                self._parked.add(demand)
                live.apply(TaskEvent.PARK, self.clock.wall(), f"NO_AGENT: {why}")
                self._tell_watchers(live)
        if offers:
            self._spawn(self._offer(offers))

    def _settle(self) -> None:
        """Agents had time to come back after the start: what nobody fits may now go to the hub."""
        for demand in list(self._parked):
            self._park(demand, self._scheduler.items(demand))

    async def _offer(self, lives: Sequence[LiveTask]) -> None:
        for live in lives:
            self._scheduler.discard(live.task_id)
            live.enter(TaskState.QUEUED, self.clock.wall(), "AT_HUB")
        await self._write_rows(lives, [task_entries.offer(live) for live in lives], offered=True)

    def _load_of(self, agent: str) -> tuple[int, int, float | None]:
        worker = self._scheduler.find_worker(agent)
        record = self._registry.get(agent)
        depth = sum(self._scheduler.depth(skill) for skill in record.skills) if record and len(self._scheduler) else 0
        if worker is None:
            return 0, depth, None
        latency = worker.latency.at(self.clock.monotonic())
        return worker.in_flight, depth, latency or None

    # --- agents ---------------------------------------------------------------------------------------------------

    def attach(self, agent: str, stream: WorkerStream) -> None:
        """An agent's stream opened; it gets work once it has credit. One stream an agent: the newer one counts."""
        old = self._streams.get(agent)
        if old is not None:
            self.detach(agent, old)
        self._streams[agent] = stream
        self._scheduler.worker(agent)
        self._kick()

    def adopt(self, agent: str, stream: WorkerStream, task_id: str, attempt: int, fence: int) -> LiveTask | None:
        """The agent still works on an attempt from before; the task, or None if it must stop."""
        live = self.live.get(task_id)
        if live is None or live.call or live.finishing or live.holder or live.fence != fence:
            return None
        if live.sink is not None or attempt < max(live.attempts, 1):
            return None
        if live.state in (TaskState.QUEUED, TaskState.PARKED):
            self._scheduler.discard(task_id)
            live.apply(TaskEvent.ASSIGN, self.clock.wall(), "REATTACHED")
        elif live.state is TaskState.RETRY_WAIT or attempt != live.attempts:
            return None
        if live.timer is not None:
            live.timer.cancel()
        live.attempts = attempt
        live.agent = agent_resource(self.node, agent)
        live.sink = stream
        live.started = self.clock.monotonic()
        self._scheduler.worker(agent).in_flight += 1
        timeout = live.spec.attempt_timeout or self.settings.attempt_timeout
        live.timer = self._timers.at(live.started + timeout, lambda: self._timed_out(live, timeout))
        return live

    def detach(self, agent: str, stream: WorkerStream) -> None:
        """The agent's stream is gone."""
        if self._streams.get(agent) is stream:
            del self._streams[agent]
            self._scheduler.remove_worker(agent)
        for live in [live for live in self.live.values() if live.sink is stream]:
            live.sink = None
            if live.call or live.spec.on_lost is OnLost.RETRY:
                self._lost(live)
            elif not live.finishing:
                if live.timer is not None:
                    live.timer.cancel()
                due = self.clock.monotonic() + self.settings.lost_grace
                live.timer = self._timers.at(due, partial(self._lost, live))

    def add_credits(self, agent: str, count: int) -> None:
        """The agent can take more."""
        worker = self._scheduler.find_worker(agent)
        if worker is not None:
            self._scheduler.add_credits(worker, count)
            self._kick()

    def update(self, live: LiveTask, message_progress: task_pb2.TaskProgress | None) -> None:
        """The attempt says that it works, and perhaps how far it has come."""
        if live.finishing or live.state is TaskState.RETRY_WAIT:
            return
        if live.state is TaskState.ASSIGNED:
            live.apply(TaskEvent.BEGIN, self.clock.wall())
        if message_progress is not None:
            live.progress = message_progress
            live.sequence += 1
            if live.fence and self._uplink is not None:
                self._uplink.send_progress(live)
        self._tell_watchers(live)

    async def ask(self, live: LiveTask, request: task_pb2.InputRequest) -> None:
        """The attempt asks its submitter; an answer given to an earlier attempt is handed over at once."""
        known = live.answers.get(request.key)
        if known is not None and live.sink is not None:
            live.sink.answer(live, request.key, known)
            return
        if live.finishing:
            return
        live.input_request = request
        event = TaskEvent.ASK_AUTHORIZATION if request.authorization else TaskEvent.ASK
        live.apply(event, self.clock.wall())
        await self._write_rows([live], self._reports([live]))
        self._tell_watchers(live)

    def result(
        self,
        live: LiveTask,
        state: TaskState,
        output: task_pb2.TaskOutput | None,
        problem: Problem | None,
    ) -> bool:
        """An attempt ended. True: the task ends with it and is marked for `commit_ended`; False: it goes on or has ended."""
        if live.finishing or live.sink is None:
            return False
        self._stop_attempt(live, failed=state is TaskState.FAILED)
        if state is TaskState.COMPLETED:
            return self._decide(live, TaskEvent.SUCCEED, output=output)
        if problem is None:
            problem = FailedPrecondition("NO_PROBLEM", "the agent gave neither result nor problem").problem
        if state is TaskState.REJECTED:
            return self._decide(live, TaskEvent.REJECT, problem=problem)
        return self._failed(live, problem)

    # --- what becomes of a task -----------------------------------------------------------------------------------

    def _stop_attempt(self, live: LiveTask, *, failed: bool = False, measured: bool = True) -> None:
        if live.timer is not None:
            live.timer.cancel()
            live.timer = None
        live.sink = None
        worker = self._scheduler.find_worker(live.agent.rpartition("/")[2])
        if worker is not None:
            now = self.clock.monotonic()
            self._scheduler.finished(worker, now - live.started if measured else None, now, failed=failed)

    def _failed(self, live: LiveTask, problem: Problem) -> bool:
        if live.cancel_requested:
            return self._decide(live, TaskEvent.CANCEL, problem=problem)
        if live.call:
            return self._decide(live, TaskEvent.FAIL, problem=problem)
        after = after_failure(problem, live.spec.retry, live.attempts, self._rng.random())
        if after.event is not TaskEvent.RETRY:
            return self._decide(live, after.event, problem=problem)
        live.problem = problem
        live.next_attempt_time = self.clock.wall() + after.delay
        live.apply(TaskEvent.RETRY, self.clock.wall(), problem.reason)
        live.timer = self._timers.at(self.clock.monotonic() + after.delay, lambda: self._release(live))
        self._spawn(self._write_rows([live]))
        self._tell_watchers(live)
        return False

    def _release(self, live: LiveTask) -> None:
        live.timer = None
        live.next_attempt_time = 0.0
        live.apply(TaskEvent.RELEASE, self.clock.wall())
        self._enqueue(live, first=True)
        self._tell_watchers(live)

    def _timed_out(self, live: LiveTask, timeout: float) -> None:
        if live.finishing or live.sink is None:
            return
        live.sink.cancel(live)
        self._stop_attempt(live, failed=True)
        error = DeadlineExceeded(
            "ATTEMPT_TIMEOUT",
            f"{live.agent} gave no result in {timeout:g} s",
            hint="raise the skill's timeout",
            retryable=True,
        )
        if self._failed(live, error.problem):
            self._spawn(self.commit_ended([live]))

    def _lost(self, live: LiveTask) -> None:
        """The agent of the attempt is gone for good."""
        if live.finishing:
            return
        self._stop_attempt(live, failed=True, measured=False)
        error = Unavailable("AGENT_LOST", f"{live.agent} went away while it worked", hint="see: edgenode agents")
        if live.call:
            self.end_call(live, problem=error.problem)
            return
        event = after_loss(live.spec.on_lost)
        if event is TaskEvent.FAIL:
            ended = self._decide(live, TaskEvent.FAIL, problem=error.problem)
        elif event is TaskEvent.RETRY:
            ended = self._failed(live, error.problem)
        else:
            live.reason = f"AGENT_LOST: waits for {live.agent} to come back with the result"
            self._tell_watchers(live)
            return
        if ended:
            self._spawn(self.commit_ended([live]))

    def _watch_deadline(self, live: LiveTask) -> None:
        if live.spec.deadline:
            left = max(live.spec.deadline - self.clock.wall(), 0.0)
            live.deadline_timer = self._timers.at(self.clock.monotonic() + left, lambda: self._expire(live))

    def _expire(self, live: LiveTask) -> None:
        if live.finishing:
            return
        error = DeadlineExceeded("DEADLINE", f"not done before its deadline; it was {live.state.name}")
        self._withdraw(live)
        if self._decide(live, TaskEvent.EXPIRE, problem=error.problem):
            self._spawn(self.commit_ended([live]))

    def _withdraw(self, live: LiveTask) -> None:
        """Whoever has the task need not go on with it."""
        self._scheduler.discard(live.task_id)
        if live.sink is not None:
            live.sink.cancel(live)
            self._stop_attempt(live, measured=False)
        elif live.call and live.holder and self._uplink is not None:
            self._uplink.cancel_call(live)

    def _decide(
        self,
        live: LiveTask,
        event: TaskEvent,
        *,
        output: task_pb2.TaskOutput | None = None,
        problem: Problem | None = None,
    ) -> bool:
        """Decide a task's end. Calls end here; for stored tasks True asks the caller to `commit_ended`."""
        live.output = output
        live.problem = problem
        live.input_request = None
        live.apply(event, self.clock.wall(), problem.reason if problem is not None else "")
        live.finishing = True
        live.clear_timers()
        if live.call:
            self._forget(live)
            return False
        live.level = Level.DONE
        return True

    async def commit_ended(self, lives: Sequence[LiveTask]) -> None:
        """Store decided ends, then tell everyone. Returns after the commit, however often it must be tried."""
        await self._write_rows(lives, self._reports(lives))
        for live in lives:
            self._forget(live)

    def _reports(self, lives: Iterable[LiveTask]) -> list[sync_pb2.TaskEntry]:
        return [task_entries.report(live, self.node) for live in lives if live.fence]

    def _forget(self, live: LiveTask) -> None:
        self.live.pop(live.task_id, None)
        self._tell_watchers(live)
        self._tell_level(live)
        for listener in live.listeners:
            listener(live)

    async def _write_rows(
        self, lives: Sequence[LiveTask], entries: Sequence[sync_pb2.TaskEntry] = (), *, offered: bool = False
    ) -> None:
        """Store tasks as they stand, and entries for the hub, in one transaction; again until the store takes it."""
        rows = [task_store.update_row(live) for live in lives]
        dead = [live for live in lives if live.state is TaskState.DEAD_LETTERED]

        def store(connection: sqlite3.Connection) -> int:
            task_store.update(connection, rows)
            for live in dead:
                self._on_dead_letter(connection, live)
            return task_entries.append(connection, TASK_LOG, entries, self.clock.wall())

        while True:
            try:
                last = await self.database.write(store)
                break
            except EdgenodeError as error:
                if error.reason == "STORE_CLOSED":
                    raise
                _log.error("could not store %d task changes, trying again: %s", len(rows), error)
                await self._pause(_STORE_RETRY)
        if last and self._uplink is not None:
            if offered:
                for number, live in enumerate(lives):
                    live.offer_sequence = last - len(lives) + 1 + number
                    self._offered.append((live.offer_sequence, live))
            self._uplink.appended(last)

    # --- requests -------------------------------------------------------------------------------------------------

    async def cancel(self, task_id: str, reason: str) -> None:
        """Note the wish and act on it. Unknown and ended tasks are left alone."""
        live = self.live.get(task_id)
        if live is None or live.finishing:
            return
        live.cancel_requested = True
        problem = Cancelled("CANCELLED", reason or "cancelled on request").problem
        if live.holder:
            await self._write_rows([live], [task_entries.cancel(live, reason)])
        elif live.sink is not None:
            await self._write_rows([live])
            if live.sink is not None:
                live.sink.cancel(live)
                self._timers.at(self.clock.monotonic() + CANCEL_GRACE, lambda: self._cancel_now(live, problem))
        else:
            self._scheduler.discard(task_id)
            if self._decide(live, TaskEvent.CANCEL, problem=problem):
                await self.commit_ended([live])
            return
        self._tell_watchers(live)

    def _cancel_now(self, live: LiveTask, problem: Problem) -> None:
        """The agent did not stop in time; whatever it still says is refused."""
        if live.finishing or live.state.terminal:
            return
        self._withdraw(live)
        if self._decide(live, TaskEvent.CANCEL, problem=problem):
            self._spawn(self.commit_ended([live]))

    def cancel_call(self, live: LiveTask) -> None:
        """Nobody waits for the call any more."""
        if not live.finishing:
            live.listeners.clear()
            self._withdraw(live)
            self._decide(live, TaskEvent.CANCEL, problem=Cancelled("CANCELLED", "the caller went away").problem)

    def end_call(
        self,
        live: LiveTask,
        *,
        output: task_pb2.TaskOutput | None = None,
        problem: Problem | None = None,
        agent: str = "",
    ) -> None:
        """A call's answer came, or it cannot come any more."""
        if live.finishing:
            return
        self._scheduler.discard(live.task_id)
        live.agent = agent or live.agent
        if live.holder or live.state not in (TaskState.ASSIGNED, TaskState.WORKING, *_ASK):
            live.state = TaskState.WORKING
        self._decide(live, TaskEvent.FAIL if output is None else TaskEvent.SUCCEED, output=output, problem=problem)

    async def provide_input(self, task_id: str, key: str, value: task_pb2.TaskOutput) -> None:
        """Answer a question. Raises NotFound (UNKNOWN_TASK), FailedPrecondition (NO_INPUT_REQUESTED)."""
        live = self.live.get(task_id)
        if live is None:
            raise NotFound("UNKNOWN_TASK", f"no task {task_id} waits here", hint="see: edgenode tasks list")
        asked = live.input_request.key if live.input_request is not None and live.state in _ASK else ""
        if live.finishing or asked != key or not key:
            raise FailedPrecondition(
                "NO_INPUT_REQUESTED", f"the task asks {asked!r}" if asked else f"the task is {live.state.name}"
            )
        live.answers[key] = value
        live.input_request = None
        live.apply(TaskEvent.BEGIN, self.clock.wall())
        entries = [task_entries.answer(live, key, value)] if live.holder else self._reports([live])
        await self._write_rows([live], entries)
        if live.sink is not None:
            live.sink.answer(live, key, value)
        self._tell_watchers(live)

    # --- the hub --------------------------------------------------------------------------------------------------

    def hub_acknowledged(self, sequence: int) -> None:
        """The hub has committed the task log up to `sequence`."""
        while self._offered and self._offered[0][0] <= sequence:
            _, live = self._offered.popleft()
            self._raise_level(live, Level.DURABLE_HUB)

    def absorb(self, absorbed: task_entries.Absorbed) -> None:
        """Follow what the transaction stored of the hub's entries."""
        for live in absorbed.grants:
            self._take_grant(live)
        for entry in absorbed.entries:
            kind = entry.WhichOneof("entry")
            if kind == "report":
                self._follow_report(entry.report.task)
            elif kind == "cancel":
                self._spawn(self.cancel(entry.cancel.task_id, entry.cancel.reason))
            elif kind == "revoke":
                self._revoked(entry.revoke)
            elif kind == "answer":
                self._take_answer(entry.answer)
        if absorbed.last_appended and self._uplink is not None:
            self._uplink.appended(absorbed.last_appended)

    def _take_grant(self, live: LiveTask) -> None:
        old = self.live.get(live.task_id)
        if old is not None:
            # The hub gave this node's own task back to it, or granted it anew.
            self._withdraw(old)
            old.clear_timers()
            live.listeners, live.watchers, live.level_waiters = old.listeners, old.watchers, old.level_waiters
            live.sequence = old.sequence + 1
            live.request_id, live.fingerprint = old.request_id, old.fingerprint
        self.live[live.task_id] = live
        self._watch_deadline(live)
        self._enqueue(live)

    def _follow_report(self, task: task_pb2.Task) -> None:
        live = self.live.get(task.task_id)
        if live is None or live.finishing:
            return
        live.attempts, live.agent, live.holder = task.attempt_count, task.agent, task.holder_node or live.holder
        live.output = task.output if task.HasField("output") else None
        live.problem = problem_from_pb(task.problem) if task.HasField("problem") else None
        live.input_request = task.input_request if task.HasField("input_request") else None
        live.enter(TaskState(task.state), self.clock.wall(), task.state_reason)
        if live.state.terminal:
            live.finishing = True
            live.level = Level.DONE
            live.clear_timers()
            self._forget(live)
        else:
            self._raise_level(live, Level.DURABLE_HUB)
            self._tell_watchers(live)

    def follow_progress(self, task: task_pb2.Task) -> None:
        """A notice of a task that runs elsewhere."""
        live = self.live.get(task.task_id)
        if live is not None and live.holder and not live.finishing:
            live.agent, live.attempts = task.agent, task.attempt_count
            live.progress = task.progress
            if live.state is TaskState.QUEUED:
                live.enter(TaskState.WORKING, self.clock.wall())
            self._raise_level(live, Level.DELIVERED)
            self._tell_watchers(live)

    def _revoked(self, revoke: sync_pb2.TaskRevoke) -> None:
        live = self.live.get(revoke.task_id)
        if live is None or live.finishing or live.fence > revoke.fence:
            return
        self._withdraw(live)
        live.clear_timers()
        if live.origin == self.node:
            live.holder, live.fence = _HUB, 0
            live.enter(TaskState.QUEUED, self.clock.wall(), "AT_HUB")
            self._watch_deadline(live)
        else:
            self.live.pop(live.task_id, None)

    def _take_answer(self, given: sync_pb2.TaskAnswer) -> None:
        live = self.live.get(given.task_id)
        if live is None or live.finishing:
            return
        live.answers[given.key] = given.answer
        if live.state in _ASK and live.input_request is not None and live.input_request.key == given.key:
            live.input_request = None
            live.apply(TaskEvent.BEGIN, self.clock.wall())
        if live.sink is not None:
            live.sink.answer(live, given.key, given.answer)

    # --- followers and timers -------------------------------------------------------------------------------------

    def _tell_watchers(self, live: LiveTask) -> None:
        for watcher in tuple(live.watchers):
            watcher(live)

    def _raise_level(self, live: LiveTask, level: Level) -> None:
        if level > live.level:
            live.level = level
            self._tell_level(live)

    def _tell_level(self, live: LiveTask) -> None:
        for waiter in tuple(live.level_waiters):
            waiter(live)

    def _set_alarm(self, when: float) -> None:
        if self._alarm is not None:
            self._alarm.cancel()
        delay = max(when - self.clock.monotonic(), 0.0)
        self._alarm = asyncio.get_running_loop().call_later(delay, self._ring)

    def _ring(self) -> None:
        self._alarm = None
        self._timers.run_due(self.clock.monotonic())
        due = self._timers.next_due()
        if due is not None and not self._stopped:
            self._set_alarm(due)

    async def _pause(self, seconds: float) -> None:
        passed = asyncio.Event()
        timer = self._timers.at(self.clock.monotonic() + seconds, passed.set)
        try:
            await passed.wait()
        finally:
            timer.cancel()

    def _sweep(self) -> None:
        self._timers.at(self.clock.monotonic() + SWEEP_INTERVAL, self._sweep)
        before = self.clock.wall() - self.settings.retention

        async def run() -> None:
            try:
                while await self.database.write(lambda connection: task_store.sweep(connection, before)):
                    pass
            except EdgenodeError as error:
                _log.warning("could not sweep ended tasks: %s", error)

        self._spawn(run())

    def _spawn(self, work: Coroutine[Any, Any, None]) -> None:
        task = asyncio.get_running_loop().create_task(work)
        self._background.add(task)
        task.add_done_callback(self._background_done)

    def _background_done(self, task: asyncio.Task[None]) -> None:
        self._background.discard(task)
        if not task.cancelled() and (error := task.exception()) is not None:
            _log.error("background work failed", exc_info=error)


def _store_new(
    connection: sqlite3.Connection,
    rows: Sequence[task_store.Row],
    offers: Sequence[sync_pb2.TaskEntry | None],
    now_time: float,
) -> tuple[list[task_store.Known | None], list[int]]:
    """Insert rows and append the offers of those that are new; (known rows, offer sequences or 0)."""
    known = task_store.insert(connection, rows)
    new_offers = [
        (number, offer)
        for number, (found, offer) in enumerate(zip(known, offers, strict=True))
        if found is None and offer is not None
    ]
    sequences = [0] * len(rows)
    last = task_entries.append(connection, TASK_LOG, [offer for _, offer in new_offers], now_time)
    for position, (number, _) in enumerate(new_offers):
        sequences[number] = last - len(new_offers) + 1 + position
    task_store.set_offer_sequences(connection, [(sequences[number], rows[number][0]) for number, _ in new_offers])
    return known, sequences
