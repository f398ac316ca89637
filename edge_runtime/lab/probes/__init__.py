"""Probes: what this machine gives, one a file. Each proves what it measured, or says why it could not."""

from __future__ import annotations

from edge_runtime.lab.probes import (
    drive_grid,
    drive_link,
    drive_sustained,
    kernels,
    memory,
    overhead,
    overlap,
    trunk,
)
from edge_runtime.lab.probes.base import RegisteredProbe, Result, Subject

PROBES: dict[str, RegisteredProbe] = {
    "drive-link": RegisteredProbe(drive_link.run, drive_link.SUMMARY),
    "drive": RegisteredProbe(drive_grid.run, drive_grid.SUMMARY),
    "drive-sustained": RegisteredProbe(drive_sustained.run, drive_sustained.SUMMARY),
    "memory": RegisteredProbe(memory.run, memory.SUMMARY),
    "kernels": RegisteredProbe(kernels.run, kernels.SUMMARY),
    "trunk": RegisteredProbe(trunk.run, trunk.SUMMARY),
    "decode": RegisteredProbe(overhead.run, overhead.SUMMARY),
    "overlap": RegisteredProbe(overlap.run, overlap.SUMMARY),
}
"""What there is, in the order they run."""

__all__ = ["PROBES", "RegisteredProbe", "Result", "Subject"]
