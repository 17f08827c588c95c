"""When a certificate is to be renewed. Standard library only; times are wall clock, seconds."""

from __future__ import annotations

from edgenode.link.ports import Rng

# Certificates begin this long before they are made, so that a clock which runs behind accepts them.
CLOCK_SKEW = 300.0

RENEW_SHARE = 0.6
RENEW_SPREAD = 0.1


def renewal_time(not_before: float, expire_time: float, rng: Rng) -> float:
    """When to renew: at 60 % +-10 % of the life, so that a fleet that joined together does not renew together."""
    begin = min(not_before + CLOCK_SKEW, expire_time)
    share = RENEW_SHARE + RENEW_SPREAD * (2 * rng.random() - 1)
    return begin + (expire_time - begin) * share
