import asyncio
import random
import shutil
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from copy import copy
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import grpc
import pytest
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec

from edgenode.api.enrollment.v1 import enrollment_service_pb2 as pb
from edgenode.api.enrollment.v1 import enrollment_service_pb2_grpc as pb_grpc
from edgenode.link.errors import EdgenodeError, PermissionDenied, Unavailable
from edgenode.link.identity.certificates import (
    certificate_to_der,
    certificates_from_pem,
    key_from_pem,
    make_csr,
    new_key,
)
from edgenode.link.identity.files import write_private_file
from edgenode.link.identity.lifetime import renewal_time
from edgenode.link.parent import enrolling
from edgenode.link.parent.identity import IdentityDirectory, NodeIdentity, Renewer, join, load_identity
from edgenode.link.parent.membership import Membership, link_status
from edgenode.link.wire.dialing import DialingStatus
from hub.ca.authority import Authority

if TYPE_CHECKING:
    from tests.integration.identity.conftest import Fleet

DAY = 86_400.0


async def renew(state: Path, identity: NodeIdentity, fleet: "Fleet") -> NodeIdentity:
    return await enrolling.renew(IdentityDirectory(state), identity, fleet.clock)


@pytest.fixture
async def north(tmp_path: Path, fleet: "Fleet") -> NodeIdentity:
    return await join(tmp_path, fleet.address, await fleet.token())


async def test_a_live_certificate_is_renewed_with_a_new_key(
    tmp_path: Path, fleet: "Fleet", north: NodeIdentity
) -> None:
    renewed = await renew(tmp_path, north, fleet)
    assert renewed.generation == 2
    assert renewed.pair.private_key != north.pair.private_key
    assert (renewed.node, renewed.sync_address, renewed.hub_ca) == (north.node, north.sync_address, north.hub_ca)
    assert load_identity(tmp_path) == renewed
    assert {path.name for path in (tmp_path / "identity").iterdir()} == {
        "identity.json", "credential-2.pem", "bundle.pem",
    }  # fmt: skip
    record = await fleet.store.node("north")
    assert record is not None
    assert record.pending is not None
    assert record.pending.expire_time == renewed.expire_time


async def test_an_expired_certificate_is_renewed(tmp_path: Path, fleet: "Fleet") -> None:
    fleet.clock.offset = -30 * DAY
    joined = await join(tmp_path, fleet.address, await fleet.token())
    fleet.clock.offset = 0
    assert joined.expire_time < fleet.clock.wall() - 20 * DAY
    renewed = await renew(tmp_path, joined, fleet)
    assert renewed.expire_time == pytest.approx(fleet.clock.wall() + 7 * DAY, abs=30)


async def test_a_hub_under_another_root_is_not_believed_to_be_the_rotated_one(
    tmp_path: Path, north: NodeIdentity, fleet: "Fleet", other_fleet: "Fleet", caplog: pytest.LogCaptureFixture
) -> None:
    """Whoever has the hub's address can be a hub of a fleet of the same name; the root's vouching is what he lacks."""
    misled = replace(north, enrollment_address=other_fleet.address)
    renewer = Renewer(tmp_path, misled, fleet.clock, random.Random(1), lambda _identity: None)
    assert not await renewer.refresh_trust()
    assert "WRONG_CA" in caplog.text
    assert other_fleet.service.calls == ["GetTrustBundle"]
    assert load_identity(tmp_path) == north


async def test_a_lost_answer_is_asked_for_again(tmp_path: Path, fleet: "Fleet", north: NodeIdentity) -> None:
    fleet.service.lose = 2
    for _ in range(2):
        with pytest.raises(Unavailable):
            await renew(tmp_path, north, fleet)
        assert load_identity(tmp_path) == north
    renewed = await renew(tmp_path, north, fleet)
    assert renewed.generation == 2
    record = await fleet.store.node("north")
    assert record is not None
    assert record.pending is not None
    assert record.pending.generation == 2


@pytest.mark.parametrize("name", ["pending-key.pem", "credential-2.pem", "bundle.pem", "identity.json"])
async def test_a_crash_at_any_write_leaves_a_usable_pair(
    tmp_path: Path, fleet: "Fleet", north: NodeIdentity, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    def crash(path: Path, data: bytes) -> None:
        if path.name == name:
            raise OSError(5, "Input/output error")
        write_private_file(path, data)

    monkeypatch.setattr("edgenode.link.parent.identity.write_private_file", crash)
    with pytest.raises(EdgenodeError) as refusal:
        await renew(tmp_path, north, fleet)
    assert refusal.value.reason == "STATE_NOT_WRITABLE"
    assert load_identity(tmp_path) == north
    monkeypatch.undo()
    assert (await renew(tmp_path, north, fleet)).generation == 2


async def test_a_crash_before_the_clean_up_does_not_reuse_the_key(
    tmp_path: Path, fleet: "Fleet", north: NodeIdentity
) -> None:
    renewed = await renew(tmp_path, north, fleet)
    (tmp_path / "identity" / "pending-key.pem").write_bytes(renewed.pair.private_key)
    again = await renew(tmp_path, renewed, fleet)
    assert again.generation == 3
    assert again.pair.private_key != renewed.pair.private_key


async def test_a_damaged_pending_key_is_replaced(tmp_path: Path, fleet: "Fleet", north: NodeIdentity) -> None:
    (tmp_path / "identity" / "pending-key.pem").write_bytes(b"\x00" * 100)
    assert (await renew(tmp_path, north, fleet)).generation == 2


async def test_a_copied_state_directory_is_found_out(tmp_path: Path, fleet: "Fleet", north: NodeIdentity) -> None:
    shutil.copytree(tmp_path / "identity", tmp_path / "copy" / "identity")
    copied = load_identity(tmp_path / "copy")
    assert copied is not None
    renewed = await renew(tmp_path, north, fleet)
    presented = certificates_from_pem(renewed.pair.certificate_chain, "x")[0]
    await fleet.store.admit(fleet.authority.read_edge(certificate_to_der(presented)), fleet.clock.wall())
    with pytest.raises(PermissionDenied) as refusal:
        await renew(tmp_path / "copy", copied, fleet)
    assert refusal.value.reason == "STALE_GENERATION"


async def test_a_revoked_node_cannot_renew(tmp_path: Path, fleet: "Fleet", north: NodeIdentity) -> None:
    await fleet.store.revoke("north")
    with pytest.raises(PermissionDenied) as refusal:
        await renew(tmp_path, north, fleet)
    assert refusal.value.reason == "REVOKED"


async def test_a_hub_of_another_ca_is_not_believed(
    tmp_path: Path, fleet: "Fleet", other_fleet: "Fleet", north: NodeIdentity
) -> None:
    fleet.identity.replace(other_fleet.authority.hub_pair())
    with pytest.raises(Unavailable) as refusal:
        await renew(tmp_path, north, fleet)
    assert refusal.value.reason == "HUB_UNREACHABLE"
    assert fleet.service.calls.count("Renew") == 0
    # The hub gets its own certificate back without a restart: handshakes use what is shown now.
    fleet.identity.replace(fleet.authority.hub_pair())
    assert (await renew(tmp_path, north, fleet)).generation == 2


async def raw_renew(fleet: "Fleet", north: NodeIdentity, **changed: Any) -> pb.RenewResponse:
    """Renews with the stubs alone."""
    csr = make_csr(new_key())
    key = key_from_pem(north.pair.private_key, "x")
    request = {
        "certificate": certificate_to_der(certificates_from_pem(north.pair.certificate_chain, "x")[0]),
        "csr": csr,
        "proof": key.sign(csr, ec.ECDSA(hashes.SHA256())),
        "generation": north.generation,
        **changed,
    }
    options = [("grpc.ssl_target_name_override", north.server_name), ("grpc.enable_http_proxy", 0)]
    credentials = grpc.ssl_channel_credentials(north.hub_ca)
    async with grpc.aio.secure_channel(fleet.address, credentials, options=options) as channel:
        stub = pb_grpc.EnrollmentServiceStub(channel)
        response: pb.RenewResponse = await stub.Renew(pb.RenewRequest(**request), timeout=30)
    return response


async def test_renewals_without_proof(fleet: "Fleet", other_fleet: "Fleet", north: NodeIdentity) -> None:
    assert (await raw_renew(fleet, north)).generation == 2
    foreign = other_fleet.authority.sign_edge(make_csr(new_key()), "north", 1).certificate
    mallory = new_key()
    cases: list[tuple[dict[str, Any], grpc.StatusCode]] = [
        ({"proof": b""}, grpc.StatusCode.UNAUTHENTICATED),
        ({"proof": mallory.sign(make_csr(mallory), ec.ECDSA(hashes.SHA256()))}, grpc.StatusCode.UNAUTHENTICATED),
        ({"certificate": foreign}, grpc.StatusCode.UNAUTHENTICATED),
        ({"certificate": b"junk"}, grpc.StatusCode.UNAUTHENTICATED),
        ({"certificate": fleet.authority.edge_ca_certificate}, grpc.StatusCode.UNAUTHENTICATED),
        ({"csr": b"junk"}, grpc.StatusCode.UNAUTHENTICATED),  # the proof is over other bytes
        ({"generation": 9}, grpc.StatusCode.PERMISSION_DENIED),
    ]
    for changed, code in cases:
        with pytest.raises(grpc.aio.AioRpcError) as refusal:
            await raw_renew(fleet, north, **changed)
        assert refusal.value.code() is code, changed
    key = key_from_pem(north.pair.private_key, "x")
    with pytest.raises(grpc.aio.AioRpcError) as bad_csr:
        await raw_renew(fleet, north, csr=b"junk", proof=key.sign(b"junk", ec.ECDSA(hashes.SHA256())))
    assert bad_csr.value.code() is grpc.StatusCode.INVALID_ARGUMENT


def test_renewal_comes_at_60_percent_more_or_less() -> None:
    rng = random.Random(1)
    begin, life = 1_000_000.0, 7 * DAY
    times = [renewal_time(begin - 300, begin + life, rng) for _ in range(1000)]
    assert begin + 0.5 * life <= min(times) < begin + 0.52 * life
    assert begin + 0.68 * life < max(times) <= begin + 0.7 * life


@asynccontextmanager
async def running(renewer: Renewer) -> AsyncIterator[None]:
    task = asyncio.create_task(renewer.run())
    try:
        yield
    finally:
        task.cancel()
        await asyncio.wait([task])
        assert task.cancelled()


class Renewed:
    """Collects what a Renewer tells."""

    def __init__(self) -> None:
        self.queue: asyncio.Queue[NodeIdentity] = asyncio.Queue()

    def __call__(self, identity: NodeIdentity) -> None:
        self.queue.put_nowait(identity)

    async def next(self) -> NodeIdentity:
        async with asyncio.timeout(20):
            return await self.queue.get()


async def eventually(condition: Callable[[], bool]) -> None:
    async with asyncio.timeout(20):
        while not condition():  # noqa: ASYNC110  the Renewer tells nobody of failures
            await asyncio.sleep(0.01)


async def test_the_renewer_renews_again_and_again(tmp_path: Path, fleet: "Fleet") -> None:
    fleet.service._authority = Authority.load(fleet.state_dir, fleet.clock, leaf_life=2.0)
    identity = await join(tmp_path, fleet.address, await fleet.token())
    renewed = Renewed()
    renewer = Renewer(tmp_path, identity, fleet.clock, random.Random(1), renewed)
    async with running(renewer):
        assert [(await renewed.next()).generation for _ in range(2)] == [2, 3]
        assert renewer.problem is None
    assert load_identity(tmp_path) == renewer.identity


async def test_the_renewer_gets_over_an_outage_and_an_expiry(tmp_path: Path, fleet: "Fleet") -> None:
    fleet.clock.offset = -8 * DAY
    identity = await join(tmp_path, fleet.address, await fleet.token())
    fleet.clock.offset = 0
    fleet.service.lose = 1
    renewed = Renewed()
    renewer = Renewer(tmp_path, identity, fleet.clock, random.Random(1), renewed)
    async with running(renewer):
        assert (await renewed.next()).generation == 2
    assert fleet.service.calls.count("Renew") == 2


async def test_the_renewer_looks_again_when_the_clock_was_set(
    tmp_path: Path, fleet: "Fleet", north: NodeIdentity
) -> None:
    renewed = Renewed()
    renewer = Renewer(tmp_path, north, fleet.clock, random.Random(1), renewed)
    async with running(renewer):
        await asyncio.sleep(0)
        fleet.clock.offset = 5 * DAY
        renewer.wake()
        assert (await renewed.next()).generation == 2


async def test_a_certificate_from_the_future_is_renewed_when_the_node_dials(
    tmp_path: Path, fleet: "Fleet", north: NodeIdentity
) -> None:
    fleet.clock.offset = 365 * DAY
    identity = await renew(tmp_path, north, fleet)
    fleet.clock.offset = 0
    assert identity.not_before > fleet.clock.wall()
    renewed = Renewed()
    renewer = Renewer(tmp_path, identity, fleet.clock, random.Random(1), renewed)
    async with running(renewer):
        renewer.wake()
        fresh = await renewed.next()
        assert fresh.generation == 3
        assert fresh.not_before < fleet.clock.wall()


async def test_the_renewer_gives_up_what_only_a_wrong_clock_asked_for(
    tmp_path: Path, fleet: "Fleet", north: NodeIdentity
) -> None:
    clock = copy(fleet.clock)
    clock.offset = -DAY
    fleet.service.lose = 1
    renewer = Renewer(tmp_path, north, clock, random.Random(1), Renewed())
    async with running(renewer):
        renewer.wake()
        await eventually(lambda: renewer.problem is not None)
        clock.offset = 0
        await eventually(lambda: renewer.problem is None)
    assert fleet.service.calls.count("Renew") == 1
    assert renewer.identity == north


async def test_the_renewer_says_why_it_is_refused(tmp_path: Path, fleet: "Fleet", north: NodeIdentity) -> None:
    await fleet.store.revoke("north")
    fleet.clock.offset = 5 * DAY
    renewer = Renewer(tmp_path, north, fleet.clock, random.Random(1), Renewed())
    async with running(renewer):
        await eventually(lambda: renewer.problem is not None)
    assert renewer.problem is not None
    assert renewer.problem.reason == "REVOKED"


async def test_while_the_link_is_down_its_status_says_why_renewal_is_refused(
    tmp_path: Path, fleet: "Fleet", north: NodeIdentity
) -> None:
    """The handshake with a certificate that has run out looks like a network that is down."""

    async def redial() -> None:
        """There is no link."""

    membership = Membership(tmp_path, north, "", fleet.clock, random.Random(1), redial)
    unreachable = Unavailable("UNREACHABLE", "connection reset").problem

    def reason(state: str) -> str:
        status = DialingStatus(state, 0.0, unreachable, None, 1)
        return link_status(membership.address, status, membership.refusal).last_problem.reason

    assert reason("waiting") == "UNREACHABLE"
    await fleet.store.revoke("north")
    fleet.clock.offset = 5 * DAY
    membership.start()
    await eventually(lambda: membership.refusal is not None)
    await membership.stop()
    assert reason("waiting") == "REVOKED"
    assert reason("established") == "UNREACHABLE"
