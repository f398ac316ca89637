"""How the drive under a folder is connected: negotiated PCIe link, temperature, file system and its options."""

from __future__ import annotations

import os
import re
from dataclasses import dataclass
from pathlib import Path

_ENCODED = 128 / 130
_ENCODED_OLD = 8 / 10
"""Of the bits on the wire, by generation: 8b/10b up to 5 GT/s, 128b/130b above."""


@dataclass(frozen=True)
class DriveLink:
    """What the system says of a drive; None where it says nothing.

    Attributes:
        device: name of the block device.
        model: of the drive.
        speed_gt_s, width: of the PCIe link as it was negotiated: GT/s a lane, and lanes.
        speed_most_gt_s, width_most: what the drive could.
        celsius: temperature of the drive.
        file_system, mount_options: of the folder.
    """

    device: str | None = None
    model: str | None = None
    speed_gt_s: float | None = None
    width: int | None = None
    speed_most_gt_s: float | None = None
    width_most: int | None = None
    celsius: float | None = None
    file_system: str | None = None
    mount_options: str | None = None

    @property
    def gb_s(self) -> float | None:
        """GB/s (10^9 bytes) the negotiated link carries at most, its encoding taken off; packets take more."""
        if not self.speed_gt_s or not self.width:
            return None
        return self.speed_gt_s * self.width * (_ENCODED if self.speed_gt_s > 5 else _ENCODED_OLD) / 8

    @property
    def is_reduced(self) -> bool | None:
        """Whether the link is slower or narrower than the drive could; None where nobody says."""
        if not (self.speed_gt_s and self.width and self.speed_most_gt_s and self.width_most):
            return None
        return self.speed_gt_s < self.speed_most_gt_s or self.width < self.width_most


def describe_link(folder: Path, root: Path = Path("/"), device: tuple[int, int] | None = None) -> DriveLink:
    """Describe the drive a folder lies on.

    Args:
        folder: the bundle.
        root: where /proc and /sys are; tests pass a fake tree.
        device: major and minor number, instead of the folder's own.
    """
    number = os.stat(folder).st_dev
    major, minor = device or (os.major(number), os.minor(number))
    system, options = _mount(_text(root / "proc/self/mountinfo") or "", f"{major}:{minor}")
    place = (root / "sys/dev/block" / f"{major}:{minor}").resolve()
    if not place.is_dir():
        return DriveLink(file_system=system, mount_options=options)
    whole = place if (place / "queue").is_dir() else place.parent  # a partition's parent is the drive
    bus = _bus(whole, root)
    return DriveLink(
        device=whole.name,
        model=_text(whole / "device/model"),
        speed_gt_s=_number(bus, "current_link_speed"),
        width=_lanes(bus, "current_link_width"),
        speed_most_gt_s=_number(bus, "max_link_speed"),
        width_most=_lanes(bus, "max_link_width"),
        celsius=_celsius(whole),
        file_system=system,
        mount_options=options,
    )


def _bus(drive: Path, root: Path) -> Path | None:
    """The PCI device a drive hangs on: the nearest folder above it that states a link."""
    top = (root / "sys").resolve()
    for folder in drive.parents:
        if folder == top or top not in folder.parents:
            return None
        if (folder / "current_link_speed").is_file():
            return folder
    return None


def _celsius(drive: Path) -> float | None:
    """Of the NVMe controller's hwmon, whose first sensor is the composite temperature, in thousandths."""
    for folder in (drive / "device", drive / "device/device"):
        for sensor in sorted([*folder.glob("hwmon*/temp1_input"), *folder.glob("hwmon/hwmon*/temp1_input")]):
            text = _text(sensor)
            if text is not None and text.lstrip("-").isdigit():
                return int(text) / 1000
    return None


def _mount(mountinfo: str, device: str) -> tuple[str | None, str | None]:
    for line in mountinfo.splitlines():
        left, _, right = line.partition(" - ")
        fields, last = left.split(), right.split()
        if len(fields) > 5 and fields[2] == device and last:
            return last[0], fields[5]
    return None, None


def _number(folder: Path | None, name: str) -> float | None:
    found = re.match(r"\d+(\.\d+)?", _text(folder / name) or "") if folder else None
    return float(found[0]) if found else None


def _lanes(folder: Path | None, name: str) -> int | None:
    value = _number(folder, name)
    return int(value) if value else None


def _text(path: Path) -> str | None:
    try:
        return path.read_text(errors="replace").strip("\0 \n") or None
    except OSError:
        return None
