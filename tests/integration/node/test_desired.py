"""Desired states: signed by a real hub authority, kept in a real store."""

from __future__ import annotations

import dataclasses
import ssl
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest

from edgenode.api.sync.v1 import sync_pb2
from edgenode.link.model.lanes import Lane
from edgenode.link.ports import SystemClock
from edgenode.link.store.database import Database
from edgenode.node.desired import DesiredSettings, DesiredStates
from edgenode.node.hub_link import verifier
from edgenode.node.store import MIGRATIONS
from hub.ca.authority import Authority, init_authority


@dataclasses.dataclass(frozen=True)
class Root:
    """As the node's identity names it."""

    root: bytes
    trust_domain: str


class Fleet:
    def __init__(self, directory: Path) -> None:
        init_authority(directory, "fleet.example", "main", SystemClock())
        self.authority = Authority.load(directory, SystemClock())

    def state(
        self, version: int, *, node: str = "north", outside: int | None = None, **fields: Any
    ) -> sync_pb2.DesiredState:
        document = sync_pb2.DesiredDocument(node=node, version=version, **fields).SerializeToString()
        signature, chain = self.authority.sign_document(document)
        return sync_pb2.DesiredState(
            version=version if outside is None else outside, document=document, signature=signature, certificates=chain
        )

    def identity(self) -> Root:
        return Root(ssl.DER_cert_to_PEM_cert(self.authority.root_certificate).encode(), "fleet.example")


class House:
    def __init__(self, database: Database, identity: Root | None) -> None:
        self.applied: list[DesiredSettings] = []
        self.states = DesiredStates(database, "north", verifier(lambda: identity, SystemClock()), self._apply)

    async def _apply(self, settings: DesiredSettings) -> None:
        self.applied.append(settings)

    async def refused(self, state: sync_pb2.DesiredState) -> str:
        before = self.states.settings
        report = await self.states.receive(state)
        assert report.refused_version == state.version
        assert report.applied_version == before.version
        assert report.problem.hint
        assert self.states.settings is before
        return report.problem.reason


@pytest.fixture
def fleet(tmp_path: Path) -> Fleet:
    return Fleet(tmp_path / "hub")


@asynccontextmanager
async def house(path: Path, identity: Root | None) -> AsyncIterator[House]:
    database = await Database.open(path, MIGRATIONS, application_id=1)
    try:
        yield House(database, identity)
    finally:
        await database.close()


async def test_a_signed_state_is_applied_and_in_force_after_a_restart(tmp_path: Path, fleet: Fleet) -> None:
    limits = {"max_queued_tasks": 5}
    async with house(tmp_path / "db", fleet.identity()) as h:
        await h.states.load()
        assert (h.states.applied_version, h.applied) == (0, [])
        await h.states.receive(fleet.state(2, log_level="debug"))
        report = await h.states.receive(fleet.state(3, lane_weights={"message": 9}, limits=limits))
        assert (report.applied_version, report.refused_version) == (3, 0)
        again = await h.states.receive(fleet.state(3, log_level="error"))
        assert (again.applied_version, again.refused_version) == (3, 0)
        expected = DesiredSettings(3, "", {Lane.MESSAGE: 9}, limits)
        assert h.applied == [DesiredSettings(2, "debug"), expected]
    # Its signer need not be known any more: it was checked when it was stored.
    async with house(tmp_path / "db", None) as h:
        await h.states.load()
        assert (h.states.applied_version, h.applied) == (3, [expected])


async def test_versions_only_rise(tmp_path: Path, fleet: Fleet) -> None:
    async with house(tmp_path / "db", fleet.identity()) as h:
        await h.states.receive(fleet.state(5))
        assert await h.refused(fleet.state(4)) == "VERSION_OUTDATED"


async def test_what_is_not_the_hubs_word_for_this_node_is_refused(tmp_path: Path, fleet: Fleet) -> None:
    async with house(tmp_path / "db", fleet.identity()) as h:
        await h.states.receive(fleet.state(1))
        tampered = fleet.state(2)
        tampered.document += sync_pb2.DesiredDocument(log_level="debug").SerializeToString()
        assert await h.refused(tampered) == "BAD_SIGNATURE"
        unsigned = fleet.state(2)
        unsigned.ClearField("certificates")
        assert await h.refused(unsigned) == "BAD_SIGNATURE"
        assert await h.refused(Fleet(tmp_path / "rogue").state(2)) == "BAD_CERTIFICATE"
        assert await h.refused(fleet.state(2, node="south")) == "BAD_DOCUMENT"
        assert await h.refused(fleet.state(1, outside=2)) == "BAD_DOCUMENT"
    domain = dataclasses.replace(fleet.identity(), trust_domain="other.example")
    async with house(tmp_path / "db2", domain) as h:
        assert await h.refused(fleet.state(1)) == "BAD_SIGNATURE"
    async with house(tmp_path / "db3", None) as h:
        assert await h.refused(fleet.state(1)) == "NO_IDENTITY"


@pytest.mark.parametrize(
    ("fields", "reason"),
    [
        ({"log_level": "loud"}, "BAD_LOG_LEVEL"),
        ({"lane_weights": {"express": 1}}, "UNKNOWN_VALUE"),
        ({"lane_weights": {"task": 0}}, "OUT_OF_RANGE"),
        ({"lane_weights": {"task": 1001}}, "OUT_OF_RANGE"),
        ({"limits": {"max_happiness": 1}}, "UNKNOWN_VALUE"),
        ({"limits": {"store_bytes": 1}}, "OUT_OF_RANGE"),
    ],
)
async def test_a_state_with_anything_wrong_is_refused_whole(
    tmp_path: Path, fleet: Fleet, fields: dict[str, Any], reason: str
) -> None:
    async with house(tmp_path / "db", fleet.identity()) as h:
        await h.states.receive(fleet.state(1, log_level="error"))
        assert await h.refused(fleet.state(2, **{"log_level": "debug", **fields})) == reason
    async with house(tmp_path / "db", fleet.identity()) as h:
        await h.states.load()
        assert h.states.settings == DesiredSettings(1, "error")
