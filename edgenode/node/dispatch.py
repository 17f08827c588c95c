"""Which agent gets which task, and what becomes of each attempt."""

from __future__ import annotations

import asyncio
import math
from collections.abc import Callable, Sequence
from functools import lru_cache, partial
from operator import attrgetter

from edgenode.api.task.v1 import task_pb2
from edgenode.link.errors import Cancelled, DeadlineExceeded, FailedPrecondition, Unavailable
from edgenode.link.failpoints import Failpoint, reach
from edgenode.link.model import selector
from edgenode.link.model.agent import Health
from edgenode.link.model.names import agent_resource
from edgenode.link.model.problem import Problem
from edgenode.link.model.task import OnLost, Scope, TaskSpec, TaskState
from edgenode.link.ports import Rng
from edgenode.link.protocol.scheduler import Demand, Scheduler, Worker
from edgenode.link.protocol.tasks import TaskEvent, after_failure, after_loss
from edgenode.link.wire import pieces
from edgenode.node.call_stream import take_pieces
from edgenode.node.registry import AgentRegistry, LocalAgent
from edgenode.node.task_book import TaskBook
from edgenode.node.task_state import ASKING, ASSIGN, COMPLETED, DELIVERED, FAILED, SUCCEED, LiveTask, WorkerStream

AT_ONCE = 4  # tasks handed out of turn while something urgent is about, if no more of them are prompt
FIT_LIMIT = 4096  # demands remembered as fit or not
UNSENT_BYTES = 4 << 20  # of assignments that an agent's stream has not written: beyond that it gets no more
_WORKING_HEALTH = (Health.READY, Health.DEGRADED)
_RUNNING = (TaskState.ASSIGNED, TaskState.WORKING, *ASKING)

_selector = lru_cache(1024)(selector.parse)


class Dispatcher:
    """Queues, attached agents and attempts under way. `to_hub` takes tasks that only the hub can find an agent for."""

    def __init__(
        self,
        book: TaskBook,
        registry: AgentRegistry,
        rng: Rng,
        to_hub: Callable[[Sequence[LiveTask]], None],
    ) -> None:
        self._book = book
        self._registry = registry
        self._rng = rng
        self._to_hub = to_hub
        self._scheduler: Scheduler[LiveTask] = Scheduler(self._fit_agents, rng, attrgetter("load"), UNSENT_BYTES)
        self._streams: dict[str, WorkerStream] = {}
        self._parked: set[Demand] = set()  # demands nobody here fits
        self._settled = 0.0  # until then agents of before the restart may come back
        self._fit: dict[Demand, bool] = {}  # whether somebody here fits, until an agent changes
        self._noting: set[str] = set()  # tasks whose hand-over is being stored
        self._pump_due = False
        self._pump_now = False
        self._prompt: set[str] = set()  # queued tasks that go before others
        self._closed = False
        self.on_load: Callable[[str], None] = lambda agent: None

    def start(self) -> None:
        """Listen to the registry. Agents that were here before a restart get time to come back."""
        self._settled = self._book.clock.monotonic() + self._book.settings.lost_grace
        self._book.after(self._book.settings.lost_grace, self._settle)
        self._registry.on_change(self._agent_changed)
        self._registry.on_renewal = self._book.turns.urgent
        self._registry.load_of = self.load_of

    def close(self, problem: Problem) -> None:
        """Begin no more attempts: what is stored runs after the next start, queued calls end with `problem`."""
        self._closed = True
        for demand in self._scheduler.demands():
            for live in self._scheduler.items(demand):
                if live.call:
                    self.end_call(live, problem=problem)

    def offers(self, spec: TaskSpec) -> bool:
        """Whether a task that nobody fits here is the hub's to place."""
        return spec.scope is Scope.FLEET and self._book.uplink is not None

    def discard(self, live: LiveTask) -> None:
        """Take a task out of its queue, if it is queued."""
        self._scheduler.discard(live.task_id)
        self._prompt.discard(live.task_id)

    def enqueue(self, live: LiveTask, *, first: bool = False) -> None:
        """Let it wait for an agent here; what nobody here fits is parked, sent to the hub or ended (calls)."""
        if not self.fits(live.demand):
            self._park(live.demand, [live])
            if live.holder or not self._book.has(live):
                return
        self.push(live, first=first)

    def push(self, live: LiveTask, *, first: bool = False) -> None:
        """Let it wait for an agent here; that somebody here fits was looked at."""
        self._scheduler.push(live.task_id, live.demand, live.spec.priority, live, first=first)
        if live.prompt:
            if not (self._pump_now and self._prompt):  # else one of them has said so
                self._book.turns.urgent()
                self._kick()
            self._prompt.add(live.task_id)
        elif not self._pump_due:
            self._kick(now=False)

    def fits(self, demand: Demand) -> bool:
        """Whether an agent of this node may take such a task now or soon."""
        known = self._fit.get(demand)
        if known is None:
            if len(self._fit) >= FIT_LIMIT:
                self._fit.clear()
            known = self._fit[demand] = bool(self._fit_agents(demand))
        return known

    def _kick(self, *, now: bool = True) -> None:
        """Hand out work: soon, or behind the bulk work that waits for its turn."""
        if self._closed:
            return
        if not now and not self._pump_due:
            self._pump_due = True
            self._book.turns.soon(self._pump_in_turn)
        elif now and not self._pump_now:
            self._pump_now = True
            asyncio.get_running_loop().call_soon(self.hand_out)

    def _pump_in_turn(self) -> None:
        self._pump_due = False
        self._pump(self._book.turns.size)

    def hand_out(self) -> None:
        """Hand out now what would be as soon as the loop comes by again; nothing if nothing would."""
        if not self._pump_now:
            return
        self._pump_now = False
        self._pump(self._book.turns.size if self._book.turns.calm else max(len(self._prompt), AT_ONCE))

    def _pump(self, most: int) -> None:
        """Hand out so many, what is urgent first."""
        if self._closed:
            return
        assigned = self._scheduler.assign(self._book.clock.monotonic(), most)
        stored = [pair for worker, lives in assigned.items() for pair in self._begin(worker, lives)]
        if stored:
            self._noting.update(live.task_id for live, _ in stored)
            self._book.spawn(self._hand_over_stored(stored))
        if self._prompt:
            self._prompt.difference_update(live.task_id for lives in assigned.values() for live in lives)
        if self._scheduler and sum(map(len, assigned.values())) == most:
            self._kick(now=bool(self._prompt))

    def _begin(self, worker: Worker, lives: Sequence[LiveTask]) -> list[tuple[LiveTask, Worker]]:
        """Begin an attempt of each and hand them over, but for those returned: they are to be stored first."""
        now, now_time = self._book.clock.monotonic(), self._book.clock.wall()
        agent = self._registry.get(worker.name)
        instance, noted = (agent.instance_id, agent.attempts_stored) if agent is not None else ("", ())
        resource = agent_resource(self._book.node, worker.name)
        ready: list[LiveTask] = []
        stored: list[tuple[LiveTask, Worker]] = []
        for live in lives:
            live.attempts += 1
            live.progress, live.pieces_told = None, 0
            live.agent, live.agent_instance = resource, instance
            live.worker = worker
            live.started = now
            live.apply(ASSIGN, now_time)
            spec = live.spec
            if live.call or (spec.on_lost is OnLost.RETRY and spec.skill not in noted):
                ready.append(live)
            else:
                stored.append((live, worker))
        self.on_load(worker.name)
        self._hand_over(worker, ready)
        return stored

    async def _hand_over_stored(self, pairs: Sequence[tuple[LiveTask, Worker]]) -> None:
        """Work that must not run twice, or not without its agent's knowing, is known to the store before an agent sees it."""
        try:
            await self._book.write([live for live, _ in pairs])
        finally:
            self._noting.difference_update(live.task_id for live, _ in pairs)
        reach(Failpoint.HANDOVER_NOTED)
        untouched: list[LiveTask] = []
        for live, worker in pairs:
            wanted = self._book.has(live)
            if wanted and not self._closed and self._scheduler.find_worker(worker.name) is worker:
                self._hand_over(worker, [live])
                continue
            # It ended or went elsewhere meanwhile, or the agent did: no agent has seen it.
            live.worker = None
            self._scheduler.finished(worker, None, self._book.clock.monotonic())
            self._scheduler.add_room(worker, live.load)
            self._add_credits(worker, 1)
            if wanted:
                self._untouched(live)
                untouched.append(live)
        if untouched:
            await self._store_untouched(untouched)

    def _untouched(self, live: LiveTask) -> None:
        """No agent has seen the attempt."""
        live.attempts -= 1
        live.worker = None
        live.agent = live.agent_instance = ""
        live.apply(TaskEvent.RELEASE, self._book.clock.wall())
        self.enqueue(live, first=True)

    def _hand_over(self, worker: Worker, lives: Sequence[LiveTask]) -> None:
        stream = self._streams[worker.name]
        agent = self._registry.get(worker.name)
        timeouts = agent.skill_timeouts if agent is not None else {}
        now = self._book.clock.monotonic()
        for live in lives:
            spec, deadline = live.spec, live.deadline_timer
            timeout = spec.attempt_timeout or timeouts.get(spec.skill, 0.0) or self._book.settings.attempt_timeout
            live.sink = stream
            left = math.inf if deadline is None else deadline.when - now
            if timeout < left:  # else it ends before at its deadline
                live.timer = self._book.after(timeout, partial(self._timed_out, live, timeout))
            elif spec.deadline:
                timeout = max(left, 0.001)
            stream.assign(live, timeout)
            if live.fence and self._book.uplink is not None:
                self._book.uplink.send_progress(live)
            if live.level < DELIVERED:
                self._book.raise_level(live, DELIVERED)

    def _fit_agents(self, demand: Demand) -> list[str]:
        return [
            agent.name
            for agent in self._registry.with_skill(demand.skill)
            if agent.health in _WORKING_HEALTH and self._unfit_reason(agent, demand) is None
        ]

    def _unfit_reason(self, agent: LocalAgent, demand: Demand) -> str | None:
        if demand.agent and demand.agent != agent_resource(self._book.node, agent.name):
            return f"it is for {demand.agent}"
        if demand.cost_limit is not None and agent.cost > demand.cost_limit:
            return f"{agent.name} costs {agent.cost:g}, the limit is {demand.cost_limit:g}"
        if demand.selector and not _selector(demand.selector).matches(agent.labels):
            return f"{agent.name} does not match {demand.selector!r}"
        return None

    def why_parked(self, demand: Demand) -> str:
        """Why nobody here fits, for people."""
        agents = self._registry.with_skill(demand.skill)
        if not agents:
            return f"no agent has skill {demand.skill}"
        reasons = [self._unfit_reason(agent, demand) or f"{agent.name} is {agent.health.name}" for agent in agents]
        return "; ".join(sorted(reasons)[:3])

    def _agent_changed(self, agent: str) -> None:
        stream = self._streams.get(agent)
        if stream is not None:
            stream.agent_changed()
        self._reconsider()

    def _reconsider(self) -> None:
        """Agents came, went or changed: wake what somebody fits again; park, offer or end what nobody does any more."""
        self._scheduler.changed()
        self._fit.clear()
        demands = self._scheduler.demands()
        self._parked.intersection_update(demands)
        for demand in demands:
            fit = self.fits(demand)
            if fit == (demand not in self._parked):
                continue
            if fit:
                self._parked.discard(demand)
                for live in self._scheduler.items(demand):
                    live.apply(TaskEvent.RELEASE, self._book.clock.wall())
                    self._book.tell_watchers(live)
            else:
                self._park(demand, self._scheduler.items(demand))
        self._kick()

    def _park(self, demand: Demand, lives: Sequence[LiveTask]) -> None:
        """Nobody here fits these."""
        why = self.why_parked(demand)
        to_hub: list[LiveTask] = []
        settled = self._book.uplink is not None and self._book.clock.monotonic() >= self._settled
        for live in lives:
            if live.call:
                self.end_call(live, problem=Unavailable("NO_AGENT", why, hint="see: edgenode find --explain").problem)
            elif settled and (live.fence or self.offers(live.spec)):
                to_hub.append(live)
            else:
                self._parked.add(demand)
                live.apply(TaskEvent.PARK, self._book.clock.wall(), f"NO_AGENT: {why}")
                self._book.tell_watchers(live)
        if to_hub:
            self._to_hub(to_hub)

    def _settle(self) -> None:
        """Agents had time to come back after the start: what nobody fits may now go to the hub."""
        for demand in list(self._parked):
            self._park(demand, self._scheduler.items(demand))

    def load_of(self, agent: str) -> tuple[int, int, float | None]:
        """(in flight, queued for its skills, latency in seconds) of an agent of this node."""
        worker = self._scheduler.find_worker(agent)
        record = self._registry.get(agent)
        depth = sum(self._scheduler.depth(skill) for skill in record.skills) if record and len(self._scheduler) else 0
        if worker is None:
            return 0, depth, None
        latency = worker.latency.at(self._book.clock.monotonic())
        return worker.in_flight, depth, latency or None

    def attach(self, agent: str, stream: WorkerStream) -> None:
        """An agent's stream opened; it gets work once it has credit. One stream an agent: the newer one counts."""
        old = self._streams.get(agent)
        if old is not None:
            self.detach(agent, old)
            old.replaced()
        self._streams[agent] = stream
        self._scheduler.worker(agent)
        self._kick()

    def adopt(self, agent: str, stream: WorkerStream, task_id: str, attempt: int, fence: int) -> LiveTask | None:
        """The agent still works on an attempt from before; the task, or None if it must stop."""
        live = self._book.live.get(task_id)
        if live is None or live.call or live.finishing or live.holder or live.fence != fence:
            return None
        if live.sink is not None or attempt < max(live.attempts, 1):
            return None
        if live.state in (TaskState.QUEUED, TaskState.PARKED):
            self.discard(live)
            live.apply(TaskEvent.ASSIGN, self._book.clock.wall(), "REATTACHED")
        elif live.state is TaskState.RETRY_WAIT or attempt != live.attempts:
            return None
        if live.timer is not None:
            live.timer.cancel()
        live.attempts = attempt
        live.agent = agent_resource(self._book.node, agent)
        live.agent_instance = ""  # it was seen
        live.worker = self._scheduler.worker(agent)
        live.sink = stream
        live.started = self._book.clock.monotonic()
        live.worker.in_flight += 1
        timeout = live.spec.attempt_timeout or self._book.settings.attempt_timeout
        live.timer = self._book.after(timeout, lambda: self._timed_out(live, timeout))
        return live

    def unclaimed(self, agent: str, instance: str) -> None:
        """A process of the agent is back and has named what it works on: what else was handed to the agent it does not have.

        The process it was handed to never saw it: the node or the stream went before the assignment arrived, so it is
        offered again. Any other cannot know whether it ran, and nobody comes with the result any more: it fails.
        """
        name = agent_resource(self._book.node, agent)
        ended: list[LiveTask] = []
        untouched: list[LiveTask] = []
        for live in [live for live in self._book.live.values() if live.agent == name and self._adrift(live)]:
            if live.cancel_requested:
                problem = Cancelled("CANCELLED", "cancelled on request").problem
                self._book.decide(live, TaskEvent.CANCEL, problem=problem)
                ended.append(live)
            elif live.agent_instance == instance and live.state is TaskState.ASSIGNED:
                if live.timer is not None:
                    live.timer.cancel()
                    live.timer = None
                self._untouched(live)
                self._book.tell_watchers(live)
                untouched.append(live)
            else:
                self._book.decide(live, TaskEvent.FAIL, problem=_without_result(live))
                ended.append(live)
        if ended:
            self._book.spawn(self._book.commit_outcomes(ended))
        if untouched:
            self._book.spawn(self._store_untouched(untouched))

    async def _store_untouched(self, lives: Sequence[LiveTask]) -> None:
        await self._book.write([live for live in lives if self._book.has(live)])

    def _adrift(self, live: LiveTask) -> bool:
        """Whether it was handed over and nobody speaks for it now."""
        waiting = live.sink is None and live.state in _RUNNING and live.task_id not in self._noting
        return waiting and not (live.call or live.finishing or live.holder)

    def detach(self, agent: str, stream: WorkerStream) -> None:
        """The agent's stream is gone."""
        if self._streams.get(agent) is stream:
            del self._streams[agent]
            self._scheduler.remove_worker(agent)
        if self._book.stopped:
            return  # it is the node that goes: what ran here is taken up after the next start
        for live in [live for live in self._book.live.values() if live.sink is stream]:
            live.sink = None
            if live.call or live.spec.on_lost is OnLost.RETRY:
                self.lost(live)
            elif not live.finishing:
                if live.timer is not None:
                    live.timer.cancel()
                live.timer = self._book.after(self._book.settings.lost_grace, partial(self.lost, live))

    def add_credits(self, agent: str, stream: WorkerStream, count: int) -> None:
        """The agent can take more, on this stream of its."""
        if self._streams.get(agent) is stream:
            self._add_credits(self._scheduler.worker(agent), count)

    def sent(self, agent: str, stream: WorkerStream, load: int) -> None:
        """The agent's stream has written assignments that count for so much (`load_of`)."""
        if self._streams.get(agent) is stream and self._scheduler.add_room(self._scheduler.worker(agent), load):
            self._kick()

    def _add_credits(self, worker: Worker, count: int) -> None:
        self._scheduler.add_credits(worker, count)
        self._kick()

    def update(self, live: LiveTask, message_progress: task_pb2.TaskProgress | None) -> None:
        """The attempt says that it works, and perhaps how far it has come."""
        if live.finishing or live.state is TaskState.RETRY_WAIT:
            return
        if live.state is TaskState.ASSIGNED:
            live.apply(TaskEvent.BEGIN, self._book.clock.wall())
        if live.call:
            if message_progress is not None and (error := take_pieces(live, message_progress.pieces)) is not None:
                self.withdraw(live)
                self.end_call(live, problem=error.problem)
            return
        if message_progress is not None:
            live.progress = pieces.merge(live.progress, message_progress)
            live.sequence += 1
            if live.fence and self._book.uplink is not None:
                self._book.uplink.send_progress(live)
        self._book.tell_watchers(live)

    async def ask(self, live: LiveTask, request: task_pb2.InputRequest) -> None:
        """The attempt asks its submitter; an answer given to an earlier attempt is handed over at once."""
        known = live.answers.get(request.key)
        if known is not None and live.sink is not None:
            live.sink.answer(live, request.key, known)
            return
        if live.finishing or live.sink is None:
            return  # the attempt ended right after it asked
        live.input_request = request
        event = TaskEvent.ASK_AUTHORIZATION if request.authorization else TaskEvent.ASK
        live.apply(event, self._book.clock.wall())
        await self._book.write([live], self._book.reports([live]))
        self._book.tell_watchers(live)

    def result(
        self,
        live: LiveTask,
        state: TaskState,
        output: task_pb2.TaskOutput | None,
        problem: Problem | None,
    ) -> bool:
        """An attempt ended, as its sink says. True: `commit_outcomes` must store that before the agent may forget it.

        The sink tells of the load (`on_load`), once for all it has heard.
        """
        if live.finishing or live.sink is None:
            return False
        live.sink = None  # which has brought it
        self._attempt_over(live, failed=state is FAILED)
        if state is COMPLETED:
            return self._book.decide(live, SUCCEED, output=output)
        if problem is None:
            problem = FailedPrecondition("NO_PROBLEM", "the agent gave neither result nor problem").problem
        if state is TaskState.REJECTED:
            return self._book.decide(live, TaskEvent.REJECT, problem=problem)
        return self._failed(live, problem)

    def _stop_attempt(self, live: LiveTask, *, failed: bool = False, measured: bool = True) -> None:
        if live.sink is not None:
            live.sink.over(live)
            live.sink = None
        if live.worker is not None:
            self.on_load(live.worker.name)
        self._attempt_over(live, failed=failed, measured=measured)

    def _attempt_over(self, live: LiveTask, *, failed: bool, measured: bool = True) -> None:
        if live.timer is not None:
            live.timer.cancel()
            live.timer = None
        worker, live.worker = live.worker, None
        if worker is not None:
            now = self._book.clock.monotonic()
            self._scheduler.finished(worker, now - live.started if measured else None, now, failed=failed)

    def _failed(self, live: LiveTask, problem: Problem) -> bool:
        """True: `commit_outcomes` must store it."""
        if live.cancel_requested:
            return self._book.decide(live, TaskEvent.CANCEL, problem=problem)
        if live.call:
            return self._book.decide(live, TaskEvent.FAIL, problem=problem)
        after = after_failure(problem, live.spec.retry, live.attempts, self._rng.random())
        if after.event is not TaskEvent.RETRY:
            return self._book.decide(live, after.event, problem=problem)
        live.problem = problem
        live.next_attempt_time = self._book.clock.wall() + after.delay
        live.apply(TaskEvent.RETRY, self._book.clock.wall(), problem.reason)
        live.timer = self._book.after(after.delay, lambda: self.release(live))
        self._book.tell_watchers(live)
        return True

    def release(self, live: LiveTask) -> None:
        """The wait before the next attempt is over."""
        live.timer = None
        live.next_attempt_time = 0.0
        live.apply(TaskEvent.RELEASE, self._book.clock.wall())
        self.enqueue(live, first=True)
        self._book.tell_watchers(live)

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
            self._book.spawn(self._book.commit_outcomes([live]))

    def lost(self, live: LiveTask) -> None:
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
            changed = self._book.decide(live, TaskEvent.FAIL, problem=error.problem)
        elif event is TaskEvent.RETRY:
            changed = self._failed(live, error.problem)
        else:
            live.reason = f"AGENT_LOST: waits for {live.agent} to come back with the result"
            self._book.tell_watchers(live)
            return
        if changed:
            self._book.spawn(self._book.commit_outcomes([live]))

    def watch_deadline(self, live: LiveTask) -> None:
        """End it when its deadline passes.

        The wall clock is asked once, when the task comes or the node starts; from then on time passes as it does, wherever
        that clock is set to. A clock that went back gives a task no more than all the time it ever had.
        """
        if live.spec.deadline:
            left = max(live.spec.deadline - max(self._book.clock.wall(), live.submit_time), 0.0)
            live.deadline_timer = self._book.after(left, partial(self.expire, live))

    def expire(self, live: LiveTask) -> None:
        """Its deadline passed."""
        if live.finishing:
            return
        error = DeadlineExceeded("DEADLINE", f"not done before its deadline; it was {live.state.name}")
        self.withdraw(live)
        if self._book.decide(live, TaskEvent.EXPIRE, problem=error.problem):
            self._book.spawn(self._book.commit_outcomes([live]))

    def withdraw(self, live: LiveTask) -> None:
        """Whoever has the task need not go on with it."""
        self.discard(live)
        if live.sink is not None:
            live.sink.cancel(live)
            self._stop_attempt(live, measured=False)
        elif live.call and live.holder and self._book.uplink is not None:
            self._book.uplink.cancel_call(live)

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
        self.discard(live)
        live.agent = agent or live.agent
        if live.holder or live.state not in _RUNNING:
            live.state = TaskState.WORKING
        self._book.decide(live, TaskEvent.FAIL if output is None else TaskEvent.SUCCEED, output=output, problem=problem)


def _without_result(live: LiveTask) -> Problem:
    return Unavailable(
        "AGENT_LOST",
        f"{live.agent} came back and knows nothing of it; it may have run",
        hint="see whether it did; replay it if not",
    ).problem
