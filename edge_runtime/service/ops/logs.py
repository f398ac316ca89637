"""Log lines for journald, terminals and log collectors. Only the `serve` command installs them."""

from __future__ import annotations

import json
import logging
import os
import sys
from collections.abc import Mapping
from datetime import datetime, timezone
from typing import Any, TextIO

from edge_runtime.service.ops.log_queue import QueuedHandler

FORMATS = ("text", "json")
# systemd takes the level from a leading <n> (sd-daemon.h) and strips it
_PRIORITIES = ((logging.CRITICAL, 2), (logging.ERROR, 3), (logging.WARNING, 4), (logging.INFO, 6))
_DEBUG_PRIORITY = 7
_OWN = frozenset(vars(logging.makeLogRecord({}))) | {"message", "asctime", "taskName"}


class LineFormatter(logging.Formatter):
    """One line a record: readable text, then what `extra` carried as key=value.

    Args:
        for_journal: write syslog priorities, and no time: journald has its own.
    """

    def __init__(self, *, for_journal: bool) -> None:
        super().__init__()
        self._for_journal = for_journal

    def format(self, record: logging.LogRecord) -> str:
        """Return the line; a traceback follows on lines of the same priority."""
        fields = " ".join(f"{name}={_plain(value)}" for name, value in extras(record).items())
        text = " ".join(part for part in (f"{record.name}: {record.getMessage()}", fields) if part)
        if record.exc_info:
            text += "\n" + self.formatException(record.exc_info)
        if not self._for_journal:
            return f"{_utc(record)} {record.levelname:<7} {text}"
        prefix = f"<{priority(record.levelno)}>"
        return "\n".join(prefix + line for line in text.splitlines())


class JsonFormatter(logging.Formatter):
    """One JSON object a record: time, level, logger, message, then whatever `extra` carried.

    Args:
        for_journal: write the syslog priority in front, which journald strips.
    """

    def __init__(self, *, for_journal: bool) -> None:
        super().__init__()
        self._for_journal = for_journal

    def format(self, record: logging.LogRecord) -> str:
        """Return the object on one line."""
        line: dict[str, Any] = {
            "time": _utc(record),
            "level": record.levelname.lower(),
            "logger": record.name,
            "message": record.getMessage(),
        }
        line.update((name, value) for name, value in extras(record).items() if name not in line)
        if record.exc_info:
            line["exception"] = self.formatException(record.exc_info)
        prefix = f"<{priority(record.levelno)}>" if self._for_journal else ""
        return prefix + json.dumps(line, default=str, ensure_ascii=False)


def setup_service_logging(
    format_name: str, *, verbose: bool = False, stream: TextIO | None = None, env: Mapping[str, str] | None = None
) -> None:
    """Send everything from INFO (DEBUG if verbose) to stderr in one format.

    Args:
        format_name: 'text' or 'json'.
        verbose: our own debug messages as well.
        stream: instead of stderr.
        env: instead of os.environ; JOURNAL_STREAM tells whether stderr is the journal.
    """
    stream = stream or sys.stderr
    for_journal = is_journal(stream, os.environ if env is None else env)
    handler = QueuedHandler(stream)
    make = JsonFormatter if format_name == "json" else LineFormatter
    handler.setFormatter(make(for_journal=for_journal))
    root = logging.getLogger()
    logging.raiseExceptions = False  # it would write to stderr, and wait there
    for replaced in [h for h in root.handlers if isinstance(h, QueuedHandler)]:
        replaced.close()
    root.handlers[:] = [handler]
    root.setLevel(logging.INFO)
    logging.getLogger("edge_runtime").setLevel(logging.DEBUG if verbose else logging.INFO)


def is_journal(stream: TextIO, env: Mapping[str, str]) -> bool:
    """Whether a stream is connected to the journal: JOURNAL_STREAM names its device and inode."""
    try:
        status = os.fstat(stream.fileno())
    except (OSError, ValueError):
        return False
    return env.get("JOURNAL_STREAM") == f"{status.st_dev}:{status.st_ino}"


def extras(record: logging.LogRecord) -> dict[str, Any]:
    """What the caller passed as `extra`."""
    return {name: value for name, value in vars(record).items() if name not in _OWN and not name.startswith("_")}


def priority(level: int) -> int:
    """The syslog priority of a logging level."""
    return next((number for bound, number in _PRIORITIES if level >= bound), _DEBUG_PRIORITY)


def _utc(record: logging.LogRecord) -> str:
    return (
        datetime.fromtimestamp(record.created, timezone.utc).isoformat(timespec="milliseconds").replace("+00:00", "Z")
    )


def _plain(value: object) -> str:
    text = str(value)
    return json.dumps(text) if not text or any(c in text for c in ' "=\n') else text
