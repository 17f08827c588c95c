"""A small node in this process, enough to talk to: it keeps what it got in plain sight and can misbehave on request."""

from __future__ import annotations

import asyncio
import shutil
import tempfile
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import grpc

from edgenode.api.message.v1 import message_pb2, message_service_pb2_grpc
from edgenode.api.message.v1 import message_service_pb2 as mpb
from edgenode.api.registry.v1 import registry_service_pb2, registry_service_pb2_grpc
from edgenode.api.task.v1 import task_pb2, task_service_pb2_grpc
from edgenode.api.task.v1 import task_service_pb2 as tpb
from edgenode.link.errors import EdgenodeError
from edgenode.link.wire.status import abort
from edgenode.link.wire.values import problem_to_pb


class Messages(message_service_pb2_grpc.MessageServiceServicer):
    """Stores frames by producer, once each; `hold` delays acknowledgements, `refuse` ends streams.

    `reject` has errors by topic or payload.
    """

    def __init__(self) -> None:
        self.stored: dict[str, list[message_pb2.Message]] = {}
        self.frames = 0
        self.duplicates = 0
        self.hold = asyncio.Event()
        self.hold.set()
        self.refuse: EdgenodeError | None = None
        self.reject: dict[str, EdgenodeError] = {}
        self.hub = 0
        self.log: list[mpb.SubscribeResponse] = []
        self.subscribe_requests: list[mpb.SubscribeRequest] = []

    async def Publish(self, request_iterator: Any, context: Any) -> AsyncIterator[mpb.PublishResponse]:
        producer, first = "", True
        async for frame in request_iterator:
            if self.refuse is not None:
                await abort(context, self.refuse)
            self.frames += 1
            producer = producer or frame.producer_id
            assert producer
            stored = self.stored.setdefault(producer, [])
            response = mpb.PublishResponse(epoch="e1", resume_sequence=len(stored) if first else 0)
            for number, message in enumerate(frame.batch.messages, frame.first_sequence):
                if number <= len(stored):
                    self.duplicates += 1
                    continue
                assert number == len(stored) + 1
                error = self.reject.get(message.topic) or self.reject.get(message.payload.decode(errors="replace"))
                if error is not None:
                    response.rejections.add(sequence=number, problem=problem_to_pb(error.problem))
                stored.append(message)
            first = False
            await self.hold.wait()
            response.durable_local_sequence = len(stored)
            response.durable_hub_sequence = min(self.hub, len(stored))
            yield response

    async def Subscribe(self, request_iterator: Any, context: Any) -> AsyncIterator[mpb.SubscribeResponse]:
        self.subscribe_requests.append(await anext(aiter(request_iterator)))

        async def collect() -> None:
            async for request in request_iterator:
                self.subscribe_requests.append(request)

        reading = asyncio.create_task(collect())
        try:
            for frame in self.log:
                yield frame
            await reading
        finally:
            reading.cancel()


class Tasks(task_service_pb2_grpc.TaskServiceServicer):
    """Answers submissions by `answer`, and is a WorkTasks peer driven through queues."""

    def __init__(self) -> None:
        self.submissions: list[tpb.Submission] = []
        self.cancels: list[int] = []
        self.frames = 0
        self.mute = False  # takes submissions without a word
        self.watch_frames: list[list[tpb.WatchTaskResponse]] = []
        self.watch_requests: list[tpb.WatchTaskRequest] = []
        self.to_agent: asyncio.Queue[tpb.WorkTasksResponse | EdgenodeError | None] = asyncio.Queue()
        self.from_agent: asyncio.Queue[tpb.WorkTasksRequest] = asyncio.Queue()

    def answer(self, submission: tpb.Submission) -> tpb.SubmitTasksResponse:
        response, number = tpb.SubmitTasksResponse(), submission.correlation_id
        task_id = "" if submission.call else f"task-{submission.request_id}"
        if task_id:
            response.receipts.add(correlation_id=number, task_id=task_id, level=2)
        outcome = response.outcomes.add(correlation_id=number, task_id=task_id, state=task_pb2.TASK_STATE_COMPLETED)
        outcome.output.data = submission.spec.input
        outcome.output.content_type = submission.spec.content_type
        return response

    async def SubmitTasks(self, request_iterator: Any, context: Any) -> AsyncIterator[tpb.SubmitTasksResponse]:
        async for frame in request_iterator:
            self.frames += 1
            self.cancels.extend(frame.cancel_correlation_ids)
            response = tpb.SubmitTasksResponse()
            for submission in frame.submissions:
                self.submissions.append(submission)
                response.MergeFrom(self.answer(submission))
            if not self.mute:
                yield response

    async def GetTask(self, request: tpb.GetTaskRequest, context: Any) -> tpb.GetTaskResponse:
        return tpb.GetTaskResponse(task=task_pb2.Task(task_id=request.task_id))

    async def ListTasks(self, request: tpb.ListTasksRequest, context: Any) -> tpb.ListTasksResponse:
        first = int(request.page_token or 0)
        last = min(first + request.page_size, 2500)
        tasks = [task_pb2.Task(task_id=str(number)) for number in range(first, last)]
        return tpb.ListTasksResponse(tasks=tasks, next_page_token=str(last) if last < 2500 else "")

    async def WatchTask(self, request: tpb.WatchTaskRequest, context: Any) -> AsyncIterator[tpb.WatchTaskResponse]:
        self.watch_requests.append(request)
        for frame in self.watch_frames.pop(0):
            yield frame
        if self.watch_frames:
            await context.abort(grpc.StatusCode.UNAVAILABLE, "gone")

    async def WorkTasks(self, request_iterator: Any, context: Any) -> AsyncIterator[tpb.WorkTasksResponse]:
        async def collect() -> None:
            async for request in request_iterator:
                self.from_agent.put_nowait(request)

        reading = asyncio.create_task(collect())
        getting: asyncio.Task[Any] = reading
        try:
            while True:
                getting = asyncio.create_task(self.to_agent.get())
                await asyncio.wait([getting, reading], return_when=asyncio.FIRST_COMPLETED)
                if not getting.done():
                    return  # the agent closed its side
                frame = getting.result()
                if frame is None:
                    return
                if isinstance(frame, EdgenodeError):
                    await abort(context, frame)
                yield frame
        finally:
            reading.cancel()
            getting.cancel()


class Registry(registry_service_pb2_grpc.RegistryServiceServicer):
    """Takes every agent unless told to refuse those of an incarnation below `refuse_below`."""

    def __init__(self) -> None:
        self.registrations: list[registry_service_pb2.RegisterAgentRequest] = []
        self.deregistrations: list[registry_service_pb2.DeregisterAgentRequest] = []
        self.renewals: list[registry_service_pb2.RenewLeaseRequest] = []
        self.refuse: EdgenodeError | None = None
        self.refuse_below = 1 << 62

    async def RegisterAgent(self, request: Any, context: Any) -> registry_service_pb2.RegisterAgentResponse:
        if self.refuse is not None and request.incarnation < self.refuse_below:
            await abort(context, self.refuse)
        self.registrations.append(request)
        return registry_service_pb2.RegisterAgentResponse()

    async def RenewLease(self, request: Any, context: Any) -> registry_service_pb2.RenewLeaseResponse:
        self.renewals.append(request)
        return registry_service_pb2.RenewLeaseResponse()

    async def DeregisterAgent(self, request: Any, context: Any) -> registry_service_pb2.DeregisterAgentResponse:
        self.deregistrations.append(request)
        return registry_service_pb2.DeregisterAgentResponse()


class FakeNode:
    """The services behind a Unix socket; `stop` and `start` again at will, the services keep their memory."""

    def __init__(self, path: str) -> None:
        self.socket = path
        self.messages, self.tasks, self.registry = Messages(), Tasks(), Registry()
        self._server: grpc.aio.Server | None = None

    async def start(self) -> None:
        self._server = server = grpc.aio.server()
        message_service_pb2_grpc.add_MessageServiceServicer_to_server(self.messages, server)
        task_service_pb2_grpc.add_TaskServiceServicer_to_server(self.tasks, server)
        registry_service_pb2_grpc.add_RegistryServiceServicer_to_server(self.registry, server)
        server.add_insecure_port(f"unix:{self.socket}")
        await server.start()

    async def stop(self) -> None:
        if self._server is not None:
            await self._server.stop(None)
            self._server = None


@asynccontextmanager
async def fake_node() -> AsyncIterator[FakeNode]:
    directory = tempfile.mkdtemp(prefix="sdk")
    node = FakeNode(f"{directory}/s")
    await node.start()
    try:
        yield node
    finally:
        await node.stop()
        shutil.rmtree(directory, ignore_errors=True)


async def until(condition: Any, timeout: float = 5.0) -> None:
    """Waits for a condition, looking each time the loop has turned; fails after `timeout` seconds."""
    async with asyncio.timeout(timeout):
        while not condition():  # noqa: ASYNC110  (what it waits for has no event)
            await asyncio.sleep(0.005)
