"""Asking a node's administration something over its link, and getting the answer.

A question lives as long as the session it was sent on. When that ends, or the node says nothing in time, whoever asks is told,
and also that what was asked for may have been done.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable

from edgenode.api.sync.v1 import sync_pb2
from edgenode.link.errors import Unavailable, from_problem
from edgenode.link.wire.values import problem_from_pb

ANSWER_SECONDS = 20.0
VERIFY_SECONDS = 300.0  # a node walks over everything it holds

Send = Callable[[str, sync_pb2.Frame], bool]


class NodeAdmin:
    """`ask` from anywhere on the loop; the links tell of answers and of sessions that ended."""

    def __init__(self, send: Send) -> None:
        self._send = send
        self._numbers = 0
        self._waiting: dict[int, tuple[str, asyncio.Future[sync_pb2.AdminExchange]]] = {}

    async def ask(
        self, node: str, question: sync_pb2.AdminExchange, seconds: float = ANSWER_SECONDS
    ) -> sync_pb2.AdminExchange:
        """The node's answer. Raises what the node refused, or Unavailable (NODE_OFFLINE, NODE_SILENT, LINK_LOST)."""
        self._numbers += 1
        number = question.exchange_id = self._numbers
        answer: asyncio.Future[sync_pb2.AdminExchange] = asyncio.get_running_loop().create_future()
        self._waiting[number] = (node, answer)
        try:
            if not self._send(node, sync_pb2.Frame(admin=question)):
                raise Unavailable(
                    "NODE_OFFLINE",
                    f"{node} has no link to this hub now: nothing was asked of it",
                    hint="try again once it is connected; `edgehub nodes` shows it",
                    node=node,
                )
            async with asyncio.timeout(seconds):
                response = await answer
        except TimeoutError:
            raise Unavailable(
                "NODE_SILENT",
                f"{node} did not answer within {seconds:g} s; what was asked for may have been done",
                hint="look before you ask again; an older version does not know the question",
                node=node,
            ) from None
        finally:
            del self._waiting[number]
        if response.HasField("problem"):
            raise from_problem(problem_from_pb(response.problem))
        return response

    def answered(self, node: str, answer: sync_pb2.AdminExchange) -> None:
        """A node answered; only the one that was asked is believed."""
        asked, future = self._waiting.get(answer.exchange_id, ("", None))
        if future is not None and asked == node and not future.done():
            future.set_result(answer)

    def lost(self, node: str) -> None:
        """The node's session ended, and with it every question to it."""
        problem = Unavailable(
            "LINK_LOST",
            f"the link to {node} ended before it answered; what was asked for may have been done",
            hint="look before you ask again",
            node=node,
        )
        for asked, future in list(self._waiting.values()):
            if asked == node and not future.done():
                future.set_exception(problem)
