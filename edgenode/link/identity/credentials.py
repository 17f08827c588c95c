"""TLS credentials for grpc, both ends. Keys and certificates are PEM; nothing here parses them.

Each side trusts one intermediate and nothing else: an edge the hub-ca, a hub the edge-ca. grpc (BoringSSL) takes an
intermediate as anchor and checks its usage as well, so neither side's certificates pass for the other's.
"""

from __future__ import annotations

import time
from dataclasses import dataclass, field

import grpc

# A handshake that has asked for the pair, but not taken it yet, crashes the process if the pair is swapped in between: grpc
# locks the one step and not the other (grpc#22489, fixed in part). The fetcher runs under that lock, so while it pauses no
# other handshake can ask, and those that did get done. Handshakes wait this long once in days.
_SWAP_PAUSE_SECONDS = 0.05


@dataclass(frozen=True, slots=True)
class KeyPair:
    """A private key with its certificate chain (leaf first), PEM. Its `repr` shows no key."""

    private_key: bytes = field(repr=False)
    certificate_chain: bytes


def client_credentials(pair: KeyPair | None, hub_ca: bytes) -> grpc.ChannelCredentials:
    """What an edge dials with: trusts hubs that `hub_ca` signed; without `pair` it shows no certificate.

    Dial with `ChannelSettings(server_name=hub_host(trust_domain))`, as hubs are named by fleet, not by address.
    """
    if pair is None:
        return grpc.ssl_channel_credentials(root_certificates=hub_ca)
    return grpc.ssl_channel_credentials(hub_ca, pair.private_key, pair.certificate_chain)


class ServerIdentity:
    """A hub's key pair, shared by its listeners; `replace` it and the next handshakes use the new one."""

    def __init__(self, pair: KeyPair) -> None:
        self._pair = pair

    @property
    def pair(self) -> KeyPair:
        """What is shown now."""
        return self._pair

    def replace(self, pair: KeyPair) -> None:
        """Show another pair from now on. Connections that are up keep theirs."""
        self._pair = pair

    def mutual_credentials(self, edge_ca: bytes) -> grpc.ServerCredentials:
        """For listeners of members: only clients whose certificate `edge_ca` signed get through the handshake."""
        return self._credentials(edge_ca)

    def open_credentials(self) -> grpc.ServerCredentials:
        """For the enrollment listener: clients have no certificate yet."""
        return self._credentials(None)

    def _credentials(self, client_ca: bytes | None) -> grpc.ServerCredentials:
        shown = self._pair

        def fetch() -> grpc.ServerCertificateConfiguration | None:
            # grpc calls this at each handshake, on a thread of its own; None keeps what it has. If this raised, grpc would
            # go on with the old pair and say nothing: so nothing is read or parsed here, bytes are handed over.
            nonlocal shown
            pair = self._pair
            if pair is shown:
                return None
            time.sleep(_SWAP_PAUSE_SECONDS)
            shown = pair
            return _configuration(pair, client_ca)

        initial = _configuration(shown, client_ca)
        # The type stubs do not know that a fetcher may return None; grpc documents it.
        return grpc.dynamic_ssl_server_credentials(initial, fetch, client_ca is not None)  # type: ignore[arg-type]


def _configuration(pair: KeyPair, client_ca: bytes | None) -> grpc.ServerCertificateConfiguration:
    return grpc.ssl_server_certificate_configuration([(pair.private_key, pair.certificate_chain)], client_ca)
