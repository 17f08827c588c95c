"""What the oracle remembers and how it judges, without a system."""

from __future__ import annotations

from pathlib import Path

import pytest

from scripts.receipts import names
from scripts.receipts.check import HubLog
from scripts.receipts.journal import Journal, load
from scripts.receipts.names import Stream
from scripts.receipts.verdict import Verdict

STREAM = Stream(1, "north", "k0")


def test_a_payload_names_itself_and_any_other_byte_is_noticed() -> None:
    for size in (0, 1, 256, 5000):
        payload = names.message("r1", STREAM, 7, size)
        assert len(payload) >= size
        assert names.read_message(payload) == ("r1", STREAM, 7)
        for place in (0, len(payload) // 2, len(payload) - 1):
            damaged = bytearray(payload)
            damaged[place] ^= 1
            assert names.read_message(bytes(damaged)) is None
    assert names.read_message(b"somebody else's") is None


def test_a_journal_survives_a_kill_and_never_gives_a_number_twice(tmp_path: Path) -> None:
    path = tmp_path / "journal"
    with Journal(path) as journal:
        run, first = journal.run, journal.leg
        journal.note("message", *STREAM, 1, "DURABLE_LOCAL")
        journal.note("task", "T1", "north", "w1", "DURABLE_LOCAL", True)
        journal.note("ran", "w1")
        journal.note("end", "T1", "COMPLETED")
    with path.open("ab") as file:
        file.write(b'["message",1,"north","k0",2,"DURA')  # killed in the middle of a line
    with Journal(path) as journal:
        assert (journal.run, journal.leg) == (run, first + 1)
        journal.note("message", journal.leg, "north", "k0", 1, "DURABLE_HUB")
    receipts = load(path)
    assert receipts.messages == {STREAM: {1: "DURABLE_LOCAL"}, Stream(2, "north", "k0"): {1: "DURABLE_HUB"}}
    assert receipts.tasks["T1"].once
    assert receipts.ends["T1"] == ["COMPLETED"]
    assert receipts.runs["w1"] == 1


@pytest.mark.parametrize(
    ("there", "lost", "twice", "wrong"),
    [
        ([1, 2, 3], 0, 0, 0),
        ([1, 2, 3, 4], 0, 0, 0),  # 4 has no receipt: it may be there
        ([1, 3], 1, 0, 0),
        ([1, 2, 3, 2], 0, 1, 0),
        ([1, 3, 2], 0, 0, 1),
        ([], 3, 0, 0),
    ],
)
def test_what_is_lost_twice_or_out_of_order_is_told_apart(
    tmp_path: Path, there: list[int], lost: int, twice: int, wrong: int
) -> None:
    with Journal(tmp_path / "journal") as journal:
        for number in (1, 2, 3):
            journal.note("message", *STREAM, number, "DURABLE_LOCAL")
        log = HubLog(journal.receipts)
        for place, number in enumerate(there, 1):
            log.take(names.message(journal.run, STREAM, number, 100), place)
    verdict = Verdict()
    log.judge(verdict)
    (row,) = verdict.rows
    assert (row.lost, row.twice, row.wrong) == (lost, twice, wrong)
    assert verdict.passed is not bool(lost or twice or wrong)
    assert ("every receipt is true" in verdict.text().splitlines()) is verdict.passed


def test_a_damaged_payload_at_the_hub_is_wrong(tmp_path: Path) -> None:
    with Journal(tmp_path / "journal") as journal:
        log = HubLog(journal.receipts)
        log.take(names.message(journal.run, STREAM, 1, 100)[:-1] + b"x", 1)
    verdict = Verdict()
    log.judge(verdict)
    assert verdict.rows[0].wrong == 1
    assert not verdict.passed
