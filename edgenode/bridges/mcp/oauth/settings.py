"""The file that says how a mount gets tokens: TOML without secrets, which stand in files of their own.

    grant = "client_credentials"
    issuer = "https://login.example.com"
    client_id = "edge-7"
    client_secret_file = "edge-7.secret"

Paths are absolute or from the file's directory. Secrets are read whenever they are used, so a platform may renew them.
"""

from __future__ import annotations

import dataclasses
import ipaddress
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Literal
from urllib.parse import urlsplit

from edgenode.bridges.places import Network
from edgenode.bridges.private_files import read_private
from edgenode.link.config import load, setting
from edgenode.link.errors import InvalidArgument

CODE, CREDENTIALS, ASSERTION, IDENTITY = "authorization_code", "client_credentials", "jwt_bearer", "identity_assertion"
BASIC, POST, KEY, NONE = "client_secret_basic", "client_secret_post", "private_key_jwt", "none"
_FILES = ("client_secret_file", "private_key_file", "assertion_file", "identity_token_file")
_NEEDS = {
    CODE: (),
    CREDENTIALS: ("issuer", "client_id"),
    ASSERTION: ("issuer", "client_id", "assertion_file"),
    IDENTITY: (
        *("issuer", "client_id", "client_secret_file"),
        *("identity_token_file", "identity_token_url", "identity_client_id"),
    ),
}


def _http_url(value: str) -> str:
    return "" if not value or urlsplit(value).scheme in ("http", "https") else "an http or https URL"


def _https_url(value: str) -> str:
    parts = urlsplit(value)
    good = not value or (parts.scheme == "https" and parts.path not in ("", "/"))
    return "" if good else "an https URL of a document"


def _networks(value: str) -> str:
    try:
        _parsed(value)
    except ValueError:
        return "networks like 10.0.0.0/8, separated by commas"
    return ""


def _parsed(value: str) -> list[Network]:
    return [ipaddress.ip_network(part.strip()) for part in value.split(",") if part.strip()]


@dataclass(frozen=True)
class OAuthSettings:
    """How a mount gets tokens. Without a file: a person logs in, the node registers itself as a client."""

    grant: str = setting("how tokens are got", default=CODE, choices=tuple(_NEEDS))
    issuer: str = setting("the authorization server that the client's credentials are for", default="", check=_http_url)
    scope: str = setting("scopes to ask for, separated by spaces; empty: those the server names", default="")
    client_id: str = setting("id of a client that is registered already", default="")
    client_secret_file: str = setting("file with its secret", default="")
    client_authentication: str = setting(
        "how it proves who it is at the token endpoint", default=BASIC, choices=(BASIC, POST, KEY, NONE)
    )
    private_key_file: str = setting("file with its private key in PEM", default="")
    signing_algorithm: str = setting(
        "of that key", default="ES256", choices=("ES256", "ES384", "ES512", "RS256", "PS256", "EdDSA")
    )
    client_metadata_url: str = setting("https URL of a client id metadata document", default="", check=_https_url)
    assertion_file: str = setting("file with the JWT of this workload, as a platform renews it", default="")
    identity_token_url: str = setting("token endpoint of the identity provider", default="", check=_http_url)
    identity_client_id: str = setting("id of this client at the identity provider", default="")
    identity_token_file: str = setting("file with the identity provider's id token", default="")
    redirect_port: int = setting("port of the login's redirect; 0: any", default=0, low=0, high=65_535)
    networks: str = setting(
        "networks where authorization servers may be though they are not public, e.g. 10.0.0.0/8",
        default="",
        check=_networks,
    )

    def conflicts(self) -> Iterator[tuple[str, str]]:
        """See edgenode.link.config."""
        for key in _NEEDS[self.grant]:
            if not getattr(self, key):
                yield key, f"a value, as grant is {self.grant}"
        if self.client_id and self.client_metadata_url:
            yield "client_metadata_url", "nothing beside client_id"
        if self.client_secret_file and not self.issuer:
            yield "issuer", "whose client that is, so that no other server gets its secret"
        if self.grant == CREDENTIALS:
            signs = self.client_authentication == KEY
            needed = "private_key_file" if signs else "client_secret_file"
            if not getattr(self, needed):
                yield needed, f"a file, as client_authentication is {self.client_authentication}"
        elif self.client_authentication == KEY:
            yield "client_authentication", f"another one, as a key signs for {CREDENTIALS} alone"

    @property
    def by_person(self) -> bool:
        """Whether a person is needed to get the first token."""
        return self.grant == CODE

    @property
    def shared_secret_method(self) -> Literal["client_secret_basic", "client_secret_post"]:
        """How the secret is sent."""
        return "client_secret_post" if self.client_authentication == POST else "client_secret_basic"

    @property
    def renewed(self) -> bool:
        """Whether a platform renews what is presented, so that a refusal may be over by itself."""
        return bool(self.assertion_file or self.identity_token_file)

    @property
    def allowed(self) -> list[Network]:
        """`networks`, parsed."""
        return _parsed(self.networks)

    def secret(self, key: str) -> str:
        """What the file of a key holds, without the spaces around it. Raises InvalidArgument (BAD_SECRET_FILE)."""
        text = read_private(Path(getattr(self, key)), "BAD_SECRET_FILE", key, "a file that only its owner may read")
        if not text.strip():
            raise InvalidArgument("BAD_SECRET_FILE", f"{getattr(self, key)} is empty", field=key)
        return text.strip()


def read_settings(file: str) -> OAuthSettings:
    """The settings of a file, the defaults for an empty name. Raises InvalidArgument (BAD_CONFIG)."""
    if not file:
        return OAuthSettings()
    path = Path(file)
    if not path.exists():
        raise InvalidArgument("BAD_CONFIG", f"{file} does not exist", hint="see docs/agents.md", field="oauth_file")
    settings = load(OAuthSettings, file=path).config
    found = {key: str(path.parent / getattr(settings, key)) for key in _FILES if getattr(settings, key)}
    return dataclasses.replace(settings, **found)  # type: ignore[arg-type]
