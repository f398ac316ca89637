"""Trees of /proc, /sys and /etc as boards have them, clean ones: for `--profile auto`, `hobbit doctor`, power meters.

Values are those that owners of such boards quote in public threads, and of NVIDIA's and Raspberry Pi's documentation.
"""

from __future__ import annotations

from pathlib import Path

MIB = 1 << 20


LINK = "-> "
"""Begins the text of what becomes a symbolic link."""
GONE = "gone"
"""The text of what is taken out of a tree."""


def plant(root: Path, files: dict[str, str | bytes]) -> Path:
    """Write files, links and nodes into a tree, or take them out."""
    for name, text in files.items():
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        if path.is_symlink() or path.exists():
            path.unlink()
        if isinstance(text, bytes):
            path.write_bytes(text)
        elif text.startswith(LINK):
            path.symlink_to(text.removeprefix(LINK))
        elif text != GONE:
            path.write_text(text)
            path.chmod(0o660 if name.startswith("dev/") else 0o644)
    return root


def meminfo(total_kib: int, **more: int) -> str:
    fields = {"MemTotal": total_kib, "MemFree": total_kib // 2, "MemAvailable": total_kib * 8 // 10, **more}
    return "".join(f"{name}: {size} kB\n" for name, size in fields.items())


def identity(compatible: str, model: str, total_kib: int, l4t: str = "") -> dict[str, str]:
    """What a board says about itself. `compatible`: entries separated by spaces."""
    files = {"proc/meminfo": meminfo(total_kib)}
    if compatible:
        files["proc/device-tree/compatible"] = compatible.replace(" ", "\0") + "\0"
    if model:
        files["proc/device-tree/model"] = model + "\0"
    if l4t:
        release, revision = l4t.split(".", 1)
        text = f"# R{release} (release), REVISION: {revision}, GCID: 38968081, BOARD: generic, EABI: aarch64"
        files["etc/nv_tegra_release"] = text + ", DATE: Wed Jan  8 01:49:37 UTC 2025\n"
    return files


_KIT = "Engineering Reference Developer Kit"
BOARDS: dict[str, dict[str, str]] = {
    "orin-nano-4gb": identity(
        "nvidia,p3768-0000+p3767-0004 nvidia,p3767-0004 nvidia,tegra234",
        f"NVIDIA Jetson Orin Nano {_KIT}", 3_600_000, "36.4.3"),
    "orin-nano-8gb": identity(
        "nvidia,p3768-0000+p3767-0005 nvidia,p3767-0005 nvidia,tegra234",
        "NVIDIA Jetson Orin Nano Developer Kit", 7_620_000, "36.3.0"),
    "orin-nano-8gb-super": identity(
        "nvidia,p3768-0000+p3767-0005-super nvidia,p3767-0005 nvidia,tegra234",
        f"NVIDIA Jetson Orin Nano {_KIT} Super", 7_619_468, "39.2.1"),
    "orin-nx-8gb": identity(
        "nvidia,p3768-0000+p3767-0001 nvidia,p3767-0001 nvidia,tegra234",
        f"NVIDIA Jetson Orin NX {_KIT}", 7_620_000, "36.4.3"),
    "orin-nx-16gb": identity(
        "nvidia,p3768-0000+p3767-0000-super nvidia,p3767-0000 nvidia,tegra234",
        f"NVIDIA Jetson Orin NX {_KIT} Super", 16_050_000, "36.4.3"),
    "agx-orin-32gb": identity(
        "nvidia,p3737-0000+p3701-0000 nvidia,p3701-0000 nvidia,tegra234",
        "NVIDIA Jetson AGX Orin Developer Kit", 31_300_000, "36.4.3"),
    "agx-orin-64gb": identity(
        "nvidia,p3737-0000+p3701-0005 nvidia,p3701-0005 nvidia,tegra234",
        "NVIDIA Jetson AGX Orin Developer Kit", 64_400_000, "36.4.3"),
    "agx-thor": identity(
        "nvidia,p4071-0000+p3834-0008 nvidia,p3834-0008 nvidia,tegra264",
        "NVIDIA Jetson AGX Thor Developer Kit", 125_800_000, "38.4.0"),
    "raspberry-pi-5-8gb": identity("raspberrypi,5-model-b brcm,bcm2712", "Raspberry Pi 5 Model B Rev 1.0", 8_256_000),
    "raspberry-pi-5-16gb": identity("raspberrypi,5-model-b brcm,bcm2712", "Raspberry Pi 5 Model B Rev 1.1", 16_600_000),
    "rk3588": identity("radxa,rock-5b rockchip,rk3588", "Radxa ROCK 5B", 16_200_000),
}  # fmt: skip
"""By the name of the profile that `--profile auto` has to find."""
