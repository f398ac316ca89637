"""Is it known what this board is, and does its software belong together?"""

from __future__ import annotations

from collections.abc import Iterator

from edge_runtime.config.profiles import DEFAULT_PROFILE
from edge_runtime.lab.doctor.device import Device
from edge_runtime.lab.doctor.findings import Found, check

_OLDEST, _KNOWN = 36, (36, 38, 39)
"""Releases of Jetson Linux: JetPack 6, 7.0 and 7.1, 7.2."""
_KERNELS = {36: "5.15.", 38: "6.8.", 39: "6.8."}
_NANO = ("nvidia,p3767-0003", "nvidia,p3767-0004", "nvidia,p3767-0005")
_SUPER_SINCE = (36, 4, 3)


@check(
    "board-unknown", "warning", "a board with a device tree for which no profile is packaged",
    why="Memory left to the system, context and rates are then the generic ones, which no board is like.",
    fix="copy a profile that is near, change it, and give it as --profile FILE (docs/profiles.md)",
    where="boards with a device tree",
)  # fmt: skip
def board_unknown(device: Device) -> Iterator[Found]:
    """The device tree names a board and no profile matches."""
    if device.board.model and device.profile.name == DEFAULT_PROFILE:
        yield Found(f"no profile matches {device.board.model!r} with {(device.board.memory_bytes >> 20)} MiB")


@check(
    "l4t-unknown", "warning", "a Jetson without /etc/nv_tegra_release",
    why="Which CUDA, TensorRT and kernel driver fit follows from the release of Jetson Linux. In a container that "
    "lacks the file, libraries of another release are found too late.",
    fix="docker run -v /etc/nv_tegra_release:/etc/nv_tegra_release:ro ...", where="Jetson",
)  # fmt: skip
def l4t_unknown(device: Device) -> Iterator[Found]:
    """The device tree says Jetson, and no file says which release."""
    if device.is_jetson and not device.board.l4t:
        yield Found("/etc/nv_tegra_release is missing or names no release")


@check(
    "l4t-untested", "error", "a release of Jetson Linux before R36 (JetPack 6), or one nobody has tried",
    why="JetPack 5 has Python 3.8 and CUDA 11, which this program does not support.",
    fix="flash JetPack 6.2 (R36.4) or 7.2 (R39)", where="Jetson",
)  # fmt: skip
def l4t_untested(device: Device) -> Iterator[Found]:
    """The release is too old, or unknown here."""
    release = device.board.l4t
    if release and release[0] not in _KNOWN:
        age = "older than R36" if release[0] < _OLDEST else "unknown to this version"
        yield Found(f"Jetson Linux R{_dotted(release)} is {age}")


@check(
    "l4t-mixed", "error", "a kernel of another release than Jetson Linux's libraries",
    why="After half an upgrade, or in a container of another JetPack, the GPU is not recognised and programs compute "
    "on the CPU without a word.",
    fix="finish the upgrade (sudo apt full-upgrade, reboot), or take the container image of the host's release",
    where="Jetson",
)  # fmt: skip
def l4t_mixed(device: Device) -> Iterator[Found]:
    """R36 has kernel 5.15, R38 and R39 have 6.8."""
    kernel, release = device.words("proc/sys/kernel/osrelease"), device.board.l4t
    expected = _KERNELS.get(release[0]) if release else None
    if expected and kernel and not kernel.startswith(expected):
        yield Found(f"Jetson Linux R{_dotted(release)} belongs to kernel {expected}x; this one is {kernel}")


@check(
    "not-super", "warning", "an Orin Nano whose firmware is not the Super one, though its release has it",
    why="Super firmware raises memory from 68 to 102 GB/s (4 GB: 34 to 51) and the clocks of CPU and GPU, on the same "
    "hardware.",
    fix="flash with the configuration jetson-orin-nano-devkit-super, then sudo nvpmodel -m 1 (25W)",
    where="Orin Nano",
)  # fmt: skip
def not_super(device: Device) -> Iterator[Found]:
    """JetPack 6.2 or later on a device tree without -super."""
    board = device.board
    if board.l4t >= _SUPER_SINCE and not board.is_super and any(name in _NANO for name in board.compatible):
        yield Found(f"R{_dotted(board.l4t)} could run in Super mode; the device tree is the plain one")


@check(
    "clock-wrong", "warning", "a system clock that is years behind",
    why="Boards without a battery start in the past until the network sets the clock. Certificates then count as not "
    "yet valid, and reports are dated wrongly.",
    fix="sudo timedatectl set-ntp true",
)  # fmt: skip
def clock_wrong(device: Device) -> Iterator[Found]:
    """The kernel dates the start of the machine before this program existed."""
    line = next((line for line in device.text("proc/stat").splitlines() if line.startswith("btime ")), "")
    seconds = int(line.split()[1]) if len(line.split()) == 2 and line.split()[1].isdigit() else None
    if seconds is not None and seconds < 1_735_689_600:  # 2025-01-01
        yield Found(f"the machine believes it was started {seconds // 31_557_600 + 1970}")


def _dotted(release: tuple[int, ...]) -> str:
    return ".".join(map(str, release))
