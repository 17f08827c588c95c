"""Leases, compared with the obvious slow table."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule

from edgenode.link.protocol.lease import LeaseTable

KEYS = st.sampled_from("abcdef")


def test_keys_run_out_oldest_first() -> None:
    table: LeaseTable[str] = LeaseTable()
    table.renew("b", 2.0, 0.0)
    table.renew("a", 1.0, 0.0)
    table.renew("c", 9.0, 0.0)
    assert table.next_deadline() == 1.0
    assert table.expire(0.9) == []
    assert table.expire(2.0) == ["a", "b"]
    assert ("a" in table, "c" in table, len(table)) == (False, True, 1)


def test_many_renewals_leave_one_item_per_key() -> None:
    table: LeaseTable[int] = LeaseTable()
    for now in range(1000):
        for key in range(10):
            table.renew(key, 5.0, float(now))
        assert table.expire(float(now)) == []
    assert len(table._heap) <= 20


@given(st.lists(st.tuples(KEYS, st.integers(1, 9)), min_size=1))
def test_the_last_renewal_counts_even_if_it_shortens(renewals: list[tuple[str, int]]) -> None:
    table: LeaseTable[str] = LeaseTable()
    for key, duration in renewals:
        table.renew(key, duration, 0.0)
    assert {key: table.expiry(key) for key, _ in renewals} == {key: float(duration) for key, duration in renewals}


class Leases(RuleBasedStateMachine):
    def __init__(self) -> None:
        super().__init__()
        self.table: LeaseTable[str] = LeaseTable()
        self.slow: dict[str, float] = {}
        self.now = 0.0

    @rule(key=KEYS, duration=st.integers(1, 9))
    def renew(self, key: str, duration: int) -> None:
        self.table.renew(key, duration, self.now)
        self.slow[key] = self.now + duration

    @rule(key=KEYS)
    def drop(self, key: str) -> None:
        assert self.table.drop(key) is (self.slow.pop(key, None) is not None)

    @rule(step=st.integers(0, 4))
    def let_time_pass(self, step: int) -> None:
        self.now += step
        expired = self.table.expire(self.now)
        assert sorted(expired) == sorted(key for key, expiry in self.slow.items() if expiry <= self.now)
        assert [self.slow[key] for key in expired] == sorted(self.slow[key] for key in expired)
        for key in expired:
            del self.slow[key]

    @invariant()
    def same(self) -> None:
        assert self.table.next_deadline() == min(self.slow.values(), default=None)
        assert len(self.table) == len(self.slow)


TestLeases = Leases.TestCase
