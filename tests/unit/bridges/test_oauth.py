"""Tokens of a mount: what is kept, where it is sent, and who is asked for more."""

from __future__ import annotations

import asyncio
import os
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import httpx2
import msgspec
import pytest

from edgenode.bridges.mcp.oauth import flows
from edgenode.bridges.mcp.oauth.authorization import Authorization
from edgenode.bridges.mcp.oauth.errands import Errands, TokenRefused
from edgenode.bridges.mcp.oauth.kept import Challenge, Kept, Record
from edgenode.bridges.mcp.oauth.login import Login
from edgenode.bridges.mcp.oauth.settings import OAuthSettings, read_settings
from edgenode.link.errors import EdgenodeError, Unavailable
from edgenode.link.wire.listening import Listener

URL = "https://mcp.example.com/mcp"
CLIENT = {"client_id": "c", "redirect_uris": ["http://127.0.0.1:9/callback"]}


def tokens(number: int, **more: Any) -> dict[str, Any]:
    return {"access_token": f"access-{number}", "token_type": "Bearer", "refresh_token": f"refresh-{number}", **more}


class Now:
    """A clock that stands."""

    def __init__(self) -> None:
        self.time = 1000.0

    def wall(self) -> float:
        return self.time

    def monotonic(self) -> float:
        return self.time


# --- what is kept -------------------------------------------------------------------------------------------------------


def test_what_is_kept_is_its_owners_and_of_one_server(tmp_path: Path) -> None:
    kept = Kept(tmp_path, "shop", URL)
    assert kept.read() == Record(URL)
    written = kept.change(lambda record: msgspec.structs.replace(record, tokens=tokens(1)))
    (path,) = (tmp_path / "mcp" / "oauth").glob("*.json")
    assert (path.stat().st_mode & 0o777, path.parent.stat().st_mode & 0o777) == (0o600, 0o700)
    assert kept.read() == written
    assert Kept(tmp_path, "shop", "https://other.example.com/mcp").read().tokens is None
    path.chmod(0o640)
    with pytest.raises(EdgenodeError, match="TOKENS_EXPOSED"):
        kept.read()
    path.chmod(0o600)
    path.write_text("{")
    with pytest.raises(EdgenodeError, match="TOKENS_UNREADABLE"):
        kept.read()
    kept.forget()
    assert kept.read() == Record(URL)


def test_a_crash_between_writing_and_renaming_leaves_what_was(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    kept = Kept(tmp_path, "shop", URL)
    before = kept.change(lambda record: msgspec.structs.replace(record, tokens=tokens(1)))
    monkeypatch.setattr(os, "replace", lambda *_: (_ for _ in ()).throw(OSError("no power")))
    with pytest.raises(OSError, match="no power"):
        kept.change(lambda record: msgspec.structs.replace(record, tokens=tokens(2)))
    assert kept.read() == before


# --- errands ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("url", "found", "reason"),
    [
        ("https://login.example.com/token", "10.0.0.1", "TARGET_REFUSED"),
        ("https://login.example.com/token", "169.254.169.254", "TARGET_REFUSED"),
        ("https://login.example.com/token", "::ffff:127.0.0.1", "TARGET_REFUSED"),
        ("http://login.example.com/token", "93.184.216.34", "TARGET_REFUSED"),
    ],
)
async def test_a_server_does_not_choose_where_this_process_knocks(url: str, found: str, reason: str) -> None:
    async def resolve(_host: str, _port: int) -> list[str]:
        return [found]

    errands = Errands(OAuthSettings(), [URL], resolve)
    with pytest.raises(EdgenodeError, match=reason):
        await errands.send(httpx2.Request("GET", url))
    await errands.aclose()


@asynccontextmanager
async def _answering(answer: bytes) -> AsyncIterator[tuple[str, list[bytes]]]:
    heads: list[bytes] = []

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        heads.append(await reader.readuntil(b"\r\n\r\n"))
        writer.write(answer)

    listener = Listener(serve)
    port = await listener.open()
    try:
        yield f"http://login.example.com:{port}/token", heads
    finally:
        await listener.close()


async def _loopback(_host: str, _port: int) -> list[str]:
    return ["::1", "127.0.0.1"]


async def test_the_connection_goes_to_an_address_that_was_looked_at_and_follows_nothing() -> None:
    answer = b"HTTP/1.1 307 Go\r\nLocation: http://169.254.169.254/\r\nContent-Length: 0\r\n\r\n"
    errands = Errands(OAuthSettings(networks="127.0.0.0/8, ::1/128"), [URL], _loopback)
    async with _answering(answer) as (url, heads):
        response = await errands.send(httpx2.Request("GET", url))
    assert response.status_code == 307
    assert (str(response.request.url), response.next_request) == (url, None)
    assert heads[0].lower().count(b"host: login.example.com:") == 1
    await errands.aclose()


@pytest.mark.parametrize(
    ("status", "body", "said"),
    [
        (
            400,
            b'{"error": "invalid_grant", "error_description": "secret-secret is stale"}',
            "invalid_grant: ... is stale",
        ),
        (401, b"<html>", "HTTP 401"),
        (503, b'{"error": "invalid_grant"}', "it answers 503"),
        (403, b"blocked", "it answers 403"),
    ],
)
async def test_a_refusal_is_not_an_outage_and_quotes_no_secret(status: int, body: bytes, said: str) -> None:
    errands = Errands(OAuthSettings(networks="127.0.0.0/8, ::1/128"), [URL], _loopback)
    answer = b"HTTP/1.1 %d X\r\nContent-Length: %d\r\n\r\n%b" % (status, len(body), body)
    async with _answering(answer) as (url, _):
        request = httpx2.Request("POST", url, data={"grant_type": "refresh_token", "refresh_token": "secret-secret"})
        with pytest.raises(TokenRefused if status < 402 else Unavailable) as caught:
            await errands.send(request)
    assert said in str(caught.value)
    assert "secret-secret" not in str(caught.value)
    await errands.aclose()


# --- the token of requests ------------------------------------------------------------------------------------------------


class Server:
    """Takes one token; `asked` are the requests it got, `refreshes` how often a new one was fetched."""

    def __init__(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, record: Record, good: str) -> None:
        self.kept = Kept(tmp_path, "shop", URL)
        self.kept.change(lambda _: record)
        self.good = good
        self.clock = Now()
        self.asked: list[httpx2.Request] = []
        self.refreshes = 0
        self.began, self.gate = asyncio.Event(), asyncio.Event()
        self.fails: Exception | None = None
        self.barred: list[EdgenodeError] = []
        monkeypatch.setattr(flows, "refreshed", self._refreshed)
        errands = Errands(OAuthSettings(), [URL])
        self.authorization = Authorization(
            "shop", URL, OAuthSettings(), self.kept, errands, self.clock, self.barred.append
        )

    async def _refreshed(self, record: Record, *_: object) -> Record:
        self.refreshes += 1
        self.began.set()
        await self.gate.wait()
        if self.fails is not None:
            raise self.fails
        return msgspec.structs.replace(record, tokens=tokens(2), expires_at=self.clock.time + 3600)

    async def ask(self, url: str = URL) -> httpx2.Response:
        return await self.authorization.send(httpx2.Request("POST", url, json={}), self._answer)

    async def _answer(self, request: httpx2.Request) -> httpx2.Response:
        self.asked.append(request)
        taken = request.headers.get("authorization") == f"Bearer {self.good}"
        return httpx2.Response(200 if taken else 401, request=request)


@pytest.fixture
def server(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., Server]:
    def make(good: str, expires_at: float = 0.0) -> Server:
        return Server(tmp_path, monkeypatch, Record(URL, tokens(1), expires_at, CLIENT), good)

    return make


async def test_all_that_wait_for_a_token_wait_for_one_refresh(server: Callable[..., Server]) -> None:
    asked = server("access-2")
    asking = [asyncio.create_task(asked.ask()) for _ in range(5)]
    await asked.began.wait()
    asking[0].cancel()  # whoever came first goes; the others still get it
    asked.gate.set()
    answers = await asyncio.gather(*asking[1:])
    assert [answer.status_code for answer in answers] == [200] * 4
    assert asked.refreshes == 1
    assert asked.kept.read().access_token == "access-2"


async def test_a_token_goes_to_the_mounts_own_server_alone(server: Callable[..., Server]) -> None:
    asked = server("access-1")
    assert (await asked.ask()).status_code == 200
    for url in (
        "https://mcp.example.com.evil.test/mcp",
        "http://mcp.example.com/mcp",
        "https://mcp.example.com:8443/mcp",
    ):
        await asked.ask(url)
        assert "authorization" not in asked.asked[-1].headers


async def test_a_token_is_renewed_before_its_end_and_used_to_its_end_in_an_outage(
    server: Callable[..., Server],
) -> None:
    asked = server("access-1", expires_at=2000.0)
    asked.gate.set()
    asked.fails = Unavailable("AUTH_UNREACHABLE", "no network")
    assert (await asked.ask()).status_code == 200
    assert asked.refreshes == 0
    asked.clock.time = 1980.0
    assert (await asked.ask()).status_code == 200
    assert asked.refreshes == 1
    asked.clock.time = 2000.0
    refused = await asked.ask()
    assert refused.json()["error"]["message"].startswith("AUTH_UNREACHABLE")
    assert [problem.reason for problem in asked.barred] == ["AUTH_UNREACHABLE"]
    assert len(asked.asked) == 2  # the last one was not sent
    asked.fails, asked.good = None, "access-2"
    assert (await asked.ask()).status_code == 200


async def test_a_login_meanwhile_wins_over_a_refusal(server: Callable[..., Server]) -> None:
    asked = server("access-3")
    asked.fails = TokenRefused("invalid_grant", "")
    asking = asyncio.create_task(asked.ask())
    await asked.began.wait()
    asked.kept.change(lambda record: msgspec.structs.replace(record, tokens=tokens(3)))
    asked.gate.set()
    assert (await asking).status_code == 200
    assert asked.kept.read().access_token == "access-3"


async def test_a_refresh_token_that_is_not_taken_is_dropped_and_a_person_asked(server: Callable[..., Server]) -> None:
    asked = server("none")
    asked.gate.set()
    asked.fails = TokenRefused("invalid_grant", "it was revoked")
    await asked.ask()
    (problem,) = asked.barred
    assert (problem.reason, problem.problem.hint) == ("AUTH_REQUIRED", "edgenode mcp login shop")
    record = asked.kept.read()
    assert (record.tokens, record.client, record.challenge) == (None, CLIENT, Challenge(401))


async def test_the_secret_of_a_client_goes_to_its_issuer_alone_also_after_the_settings_changed(tmp_path: Path) -> None:
    (tmp_path / "s").write_text("secret")
    (tmp_path / "s").chmod(0o600)
    sent: list[httpx2.Request] = []

    async def send(request: httpx2.Request) -> httpx2.Response:
        sent.append(request)
        return httpx2.Response(200, json=tokens(2), request=request)

    def record(issuer: str) -> Record:
        found = {f"{name}_endpoint": f"{issuer}/{name}" for name in ("authorization", "token")}
        return Record(URL, tokens(1), 0.0, authorization_server={"issuer": issuer, **found})

    settings = OAuthSettings(client_id="c", client_secret_file=str(tmp_path / "s"), issuer="https://new.example.com")
    for before in (record("https://old.example.com"), Record(URL, tokens(1))):
        with pytest.raises(TokenRefused, match="another authorization server"):
            await flows.refreshed(before, settings, send)
    assert not sent
    after = await flows.refreshed(record("https://new.example.com"), settings, send)
    assert after.access_token == "access-2"
    assert [request.url.host for request in sent] == ["new.example.com"]


# --- settings and the login -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ('grant = "client_credentials"', "issuer is ''"),
        ('grant = "client_credentials"\nissuer = "https://x"\nclient_id = "c"', "client_secret_file is ''"),
        ('client_id = "c"\nclient_secret_file = "s"', "issuer is ''"),
        ('client_secret = "x"', "unknown key"),
        ('networks = "10.0.0.1/8"', "networks is"),
        ('client_authentication = "private_key_jwt"', "client_authentication is"),
        ('client_metadata_url = "http://x/doc"', "client_metadata_url is"),
    ],
)
def test_settings_that_cannot_be_meant_are_refused(tmp_path: Path, text: str, said: str) -> None:
    (tmp_path / "oauth.toml").write_text(text)
    with pytest.raises(EdgenodeError, match="BAD_CONFIG") as caught:
        read_settings(str(tmp_path / "oauth.toml"))
    assert said in str(caught.value)


def test_a_secret_that_others_can_read_is_not_used(tmp_path: Path) -> None:
    (tmp_path / "oauth.toml").write_text('issuer = "https://x"\nclient_id = "c"\nclient_secret_file = "s"')
    (tmp_path / "s").write_text("secret\n")
    (tmp_path / "s").chmod(0o644)
    settings = read_settings(str(tmp_path / "oauth.toml"))
    with pytest.raises(EdgenodeError, match="BAD_SECRET_FILE"):
        settings.secret("client_secret_file")
    (tmp_path / "s").chmod(0o600)
    assert settings.secret("client_secret_file") == "secret"


async def test_only_an_answer_to_the_question_that_was_asked_counts(tmp_path: Path) -> None:
    shown: list[str] = []
    settings = OAuthSettings(client_id="c", issuer="https://login.example.com")
    kept = Kept(tmp_path, "shop", URL)
    login = Login(kept, settings, Errands(settings, [URL]), shown.append)
    assert not login.came_back("http://127.0.0.1/callback?state=&code=x")
    login._state = "right"
    for query in (
        "state=wrong&code=x",
        "code=x",
        "state=right",
        "state=right&state=right&code=x",
        "state=right&code=x&code=y",
    ):
        assert not login.came_back(f"http://127.0.0.1:9/callback?{query}"), query
    assert login.came_back("http://127.0.0.1:9/callback?state=right&code=x&iss=https://login.example.com")
    assert not login.came_back("http://127.0.0.1:9/callback?state=right&code=other")
    assert (await login._come_back()).code == "x"


async def test_a_login_that_needs_no_person_says_so(tmp_path: Path) -> None:
    settings = OAuthSettings(grant="jwt_bearer", issuer="https://x", client_id="c", assertion_file="a")
    login = Login(Kept(tmp_path, "shop", URL), settings, Errands(settings, [URL]), print)
    with pytest.raises(EdgenodeError, match="NO_PERSON_NEEDED"):
        await login.run()
