"""A disk that does not sync, is full, or cannot be written, below an unmodified edge and an unmodified hub."""

from __future__ import annotations

import asyncio
import random
import shutil
from collections.abc import Awaitable, Callable, Iterator, Sequence
from contextlib import AsyncExitStack
from pathlib import Path

import pytest

from edgenode.api.admin.v1 import admin_service_pb2, admin_service_pb2_grpc
from edgenode.api.fleet.v1 import fleet_service_pb2, fleet_service_pb2_grpc
from edgenode.cli.demo.fleet import EDGEHUB, EDGENODE
from edgenode.link.errors import EdgenodeError, ResourceExhausted, Unavailable
from edgenode.sdk import Client, Level, TaskHandle, TaskState
from tests.faults.disk.campaign import EDGE, HUB, Service
from tests.faults.disk.control import Disk, Files, memory_folder
from tests.faults.disk.journal import read_journal
from tests.faults.disk.power import DiskModel
from tests.faults.disk.promises import Promises, broken, payload
from tests.faults.disk.recording import echoing
from tests.faults.fleet import Rig, command_of

pytestmark = pytest.mark.timeout(180)
PATIENCE = 60.0
CUTS = 20


@pytest.fixture
def folder() -> Iterator[Path]:
    path = memory_folder()
    yield path
    shutil.rmtree(path)


class Site:
    """A service alone on a disk under control: an edge that never joined, or a hub without edges."""

    def __init__(self, folder: Path, service: Service, mutant: str = "") -> None:
        self.service = service
        self.rig = Rig(folder)
        self.state = folder / service.node
        self.state.mkdir(mode=0o700)
        self.disk = Disk(self.state, folder / "control", journal=True)
        self.promises = Promises(lambda: self.disk.journal_bytes)
        self.edge = service is EDGE
        self._mutant = mutant
        self._made = False
        self._numbers = iter(range(1, 1 << 30))

    async def start(self) -> None:
        if self.edge:
            where = ["run", "--state", str(self.state), "--node", "north"]
            command = command_of(EDGENODE, self._mutant)
            child = await self.rig.fleet.spawn("north", command, *where, environment=self._environment)
            await child.ready()
        else:
            if not self._made:
                where = ["--state", str(self.state), "--domain", "faults.example"]
                made = await self.rig.fleet.spawn("init", EDGEHUB, "init", *where, environment=self._environment)
                assert await made.process.wait() == 0
                self._made = True
            await self.rig.start_hub(mutant=self._mutant, environment=self._environment)

    @property
    def _environment(self) -> dict[str, str]:
        return {**self.rig.environment, **self.disk.environment}

    def client(self) -> Client:
        return self.rig.client(self.service.node, connect_timeout=30)

    async def work(self, client: Client, size: int = 300) -> None:
        """Store something, and note what was promised. Raises what the service refuses it with."""
        name = f"{next(self._numbers)}"
        if self.edge:
            receipt = await client.publish("t", payload(name, size))
            assert receipt.level is Level.DURABLE_LOCAL
            self.promises.note("message", name)
        else:
            handle = await client.submit("nobody", {"text": "x" * size})
            self.promises.note("task", handle.task_id)

    async def refused(self, client: Client, size: int = 300, patience: float = 10) -> EdgenodeError | None:
        """Why it stores nothing more; None if it does."""
        try:
            async with asyncio.timeout(patience):
                await self.work(client, size)
        except EdgenodeError as error:
            return error
        except TimeoutError:
            return Unavailable("WAITS", "neither stored nor refused")
        return None

    async def health(self, client: Client) -> tuple[str, str]:
        """(health, reasons) as `status` shows them."""
        if self.edge:
            admin = admin_service_pb2_grpc.AdminServiceStub(client.channel)
            edge = await client.unary(admin.GetStatus, admin_service_pb2.GetStatusRequest())
            return edge.health, "; ".join(edge.health_reasons)
        fleet = fleet_service_pb2_grpc.FleetServiceStub(client.channel)
        hub = await client.unary(fleet.GetHubStatus, fleet_service_pb2.GetHubStatusRequest())
        return hub.health, "; ".join(hub.health_reasons)

    async def status_code(self) -> int:
        """Exit code of the status command."""
        command = EDGENODE if self.edge else EDGEHUB
        child = await self.rig.fleet.spawn("status", command, "status", "--state", str(self.state))
        return await child.process.wait()

    async def recovered(self, client: Client) -> None:
        """Wait until it stores again and says that it is well."""

        async def well() -> bool:
            return await self.refused(client) is None and (await self.health(client))[0] == "ready"

        await until(well)

    async def lost(self) -> list[str]:
        """What a power cut now would lose of what was promised, at worst and by chance; and what else is wrong."""
        wrong: list[str] = []
        model = DiskModel()
        for record in read_journal(self.disk.journal.read_bytes()):
            model.apply(record)
        for seed in range(CUTS):
            place = self.rig.fleet.folder / f"cut-{seed}"
            model.cut(random.Random(seed)).write(place)
            found, lines, problems = await self.service.read(place)
            wrong += problems + broken(self.promises, self.disk.journal_bytes, found, lines, self.service.name)
            shutil.rmtree(place)
        return wrong

    async def stop(self) -> None:
        self.disk.heal()
        await self.rig.stop()
        self.disk.close()


async def until(true: Callable[[], Awaitable[bool]]) -> None:
    async with asyncio.timeout(PATIENCE):
        while not await true():
            await breathe()


async def breathe() -> None:
    await asyncio.sleep(0.05)


SERVICES = pytest.mark.parametrize("service", [EDGE, HUB], ids=["edge", "hub"])


async def syncs_fail(folder: Path, service: Service, rounds: Sequence[int], mutant: str = "") -> list[str]:
    """Syncs fail: once (round 0), twice (1), for a while (2), until the service is killed (3); everything that went wrong."""
    site = Site(folder, service, mutant)
    wrong: list[str] = []
    await site.start()
    try:
        async with site.client() as client:
            for round in rounds:
                for _ in range(5):
                    await site.work(client)
                # Once or twice it is over before a client that tries again gives up; then it is not.
                lasting = round > 1
                site.disk.fail_syncs(count=-1 if lasting else round + 1, files=Files.WAL | Files.DATABASE)
                failed = [await site.refused(client, patience=1.5 if lasting else 10) for _ in range(2)]
                if lasting and not all(failed):
                    wrong.append("acknowledged what was not synced")
                if lasting and (await site.health(client))[0] != "degraded":
                    wrong.append("says that it is well")
                if round == 3:
                    # Whoever starts next finds in the page cache what is on no disk.
                    site.disk.kill()
                    await site.rig.died(service.node, within=PATIENCE)
                site.disk.heal()
                if round == 3:
                    await site.start()
                await site.recovered(client)
                wrong += [f"round {round}: {text}" for text in await site.lost()]
            assert site.disk.refused_syncs >= len(rounds)
        return wrong
    finally:
        await site.stop()


@SERVICES
async def test_fsync_fails(folder: Path, service: Service) -> None:
    assert await syncs_fail(folder, service, (0, 1, 2, 3) if service is EDGE else (1, 3)) == []


async def test_fsync_that_failed_and_is_believed_later_is_noticed(folder: Path) -> None:
    assert any("LOST" in text for text in await syncs_fail(folder, EDGE, (3,), "believe-the-page-cache"))


async def disk_full(folder: Path, service: Service, room: int, size: int, mutant: str = "") -> list[str]:
    """The disk has only `room` bytes left while work of `size` bytes comes in; everything that went wrong."""
    site = Site(folder, service, mutant)
    wrong: list[str] = []
    await site.start()
    try:
        async with site.client() as client:
            waiting = [await client.submit("later", {"number": number}) for number in range(4)]
            await site.work(client)
            site.disk.limit_space(room)
            refusal = None
            for _ in range(600):
                if (refusal := await site.refused(client, size)) is not None:
                    break
            if not isinstance(refusal, ResourceExhausted) or refusal.reason != "STORE_FULL":
                wrong.append(f"refused with {refusal!r}")
            # What makes room goes on: tasks end, agents come, also after a restart.
            for handle in waiting[:2]:
                wrong += await _cancelled(client, handle)
            if (await site.health(client))[0] != "degraded" or await site.status_code() != 7:
                wrong.append(f"its health is {await site.health(client)}")
            await site.rig.kill(service.node)
            try:
                await site.start()
            except EdgenodeError as error:
                return [*wrong, f"it did not start: {error}"]
            for handle in waiting[2:]:
                wrong += await _cancelled(client, handle)
            refused = site.disk.refused_writes
            site.disk.heal()
            await site.recovered(client)
            assert refused > 0, "the disk was never full"
            return wrong + await site.lost()
    finally:
        await site.stop()


async def _cancelled(client: Client, handle: TaskHandle) -> list[str]:
    try:
        async with asyncio.timeout(10):
            await handle.cancel()
            await until(lambda: _ended(client, handle))
    except (EdgenodeError, TimeoutError) as error:
        return [f"a task could not be cancelled: {error!r}"]
    return []


async def _ended(client: Client, handle: TaskHandle) -> bool:
    return TaskState((await client.get_task(handle.task_id)).state).terminal


async def test_disk_full_for_the_wal(folder: Path) -> None:
    assert await disk_full(folder, HUB, room=0, size=300) == []


async def test_disk_full_for_the_database(folder: Path) -> None:
    # The log has room up to its next checkpoint, whose pages the database has none for.
    assert await disk_full(folder, EDGE, room=9_000_000, size=100_000) == []


async def test_disk_full_without_a_reserve_is_noticed(folder: Path) -> None:
    wrong = await disk_full(folder, EDGE, room=0, size=300, mutant="keep-no-ballast")
    assert wrong


async def test_disk_full_for_temporary_files(folder: Path) -> None:
    site = Site(folder, EDGE)
    await site.start()
    try:
        opened = site.disk.temporary_opens
        site.disk.fill(Files.TEMPORARY)
        async with site.client() as client:
            for _ in range(10):
                await site.work(client, 50_000)
            assert await site.health(client) == ("ready", "")
        assert site.disk.temporary_opens == opened, "SQLite writes temporary files"
    finally:
        await site.stop()


async def cannot_be_written(folder: Path, service: Service, mutant: str = "") -> list[str]:
    """The file system becomes read-only, and is mended; everything that went wrong."""
    site = Site(folder, service, mutant)
    wrong: list[str] = []
    await site.start()
    try:
        async with site.client() as client, AsyncExitStack() as stack:
            if service is EDGE:
                await stack.enter_async_context(echoing(client))
            for _ in range(3):
                await site.work(client)
            site.disk.make_read_only()
            if not all([await site.refused(client, patience=1.5) for _ in range(2)]):
                wrong.append("acknowledged what nobody could write")
            health, why = await site.health(client)
            if health != "degraded" or "cannot be written" not in why:
                wrong.append(f"says that it is {health}: {why}")
            if (code := await site.status_code()) != 7:
                wrong.append(f"status exits with {code}")
            # What met the disk first was a commit, or what follows one; in either case the file is opened anew.
            if "the store cannot be opened" not in site.rig.log(service.node):
                wrong.append("nothing in the log")
            if service is EDGE:
                # What needs no store goes on.
                assert await client.call("echo", {"text": "still here"}) == "still here"
            site.disk.make_read_only(False)
            await site.recovered(client)
            if (code := await site.status_code()) != 0:
                wrong.append(f"status exits with {code} when all is well again")
            return wrong + await site.lost()
    finally:
        await site.stop()


@SERVICES
async def test_read_only_file_system(folder: Path, service: Service) -> None:
    assert await cannot_be_written(folder, service) == []


async def test_read_only_file_system_that_is_acknowledged_all_the_same_is_noticed(folder: Path) -> None:
    wrong = await cannot_be_written(folder, EDGE, mutant="acknowledge-before-the-commit")
    assert "acknowledged what nobody could write" in wrong
