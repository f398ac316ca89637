"""The report's folder: made before anything is measured, each file written whole or not at all."""

from __future__ import annotations

import json
import os
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

from edge_runtime.base.errors import RequestError

JSON_NAME, HTML_NAME, PNG_NAME = "report.json", "report.html", "report.png"
SUMMARY_NAME, TRACE_NAME = "summary.txt", "trace.json"


def default_folder(bundle: Path) -> Path:
    """Return a name in the working directory that says what was measured when (UTC)."""
    now = datetime.now(timezone.utc).strftime("%Y%m%dT%H%M%SZ")
    return Path(f"hobbit-bench-{bundle.resolve().name}-{now}")


def make_folder(folder: Path) -> None:
    """Make the folder; an empty one is taken as it is, and one of a benchmark that ended before it had measured.

    Raises:
        RequestError: it exists and holds something, or cannot be made.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
        if any(path.name != JSON_NAME or path.stat().st_size for path in folder.iterdir()):
            raise RequestError(f"out: {folder}: expected a new or empty folder. Name another one.")
        (folder / JSON_NAME).touch()  # a read-only place is found out now, not after the measurement
    except OSError as err:
        raise RequestError(f"out: {folder}: cannot be made: {err.strerror}. Name another one.") from err


def write_json(folder: Path, result: dict[str, Any]) -> None:
    """Write or replace report.json."""
    write_whole(folder / JSON_NAME, json.dumps(result, indent=1).encode())


def write_whole(path: Path, data: bytes) -> None:
    """Write a file beside its place and move it there.

    Raises:
        RequestError: the drive is full or the folder is gone.
    """
    part = path.with_name(path.name + ".part")
    try:
        part.write_bytes(data)
        os.replace(part, path)
    except OSError as err:
        raise RequestError(f"{path}: cannot be written: {err.strerror}. Free space or name another folder.") from err
