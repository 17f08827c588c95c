"""What is prompt overtakes the others, and they still get there."""

from edgenode.link.protocol.overtaking import Overtaking


def drained(queue: Overtaking[str]) -> str:
    taken = ""
    while (item := queue.pop()) is not None:
        taken += item
    return taken


def filled(names: str) -> Overtaking[str]:
    """Those in capitals are prompt."""
    queue: Overtaking[str] = Overtaking()
    for name in names:
        (queue.prompt if name.isupper() else queue.others).append(name)
    return queue


def test_prompt_ones_go_first_but_never_twice_in_a_row_while_others_wait() -> None:
    assert drained(filled("abcX")) == "Xabc"
    assert drained(filled("abXYZ")) == "XaYbZ"
    assert drained(filled("XY")) == "XY"
    assert drained(filled("")) == ""


def test_others_that_may_not_go_yet_are_passed() -> None:
    queue = filled("aXY")
    assert [queue.pop(others=False) for _ in range(3)] == ["X", "Y", None]
    assert len(queue) == 1
    assert queue.pop() == "a"
    queue.prompt.append("Z")
    queue.clear()
    assert not queue
