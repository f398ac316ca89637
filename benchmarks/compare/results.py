"""The results file: JSON Lines, one object a cell, appended and flushed as each is measured."""

from __future__ import annotations

import json
import os
import re
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from benchmarks.compare.workload import Cell

VERSION = 2

_FOLDERS = re.compile(r"(?<![\w.])/(?:[^\s/'\"]+/)+")
"""The folders of an absolute path: they say where somebody keeps files, and the results are published."""


def read(path: Path) -> list[dict[str, Any]]:
    """Return every object; a last line cut by a crash is left out.

    Raises:
        SystemExit: a line in the middle is damaged, or of another version.
    """
    if not path.exists():
        return []
    lines = path.read_bytes().split(b"\n")
    found = []
    for number, line in enumerate(lines, 1):
        if not line.strip():
            continue
        try:
            entry = json.loads(line)
        except ValueError as err:
            if number == len(lines):
                break
            raise SystemExit(f"{path}: line {number} is damaged. Remove it; its cell is measured again.") from err
        if entry.get("v") != VERSION:
            raise SystemExit(f"{path}: line {number}: expected version {VERSION}, got {entry.get('v')}.")
        found.append(entry)
    return found


def append(path: Path, entry: dict[str, Any]) -> None:
    """Add one object, on the drive when this returns; a half line left by a crash is cut off first."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with open(path, "ab+") as file:
        file.seek(0)
        whole = file.read()
        file.truncate(len(whole) if whole.endswith(b"\n") else whole.rfind(b"\n") + 1)
        file.write(json.dumps({"v": VERSION, **_without_folders(entry)}, separators=(",", ":")).encode() + b"\n")
        file.flush()
        os.fsync(file.fileno())


def _without_folders(value: Any) -> Any:
    """Return a value whose texts name files by their last part: a peer's last words hold whole paths."""
    if isinstance(value, str):
        return _FOLDERS.sub("", value)
    if isinstance(value, dict):
        return {key: _without_folders(each) for key, each in value.items()}
    return [_without_folders(each) for each in value] if isinstance(value, list) else value


def cell_of(entry: dict[str, Any]) -> Cell | None:
    """Return which cell an object belongs to; None for a description of a run."""
    if "side" not in entry:
        return None
    machine = label(entry["machine"])
    return Cell(entry["model"], entry["regime"], entry["round"], entry["side"], entry["variant"], machine)


def label(machine: Mapping[str, Any]) -> str:
    """Return what results of one machine are found by: its processor, cores and instruction set."""
    return f"{machine['cpu']}, {machine['cpus']} cores, {machine['isa']}"


def done(entries: Iterable[dict[str, Any]], *, retry_before: int = 0) -> set[Cell]:
    """Return cells not to be measured again: all but those that failed among the first `retry_before` objects."""
    found = set()
    for number, entry in enumerate(entries):
        cell = cell_of(entry)
        if cell is not None and (entry.get("measured") or number >= retry_before):
            found.add(cell)
    return found


def of_round(
    entries: Iterable[dict[str, Any]], model: str, regime: str, number: int, machine: str
) -> list[dict[str, Any]]:
    """Return the results of one round on a machine."""
    cells = ((cell_of(entry), entry) for entry in entries)
    asked = (model, regime, number, machine)
    return [e for cell, e in cells if cell and (cell.model, cell.regime, cell.round, cell.machine) == asked]
