"""Errors <-> google.rpc.Status.

A refusal travels as a Status with ErrorInfo (reason, domain, metadata with `hint` and `retryable`) and, where there is a
time to wait, RetryInfo. A status without ErrorInfo was not written by edgenode: by grpc itself (nobody reached, deadline
over) or by a foreign server; it becomes an error with a reason of its own, so that callers always have one to match on.
"""

from __future__ import annotations

import asyncio
import logging
from typing import Any, NoReturn

import grpc
from google.protobuf.message import DecodeError
from google.rpc import code_pb2, error_details_pb2, status_pb2
from grpc_status import rpc_status

from edgenode.link.errors import EdgenodeError, Internal, from_problem
from edgenode.link.model.problem import Code, Problem
from edgenode.link.wire.values import code_from_number, duration_to_pb, lenient_duration

DOMAIN = "edgenode"
Context = grpc.aio.ServicerContext[Any, Any]

# A status travels as trailing metadata, and peers drop those beyond 8 KiB together with the reason: clip what is for people.
_MAX_MESSAGE = 1024
_MAX_HINT = 512
_MAX_METADATA_COUNT = 16
_MAX_METADATA_VALUE = 128
_RESERVED = frozenset({"hint", "retryable"})  # what the status says under these names is the problem's own

_log = logging.getLogger(__name__)

_BARE_REASONS = {
    Code.CANCELLED: ("CANCELLED", ""),
    Code.DEADLINE_EXCEEDED: ("RPC_DEADLINE", "the other side did not answer in time"),
    Code.UNIMPLEMENTED: ("NOT_SERVED", "the other side does not serve this; compare the versions"),
    Code.RESOURCE_EXHAUSTED: ("RPC_LIMIT", "the message or its metadata is larger than the other side takes"),
    Code.UNAVAILABLE: ("UNREACHABLE", "check the address and that the other side is running"),
}


def problem_to_status(problem: Problem) -> status_pb2.Status:
    """The Status that carries `problem`; texts for people are clipped so that it always fits."""
    told = [(key, value) for key, value in problem.metadata.items() if key not in _RESERVED]
    facts = {key: _clip(value, _MAX_METADATA_VALUE) for key, value in told[:_MAX_METADATA_COUNT]}
    if problem.hint:
        facts["hint"] = _clip(problem.hint, _MAX_HINT)
    if problem.retryable:
        facts["retryable"] = "true"
    status = status_pb2.Status(code=int(problem.code), message=_clip(problem.message, _MAX_MESSAGE))
    status.details.add().Pack(error_details_pb2.ErrorInfo(reason=problem.reason, domain=DOMAIN, metadata=facts))
    if problem.retryable and problem.retry_after is not None:
        status.details.add().Pack(error_details_pb2.RetryInfo(retry_delay=duration_to_pb(problem.retry_after)))
    return status


def problem_from_status(status: status_pb2.Status) -> Problem:
    """The Problem in `status`; one with a general reason where it carries none of ours."""
    code = code_from_number(status.code)
    info: error_details_pb2.ErrorInfo | None = None
    retry_after: float | None = None
    for detail in status.details:
        if detail.Is(error_details_pb2.ErrorInfo.DESCRIPTOR):
            info = error_details_pb2.ErrorInfo()
            detail.Unpack(info)
        elif detail.Is(error_details_pb2.RetryInfo.DESCRIPTOR):
            retry = error_details_pb2.RetryInfo()
            detail.Unpack(retry)
            retry_after = lenient_duration(retry.retry_delay)
    if info is None:
        return _bare_problem(code, status.message)
    facts = dict(info.metadata)
    hint = facts.pop("hint", "")
    retryable = facts.pop("retryable", "") == "true" or retry_after is not None
    return Problem(code, info.reason, status.message, hint, retryable, retry_after, facts)


def from_rpc_error(error: grpc.aio.AioRpcError) -> EdgenodeError:
    """The error a server raised, or one that says what became of the call. Raise it `from error`."""
    try:
        status = rpc_status.from_call(error)
        if status is not None:
            return from_problem(problem_from_status(status))
    except (ValueError, DecodeError):
        _log.debug("status details contradict the status or cannot be read; using the bare status")
    return from_problem(_bare_problem(code_from_number(error.code().value[0]), error.details() or ""))


async def abort(context: Context, error: EdgenodeError) -> NoReturn:
    """Ends the rpc with `error`. Raises grpc's AbortError, which must pass."""
    await context.abort_with_status(rpc_status.to_status(problem_to_status(error.problem)))
    raise AssertionError("abort_with_status returned")


async def abort_for(context: Context, error: Exception, method: str) -> NoReturn:
    """Ends the rpc for any exception of a servicer: a refusal as it is, anything else logged and told as INTERNAL_ERROR.

    When the caller is gone already nobody can be told: raises CancelledError.
    """
    if isinstance(error, grpc.aio.AbortError):
        raise error
    if context.done() or context.cancelled():
        if not isinstance(error, EdgenodeError):
            _log.debug("%s failed after its caller had gone: %r", method, error)
        raise asyncio.CancelledError from error
    if not isinstance(error, EdgenodeError):
        _log.error("%s failed", method, exc_info=error)
        error = Internal(
            "INTERNAL_ERROR",
            f"{method} failed inside the server",
            hint="the server's log has the details",
            method=method,
        )
    await abort(context, error)


def _bare_problem(code: Code, details: str) -> Problem:
    name = code_pb2.Code.Name(int(code))
    reason, hint = _BARE_REASONS.get(code, (name, ""))
    return Problem(code, reason, details or name, hint, retryable=code is Code.UNAVAILABLE)


def _clip(text: str, limit: int) -> str:
    return text if len(text) <= limit else text[: limit - 3] + "..."
