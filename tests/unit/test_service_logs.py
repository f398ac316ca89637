"""What journald, a terminal and a log collector get to see."""

from __future__ import annotations

import io
import json
import logging
import os

import pytest

from edge_runtime.service.ops.logs import JsonFormatter, LineFormatter, is_journal, setup_service_logging


def record(level=logging.INFO, message="served %s", args=("it",), exc_info=None, **extra):
    made = logging.getLogger("edge_runtime.service").makeRecord(
        "edge_runtime.service", level, "f", 1, message, args, exc_info, extra=extra
    )
    made.created = 1_750_000_000.25
    return made


def failure():
    try:
        raise ValueError("broken")
    except ValueError as err:
        return (type(err), err, err.__traceback__)


def test_text_on_a_terminal_has_time_and_fields():
    line = LineFormatter(for_journal=False).format(record(request_id="r1", reason="two words"))
    assert line == '2025-06-15T15:06:40.250Z INFO    edge_runtime.service: served it request_id=r1 reason="two words"'


@pytest.mark.parametrize(
    ("level", "prefix"),
    [(logging.DEBUG, "<7>"), (logging.INFO, "<6>"), (logging.WARNING, "<4>"), (logging.ERROR, "<3>"), (50, "<2>")],
)
def test_text_in_the_journal_has_a_priority_and_no_time(level, prefix):
    assert LineFormatter(for_journal=True).format(record(level)) == f"{prefix}edge_runtime.service: served it"


def test_every_line_of_a_traceback_keeps_its_priority():
    lines = LineFormatter(for_journal=True).format(record(logging.ERROR, exc_info=failure())).splitlines()
    assert len(lines) > 3
    assert all(line.startswith("<3>") for line in lines)
    assert lines[-1] == "<3>ValueError: broken"


def test_json_is_one_object_a_line():
    line = JsonFormatter(for_journal=False).format(record(request_id="r1", tokens=7, message_id=None))
    assert json.loads(line) == {
        "time": "2025-06-15T15:06:40.250Z", "level": "info", "logger": "edge_runtime.service", "message": "served it",
        "request_id": "r1", "tokens": 7, "message_id": None,
    }  # fmt: skip
    line = JsonFormatter(for_journal=True).format(record(exc_info=failure(), message="a\nb", args=()))
    assert line.startswith("<6>{")
    assert "\n" not in line
    assert "ValueError: broken" in json.loads(line[3:])["exception"]


def test_json_never_fails_on_odd_values():
    assert "object at" in JsonFormatter(for_journal=False).format(record(thing=object()))


def test_the_journal_is_recognised_by_device_and_inode(tmp_path):
    with open(tmp_path / "journal", "w") as file:
        status = os.fstat(file.fileno())
        assert is_journal(file, {"JOURNAL_STREAM": f"{status.st_dev}:{status.st_ino}"})
        assert not is_journal(file, {"JOURNAL_STREAM": f"{status.st_dev}:1"})
        assert not is_journal(file, {})
    assert not is_journal(io.StringIO(), {"JOURNAL_STREAM": "1:1"})


def test_setup_replaces_handlers():
    root = logging.getLogger()
    before, level = root.handlers[:], root.level
    stream = io.StringIO()
    try:
        setup_service_logging("json", stream=stream, env={})
        logging.getLogger("edge_runtime.service.x").info("hello", extra={"n": 1})
        logging.getLogger("edge_runtime.service.x").debug("hidden")
        setup_service_logging("text", stream=stream, env={}, verbose=True)
        logging.getLogger("edge_runtime.service.x").debug("shown")
        root.handlers[0].close()  # a thread writes
    finally:
        root.handlers[:] = before
        root.setLevel(level)
        logging.getLogger("edge_runtime").setLevel(logging.NOTSET)
    first, second = stream.getvalue().splitlines()
    assert json.loads(first)["n"] == 1
    assert second.endswith("DEBUG   edge_runtime.service.x: shown")
