"""Every error that crosses a room's border.

    EdgenodeError
    +-- InvalidArgument      the request is wrong; `field` in metadata
    +-- NotFound             there is no such thing
    +-- AlreadyExists        there is, and it differs
    +-- FailedPrecondition   not in this state
    +-- PermissionDenied     known, but not allowed
    +-- Unauthenticated      not known
    +-- ResourceExhausted    too large, too many, full          (retryable unless a size limit)
    +-- Aborted              outdated by someone newer
    +-- DeadlineExceeded     too late
    +-- Cancelled            no longer wanted
    +-- Unavailable          cannot be reached now              (retryable)
    +-- Unimplemented        not served here
    +-- DataLoss             stored bytes are damaged
    +-- Internal             a defect of ours

Each carries a `Problem`: a stable reason, a message, a hint what to do, and whether trying again may help.
`wire` turns them into google.rpc.Status and back; the CLI into exit codes.
"""

from __future__ import annotations

from typing import ClassVar

from edgenode.link.model.problem import Code, Problem


class EdgenodeError(Exception):
    """Base of all errors here. Raise a subclass; catch by class or by `problem.reason`."""

    code: ClassVar[Code] = Code.UNKNOWN
    retryable: ClassVar[bool] = False

    def __init__(
        self,
        reason: str,
        message: str,
        *,
        hint: str = "",
        retryable: bool | None = None,
        retry_after: float | None = None,
        **metadata: object,
    ) -> None:
        super().__init__(message)
        self.problem = Problem(
            code=self.code,
            reason=reason,
            message=message,
            hint=hint,
            retryable=self.retryable if retryable is None else retryable,
            retry_after=retry_after,
            metadata={key: str(value) for key, value in metadata.items()},
        )

    @property
    def reason(self) -> str:
        """The stable cause, e.g. `UNKNOWN_SKILL`."""
        return self.problem.reason

    def __str__(self) -> str:
        return str(self.problem)


class InvalidArgument(EdgenodeError):
    """The request is wrong; sending it again will not help."""

    code = Code.INVALID_ARGUMENT


class NotFound(EdgenodeError):
    """There is no such agent, skill, task, node."""

    code = Code.NOT_FOUND


class AlreadyExists(EdgenodeError):
    """There is one already, and it differs from what was asked for."""

    code = Code.ALREADY_EXISTS


class FailedPrecondition(EdgenodeError):
    """The thing is not in a state that allows this."""

    code = Code.FAILED_PRECONDITION


class PermissionDenied(EdgenodeError):
    """The caller is known and may not do this."""

    code = Code.PERMISSION_DENIED


class Unauthenticated(EdgenodeError):
    """The caller did not prove who it is."""

    code = Code.UNAUTHENTICATED


class ResourceExhausted(EdgenodeError):
    """A bound was reached: too large (not retryable), too many or full (retryable)."""

    code = Code.RESOURCE_EXHAUSTED
    retryable = True


class Aborted(EdgenodeError):
    """Someone newer holds the name, the fence or the session."""

    code = Code.ABORTED


class DeadlineExceeded(EdgenodeError):
    """The deadline passed first."""

    code = Code.DEADLINE_EXCEEDED


class Cancelled(EdgenodeError):
    """Nobody wants it any more."""

    code = Code.CANCELLED


class Unavailable(EdgenodeError):
    """Nobody is there to do it now; it may work later."""

    code = Code.UNAVAILABLE
    retryable = True


class Unimplemented(EdgenodeError):
    """This kind of node does not serve it."""

    code = Code.UNIMPLEMENTED


class DataLoss(EdgenodeError):
    """Stored bytes are damaged or from the future."""

    code = Code.DATA_LOSS


class Internal(EdgenodeError):
    """A defect of edgenode."""

    code = Code.INTERNAL


def _subclasses(cls: type[EdgenodeError]) -> list[type[EdgenodeError]]:
    return [cls, *(deep for sub in cls.__subclasses__() for deep in _subclasses(sub))]


_BY_CODE = {cls.code: cls for cls in reversed(_subclasses(EdgenodeError))}


def from_problem(problem: Problem) -> EdgenodeError:
    """The error that carries `problem`, of the class its code asks for."""
    cls = _BY_CODE.get(problem.code, EdgenodeError)
    error = cls.__new__(cls)
    Exception.__init__(error, problem.message)
    error.problem = problem
    return error
