"""Probe: how the drive is connected, its temperature and its file system. Reads nothing of it."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

from edge_runtime.lab.probes.base import Subject
from edge_runtime.telemetry.drive_link import DriveLink, describe_link

SUMMARY = "drive: negotiated PCIe link, temperature, file system"


@dataclass(frozen=True)
class LinkResult:
    """What the system says of the drive."""

    link: DriveLink

    def to_json(self) -> dict[str, Any]:
        """Return plain data."""
        return asdict(self.link) | {"link_gb_s": self.link.gb_s, "is_link_reduced": self.link.is_reduced}

    def lines(self) -> list[str]:
        """Return it for people."""
        link = self.link
        pcie = "not a PCIe drive, or the system does not say"
        if link.gb_s is not None:
            most = f" of {link.speed_most_gt_s:g} GT/s x{link.width_most}" if link.speed_most_gt_s else ""
            below = ", BELOW what drive and slot can" if link.is_reduced else ""
            pcie = f"{link.speed_gt_s:g} GT/s x{link.width}{most}, at most {link.gb_s:.2f} GB/s{below}"
        return [
            f"{link.device or 'no block device'} ({link.model or 'model unknown'}), {link.file_system or 'unknown'} "
            f"({link.mount_options or 'options unknown'})",
            f"link: {pcie}",
            f"temperature: {'not measured, no sensor' if link.celsius is None else f'{link.celsius:g} C'}",
        ]


def run(subject: Subject) -> LinkResult:
    """Read what the system says."""
    return LinkResult(describe_link(subject.path, subject.root))
