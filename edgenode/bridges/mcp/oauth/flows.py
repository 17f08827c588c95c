"""The ways to a token, by the MCP SDK's client: it knows what to ask of whom, and checks what comes.

Its providers are made for one long-lived client that has a person beside it. Here each is used for one errand: it is given
what is known (the client, the tokens, the authorization server that was found) and the server's challenge, its requests are
sent by Errands, and what it got is taken from it. So a refresh goes to the server that the token is from, also after a
restart, and nothing waits for anybody while other requests are under way.
"""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Awaitable, Callable
from urllib.parse import urlsplit

import httpx2
import msgspec
from mcp.client.auth import OAuthClientProvider, OAuthFlowError
from mcp.client.auth.extensions.client_credentials import (
    ClientCredentialsOAuthProvider,
    PrivateKeyJWTOAuthProvider,
    SignedJWTParameters,
)
from mcp.client.auth.extensions.identity_assertion import IdentityAssertionOAuthProvider
from mcp.client.auth.utils import issuers_match
from mcp.shared.auth import (
    JWT_BEARER_GRANT_TYPE,
    OAuthClientInformationFull,
    OAuthClientMetadata,
    OAuthMetadata,
    OAuthToken,
    ProtectedResourceMetadata,
)

from edgenode.bridges.mcp.oauth.errands import TokenRefused
from edgenode.bridges.mcp.oauth.kept import Challenge, Record
from edgenode.bridges.mcp.oauth.settings import ASSERTION, IDENTITY, KEY, NONE, OAuthSettings

Send = Callable[[httpx2.Request], Awaitable[httpx2.Response]]

CLIENT_NAME = "edgenode"
_TOKEN_TYPES = "urn:ietf:params:oauth:token-type"
_EXCHANGE = "urn:ietf:params:oauth:grant-type:token-exchange"
_PAST = 1.0  # seconds of the wall clock; the SDK refreshes what ended


@dataclasses.dataclass
class Memory:
    """What a provider of the SDK reads and writes. `fixed`: a client that is not to be exchanged for another."""

    tokens: OAuthToken | None = None
    client: OAuthClientInformationFull | None = None
    fixed: bool = False
    fresh: bool = False  # whether the tokens are new

    @classmethod
    def of(cls, record: Record, settings: OAuthSettings) -> Memory:
        """With what is kept, or the client that is configured."""
        client = configured_client(settings)
        fixed = client is not None
        if client is None and record.client is not None:
            client = OAuthClientInformationFull.model_validate(record.client)
        tokens = OAuthToken.model_validate(record.tokens) if record.tokens else None
        return cls(tokens, client, fixed)

    async def get_tokens(self) -> OAuthToken | None:
        """See TokenStorage."""
        return self.tokens

    async def set_tokens(self, tokens: OAuthToken) -> None:
        """See TokenStorage."""
        self.tokens, self.fresh = tokens, True

    async def get_client_info(self) -> OAuthClientInformationFull | None:
        """See TokenStorage."""
        return self.client

    async def set_client_info(self, client_info: OAuthClientInformationFull) -> None:
        """See TokenStorage."""
        if self.fixed:
            raise OAuthFlowError("the server names another authorization server than `issuer`")
        self.client = client_info


def configured_client(settings: OAuthSettings) -> OAuthClientInformationFull | None:
    """A client that is registered already. Raises InvalidArgument (BAD_SECRET_FILE)."""
    if not settings.client_id:
        return None
    secret = settings.secret("client_secret_file") if settings.client_secret_file else None
    return OAuthClientInformationFull(
        client_id=settings.client_id,
        client_secret=secret,
        token_endpoint_auth_method=settings.client_authentication if secret else NONE,
        issuer=settings.issuer or None,
    )


def client_metadata(redirect: str, scope: str = "") -> OAuthClientMetadata:
    """What the node registers itself with."""
    return OAuthClientMetadata.model_validate(
        {"client_name": CLIENT_NAME, "redirect_uris": [redirect], "scope": scope or None}
    )


async def drive(flow: httpx2.Auth, url: str, challenge: Challenge | None, send: Send) -> None:
    """Has a provider do its work: on `challenge` to get tokens, without one to refresh those it has.

    Raises OAuthFlowError, and what `send` raises.
    """
    probe = httpx2.Request("POST", url)
    steps = flow.async_auth_flow(probe)
    try:
        outgoing = await anext(steps)
        while True:
            if outgoing is not probe:
                outgoing = await steps.asend(await send(outgoing))
                continue
            if challenge is None:
                return
            header = {"WWW-Authenticate": challenge.header} if challenge.header else {}
            answer = httpx2.Response(challenge.status, headers=header, request=probe)
            challenge = None  # it comes to the probe again with the token
            outgoing = await steps.asend(answer)
    except StopAsyncIteration:
        return
    finally:
        await steps.aclose()


async def refreshed(record: Record, settings: OAuthSettings, send: Send) -> Record:
    """With new tokens, where it came from. Raises TokenRefused, Unavailable."""
    memory = Memory.of(record, settings)
    if memory.fixed and settings.issuer and not issuers_match(_issuer(record), settings.issuer):
        # The file was changed since the login: the client's secret is for its issuer alone.
        raise TokenRefused("invalid_client", "the token is from another authorization server than `issuer`")
    metadata = client_metadata("http://127.0.0.1/", record.scope)
    provider = OAuthClientProvider(record.server, metadata, memory)
    known = provider.context
    known.token_expiry_time = _PAST
    if record.authorization_server is not None:
        known.oauth_metadata = OAuthMetadata.model_validate(record.authorization_server)
    if record.resource is not None:
        known.protected_resource_metadata = ProtectedResourceMetadata.model_validate(record.resource)
    await drive(provider, record.server, None, send)
    if not memory.fresh:
        raise TokenRefused("invalid_grant", "what came in answer is no token")
    return with_tokens(record, memory.tokens)


def _issuer(record: Record) -> str:
    """Who gave the tokens: where nothing else was found, the server's own host."""
    parts = urlsplit(record.server)
    return str((record.authorization_server or {}).get("issuer") or f"{parts.scheme}://{parts.netloc}")


async def granted(record: Record, settings: OAuthSettings, challenge: Challenge, send: Send) -> Record:
    """With tokens that need no person. Raises OAuthFlowError, TokenRefused, InvalidArgument, Unavailable."""
    memory = Memory(OAuthToken.model_validate(record.tokens) if record.tokens else None)
    await drive(_machine(record.server, settings, memory, send), record.server, challenge, send)
    if not memory.fresh:
        raise OAuthFlowError("no token came of it")
    return with_tokens(record, memory.tokens)


def with_tokens(record: Record, tokens: OAuthToken | None) -> Record:
    """The record with tokens that came now."""
    assert tokens is not None
    expires = time.time() + tokens.expires_in if tokens.expires_in is not None else 0.0
    kept = tokens.model_dump(mode="json", exclude_none=True)
    return msgspec.structs.replace(record, tokens=kept, expires_at=expires, challenge=None)


def _machine(url: str, settings: OAuthSettings, memory: Memory, send: Send) -> httpx2.Auth:
    scope, issuer, client = settings.scope or None, settings.issuer, settings.client_id
    if settings.grant == IDENTITY:
        return IdentityAssertionOAuthProvider(
            url,
            memory,
            client,
            settings.secret("client_secret_file"),
            issuer,
            lambda audience, resource: _identity_assertion(settings, audience, resource, send),
            scope,
            settings.shared_secret_method,
        )
    if settings.grant == ASSERTION:
        return WorkloadProvider(url, settings, memory)
    if settings.client_authentication == KEY:
        signed = SignedJWTParameters(
            issuer=client,
            subject=client,
            signing_key=settings.secret("private_key_file"),
            signing_algorithm=settings.signing_algorithm,
        )
        return PrivateKeyJWTOAuthProvider(url, memory, client, signed.create_assertion_provider(), scope, issuer)
    secret = settings.secret("client_secret_file")
    return ClientCredentialsOAuthProvider(url, memory, client, secret, settings.shared_secret_method, scope, issuer)


class WorkloadProvider(OAuthClientProvider):
    """The JWT of a workload, given for a token (RFC 7523); made as the SDK's own providers of other grants are."""

    def __init__(self, url: str, settings: OAuthSettings, memory: Memory) -> None:
        metadata = OAuthClientMetadata(
            redirect_uris=None, grant_types=[JWT_BEARER_GRANT_TYPE], scope=settings.scope or None
        )
        super().__init__(url, metadata, memory)
        memory.client, memory.fixed = configured_client(settings), True
        self._settings = settings

    def _select_authorization_server(self, advertised: list[str]) -> str:
        issuer = self._settings.issuer
        return next((server for server in advertised if issuers_match(server, issuer)), advertised[0])

    async def _perform_authorization(self) -> httpx2.Request:
        found = self.context.oauth_metadata
        if found is None or not issuers_match(str(found.issuer), self._settings.issuer):
            raise OAuthFlowError("the server names another authorization server than `issuer`")
        data = {
            "grant_type": JWT_BEARER_GRANT_TYPE,
            "assertion": self._settings.secret("assertion_file"),
            "client_id": self._settings.client_id,
            "resource": self.context.get_resource_url(),
        }
        if self.context.client_metadata.scope:
            data["scope"] = self.context.client_metadata.scope
        data, headers = self.context.prepare_token_auth(data, {})
        return httpx2.Request("POST", str(found.token_endpoint), data=data, headers=headers)


async def _identity_assertion(settings: OAuthSettings, audience: str, resource: str, send: Send) -> str:
    """What the identity provider gives for its id token: an assertion for the authorization server."""
    form = {
        "grant_type": _EXCHANGE,
        "requested_token_type": f"{_TOKEN_TYPES}:id-jag",
        "audience": audience,
        "resource": resource,
        "subject_token": settings.secret("identity_token_file"),
        "subject_token_type": f"{_TOKEN_TYPES}:id_token",
        "client_id": settings.identity_client_id,
    }
    if settings.scope:
        form["scope"] = settings.scope
    response = await send(httpx2.Request("POST", settings.identity_token_url, data=form))
    try:
        said = response.json()
        if said["issued_token_type"] != form["requested_token_type"]:
            raise ValueError("another type")
        return str(said["access_token"])
    except (ValueError, KeyError, TypeError) as error:
        raise OAuthFlowError("the identity provider gave no assertion") from error
