"""What this process trusts over TLS."""

from __future__ import annotations

import functools
import ssl

import httpx2


@functools.cache
def tls() -> ssl.SSLContext:
    """One for all connections: reading the authorities takes longer than most requests."""
    return httpx2.create_ssl_context()
