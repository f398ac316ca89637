"""A log that nobody reads: who logs never waits, what is lost is counted and said, repetitions are counted."""

from __future__ import annotations

import fcntl
import io
import logging
import os
import re
import time

import pytest
from patience import until

from edge_runtime.service.ops.log_queue import QueuedHandler


@pytest.fixture
def pipe():
    reader, writer = os.pipe()
    fcntl.fcntl(writer, fcntl.F_SETPIPE_SZ, 4096)
    with os.fdopen(writer, "w") as stream:
        yield reader, stream
    os.close(reader)


def logger_of(handler: QueuedHandler) -> logging.Logger:
    logger = logging.Logger("edge_runtime.test")
    logger.addHandler(handler)
    return logger


def read(descriptor: int) -> str:
    os.set_blocking(descriptor, False)
    text = b""
    try:
        while part := os.read(descriptor, 1 << 16):
            text += part
    except BlockingIOError:
        pass
    return text.decode()


def test_a_pipe_nobody_reads_holds_up_nobody_and_the_loss_is_said(pipe):
    reader, stream = pipe
    handler = QueuedHandler(stream, max_waiting=50)
    logger = logger_of(handler)
    started = time.monotonic()
    for i in range(5000):
        logger.info("request %d of a client with a long name: %s", i, "x" * 100)
    assert time.monotonic() - started < 5
    assert 4000 < handler.dropped < 5000
    text = ""

    def told() -> int:
        nonlocal text
        text += read(reader)
        notices = re.findall(r"(\d+) log lines were dropped: they came faster than they were read\n", text)
        return sum(map(int, notices))

    until(lambda: told() == handler.dropped, "the loss is written once somebody reads")
    until(lambda: told() and text.count("request ") == 5000 - handler.dropped, "and everything else")
    assert text.startswith("request 0 of")
    handler.close()


def test_the_end_does_not_wait_for_a_pipe_nobody_reads(pipe):
    _, stream = pipe
    handler = QueuedHandler(stream, max_waiting=50)
    logger = logger_of(handler)
    for _ in range(200):
        logger.info("x" * 500)
    started = time.monotonic()
    handler.close()
    assert time.monotonic() - started < 30


def test_lines_come_in_order_and_all_of_them_at_the_end():
    stream = io.StringIO()
    handler = QueuedHandler(stream)
    logger = logger_of(handler)
    for i in range(500):
        logger.info("line %d", i)
    handler.close()
    assert stream.getvalue().splitlines() == [f"line {i}" for i in range(500)]
    assert handler.dropped == 0


@pytest.mark.parametrize("path", ["/dev/full", None])
def test_a_full_disk_or_a_reader_that_has_gone_is_no_error(path):
    if path is None:
        reader, writer = os.pipe()
        os.close(reader)
        stream = os.fdopen(writer, "w")
    else:
        stream = open(path, "w")  # noqa: SIM115
    handler = QueuedHandler(stream)
    logger_of(handler).info("lost")
    handler.close()
    try:
        stream.close()
    except OSError:
        pass


def test_a_record_that_cannot_be_formatted_is_no_error():
    stream = io.StringIO()
    handler = QueuedHandler(stream)
    logger_of(handler).info("%d and %d", 1)
    handler.close()
    assert stream.getvalue() == "edge_runtime.test: a log line that cannot be formatted\n"


def test_repeated_warnings_are_counted_and_others_are_not_held_back():
    now, stream = [0.0], io.StringIO()
    handler = QueuedHandler(stream, clock=lambda: now[0])
    logger = logger_of(handler)
    for i in range(1000):
        logger.warning("client %d is slow", i)
        logger.info("served %d", i)
    logger.warning("another")
    now[0] = 11.0
    logger.warning("client %d is slow", 1000)
    handler.close()
    lines = stream.getvalue().splitlines()
    slow = [line for line in lines if "slow" in line]
    assert slow[:10] == [f"client {i} is slow" for i in range(10)]
    assert slow[10:] == ["client 1000 is slow (990 more like this were left out)"]
    assert sum("served" in line for line in lines) == 1000
    assert "another" in lines


def test_kinds_of_warnings_without_end_take_bounded_memory():
    handler = QueuedHandler(io.StringIO())
    logger = logger_of(handler)
    for i in range(5000):
        logger.warning("kind " + str(i))
    handler.close()
