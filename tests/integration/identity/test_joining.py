import asyncio
import json
import shutil
import socket
import stat
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import grpc
import pytest

from edgenode.api.enrollment.v1 import enrollment_service_pb2 as pb
from edgenode.api.enrollment.v1 import enrollment_service_pb2_grpc as pb_grpc
from edgenode.link.errors import (
    AlreadyExists,
    DataLoss,
    EdgenodeError,
    FailedPrecondition,
    InvalidArgument,
    PermissionDenied,
    Unauthenticated,
    Unavailable,
)
from edgenode.link.identity.certificates import certificate_from_der, make_csr, new_key
from edgenode.link.identity.credentials import ServerIdentity
from edgenode.link.identity.files import write_private_file
from edgenode.link.identity.tokens import JoinToken, parse_join_token
from edgenode.link.parent.identity import NodeIdentity, join, load_identity
from edgenode.link.wire.channels import bind, create_server
from edgenode.link.wire.interceptors import ServiceInterceptor
from hub.services.enrollment import AnyCaller

if TYPE_CHECKING:
    from tests.integration.identity.conftest import Fleet


def modes(state: Path) -> set[int]:
    return {stat.S_IMODE(path.stat().st_mode) for path in (state / "identity").iterdir()}


async def test_a_node_joins(tmp_path: Path, fleet: "Fleet") -> None:
    assert load_identity(tmp_path) is None
    identity = await join(tmp_path, fleet.address, await fleet.token())
    assert identity.name.uri == "spiffe://fleet.example/edge/north"
    assert (identity.hub, identity.generation) == ("main", 1)
    assert (identity.sync_address, identity.enrollment_address) == ("127.0.0.1:7443", fleet.address)
    assert identity.server_name == "hub.fleet.example"
    assert identity.expire_time == pytest.approx(fleet.clock.wall() + 7 * 86_400, abs=30)
    assert fleet.service.calls == ["GetTrustBundle", "Enroll"]
    assert load_identity(tmp_path) == identity
    assert stat.S_IMODE((tmp_path / "identity").stat().st_mode) == 0o700
    assert modes(tmp_path) == {0o600}
    assert {path.name for path in (tmp_path / "identity").iterdir()} == {
        "identity.json", "credential-1.pem", "bundle.pem",
    }  # fmt: skip
    assert "PRIVATE" not in repr(identity)


@pytest.mark.usefixtures("other_fleet")
async def test_a_hub_with_another_root_never_sees_the_secret(
    tmp_path: Path, fleet: "Fleet", other_fleet: "Fleet"
) -> None:
    with pytest.raises(Unauthenticated) as refusal:
        await join(tmp_path, other_fleet.address, await fleet.token())
    assert refusal.value.reason == "WRONG_CA"
    assert refusal.value.problem.hint
    assert other_fleet.service.calls == ["GetTrustBundle"]
    assert not (tmp_path / "identity").exists()


async def test_a_hub_that_shows_the_right_root_but_another_leaf_never_sees_the_secret(
    tmp_path: Path, fleet: "Fleet", other_fleet: "Fleet"
) -> None:
    # A rogue serves the true fleet's public bundle behind a certificate of its own.
    address = await fleet.listen(fleet.service, other_fleet.identity.open_credentials())
    with pytest.raises(Unauthenticated) as refusal:
        await join(tmp_path, address, await fleet.token())
    assert refusal.value.reason == "WRONG_CA"
    assert fleet.service.calls == ["GetTrustBundle"]


async def test_an_edge_cannot_pass_for_the_hub(tmp_path: Path, fleet: "Fleet") -> None:
    rogue = await join(tmp_path / "rogue", fleet.address, await fleet.token("rogue"))
    fleet.service.calls.clear()
    address = await fleet.listen(fleet.service, ServerIdentity(rogue.pair).open_credentials())
    with pytest.raises(EdgenodeError) as refusal:
        await join(tmp_path / "victim", address, await fleet.token("victim"))
    assert refusal.value.reason in ("WRONG_CA", "NOT_ENROLLMENT_PORT")
    assert "Enroll" not in fleet.service.calls


async def test_a_used_token_is_refused_to_another_key(tmp_path: Path, fleet: "Fleet") -> None:
    token = await fleet.token()
    await join(tmp_path / "one", fleet.address, token)
    with pytest.raises(PermissionDenied) as refusal:
        await join(tmp_path / "two", fleet.address, token)
    assert refusal.value.reason == "TOKEN_USED"
    assert load_identity(tmp_path / "two") is None


async def test_tokens_that_are_no_good(tmp_path: Path, fleet: "Fleet") -> None:
    good = parse_join_token(await fleet.token(life=60.0))
    wrong = JoinToken(good.token_id, bytes(32), good.root_hash)
    unknown = JoinToken("north.aaaaaaaaaaaaaaaa", good.secret, good.root_hash)
    for token, reason in ((wrong, "WRONG_SECRET"), (unknown, "UNKNOWN_TOKEN")):
        with pytest.raises(Unauthenticated) as refusal:
            await join(tmp_path, fleet.address, token.text())
        assert refusal.value.reason == reason
        assert refusal.value.problem.hint
    fleet.clock.offset += 61
    with pytest.raises(Unauthenticated) as expired:
        await join(tmp_path, fleet.address, good.text())
    assert expired.value.reason == "TOKEN_EXPIRED"
    assert "edgehub token create north" in expired.value.problem.hint
    with pytest.raises(InvalidArgument) as mistyped:
        await join(tmp_path, fleet.address, good.text()[:-1])
    assert mistyped.value.reason == "BAD_TOKEN"
    assert load_identity(tmp_path) is None


async def test_of_many_that_claim_at_once_one_wins(tmp_path: Path, fleet: "Fleet") -> None:
    token = await fleet.token()
    joins = [join(tmp_path / str(number), fleet.address, token) for number in range(20)]
    outcomes = await asyncio.gather(*joins, return_exceptions=True)
    won = [outcome for outcome in outcomes if isinstance(outcome, NodeIdentity)]
    lost = [outcome.reason for outcome in outcomes if isinstance(outcome, EdgenodeError)]
    assert len(won) == 1
    assert lost == ["TOKEN_USED"] * 19


async def test_a_lost_answer_is_asked_for_again(tmp_path: Path, fleet: "Fleet") -> None:
    token = await fleet.token()
    fleet.service.lose = 2
    for _ in range(2):
        with pytest.raises(Unavailable) as lost:
            await join(tmp_path, fleet.address, token)
        assert lost.value.reason == "HUB_UNREACHABLE"
        assert load_identity(tmp_path) is None
        assert modes(tmp_path) == {0o600}
    identity = await join(tmp_path, fleet.address, token)
    assert identity.generation == 1
    record = await fleet.store.node("north")
    assert record is not None
    assert record.current.expire_time == identity.expire_time


async def test_joining_again_with_the_same_token_changes_nothing(tmp_path: Path, fleet: "Fleet") -> None:
    token = await fleet.token()
    first = await join(tmp_path, fleet.address, token)
    fleet.service.calls.clear()
    assert await join(tmp_path, fleet.address, token) == first
    assert fleet.service.calls == []


async def test_a_crash_after_the_answer_leaves_the_key_to_ask_again(
    tmp_path: Path, fleet: "Fleet", monkeypatch: pytest.MonkeyPatch
) -> None:
    token = await fleet.token()
    for name in ("credential-1.pem", "bundle.pem", "identity.json"):

        def crash(path: Path, data: bytes, name: str = name) -> None:
            if path.name == name:
                raise OSError(28, "No space left on device")
            write_private_file(path, data)

        monkeypatch.setattr("edgenode.link.parent.identity.write_private_file", crash)
        with pytest.raises(FailedPrecondition) as full:
            await join(tmp_path, fleet.address, token)
        assert full.value.reason == "STATE_NOT_WRITABLE"
        assert load_identity(tmp_path) is None
    monkeypatch.undo()
    assert (await join(tmp_path, fleet.address, token)).generation == 1


async def test_the_state_of_another_node_is_left_alone(tmp_path: Path, fleet: "Fleet", other_fleet: "Fleet") -> None:
    identity = await join(tmp_path, fleet.address, await fleet.token("north"))
    fleet.service.calls.clear()
    with pytest.raises(FailedPrecondition) as other:
        await join(tmp_path, fleet.address, await fleet.token("south"))
    assert other.value.reason == "STATE_OF_OTHER_NODE"
    assert fleet.service.calls == []
    assert load_identity(tmp_path) == identity


async def test_the_state_of_a_namesake_in_another_fleet_is_left_alone(tmp_path: Path, fleet: "Fleet") -> None:
    identity = await join(tmp_path / "north", fleet.address, await fleet.token("north"))
    facts_path = tmp_path / "north" / "identity" / "identity.json"
    facts = json.loads(facts_path.read_bytes())
    facts_path.write_text(json.dumps({**facts, "trust_domain": "elsewhere.example"}))
    with pytest.raises(FailedPrecondition) as other:
        await join(tmp_path / "north", fleet.address, await fleet.token("north", rejoin=True))
    assert other.value.reason == "STATE_OF_OTHER_NODE"
    assert "Enroll" not in fleet.service.calls[2:]
    facts_path.write_text(json.dumps(facts))
    assert load_identity(tmp_path / "north") == identity


async def test_a_node_joins_again_in_place(tmp_path: Path, fleet: "Fleet") -> None:
    await join(tmp_path, fleet.address, await fleet.token())
    with pytest.raises(AlreadyExists):
        await fleet.token()
    again = await join(tmp_path, fleet.address, await fleet.token(rejoin=True))
    assert again.generation == 2
    assert sorted(path.name for path in (tmp_path / "identity").glob("credential-*")) == ["credential-2.pem"]


class TestUnreachable:
    async def refused(self, state: Path, address: str, token: str) -> EdgenodeError:
        with pytest.raises(EdgenodeError) as refusal:
            await join(state, address, token)
        assert load_identity(state) is None
        return refusal.value

    async def test_nobody_listens(self, tmp_path: Path, fleet: "Fleet") -> None:
        with socket.socket() as taken:
            taken.bind(("127.0.0.1", 0))  # bound but not listening: refuses
            port = taken.getsockname()[1]
            error = await self.refused(tmp_path, f"127.0.0.1:{port}", await fleet.token())
        assert (error.reason, error.problem.metadata["cause"]) == ("HUB_UNREACHABLE", "refused")
        assert f"127.0.0.1, port {port}" in error.problem.message
        assert "edgehub serve" in error.problem.hint
        assert error.problem.retryable

    async def test_a_name_nobody_knows(self, tmp_path: Path, fleet: "Fleet") -> None:
        error = await self.refused(tmp_path, "no-such-host.invalid:7444", await fleet.token())
        assert (error.reason, error.problem.metadata["cause"]) == ("HUB_UNREACHABLE", "unresolved")

    async def test_a_listener_without_tls(self, tmp_path: Path, fleet: "Fleet") -> None:
        server = create_server(ServiceInterceptor(AnyCaller()))
        port = bind(server, "127.0.0.1:0", plaintext_loopback=True)
        await server.start()
        try:
            error = await self.refused(tmp_path, f"127.0.0.1:{port}", await fleet.token())
        finally:
            await server.stop(0)
        assert (error.reason, error.problem.metadata["cause"]) == ("HUB_UNREACHABLE", "tls")

    async def test_a_listener_that_says_nothing(
        self, tmp_path: Path, fleet: "Fleet", monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr("edgenode.link.parent.enrolling.CONNECT_SECONDS", 0.2)
        with socket.create_server(("127.0.0.1", 0)) as silent:
            address = f"127.0.0.1:{silent.getsockname()[1]}"
            error = await self.refused(tmp_path, address, await fleet.token())
        assert (error.reason, error.problem.metadata["cause"]) == ("HUB_UNREACHABLE", "timeout")

    async def test_the_sync_listener(self, tmp_path: Path, fleet: "Fleet") -> None:
        mutual = fleet.identity.mutual_credentials(fleet.authority.edge_ca_pem)
        error = await self.refused(tmp_path, await fleet.listen(fleet.service, mutual), await fleet.token())
        assert error.reason == "NOT_ENROLLMENT_PORT"
        assert fleet.service.calls == []

    async def test_a_listener_that_does_not_enroll(self, tmp_path: Path, fleet: "Fleet") -> None:
        server = create_server(ServiceInterceptor(AnyCaller()))
        port = bind(server, "127.0.0.1:0", fleet.identity.open_credentials())
        await server.start()
        try:
            error = await self.refused(tmp_path, f"127.0.0.1:{port}", await fleet.token())
        finally:
            await server.stop(0)
        assert error.reason == "NOT_ENROLLMENT_PORT"

    async def test_a_clock_far_off(self, tmp_path: Path, fleet: "Fleet") -> None:
        clock = type(fleet.clock)(-86_400.0)
        with pytest.raises(FailedPrecondition) as refusal:
            await join(tmp_path, fleet.address, await fleet.token(), clock=clock)
        assert refusal.value.reason == "CLOCK_WRONG"
        assert fleet.service.calls == []

    @pytest.mark.parametrize("address", ["", "hub", "hub:", ":1", "hub:99999", "::1:7444"])
    async def test_no_address(self, tmp_path: Path, fleet: "Fleet", address: str) -> None:
        error = await self.refused(tmp_path, address, await fleet.token())
        assert error.reason == "BAD_ADDRESS"


async def enroll(fleet: "Fleet", **changed: Any) -> pb.EnrollResponse:
    """Enrolls with the stubs alone."""
    token = parse_join_token(await fleet.token("raw"))
    request = {"token_id": token.token_id, "secret": token.secret, "csr": make_csr(new_key()), **changed}
    hub_ca = fleet.authority.hub_pair().certificate_chain
    options = [("grpc.ssl_target_name_override", "hub.fleet.example"), ("grpc.enable_http_proxy", 0)]
    credentials = grpc.ssl_channel_credentials(hub_ca)
    async with grpc.aio.secure_channel(fleet.address, credentials, options=options) as channel:
        response: pb.EnrollResponse = await pb_grpc.EnrollmentServiceStub(channel).Enroll(
            pb.EnrollRequest(**request), timeout=30
        )
    return response


async def test_the_generated_stubs_are_enough(fleet: "Fleet") -> None:
    response = await enroll(fleet)
    assert (response.node, response.hub, response.generation, response.sync_port) == ("raw", "main", 1, 7443)
    certificate = certificate_from_der(response.certificate)
    assert response.expire_time.seconds == certificate.not_valid_after_utc.timestamp()


@pytest.mark.parametrize(
    ("changed", "code"),
    [
        ({"csr": b"junk"}, grpc.StatusCode.INVALID_ARGUMENT),
        ({"csr": b""}, grpc.StatusCode.INVALID_ARGUMENT),
        ({"secret": b"short"}, grpc.StatusCode.INVALID_ARGUMENT),
        ({"token_id": ""}, grpc.StatusCode.INVALID_ARGUMENT),
        ({"token_id": "x" * 10_000}, grpc.StatusCode.INVALID_ARGUMENT),
        ({"token_id": "'; DROP TABLE join_token; --"}, grpc.StatusCode.UNAUTHENTICATED),
    ],
)
async def test_requests_out_of_form(fleet: "Fleet", changed: dict[str, Any], code: grpc.StatusCode) -> None:
    with pytest.raises(grpc.aio.AioRpcError) as refusal:
        await enroll(fleet, **changed)
    assert refusal.value.code() is code
    assert await fleet.store.node("raw") is None


async def test_damaged_files_are_named(tmp_path: Path, fleet: "Fleet") -> None:
    await join(tmp_path / "good", fleet.address, await fleet.token())
    good = tmp_path / "good" / "identity"
    key = (good / "credential-1.pem").read_bytes()
    for name, content in [
        ("identity.json", b""),
        ("identity.json", b"[]"),
        ("identity.json", b'{"format": 1}'),
        ("identity.json", (good / "identity.json").read_bytes().replace(b'"north"', b'"../x"')),
        ("identity.json", (good / "identity.json").read_bytes().replace(b'"generation": 1', b'"generation": "1"')),
        ("credential-1.pem", b""),
        ("credential-1.pem", key[:-60]),
        ("credential-1.pem", key[: key.index(b"-----BEGIN CERTIFICATE")]),
        ("credential-1.pem", None),
        ("bundle.pem", b""),
        ("bundle.pem", (good / "bundle.pem").read_bytes()[:-200]),
        ("bundle.pem", None),
    ]:
        state = tmp_path / "bad"
        shutil.rmtree(state, ignore_errors=True)
        shutil.copytree(tmp_path / "good", state)
        path = state / "identity" / name
        path.unlink()
        if content is not None:
            path.write_bytes(content)
        with pytest.raises(DataLoss) as damage:
            load_identity(state)
        assert damage.value.reason == "IDENTITY_DAMAGED", (name, content)
        assert damage.value.problem.metadata["file"] == str(path)
    (good / "identity.json").write_text('{"format": 2}')
    with pytest.raises(DataLoss) as newer:
        load_identity(tmp_path / "good")
    assert newer.value.reason == "STATE_TOO_NEW"


async def test_a_damaged_credential_is_healed_by_joining_again(tmp_path: Path, fleet: "Fleet") -> None:
    await join(tmp_path, fleet.address, await fleet.token())
    (tmp_path / "identity" / "credential-1.pem").write_bytes(b"")
    assert (await join(tmp_path, fleet.address, await fleet.token(rejoin=True))).generation == 2


async def test_a_running_edge_starts_without_cryptography(tmp_path: Path, fleet: "Fleet") -> None:
    await join(tmp_path, fleet.address, await fleet.token())
    program = (
        "import sys; from pathlib import Path; from edgenode.link.parent.identity import load_identity\n"
        f"identity = load_identity(Path({str(tmp_path)!r})); identity.channel_credentials()\n"
        "print(identity.node, 'cryptography' in sys.modules)"
    )
    result = await asyncio.to_thread(subprocess.run, [sys.executable, "-c", program], capture_output=True, text=True)
    assert result.stdout.split() == ["north", "False"], result.stderr
