"""Which nodes are asked what they have, and how long a restored hub grants nothing; `restating` says why."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable

from hub.services.alarm import Alarm
from hub.store.records import NodeRow
from hub.store.restating import forgetful_hub, waited_for

PATIENCE = 10  # times what nodes keep their tasks: so long a node that is connected may take to answer


class Recovery:
    """Which nodes are being asked, where fences begin, and whether grants wait. `on_change`: grants may go on."""

    def __init__(
        self,
        alarm: Alarm,
        absent_after: float,
        connected: Callable[[str], bool],
        given_up: Callable[[Collection[str]], None],
    ) -> None:
        """Nodes that are not `connected` are not waited for longer than `absent_after` seconds; `given_up` notes it."""
        self._given_up = given_up
        self.fence_base = 0
        self.on_change: Callable[[], None] = lambda: None
        self._alarm = alarm
        self._absent_after = absent_after
        self._connected = connected
        self._asked: dict[str, str] = {}
        self._answered: set[str] = set()  # said all; it is being taken in
        self._awaited: set[str] = set()

    def start(self, rows: Iterable[NodeRow], fence_base: int) -> None:
        """What the store says."""
        self.fence_base = fence_base
        self._asked = {row.node: row.restate_id for row in rows if row.restate_id}
        self._awaited = {node for node, restate_id in self._asked.items() if waited_for(restate_id)}
        if self._awaited:
            self._alarm.after(self._absent_after, self._give_up_absent)
            self._alarm.after(self._absent_after * PATIENCE, self._give_up_all)

    @property
    def waiting(self) -> bool:
        """Whether nothing is granted yet."""
        return bool(self._awaited)

    @property
    def complete(self) -> bool:
        """Whether every node has told a hub that has forgotten."""
        return not any(map(forgetful_hub, self._asked.values()))

    def asked(self, node: str) -> str:
        """The restate_id of what a node is asked; empty if it is not."""
        return self._asked.get(node, "")

    def hearing(self, node: str) -> str:
        """The restate_id while the node has not said all yet: what it says after that is as usual."""
        return "" if node in self._answered else self.asked(node)

    def answered(self, node: str) -> None:
        """The node has said all."""
        self._answered.add(node)

    def ask(self, node: str, restate_id: str, fence_base: int) -> None:
        """A session begins with this question."""
        self._asked[node] = restate_id
        self._answered.discard(node)
        self.begin_above(fence_base)

    def begin_above(self, fence_base: int) -> None:
        """Fences begin there now, if that is higher."""
        self.fence_base = max(self.fence_base, fence_base)

    def settled(self, node: str, fence_base: int) -> None:
        """The answer was taken in; fences begin there now."""
        self.begin_above(fence_base)
        self._asked.pop(node, None)
        self._answered.discard(node)
        self._awaited.discard(node)
        self.on_change()

    def _give_up_absent(self) -> None:
        self._give_up({node for node in self._awaited if not self._connected(node)})

    def _give_up_all(self) -> None:
        self._give_up(set(self._awaited))

    def _give_up(self, nodes: set[str]) -> None:
        if nodes:
            self._awaited -= nodes
            self._given_up(nodes)
            self.on_change()
