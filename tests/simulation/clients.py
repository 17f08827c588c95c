"""Programs on the devices: publishers, submitters and agents that keep the rules of the contract, and remember everything.

They outlive their node: what was not acknowledged they say again, with the same numbers and keys, until it is.
"""

from __future__ import annotations

import asyncio
import random
from collections import deque
from collections.abc import Coroutine
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import grpc

from edgenode.api.message.v1 import message_pb2
from edgenode.api.message.v1 import message_service_pb2 as messages
from edgenode.api.receipt.v1 import receipt_pb2
from edgenode.api.registry.v1 import registry_service_pb2 as registry
from edgenode.api.task.v1 import task_pb2
from edgenode.api.task.v1 import task_service_pb2 as tasks
from edgenode.link.errors import EdgenodeError
from edgenode.link.model.problem import Code, Problem
from edgenode.link.model.task import TaskState
from edgenode.link.wire.status import from_rpc_error
from edgenode.link.wire.values import problem_to_pb
from tests.simulation.machines import Edge
from tests.simulation.oracle import Attempt, Produced, Submitted
from tests.simulation.rpc import Rpc
from tests.simulation.skew import FUTURE, add_unknown, has_skew

if TYPE_CHECKING:
    from tests.simulation.world import World

DURABLE_HUB = receipt_pb2.RECEIPT_LEVEL_DURABLE_HUB
MAX_UNACKED = 12  # frames


class Program:
    """Something on a device that holds a stream to its node open, for as long as the world lasts."""

    def __init__(self, world: World, edge: Edge, name: str) -> None:
        self.world = world
        self.edge = edge
        self.name = name
        self.rng: random.Random = world.random(name)
        self.rpc: Rpc | None = None
        self._task = world.loop.start(self._live())

    def stop(self) -> None:
        """It ends, without a word to anybody."""
        self._task.cancel()
        if self.rpc is not None:
            self.rpc.cancel()

    async def _live(self) -> None:
        while True:
            wait = self.rng.uniform(0.05, 0.4)
            try:
                self.rpc = await self.connect()
                if self.rpc is not None:
                    await self._together(self.speak(self.rpc), self.listen(self.rpc))
            except grpc.aio.AioRpcError as error:
                refusal = from_rpc_error(error)
                wait = max(wait, refusal.problem.retry_after or 0.0)
                self.refused(refusal)
            finally:
                if self.rpc is not None:
                    self.rpc.cancel()
                    self.rpc = None
            self.disconnected()
            await asyncio.sleep(wait)

    async def _together(self, *work: Coroutine[Any, Any, None]) -> None:
        parts = [asyncio.ensure_future(part) for part in work]
        try:
            done, _ = await asyncio.wait(parts, return_when=asyncio.FIRST_COMPLETED)
            for part in parts:
                if part in done:
                    part.result()
        finally:
            for part in parts:
                part.cancel()
            await asyncio.gather(*parts, return_exceptions=True)

    async def connect(self) -> Rpc | None:
        """Open the stream; None while the node is away."""
        raise NotImplementedError

    async def speak(self, rpc: Rpc) -> None:
        """Write, to the end of the stream."""
        raise NotImplementedError

    async def listen(self, rpc: Rpc) -> None:
        """Read, to the end of the stream."""
        raise NotImplementedError

    def refused(self, error: EdgenodeError) -> None:
        """The node ended the stream with an error."""

    def disconnected(self) -> None:
        """The stream is over."""


class Publisher(Program):
    """Publishes numbered messages under a producer id."""

    def __init__(self, world: World, edge: Edge, name: str, *, wants_hub: bool) -> None:
        self._wants_hub = wants_hub
        self._generation = 0
        self._unacked: deque[tuple[int, int, message_pb2.MessageBatch]] = deque()  # first, last, messages
        self._more = asyncio.Event()
        self.produced = self._begin(world, edge, name)
        super().__init__(world, edge, name)

    def _begin(self, world: World, edge: Edge, name: str) -> Produced:
        self._generation += 1
        return world.oracle.producer(f"{name}.{self._generation}", edge.name)

    def publish(self, count: int, size: int, bad: bool = False) -> None:
        """A frame of `count` messages, one of them perhaps one that must be refused."""
        if len(self._unacked) >= MAX_UNACKED:
            return
        first = self.produced.sent + 1
        batch = message_pb2.MessageBatch()
        for number in range(first, first + count):
            payload = f"{self.produced.producer}/{number}/".encode() + b"." * size
            topic = f"load.{self.edge.name}.{number % 3}"
            if bad and number == first:
                topic = "no topic!"
                self.produced.refused.add(number)
            message = batch.messages.add(topic=topic, key=str(number % 2), payload=payload)
            if has_skew(self.world.seed):
                add_unknown(message)
        self.produced.sent += count
        self._unacked.append((first, first + count - 1, batch))
        self._more.set()

    async def connect(self) -> Rpc | None:
        """See Program."""
        return self.edge.call(lambda s: s.messages.Publish, messages.PublishRequest, messages.PublishResponse)

    async def speak(self, rpc: Rpc) -> None:
        """See Program."""
        level = DURABLE_HUB if self._wants_hub else receipt_pb2.RECEIPT_LEVEL_DURABLE_LOCAL
        opening = messages.PublishRequest(producer_id=self.produced.producer, ack_level=level)
        written = 0
        await rpc.write(opening)
        while True:
            for first, last, batch in list(self._unacked):
                if last > written:
                    await rpc.write(messages.PublishRequest(first_sequence=first, batch=batch))
                    written = last
            await self._more.wait()
            self._more.clear()

    async def listen(self, rpc: Rpc) -> None:
        """See Program."""
        while (response := await rpc.read()) is not grpc.aio.EOF:
            for rejection in response.rejections:
                self.world.check(
                    rejection.sequence in self.produced.refused,
                    f"{self.produced.producer}: message {rejection.sequence} was refused: {rejection.problem.reason}",
                )
            if response.durable_local_sequence:
                self.world.oracle.acknowledged(self.produced, response.durable_local_sequence, self.edge)
            if response.durable_hub_sequence:
                self.world.oracle.hub_acknowledged(self.produced, response.durable_hub_sequence)
            settled = self.produced.hub_acked if self._wants_hub else self.produced.acked
            while self._unacked and self._unacked[0][1] <= settled:
                self._unacked.popleft()

    def refused(self, error: EdgenodeError) -> None:
        """See Program. A node that has forgotten numbers it acknowledged gets a new producer."""
        if error.reason == "SEQUENCE_GAP":
            self.world.oracle.forgotten(self.produced)
            self.produced = self._begin(self.world, self.edge, self.name)
            waiting, self._unacked = self._unacked, deque()
            for _, _, batch in waiting:
                self.publish(len(batch.messages), 10)

    @property
    def settled(self) -> bool:
        """Whether everything is acknowledged at the level asked for."""
        return not self._unacked


class Submitter(Program):
    """Submits tasks and calls, and waits for their outcomes."""

    def __init__(self, world: World, edge: Edge, name: str) -> None:
        self._numbers = 0
        self._open: dict[int, Submitted] = {}
        self._queue: deque[int] = deque()
        self._more = asyncio.Event()
        super().__init__(world, edge, name)

    def submit(self, spec: task_pb2.TaskSpec, *, call: bool = False) -> None:
        """A task, or a call."""
        self._numbers += 1
        number = self._numbers
        if not call:
            spec.idempotency_key = f"{self.name}/{number}"
        submitted = Submitted(f"{self.name}/{number}", self.edge.name, spec, call=call, time=self.world.loop.now)
        self.world.oracle.submitted(submitted)
        self._open[number] = submitted
        self._queue.append(number)
        self._more.set()

    async def connect(self) -> Rpc | None:
        """See Program."""
        self._queue = deque(self._open)
        return self.edge.call(lambda s: s.tasks.SubmitTasks, tasks.SubmitTasksRequest, tasks.SubmitTasksResponse)

    async def speak(self, rpc: Rpc) -> None:
        """See Program."""
        while True:
            request = tasks.SubmitTasksRequest()
            while self._queue:
                number = self._queue.popleft()
                submitted = self._open.get(number)
                if submitted is not None:
                    submitted.sent = True
                    request.submissions.add(
                        correlation_id=number, spec=submitted.spec, call=submitted.call, want_outcome=True
                    )
            if request.submissions:
                await rpc.write(request)
            await self._more.wait()
            self._more.clear()

    async def listen(self, rpc: Rpc) -> None:
        """See Program."""
        while (response := await rpc.read()) is not grpc.aio.EOF:
            for receipt in response.receipts:
                submitted = self._open.get(receipt.correlation_id)
                if submitted is not None:
                    self.world.oracle.receipt(submitted, receipt.task_id, receipt.level)
            for outcome in response.outcomes:
                submitted = self._open.get(outcome.correlation_id)
                if submitted is not None and self.world.oracle.outcome(submitted, outcome):
                    del self._open[outcome.correlation_id]
                elif submitted is not None:
                    submitted.past = outcome.problem.reason == "PAST_DEADLINE"
                    self.world.loop.later(1.0, self._again, outcome.correlation_id)

    def _again(self, number: int) -> None:
        submitted = self._open.get(number)
        if submitted is not None and submitted.past and submitted.task_id:
            self.world.loop.start(self._look(number, submitted))
        elif submitted is not None:
            self._queue.append(number)
            self._more.set()

    async def _look(self, number: int, submitted: Submitted) -> None:
        """Its deadline has passed, so it is not submitted again: ask what became of it."""
        request = tasks.GetTaskRequest(task_id=submitted.task_id)
        rpc = self.edge.call(lambda s: s.tasks.GetTask, tasks.GetTaskRequest, tasks.GetTaskResponse, request)
        try:
            task = (await rpc.read()).task if rpc is not None else None
        except grpc.aio.AioRpcError as error:
            if from_rpc_error(error).reason == "UNKNOWN_TASK":
                forgetful = self.edge.name in self.world.oracle.excused_edges
                self.world.check(forgetful, f"{submitted.key} is not known any more")
                self._open.pop(number, None)
                submitted.gone = True
                return
            task = None
        if task is None or not TaskState(task.state).terminal:
            self.world.loop.later(1.0, self._again, number)
        elif number in self._open:
            del self._open[number]
            outcome = tasks.SubmissionOutcome(task_id=task.task_id, state=task.state, output=task.output)
            self.world.oracle.outcome(submitted, outcome)

    def disconnected(self) -> None:
        """See Program. A call dies with its stream."""
        for number, submitted in list(self._open.items()):
            if submitted.call and submitted.sent:
                del self._open[number]

    @property
    def open(self) -> list[Submitted]:
        """What has no outcome yet."""
        return list(self._open.values())


@dataclass
class _Job:
    key: tasks.AttemptKey
    result: tasks.AttemptResult | None = None
    cancelled: bool = field(default=False)


class Agent(Program):
    """Registers, works, and keeps results until they are confirmed. `crash` forgets everything but the name."""

    def __init__(self, world: World, edge: Edge, name: str, skills: list[str], capacity: int) -> None:
        self._skills = skills
        self._capacity = capacity
        self.incarnation = 0
        self.instance = ""
        self._jobs: dict[tuple[str, int, int], _Job] = {}
        self._results: deque[tuple[str, int, int]] = deque()
        self._credit = 0
        self._more = asyncio.Event()
        self.attached = False
        self.away = False
        self.gone = False  # it never comes back
        self._new_instance()
        super().__init__(world, edge, name)

    def _new_instance(self) -> None:
        self.incarnation += 1
        self.instance = f"i{self.incarnation}"
        self._jobs.clear()
        self._results.clear()

    def crash(self) -> None:
        """Another instance begins."""
        self.world.note(self.name, "crashes")
        for task_id, _, _ in self._jobs:
            self.world.oracle.abandoned.add(task_id)
        self._new_instance()
        if self.rpc is not None:
            self.rpc.break_off()

    def leave(self) -> None:
        """It deregisters and does not come back before `come_back`."""
        self.away = True
        for task_id, _, _ in self._jobs:
            self.world.oracle.abandoned.add(task_id)
        if self.rpc is not None:
            self.rpc.break_off()

    def can(self, skill: str) -> bool:
        """Whether it does this, and is or will be there."""
        return skill in self._skills and not self.gone

    def come_back(self) -> None:
        """See leave."""
        self.away = self.gone

    async def connect(self) -> Rpc | None:
        """See Program."""
        self.attached = False
        if self.away:
            await self._deregister()
            return None
        if not await self._register():
            return None
        return self.edge.call(lambda s: s.tasks.WorkTasks, tasks.WorkTasksRequest, tasks.WorkTasksResponse)

    async def _register(self) -> bool:
        request = registry.RegisterAgentRequest(
            instance_id=self.instance,
            incarnation=self.incarnation,
            capacity_count=self._capacity,
            labels={"edge": self.edge.name},
        )
        request.card.name = self.name
        for skill in self._skills:
            request.card.skills.add(id=skill, name=skill)
        rpc = self.edge.call(
            lambda s: s.registry.RegisterAgent,
            registry.RegisterAgentRequest,
            registry.RegisterAgentResponse,
            request,
        )
        if rpc is None:
            return False
        await rpc.read()
        return True

    async def _deregister(self) -> None:
        if self._jobs or self.incarnation:
            request = registry.DeregisterAgentRequest(agent=self.name)
            rpc = self.edge.call(
                lambda s: s.registry.DeregisterAgent,
                registry.DeregisterAgentRequest,
                registry.DeregisterAgentResponse,
                request,
            )
            if rpc is not None:
                await rpc.read()
                self._new_instance()

    async def speak(self, rpc: Rpc) -> None:
        """See Program."""
        first = tasks.WorkTasksRequest(credit_count=max(self._capacity - self._running(), 0))
        first.attach.agent = self.name
        first.attach.instance_id = self.instance
        first.attach.attempts.extend(job.key for job in self._jobs.values())
        self._credit = 0
        await rpc.write(first)
        self._results = deque(key for key, job in self._jobs.items() if job.result is not None)
        while True:
            request = tasks.WorkTasksRequest(credit_count=self._credit)
            self._credit = 0
            while self._results:
                job = self._jobs.get(self._results.popleft())
                if job is not None and job.result is not None:
                    request.results.append(job.result)
            if request.results or request.credit_count:
                await rpc.write(request)
            await self._more.wait()
            self._more.clear()

    def _running(self) -> int:
        return sum(job.result is None for job in self._jobs.values())

    async def listen(self, rpc: Rpc) -> None:
        """See Program."""
        while (response := await rpc.read()) is not grpc.aio.EOF:
            if response.HasField("attached"):
                self.attached = True
            for assignment in response.assignments:
                self._begin(assignment)
            for key in response.confirmations:
                self._jobs.pop(_id(key), None)
            for problem in response.result_problems:
                self._jobs.pop(_id(problem.key), None)
            for key in response.cancels:
                job = self._jobs.get(_id(key))
                if job is not None and job.result is None:
                    job.cancelled = True
                    self._finish(_id(key), self.instance, TaskState.FAILED, "CANCELLED", retryable=False)

    def _begin(self, assignment: tasks.Assignment) -> None:
        key = _id(assignment.key)
        if has_skew(self.world.seed):
            whole = FUTURE in assignment.spec.SerializeToString()
            self.world.check(whole, f"{key[0]} lost on its way what is not known here")
        self.world.oracle.assigned(Attempt(*key, self.name, self.instance, assignment.spec))
        self._jobs[key] = _Job(assignment.key)
        draw = self.rng.random()
        seconds = self.rng.choice((0.01, 0.2, 1.0, 8.0))
        if draw < 0.85:
            end: tuple[TaskState, str, bool] = (TaskState.COMPLETED, "", False)
        elif draw < 0.95:
            end = (TaskState.FAILED, "FLAKY", True)
        else:
            end = (TaskState.FAILED, "BROKEN", False)
        self.world.loop.later(seconds, self._finish_later, key, self.instance, *end)

    def _finish_later(
        self, key: tuple[str, int, int], instance: str, state: TaskState, reason: str, retry: bool
    ) -> None:
        self._finish(key, instance, state, reason, retryable=retry)

    def _finish(
        self, key: tuple[str, int, int], instance: str, state: TaskState, reason: str, *, retryable: bool
    ) -> None:
        job = self._jobs.get(key)
        if job is None or job.result is not None or instance != self.instance:
            return
        result = tasks.AttemptResult(key=job.key, state=int(state))  # type: ignore[arg-type]
        if state is TaskState.COMPLETED:
            result.output.data = f"{self.name} {key[0]} {key[1]} {key[2]}".encode()
        else:
            result.problem.CopyFrom(problem_to_pb(Problem(Code.UNAVAILABLE, reason, "no luck", retryable=retryable)))
        job.result = result
        self.world.oracle.over(*key)
        self._results.append(key)
        self._credit += 1
        self._more.set()


def _id(key: tasks.AttemptKey) -> tuple[str, int, int]:
    return key.task_id, key.attempt_number, key.fence
