"""export.journal: which steps of an unfinished export are done. JSON lines, each on the drive before the next step.

The first line states source and options; every other line is one finished step with its parts, or says which ranges of
the source came from elsewhere, before the step that they were read for. A torn last line (the
machine died while writing it) only means that its step is done again.
"""

from __future__ import annotations

import json
import os
import threading
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from edge_runtime.base.errors import BundleError, ConfigError
from edge_runtime.base.strict import from_mapping
from edge_runtime.bundle.manifest import Part
from hobbit_export.byte_files import Received
from hobbit_export.parts import sync_folder

NAME = "export.journal"
_RECEIVED = "received"
_MAX_BYTES = 256 << 20


@dataclass
class Step:
    """One finished step.

    Attributes:
        parts: what it wrote.
        data: plain data later steps need (weight errors, token counts).
        spent: names of files of earlier steps that are deleted with it.
    """

    name: str
    parts: list[Part]
    data: dict[str, Any] = field(default_factory=dict)
    spent: list[str] = field(default_factory=list)


class Journal:
    """The journal of one export; the bundle folder must be locked by the caller."""

    def __init__(self, bundle: Path, fingerprint: dict[str, Any]) -> None:
        """Open or create the journal.

        Args:
            bundle: the bundle folder.
            fingerprint: plain data that must be equal for a resume: source files and options that shape the bundle.

        Raises:
            ConfigError: the journal there belongs to another source or other options.
        """
        self._path = bundle / NAME
        self._lock = threading.Lock()
        self.fingerprint = fingerprint
        self.steps: dict[str, Step] = {}
        self.received: list[Received] = []
        lines = _read_lines(self._path)
        if lines:
            _compare(lines[0], fingerprint)
            for line in lines[1:]:
                self._put(line)
        self._rewrite([json.dumps(fingerprint), *_ranges(self.received), *(_dump(s) for s in self.steps.values())])

    def add(self, step: Step, received: Sequence[Received] = ()) -> None:
        """Record a finished step, and what of the source came since the last; returns once it is on the drive.

        Several threads may.
        """
        with self._lock, open(self._path, "ab") as file:
            self.received += received
            self._put_step(step)
            file.write("".join(line + "\n" for line in (*_ranges(received), _dump(step))).encode())
            file.flush()
            os.fsync(file.fileno())

    def remove(self) -> None:
        """Delete the journal: the export is complete."""
        self._path.unlink(missing_ok=True)
        sync_folder(self._path.parent)

    def _put(self, line: dict[str, Any]) -> None:
        if _RECEIVED in line:
            self.received += _parse_ranges(line)
        else:
            self._put_step(_parse_step(line))

    def _put_step(self, step: Step) -> None:
        self.steps.pop(step.name, None)  # a step done again counts as the latest
        self.steps[step.name] = step

    def _rewrite(self, lines: list[str]) -> None:
        """Replace the file by whole lines only, atomically."""
        temporary = self._path.with_suffix(".journal.tmp")
        with open(temporary, "wb") as file:
            file.write("".join(line + "\n" for line in lines).encode())
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, self._path)
        sync_folder(self._path.parent)


def _ranges(received: Sequence[Received]) -> list[str]:
    """Return a line that holds ranges, or none."""
    return [json.dumps({_RECEIVED: received})] if received else []


def _parse_ranges(line: dict[str, Any]) -> list[Received]:
    try:
        return [
            Received(str(file), int(start), int(stop), str(digest)) for file, start, stop, digest in line[_RECEIVED]
        ]
    except (TypeError, ValueError) as err:
        raise BundleError(f"{NAME}: a range of the source is damaged: {err}. Start over with --no-resume.") from err


def _dump(step: Step) -> str:
    return json.dumps(
        {"step": step.name, "parts": [asdict(p) for p in step.parts], "data": step.data, "spent": step.spent}
    )


def _read_lines(path: Path) -> list[dict[str, Any]]:
    if path.is_symlink():
        raise BundleError(f"{path}: expected a file of this exporter, found a link. Remove it.")
    if not path.exists():
        return []
    with open(path, "rb") as file:
        raw = file.read(_MAX_BYTES)
    *whole, _torn = raw.split(b"\n")
    try:
        lines = [json.loads(line) for line in whole]
    except ValueError as err:
        raise BundleError(f"{path}: a line is damaged: {err}. Start over with --no-resume.") from err
    if not all(isinstance(line, dict) for line in lines):
        raise BundleError(f"{path}: a line is damaged. Start over with --no-resume.")
    return lines


def _parse_step(line: dict[str, Any]) -> Step:
    try:
        parts = [from_mapping(Part, p, f"{NAME}: part") for p in line["parts"]]
        return Step(str(line["step"]), parts, dict(line["data"]), [str(name) for name in line["spent"]])
    except (KeyError, TypeError, ValueError) as err:
        raise BundleError(f"{NAME}: a step is damaged: {err}. Start over with --no-resume.") from err


def _compare(found: dict[str, Any], wanted: dict[str, Any]) -> None:
    if found == json.loads(json.dumps(wanted)):
        return
    changed = [what for key, what in _SHAPES.items() if found.get(key) != json.loads(json.dumps(wanted.get(key)))]
    shown = [f"{what}: {found.get(key)} then, {wanted.get(key)} now" for key, what in _OPTIONS.items()
             if found.get(key) != json.loads(json.dumps(wanted.get(key)))]  # fmt: skip
    raise ConfigError(
        f"{NAME}: the unfinished export here has {_listed([*changed, *shown]) or 'another form'}. "
        "Repeat the first command to resume it, or start over with --no-resume."
    )


_SHAPES = {
    "files": "another checkpoint, or one that changed",
    "config": "another config.json",
    "calibrate": "another --calibrate",
    "program": "another version of this program",
}
_OPTIONS = {
    "tiers": "other --tiers",
    "codes": "other --tiers",
    "trunk": "another --trunk",
    "ignore_keys": "other --ignore-key",
}


def _listed(parts: list[str]) -> str:
    return " and ".join(parts[:2])
