"""Power cuts at many points of one recording.

For each point the disk is rebuilt as it may stand then (see `power`), and the state is read back by the service's own store,
in this process: it must open unaided, be whole, balance, and hold everything promised by then. Some points are also given
to the real service, which must start on them and say that it is well.
"""

from __future__ import annotations

import random
import shutil
from collections.abc import Awaitable, Callable, Coroutine, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from edgenode.api.admin.v1 import admin_service_pb2, admin_service_pb2_grpc
from edgenode.api.fleet.v1 import fleet_service_pb2, fleet_service_pb2_grpc
from edgenode.cli.demo.fleet import EDGENODE, Fleet
from edgenode.link.errors import EdgenodeError
from edgenode.sdk import Client
from tests.faults.disk.control import memory_folder
from tests.faults.disk.journal import Kind, Record, read_journal
from tests.faults.disk.power import DiskModel
from tests.faults.disk.promises import Found, broken, unbalanced
from tests.faults.disk.recording import Recording, record_edge, record_hub
from tests.faults.disk.states import Lines, read_edge, read_hub

_MAKING = 60  # records until an edge's identity and store are there, about


@dataclass(frozen=True, slots=True)
class Service:
    """One of the two services: how its life is recorded, how its state is read, how it is started."""

    name: str
    node: str  # what its state directory is called
    record: Callable[..., Coroutine[Any, Any, Recording]]
    read: Callable[[Path], Awaitable[tuple[Found, Lines, list[str]]]]
    start: Callable[[Path], Awaitable[list[str]]]


@dataclass(slots=True)
class Outcome:
    """Of a campaign. `wrong` begins with the point, the journal's length and the seed of the cut."""

    points: int = 0
    started: int = 0
    promised: int = 0  # promises looked for, over all points
    wrong: list[str] = field(default_factory=list)


async def cut_power(
    service: Service, recording: Recording, points: int, *, starts: int = 0, seed: int = 1, fail_at: int = 1 << 30
) -> Outcome:
    """Cut the power at `points` points, `starts` of which the real service is started on. Ends after `fail_at` failures."""
    records = list(read_journal(recording.journal))
    rng = random.Random(seed)
    chosen = sorted(_points(records, points, rng))
    begins = {chosen[len(chosen) * number // starts] for number in range(starts)} if starts else set()
    model, outcome, following = DiskModel(), Outcome(), 0
    place = memory_folder()
    try:
        for number in chosen:
            while following <= number:
                model.apply(records[following])
                following += 1
            start = number in begins
            begins.discard(number)
            wrong = await _one(service, recording, model, records[number].end, seed + outcome.points, place, start)
            outcome.points += 1
            outcome.started += start
            outcome.promised += sum(
                len(recording.promises.due(kind, records[number].end)) for kind in recording.promises.told
            )
            outcome.wrong += [
                f"record {number} of {len(records)}, cut {seed + outcome.points - 1}: {text}" for text in wrong
            ]
            if len(outcome.wrong) >= fail_at:
                break
    finally:
        shutil.rmtree(place)
    return outcome


def _points(records: list[Record], count: int, rng: random.Random) -> Iterator[int]:
    """Half of them anywhere, half right before or behind what makes things durable or changes names and lengths.

    One in ten is right at the beginning, where everything is made: that is a small part of a recording.
    """
    turns = [number for number, record in enumerate(records) if record.kind not in (Kind.WRITE, Kind.OPEN)]
    for number in range(count):
        if number % 10 == 4:
            yield rng.randrange(min(_MAKING, len(records)))
        elif number % 2:
            yield max(rng.choice(turns) - rng.randint(0, 1), 0)
        else:
            yield rng.randrange(len(records))


async def _one(
    service: Service, recording: Recording, model: DiskModel, position: int, seed: int, place: Path, start: bool
) -> list[str]:
    state = place / service.node
    model.cut(random.Random(seed)).write(state)
    try:
        if start:
            copy = place / "started" / service.node
            shutil.copytree(state, copy)
            try:
                wrong = await service.start(copy)
            finally:
                shutil.rmtree(copy.parent)
            if wrong:
                return wrong
        found, lines, wrong = await service.read(state)
        return wrong + broken(recording.promises, position, found, lines, service.name)
    except EdgenodeError as error:
        return [f"it did not open: {error}"]
    finally:
        shutil.rmtree(state)


async def _start_edge(state: Path) -> list[str]:
    fleet = Fleet(state.parent)
    try:
        child = await fleet.spawn("north", EDGENODE, "run", "--state", str(state), "--hub", "127.0.0.1:9")
        await child.ready()
        async with Client(socket=fleet.socket("north")) as client:
            admin = admin_service_pb2_grpc.AdminServiceStub(client.channel)
            status = await client.unary(admin.GetStatus, admin_service_pb2.GetStatusRequest())
            lines = (await client.unary(admin.GetLedger, admin_service_pb2.GetLedgerRequest())).lines
        wrong = [] if status.health == "ready" else [f"it is {status.health}: {list(status.health_reasons)}"]
        return wrong + unbalanced("edge", lines)
    except EdgenodeError as error:
        return [f"it did not start: {error}"]
    finally:
        await fleet.stop()


async def _start_hub(state: Path) -> list[str]:
    if not (state / "ca").is_dir():
        return []  # not made yet
    fleet = Fleet(state.parent)
    try:
        await fleet.serve_hub("127.0.0.1:0", "127.0.0.1:0")
        async with Client(socket=fleet.socket("hub")) as client:
            stub = fleet_service_pb2_grpc.FleetServiceStub(client.channel)
            lines = (await client.unary(stub.GetFleetLedger, fleet_service_pb2.GetFleetLedgerRequest())).lines
        return unbalanced("hub", lines)
    except EdgenodeError as error:
        return [f"it did not start: {error}"]
    finally:
        await fleet.stop()


EDGE = Service("edge", "north", record_edge, read_edge, _start_edge)
HUB = Service("hub", "hub", record_hub, read_hub, _start_hub)
