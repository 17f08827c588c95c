"""Who looks after a mount in a scenario of authorisation: writes its settings, and is the person who logs in.

The settings are those that the scenario tells, as an operator would have them from whoever registered the client. The person
is a browser that goes wherever it is sent: the suite's authorization server asks nothing.
"""

from __future__ import annotations

import asyncio
import json
from pathlib import Path
from typing import Any

import httpx2

from edgenode.bridges.mcp.mounted import Mounted
from edgenode.bridges.mcp.oauth.errands import Errands
from edgenode.bridges.mcp.oauth.kept import Kept
from edgenode.bridges.mcp.oauth.login import Login
from edgenode.bridges.mcp.oauth.settings import read_settings
from edgenode.link.errors import EdgenodeError

CLIENT_METADATA = "https://conformance-test.local/client-metadata.json"
MAX_LOGINS = 3  # nobody logs in for ever


class Operator:
    """Of the mount `name` of the server at `url`."""

    def __init__(self, folder: Path, name: str, url: str) -> None:
        self.file = folder / f"{name}.toml"
        self.needed = asyncio.Event()
        self._folder = folder
        self._name = name
        self._url = url
        self._logins = 0

    async def prepare(self, context: dict[str, Any]) -> None:
        """Writes the mount's settings."""
        settings = {"networks": "127.0.0.0/8, ::1/128"}
        if "client_id" in context:
            settings |= {"client_id": context["client_id"], "issuer": context.get("issuer") or await self._issuer()}
        else:
            settings["client_metadata_url"] = CLIENT_METADATA
        secrets = {"client_secret_file": context.get("client_secret")}
        if "idp_id_token" in context:
            settings |= {
                "grant": "identity_assertion",
                "identity_token_url": context["idp_token_endpoint"],
                "identity_client_id": context["idp_client_id"],
            }
            secrets["identity_token_file"] = context["idp_id_token"]
        elif "valid_jwt" in context:
            settings["grant"] = "jwt_bearer"
            secrets["assertion_file"] = context["valid_jwt"]
        elif "private_key_pem" in context:
            settings |= {"grant": "client_credentials", "client_authentication": "private_key_jwt"}
            settings["signing_algorithm"] = context["signing_algorithm"]
            secrets["private_key_file"] = context["private_key_pem"]
        elif "client_id" in context and "issuer" not in context:
            settings["grant"] = "client_credentials"
        for key, secret in secrets.items():
            if secret is not None:
                path = self._folder / f"{self._name}.{key}"
                path.touch(0o600)
                path.write_text(secret)
                settings[key] = str(path)
        self.file.write_text("".join(f"{key} = {json.dumps(value)}\n" for key, value in settings.items()))

    async def _issuer(self) -> str:
        """Whose client the credentials are, which the scenario does not tell."""
        url = httpx2.URL(self._url)
        async with httpx2.AsyncClient(verify=False) as http:
            answer = await http.get(url.copy_with(path=f"/.well-known/oauth-protected-resource{url.path}"))
        return str(answer.json()["authorization_servers"][0])

    async def help(self, mounted: Mounted, said: list[str], failed: asyncio.Event) -> None:
        """Logs in whenever the mount wants that, until it is too much."""
        while True:
            await self.needed.wait()
            self.needed.clear()
            if not await self.log_in(said):
                failed.set()
                return
            mounted.retry()

    async def log_in(self, said: list[str]) -> bool:
        """Whether it worked."""
        settings = read_settings(str(self.file))
        if self._logins == MAX_LOGINS or not settings.by_person:
            return False
        self._logins += 1
        errands = Errands(settings, (self._url, settings.issuer))
        visits: list[asyncio.Task[None]] = []
        login = Login(
            Kept(self._folder, self._name, self._url),
            settings,
            errands,
            lambda address: visits.append(asyncio.create_task(_visit(address))),
        )
        try:
            await login.run(timeout=20.0)
        except EdgenodeError as error:
            said.append(str(error))
            return False
        finally:
            await errands.aclose()
            if visits:
                await asyncio.wait(visits)
        return True


async def _visit(address: str) -> None:
    async with httpx2.AsyncClient(follow_redirects=True, verify=False) as browser:
        await browser.get(address)
