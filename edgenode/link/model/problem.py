"""Why something was refused or failed, as a value."""

from __future__ import annotations

import enum
from collections.abc import Mapping
from dataclasses import dataclass, field


class Code(enum.IntEnum):
    """The status codes of gRPC, by their numbers, so that nothing below `wire` needs grpc."""

    CANCELLED = 1
    UNKNOWN = 2
    INVALID_ARGUMENT = 3
    DEADLINE_EXCEEDED = 4
    NOT_FOUND = 5
    ALREADY_EXISTS = 6
    PERMISSION_DENIED = 7
    RESOURCE_EXHAUSTED = 8
    FAILED_PRECONDITION = 9
    ABORTED = 10
    OUT_OF_RANGE = 11
    UNIMPLEMENTED = 12
    INTERNAL = 13
    UNAVAILABLE = 14
    DATA_LOSS = 15
    UNAUTHENTICATED = 16


@dataclass(frozen=True, slots=True)
class Problem:
    """One refusal or failure. `reason` is upper snake case and stable; programs match on it, never on `message`."""

    code: Code
    reason: str
    message: str
    hint: str = ""
    retryable: bool = False
    retry_after: float | None = None  # seconds
    metadata: Mapping[str, str] = field(default_factory=dict)

    def __str__(self) -> str:
        hint = f" ({self.hint})" if self.hint else ""
        return f"{self.reason}: {self.message}{hint}"
