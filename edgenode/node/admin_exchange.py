"""What the hub asks of the node's administration over the link: a few of AdminService's methods, answered as there."""

from __future__ import annotations

import logging
from collections.abc import Awaitable, Callable
from typing import Any

from edgenode.api.sync.v1 import sync_pb2
from edgenode.link.errors import EdgenodeError, Internal, Unimplemented
from edgenode.link.wire.values import problem_to_pb
from edgenode.node.admin import AdminService

Answer = Callable[[sync_pb2.AdminExchange], Awaitable[sync_pb2.AdminExchange]]

_log = logging.getLogger(__name__)


async def not_served(exchange: sync_pb2.AdminExchange) -> sync_pb2.AdminExchange:
    """The answer while the node has no administration yet."""
    problem = Unimplemented("NOT_SERVED", "this node takes no administration over the link").problem
    return sync_pb2.AdminExchange(exchange_id=exchange.exchange_id, problem=problem_to_pb(problem))


def answers(admin: AdminService) -> Answer:
    """Answers the hub's questions with `admin`; what that refuses is the answer, too."""
    methods: dict[str, tuple[Callable[[Any, None], Awaitable[Any]], str]] = {
        "verify_ledger": (admin.VerifyLedger, "ledger_verified"),
        "list_dead_letters": (admin.ListDeadLetters, "dead_letters_listed"),
        "get_dead_letter": (admin.GetDeadLetter, "dead_letter"),
        "replay_dead_letters": (admin.ReplayDeadLetters, "dead_letters_replayed"),
        "drop_dead_letters": (admin.DropDeadLetters, "dead_letters_dropped"),
    }

    async def answer(exchange: sync_pb2.AdminExchange) -> sync_pb2.AdminExchange:
        question = exchange.WhichOneof("request") or ""
        if question not in methods:
            return await not_served(exchange)
        method, field = methods[question]
        response = sync_pb2.AdminExchange(exchange_id=exchange.exchange_id)
        try:
            getattr(response, field).CopyFrom(await method(getattr(exchange, question), None))
        except EdgenodeError as error:
            response.problem.CopyFrom(problem_to_pb(error.problem))
        except Exception as error:
            _log.exception("%s, asked by the hub, failed", question)
            defect = Internal("INTERNAL", f"{question} failed: {error!r}", hint="the node's log has the details")
            response.problem.CopyFrom(problem_to_pb(defect.problem))
        return response

    return answer
