"""What an export is made from: runs with the same fingerprint write the same bundle, so one may resume another."""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import Any

from edge_runtime.base.errors import BundleError
from hobbit_export import __version__
from hobbit_export.byte_files import LocalFiles
from hobbit_export.calibration import read_beginning
from hobbit_export.journal import Journal
from hobbit_export.options import ExportOptions
from hobbit_export.source import SourceModel


def fingerprint(source: SourceModel, options: ExportOptions) -> dict[str, Any]:
    """Everything a resumed export must have in common with the first run."""
    files = [*source.checkpoint.files, *(file.path for file in source.tokenizer() if file.path is not None)]
    return {
        "journal": 2,
        "program": __version__,
        "config": source.config_sha256,
        "files": [[path.name, *_stamp(path, options)] for path in files],
        "tiers": list(options.tiers),
        "codes": options.codes,
        "trunk": options.trunk,
        "ignore_keys": sorted(options.ignore_keys),
        "calibrate": text_digest(options.calibrate) if options.calibrate else None,
    }


def text_digest(text: Path) -> str:
    """SHA-256, in hex, of what of a calibration text is ever run."""
    return hashlib.sha256(read_beginning(text).encode()).hexdigest()


def _stamp(path: Path, options: ExportOptions) -> list[Any]:
    """Say what tells a file from another of its name."""
    if options.files is not None and path.is_relative_to(options.files.folder):
        return options.files.stamp(path.relative_to(options.files.folder).as_posix())
    return LocalFiles(path.parent).stamp(path.name)


def check_unchanged(source: SourceModel, options: ExportOptions, journal: Journal) -> None:
    """Refuse to finish an export whose source is not what it was when it began.

    Raises:
        BundleError: it changed.
    """
    now = fingerprint(source, options)
    if now != journal.fingerprint:
        raise BundleError(
            f"{options.checkpoint.name}: the checkpoint changed while it was exported. "
            "Leave it alone and start over with --no-resume."
        )
