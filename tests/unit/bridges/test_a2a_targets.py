"""Where web hooks may point."""

from __future__ import annotations

import ipaddress

import pytest

from edgenode.bridges.a2a.targets import Targets
from edgenode.bridges.places import is_public
from edgenode.link.errors import EdgenodeError


@pytest.mark.parametrize(
    "address",
    [
        "127.0.0.1", "10.0.0.1", "172.16.0.1", "192.168.1.1", "169.254.169.254", "100.64.0.1", "0.0.0.0", "224.0.0.1",
        "255.255.255.255", "::1", "::", "fe80::1", "fc00::1", "fec0::1", "ff02::1", "::ffff:127.0.0.1",
        "::ffff:169.254.169.254", "2002:7f00:1::", "64:ff9b::7f00:1", "2001:0:53aa:64c:0:0:80ff:fffe",
    ],
)  # fmt: skip
def test_not_public(address: str) -> None:
    assert not is_public(ipaddress.ip_address(address))


@pytest.mark.parametrize("address", ["93.184.216.34", "2606:2800:220:1::1", "::ffff:93.184.216.34"])
def test_public(address: str) -> None:
    assert is_public(ipaddress.ip_address(address))


def targets(*found: str, allowed: str = "") -> Targets:
    async def resolve(_host: str, _port: int) -> list[str]:
        return list(found)

    return Targets([ipaddress.ip_network(allowed)] if allowed else [], resolve)


@pytest.mark.parametrize(
    ("url", "found", "reason"),
    [
        ("https://host/x", ["127.0.0.1"], "TARGET_REFUSED"),
        ("https://host/x", ["93.184.216.34", "10.0.0.1"], "TARGET_REFUSED"),
        ("http://host/x", ["93.184.216.34"], "TARGET_REFUSED"),
        ("https://host/x", [], "HOST_UNKNOWN"),
        ("ftp://host/x", ["93.184.216.34"], "BAD_URL"),
        ("https://user:word@host/x", ["93.184.216.34"], "BAD_URL"),
        ("https:///x", ["93.184.216.34"], "BAD_URL"),
        ("https://host\\@127.0.0.1/", ["93.184.216.34"], "BAD_URL"),
        ("https://host/" + "x" * 4000, ["93.184.216.34"], "BAD_URL"),
    ],
)
async def test_refused(url: str, found: list[str], reason: str) -> None:
    looking = targets(*found)
    with pytest.raises(EdgenodeError) as refused:
        await looking.look(url)
    assert refused.value.reason == reason
    await looking.aclose()


async def test_allowed_networks_are_exempt() -> None:
    looking = targets("127.0.0.1", allowed="127.0.0.0/8")
    assert str((await looking.look("http://host:8080/x")).addresses[0]) == "127.0.0.1"
    await looking.aclose()
