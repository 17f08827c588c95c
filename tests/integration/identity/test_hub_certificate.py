import asyncio
from typing import TYPE_CHECKING

import pytest

from edgenode.link.identity.certificates import certificates_from_pem
from hub.ca.authority import Authority
from hub.ca.renewal import keep_hub_certificate

if TYPE_CHECKING:
    from tests.integration.identity.conftest import Fleet


def shown_serial(fleet: "Fleet") -> int:
    return certificates_from_pem(fleet.identity.pair.certificate_chain, "hub")[0].serial_number


async def test_the_hub_shows_its_renewed_certificate(fleet: "Fleet") -> None:
    authority = Authority.load(fleet.state_dir, fleet.clock, leaf_life=3.0)
    fleet.clock.offset = 5 * 86_400.0  # time for the certificate at hand, and its successor lives for seconds
    seen = {shown_serial(fleet)}
    task = asyncio.create_task(keep_hub_certificate(authority, fleet.identity, fleet.clock))
    try:
        async with asyncio.timeout(20):
            while len(seen) < 3:
                await asyncio.sleep(0.02)
                seen.add(shown_serial(fleet))
    finally:
        task.cancel()
        await asyncio.wait([task])
    assert Authority.load(fleet.state_dir, fleet.clock).hub_pair() == fleet.identity.pair


async def test_a_full_disk_is_survived(
    fleet: "Fleet", monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr("hub.ca.renewal._RETRY_SECONDS", 0.01)
    failures = 0

    def full(*arguments: object) -> None:
        nonlocal failures
        failures += 1
        raise OSError(28, "No space left on device")

    before = fleet.authority.hub_pair()
    fleet.clock.offset = 5 * 86_400.0
    with monkeypatch.context() as patch:
        patch.setattr("hub.ca.authority.write_private_file", full)
        task = asyncio.create_task(keep_hub_certificate(fleet.authority, fleet.identity, fleet.clock))
        async with asyncio.timeout(20):
            while failures < 2:  # noqa: ASYNC110  nothing but the file system is told
                await asyncio.sleep(0.01)
        assert fleet.identity.pair == before
    async with asyncio.timeout(20):
        while fleet.identity.pair == before:  # noqa: ASYNC110
            await asyncio.sleep(0.01)
    task.cancel()
    await asyncio.wait([task])
    assert "No space left" in caplog.text
