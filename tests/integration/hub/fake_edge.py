"""An edge reduced to its link: real mTLS, real logs in SQLite, no agents. It records what the hub sends."""

from __future__ import annotations

import asyncio
import random
import sqlite3
import time
from collections.abc import Awaitable, Callable, Sequence
from pathlib import Path

import grpc

from edgenode.api.message.v1 import message_pb2
from edgenode.api.registry.v1 import registry_pb2
from edgenode.api.sync.v1 import sync_pb2
from edgenode.api.task.v1 import task_pb2
from edgenode.link.identity.certificates import (
    certificate_from_der,
    certificate_to_pem,
    key_to_pem,
    make_csr,
    new_key,
)
from edgenode.link.identity.credentials import KeyPair, client_credentials
from edgenode.link.identity.names import hub_host
from edgenode.link.model.lanes import Applied, Gap, Lane, LaneCursor, LaneHead, Rejection, Segment
from edgenode.link.model.problem import Code, Problem
from edgenode.link.ports import SystemClock
from edgenode.link.protocol.registry import RegistryLog
from edgenode.link.store import inbox, logs
from edgenode.link.store.database import Database
from edgenode.link.store.outbox import SqliteOutbox
from edgenode.link.wire.channels import ChannelSettings, open_channel
from edgenode.link.wire.connection import LinkConnection, LinkEvents
from edgenode.link.wire.dialing import DialingEnd, DialingSettings
from hub.ca.authority import Authority

LANES = {Lane.TASK: "up/task", Lane.MESSAGE: "up/message"}


async def until(condition: Callable[[], object], seconds: float = 10.0) -> None:
    """Wait for a condition that something else brings about; fails after `seconds`."""
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "the condition never held"
        await asyncio.sleep(0.005)


async def until_async(condition: Callable[[], Awaitable[object]], seconds: float = 10.0) -> None:
    """The same for a condition that has to be asked for."""
    deadline = time.monotonic() + seconds
    while not await condition():
        assert time.monotonic() < deadline, "the condition never held"
        await asyncio.sleep(0.01)


class Credentials:
    """A node's certificate, made by the fleet's authority."""

    def __init__(self, authority: Authority, node: str, generation: int = 1) -> None:
        key = new_key()
        self.issued = authority.sign_edge(make_csr(key), node, generation)
        self.pair = KeyPair(key_to_pem(key), certificate_to_pem(certificate_from_der(self.issued.certificate)))
        self.hub_ca = certificate_to_pem(certificate_from_der(authority.hub_ca_certificate))
        self.host = hub_host(authority.trust_domain)

    def channel(self, port: int) -> grpc.aio.Channel:
        """A channel to the hub's sync listener."""
        return open_channel(
            f"127.0.0.1:{port}",
            client_credentials(self.pair, self.hub_ca),
            settings=ChannelSettings(server_name=self.host),
        )


class FakeEdge(LinkEvents):
    """Dial with `start`, offer work and answer it with the methods below."""

    def __init__(self, node: str, credentials: Credentials, port: Callable[[], int]) -> None:
        self.node = node
        self.entries: list[sync_pb2.TaskEntry] = []
        self.calls: list[sync_pb2.Call] = []
        self.results: list[sync_pb2.CallResult] = []
        self.cancelled_calls: list[int] = []
        self.pieces: list[sync_pb2.CallPieces] = []
        self.allowances: list[sync_pb2.CallAllowance] = []
        self.found: list[sync_pb2.FindExchange] = []
        self.desired: list[sync_pb2.DesiredState] = []
        self.notices: list[task_pb2.Task] = []
        self.link: LinkConnection | None = None
        self.refusing = False
        self.registry = RegistryLog("registry-1")
        self._credentials = credentials
        self._port = port
        self._rng = random.Random(node)
        self.database: Database

    @classmethod
    async def make(cls, node: str, authority: Authority, port: Callable[[], int], path: Path | None = None) -> FakeEdge:
        """An edge with its store open; `path` None keeps it in memory."""
        edge = cls(node, Credentials(authority, node), port)
        edge.database = await Database.open(path or ":memory:", [logs.SCHEMA], application_id=1)
        edge.outbox = SqliteOutbox(edge.database, LANES, "hub", edge._epoch, lambda *_: None)
        await edge.database.write(edge.outbox.ensure)
        edge.dialing = DialingEnd(
            node=node,
            boot_id=edge._epoch(),
            generation=lambda: 1,
            registry=edge.registry,
            outbox=edge.outbox,
            inbox=edge,
            events=edge,
            open_channel=edge._open,
            clock=SystemClock(),
            rng=edge._rng,
            settings=DialingSettings(initial_backoff=0.05, max_backoff=0.2),
            software="fake/1",
        )
        return edge

    outbox: SqliteOutbox
    dialing: DialingEnd

    def _epoch(self) -> str:
        return f"{self._rng.getrandbits(64):016x}"

    async def _open(self) -> grpc.aio.Channel:
        return self._credentials.channel(self._port())

    async def start(self) -> None:
        await self.dialing.start()
        await until(lambda: self.link is not None)

    async def stop(self) -> None:
        await self.dialing.stop()

    async def close(self) -> None:
        await self.stop()
        await self.database.close()

    # --- LinkEvents ---

    def established(self, link: LinkConnection) -> None:
        self.link = link

    def closed(self, link: LinkConnection, problem: object) -> None:
        self.link = None

    async def on_calls(self, link: LinkConnection, message: sync_pb2.CallBatch) -> None:
        self.calls += message.calls
        self.results += message.results
        self.cancelled_calls += message.cancel_call_ids
        self.pieces += message.pieces
        self.allowances += message.allowances

    async def on_find(self, link: LinkConnection, message: sync_pb2.FindExchange) -> None:
        self.found.append(message)

    async def on_desired_state(self, link: LinkConnection, message: sync_pb2.DesiredState) -> None:
        self.desired.append(message)

    async def on_notices(self, link: LinkConnection, message: sync_pb2.NoticeBatch) -> None:
        self.notices += message.tasks

    # --- Inbox ---

    async def cursors(self, heads: Sequence[LaneHead] = ()) -> Sequence[LaneCursor]:
        return await self.database.read(lambda connection: inbox.inbox_cursors(connection, "hub", heads))

    async def apply(self, lane: Lane, epoch: str, base: int, segments: Sequence[Segment], gap: Gap | None) -> Applied:
        def run(connection: sqlite3.Connection) -> inbox.Fresh:
            return inbox.accept(connection, "hub", lane, epoch, base, segments, gap)

        fresh = await self.database.write(run)
        new = [entry for part in fresh.segments for entry in sync_pb2.TaskEntryBatch.FromString(part.payload).entries]
        new = new[fresh.skip :]
        end = base - 1 + sum(segment.count for segment in segments)
        if self.refusing:
            first = end - len(new) + 1
            problem = Problem(Code.INVALID_ARGUMENT, "NOT_LIKED", "this edge takes nothing")
            return Applied(end, tuple(Rejection(first + index, problem) for index in range(len(new))))
        self.entries += new
        return Applied(end)

    # --- acting ---

    def register(self, agent: str, *skills: str, capacity: int = 4, **labels: str) -> None:
        name = f"nodes/{self.node}/agents/{agent}"
        message = registry_pb2.Agent(
            name=name,
            card=registry_pb2.AgentCard(
                name=agent,
                description=f"does {' and '.join(skills)}",
                skills=[registry_pb2.Skill(id=skill) for skill in skills],
            ),
            runtime=registry_pb2.AgentRuntime(
                node=self.node, health=registry_pb2.HEALTH_READY, capacity_count=capacity, labels=labels
            ),
        )
        self.registry.put(name, 1, message.SerializeToString())
        self.dialing.registry_changed()

    async def send(self, *entries: sync_pb2.TaskEntry) -> None:
        batch = sync_pb2.TaskEntryBatch(entries=entries)
        await self._append(Lane.TASK, Segment(len(entries), batch.SerializeToString(), time.time()))

    async def publish(self, *topics: str, payload: bytes = b"") -> None:
        batch = message_pb2.MessageBatch(
            messages=[message_pb2.Message(topic=topic, payload=payload) for topic in topics]
        )
        await self._append(Lane.MESSAGE, Segment(len(topics), batch.SerializeToString(), time.time()))

    async def publish_raw(self, count: int, payload: bytes) -> None:
        await self._append(Lane.MESSAGE, Segment(count, payload, time.time()))

    async def _append(self, lane: Lane, segment: Segment) -> None:
        def run(connection: sqlite3.Connection) -> int:
            log = logs.log_state(connection, LANES[lane])
            return logs.append(connection, log.log_id, [segment]) + segment.count - 1

        self.outbox.appended(lane, await self.database.write(run))

    async def offer(self, task_id: str, skill: str, **spec: object) -> None:
        task = task_pb2.TaskSpec(skill=skill, input=b"{}", **spec)  # type: ignore[arg-type]
        await self.send(sync_pb2.TaskEntry(offer=sync_pb2.TaskOffer(task_id=task_id, spec=task)))

    async def report(self, task_id: str, fence: int, state: task_pb2.TaskState, data: bytes = b"") -> None:
        task = task_pb2.Task(
            task_id=task_id, fence=fence, state=state, agent=f"nodes/{self.node}/agents/x", holder_node=self.node
        )
        if data:
            task.output.data = data
        await self.send(sync_pb2.TaskEntry(report=sync_pb2.TaskReport(task=task)))

    def of_kind(self, kind: str) -> list[sync_pb2.TaskEntry]:
        return [entry for entry in self.entries if entry.WhichOneof("entry") == kind]

    async def granted(self, count: int = 1) -> list[sync_pb2.TaskGrant]:
        await until(lambda: len(self.of_kind("grant")) >= count)
        return [entry.grant for entry in self.of_kind("grant")]

    async def reported(self, count: int = 1) -> list[task_pb2.Task]:
        await until(lambda: len(self.of_kind("report")) >= count)
        return [entry.report.task for entry in self.of_kind("report")]

    async def told(self, task_id: str, state: task_pb2.TaskState) -> task_pb2.Task:
        """The report that says so."""

        def reports() -> list[task_pb2.Task]:
            tasks = [entry.report.task for entry in self.of_kind("report")]
            return [task for task in tasks if task.task_id == task_id and task.state == state]

        await until(reports)
        return reports()[-1]
