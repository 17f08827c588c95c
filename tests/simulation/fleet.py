"""What every run begins from, made once for a process: the authority of each hub, who joined it, and empty stores.

All of it is made by the product's own code at a fixed time of the wall clock. Keys differ from process to process, which
nothing in a run depends on.
"""

from __future__ import annotations

import asyncio
import contextlib
import functools
import gc
import shutil
import tempfile
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from multiprocessing.util import Finalize
from pathlib import Path
from unittest import mock

from edgenode.link.identity.certificates import (
    certificate_from_der,
    certificate_to_pem,
    key_to_pem,
    make_csr,
    new_key,
    public_key_hash,
)
from edgenode.link.identity.tokens import hash_secret
from edgenode.link.parent import identity
from edgenode.link.parent.identity import Facts, IdentityDirectory
from edgenode.node.config import NodeConfig
from edgenode.node.store import open_store
from hub.ca.authority import Authority, init_authority
from hub.ca.ports import EnrollmentStore
from hub.services.enrollment import create_join_token
from hub.store.enrollment import SqliteEnrollmentStore
from hub.store.schema import open_database

WALL = 1_800_000_000.0
LEAF_LIFE = 7 * 86_400.0
EDGES = ("north", "south", "west", "east")
HUB = "hub"
CHILDREN = ("berlin", "paris")  # hubs that have joined it, each with a fleet of its own


class FixedClock:
    """Stands still; `wall` can be set, and follows it."""

    def __init__(self) -> None:
        self.time: Callable[[], float] = lambda: WALL

    def monotonic(self) -> float:
        """See Clock."""
        return 0.0

    def wall(self) -> float:
        """See Clock."""
        return self.time()


@dataclass(frozen=True)
class Fleet:
    """One hub's; `directory` has a state directory for the hub and for each node that joined it."""

    directory: Path
    clock: FixedClock
    authority: Authority
    hub_store: bytes
    edge_store: bytes
    ballast: Path  # what a store keeps of a disk's place; its bytes are nothing

    def certificate(self, state_dir: Path) -> bytes:
        """The certificate (PEM) that an edge dials with."""
        facts = IdentityDirectory(state_dir).facts()
        assert facts is not None
        pem = (state_dir / "identity" / f"credential-{facts.generation}.pem").read_bytes()
        return pem[pem.index(b"-----BEGIN CERTIFICATE-----") :]


def scratch() -> Path:
    """A directory of the memory file system, where there is one, that goes with this process."""
    shared = Path("/dev/shm")
    directory = Path(tempfile.mkdtemp(prefix="edgenode-sim-", dir=shared if shared.is_dir() else None))
    # Processes of a pool run no atexit handlers, but these.
    Finalize(None, shutil.rmtree, (directory,), {"ignore_errors": True}, exitpriority=0)
    return directory


@contextlib.contextmanager
def cheaply() -> Iterator[None]:
    """Within, what costs much and is the same each time is done once: to read certificates, to look for garbage."""
    thresholds = gc.get_threshold()
    gc.set_threshold(20_000, 10, 10)
    try:
        with mock.patch.multiple(identity, _check_pair=_check_pair, _check_certificates=_check_certificates):
            yield
    finally:
        gc.set_threshold(*thresholds)


_honest_pair, _honest_certificates = identity._check_pair, identity._check_certificates
_good: set[object] = set()


def _check_pair(path: Path) -> None:
    key = path.read_bytes() if path.exists() else None
    if key is None or key not in _good:
        _honest_pair(path)
        _good.add(key)


def _check_certificates(path: Path, certificates: list[bytes]) -> None:
    key = tuple(certificates)
    if key not in _good:
        _honest_certificates(path, certificates)
        _good.add(key)


@functools.cache
def fleet(hub: str = HUB) -> Fleet:
    """See the module."""
    made = asyncio.run(_make(scratch(), hub, (*EDGES, *CHILDREN) if hub == HUB else EDGES))
    gc.collect()
    gc.freeze()  # what is loaded by now is never garbage, and not looked at any more
    return made


async def _make(directory: Path, hub: str, nodes: Sequence[str]) -> Fleet:
    clock = FixedClock()
    hub_dir = directory / hub
    hub_dir.mkdir()
    init_authority(hub_dir, f"{hub}.example", hub, clock, leaf_life=30 * LEAF_LIFE)
    authority = Authority.load(hub_dir, clock, leaf_life=LEAF_LIFE)
    database = await open_database(hub_dir / "edgehub.db", 1 << 30)
    for node in nodes:
        (directory / node).mkdir()
        await join(directory / node, node, authority, SqliteEnrollmentStore(database), clock)
    await database.close()
    store = await open_store(NodeConfig(state_dir=directory))
    await store.close()
    return Fleet(
        directory,
        clock,
        authority,
        (hub_dir / "edgehub.db").read_bytes(),
        (directory / "node.db").read_bytes(),
        directory / "node.db.ballast",
    )


async def join(
    state_dir: Path, node: str, authority: Authority, store: EnrollmentStore, clock: FixedClock, *, rejoin: bool = False
) -> None:
    """An operator makes a token on the hub and joins the node with it; `rejoin`: anew."""
    token, _ = await create_join_token(authority, store, clock, node, rejoin=rejoin)
    key = new_key()
    csr = make_csr(key)
    issued = await store.claim_token(
        token.token_id,
        hash_secret(token.secret),
        public_key_hash(key.public_key()),
        clock.wall(),
        functools.partial(authority.sign_edge, csr),
    )
    facts = Facts(
        node=node,
        trust_domain=authority.trust_domain,
        hub=authority.hub,
        sync_address="hub.example:7443",
        enrollment_address="hub.example:7444",
        token_id=token.token_id,
        generation=issued.generation,
        not_before=issued.not_before,
        expire_time=issued.expire_time,
    )
    ders = (authority.root_certificate, authority.hub_ca_certificate, authority.edge_ca_certificate)
    bundle = certificate_to_pem(*(certificate_from_der(der) for der in ders))
    certificate = certificate_to_pem(certificate_from_der(issued.certificate))
    IdentityDirectory(state_dir).save(facts, key_to_pem(key), certificate, bundle)
