"""The identity of this edge: loading it, getting it, keeping it fresh.

Files under STATE/identity (directory 0700, files 0600):

    identity.json               who this node is, where its hub is, and which credential is in use
    credential-<generation>.pem the private key and its certificate
    bundle.pem                  the fleet's root, hub-ca and edge-ca, in this order
    pending-key.pem             the key of a request whose answer has not arrived

identity.json is written last and replaced whole, so at every instant it points at a key and certificate that belong
together. A new key is on disk before the hub hears of it: if the answer is lost, with the network or with this process, the
same key asks again and the hub answers it as before. The pending key goes when identity.json points at its certificate.
Where the fleet's CAs were rotated, bundle.pem is replaced by itself.

A running node loads this module at start, so it does without `cryptography`; `edgenode.link.parent.enrolling` needs it and is
loaded when there is something to enroll or renew.
"""

from __future__ import annotations

import asyncio
import json
import logging
import ssl
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import grpc

from edgenode.link.errors import DataLoss, EdgenodeError, FailedPrecondition, InvalidArgument, Unavailable
from edgenode.link.failpoints import Failpoint, reach
from edgenode.link.identity.credentials import KeyPair, client_credentials
from edgenode.link.identity.files import (
    make_private_directory,
    remove_unfinished,
    sync_directory,
    write_private_file,
)
from edgenode.link.identity.lifetime import CLOCK_SKEW, renewal_time
from edgenode.link.identity.names import SpiffeName, edge_name, hub_host, hub_name
from edgenode.link.model.problem import Problem
from edgenode.link.ports import Clock, Rng, SystemClock
from edgenode.link.protocol.backoff import ReconnectBackoff
from edgenode.link.wire.channels import OpenChannel, open_channel, split_host_port

FORMAT = 1

_KEY_END = b"-----END PRIVATE KEY-----\n"
_CERTIFICATE_BEGIN = b"-----BEGIN CERTIFICATE-----"

# What a refused renewal waits at least: only an operator can change the answer.
_REFUSED_RETRY_SECONDS = 300.0
_LONGEST_WAIT = 60.0  # seconds without a look at the wall clock
_EARLY_INTERVAL = 60.0  # seconds between two renewals because the certificate is not valid yet
_SPACING_SHARE = 0.1  # of a certificate's life passes at least before it is renewed

# Looking at the hub's certificate: how long it may take, how often, and OpenSSL's codes for dates that do not fit.
_LOOK_SECONDS = 10.0
_LOOK_INTERVAL = 30.0
_OUT_OF_DATE = (9, 10)

_log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True, kw_only=True)
class NodeIdentity:
    """Who this node is. Certificates are PEM; times are wall clock, seconds."""

    node: str
    trust_domain: str
    hub: str
    sync_address: str  # HOST:PORT
    enrollment_address: str  # HOST:PORT
    token_id: str  # public part of the join token it came from
    generation: int
    not_before: float
    expire_time: float
    pair: KeyPair
    root: bytes
    hub_ca: bytes
    edge_ca: bytes

    @property
    def name(self) -> SpiffeName:
        """The name in its certificate."""
        return edge_name(self.trust_domain, self.node)

    @property
    def server_name(self) -> str:
        """What to expect in the hub's certificate: `ChannelSettings(server_name=...)`."""
        return hub_host(self.trust_domain)

    def channel_credentials(self) -> grpc.ChannelCredentials:
        """What to dial the hub's sync listener with."""
        return client_credentials(self.pair, self.hub_ca)


@dataclass(frozen=True, slots=True)
class Facts:
    """What identity.json says."""

    node: str
    trust_domain: str
    hub: str
    sync_address: str
    enrollment_address: str
    token_id: str
    generation: int
    not_before: float
    expire_time: float


class IdentityDirectory:
    """STATE/identity: reads and writes its files, in the order that makes a crash harmless."""

    def __init__(self, state_dir: Path) -> None:
        self._path = state_dir / "identity"

    @property
    def pending_key_path(self) -> Path:
        """Where the key of an unanswered request is."""
        return self._path / "pending-key.pem"

    def facts(self) -> Facts | None:
        """Who the directory belongs to; None if nobody joined. Raises DataLoss (IDENTITY_DAMAGED, STATE_TOO_NEW)."""
        path = self._path / "identity.json"
        data = _read(path)
        if data is None:
            return None
        try:
            stored = json.loads(data)
            if stored["format"] > FORMAT:
                raise DataLoss(
                    "STATE_TOO_NEW", f"{path} was written by a newer version", hint="run that version again", file=path
                )
            facts = Facts(**{field: stored[field] for field in Facts.__slots__})
            edge_name(facts.trust_domain, facts.node)
            hub_name(facts.trust_domain, facts.hub)
            if any(
                not isinstance(value, int | float) for value in (facts.generation, facts.not_before, facts.expire_time)
            ):
                raise TypeError("a number is missing")
        except (ValueError, KeyError, TypeError, InvalidArgument) as error:
            raise _damaged(path, f"it cannot be read: {error!r}") from error
        return facts

    def load(self) -> NodeIdentity | None:
        """The identity in use; None if nobody joined. Raises DataLoss (IDENTITY_DAMAGED, STATE_TOO_NEW) naming the file."""
        facts = self.facts()
        if facts is None:
            return None
        credential = self._credential_path(facts.generation)
        key, end, certificate = (_read(credential) or b"").partition(_KEY_END)
        bundle_path = self._path / "bundle.pem"
        bundle = _split_certificates(_read(bundle_path) or b"")
        _check_pair(credential)
        if len(bundle) != 3:
            raise _damaged(bundle_path, "it does not hold root, hub-ca and edge-ca")
        _check_certificates(bundle_path, bundle)
        root, hub_ca, edge_ca = bundle
        return NodeIdentity(
            **{field: getattr(facts, field) for field in Facts.__slots__},
            pair=KeyPair(key + end, certificate + edge_ca),
            root=root,
            hub_ca=hub_ca,
            edge_ca=edge_ca,
        )

    def pending_key(self, make: Callable[[], bytes], in_use: bytes) -> bytes:
        """The key (PEM) to ask for a certificate with: that of an unanswered request, else a new one, on disk by now."""
        pending = _read(self.pending_key_path)
        if pending is not None and pending != in_use:  # in use: left behind by a crash right after its answer was kept
            return pending
        return self.replace_pending_key(make())

    def replace_pending_key(self, key: bytes) -> bytes:
        """Put `key` (PEM) in place of the pending one, on disk by now; returns it."""
        make_private_directory(self._path)
        write_private_file(self.pending_key_path, key)
        reach(Failpoint.PENDING_KEY_WRITTEN)
        return key

    def save(self, facts: Facts, key: bytes, certificate: bytes, bundle: bytes) -> NodeIdentity:
        """Make the answered request's key and certificate (PEM) the identity in use, durably."""
        make_private_directory(self._path)
        reach(Failpoint.RENEWAL_ANSWERED)
        write_private_file(self._credential_path(facts.generation), key + certificate)
        write_private_file(self._path / "bundle.pem", bundle)
        reach(Failpoint.CREDENTIAL_WRITTEN)
        stored = {"format": FORMAT, **{field: getattr(facts, field) for field in Facts.__slots__}}
        write_private_file(self._path / "identity.json", json.dumps(stored, indent=2).encode() + b"\n")
        reach(Failpoint.IDENTITY_WRITTEN)
        identity = self.load()
        if identity is None:
            raise _damaged(self._path / "identity.json", "it vanished while it was written")
        self._sweep(facts.generation)
        return identity

    def _sweep(self, generation: int) -> None:
        """Remove every key that is not in use."""
        self.pending_key_path.unlink(missing_ok=True)
        for credential in self._path.glob("credential-*.pem"):
            if credential != self._credential_path(generation):
                credential.unlink(missing_ok=True)
        remove_unfinished(self._path)
        sync_directory(self._path)

    def save_bundle(self, bundle: bytes) -> NodeIdentity:
        """Put the fleet's certificates (PEM: root, hub-ca, edge-ca) in place of those that are there, durably."""
        write_private_file(self._path / "bundle.pem", bundle)
        identity = self.load()
        if identity is None:
            raise _damaged(self._path / "identity.json", "it is missing")
        return identity

    def _credential_path(self, generation: int) -> Path:
        return self._path / f"credential-{generation}.pem"


def load_identity(state_dir: Path) -> NodeIdentity | None:
    """The identity under `state_dir`, None if it never joined. Raises DataLoss (IDENTITY_DAMAGED, STATE_TOO_NEW)."""
    return IdentityDirectory(state_dir).load()


async def join(state_dir: Path, hub_address: str, token: str, *, clock: Clock | None = None) -> NodeIdentity:
    """Join the fleet at `hub_address` (HOST:PORT of its enrollment listener) with a token.

    Safe to repeat: after a failure it goes on, after a success it returns what is there.

    Raises InvalidArgument (BAD_TOKEN, BAD_ADDRESS), FailedPrecondition (STATE_OF_OTHER_NODE, NOT_ENROLLMENT_PORT,
    CLOCK_WRONG, STATE_NOT_WRITABLE), Unavailable (HUB_UNREACHABLE), Unauthenticated (WRONG_CA, UNKNOWN_TOKEN,
    WRONG_SECRET, TOKEN_EXPIRED), PermissionDenied (TOKEN_USED), AlreadyExists (NODE_EXISTS), DataLoss (IDENTITY_DAMAGED).
    """
    from edgenode.link.parent import enrolling  # loads cryptography, see above

    return await enrolling.join(IdentityDirectory(state_dir), hub_address, token, clock or SystemClock())


async def trusts_hub(identity: NodeIdentity) -> bool:
    """Whether the hub's enrollment listener shows a certificate that the identity's hub-ca signed, whatever its dates.

    Raises OSError when it is not reached.
    """
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.verify_flags |= ssl.VERIFY_X509_PARTIAL_CHAIN  # the hub-ca is the anchor, as it is for grpc
    context.load_verify_locations(cadata=identity.hub_ca.decode("ascii"))
    host, port = split_host_port(identity.enrollment_address)
    try:
        async with asyncio.timeout(_LOOK_SECONDS):
            _, writer = await asyncio.open_connection(host, port, ssl=context, server_hostname=identity.server_name)
    except ssl.SSLCertVerificationError as error:
        return error.verify_code in _OUT_OF_DATE
    writer.transport.abort()
    return True


class Renewer:
    """Renews the identity at 60 % +-10 % of its life, also when it has long expired, until cancelled.

    A certificate that is not valid yet was made when the hub's clock was wrong, or the clock here is wrong now. It is renewed
    when the node dials; where the clock here is the wrong one that fails, for the hub's certificate does not fit it either.

    `on_renewed` gets the new identity on the event loop: the link dials with it and then drains the old channel.

    A hub whose CA was rotated shows a certificate that the identity cannot place. Then the fleet's certificates are fetched
    anew, and believed if the root vouches for them: the root is what a node trusts for good.
    """

    def __init__(
        self,
        state_dir: Path,
        identity: NodeIdentity,
        clock: Clock,
        rng: Rng,
        on_renewed: Callable[[NodeIdentity], None],
        open_channel: OpenChannel = open_channel,
    ) -> None:
        self._open_channel = open_channel
        self._directory = IdentityDirectory(state_dir)
        self._clock = clock
        self._rng = rng
        self._on_renewed = on_renewed
        self._look_again = asyncio.Event()
        self.identity = identity
        self.problem: Problem | None = None  # why the last attempt failed; None after a success
        self.due_time = self._due(identity)
        self._early_time = 0.0  # monotonic; when a certificate that is not valid yet may be renewed
        self._changing = asyncio.Lock()  # the directory, by one at a time
        self._look_time = 0.0  # monotonic; when the hub's certificate may be looked at again

    def wake(self) -> None:
        """Look at the wall clock again: it was set, or the device slept. Call it when the node dials."""
        self._look_again.set()

    async def run(self) -> None:
        """Runs until cancelled."""
        while True:
            await self._until_due()
            await self._renew()
            # By a clock that is ahead the new certificate is due at once: the hub is not asked without pause for that.
            life = self.identity.expire_time - self.identity.not_before - CLOCK_SKEW
            self.due_time = max(self._due(self.identity), self._clock.wall() + max(life, 0.0) * _SPACING_SHARE)

    async def _until_due(self) -> None:
        # The timer counts monotonic time, which neither a set clock nor a suspended device moves: hence a look now and
        # then, and `wake`.
        while (delay := self.due_time - self._clock.wall()) > 0:
            try:
                async with asyncio.timeout(min(delay, _LONGEST_WAIT)):
                    await self._look_again.wait()
            except TimeoutError:
                continue
            self._look_again.clear()
            if self._early():
                return

    async def _renew(self) -> None:
        """Try until it is done."""
        from edgenode.link.parent import enrolling  # loads cryptography, see above

        backoff = ReconnectBackoff(self._rng)
        while True:
            try:
                async with self._changing:
                    identity = await enrolling.renew(self._directory, self.identity, self._clock, self._open_channel)
            except EdgenodeError as error:
                self.problem = error.problem
                if isinstance(error, Unavailable) and await self.refresh_trust():
                    continue
                if not error.problem.retryable:
                    backoff.pace(_REFUSED_RETRY_SECONDS)
            else:
                self.identity, self.problem = identity, None
                self._early_time = self._clock.monotonic() + _EARLY_INTERVAL
                _log.info("identity renewed: generation %d", identity.generation)
                self._on_renewed(identity)
                return
            delay = backoff.next_delay(self._clock.monotonic())
            _log.warning("renewal failed, again in %.0f s: %s", delay, self.problem)
            await asyncio.sleep(delay)
            if self._clock.wall() < self.due_time and not self._early():
                self.problem = None  # the clock was set right
                return

    async def refresh_trust(self) -> bool:
        """Call it when the hub could not be reached: looks whether its CA was rotated; true if that was it.

        Then the identity has the present certificates of the fleet. Sees the hub's certificate at most every 30 s.
        """
        # Channels that somebody else makes have no certificates to look at.
        if self._open_channel is not open_channel or self._clock.monotonic() < self._look_time:
            return False
        try:
            known = await trusts_hub(self.identity)
            self._look_time = self._clock.monotonic() + _LOOK_INTERVAL
            if known:
                return False
            from edgenode.link.parent import enrolling  # loads cryptography, see above

            async with self._changing:
                self.identity = await enrolling.refresh_trust(self._directory, self.identity, self._clock)
        except EdgenodeError as error:
            _log.error("the hub shows a certificate that is not known, and the fleet's could not be fetched: %s", error)
            return False
        except OSError:
            return False  # out of reach, as was known
        _log.warning("the fleet's CA was rotated; the root vouches for the new one")
        return True

    def _early(self) -> bool:
        """Whether the certificate is not valid yet, and was not made just now."""
        return self._clock.wall() < self.identity.not_before and self._clock.monotonic() >= self._early_time

    def _due(self, identity: NodeIdentity) -> float:
        return renewal_time(identity.not_before, identity.expire_time, self._rng)


def _read(path: Path) -> bytes | None:
    try:
        return path.read_bytes()
    except FileNotFoundError:
        return None
    except OSError as error:
        raise FailedPrecondition(
            "STATE_NOT_READABLE", f"{path} cannot be read: {error.strerror}", hint="run as the state's owner", file=path
        ) from error


def _split_certificates(pem: bytes) -> list[bytes]:
    return [_CERTIFICATE_BEGIN + part for part in pem.split(_CERTIFICATE_BEGIN)[1:]]


def _check_pair(path: Path) -> None:
    """That a credential file holds a key and its certificate."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    try:
        context.load_cert_chain(path, password="")
    except (OSError, ValueError) as error:
        raise _damaged(path, f"it holds no key with its certificate: {error}") from error


def _check_certificates(path: Path, certificates: list[bytes]) -> None:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    try:
        context.load_verify_locations(cadata=b"".join(certificates).decode("ascii"))
    except (OSError, ValueError) as error:
        raise _damaged(path, f"a certificate cannot be read: {error}") from error


def _damaged(path: Path, what: str) -> DataLoss:
    return DataLoss(
        "IDENTITY_DAMAGED",
        f"{path}: {what}",
        hint="restore it from a backup, or join again with a token made by `edgehub token create NAME --rejoin`",
        file=path,
    )
