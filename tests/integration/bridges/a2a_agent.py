"""An A2A agent that others might have written: the official SDK's server, over JSON-RPC. `Foreign` runs it in this process."""

from __future__ import annotations

import asyncio
import contextlib
import socket
from collections import Counter
from collections.abc import Iterator

import uvicorn
from a2a.server.agent_execution import AgentExecutor, RequestContext
from a2a.server.events import EventQueue
from a2a.server.request_handlers import DefaultRequestHandler
from a2a.server.routes import create_agent_card_routes, create_jsonrpc_routes
from a2a.server.tasks import InMemoryTaskStore, TaskUpdater
from a2a.types import a2a_pb2 as pb
from starlette.applications import Starlette


class Executor(AgentExecutor):
    """Says hello; asks first if the message says so, works until the gate opens if it says so, fails if it says so."""

    def __init__(self) -> None:
        self.runs: Counter[str] = Counter()
        self.cancelled: list[str] = []
        self.gate = asyncio.Event()

    async def execute(self, context: RequestContext, event_queue: EventQueue) -> None:
        """See AgentExecutor."""
        text = context.get_user_input()
        self.runs[text] += 1
        task_id, context_id = context.task_id or "", context.context_id or ""
        updater = TaskUpdater(event_queue, task_id, context_id)
        if context.current_task is None:
            assert context.message is not None
            await event_queue.enqueue_event(
                pb.Task(
                    id=task_id,
                    context_id=context_id,
                    status=pb.TaskStatus(state=pb.TASK_STATE_SUBMITTED),
                    history=[context.message],
                )
            )
        await updater.start_work(updater.new_agent_message([pb.Part(text="at it")]))
        if text.startswith("ask"):
            await updater.requires_input(updater.new_agent_message([pb.Part(text="Which?")]))
            return
        if text.startswith("gated"):
            await self.gate.wait()
        if text.startswith("fail"):
            await updater.failed(updater.new_agent_message([pb.Part(text="no glue left")]))
            return
        await updater.add_artifact([pb.Part(text=f"did {text}")], name="result")
        await updater.complete()

    async def cancel(self, context: RequestContext, event_queue: EventQueue) -> None:
        """See AgentExecutor."""
        task_id = context.task_id or ""
        self.cancelled.append(task_id)
        await TaskUpdater(event_queue, task_id, context.context_id or "").cancel()


class _Server(uvicorn.Server):
    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        """The test's process keeps its own."""
        yield


class Foreign:
    """`start` and `stop` as often as one likes: the same address, the same tasks."""

    def __init__(self) -> None:
        self.executor = Executor()
        self.port = 0
        self.skills = ["Do Things"]
        self._store = InMemoryTaskStore()
        self._handler: DefaultRequestHandler | None = None
        self._server: _Server | None = None
        self._serving: asyncio.Task[None] | None = None

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    async def start(self) -> None:
        listener = socket.create_server(("127.0.0.1", self.port))
        self.port = listener.getsockname()[1]
        card = pb.AgentCard(
            name="foreign",
            description="Does things",
            version="7",
            default_input_modes=["text/plain"],
            default_output_modes=["text/plain"],
            capabilities=pb.AgentCapabilities(streaming=True),
            supported_interfaces=[pb.AgentInterface(url=self.url, protocol_binding="JSONRPC", protocol_version="1.0")],
            skills=[
                pb.AgentSkill(id=id, name="Does things", description="Does things", tags=["x"]) for id in self.skills
            ],
        )
        self._handler = handler = DefaultRequestHandler(self.executor, self._store, card)
        application = Starlette(routes=[*create_agent_card_routes(card), *create_jsonrpc_routes(handler, "/")])
        config = uvicorn.Config(
            application, log_config=None, access_log=False, lifespan="off", timeout_graceful_shutdown=0
        )
        self._server = _Server(config)
        self._serving = asyncio.create_task(self._server.serve([listener]))
        while not self._server.started:  # noqa: ASYNC110
            await asyncio.sleep(0.01)

    async def stop(self) -> None:
        if self._server is not None and self._serving is not None:
            self._server.should_exit = True
            self._server.force_exit = True
            await self._serving
            self._server = None
        if self._handler is not None:
            handler, self._handler = self._handler, None
            await handler.aclose()  # what works on its tasks
