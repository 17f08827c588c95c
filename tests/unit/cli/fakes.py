"""A node and a hub that answer from a few tables, over a real Unix socket, in a thread of their own."""

from __future__ import annotations

import asyncio
import shutil
import tempfile
import threading
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import grpc

from edgenode.api.admin.v1 import admin_pb2, admin_service_pb2, admin_service_pb2_grpc
from edgenode.api.fleet.v1 import fleet_service_pb2, fleet_service_pb2_grpc
from edgenode.api.message.v1 import message_service_pb2, message_service_pb2_grpc
from edgenode.api.receipt.v1 import receipt_pb2
from edgenode.api.registry.v1 import registry_pb2, registry_service_pb2, registry_service_pb2_grpc
from edgenode.api.sync.v1 import sync_pb2
from edgenode.api.task.v1 import task_pb2, task_service_pb2, task_service_pb2_grpc
from edgenode.link.errors import (
    AlreadyExists,
    Internal,
    NotFound,
    PermissionDenied,
    Unauthenticated,
    Unavailable,
    from_problem,
)
from edgenode.link.model.task import TaskState
from edgenode.link.wire.channels import bind, create_server, unix_target
from edgenode.link.wire.interceptors import ServiceInterceptor
from edgenode.link.wire.status import abort
from edgenode.link.wire.values import duration_to_pb, problem_to_pb, timestamp_to_pb

Context = grpc.aio.ServicerContext[Any, Any]

T0 = 1_700_000_000.0
DONE_ID, FAILED_ID, PARKED_ID, ASKING_ID = (f"01HF00000000000000000000{kind}" for kind in ("OK", "NO", "PA", "AS"))


def make_task(task_id: str, state: TaskState, **fields: Any) -> task_pb2.Task:
    task = task_pb2.Task(
        task_id=task_id,
        spec=task_pb2.TaskSpec(skill="code.metrics", input=b"{}", priority=5),
        state=int(state),  # type: ignore[arg-type]
        origin_node="north",
        holder_node="north",
        submit_time=timestamp_to_pb(T0),
        update_time=timestamp_to_pb(T0 + 1),
        attempt_count=1,
        sequence=3,
        level=receipt_pb2.RECEIPT_LEVEL_DONE if state.terminal else receipt_pb2.RECEIPT_LEVEL_DURABLE_LOCAL,
        **fields,
    )
    return task


def tasks_table() -> dict[str, task_pb2.Task]:
    boom = problem_to_pb(
        Internal("HANDLER_FAILED", "ZeroDivisionError: division by zero", hint="see the agent's log").problem
    )
    return {
        DONE_ID: make_task(
            DONE_ID,
            TaskState.COMPLETED,
            agent="nodes/north/agents/code",
            output=task_pb2.TaskOutput(data=b'{"lines":3}', content_type="application/json"),
        ),
        FAILED_ID: make_task(FAILED_ID, TaskState.FAILED, problem=boom),
        PARKED_ID: make_task(PARKED_ID, TaskState.PARKED, state_reason="NO_AGENT: no agent has skill code.metrics"),
        ASKING_ID: make_task(
            ASKING_ID,
            TaskState.INPUT_REQUIRED,
            input_request=task_pb2.InputRequest(key="colour", prompt="Which colour?"),
            progress=task_pb2.TaskProgress(fraction=0.4, message="page\x1b[31m 2"),
        ),
    }


class FakeRegistry(registry_service_pb2_grpc.RegistryServiceServicer):
    """Two agents."""

    def __init__(self) -> None:
        self.agents = [self.agent("code", "code.metrics"), self.agent("device", "device.read")]
        self.asked: list[Any] = []

    @staticmethod
    def agent(name: str, skill: str) -> registry_pb2.Agent:
        return registry_pb2.Agent(
            name=f"nodes/north/agents/{name}",
            card=registry_pb2.AgentCard(name=name, skills=[registry_pb2.Skill(id=skill)]),
            runtime=registry_pb2.AgentRuntime(
                node="north",
                health=registry_pb2.HEALTH_READY,
                capacity_count=4,
                in_flight_count=1,
                labels={"zone": "a"},
                observed_time=timestamp_to_pb(T0),
            ),
        )

    async def ListAgents(self, request: Any, context: Context) -> registry_service_pb2.ListAgentsResponse:
        # One agent a page, so that paging is exercised.
        index = int(request.page_token or 0)
        more = index + 1 < len(self.agents)
        return registry_service_pb2.ListAgentsResponse(
            agents=self.agents[index : index + 1], next_page_token=str(index + 1) if more else ""
        )

    async def FindAgents(self, request: Any, context: Context) -> registry_service_pb2.FindAgentsResponse:
        self.asked.append(request)
        fit = [agent for agent in self.agents if request.skill in [skill.id for skill in agent.card.skills]]
        answer = registry_service_pb2.FindAgentsResponse()
        for agent in fit:
            answer.candidates.add(agent=agent, score=0.75, reasons=["load 1/4 in flight: +0.75"])
        if request.explain:
            for agent in self.agents:
                if agent not in fit:
                    answer.exclusions.add(name=agent.name, reason="NO_SKILL", detail="it has device.read")
        return answer


class FakeTasks(task_service_pb2_grpc.TaskServiceServicer):
    """The tasks of `tasks_table`; a submission's fate is in its skill's name."""

    def __init__(self) -> None:
        self.tasks = tasks_table()
        self.submitted: list[task_service_pb2.SubmitTaskRequest] = []
        self.answers: list[task_service_pb2.ProvideTaskInputRequest] = []

    def _get(self, task_id: str) -> task_pb2.Task:
        if task_id == "denied":
            raise PermissionDenied("FORBIDDEN", "you may not see it", hint="ask an operator")
        if task_id not in self.tasks:
            raise NotFound("UNKNOWN_TASK", f"there is no task {task_id}", hint="edgenode tasks list shows them")
        return self.tasks[task_id]

    async def GetTask(self, request: Any, context: Context) -> task_service_pb2.GetTaskResponse:
        return task_service_pb2.GetTaskResponse(task=self._get(request.task_id))

    async def ListTasks(self, request: Any, context: Context) -> task_service_pb2.ListTasksResponse:
        found = [task for task in self.tasks.values() if not request.states or task.state in request.states]
        return task_service_pb2.ListTasksResponse(tasks=found[: request.page_size])

    async def SubmitTask(self, request: Any, context: Context) -> task_service_pb2.SubmitTaskResponse:
        self.submitted.append(request)
        task = self._get(self._fate(request.spec.skill))
        return task_service_pb2.SubmitTaskResponse(
            task=task, receipt=receipt_pb2.Receipt(level=task.level, node="north")
        )

    async def SubmitTasks(
        self, requests: AsyncIterator[task_service_pb2.SubmitTasksRequest], context: Context
    ) -> AsyncIterator[task_service_pb2.SubmitTasksResponse]:
        async for request in requests:
            answer = task_service_pb2.SubmitTasksResponse()
            for submission in request.submissions:
                number = submission.correlation_id
                if not submission.call:
                    task_id = self._fate(submission.spec.skill)
                    answer.receipts.add(
                        correlation_id=number, task_id=task_id, level=receipt_pb2.RECEIPT_LEVEL_DURABLE_LOCAL
                    )
                    continue
                outcome = answer.outcomes.add(correlation_id=number, state=task_pb2.TASK_STATE_COMPLETED)
                if submission.spec.skill == "echo":
                    outcome.output.data = submission.spec.input
                    outcome.output.content_type = submission.spec.content_type
                else:
                    outcome.state = task_pb2.TASK_STATE_FAILED
                    outcome.problem.CopyFrom(problem_to_pb(self._call_problem(submission.spec.skill)))
            yield answer

    async def StreamCall(self, request: Any, context: Context) -> AsyncIterator[task_service_pb2.StreamCallResponse]:
        for number, data in enumerate((b'"one"', b"2", b""), start=1):
            piece = task_pb2.TaskPiece(index=number, data=data, last=not data)
            yield task_service_pb2.StreamCallResponse(pieces=[piece])
        if request.spec.skill != "echo":
            await abort(context, from_problem(self._call_problem(request.spec.skill)))
        yield task_service_pb2.StreamCallResponse(output=task_pb2.TaskOutput())

    @staticmethod
    def _call_problem(skill: str) -> Any:
        if skill == "gone":
            return Unavailable("AGENT_LOST", "the agent went away", hint="try again").problem
        return NotFound("UNKNOWN_SKILL", f"no agent has skill {skill}", hint=f"edgenode find {skill} --explain").problem

    @staticmethod
    def _fate(skill: str) -> str:
        if skill == "conflict":
            raise AlreadyExists("IDEMPOTENCY_CONFLICT", "the key is known with another task", hint="use another key")
        return {"code.metrics": DONE_ID, "fails": FAILED_ID, "parks": PARKED_ID}[skill]

    async def WatchTask(self, request: Any, context: Context) -> AsyncIterator[task_service_pb2.WatchTaskResponse]:
        task = self._get(request.task_id)
        events = [
            task_pb2.TaskEvent(sequence=1, event_time=timestamp_to_pb(T0), state=task_pb2.TASK_STATE_QUEUED),
            task_pb2.TaskEvent(
                sequence=2,
                event_time=timestamp_to_pb(T0),
                state=task_pb2.TASK_STATE_WORKING,
                agent="nodes/north/agents/code",
                progress=task_pb2.TaskProgress(fraction=0.5, message="half"),
            ),
        ]
        yield task_service_pb2.WatchTaskResponse(
            events=[event for event in events if event.sequence > request.after_sequence]
        )
        final = task_pb2.TaskEvent(sequence=3, event_time=timestamp_to_pb(T0 + 1), state=task.state)
        yield task_service_pb2.WatchTaskResponse(events=[final], task=task)

    async def CancelTask(self, request: Any, context: Context) -> task_service_pb2.CancelTaskResponse:
        task = task_pb2.Task()
        task.CopyFrom(self._get(request.task_id))
        task.cancel_requested = not TaskState(task.state).terminal
        return task_service_pb2.CancelTaskResponse(task=task)

    async def ReplayTask(self, request: Any, context: Context) -> task_service_pb2.ReplayTaskResponse:
        self._get(request.task_id)
        return task_service_pb2.ReplayTaskResponse(task=self.tasks[PARKED_ID])

    async def ProvideTaskInput(self, request: Any, context: Context) -> task_service_pb2.ProvideTaskInputResponse:
        self.answers.append(request)
        return task_service_pb2.ProvideTaskInputResponse(task=self._get(request.task_id))


class FakeMessages(message_service_pb2_grpc.MessageServiceServicer):
    """Keeps what is published; a subscription gets it from the beginning, after a gap."""

    def __init__(self) -> None:
        self.published: list[Any] = []
        self.acked = 0
        self.ended = threading.Event()  # the last subscription is over
        self.hub_reached = True

    async def Publish(
        self, requests: AsyncIterator[message_service_pb2.PublishRequest], context: Context
    ) -> AsyncIterator[message_service_pb2.PublishResponse]:
        yield message_service_pb2.PublishResponse(epoch="E")
        async for request in requests:
            self.published += request.batch.messages
            last = request.first_sequence + len(request.batch.messages) - 1
            yield message_service_pb2.PublishResponse(
                durable_local_sequence=last,
                durable_hub_sequence=last if self.hub_reached else 0,
                epoch="E",
                log_sequence=len(self.published),
            )

    async def Subscribe(
        self, requests: AsyncIterator[message_service_pb2.SubscribeRequest], context: Context
    ) -> AsyncIterator[message_service_pb2.SubscribeResponse]:
        first = await anext(aiter(requests))
        assert first.credit_count > 0
        answer = message_service_pb2.SubscribeResponse(
            gap=message_service_pb2.MessageGap(first_sequence=1, last_sequence=2, reason="RETENTION")
        )
        for sequence, payload in enumerate([b'{"load":0.5}', b"\x1b[2Jtext", b"\xff\x00"], 3):
            answer.messages.add(
                sequence=sequence,
                origin_node="north",
                origin_epoch="E",
                origin_sequence=sequence,
                accept_time=timestamp_to_pb(T0),
            )
            answer.messages[-1].message.topic = "device.cpu"
            answer.messages[-1].message.payload = payload
        yield answer
        async for request in requests:
            self.acked = max(self.acked, request.ack_sequence)
        self.ended.set()


class FakeAdmin(admin_service_pb2_grpc.AdminServiceServicer):
    """Status, ledger, dead letters."""

    def __init__(self) -> None:
        self.health = "ready"
        self.balanced = True
        self.replayed: list[Any] = []
        self.dropped: list[Any] = []
        self.mounts: dict[str, admin_pb2.Mount] = {}
        self.retried: list[str] = []

    async def AddMount(self, request: Any, context: Context) -> admin_service_pb2.AddMountResponse:
        self.mounts[request.mount.name] = request.mount
        return admin_service_pb2.AddMountResponse()

    async def ListMounts(self, request: Any, context: Context) -> admin_service_pb2.ListMountsResponse:
        response = admin_service_pb2.ListMountsResponse()
        for name, mount in self.mounts.items():
            status = admin_pb2.MountStatus(
                state=admin_pb2.MOUNT_STATE_READY, skill_count=3, start_count=1, server="files 1.0"
            )
            if name == "broken":
                problem = Unavailable("MCP_SERVER_NOT_STARTED", "it did not list its tools within 30 s").problem
                status = admin_pb2.MountStatus(
                    state=admin_pb2.MOUNT_STATE_WAITING,
                    last_problem=problem_to_pb(problem),
                    error_lines=["no \x1b[1mroot"],
                )
            if name == "slow":
                status = admin_pb2.MountStatus(state=admin_pb2.MOUNT_STATE_STARTING, start_count=1)
            if name == "guarded":
                hint = "edgenode mcp login guarded"
                problem = Unauthenticated("AUTH_REQUIRED", "the server wants to know who this is", hint=hint).problem
                status = admin_pb2.MountStatus(
                    state=admin_pb2.MOUNT_STATE_AUTH_REQUIRED, last_problem=problem_to_pb(problem), start_count=1
                )
                status.start_count += self.retried.count(name)
            response.mounts.add(mount=mount, status=status)
        return response

    async def RetryMount(self, request: Any, context: Context) -> admin_service_pb2.RetryMountResponse:
        self.retried.append(request.name)
        return admin_service_pb2.RetryMountResponse()

    async def RemoveMount(self, request: Any, context: Context) -> admin_service_pb2.RemoveMountResponse:
        if self.mounts.pop(request.name, None) is None:
            raise NotFound("UNKNOWN_MOUNT", f"there is no mount {request.name}", hint="edgenode mcp list")
        return admin_service_pb2.RemoveMountResponse()

    async def GetStatus(self, request: Any, context: Context) -> admin_service_pb2.GetStatusResponse:
        return admin_service_pb2.GetStatusResponse(
            node="north",
            health=self.health,
            health_reasons=["the store is full"] if self.health == "degraded" else [],
            version="0.1.0",
            sqlite_version="3.45.1",
            process_id=7,
            start_time=timestamp_to_pb(T0),
            store_bytes=1536,
            store_limit_bytes=1 << 30,
            resident_bytes=50 << 20,
            agent_counts={"READY": 2},
            link=admin_pb2.LinkStatus(
                parent="hub:7443",
                state="waiting",
                state_time=timestamp_to_pb(T0),
                next_dial_duration=duration_to_pb(4.2),
                last_problem=problem_to_pb(Unavailable("UNREACHABLE", "connection refused").problem),
            ),
            lanes=[
                admin_pb2.LaneStatus(
                    direction="up",
                    lane="message",
                    epoch="E",
                    last_sequence=12,
                    acked_sequence=9,
                    pending_count=3,
                    pending_bytes=2048,
                    oldest_age_duration=duration_to_pb(75),
                )
            ],
        )

    async def GetLedger(self, request: Any, context: Context) -> admin_service_pb2.GetLedgerResponse:
        return admin_service_pb2.GetLedgerResponse(lines=ledger_lines(self.balanced))

    async def VerifyLedger(self, request: Any, context: Context) -> admin_service_pb2.VerifyLedgerResponse:
        found = [] if self.balanced else [hole()]
        return admin_service_pb2.VerifyLedgerResponse(findings=found, finding_count=len(found), entry_count=12)

    async def ListDeadLetters(self, request: Any, context: Context) -> admin_service_pb2.ListDeadLettersResponse:
        return admin_service_pb2.ListDeadLettersResponse(dead_letters=[dead_letter()])

    async def GetDeadLetter(self, request: Any, context: Context) -> admin_service_pb2.GetDeadLetterResponse:
        return shown_letter(request.dead_letter_id)

    async def ReplayDeadLetters(self, request: Any, context: Context) -> admin_service_pb2.ReplayDeadLettersResponse:
        self.replayed.append(request)
        return admin_service_pb2.ReplayDeadLettersResponse(task_ids=[PARKED_ID])

    async def DropDeadLetters(self, request: Any, context: Context) -> admin_service_pb2.DropDeadLettersResponse:
        self.dropped.append(request)
        return admin_service_pb2.DropDeadLettersResponse(dropped_count=1)


def dead_letter() -> admin_pb2.DeadLetter:
    return admin_pb2.DeadLetter(
        dead_letter_id=4,
        kind="task",
        task_id=FAILED_ID,
        subject="code.metrics",
        problem=problem_to_pb(Internal("HANDLER_FAILED", "boom").problem),
        dead_letter_time=timestamp_to_pb(T0),
        attempt_count=3,
        size_bytes=100,
    )


def shown_letter(number: int) -> admin_service_pb2.GetDeadLetterResponse:
    if number != 4:
        raise NotFound("UNKNOWN_DEAD_LETTER", f"there is no dead letter {number}", hint="list them")
    return admin_service_pb2.GetDeadLetterResponse(dead_letter=dead_letter(), content=b'{"path":"x"}')


def hole() -> admin_pb2.LedgerFinding:
    return admin_pb2.LedgerFinding(
        hop="messages", epoch="E", first_sequence=6, last_sequence=8, reason="HOLE", detail="3 entries are not held"
    )


def ledger_lines(balanced: bool) -> list[admin_pb2.LedgerLine]:
    return [
        admin_pb2.LedgerLine(
            hop="message.uplink",
            peer="hub",
            produced_count=10,
            delivered_count=7,
            pending_count=2,
            dropped_counts={"RETENTION": 1},
            balanced=True,
        ),
        admin_pb2.LedgerLine(hop="tasks", produced_count=4, delivered_count=4 if balanced else 3, balanced=balanced),
    ]


class FakeFleet(fleet_service_pb2_grpc.FleetServiceServicer):
    """A hub with one node."""

    def __init__(self) -> None:
        self.tokens: list[Any] = []
        self.quarantined = False
        self.below = False  # another hub
        self.findings: list[admin_pb2.LedgerFinding] = []
        self.south_offline = False
        self.letters: list[Any] = []
        self.document = sync_pb2.DesiredDocument(node="north", version=2, log_level="info", limits={"store_bytes": 9})

    async def GetHubStatus(self, request: Any, context: Context) -> fleet_service_pb2.GetHubStatusResponse:
        status = fleet_service_pb2.GetHubStatusResponse(
            hub="hub",
            health="ready",
            trust_domain="fleet.example",
            sync_port=7443,
            enrollment_port=7444,
            root_hash="ab" * 32,
        )
        if self.below:
            status.parent_link.CopyFrom(admin_pb2.LinkStatus(parent="parent.example:7443", state="established"))
            status.parent_lanes.add(direction="up", lane="message")
            status.parent_identity = "spiffe://above.example/edge/berlin"
            status.hub_path.extend(["hub@above.example#1", "hub@fleet.example#2"])
        return status

    async def ListNodes(self, request: Any, context: Context) -> fleet_service_pb2.ListNodesResponse:
        node = fleet_service_pb2.Node(
            node="north",
            kind="edge",
            state="unreachable",
            last_contact_time=timestamp_to_pb(T0),
            agent_count=2,
            desired_version=2,
            applied_version=1,
            lanes=[admin_pb2.LaneStatus(direction="up", lane="message", pending_count=3, pending_bytes=2048)],
        )
        return fleet_service_pb2.ListNodesResponse(nodes=[node])

    async def GetNode(self, request: Any, context: Context) -> fleet_service_pb2.GetNodeResponse:
        node = (await self.ListNodes(request, context)).nodes[0]
        if self.quarantined:
            node.state = "quarantined"
            node.quarantine_time.CopyFrom(timestamp_to_pb(T0))
        return fleet_service_pb2.GetNodeResponse(node=node)

    async def ReleaseNode(self, request: Any, context: Context) -> fleet_service_pb2.ReleaseNodeResponse:
        released, self.quarantined = self.quarantined, False
        return fleet_service_pb2.ReleaseNodeResponse(released=released)

    async def GetFleetLedger(self, request: Any, context: Context) -> fleet_service_pb2.GetFleetLedgerResponse:
        return fleet_service_pb2.GetFleetLedgerResponse(lines=ledger_lines(balanced=request.node != "south"))

    async def VerifyFleetLedger(self, request: Any, context: Context) -> fleet_service_pb2.VerifyFleetLedgerResponse:
        answer = fleet_service_pb2.VerifyFleetLedgerResponse(entry_count=12, finding_count=len(self.findings))
        answer.findings.extend(self.findings)
        if request.all:
            answer.nodes.add(node="north", compared=True, last_contact_time=timestamp_to_pb(T0))
            offline = problem_to_pb(Unavailable("NODE_OFFLINE", "south has no link to this hub now").problem)
            answer.nodes.add(node="south", problem=offline, last_contact_time=timestamp_to_pb(T0))
            del answer.nodes[2 if self.south_offline else 1 :]
        return answer

    async def ListFleetDeadLetters(self, request: Any, context: Context) -> Any:
        if request.node == "south":
            raise Unavailable("NODE_OFFLINE", "south has no link to this hub now", hint="later")
        return fleet_service_pb2.ListFleetDeadLettersResponse(dead_letters=[dead_letter()])

    async def GetFleetDeadLetter(self, request: Any, context: Context) -> Any:
        return fleet_service_pb2.GetFleetDeadLetterResponse(letter=shown_letter(request.dead_letter_id))

    async def ReplayFleetDeadLetters(self, request: Any, context: Context) -> Any:
        self.letters.append(request)
        replayed = admin_service_pb2.ReplayDeadLettersResponse(task_ids=[PARKED_ID], entry_count=2)
        return fleet_service_pb2.ReplayFleetDeadLettersResponse(replayed=replayed)

    async def DropFleetDeadLetters(self, request: Any, context: Context) -> Any:
        self.letters.append(request)
        return fleet_service_pb2.DropFleetDeadLettersResponse(dropped_count=1)

    async def CreateJoinToken(self, request: Any, context: Context) -> fleet_service_pb2.CreateJoinTokenResponse:
        self.tokens.append(request)
        return fleet_service_pb2.CreateJoinTokenResponse(token="enj1_x", expire_time=timestamp_to_pb(T0))

    async def GetDesiredState(self, request: Any, context: Context) -> fleet_service_pb2.GetDesiredStateResponse:
        if request.node != "north":
            raise NotFound("UNKNOWN_NODE", f"no node {request.node} has joined", hint="edgehub nodes shows them")
        report = sync_pb2.DesiredStateReport(applied_version=1)
        return fleet_service_pb2.GetDesiredStateResponse(document=self.document, report=report)

    async def SetDesiredState(self, request: Any, context: Context) -> fleet_service_pb2.SetDesiredStateResponse:
        self.document.CopyFrom(request.document)
        return fleet_service_pb2.SetDesiredStateResponse(version=3)


class FakeServer:
    """Serves fakes at STATE/SOCKET while entered; `state` is short, as paths of Unix sockets must be."""

    def __init__(self, socket: str, register: Callable[[grpc.aio.Server], None]) -> None:
        self.state = Path(tempfile.mkdtemp(prefix="en-"))
        self._target = unix_target(self.state / socket)
        self._register = register
        self._loop: asyncio.AbstractEventLoop | None = None
        self._stop: asyncio.Event | None = None
        self._ready = threading.Event()
        self._thread = threading.Thread(target=lambda: asyncio.run(self._serve()), name="fake-server")

    def __enter__(self) -> Self:
        self._thread.start()
        assert self._ready.wait(10)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        assert self._loop is not None
        assert self._stop is not None
        self._loop.call_soon_threadsafe(self._stop.set)
        self._thread.join(10)
        shutil.rmtree(self.state)

    async def _serve(self) -> None:
        self._loop, self._stop = asyncio.get_running_loop(), asyncio.Event()
        server = create_server(ServiceInterceptor())
        self._register(server)
        bind(server, self._target)
        await server.start()
        self._ready.set()
        await self._stop.wait()
        await server.stop(0)


class FakeNode(FakeServer):
    """An edge."""

    def __init__(self) -> None:
        self.registry, self.tasks, self.messages, self.admin = FakeRegistry(), FakeTasks(), FakeMessages(), FakeAdmin()
        super().__init__("edgenode.sock", self._add)

    def _add(self, server: grpc.aio.Server) -> None:
        registry_service_pb2_grpc.add_RegistryServiceServicer_to_server(self.registry, server)
        task_service_pb2_grpc.add_TaskServiceServicer_to_server(self.tasks, server)
        message_service_pb2_grpc.add_MessageServiceServicer_to_server(self.messages, server)
        admin_service_pb2_grpc.add_AdminServiceServicer_to_server(self.admin, server)


class FakeHub(FakeServer):
    """A hub."""

    def __init__(self) -> None:
        self.registry, self.tasks, self.messages, self.fleet = FakeRegistry(), FakeTasks(), FakeMessages(), FakeFleet()
        super().__init__("edgehub.sock", self._add)

    def _add(self, server: grpc.aio.Server) -> None:
        registry_service_pb2_grpc.add_RegistryServiceServicer_to_server(self.registry, server)
        task_service_pb2_grpc.add_TaskServiceServicer_to_server(self.tasks, server)
        message_service_pb2_grpc.add_MessageServiceServicer_to_server(self.messages, server)
        fleet_service_pb2_grpc.add_FleetServiceServicer_to_server(self.fleet, server)
