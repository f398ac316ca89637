"""The results file: JSON Lines, one object a cell, appended and flushed as each is measured."""

from __future__ import annotations

import json
import os
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from benchmarks.compare.workload import OURS, Cell

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
    chosen = f" chosen, has {machine['best_isa']}" if machine.get("best_isa") else ""
    return f"{machine['cpu']}, {machine['cpus']} cores, {machine['isa']}{chosen}"


@dataclass(frozen=True)
class Again:
    """What is measured anew although it is in the file.

    Attributes:
        failed_before: of the first so many objects, those that failed.
        sides: "ours": our cells of another commit; "all": every side's; None: none of them.
        commit: the present one.
    """

    failed_before: int = 0
    sides: str | None = None
    commit: str | None = None

    def wants(self, number: int, entry: Mapping[str, Any]) -> bool:
        """Whether the result of a cell, the `number`th object of the file, does not count."""
        if not entry.get("measured") and number < self.failed_before:
            return True
        asked = self.sides == "all" or (self.sides == "ours" and entry["side"] == OURS)
        return asked and entry.get("commit") != self.commit


def done(entries: Iterable[dict[str, Any]], again: Again) -> set[Cell]:
    """Return cells not to be measured again."""
    found = set()
    for number, entry in enumerate(entries):
        cell = cell_of(entry)
        if cell is not None and not again.wants(number, entry):
            found.add(cell)
    return found


def newest(entries: Sequence[Mapping[str, Any]]) -> tuple[list[Mapping[str, Any]], int]:
    """Leave out what was measured with another build than the newest of its side, so that no median mixes builds.

    The newest of our builds is that of the last result of a policy in a regime, and of a peer's that of its mode: what
    was measured there with another commit of ours, or another version of the peer, goes.

    Returns:
        What is left, in order, descriptions of runs included; and how many results were left out.
    """
    builds: dict[tuple[str, ...], Any] = {}
    for entry in entries:
        if "side" in entry:
            builds[_series(entry)] = build(entry)
    kept = [e for e in entries if "side" not in e or builds[_series(e)] == build(e)]
    return kept, len(entries) - len(kept)


def of_other_commits(entries: Sequence[dict[str, Any]], machine: dict[str, Any], source: str | None) -> str:
    """Return what to add where nothing is left to do, but the newest results of ours are of other commits."""
    ours = [e for e in newest(entries)[0] if e.get("side") == OURS and e["machine"] == machine]
    others = sum(entry.get("commit") != source for entry in ours)
    return f" ({others} of ours with another commit than {source}; --anew ours measures them again)" if others else ""


def build(entry: Mapping[str, Any]) -> Any:
    """Return what a result was measured with: our commit, or the peer's version and files; None: not recorded."""
    return entry.get("commit") if entry["side"] == OURS else (entry.get("version"), entry.get("build"))


def _series(entry: Mapping[str, Any]) -> tuple[str, ...]:
    return (label(entry["machine"]), entry["model"], entry["regime"], entry["side"], entry["variant"])


def of_round(
    entries: Iterable[dict[str, Any]], model: str, regime: str, number: int, machine: str
) -> list[dict[str, Any]]:
    """Return the results of one round on a machine."""
    cells = ((cell_of(entry), entry) for entry in entries)
    asked = (model, regime, number, machine)
    return [e for cell, e in cells if cell and (cell.model, cell.regime, cell.round, cell.machine) == asked]
