"""What the hub does when nodes come, go and speak: ties the links to the services behind them."""

from __future__ import annotations

import logging
from collections import defaultdict
from collections.abc import Awaitable, Callable, Sequence

from msgspec import structs

from edgenode.api.registry.v1 import registry_service_pb2
from edgenode.api.sync.v1 import sync_pb2
from edgenode.api.task.v1 import task_pb2
from edgenode.link.blobs.exchange import BlobExchange
from edgenode.link.model.lanes import Rejection
from edgenode.link.model.problem import Problem
from edgenode.link.ports import Clock
from edgenode.link.protocol.timers import Timer
from hub.services.alarm import Alarm
from hub.services.background import Background
from hub.services.calls import CallRouter
from hub.services.desired import DesiredDesk
from hub.services.dispatcher import Dispatcher
from hub.services.entries import refused_grant, task_named_above
from hub.services.finder import Finder
from hub.services.node_admin import NodeAdmin
from hub.services.task_desk import TaskDesk
from hub.services.view import FleetView
from hub.store.ports import DeadLetterStore, FleetStore, TaskStore
from hub.store.records import PARENT

REJECTED_BATCH = 100
LOGGED_REJECTIONS = 10

_log = logging.getLogger(__name__)

Send = Callable[[str, sync_pb2.Frame], bool]
FindAbove = Callable[
    [registry_service_pb2.FindAgentsRequest], Awaitable[registry_service_pb2.FindAgentsResponse | None]
]


class FleetHandlers:
    """hub.services.links.LinkHandlers. `lease` in seconds."""

    def __init__(
        self,
        view: FleetView,
        fleet: FleetStore,
        tasks: TaskStore,
        dispatcher: Dispatcher,
        desk: TaskDesk,
        calls: CallRouter,
        finder: Finder,
        desired: DesiredDesk,
        clock: Clock,
        alarm: Alarm,
        send: Send,
        hub: str,
        letters: DeadLetterStore,
        nodes: NodeAdmin,
        blobs: BlobExchange,
        child: str = "",
    ) -> None:
        """`child` is the name by which the parent knows this hub."""
        self._child = child
        self.find_above: FindAbove = _nobody_above  # asks the parent what this fleet has nobody for
        self._view = view
        self._fleet = fleet
        self._tasks = tasks
        self._dispatcher = dispatcher
        self._desk = desk
        self._calls = calls
        self._finder = finder
        self._desired = desired
        self._clock = clock
        self._alarm = alarm
        self._send = send
        self._hub = hub
        self._letters = letters
        self._nodes = nodes
        self._blobs = blobs
        self._background = Background()
        self._lease_timer: Timer | None = None

    def start(self) -> None:
        """Begin to watch the leases of nodes that are not connected; deal with what a stop left behind."""
        self._watch_leases()
        self._background.start(self._regrant(""), "grants refused before the start")

    async def stop(self) -> None:
        """Wait for what is under way."""
        await self._background.close()

    # --- comings and goings ---

    async def ask_again(self, node: str, restate_id: str) -> None:
        """See LinkHandlers."""
        await self._dispatcher.ask(node, restate_id, await self._fleet.fence_base())

    async def reconcile(self, node: str, grants: bool) -> None:
        """See LinkHandlers."""
        await self._dispatcher.reconcile(node, grants, await self._fleet.fence_base())

    def node_connected(self, node: str, applied_version: int) -> None:
        """See LinkHandlers."""
        self._dispatcher.node_back(node)
        self._background.start(self._desired.node_connected(node, applied_version), f"desired state of {node}")

    def session_began(self, node: str) -> None:
        """See LinkHandlers."""
        self._blobs.established(node)

    def session_ended(self, node: str) -> None:
        """See LinkHandlers."""
        self._blobs.closed(node)

    def link_has_room(self, node: str) -> None:
        """See LinkHandlers."""
        self._blobs.room(node)

    def blobs(self, node: str, message: sync_pb2.BlobExchange) -> None:
        """See LinkHandlers."""
        self._blobs.receive(node, message)

    def node_disconnected(self, node: str, problem: Problem) -> None:
        """See LinkHandlers."""
        _log.info("%s is gone: %s", node, problem)
        self._calls.lost(node)
        self._nodes.lost(node)
        age = self._view.staleness(node, self._clock.monotonic())
        self._background.start(self._fleet.touch({node: self._clock.wall() - age}), f"last contact of {node}")
        self._watch_leases()

    def _watch_leases(self) -> None:
        deadline = self._view.next_deadline()
        if self._lease_timer is not None:
            self._lease_timer.cancel()
            self._lease_timer = None
        if deadline is not None:
            self._lease_timer = self._alarm.at(deadline, self._leases_due)

    def _leases_due(self) -> None:
        for node in self._view.expire(self._clock.monotonic()):
            _log.warning("%s is unreachable: its lease ran out", node)
            self._dispatcher.node_unreachable(node)
        self._watch_leases()

    # --- what a node would not take ---

    def rejected(self, node: str, rejections: Sequence[Rejection]) -> None:
        """The node refused entries; the store has kept them. Tasks it was to run go elsewhere, the rest waits for people."""
        for rejection in rejections[:LOGGED_REJECTIONS]:
            _log.warning("%s refused entry %d: %s", node, rejection.sequence, rejection.problem)
        if len(rejections) > LOGGED_REJECTIONS:
            _log.warning("%s refused %d more", node, len(rejections) - LOGGED_REJECTIONS)
        self._background.start(self._regrant(node), f"grants refused by {node}")

    async def _regrant(self, node: str) -> None:
        while letters := await self._letters.grants(node, REJECTED_BATCH):
            for letter in letters:
                why = f"{letter.problem.reason}: {letter.problem.message}"
                await self._dispatcher.refused(letter.node, [refused_grant(letter)], why)
            await self._letters.replayed([letter.number for letter in letters])

    # --- frames ---

    async def calls(self, node: str, batch: sync_pb2.CallBatch) -> None:
        """See LinkHandlers."""
        self._calls.receive(node, batch)

    async def notices(self, node: str, batch: sync_pb2.NoticeBatch) -> None:
        """Pass progress on to those who wait for it; only the present holder is believed."""
        known = await self._tasks.origins([task.task_id for task in batch.tasks])
        onward: dict[str, list[task_pb2.Task]] = defaultdict(list)
        for task in batch.tasks:
            origin, holder, fence, upstream = known.get(task.task_id, ("", "", 0, 0))
            if holder != node or (fence != task.fence and node != PARENT):
                continue
            if origin == self._hub:
                await self._noticed(task, fence)
            elif origin != node and not origin.startswith(PARENT):
                onward[origin].append(task)
            if upstream > 0:
                onward[PARENT].append(self._notice_up(task, upstream))
        for origin, tasks in onward.items():
            self._send(origin, sync_pb2.Frame(notices=sync_pb2.NoticeBatch(tasks=tasks)))

    def _notice_up(self, task: task_pb2.Task, fence: int) -> task_pb2.Task:
        notice = task_pb2.Task()
        notice.CopyFrom(task)
        notice.fence = fence
        task_named_above(notice, self._hub, self._child)
        return notice

    async def _noticed(self, task: task_pb2.Task, fence: int) -> None:
        if self._desk.watched(task.task_id):
            record = await self._tasks.get(task.task_id)
            if record is not None and not record.state.terminal and record.fence == fence:
                seen = structs.replace(record, agent=task.agent, attempt_count=task.attempt_count)
                self._desk.noticed(seen, task)

    async def find(self, node: str, exchange: sync_pb2.FindExchange) -> None:
        """See LinkHandlers."""
        if exchange.HasField("request") or exchange.HasField("list_request"):
            answer = await self._finder.exchange(exchange)
            if exchange.HasField("request") and not answer.response.candidates and not answer.HasField("problem"):
                found = await self.find_above(exchange.request)
                if found is not None:
                    # What is called like one of this fleet cannot be reached by its name from here.
                    reachable = [agent for agent in found.candidates if not self._view.owns(agent.agent.name)]
                    answer.response.candidates.extend(reachable)
            self._send(node, sync_pb2.Frame(find=answer))

    async def desired_report(self, node: str, report: sync_pb2.DesiredStateReport) -> None:
        """See LinkHandlers."""
        await self._desired.reported(node, report)

    def admin_answer(self, node: str, answer: sync_pb2.AdminExchange) -> None:
        """See LinkHandlers."""
        self._nodes.answered(node, answer)


async def _nobody_above(request: registry_service_pb2.FindAgentsRequest) -> None:
    """A hub without a parent."""
