"""Who counts what a drive delivers: the proof that bytes did not come from the page cache."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from edge_runtime.base.errors import DeviceError
from edge_runtime.telemetry.process import drive_bytes

_SECTOR = 512


@dataclass(frozen=True)
class DriveWitness:
    """Counts the bytes that came from a drive.

    Attributes:
        name: 'process' (/proc/self/io) or 'device' (its block statistics, everybody's reads).
        path: of the block statistics.
    """

    name: Literal["process", "device"]
    path: Path | None = None

    @staticmethod
    def of(fd: int) -> DriveWitness:
        """Return who counts reads of an open file.

        Raises:
            DeviceError: nobody does.
        """
        if drive_bytes() is not None:
            return DriveWitness("process")
        device = os.fstat(fd).st_dev
        path = Path(f"/sys/dev/block/{os.major(device)}:{os.minor(device)}/stat")
        if path.exists():
            return DriveWitness("device", path)
        raise DeviceError(
            "drive probe: neither /proc/self/io nor block statistics of the drive can be read, so nothing proves where "
            "bytes came from."
        )

    def count(self) -> int:
        """Return the bytes delivered so far."""
        return drive_bytes() or 0 if self.path is None else sectors_read(self.path.read_text()) * _SECTOR


def sectors_read(stat: str) -> int:
    """Return the sectors read of a block device's `stat` file: its third number."""
    return int(stat.split()[2])
