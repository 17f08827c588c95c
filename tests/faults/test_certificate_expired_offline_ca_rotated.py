"""Certificate expired offline, CA rotated: local work goes on; a path to renew remains, with no manual step.

An edge is away while its certificate expires and both of the hub's CAs are rotated, twice. What it still has is its key, the
certificate that the hub knows of it, and the fleet's root. That must be enough, and nothing less may be.
"""

from __future__ import annotations

import asyncio
import shutil
import time
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from click.testing import CliRunner

from edgenode.link.errors import FailedPrecondition, PermissionDenied
from edgenode.link.identity.certificates import certificate_to_der, make_csr, new_key
from edgenode.link.identity.documents import verify_document
from edgenode.link.identity.lifetime import CLOCK_SKEW
from edgenode.link.identity.names import edge_name
from edgenode.link.parent import enrolling
from edgenode.link.parent import identity as parent_identity
from edgenode.link.parent.identity import Renewer, load_identity
from edgenode.link.ports import SystemClock
from edgenode.sdk import Level
from hub.ca import lifecycle, rotation
from hub.ca.authority import Authority, init_authority, read_pair
from hub.ca.ports import NodeRecord
from hub.ca.profiles import build_edge
from hub.ca.rotation import EDGE_CA, HUB_CA
from hub.cli.main import main
from tests.faults.pair import Pair, until

LIFE = 3  # seconds that certificates live

pytestmark = pytest.mark.timeout(90)


@pytest.fixture(autouse=True)
def looks_again_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """A node may look at the hub that is about to end, and would look at the next only after half a minute."""
    monkeypatch.setattr(parent_identity, "_LOOK_INTERVAL", 0.0)


@pytest.fixture
async def pair(folder: Path) -> AsyncIterator[Pair]:
    made = Pair(folder, leaf_ttl_seconds=LIFE)
    await made.start()
    try:
        yield made
    finally:
        await made.stop()


def root_key(pair: Pair) -> Path:
    """The root's key, which the operator took offline."""
    kept, offline = pair.hub_state / "ca" / "root.key", pair.hub_state.parent / "safe.key"
    if kept.exists():
        shutil.move(kept, offline)
    return offline


def rotate(pair: Pair, *titles: str) -> None:
    rotation.rotate(pair.hub_state, root_key(pair), list(titles) or [EDGE_CA, HUB_CA], SystemClock())


async def expired(pair: Pair) -> bool:
    identity = load_identity(pair.edge_state)
    assert identity is not None
    return identity.expire_time < time.time()


async def later(pair: Pair) -> bool:
    """Whether a CA made now has another time in it than the one in use: certificates know whole seconds."""
    made = read_pair(pair.hub_state / "ca" / "hub-ca.pem").certificate.not_valid_before_utc.timestamp()
    return time.time() - CLOCK_SKEW >= made + 1


async def away_while_all_is_rotated(pair: Pair) -> None:
    """The hub is away until the edge's certificate has expired, and comes back with other CAs."""
    await pair.stop_hub()
    rotate(pair)
    rotate(pair)
    assert await until(lambda: expired(pair))
    async with pair.client("edge") as client:
        assert (await client.publish("while.away", {})).level == Level.DURABLE_LOCAL
    await pair.start_hub()


async def test_certificate_expired_offline_ca_rotated(pair: Pair) -> None:
    before = load_identity(pair.edge_state)
    await away_while_all_is_rotated(pair)
    assert await until(pair.connected)
    async with pair.client("edge") as client:
        assert (await client.publish("after.all", {}, level=Level.DURABLE_HUB)).level == Level.DURABLE_HUB
    async with pair.client("hub") as client, client.subscribe(">", position="start") as messages:
        assert [(await anext(messages)).topic for _ in range(2)] == ["while.away", "after.all"]
    after = load_identity(pair.edge_state)
    assert before is not None
    assert after is not None
    assert after.generation > before.generation
    assert after.root == before.root
    assert after.hub_ca != before.hub_ca
    assert after.edge_ca != before.edge_ca


async def test_an_edge_that_is_restarted_while_away_comes_back_as_well(pair: Pair) -> None:
    await pair.stop_edge()
    await pair.stop_hub()
    rotate(pair)
    assert await until(lambda: expired(pair))
    await pair.start_edge()
    async with pair.client("edge") as client:
        assert (await client.publish("while.away", {})).level == Level.DURABLE_LOCAL
    await pair.start_hub()
    assert await until(pair.connected)


async def test_edges_whose_certificate_is_good_follow_a_rotation_without_renewing(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pair = Pair(folder)
    await pair.start()
    try:
        for titles in ([EDGE_CA], [HUB_CA], [EDGE_CA, HUB_CA]):
            await pair.stop_hub()
            rotate(pair, *titles)
            await pair.start_hub()
            assert await until(pair.connected)
        assert (await pair.node()).generation == 1
    finally:
        await pair.stop()


async def test_without_looking_for_the_present_ca_an_edge_stays_out(
    pair: Pair, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The protection taken away: it holds on to the hub-ca it joined with, and never gets in again."""

    async def never(_self: Renewer) -> bool:
        return False

    monkeypatch.setattr(Renewer, "refresh_trust", never)
    await away_while_all_is_rotated(pair)
    assert not await until(pair.connected, within=2)


async def test_a_hub_that_forgets_retired_cas_locks_out_who_was_away(
    pair: Pair, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("hub.ca.authority.read_retired", lambda _directory: [])
    await away_while_all_is_rotated(pair)
    assert not await until(pair.connected, within=2)


async def test_whoever_has_a_retired_key_gets_nowhere_with_it(folder: Path) -> None:
    """Only the certificate that the hub issued itself counts, whatever generation another one claims."""
    state, clock = folder / "hub", SystemClock()
    init_authority(state, "fleet.example", "hub", clock)
    issued = Authority.load(state, clock).sign_edge(make_csr(new_key()), "north", 1)
    record = NodeRecord("north", clock.wall(), revoked=False, current=issued)
    stolen = read_pair(state / "ca" / "edge-ca.pem")
    rotation.rotate(state, state / "ca" / "root.key", [EDGE_CA], clock)
    authority = Authority.load(state, clock)
    known = authority.read_edge(issued.certificate)
    assert known.retired
    assert lifecycle.present(record, known, clock.wall()) == record
    name, key = edge_name("fleet.example", "north"), new_key().public_key()
    for generation in (1, 2, 99):
        forged = authority.read_edge(certificate_to_der(build_edge(name, generation, key, stolen, clock.wall(), 60.0)))
        for held in (record, None):
            with pytest.raises(PermissionDenied, match="RETIRED_CA"):
                lifecycle.present(held, forged, clock.wall())
    with pytest.raises(FailedPrecondition, match="WRONG_ROOT_KEY"):
        rotation.rotate(state, state / "ca" / "hub-ca.pem", [EDGE_CA], clock)


@pytest.mark.parametrize("protected", [True, False])
async def test_a_hub_ca_that_was_rotated_away_does_not_come_back(
    folder: Path, monkeypatch: pytest.MonkeyPatch, protected: bool
) -> None:
    """The root once signed it; whoever has its key now, and the hub's address, would be the hub otherwise."""
    if not protected:
        monkeypatch.setattr(enrolling, "_check_newer", lambda *_: None)
    pair = Pair(folder)
    await pair.start()
    try:
        await pair.stop_hub()
        shutil.copytree(pair.hub_state, folder / "stolen")
        assert await until(lambda: later(pair))
        rotate(pair, HUB_CA)
        await pair.start_hub()
        assert await until(pair.connected)
        await pair.stop_hub()
        pair.impersonate(folder / "stolen")
        await pair.start_hub()
        assert await until(pair.connected, within=1.5 if protected else 20.0) is not protected
    finally:
        await pair.stop()


async def test_a_rotation_that_was_cut_short_is_finished_by_the_next_start(pair: Pair) -> None:
    """A new hub-ca without certificates of its own, and an edge-ca that is retired and in use."""
    await pair.stop_hub()
    ca = pair.hub_state / "ca"
    rotation._retire(ca, read_pair(ca / "edge-ca.pem").certificate, time.time())
    rotate(pair, HUB_CA)
    await pair.start_hub()
    assert await until(pair.connected)
    authority = Authority.load(pair.hub_state, SystemClock())
    signature, chain = authority.sign_document(b"wanted")
    root = (ca / "root.pem").read_bytes()
    verify_document(b"wanted", signature, list(chain), root, "fleet.example", time.time())
    assert not authority.read_edge(authority.sign_edge(make_csr(new_key()), "south", 1).certificate).retired


async def test_rotating_by_command(pair: Pair, folder: Path) -> None:
    arguments = ["ca", "rotate", "--state", str(pair.hub_state), "--root-key", str(root_key(pair))]
    running = await asyncio.to_thread(lambda: CliRunner().invoke(main, arguments))
    assert running.exit_code == 1
    await pair.stop_hub()
    done = await asyncio.to_thread(lambda: CliRunner().invoke(main, arguments))
    assert done.exit_code == 0, done.output
    await pair.start_hub()
    assert await until(pair.connected)
