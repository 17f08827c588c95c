"""A crowd of edges: each a real dialing end with a certificate of its own over mutual TLS, hundreds in one process.

    python -m tests.faults.crowd CREDENTIALS PORT FIRST COUNT

runs members FIRST to FIRST + COUNT - 1 until it is killed, and prints `NAME SECONDS` (monotonic) for each session that
comes up. `enroll` makes the credentials, with the hub's own authority and store, while the hub does not run.
"""

from __future__ import annotations

import asyncio
import base64
import hashlib
import json
import random
import sys
import time
from functools import partial
from pathlib import Path

import grpc

from edgenode.link.identity.certificates import (
    certificate_from_der,
    certificate_to_pem,
    key_to_pem,
    make_csr,
    new_key,
    public_key_hash,
)
from edgenode.link.identity.credentials import KeyPair, client_credentials
from edgenode.link.identity.names import hub_host
from edgenode.link.ports import SystemClock
from edgenode.link.wire.channels import ChannelSettings, open_channel
from edgenode.link.wire.connection import LinkConnection, LinkEvents
from edgenode.link.wire.dialing import DialingEnd, DialingSettings
from hub.ca.authority import Authority
from hub.ca.ports import TokenRecord
from hub.store.enrollment import SqliteEnrollmentStore
from hub.store.schema import open_database
from tests.integration.link.memory import MemoryInbox, MemoryOutbox

LONGEST_BACKOFF = 5.0


async def enroll(hub_state: Path, count: int, target: Path) -> None:
    """Let members crowd-0, crowd-1, ... join the hub in `hub_state`; their credentials go to the file `target`."""
    clock = SystemClock()
    authority = Authority.load(hub_state, clock)
    database = await open_database(hub_state / "edgehub.db", 1 << 30)
    try:
        store = SqliteEnrollmentStore(database)

        async def join(name: str) -> dict[str, str | int]:
            key, now = new_key(), clock.wall()
            csr, secret = make_csr(key), hashlib.sha256(name.encode()).digest()
            await store.create_token(TokenRecord(name, name, secret, now, now + 3600))
            sign = partial(authority.sign_edge, csr)
            issued = await store.claim_token(name, secret, public_key_hash(key.public_key()), now, sign)
            chain = certificate_to_pem(certificate_from_der(issued.certificate)) + authority.edge_ca_pem
            return {
                "name": name,
                "key": key_to_pem(key).decode(),
                "chain": chain.decode(),
                "generation": issued.generation,
            }

        members = await asyncio.gather(*(join(f"crowd-{number}") for number in range(count)))
    finally:
        await database.close()
    hub_ca = base64.b64encode(authority.hub_ca_certificate).decode()
    target.write_text(json.dumps({"domain": authority.trust_domain, "hub_ca": hub_ca, "members": members}))


class _Member(LinkEvents):
    """Says when its session is up."""

    def __init__(self, name: str) -> None:
        self._name = name

    def established(self, link: LinkConnection) -> None:
        sys.stdout.write(f"{self._name} {time.monotonic():.3f}\n")
        sys.stdout.flush()


async def _run(credentials: Path, port: int, first: int, count: int) -> None:
    stored = json.loads(credentials.read_text())
    hub_ca = certificate_to_pem(certificate_from_der(base64.b64decode(stored["hub_ca"])))
    settings = ChannelSettings(server_name=hub_host(stored["domain"]))
    ends = []
    for member in stored["members"][first : first + count]:
        pair = KeyPair(member["key"].encode(), member["chain"].encode())

        async def open_one(pair: KeyPair = pair) -> grpc.aio.Channel:
            return open_channel(f"127.0.0.1:{port}", client_credentials(pair, hub_ca), settings=settings)

        ends.append(
            DialingEnd(
                node=member["name"],
                boot_id=f"boot-{member['name']}",
                generation=lambda generation=member["generation"]: generation,  # type: ignore[misc]
                registry=None,
                outbox=MemoryOutbox(),
                inbox=MemoryInbox(),
                events=_Member(member["name"]),
                open_channel=open_one,
                clock=SystemClock(),
                rng=random.Random(member["name"]),
                settings=DialingSettings(max_backoff=LONGEST_BACKOFF),
            )
        )
    for end in ends:
        await end.start()
    await asyncio.Event().wait()


if __name__ == "__main__":
    asyncio.run(_run(Path(sys.argv[1]), *(int(number) for number in sys.argv[2:5])))
