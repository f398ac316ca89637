"""Copies of bundles whose parts may be replaced by others, with a manifest that says so."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
from pathlib import Path
from typing import Any

from manifests import resealed

from edge_runtime.base.checksum import crc32c


def copy_of(bundle: Path, copy: Path) -> Path:
    """Copy a bundle; files are linked, so replace them and never write into them."""
    shutil.copytree(bundle, copy, copy_function=os.link)
    return copy


def read_manifest(bundle: Path) -> dict[str, Any]:
    found: dict[str, Any] = json.loads((bundle / "manifest.json").read_bytes())
    return found


def write_manifest(bundle: Path, data: dict[str, Any]) -> None:
    """Seal a manifest anew and put it in place of the one there is."""
    (bundle / "manifest.json").unlink()
    (bundle / "manifest.json").write_bytes(resealed(data))


def replace_part(bundle: Path, name: str, raw: bytes) -> None:
    """Put other bytes in a part's place and make the manifest say so."""
    data = read_manifest(bundle)
    part = next(part for part in data["parts"] if part["name"] == name)
    part |= {"bytes": len(raw), "crc32c": crc32c(raw), "sha256": hashlib.sha256(raw).hexdigest()}
    (bundle / name).unlink()
    (bundle / name).write_bytes(raw)
    write_manifest(bundle, data)


def unlist(bundle: Path, *names: str) -> None:
    """Take parts off a manifest; the files stay."""
    data = read_manifest(bundle)
    data["parts"] = [part for part in data["parts"] if part["name"] not in names]
    write_manifest(bundle, data)
