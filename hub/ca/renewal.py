"""Keeps the certificate of the hub's listeners fresh, without closing a connection."""

from __future__ import annotations

import asyncio
import logging

from edgenode.link.identity.credentials import ServerIdentity
from edgenode.link.ports import Clock
from hub.ca.authority import Authority

# A timer does not see that the wall clock was set; nobody tells a hub, so it looks at least this often.
_LONGEST_SLEEP_SECONDS = 3_600.0
_RETRY_SECONDS = 60.0

_log = logging.getLogger(__name__)


async def keep_hub_certificate(authority: Authority, identity: ServerIdentity, clock: Clock) -> None:
    """Renew the hub's certificate whenever it is time and show the new one to the next handshakes; runs until cancelled."""
    while True:
        try:
            if await asyncio.to_thread(authority.renew_hub_leaf):
                identity.replace(authority.hub_pair())
                _log.info("the hub's certificate was renewed")
            delay = min(max(authority.hub_renewal_time() - clock.wall(), 0.0), _LONGEST_SLEEP_SECONDS)
        except OSError as error:
            _log.error("the hub's certificate cannot be renewed, again in %.0f s: %s", _RETRY_SECONDS, error)
            delay = _RETRY_SECONDS
        await asyncio.sleep(delay)
