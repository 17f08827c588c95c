"""Errors of the node as errors of A2A, over each binding with our reason and hint beside A2A's own."""

from __future__ import annotations

from typing import Any, NoReturn

import grpc
from a2a.server.request_handlers.grpc_handler import GrpcHandler
from a2a.utils import errors
from google.protobuf import any_pb2
from google.rpc import error_details_pb2, status_pb2
from grpc_status import rpc_status

from edgenode.link.errors import EdgenodeError
from edgenode.link.model.problem import Code
from edgenode.link.wire.status import DOMAIN

_A2A_DOMAIN = "a2a-protocol.org"
_BY_REASON: dict[str, type[errors.A2AError]] = {
    "UNKNOWN_TASK": errors.TaskNotFoundError,
    "UNSUPPORTED_MEDIA_TYPE": errors.ContentTypeNotSupportedError,
    "TASK_ENDED": errors.UnsupportedOperationError,
    "NOT_CANCELABLE": errors.TaskNotCancelableError,
}
_BY_CODE: dict[Code, type[errors.A2AError]] = {
    Code.INVALID_ARGUMENT: errors.InvalidParamsError,
    Code.NOT_FOUND: errors.InvalidParamsError,
    Code.PERMISSION_DENIED: errors.InvalidParamsError,
    Code.ALREADY_EXISTS: errors.InvalidParamsError,
    Code.OUT_OF_RANGE: errors.InvalidParamsError,
    Code.DEADLINE_EXCEEDED: errors.InvalidParamsError,
    Code.FAILED_PRECONDITION: errors.UnsupportedOperationError,
    Code.UNIMPLEMENTED: errors.UnsupportedOperationError,
}
_CODES: dict[type[errors.A2AError], grpc.StatusCode] = {
    errors.TaskNotFoundError: grpc.StatusCode.NOT_FOUND,
    errors.InvalidParamsError: grpc.StatusCode.INVALID_ARGUMENT,
    errors.InvalidRequestError: grpc.StatusCode.INVALID_ARGUMENT,
    errors.ContentTypeNotSupportedError: grpc.StatusCode.INVALID_ARGUMENT,
    errors.InternalError: grpc.StatusCode.INTERNAL,
}


def refusal(error: EdgenodeError) -> errors.A2AError:
    """The error of A2A that comes nearest; `data` has our code, reason, hint and whether trying again may help."""
    problem = error.problem
    kind = _BY_REASON.get(problem.reason) or _BY_CODE.get(problem.code, errors.InternalError)
    data = {**problem.metadata, "code": problem.code.name, "reason": problem.reason, "hint": problem.hint}
    data["retryable"] = "true" if problem.retryable else "false"
    if problem.retry_after is not None:
        data["retryAfterSeconds"] = f"{problem.retry_after:g}"
    hint = f" ({problem.hint})" if problem.hint else ""
    return kind(message=f"{problem.reason}: {problem.message}{hint}", data=data)


class Servicer(GrpcHandler):
    """The SDK's servicer, whose refusals also say what we know of them."""

    async def abort_context(self, error: errors.A2AError, context: Any) -> NoReturn:
        """Ends the rpc with A2A's ErrorInfo first and ours after it."""
        data = {key: str(value) for key, value in (error.data or {}).items() if isinstance(value, str)}
        code = _CODES.get(type(error), grpc.StatusCode.FAILED_PRECONDITION)
        if code is grpc.StatusCode.INTERNAL and data.get("code") in Code.__members__:
            code = grpc.StatusCode[data["code"]]
        status = status_pb2.Status(code=code.value[0], message=error.message)
        reason = errors.A2A_ERROR_REASONS.get(type(error), "INTERNAL_ERROR")
        for info in (
            error_details_pb2.ErrorInfo(reason=reason, domain=_A2A_DOMAIN),
            *([error_details_pb2.ErrorInfo(reason=data["reason"], domain=DOMAIN, metadata=data)] if data else ()),
        ):
            detail = any_pb2.Any()
            detail.Pack(info)
            status.details.append(detail)
        await context.abort_with_status(rpc_status.to_status(status))
        raise AssertionError("abort_with_status returned")
