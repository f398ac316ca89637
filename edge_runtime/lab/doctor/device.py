"""Device: what a machine says about itself in /proc, /sys, /etc and /dev, below any root. Nothing else is asked.

Checks are pure functions of it, so that fake trees test them, and a copy of another machine's files can be looked at.
"""

from __future__ import annotations

import os
import re
import sys
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path

from edge_runtime.config.boards import BoardFacts, identify, read_board
from edge_runtime.config.device_profile import DeviceProfile
from edge_runtime.telemetry.hardware import meminfo

_MAX_TEXT = 1 << 20
_NOTHING: Mapping[str, str] = {}


@dataclass(frozen=True)
class Device:
    """A machine's files.

    Attributes:
        root: where they are; / for this machine.
        bundle: the model's folder, as a path of that machine; None: none was named.
        environ: variables of this process; empty for copies of other machines.
        machine: as `uname -m` says it; None: that of this machine.
        site_packages: folders below the root in which Python packages lie.
    """

    root: Path = Path("/")
    bundle: Path | None = None
    environ: Mapping[str, str] = field(default_factory=lambda: _NOTHING)
    machine: str | None = None
    site_packages: tuple[str, ...] = ()

    @staticmethod
    def here(bundle: Path | None = None) -> Device:
        """Return this machine."""
        packages = tuple(path.lstrip("/") for path in sys.path if path.endswith("-packages"))
        return Device(Path("/"), bundle and bundle.resolve(), dict(os.environ), None, packages)

    @staticmethod
    def copied(root: Path, bundle: Path | None = None) -> Device:
        """Return a machine of which there is a copy of its files; /proc/cpuinfo says what kind it is."""
        found = Device(root, bundle)
        is_arm = "CPU implementer" in found.text("proc/cpuinfo") or found.exists("proc/device-tree/compatible")
        packages = [
            path.relative_to(root).as_posix()
            for pattern in (
                "usr/lib/python3*/*-packages",
                "usr/local/lib/python3*/*-packages",
                "opt/*/lib/python3*/*-packages",
            )
            for path in found.glob(pattern)
        ]
        return Device(root, bundle, {}, "aarch64" if is_arm else "x86_64", tuple(packages))

    @cached_property
    def board(self) -> BoardFacts:
        """What the machine is."""
        return read_board(self.root, self.machine)

    @cached_property
    def profile(self) -> DeviceProfile:
        """The profile that `--profile auto` takes."""
        return identify(self.board).profile

    @property
    def is_jetson(self) -> bool:
        """See `BoardFacts.is_jetson`."""
        return self.board.is_jetson

    @property
    def is_pi(self) -> bool:
        """Whether it is a Raspberry Pi."""
        return any(name.startswith("raspberrypi,") for name in self.board.compatible)

    @property
    def is_in_container(self) -> bool:
        """Whether this runs in a container of Docker or Podman."""
        return self.exists(".dockerenv") or self.exists("run/.containerenv")

    @property
    def has_gpu_nodes(self) -> bool:
        """Whether there are device files of an NVIDIA GPU."""
        return bool(self.gpu_nodes)

    @cached_property
    def gpu_nodes(self) -> list[Path]:
        """Device files a CUDA program opens, of which the driver's name begins these."""
        names = ("dev/nvhost-gpu", "dev/nvmap", "dev/nvgpu", "dev/nvidiactl", "dev/nvidia0")
        return [self.root / name for name in names if self.exists(name)]

    def text(self, path: str | Path) -> str:
        """Return a file's text, at most 1 MiB; "" where it cannot be read."""
        try:
            with open(self.root / path, "rb") as file:
                return file.read(_MAX_TEXT).decode(errors="replace")
        except OSError:
            return ""

    def words(self, path: str | Path) -> str:
        """Return a short file's text without what surrounds it."""
        return self.text(path).strip("\0 \n\t")

    def number(self, path: str | Path) -> int | None:
        """Return a file's whole number, None where there is none."""
        text = self.words(path)
        return int(text) if re.fullmatch(r"-?\d{1,18}", text) else None

    def exists(self, path: str | Path) -> bool:
        """Whether a file is there."""
        try:
            return (self.root / path).exists()
        except OSError:
            return False

    def glob(self, pattern: str) -> list[Path]:
        """Return the files of a pattern, sorted; those that cannot be listed are left out."""
        try:
            return sorted(self.root.glob(pattern))
        except OSError:
            return []

    def meminfo(self, name: str) -> int | None:
        """Return a field of /proc/meminfo in bytes."""
        return meminfo(self.text("proc/meminfo"), name)

    def chosen(self, path: str | Path) -> str:
        """Return the word in brackets of a file such as ``always [madvise] never``; "" if none is."""
        found = re.search(r"\[([^\]]+)\]", self.text(path))
        return found[1] if found else ""

    def limit(self, name: str) -> int | None:
        """Return a soft limit of /proc/self/limits; None if there is none, or it is unlimited."""
        for line in self.text("proc/self/limits").splitlines():
            if line.startswith(name):
                value = line[len(name) :].split()[0]
                return int(value) if value.isdigit() else None
        return None

    def process_names(self) -> Iterator[tuple[str, str]]:
        """Yield number and name of every process."""
        for path in self.glob("proc/[0-9]*/comm"):
            yield path.parent.name, self.words(path.relative_to(self.root))

    def packages(self, name: str) -> list[Path]:
        """Return the metadata folders of an installed Python package, below the root."""
        spelled = name.replace("-", "[-_]")
        return [found for folder in self.site_packages for found in self.glob(f"{folder}/{spelled}-[0-9]*.dist-info")]

    def libraries(self, name: str) -> list[Path]:
        """Return the files of a shared library that the system's package manager puts where the loader looks."""
        places = (
            "usr/lib/*-linux-gnu",
            "usr/lib/*-linux-gnu/nvidia",
            "usr/lib/*-linux-gnu/tegra",
            "usr/lib64",
            "usr/lib",
        )
        return [found for place in places for found in self.glob(f"{place}/{name}*")]
