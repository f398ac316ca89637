"""Who takes memory from the experts, and what makes large allocations fail."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from edge_runtime.base.sizes import GIB, MIB, format_size
from edge_runtime.lab.doctor.device import Device
from edge_runtime.lab.doctor.findings import Found, check

_DESKTOPS = ("Xorg", "Xwayland", "gnome-shell", "gdm3", "gdm-x-session", "lightdm", "sddm", "labwc", "wayfire")
_SMALL = 20 * GIB
_HUGE_ORDER, _PAGE = 9, 4096
_NVMAP_BROKEN = (36, 4, 7)


@check(
    "zram", "warning", "swap on zram",
    why="Compressed swap lies in the memory that experts need, and compressing takes a core while tokens wait.",
    fix="sudo systemctl disable --now nvzramconfig && sudo swapoff -a",
)  # fmt: skip
def zram(device: Device) -> Iterator[Found]:
    """A swap area is a zram device."""
    sizes = [size for name, size in _swaps(device) if "/zram" in name]
    if sizes:
        other = (
            ""
            if device.is_jetson
            else "sudo systemctl disable --now zramswap systemd-zram-setup@zram0; sudo swapoff -a"
        )
        yield Found(f"{len(sizes)} areas on zram hold up to {format_size(sum(sizes))}", other)


@check(
    "swap-on-card", "warning", "swap on an SD card, eMMC or USB stick",
    why="Such drives are slow at single pages, and a token touches thousands of them.",
    fix="put the swap file on the NVMe drive: sudo swapoff -a, then change /etc/fstab",
)  # fmt: skip
def swap_on_card(device: Device) -> Iterator[Found]:
    """A swap area lies on mmcblk or on a disk behind USB."""
    for name, size in _swaps(device):
        block = (device.root / "sys/class/block" / name.rpartition("/")[2]).resolve()
        if "/mmcblk" in name or "/usb" in str(block.relative_to(device.root.resolve())):
            yield Found(f"{name} ({format_size(size)})")


@check(
    "swappiness", "warning", "vm.swappiness of 100 or more, with swap",
    why="The kernel then prefers to swap out experts over dropping file pages it can read again.",
    fix="sudo sysctl -w vm.swappiness=10 && echo vm.swappiness=10 | sudo tee /etc/sysctl.d/90-hobbit.conf",
)  # fmt: skip
def swappiness(device: Device) -> Iterator[Found]:
    """As set-ups for zram leave it."""
    value = device.number("proc/sys/vm/swappiness")
    if value is not None and value >= 100 and list(_swaps(device)):
        yield Found(f"vm.swappiness is {value}")


@check(
    "desktop", "warning", "a desktop session on a machine with less than 20 GiB",
    why="It takes about 800 MB that experts could have.",
    fix="sudo systemctl set-default multi-user.target && sudo reboot", where="up to 20 GiB of memory",
)  # fmt: skip
def desktop(device: Device) -> Iterator[Found]:
    """A display server or a session manager runs."""
    if (device.meminfo("MemTotal") or _SMALL) >= _SMALL:
        return
    running = sorted({name for _, name in device.process_names() if name in _DESKTOPS})
    if running:
        yield Found(f"running: {', '.join(running)}")


@check(
    "memory-taken", "warning", "less than half of the memory available",
    why="Experts get what is available. Something else than `hobbit serve` holds the rest.",
    fix="stop what is named, or give the model its memory first",
)  # fmt: skip
def memory_taken(device: Device) -> Iterator[Found]:
    """MemAvailable, and what services of ours hold, is below half of MemTotal; names the largest processes."""
    total, left = device.meminfo("MemTotal"), device.meminfo("MemAvailable")
    if left is not None:
        left += sum(_of_our_services(device))
    if total and left is not None and left < total // 2:
        largest = ", ".join(f"{name} {format_size(size)}" for size, name in _largest(device)[:3])
        yield Found(
            f"{format_size(left)} of {format_size(total)} are available{'; largest: ' if largest else ''}{largest}"
        )


@check(
    "nvmap-held", "warning", "more than a tenth of the memory held by the GPU driver (NvMap)",
    why="On unified memory it is missing for experts, and MemAvailable does not say who has it. What crashed programs "
    "left behind is freed by a reboot alone.",
    fix="stop other programs that use the GPU; if it stays, sudo reboot", where="Jetson",
)  # fmt: skip
def nvmap_held(device: Device) -> Iterator[Found]:
    """NvMapMemUsed of /proc/meminfo; while a service of ours runs it may all be that one's, so nothing is said."""
    used, total = device.meminfo("NvMapMemUsed"), device.meminfo("MemTotal")
    if _of_our_services(device):
        return
    if used and total and used > total // 10:
        yield Found(f"NvMapMemUsed is {format_size(used)} of {format_size(total)}")


@check(
    "fragmented", "warning", "hardly any free memory in large blocks",
    why="NvMap then fails with error 12 though memory is free, and experts get small pages, which costs speed.",
    fix="echo 1 | sudo tee /proc/sys/vm/compact_memory; if that does not help, sudo reboot", where="Jetson",
)  # fmt: skip
def fragmented(device: Device) -> Iterator[Found]:
    """Of at least 1 GiB that is free, less than a sixteenth lies in blocks of 2 MiB and more."""
    free = large = 0
    for line in device.text("proc/buddyinfo").splitlines():
        counts = [int(word) for word in line.partition("zone")[2].split()[1:] if word.isdigit()]
        sizes = [count * _PAGE << order for order, count in enumerate(counts)]
        free, large = free + sum(sizes), large + sum(sizes[_HUGE_ORDER:])
    if device.is_jetson and free >= GIB and large < free // 16:
        yield Found(f"{format_size(large)} of {format_size(free)} free memory lie in blocks of 2 MiB and more")


@check(
    "nvmap-refuses", "warning", "Jetson Linux R36.4.7",
    why="Its fix of CVE-2025-33177 makes NvMap refuse large allocations (error 12) with memory free. Experts are taken "
    "in blocks of 128 MiB; other GPU programs beside them may fail.",
    fix="sudo apt update && sudo apt full-upgrade, to a release after R36.4.7", where="Jetson",
)  # fmt: skip
def nvmap_refuses(device: Device) -> Iterator[Found]:
    """The release is known for it (llama.cpp pull request 23732)."""
    if device.board.l4t == _NVMAP_BROKEN:
        yield Found("this is Jetson Linux R36.4.7")


@check(
    "strict-overcommit", "warning", "vm.overcommit_memory = 2",
    why="Address space then counts as memory in use, and the experts' arena is refused long before memory is short.",
    fix="sudo sysctl -w vm.overcommit_memory=0",
)  # fmt: skip
def strict_overcommit(device: Device) -> Iterator[Found]:
    """The kernel grants no more address space than memory and swap."""
    if device.number("proc/sys/vm/overcommit_memory") == 2:
        yield Found("vm.overcommit_memory is 2")


@check(
    "huge-pages-off", "warning", "transparent huge pages switched off",
    why="Experts are megabytes in a row: with pages of 4 KiB each is hundreds of TLB misses.",
    fix="echo madvise | sudo tee /sys/kernel/mm/transparent_hugepage/enabled",
)  # fmt: skip
def huge_pages_off(device: Device) -> Iterator[Found]:
    """transparent_hugepage is set to never."""
    if device.chosen("sys/kernel/mm/transparent_hugepage/enabled") == "never":
        yield Found("transparent_hugepage/enabled is never")


@check(
    "cgroup-memory-off", "warning", "a kernel started without the memory cgroup",
    why="MemoryMax= of the service has no effect: a runaway request takes the whole machine down.",
    fix="add cgroup_enable=memory to /boot/firmware/cmdline.txt, then reboot",
)  # fmt: skip
def cgroup_memory_off(device: Device) -> Iterator[Found]:
    """As Raspberry Pi OS has it: cgroup_disable=memory, and nothing that takes it back."""
    words = device.words("proc/cmdline").split()
    lines = [line.split() for line in device.text("proc/cgroups").splitlines()]
    states = [line[3] for line in lines if len(line) == 4 and line[0] == "memory"]
    is_off = "cgroup_disable=memory" in words and "cgroup_enable=memory" not in words
    if "0" in states or (is_off and "1" not in states):
        yield Found("the kernel's memory controller is disabled")


def _swaps(device: Device) -> Iterator[tuple[str, int]]:
    """Name and size in bytes of each swap area."""
    for line in device.text("proc/swaps").splitlines()[1:]:
        fields = line.split()
        if len(fields) >= 3 and fields[2].isdigit():
            yield fields[0], int(fields[2]) << 10


def _processes(device: Device) -> Iterator[tuple[int, str, Path]]:
    """Resident set, name and folder of each process."""
    for path in device.glob("proc/[0-9]*/status"):
        fields = dict(line.split(":", 1) for line in device.text(path).splitlines() if ":" in line)
        size = fields.get("VmRSS", "").split()
        if size and size[0].isdigit():
            yield int(size[0]) << 10, fields.get("Name", "?").strip(), path.parent


def _largest(device: Device) -> list[tuple[int, str]]:
    """Resident sets of processes, the largest first; those of at least 64 MiB."""
    return sorted(((size, name) for size, name, _ in _processes(device) if size >= 64 * MIB), reverse=True)


def _of_our_services(device: Device) -> list[int]:
    """Resident sets of the `hobbit serve` that run here: the installer calls the doctor when the service is up."""
    return [
        size
        for size, name, folder in _processes(device)
        if name == "hobbit" and "serve" in device.text(folder / "cmdline").split("\0")
    ]
