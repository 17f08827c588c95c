import grpc
import pytest
from google.rpc import error_details_pb2, status_pb2
from grpc_status import rpc_status
from hypothesis import given

from edgenode.link import errors
from edgenode.link.model.problem import Code, Problem
from edgenode.link.wire.status import from_rpc_error, problem_from_status, problem_to_status
from tests.unit.wire.test_values import problems


def rpc_error(code: grpc.StatusCode, details: str = "", status: bytes | None = None) -> grpc.aio.AioRpcError:
    trailing = grpc.aio.Metadata() if status is None else grpc.aio.Metadata(("grpc-status-details-bin", status))
    return grpc.aio.AioRpcError(code, grpc.aio.Metadata(), trailing, details)


@given(problems)
def test_a_problem_survives_the_status(problem: Problem) -> None:
    back = problem_from_status(problem_to_status(problem))
    assert (back.code, back.reason, back.message, back.hint) == (
        problem.code,
        problem.reason,
        problem.message,
        problem.hint,
    )
    assert back.retryable is problem.retryable
    assert back.retry_after == (problem.retry_after if problem.retryable else None)
    assert back.metadata == {key: value for key, value in problem.metadata.items() if key not in ("hint", "retryable")}


def test_metadata_cannot_pose_as_the_problems_own_facts() -> None:
    posing = Problem(Code.INTERNAL, "BUG", "no", metadata={"retryable": "true", "hint": "again!", "skill": "ocr"})
    back = problem_from_status(problem_to_status(posing))
    assert (back.retryable, back.hint, back.metadata) == (False, "", {"skill": "ocr"})


def test_details_are_those_of_the_contract() -> None:
    problem = errors.Unavailable("NO_AGENT", "none", hint="start one", retry_after=2.5, skill="ocr").problem
    status = problem_to_status(problem)
    info, retry = error_details_pb2.ErrorInfo(), error_details_pb2.RetryInfo()
    assert status.details[0].Unpack(info)
    assert status.details[1].Unpack(retry)
    assert (info.reason, info.domain) == ("NO_AGENT", "edgenode")
    assert info.metadata == {"skill": "ocr", "hint": "start one", "retryable": "true"}
    assert retry.retry_delay.ToMilliseconds() == 2500


def test_a_huge_problem_still_fits_into_trailing_metadata() -> None:
    facts = {f"k{n}": "ü" * 5000 for n in range(100)}
    problem = Problem(Code.INTERNAL, "HUGE", "ü" * 9000, "ü" * 9000, metadata=facts)
    assert len(problem_to_status(problem).SerializeToString()) < 8 * 1024


@pytest.mark.parametrize("cls", [errors.NotFound, errors.ResourceExhausted, errors.Aborted, errors.DataLoss])
def test_an_error_comes_back_as_its_class(cls: type[errors.EdgenodeError]) -> None:
    status = rpc_status.to_status(problem_to_status(cls("SOME_REASON", "text", hint="hint").problem))
    error = from_rpc_error(rpc_error(status.code, status.details, status.trailing_metadata[0][1]))
    assert type(error) is cls
    assert (error.reason, error.problem.hint) == ("SOME_REASON", "hint")


@pytest.mark.parametrize(
    ("code", "cls", "reason", "retryable"),
    [
        (grpc.StatusCode.UNAVAILABLE, errors.Unavailable, "UNREACHABLE", True),
        (grpc.StatusCode.DEADLINE_EXCEEDED, errors.DeadlineExceeded, "RPC_DEADLINE", False),
        (grpc.StatusCode.CANCELLED, errors.Cancelled, "CANCELLED", False),
        (grpc.StatusCode.UNIMPLEMENTED, errors.Unimplemented, "NOT_SERVED", False),
        (grpc.StatusCode.PERMISSION_DENIED, errors.PermissionDenied, "PERMISSION_DENIED", False),
        (grpc.StatusCode.UNKNOWN, errors.EdgenodeError, "UNKNOWN", False),
    ],
)
def test_a_bare_status_gets_a_reason(
    code: grpc.StatusCode, cls: type[errors.EdgenodeError], reason: str, retryable: bool
) -> None:
    error = from_rpc_error(rpc_error(code, "words"))
    assert type(error) is cls
    assert (error.reason, error.problem.message, error.problem.retryable) == (reason, "words", retryable)


@pytest.mark.parametrize(
    "details", [b"\xff\xff\xff", status_pb2.Status(code=5, message="other").SerializeToString(), b""]
)
def test_unreadable_or_contradicting_details_fall_back_to_the_bare_status(details: bytes) -> None:
    error = from_rpc_error(rpc_error(grpc.StatusCode.UNAVAILABLE, "words", details))
    assert error.reason == "UNREACHABLE"
