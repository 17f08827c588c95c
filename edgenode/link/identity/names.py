"""Names of the members of a fleet, as certificates carry them (SPIFFE ids).

    spiffe://<trust domain>/hub/<hub>
    spiffe://<trust domain>/edge/<node>
    spiffe://<trust domain>/edge/<node>/agent/<agent>

Every character that could make two readers see two names (upper case, `..`, `//`, `%`, a port, a query, a fragment, user
info, an empty segment) lies outside the one pattern below, so nothing is ever normalised: a URI is one of these or refused.
This module needs the standard library only; reading a name out of a certificate is the work of `peers` and `certificates`.
"""

from __future__ import annotations

import enum
import re
from dataclasses import dataclass

from edgenode.link.errors import InvalidArgument
from edgenode.link.model.names import check_name

MAX_TRUST_DOMAIN_LENGTH = 200

_LABEL = r"[a-z0-9](?:[a-z0-9-]{0,61}[a-z0-9])?"
_DOMAIN = rf"{_LABEL}(?:\.{_LABEL})*"
_TRUST_DOMAIN = re.compile(_DOMAIN)
_SPIFFE = re.compile(
    rf"spiffe://(?P<domain>{_DOMAIN})/(?:hub/(?P<hub>{_LABEL})|edge/(?P<edge>{_LABEL})(?:/agent/(?P<agent>{_LABEL}))?)"
)


class Kind(enum.StrEnum):
    """What a member is."""

    HUB = "hub"
    EDGE = "edge"
    AGENT = "agent"


@dataclass(frozen=True, slots=True)
class SpiffeName:
    """A member's name. `node` is the hub's or edge's id; `agent` is empty unless `kind` is AGENT."""

    trust_domain: str
    kind: Kind
    node: str
    agent: str = ""

    @property
    def uri(self) -> str:
        """The SPIFFE id."""
        match self.kind:
            case Kind.AGENT:
                return f"spiffe://{self.trust_domain}/edge/{self.node}/agent/{self.agent}"
            case _:
                return f"spiffe://{self.trust_domain}/{self.kind}/{self.node}"

    def __str__(self) -> str:
        return self.uri


def check_trust_domain(value: str, field: str = "trust_domain") -> str:
    """A trust domain, a lower-case DNS name; returns it. Raises InvalidArgument (BAD_DOMAIN) naming `field`."""
    if len(value) > MAX_TRUST_DOMAIN_LENGTH or _TRUST_DOMAIN.fullmatch(value) is None:
        raise InvalidArgument(
            "BAD_DOMAIN",
            f"{field} is {value[:80]!r}",
            hint="expected a DNS name in lower case, at most 200 characters, e.g. fleet.example",
            field=field,
        )
    return value


def hub_name(trust_domain: str, hub: str) -> SpiffeName:
    """The name of a hub. Raises InvalidArgument (BAD_DOMAIN, BAD_NAME)."""
    return SpiffeName(check_trust_domain(trust_domain), Kind.HUB, check_name(hub, "hub"))


def edge_name(trust_domain: str, node: str) -> SpiffeName:
    """The name of an edge. Raises InvalidArgument (BAD_DOMAIN, BAD_NAME)."""
    return SpiffeName(check_trust_domain(trust_domain), Kind.EDGE, check_name(node, "node"))


def agent_name(trust_domain: str, node: str, agent: str) -> SpiffeName:
    """The name of an agent on an edge. Raises InvalidArgument (BAD_DOMAIN, BAD_NAME)."""
    domain = check_trust_domain(trust_domain)
    return SpiffeName(domain, Kind.AGENT, check_name(node, "node"), check_name(agent, "agent"))


def hub_host(trust_domain: str) -> str:
    """The DNS name in every hub's certificate; edges check it whatever address they dial."""
    return f"hub.{trust_domain}"


def parse_spiffe(uri: str) -> SpiffeName:
    """The name a SPIFFE id stands for. Raises InvalidArgument (BAD_SPIFFE_ID)."""
    match = _SPIFFE.fullmatch(uri)
    if match is None or len(match["domain"]) > MAX_TRUST_DOMAIN_LENGTH:
        raise InvalidArgument(
            "BAD_SPIFFE_ID",
            f"not a member's name: {uri[:120]!r}",
            hint="expected spiffe://DOMAIN/hub/NAME, /edge/NAME or /edge/NAME/agent/NAME in lower case",
        )
    if match["hub"]:
        return SpiffeName(match["domain"], Kind.HUB, match["hub"])
    if match["agent"]:
        return SpiffeName(match["domain"], Kind.AGENT, match["edge"], match["agent"])
    return SpiffeName(match["domain"], Kind.EDGE, match["edge"])
