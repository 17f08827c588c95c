"""Web hooks: one POST to a place that a caller names.

It is looked at (see places) at the hook's creation and again at every delivery; redirects are not followed, proxies of the
environment not asked, answers not read beyond a few KiB.
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence

import httpx

from edgenode.bridges.places import Lookout, Network, Place, Resolve, resolve
from edgenode.link.errors import Unavailable

MAX_ANSWER_BYTES = 16 * 1024
TIMEOUT = 10.0  # seconds, from the look-up of the name to the end of the answer


class Targets:
    """Looks at targets and sends to them. `allowed`: networks that are exempt from the rules; `resolver` stands in tests."""

    def __init__(self, allowed: Sequence[Network] = (), resolver: Resolve = resolve) -> None:
        self._lookout = Lookout(allowed, "edgenode a2a serve --allow-webhooks NETWORK", resolver)
        self._http = httpx.AsyncClient(follow_redirects=False, trust_env=False, timeout=TIMEOUT)

    async def aclose(self) -> None:
        """Closes its connections."""
        await self._http.aclose()

    async def look(self, url: str) -> Place:
        """See Lookout."""
        return await self._lookout.look(url)

    async def post(self, url: str, body: bytes, headers: dict[str, str]) -> int:
        """The status of the answer. Raises as `look` does, and Unavailable (NOT_DELIVERED)."""
        try:
            async with asyncio.timeout(TIMEOUT):
                place = await self.look(url)
                return await self._post(place, body, headers)
        except (TimeoutError, httpx.HTTPError, OSError) as error:
            raise Unavailable("NOT_DELIVERED", f"{type(error).__name__}: {error}"[:500]) from error

    async def _post(self, place: Place, body: bytes, headers: dict[str, str]) -> int:
        request = self._http.build_request(
            "POST",
            place.pinned(place.addresses[0]),
            content=body,
            headers={**headers, "Host": place.authority},
            extensions={"sni_hostname": place.host},
        )
        response = await self._http.send(request, stream=True)
        try:
            read = 0
            async for chunk in response.aiter_raw():
                read += len(chunk)
                if read > MAX_ANSWER_BYTES:
                    break
        finally:
            await response.aclose()
        return response.status_code
