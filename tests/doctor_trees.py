"""Whole trees of well-kept boards, in which `hobbit doctor` finds nothing, and traps to plant in them."""

from __future__ import annotations

from pathlib import Path

from board_identities import BOARDS, GONE, LINK, meminfo, plant

BUNDLE = Path("/mnt/nvme/bundle")
PACKAGES = "usr/lib/python3.10/dist-packages"
LIBRARIES = "usr/lib/aarch64-linux-gnu"
UNIT = "etc/systemd/system/hobbit.service"
_PCI = "sys/devices/platform/14160000.pcie/pci0004:00/0004:00:00.0"
_END = f"{_PCI}/0004:01:00.0"
_NVME, _BLOCK = f"{_END}/nvme/nvme0", f"{_END}/nvme/nvme0/nvme0n1"
_LIMITS = """Limit                     Soft Limit           Hard Limit           Units
Max open files            {files:<20} 1048576              files
Max locked memory         {locked:<20} unlimited            bytes
"""


def limits(files: str = "1024", locked: str = "unlimited") -> str:
    return _LIMITS.format(files=files, locked=locked)


def mountinfo(kind: str = "ext4", source: str = "/dev/nvme0n1p1", options: str = "rw", device: str = "259:1") -> str:
    """A root on an SD card and, at /mnt/nvme, what holds the bundle."""
    root = "25 1 179:2 / / rw,noatime - ext4 /dev/mmcblk0p2 rw\n"
    return f"{root}90 25 {device} / /mnt/nvme rw,noatime - {kind} {source} {options}\n"


def link(speed: str, width: int, most_speed: str = "16.0", most_width: int = 4, port: tuple[str, int] = ("16.0", 4)):
    """The negotiated link of the NVMe drive, what the drive can, and what the slot can."""
    return {
        f"{_END}/current_link_speed": f"{speed} GT/s PCIe\n", f"{_END}/current_link_width": f"{width}\n",
        f"{_END}/max_link_speed": f"{most_speed} GT/s PCIe\n", f"{_END}/max_link_width": f"{most_width}\n",
        f"{_PCI}/max_link_speed": f"{port[0]} GT/s PCIe\n", f"{_PCI}/max_link_width": f"{port[1]}\n",
    }  # fmt: skip


def _common(cores: int) -> dict[str, str | bytes]:
    """What every clean board has."""
    files: dict[str, str | bytes] = {
        "proc/self/status": "Name:\tpython3\nUid:\t1000\t1000\t1000\t1000\nGroups:\t44 104 1000 \n",
        "proc/self/limits": limits(), "proc/self/mountinfo": mountinfo(), "proc/self/smaps": "KernelPageSize:        4 kB\n",
        "proc/self/cgroup": "0::/user.slice\n", "proc/cmdline": "root=/dev/mmcblk0p2 rootwait quiet\n",
        "proc/cgroups": "#subsys_name\thierarchy\tnum_cgroups\tenabled\nmemory\t0\t80\t1\n",
        "proc/stat": "cpu  1 2 3\nbtime 1795900000\n", "proc/sys/vm/swappiness": "60\n",
        "proc/swaps": "Filename Type Size Used Priority\n/mnt/nvme/swapfile file 8388604 0 -2\n",
        "proc/sys/vm/overcommit_memory": "0\n", "proc/sys/kernel/io_uring_disabled": "0\n",
        "proc/cpuinfo": "processor\t: 0\nFeatures\t: fp asimd aes atomics asimdrdm asimddp\nCPU implementer\t: 0x41\n",
        "proc/1/comm": "systemd\n", "proc/1/status": "Name:\tsystemd\nVmRSS:\t12000 kB\n",
        "etc/group": "root:x:0:\nvideo:x:44:me\nrender:x:104:me\n",
        "sys/kernel/mm/transparent_hugepage/enabled": "always [madvise] never\n",
        "sys/module/pcie_aspm/parameters/policy": "[default] performance powersave powersupersave\n",
        "sys/class/nvme/nvme0": f"{LINK}../../../{_NVME}", f"{_NVME}/device": f"{LINK}../..",
        f"{_NVME}/hwmon1/temp1_input": "48000\n", f"{_NVME}/hwmon1/temp1_max": "83850\n",
        f"{_BLOCK}/queue/scheduler": "[none] mq-deadline kyber\n", f"{_BLOCK}/queue/rotational": "0\n",
        f"{_BLOCK}/nvme0n1p1/partition": "1\n", "sys/block/nvme0n1": f"{LINK}../../{_BLOCK}",
        "sys/dev/block/259:1": f"{LINK}../../../{_BLOCK}/nvme0n1p1",
        "sys/devices/system/cpu/present": f"0-{cores - 1}\n", "sys/devices/system/cpu/online": f"0-{cores - 1}\n",
        "sys/devices/system/cpu/cpu0/cpufreq/scaling_driver": "tegra194\n",
        "sys/class/thermal/thermal_zone0/type": "cpu-thermal\n", "sys/class/thermal/thermal_zone0/temp": "51000\n",
        "sys/class/thermal/thermal_zone0/trip_point_0_type": "passive\n",
        "sys/class/thermal/thermal_zone0/trip_point_0_temp": "99000\n",
        "mnt/nvme/bundle/manifest.json": "{}",
        f"{PACKAGES}/onnxruntime-1.23.0.dist-info/WHEEL": "Tag: cp310-cp310-manylinux_2_27_aarch64\n",
    }  # fmt: skip
    for core in range(cores):
        files[f"sys/devices/system/cpu/cpu{core}/cpufreq/scaling_governor"] = "schedutil\n"
        files[f"sys/devices/system/cpu/cpu{core}/cpu_capacity"] = "1024\n"
    return files | link("16.0", 4)


def _jetson(cores: int, kernel: str, modes: str, mode: int, gpu: str = "17000000.gpu") -> dict[str, str | bytes]:
    """What a clean Jetson has besides. `modes`: names of nvpmodel.conf, by id."""
    conf = "".join(f"< POWER_MODEL ID={i} NAME={name} >\n" for i, name in enumerate(modes.split()))
    return _common(cores) | {
        "proc/sys/kernel/osrelease": f"{kernel}-tegra\n", "etc/nvpmodel.conf": conf,
        "var/lib/nvpmodel/status": f"pmode:{mode:04d} fmode:cool\n",
        "dev/nvhost-gpu": "", "dev/nvmap": "", f"sys/class/devfreq/{gpu}/min_freq": "918000000\n",
        f"sys/class/devfreq/{gpu}/max_freq": "918000000\n",
        "sys/class/hwmon/hwmon3/name": "ina3221\n", "sys/class/hwmon/hwmon3/oc1_event_cnt": "0\n",
        "proc/buddyinfo": "Node 0, zone   Normal    900    800    700    600    500    400    300    200    100     90    700 \n",
        f"{LIBRARIES}/nvidia/libcuda.so.1": "", f"{LIBRARIES}/libnvinfer.so.10": "",
        f"{LIBRARIES}/nvidia/libnvdla_compiler.so": "",
        UNIT: "[Service]\nMemoryMax=85%\nPrivateDevices=no\n",
    }  # fmt: skip


_PI_FILES = {
    "sys/devices/platform/soc@107c000000/soc@107c000000:firmware/get_throttled": "0\n",
    "proc/device-tree/chosen/power/max_current": (5000).to_bytes(4, "big"),
    UNIT: "[Service]\nMemoryMax=85%\nPrivateDevices=yes\n",
}
CLEAN: dict[str, dict[str, str | bytes]] = {
    "orin-nano-8gb-super": _jetson(6, "6.8.12", "15W 25W MAXN_SUPER", 1) | link("8.0", 4, port=("8.0", 4)),
    "orin-nx-16gb": _jetson(8, "5.15.148", "MAXN_SUPER 10W 15W 25W 40W", 4),
    "agx-orin-64gb": _jetson(12, "5.15.148", "MAXN 15W 30W 50W", 0),
    "agx-thor": _jetson(14, "6.8.12", "MAXN 120W", 1, "gpu-gpc-0") | link("32.0", 4, "32.0", port=("32.0", 4)),
    "raspberry-pi-5-8gb": _common(4) | _PI_FILES | link("8.0", 1, "8.0", 4, ("8.0", 1)),
}
"""By profile."""
GPU_NODES_GONE = {"dev/nvhost-gpu": GONE, "dev/nvmap": GONE}


def build(root: Path, board: str, changes: dict[str, str | bytes] | None = None) -> Path:
    """Write a clean board, and what a trap changes in it."""
    return plant(root, {**BOARDS[board], **CLEAN[board], **(changes or {})})


def throttled(bits: int) -> dict[str, str | bytes]:
    return {next(iter(_PI_FILES)): f"{bits:x}\n"}


def block_on(name: str, parent: str, *, rotational: int = 0, uuid: str = "") -> dict[str, str | bytes]:
    """The bundle's drive is another one, below `parent` in /sys/devices."""
    folder = f"sys/devices/{parent}/block/{name}"
    files: dict[str, str | bytes] = {
        f"{folder}/queue/rotational": f"{rotational}\n", "sys/dev/block/8:1": f"{LINK}../../../{folder}",
        f"sys/class/block/{name}": f"{LINK}../../../{folder}",
        "proc/self/mountinfo": mountinfo(source=f"/dev/{name}", device="8:1"),
    }  # fmt: skip
    return files | ({f"{folder}/dm/uuid": f"{uuid}\n"} if uuid else {})


def package(name: str, tag: str = "cp310-cp310-linux_aarch64", by: str = "pip") -> dict[str, str | bytes]:
    return {
        f"{PACKAGES}/{name}.dist-info/{file}": text for file, text in (("WHEEL", f"Tag: {tag}\n"), ("INSTALLER", by))
    }


def memory(kib: int, **more: int) -> dict[str, str | bytes]:
    return {"proc/meminfo": meminfo(kib, **more)}
