from __future__ import annotations

import io
import json
import logging
from collections.abc import Iterator

import pytest
import structlog

from edgenode.link import telemetry


@pytest.fixture
def stream() -> Iterator[io.StringIO]:
    stream = io.StringIO()
    telemetry.configure_logging("info", stream)
    yield stream
    telemetry.configure_logging("warning")
    logging.getLogger().handlers = [
        handler for handler in logging.getLogger().handlers if type(handler).__module__ != telemetry.__name__
    ]


def lines(stream: io.StringIO) -> list[dict[str, object]]:
    return [json.loads(line) for line in stream.getvalue().splitlines()]


def test_json_lines_with_iso_time(stream: io.StringIO) -> None:
    telemetry.logger("node.tasks", node="north").info(telemetry.TASK_STATE, task_id="T")
    (line,) = lines(stream)
    assert line["event"] == "task.state"
    assert (line["room"], line["node"], line["task_id"], line["level"]) == ("node.tasks", "north", "T", "info")
    assert str(line["time"]).endswith("Z")


def test_the_level_changes_loggers_that_exist(stream: io.StringIO) -> None:
    log = telemetry.logger("x").bind(a=1)
    log.debug("one")
    telemetry.set_level("debug")
    log.debug("two")
    telemetry.set_level("error")
    log.warning("three")
    log.exception("four")
    assert [line["event"] for line in lines(stream)] == ["two", "four"]
    with pytest.raises(ValueError, match="loud"):
        telemetry.set_level("loud")


def test_the_structlog_of_the_host_program_is_left_alone(stream: io.StringIO) -> None:
    assert not structlog.is_configured()


def test_standard_logging_goes_the_same_way_once(stream: io.StringIO) -> None:
    telemetry.configure_logging("info", stream)
    logging.getLogger("asyncio").warning("slow %s", "loop")
    logging.getLogger("asyncio").info("quiet")
    logging.getLogger("edgenode.link.wire").info("dialing")
    logging.getLogger("edgenode.link.wire").debug("quiet")
    telemetry.set_level("debug")
    logging.getLogger("hub").debug("heard")
    assert [(line["room"], line["level"], line["event"]) for line in lines(stream)] == [
        ("asyncio", "warning", "slow loop"),
        ("edgenode.link.wire", "info", "dialing"),
        ("hub", "debug", "heard"),
    ]


def test_readable_on_a_terminal() -> None:
    class Terminal(io.StringIO):
        def isatty(self) -> bool:
            return True

    terminal = Terminal()
    telemetry.configure_logging("info", terminal)
    telemetry.logger("x").info("hello", count=3)
    telemetry.configure_logging("warning")
    assert "hello" in terminal.getvalue()
    assert not terminal.getvalue().startswith("{")


def test_a_closed_stream_is_no_error(stream: io.StringIO) -> None:
    log = telemetry.logger("x")
    stream.close()
    log.error("nobody hears")
    assert stream.closed
