"""The mount and the drive under a folder, and NVMe controllers, from the files of a `Device`."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path, PurePosixPath

from edge_runtime.lab.doctor.device import Device


@dataclass(frozen=True)
class Mount:
    """A line of /proc/self/mountinfo.

    Attributes:
        device: major:minor.
        point: where it is mounted.
        kind: of file system.
        source: what is mounted.
        options: of mount and file system.
    """

    device: str
    point: str
    kind: str
    source: str
    options: frozenset[str]


@dataclass(frozen=True)
class NvmeLink:
    """The PCIe link of an NVMe controller: what was negotiated, what the drive can, what the port can.

    Speeds are in GT/s. None where the kernel does not say.
    """

    name: str
    speed: float | None
    width: int | None
    drive_speed: float | None
    drive_width: int | None
    port_speed: float | None
    port_width: int | None


def mount_of(device: Device, folder: Path) -> Mount | None:
    """Return the mount a folder lies on: the one with the longest matching path, the last of equals."""
    found, best = None, -1
    target = PurePosixPath(folder)
    for line in device.text("proc/self/mountinfo").splitlines():
        mount = _parse(line)
        point = PurePosixPath(mount.point) if mount else None
        if mount and point and (target == point or point in target.parents) and len(mount.point) >= best:
            found, best = mount, len(mount.point)
    return found


def _parse(line: str) -> Mount | None:
    left, dash, right = line.partition(" - ")
    fields, rest = left.split(), right.split()
    if not dash or len(fields) < 6 or len(rest) < 2:
        return None
    options = frozenset((*fields[5].split(","), *(rest[2].split(",") if len(rest) > 2 else ())))
    return Mount(fields[2], fields[4].replace("\\040", " "), rest[0], rest[1], options)


def bundle_mount(device: Device) -> Mount | None:
    """Return the mount of the bundle; None without a bundle."""
    return None if device.bundle is None else mount_of(device, device.bundle)


def block_of(device: Device, mount: Mount) -> Path | None:
    """Return the folder in /sys of a mount's block device: the whole drive, not the partition. None if it has none."""
    entry = device.root / "sys/dev/block" / mount.device
    if not entry.exists():  # btrfs and overlay have numbers of their own
        entry = device.root / "sys/class/block" / PurePosixPath(mount.source).name
    if not entry.exists() or not mount.source.startswith("/dev/"):
        return None
    found = entry.resolve()
    return found if (found / "queue").is_dir() else found.parent


def bundle_block(device: Device) -> Path | None:
    """Return the drive of the bundle; None where there is no bundle, or no drive."""
    mount = bundle_mount(device)
    return None if mount is None else block_of(device, mount)


def nvme_links(device: Device) -> list[NvmeLink]:
    """Return the links of all NVMe controllers."""
    links = []
    for controller in device.glob("sys/class/nvme/nvme*"):
        end = (controller / "device").resolve()
        port = end.parent
        links.append(
            NvmeLink(
                controller.name,
                _speed(device, end / "current_link_speed"),
                _width(device, end / "current_link_width"),
                _speed(device, end / "max_link_speed"),
                _width(device, end / "max_link_width"),
                _speed(device, port / "max_link_speed"),
                _width(device, port / "max_link_width"),
            )
        )
    return links


def _speed(device: Device, path: Path) -> float | None:
    words = device.words(path).split()
    try:
        return float(words[0]) if words else None
    except ValueError:  # "Unknown"
        return None


def _width(device: Device, path: Path) -> int | None:
    return device.number(path) or None
