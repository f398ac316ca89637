"""Processor, page size, limits of the process, and the service's unit."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

from edge_runtime.lab.doctor.device import Device
from edge_runtime.lab.doctor.findings import Found, check

_NEEDED = {"aarch64": ("Features", "asimddp", "the dot product of ARMv8.2"), "x86_64": ("flags", "avx2", "AVX2")}
_LEAST_FILES = 512
_UNIT = "etc/systemd/system/hobbit.service"


@check(
    "slow-kernels", "warning", "a processor without the instructions the kernels want",
    why="Plain C++ computes then, several times slower.",
    fix="take a processor with the dot product (Cortex-A55, A76 and later) or AVX2; in a VM, the host's CPU model",
)  # fmt: skip
def slow_kernels(device: Device) -> Iterator[Found]:
    """The features of /proc/cpuinfo lack asimddp, or avx2."""
    field, flag, name = _NEEDED.get(device.board.machine, ("", "", ""))
    lines = [line for line in device.text("proc/cpuinfo").splitlines() if field and line.startswith(field)]
    if lines and flag not in lines[0].split():
        yield Found(f"{flag} ({name}) is missing")


@check(
    "large-pages", "warning", "a kernel with memory pages above 4 KiB",
    why="Slots of experts begin every 4 KiB. Pages two of them share cannot be given back; nobody has measured this.",
    fix="Raspberry Pi 5: kernel=kernel8.img in /boot/firmware/config.txt, then reboot",
)  # fmt: skip
def large_pages(device: Device) -> Iterator[Found]:
    """KernelPageSize of this process, as Raspberry Pi OS has 16 KiB on a Pi 5."""
    found = re.search(r"^KernelPageSize:\s+(\d+) kB", device.text("proc/self/smaps"), re.MULTILINE)
    if found and int(found[1]) > 4:
        yield Found(f"pages have {found[1]} KiB")


@check(
    "open-files", "warning", "a limit of fewer than 512 open files",
    why="A bundle has a file for each layer, and the service a socket for each client.",
    fix="ulimit -n 4096; in the unit: LimitNOFILE=4096",
)  # fmt: skip
def open_files(device: Device) -> Iterator[Found]:
    """The soft limit of this process."""
    limit = device.limit("Max open files")
    if limit is not None and limit < _LEAST_FILES:
        yield Found(f"at most {limit} files may be open")


@check(
    "private-devices", "error", "PrivateDevices=yes in the service's unit on a machine with a GPU",
    why="systemd then hides the GPU's device files from the service, which computes on the CPU.",
    fix="sudo systemctl edit hobbit: [Service] PrivateDevices=no, with DeviceAllow= for the nodes",
    where="with an NVIDIA GPU",
)  # fmt: skip
def private_devices(device: Device) -> Iterator[Found]:
    """The last word of the unit and its drop-ins."""
    said, where = "", ""
    for path in [Path(_UNIT), *(p.relative_to(device.root) for p in device.glob(f"{_UNIT}.d/*.conf"))]:
        values = re.findall(r"^PrivateDevices=(\S*)", device.text(path), re.MULTILINE)
        said, where = (values[-1], path.name) if values else (said, where)
    if device.has_gpu_nodes and said.lower() in ("yes", "true", "on", "1"):
        yield Found(f"{where} says PrivateDevices={said}")


@check(
    "service-limit", "warning", "a MemoryMax= of the service below a quarter of the machine",
    why="The planner reads the limit back and caches that much less; most of the machine stays unused.",
    fix="sudo systemctl edit hobbit: [Service] MemoryMax=85%",
)  # fmt: skip
def service_limit(device: Device) -> Iterator[Found]:
    """The last MemoryMax= of the unit and its drop-ins."""
    texts = [device.text(path) for path in (Path(_UNIT), *device.glob(f"{_UNIT}.d/*.conf"))]
    values = re.findall(r"^MemoryMax=(\d+(?:\.\d+)?)([KMGT%]?)", "\n".join(texts), re.MULTILINE)
    total = device.meminfo("MemTotal")
    if not values or not total:
        return
    number, unit = float(values[-1][0]), values[-1][1]
    share = number / 100 if unit == "%" else number * 1024 ** " KMGT".index(unit or " ") / total
    if share < 0.25:
        yield Found(f"MemoryMax={values[-1][0]}{unit} is {100 * share:.0f} % of the machine")
