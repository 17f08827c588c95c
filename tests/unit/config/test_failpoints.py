"""Failpoints: armed by name, reached in vain while unarmed."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator

import pytest

from edgenode.link import failpoints
from edgenode.link.errors import InvalidArgument
from edgenode.link.failpoints import Failpoint, arm, reach, watching


@pytest.fixture(autouse=True)
def disarm() -> Iterator[None]:
    yield
    arm("")


def test_unarmed_points_do_nothing() -> None:
    arm("")
    for point in Failpoint:
        reach(point)
        assert not watching(point)


def test_the_nth_time_kills() -> None:
    program = (
        "from edgenode.link.failpoints import *\n"
        "arm('ack-sent:2')\n"
        "reach(Failpoint.ACK_DUE); reach(Failpoint.ACK_SENT); print('once', flush=True)\n"
        "reach(Failpoint.ACK_SENT); print('twice', flush=True)\n"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=30, check=False)
    assert (done.returncode, done.stdout, done.stderr) == (-9, "once\n", "failpoint ack-sent reached\n")


@pytest.mark.parametrize("text", ["nowhere", "ack-sent:soon", ":1"])
def test_a_misspelt_point_is_refused(text: str) -> None:
    with pytest.raises(InvalidArgument) as caught:
        arm(text)
    assert caught.value.reason == "BAD_FAILPOINT"
    assert failpoints.VARIABLE in str(caught.value)
