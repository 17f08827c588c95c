"""The two sides of a link held against each other."""

from __future__ import annotations

import pytest

from hub.services.comparison import Sent, Taken, compare


def sent(acked: int, *, start: int = 0, rejected: int = 0) -> Sent:
    return Sent("message.uplink", "now", {"before": 50}, start, acked, rejected)


def found(side: Sent, *cursors: Taken, counts: bool = True) -> list[tuple[str, int, int]]:
    return [(item.reason, item.first, item.last) for item in compare("north", side, cursors, counts=counts)]


@pytest.mark.parametrize(
    ("side", "cursors"),
    [
        (sent(0), []),  # nothing was sent yet
        (sent(7, start=7), []),  # only what was there before the link
        (sent(80), [Taken("now", 80, 80)]),
        (sent(70), [Taken("now", 80, 80)]),  # the acknowledgement is on its way
        (sent(50), [Taken("before", 50, 50)]),  # nothing was appended since the restart
        (sent(80), [Taken("before", 50, 50), Taken("now", 80, 30)]),
        (sent(80, rejected=2), [Taken("before", 50, 49, 1), Taken("now", 80, 29, 1)]),
        (sent(60), [Taken("another disk's", 90, 90)]),  # nothing can be said
        (sent(50), [Taken("before", 70, 70)]),  # this disk was set back: what it knows arrived
    ],
)
def test_what_fits(side: Sent, cursors: list[Taken]) -> None:
    assert found(side, *cursors) == []


@pytest.mark.parametrize(
    ("side", "cursors", "wrong"),
    [
        (sent(5), [], ("NOT_ARRIVED", 1, 5)),
        (sent(80), [Taken("now", 72, 72)], ("NOT_ARRIVED", 73, 80)),
        (sent(60), [Taken("before", 70, 70)], ("NOT_ARRIVED", 51, 60)),  # the other disk's 51 to 70 are not these
        (sent(80), [Taken("before", 50, 50), Taken("now", 80, 28)], ("COUNTS_DIFFER", 79, 80)),
        (sent(80), [Taken("now", 80, 79, 1)], ("COUNTS_DIFFER", 0, 80)),  # a rejection that nobody heard of
    ],
)
def test_what_does_not_fit_is_named(side: Sent, cursors: list[Taken], wrong: tuple[str, int, int]) -> None:
    assert found(side, *cursors) == [wrong]


def test_counts_are_left_alone_where_not_all_cursors_are_known() -> None:
    assert found(sent(80), Taken("now", 80), counts=False) == []
