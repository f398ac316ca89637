"""The fingerprint of a machine: a tuned profile is for the machine it was measured on, and says which that was."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from importlib.metadata import version
from pathlib import Path
from typing import Any

from edge_runtime.telemetry.hardware import describe_hardware

_DIGITS = 16
_PARTS = ("board", "cpu", "machine", "cpus", "memory_bytes", "drive", "file_system")


def machine_facts(bundle: Path, computes_on: str, root: Path = Path("/")) -> dict[str, Any]:
    """Return what the fingerprint is made of: hardware, the drive under the bundle, and what computes.

    Args:
        bundle: the bundle.
        computes_on: fingerprint of the backend.
        root: where /proc and /sys are; tests pass a fake tree.
    """
    hardware = describe_hardware(bundle, root)
    return {name: hardware[name] for name in _PARTS} | {"computes_on": computes_on, "version": version("hobbit-edge")}


def fingerprint(facts: Mapping[str, Any]) -> str:
    """Return 16 hexadecimal digits that change with any of the facts."""
    return hashlib.sha256(json.dumps(facts, sort_keys=True).encode()).hexdigest()[:_DIGITS]
