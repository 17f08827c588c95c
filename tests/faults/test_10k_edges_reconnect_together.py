"""10 k edges reconnect together: they are let in at a limited rate, and those who are connected stay live.

Here a hundred of them, real ones over TLS; `scripts/crowd` has 500. How 10,000 come in is a matter of the gate alone, see
tests/unit/protocol/test_admission.py.
"""

from __future__ import annotations

import pytest

from tests.faults.fleet import Rig
from tests.faults.reconnect import CONNECTED, LEASES, Crowd

pytestmark = pytest.mark.timeout(180)

COUNT, RATE = 90, 15
# A second's worth comes in at once, a second's worth in the first second.
AT_ONCE = 2 * RATE + 1
LEAST_SECONDS = (COUNT - AT_ONCE) / RATE - 1


async def test_10_k_edges_reconnect_together(rig: Rig) -> None:
    rig.environment |= {**LEASES, "EDGEHUB_ADMISSIONS_PER_SECOND": str(RATE)}
    crowd = Crowd(rig, COUNT)
    await rig.make_hub()
    await crowd.prepare()
    await rig.start_hub()
    await rig.join(CONNECTED)
    await rig.start_edge(CONNECTED)
    storm = await crowd.come(within=120)
    assert len(storm.entries) == COUNT
    assert storm.delayed >= COUNT - AT_ONCE
    assert storm.spread(0) >= LEAST_SECONDS
    assert storm.sessions == 1
    assert storm.latencies

    # The same with the gate open: nobody is held up, and the test would notice.
    await crowd.leave()
    await rig.kill("hub")
    await rig.start_hub(mutant="let-everybody-in")
    storm = await crowd.come(within=120)
    assert storm.delayed == 0
