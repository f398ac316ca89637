"""The PCIe links of NVMe drives: what was negotiated, against what both ends can."""

from __future__ import annotations

from collections.abc import Iterator

from edge_runtime.lab.doctor.device import Device
from edge_runtime.lab.doctor.findings import Found, check
from edge_runtime.lab.doctor.storage import nvme_links

_GEN2 = 5.0


@check(
    "link-slow", "warning", "an NVMe link trained below what drive and slot both can",
    why="Bandwidth of misses falls in proportion. Worn connectors, risers and long cables are the usual causes.",
    fix="reseat the drive, try another slot or cable; then compare with: sudo lspci -vv | grep LnkSta", where="NVMe",
)  # fmt: skip
def link_slow(device: Device) -> Iterator[Found]:
    """The negotiated speed or width is below both ends' maximum."""
    for link in nvme_links(device):
        speed, width = _least(link.drive_speed, link.port_speed), _least(link.drive_width, link.port_width)
        is_slow = not device.is_pi and link.speed is not None and speed is not None and link.speed < speed
        is_narrow = link.width is not None and width is not None and link.width < width
        if is_slow or is_narrow:
            yield Found(f"{link.name} runs at {_shown(link.speed, link.width)} of {_shown(speed, width)}")


@check(
    "slot-narrow", "warning", "an NVMe drive in a slot with fewer lanes than it has",
    why="Half the lanes are half the bandwidth of misses. The M.2 slots of a carrier board often differ: the developer "
    "kit of Orin Nano has one with four lanes and one with two.",
    fix="put the drive into the slot with four lanes", where="NVMe, not Raspberry Pi",
)  # fmt: skip
def slot_narrow(device: Device) -> Iterator[Found]:
    """The port has fewer lanes than the drive."""
    for link in nvme_links(device):
        if not device.is_pi and link.port_width and link.drive_width and link.port_width < link.drive_width:
            yield Found(f"{link.name} has {link.drive_width} lanes, its slot {link.port_width}")


@check(
    "pi-gen2", "warning", "a Raspberry Pi 5 whose PCIe runs at Gen2 though the drive can more",
    why="Gen3 doubles the rate of the link, and misses wait for it. The maker does not certify it.",
    fix="add dtparam=pciex1_gen=3 to /boot/firmware/config.txt, then reboot", where="Raspberry Pi 5",
)  # fmt: skip
def pi_gen2(device: Device) -> Iterator[Found]:
    """The link runs at 5 GT/s."""
    for link in nvme_links(device):
        if device.is_pi and link.speed == _GEN2 and (link.drive_speed or 0) > _GEN2:
            yield Found(
                f"{link.name} runs at {_shown(link.speed, link.width)}; the drive can {link.drive_speed:g} GT/s"
            )


@check(
    "link-sleeps", "warning", "PCIe power saving that puts links to sleep",
    why="Waking a link takes tens of microseconds, before every read that comes alone.",
    fix="echo default | sudo tee /sys/module/pcie_aspm/parameters/policy",
)  # fmt: skip
def link_sleeps(device: Device) -> Iterator[Found]:
    """The ASPM policy is powersave or powersupersave."""
    policy = device.chosen("sys/module/pcie_aspm/parameters/policy")
    if policy.startswith("power") and device.glob("sys/class/nvme/nvme*"):
        yield Found(f"the ASPM policy is {policy}")


def _least(*values: float | None) -> float | None:
    known = [value for value in values if value is not None]
    return min(known) if known else None


def _shown(speed: float | None, width: float | None) -> str:
    return f"{'?' if speed is None else f'{speed:g}'} GT/s x{'?' if width is None else f'{width:g}'}"
