"""Logging: set up once for the process, with the names of shared events and keys in one place.

Loggers made here keep to themselves: a program that imports the SDK keeps its own logging and structlog set-up. Until
`configure_logging` is called only warnings and errors are written, to standard error. The level may change while the
program runs (the hub's desired state does that), for loggers that exist already too.
"""

from __future__ import annotations

import logging
import sys
from typing import Any, Final, TextIO

import structlog
from structlog.typing import EventDict, Processor

# Keys that mean the same in every room.
NODE: Final = "node"
PEER: Final = "peer"
AGENT: Final = "agent"
TASK: Final = "task_id"
SKILL: Final = "skill"
LANE: Final = "lane"
EPOCH: Final = "epoch"
SEQUENCE: Final = "sequence"
REASON: Final = "reason"
HINT: Final = "hint"
COUNT: Final = "count"
SECONDS: Final = "seconds"
BYTES: Final = "bytes"
ADDRESS: Final = "address"
METHOD: Final = "method"

# Events that more than one room writes.
NODE_STARTING: Final = "node.starting"
NODE_READY: Final = "node.ready"
NODE_DRAINING: Final = "node.draining"
NODE_STOPPED: Final = "node.stopped"
LINK_STATE: Final = "link.state"
LINK_ESTABLISHED: Final = "link.established"
LINK_CLOSED: Final = "link.closed"
LINK_GAP: Final = "link.gap"
ENTRY_REJECTED: Final = "link.entry_rejected"
AGENT_REGISTERED: Final = "agent.registered"
AGENT_GONE: Final = "agent.gone"
AGENT_HEALTH: Final = "agent.health"
TASK_STATE: Final = "task.state"
STORE_OPENED: Final = "store.opened"
STORE_QUARANTINED: Final = "store.quarantined"
STORE_FULL: Final = "store.full"
CERTIFICATE_RENEWED: Final = "identity.renewed"
CERTIFICATE_EXPIRED: Final = "identity.expired"
DESIRED_APPLIED: Final = "desired.applied"
DESIRED_REFUSED: Final = "desired.refused"
PROGRAM_STARTED: Final = "program.started"
PROGRAM_ENDED: Final = "program.ended"
PROGRAM_OUTPUT: Final = "program.output"
RPC_REFUSED: Final = "rpc.refused"
RPC_DEFECT: Final = "rpc.defect"

Logger = structlog.typing.FilteringBoundLogger

_LEVELS: Final = {"debug": 10, "info": 20, "warning": 30, "error": 40, "critical": 50, "exception": 40}


class _Sink:
    """Where lines go and from which level on: the one mutable thing here, as a process has one log."""

    def __init__(self) -> None:
        self.threshold = _LEVELS["warning"]
        self.stream: TextIO | None = None  # None: standard error, looked up anew for each line
        self.renderer: Processor = structlog.processors.JSONRenderer()

    def drop_below(self, _logger: Any, method: str, event: EventDict) -> EventDict:
        if _LEVELS.get(method, 0) < self.threshold:
            raise structlog.DropEvent
        return event

    def render(self, logger: Any, method: str, event: EventDict) -> Any:
        return self.renderer(logger, method, event)

    def write(self, line: str) -> None:
        stream = sys.stderr if self.stream is None else self.stream
        try:
            stream.write(line + "\n")
            stream.flush()
        except ValueError:
            # The stream was closed at interpreter exit: there is nobody left to tell.
            return

    debug = info = warning = error = critical = msg = write


_SINK: Final = _Sink()
_PROCESSORS: Final[list[Processor]] = [
    _SINK.drop_below,
    structlog.contextvars.merge_contextvars,
    structlog.processors.add_log_level,
    structlog.processors.TimeStamper(fmt="iso", utc=True, key="time"),
    structlog.processors.StackInfoRenderer(),
    structlog.processors.format_exc_info,
    _SINK.render,
]


def logger(room: str, **context: Any) -> Logger:
    """A logger of `room` (e.g. `node.tasks`) whose lines all carry `context`."""
    bound: Logger = structlog.wrap_logger(
        _SINK,
        processors=_PROCESSORS,
        wrapper_class=structlog.make_filtering_bound_logger(0),
        context_class=dict,
        cache_logger_on_first_use=True,
        room=room,
        **context,
    )
    return bound


def configure_logging(level: str, stream: TextIO | None = None) -> None:
    """Write from `level` on to `stream` (standard error when None): readable lines on a terminal, else JSON lines.

    Lines written through the standard `logging` go the same way: our own from `level` on, others' from warnings on.
    """
    target = sys.stderr if stream is None else stream
    _SINK.stream = stream
    if target.isatty():
        _SINK.renderer = structlog.dev.ConsoleRenderer(colors=True, timestamp_key="time")
    else:
        _SINK.renderer = structlog.processors.JSONRenderer()
    set_level(level)
    root = logging.getLogger()
    for handler in [handler for handler in root.handlers if isinstance(handler, _Forward)]:
        root.removeHandler(handler)
    root.addHandler(_Forward())


def set_level(level: str) -> None:
    """Write from `level` (debug, info, warning, error) on, from now on. Raises ValueError for any other."""
    if level not in ("debug", "info", "warning", "error"):
        raise ValueError(f"log level is {level!r}; expected debug, info, warning or error")
    _SINK.threshold = _LEVELS[level]
    for package in ("edgenode", "hub"):
        logging.getLogger(package).setLevel(_LEVELS[level])


class _Forward(logging.Handler):
    """Passes records of the standard `logging` on to our own lines."""

    def emit(self, record: logging.LogRecord) -> None:
        name = record.levelname.lower()
        write = getattr(logger(record.name), name if name in _LEVELS else "warning")
        write(record.getMessage(), exc_info=record.exc_info)
