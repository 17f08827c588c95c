from __future__ import annotations

import pytest

from edgenode.link.store.seals import TASK_DAMAGED, TaskDamaged, is_whole, seal, unseal


@pytest.mark.parametrize("content", [b"", b"x", bytes(range(256)) * 40])
def test_what_was_sealed_is_read(content: bytes) -> None:
    assert unseal("t", "spec", bytes(seal("t", "spec", content))) == content


def test_every_flipped_bit_is_found() -> None:
    stored = seal("t", "spec", b"some content")
    for bit in range(8 * len(stored)):
        flipped = bytearray(stored)
        flipped[bit // 8] ^= 1 << bit % 8
        assert not is_whole("t", "spec", bytes(flipped))


@pytest.mark.parametrize("stored", [bytes(seal("t", "spec", b"cut"))[:3], bytes(seal("u", "spec", b"of another task"))])
def test_what_is_cut_or_belongs_elsewhere_is_refused_with_reason_and_hint(stored: bytes) -> None:
    with pytest.raises(TaskDamaged) as refused:
        unseal("t", "spec", stored)
    assert refused.value.reason == TASK_DAMAGED
    assert refused.value.problem.hint
    with pytest.raises(TaskDamaged):
        unseal("t", "output", bytes(seal("t", "spec", b"of another column")))
