"""The demo's story: work flows, the link is cut, a node is killed and comes back, the link is mended, all is counted."""

from __future__ import annotations

import asyncio
import json
import random
import time
import warnings
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import msgspec

from edgenode.api.admin.v1 import admin_pb2, admin_service_pb2, admin_service_pb2_grpc
from edgenode.api.fleet.v1 import fleet_service_pb2, fleet_service_pb2_grpc
from edgenode.cli.demo import check, totals
from edgenode.cli.demo.agents import READINGS, Metrics
from edgenode.cli.demo.fleet import Fleet
from edgenode.cli.demo.proxy import Proxy
from edgenode.cli.demo.totals import Verdict
from edgenode.link.errors import EdgenodeError
from edgenode.sdk import Client, Scope, TaskHandle

SKILL = "code.metrics"
MAX_SOURCE_BYTES = 512 * 1024
SAMPLE = 200
DRAIN_TIMEOUT = 180.0
_SUBMIT_SHARE, _CUT_SHARE, _KILL_SHARE, _RESTART_SHARE, _RESTORE_SHARE = 0.60, 0.25, 0.35, 0.42, 0.55


class Story:
    """One run. `tell` gets the lines a person should see."""

    def __init__(self, folder: Path, files: list[Path], seconds: float, tell: Callable[[str], None]) -> None:
        self._fleet = Fleet(folder)
        self._files = [path for path in files if path.stat().st_size <= MAX_SOURCE_BYTES]
        self._seconds = seconds
        self._tell = tell
        self._proxy = Proxy(0)
        self._began = time.monotonic()
        self._submitted: dict[str, Path] = {}
        self._answers: dict[str, Metrics] = {}
        self._failed: Counter[str] = Counter()
        self._north_up = False

    async def run(self) -> Verdict:
        """Everything from the first process to the last count."""
        try:
            await self._set_up()
            watcher = asyncio.create_task(self._watch())
            try:
                async with Client(state=self._fleet.state("south")) as south, asyncio.TaskGroup() as group:
                    group.create_task(self._submit(south))
                    group.create_task(self._disturb())
                acked = await self._settle()
            finally:
                watcher.cancel()
                await asyncio.gather(watcher, return_exceptions=True)
            return await self._count(acked)
        finally:
            await self._proxy.cut()
            await self._fleet.stop()

    def _say(self, text: str) -> None:
        self._tell(f"[{time.monotonic() - self._began:5.1f} s] {text}")

    # --- what happens -------------------------------------------------------------------------------------------------

    async def _set_up(self) -> None:
        self._say("starting a hub, edges north and south, and their agents")
        hub_port = await self._fleet.start_hub()
        self._proxy = Proxy(hub_port)
        await self._proxy.restore()
        for node in ("north", "south"):
            await self._fleet.join(node)
        await asyncio.gather(
            self._fleet.start_edge("north", self._proxy.port), self._fleet.start_edge("south", hub_port)
        )
        self._north_up = True
        await self._fleet.start_agent("device", "device", "north")
        for number in (1, 2):
            await self._fleet.start_agent(f"code-{number}", "code", "north")
        self._say(
            f"south submits {len(self._files):,} tasks: one for each file of the standard library; only north can do them"
        )
        self._began_work = time.monotonic()

    async def _until(self, share: float) -> None:
        await asyncio.sleep(max(self._began_work + share * self._seconds - time.monotonic(), 0))

    async def _submit(self, south: Client) -> None:
        pause = _SUBMIT_SHARE * self._seconds / max(len(self._files), 1)
        async with asyncio.TaskGroup() as answers:
            for number, path in enumerate(self._files):
                due = self._began_work + number * pause
                if (wait := due - time.monotonic()) > 0:
                    await asyncio.sleep(wait)
                handle = await south.submit(
                    SKILL, path.read_bytes(), scope=Scope.FLEET, annotations={"path": path.name}, context_id="demo"
                )
                self._submitted[handle.task_id] = path
                answers.create_task(self._await_answer(handle))
            self._say(f"all {len(self._submitted):,} tasks are submitted and durable on south")

    async def _await_answer(self, handle: TaskHandle) -> None:
        try:
            async with asyncio.timeout(self._seconds + DRAIN_TIMEOUT):
                self._answers[handle.task_id] = await handle.result(type=Metrics)
        except EdgenodeError as error:
            self._failed[error.reason] += 1
        except TimeoutError:
            self._failed["NO_ANSWER"] += 1

    async def _disturb(self) -> None:
        await self._until(_CUT_SHARE)
        await self._proxy.cut()
        self._say("CUT: north's link is closed; both sides go on by themselves")
        await self._until(_KILL_SHARE)
        self._north_up = False
        await self._fleet.children["north"].kill()
        self._say("KILL: north's process gets SIGKILL in the middle of the outage")
        await self._until(_RESTART_SHARE)
        await self._fleet.start_edge("north", self._proxy.port)
        self._north_up = True
        self._say("START: north runs again from what it had stored; its agents come back by themselves")
        await self._until(_RESTORE_SHARE)
        await self._proxy.restore()
        self._say("MEND: north's link is open again; the backlog drains")

    async def _settle(self) -> dict[str, int]:
        """Stop the readings and wait until nothing is on its way."""
        acked: dict[str, int] = json.loads((await self._fleet.children["device"].stop()).strip() or "{}")
        self._say(f"the device agent stopped after {sum(acked.values()):,} acknowledged readings")
        give_up = time.monotonic() + DRAIN_TIMEOUT
        while time.monotonic() < give_up:
            lines = [*await self._ledger("north"), *await self._ledger("south")]
            if not any(line.pending_count for line in lines):
                break
            await asyncio.sleep(0.25)
        return acked

    # --- what is seen -------------------------------------------------------------------------------------------------

    async def _watch(self) -> None:
        done_before, pending_before = 0, 0
        while True:
            await asyncio.sleep(1)
            parts = [f"link north {'up' if self._proxy.up else 'CUT'}"]
            pending = 0
            if self._north_up:
                try:
                    status = await self._status("north")
                except EdgenodeError:
                    continue
                lanes = [lane for lane in status.lanes if lane.direction == "up"]
                pending = sum(lane.pending_count for lane in lanes)
                age = max((lane.oldest_age_duration.seconds for lane in lanes), default=0)
                drained = pending_before - pending
                eta = f", empty in {pending / drained:.0f} s" if pending and self._proxy.up and drained > 0 else ""
                parts.append(f"north's backlog {pending:,} (oldest {age} s{eta})")
            else:
                parts.append("north is down")
            done = len(self._answers)
            parts.append(f"tasks {done:,} of {len(self._submitted):,} done, {done - done_before}/s")
            done_before, pending_before = done, pending
            self._say(" · ".join(parts))

    async def _status(self, node: str) -> admin_service_pb2.GetStatusResponse:
        async with Client(socket=self._fleet.socket(node), connect_timeout=1) as client:
            stub = admin_service_pb2_grpc.AdminServiceStub(client.channel)
            return await client.unary(stub.GetStatus, admin_service_pb2.GetStatusRequest())

    async def _ledger(self, node: str) -> list[admin_pb2.LedgerLine]:
        async with Client(socket=self._fleet.socket(node)) as client:
            stub = admin_service_pb2_grpc.AdminServiceStub(client.channel)
            return list((await client.unary(stub.GetLedger, admin_service_pb2.GetLedgerRequest())).lines)

    async def _hub_ledger(self) -> list[admin_pb2.LedgerLine]:
        async with Client(socket=self._fleet.socket("hub")) as client:
            stub = fleet_service_pb2_grpc.FleetServiceStub(client.channel)
            return list((await client.unary(stub.GetFleetLedger, fleet_service_pb2.GetFleetLedgerRequest())).lines)

    # --- what it comes to ---------------------------------------------------------------------------------------------

    async def _count(self, acked: dict[str, int]) -> Verdict:
        verdict = Verdict()
        north, south, hub = await self._ledger("north"), await self._ledger("south"), await self._hub_ledger()
        totals.message_total(verdict, acked, await self._arrived(north), north)
        done: Counter[str] = Counter({"COMPLETED": len(self._answers), **self._failed})
        totals.task_total(verdict, len(self._submitted), done, len(self._answers), north, hub)
        for owner, lines in (("north", north), ("south", south), ("hub", hub)):
            totals.ledgers(verdict, owner, lines)
        if len(self._submitted) <= 1000:
            verdict.wrong.append(f"only {len(self._submitted)} tasks crossed; this interpreter has few source files")
        self._check_sample(verdict)
        return verdict

    async def _arrived(self, north: list[admin_pb2.LedgerLine]) -> list[tuple[str, int]]:
        """(topic, number) of every reading the hub has, by an ordinary subscription from the start."""
        expected = next(line.delivered_count for line in north if line.hop == "message.uplink")
        arrived: list[tuple[str, int]] = []
        if not expected:
            return arrived
        async with (
            Client(socket=self._fleet.socket("hub")) as client,
            client.subscribe(["device.>"], position="start") as subscription,
        ):
            # As many as north delivered, and a moment more for what should not be there.
            try:
                async with asyncio.timeout(60) as patience:
                    async for received in subscription:
                        number = msgspec.json.decode(received.payload)["number"]
                        arrived.append((received.topic, number))
                        if len(arrived) == expected:
                            patience.reschedule(asyncio.get_running_loop().time() + 1)
            except TimeoutError:
                pass
        return [pair for pair in arrived if pair[0] in READINGS]

    def _check_sample(self, verdict: Verdict) -> None:
        """Work a sample of the results out again, with the tokenizer and the symbol tables."""
        ids = sorted(self._answers)
        for task_id in random.Random(0).sample(ids, min(SAMPLE, len(ids))):
            path, answer = self._submitted[task_id], self._answers[task_id]
            if answer.error:
                continue
            try:
                with warnings.catch_warnings(action="ignore"):
                    expected = check.count(path.read_bytes())
            except (SyntaxError, ValueError):
                continue  # it parses but does not compile: there is nothing to compare with
            verdict.checked += 1
            if expected != (answer.lines, answer.functions, answer.branches):
                verdict.differing += 1
                verdict.wrong.append(f"{path}: the agent says {answer}, a second count {expected}")
