"""The checking half: holds every receipt of a journal against the hub's log, the nodes' tasks and fresh traffic."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Awaitable, Callable, Sequence
from pathlib import Path

from edgenode.api.task.v1 import task_pb2
from edgenode.link.errors import EdgenodeError
from edgenode.link.model.task import TaskState
from edgenode.sdk import Client, Level, Received, Scope
from edgenode.sdk.encoding import decode
from scripts.receipts import names
from scripts.receipts.drive import AGENT, SKILL, WAIT, Work, agent, node_name
from scripts.receipts.journal import Receipts, TaskReceipt
from scripts.receipts.names import Stream
from scripts.receipts.verdict import Row, Verdict, counted

AT_ONCE = 64
QUIET = 1.0  # seconds without a message after which nothing more is expected


class HubLog:
    """What the hub's log holds of a run, as it is read. Wants every message once, intact, and each stream in order."""

    def __init__(self, receipts: Receipts) -> None:
        self._receipts = receipts
        self.missing = {(stream, number) for stream, numbers in receipts.messages.items() for number in numbers}
        self.seen: Counter[tuple[Stream, int]] = Counter()
        self.damaged: list[str] = []
        self.disorder: list[str] = []
        self.gaps: list[str] = []
        self._last: dict[Stream, int] = {}

    def take(self, payload: bytes, sequence: int) -> None:
        """A message under the run's topics."""
        named = names.read_message(payload)
        if named is None or named[0] != self._receipts.run:
            self.damaged.append(f"message {sequence} of the hub is not what was published")
            return
        _, stream, number = named
        self.seen[stream, number] += 1
        self.missing.discard((stream, number))
        # What has no receipt may have been sent again behind its back: order is promised of what was acknowledged.
        if number in self._receipts.messages.get(stream, ()) and self.seen[stream, number] == 1:
            last = self._last.get(stream, 0)
            if number < last:
                self.disorder.append(f"{stream} {number} stands behind {last} at the hub (message {sequence})")
            self._last[stream] = max(last, number)

    def judge(self, verdict: Verdict) -> None:
        """Add a row."""
        twice = [name for name, times in self.seen.items() if times > 1]
        lost = sorted(self.missing)
        hub = sum(level == Level.DURABLE_HUB.name for n in self._receipts.messages.values() for level in n.values())
        acked = self._receipts.message_count
        row = Row("messages at the hub", acked, acked - len(lost), len(lost), len(twice))
        row.wrong = len(self.damaged) + len(self.disorder)
        row.note = f"{hub} acknowledged by the hub, {len(self.seen)} there" + "".join(f"; {gap}" for gap in self.gaps)
        details = [f"{stream} {number}, acknowledged, is not at the hub" for stream, number in lost]
        details += [f"{stream} {number} is at the hub {self.seen[stream, number]} times" for stream, number in twice]
        verdict.add(row, details + self.damaged + self.disorder)


async def check(hub: Path, edges: Sequence[Path], receipts: Receipts, settle: float = 60.0) -> Verdict:
    """Hold the receipts against the system; what is under way has `settle` seconds to arrive.

    Raises EdgenodeError when the hub or an edge cannot be reached within that time.
    """
    verdict = Verdict()
    sockets = {await node_name(socket, settle): socket for socket in edges}
    serving = [
        asyncio.create_task(agent(lambda work: receipts.take(["ran", work])).run(socket=socket))
        for socket in sockets.values()
    ]
    try:
        await _check_messages(hub, receipts, settle, verdict)
        for name, socket in sockets.items():
            await _check_tasks(name, socket, receipts, settle, verdict)
        _check_runs(receipts, verdict)
        await _check_fresh(sockets, settle, verdict)
    finally:
        for task in serving:
            task.cancel()
        await asyncio.wait(serving)
    verdict.add(
        Row("calls", sum(receipts.calls.values()), receipts.calls["ANSWERED"], note=counted(receipts.calls)), []
    )
    refused = sum(receipts.refused.values())
    verdict.add(Row("refused", note=counted(receipts.refused) or "nothing"), [])
    verdict.rows[-1].found = refused
    verdict.wrong += receipts.wrong
    return verdict


async def _check_messages(hub: Path, receipts: Receipts, settle: float, verdict: Verdict) -> None:
    log = HubLog(receipts)
    loop = asyncio.get_running_loop()
    async with Client(socket=hub, connect_timeout=settle) as client:
        subscription = client.subscribe(
            names.topics(receipts.run),
            position="start",
            on_gap=lambda gap: log.gaps.append(f"{gap.first}-{gap.last} gone: {gap.reason}"),
        )
        async with subscription:
            end = loop.time() + settle
            try:
                async with asyncio.timeout_at(end) as patience:
                    if not log.missing:
                        patience.reschedule(loop.time() + QUIET)
                    async for received in subscription:
                        _take(log, received)
                        if not log.missing:  # and a moment more for what should not be there
                            patience.reschedule(min(loop.time() + QUIET, end))
            except TimeoutError:
                pass
    log.judge(verdict)


def _take(log: HubLog, received: Received) -> None:
    log.take(received.payload, received.sequence)


async def _check_tasks(name: str, socket: Path, receipts: Receipts, settle: float, verdict: Verdict) -> None:
    """Each stored task has one end, a true one, and it is the one that was told."""
    mine = {task_id: task for task_id, task in receipts.tasks.items() if task.edge == name}
    row = Row(f"tasks of {name}", len(mine))
    details: list[str] = []
    ended: Counter[str] = Counter()
    gate = asyncio.Semaphore(AT_ONCE)

    async def look(client: Client, task_id: str, receipt: TaskReceipt) -> None:
        async with gate:
            try:
                async with asyncio.timeout(settle):
                    task = await _ended(client, task_id)
            except TimeoutError:
                row.wrong += 1
                details.append(f"task {task_id} of {name} has not ended within {settle:g} s")
                return
            except EdgenodeError as error:
                row.lost += 1
                details.append(f"task {task_id}, acknowledged by {name}: {error}")
                return
        row.found += 1
        state = TaskState(task.state).name
        ended[state] += 1
        problem = _untrue(task, receipt, receipts.ends.get(task_id, []))
        if problem:
            row.wrong += 1
            details.append(f"task {task_id} of {name} {problem}")

    async with Client(socket=socket, connect_timeout=settle) as client, asyncio.TaskGroup() as group:
        for task_id, receipt in mine.items():
            group.create_task(look(client, task_id, receipt))
    row.note = counted(ended)
    verdict.add(row, details)


async def _ended(client: Client, task_id: str) -> task_pb2.Task:
    task = await client.get_task(task_id)
    if not TaskState(task.state).terminal:
        async for _ in client.watch_task(task_id):
            pass
        task = await client.get_task(task_id)
    return task


def _untrue(task: task_pb2.Task, receipt: TaskReceipt, told: Sequence[str]) -> str:
    state = TaskState(task.state).name
    if any(outcome != state for outcome in told):
        return f"is {state}; it was told to be {told[0]}"
    if state != TaskState.COMPLETED.name:
        return "" if task.HasField("problem") else f"ended {state} without saying why"
    result = decode(task.output.data, task.output.content_type, Work)
    return "" if result == Work(receipt.work, names.answer(receipt.work)) else "ended with another's result"


def _check_runs(receipts: Receipts, verdict: Verdict) -> None:
    """Work that must not run twice did not."""
    once = [task for task in receipts.tasks.values() if task.once]
    twice = [task.work for task in once if receipts.runs[task.work] > 1]
    row = Row("work that may run once", len(once), sum(receipts.runs[task.work] == 1 for task in once), 0, len(twice))
    row.note = "what never ran ended with a reason"
    verdict.add(row, [f"{work} ran {receipts.runs[work]} times" for work in twice])


async def _check_fresh(sockets: dict[str, Path], settle: float, verdict: Verdict) -> None:
    """After all that, new work still goes everywhere and comes back."""
    row, details = Row("fresh traffic"), list[str]()
    for name, socket in sockets.items():
        async with Client(socket=socket, connect_timeout=settle) as client:
            for what, work in (("publish", _publish), *((f"task to {to}", _task_to(to, name)) for to in sockets)):
                row.acked += 1
                try:
                    async with asyncio.timeout(settle):
                        await work(client)
                except (EdgenodeError, TimeoutError) as error:
                    row.wrong += 1
                    details.append(f"{what} on {name} does not go through: {error or 'no answer'}")
                else:
                    row.found += 1
    verdict.add(row, details)


async def _publish(client: Client) -> None:
    receipt = await client.publish(f"{names.TOPIC_ROOT}.fresh", b"fresh", level=Level.DURABLE_HUB, wait=WAIT)
    if receipt.level is not Level.DURABLE_HUB:
        raise TimeoutError("the hub did not acknowledge it")


def _task_to(target: str, name: str) -> Callable[[Client], Awaitable[None]]:
    async def run(client: Client) -> None:
        scope = Scope.LOCAL if target == name else Scope.FLEET
        where = f"nodes/{target}/agents/{AGENT}"
        handle = await client.submit(SKILL, {"work": "fresh"}, agent=where, scope=scope)
        if await handle.result(type=Work) != Work("fresh", names.answer("fresh")):
            raise TimeoutError("the answer is not true")

    return run
