"""A mounted MCP server that wants tokens: the bridge and `edgenode mcp login` are processes, as in use."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
import pytest_asyncio
from msgspec.structs import replace

from edgenode.api.admin.v1 import admin_pb2, admin_service_pb2, admin_service_pb2_grpc
from edgenode.api.registry.v1 import registry_pb2
from edgenode.bridges.mcp.oauth.errands import Errands
from edgenode.bridges.mcp.oauth.kept import Kept
from edgenode.bridges.mcp.oauth.login import Login
from edgenode.bridges.mcp.oauth.settings import OAuthSettings
from edgenode.cli.demo.fleet import EDGENODE
from edgenode.sdk import Client, TaskState
from edgenode.sdk.testing import LocalNode
from tests.integration.bridges.oauth_site import SCOPE, WIDE, Site, log_in, site, visit
from tests.integration.bridges.test_mounts import PATIENCE, until

pytestmark = [pytest.mark.timeout(120), pytest.mark.asyncio(loop_scope="module")]

NAME = "shop"


class House:
    """A node with the site mounted."""

    def __init__(self, node: LocalNode, client: Client, site: Site) -> None:
        self.client = client
        self.site = site
        self.state = node.socket.parent
        self.kept = self.state / "mcp" / "oauth" / f"{NAME}.json"
        self.admin = admin_service_pb2_grpc.AdminServiceStub(client.channel)

    async def add(self, name: str = NAME, oauth_file: str = "") -> None:
        server = admin_pb2.McpHttpServer(url=self.site.url, oauth_file=oauth_file)
        mount = admin_pb2.Mount(name=name, mcp_http=server)
        await self.admin.AddMount(admin_service_pb2.AddMountRequest(request_id="add", mount=mount))

    async def remove(self) -> None:
        await self.admin.RemoveMount(admin_service_pb2.RemoveMountRequest(request_id="remove", name=NAME))

    async def status(self, name: str = NAME) -> admin_pb2.MountStatus:
        mounts = (await self.admin.ListMounts(admin_service_pb2.ListMountsRequest())).mounts
        (record,) = [record for record in mounts if record.mount.name == name]
        status: admin_pb2.MountStatus = record.status
        return status

    async def comes_to(self, state: admin_pb2.MountState, name: str = NAME) -> admin_pb2.MountStatus:
        async def there() -> bool:
            return (await self.status(name)).state == state

        await until(there)
        return await self.status(name)

    async def log_in(self) -> None:
        """As the command does, in this process."""
        settings, visits = OAuthSettings(), list[asyncio.Task[str]]()
        errands = Errands(settings, [self.site.url])
        kept = Kept(self.state, NAME, self.site.url)
        login = Login(kept, settings, errands, lambda address: visits.append(asyncio.create_task(visit(address))))
        await login.run(timeout=PATIENCE)
        assert "Done" in await visits[0]
        await errands.aclose()
        await self.retry()

    async def retry(self, name: str = NAME) -> None:
        await self.admin.RetryMount(admin_service_pb2.RetryMountRequest(request_id="retry", name=name))

    async def log_in_by_command(self) -> tuple[int, str]:
        return await log_in(*EDGENODE, "mcp", "login", NAME, "--state", str(self.state))

    async def agent(self) -> registry_pb2.Agent:
        (agent,) = [agent for agent in await self.client.agents() if agent.card.name == NAME]
        return agent


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def house() -> AsyncIterator[House]:
    async with site() as served, LocalNode() as node, node.client() as client:
        made = House(node, client, served)
        # Of a mount that was removed while the bridge was down.
        Kept(made.state, "stale", "https://gone.example").change(lambda record: replace(record, expires_at=1.0))
        yield made


@pytest_asyncio.fixture(loop_scope="module")
async def shop(house: House) -> House:
    """Somebody has logged in just now."""
    await house.add()
    await house.log_in()
    await house.comes_to(admin_pb2.MOUNT_STATE_READY)
    return house


async def test_a_person_lets_the_node_in_and_nobody_else_reads_of_it(house: House) -> None:
    await house.add()
    status = await house.comes_to(admin_pb2.MOUNT_STATE_AUTH_REQUIRED)
    assert (status.last_problem.reason, status.last_problem.hint) == ("AUTH_REQUIRED", f"edgenode mcp login {NAME}")
    assert not house.kept.with_name("stale.json").exists()
    waiting = await house.client.submit(f"{NAME}.echo")  # before anybody knows that there is such a skill
    code, said = await house.log_in_by_command()
    assert code == 0, said
    assert "mounted shop: ready, 3 skills" in said
    assert (await waiting.result(PATIENCE))["content"][0]["text"] == "done"

    assert house.kept.stat().st_mode & 0o777 == 0o600
    assert house.kept.parent.stat().st_mode & 0o777 == 0o700
    kept = house.kept.read_text()
    seen = [said, str(await house.status()), str(await house.agent())]
    for secret in house.site.secrets():
        assert secret in kept
        assert all(secret not in text for text in seen)
    (asked,) = house.site.granted("authorization_code")
    assert asked["resource"] == house.site.url
    assert asked["code_verifier"]


async def test_a_token_that_ends_is_renewed_once_for_all_that_wait(shop: House) -> None:
    before = len(shop.site.granted("refresh_token"))
    shop.site.expire()
    handles = await asyncio.gather(*(shop.client.submit(f"{NAME}.echo") for _ in range(8)))
    await asyncio.gather(*(handle.result(PATIENCE) for handle in handles))
    (renewed,) = shop.site.granted("refresh_token")[before:]
    assert renewed["resource"] == shop.site.url
    assert renewed["refresh_token"] not in shop.kept.read_text()


async def test_work_waits_while_the_authorization_server_is_away(shop: House) -> None:
    shop.site.down = True
    try:
        shop.site.expire()
        handle = await shop.client.submit(f"{NAME}.buy")
        status = await shop.comes_to(admin_pb2.MOUNT_STATE_WAITING)
        assert status.last_problem.reason == "AUTH_UNREACHABLE"
    finally:
        shop.site.down = False
    await shop.retry()
    assert (await handle.result(PATIENCE))["content"][0]["text"] == "done"
    assert shop.site.calls.count("buy") == 1


async def test_a_login_that_was_taken_back_is_asked_for_again(shop: House) -> None:
    shop.site.revoke()
    handle = await shop.client.submit(f"{NAME}.echo")
    status = await shop.comes_to(admin_pb2.MOUNT_STATE_AUTH_REQUIRED)
    assert status.last_problem.reason == "AUTH_REQUIRED"
    assert "refresh-token" not in str(status)

    async def degraded() -> bool:
        return (await shop.agent()).runtime.health == registry_pb2.HEALTH_DEGRADED

    await until(degraded)
    runtime = (await shop.agent()).runtime
    assert "AUTH_REQUIRED: the server wants to know who this is" in runtime.health_reason
    assert TaskState((await shop.client.get_task(handle.task_id)).state) in (
        TaskState.QUEUED, TaskState.PARKED, TaskState.RETRY_WAIT,
    )  # fmt: skip
    await shop.log_in()
    await handle.result(PATIENCE)


async def test_a_tool_that_wants_more_asks_for_a_wider_login(shop: House) -> None:
    handle = await shop.client.submit(f"{NAME}.wipe")
    async for update in handle.watch():
        if update.state is not TaskState.AUTH_REQUIRED:
            continue
        question = (await shop.client.get_task(handle.task_id)).input_request
        assert f"edgenode mcp login {NAME}" in question.prompt
        await shop.client.call(f"{NAME}.echo")  # others go on
        await shop.log_in()
        await shop.client.provide_input(handle.task_id, question.key, True)
    await handle.result(PATIENCE)
    scope = set(json.loads(shop.kept.read_text())["tokens"]["scope"].split())
    assert scope == {SCOPE, WIDE}


async def test_a_node_with_credentials_needs_nobody(house: House, tmp_path: Path) -> None:
    secret, file = tmp_path / "secret", tmp_path / "oauth.toml"
    secret.touch(0o600)
    secret.write_text("not-the-secret-of-it")
    file.write_text(
        f'grant = "client_credentials"\nissuer = "{house.site.base}"\nclient_id = "edge-7"\n'
        'client_secret_file = "secret"\nclient_authentication = "client_secret_post"\n'
    )
    await house.add("stall", str(file))
    status = await house.comes_to(admin_pb2.MOUNT_STATE_AUTH_REQUIRED, "stall")
    assert "invalid_grant" in status.last_problem.message
    assert "not-the-secret" not in str(status)
    secret.write_text("a-secret-of-the-client")
    await house.retry("stall")
    await house.comes_to(admin_pb2.MOUNT_STATE_READY, "stall")
    house.site.expire()
    await house.client.call("stall.echo")
    assert not house.kept.with_name("stall.json").exists()


async def test_what_was_kept_goes_with_the_mount(shop: House) -> None:
    await shop.remove()

    async def gone() -> bool:
        return not shop.kept.exists()

    await until(gone)
