"""Which profile belongs to this machine: `--profile auto`, from device tree, L4T release and memory, never from NVML.

NVML does not exist on Jetson, and driver calls would load the driver at every start. Docker hides /proc/device-tree;
the kernel repeats the model in /sys/devices/soc0/machine.
"""

from __future__ import annotations

import logging
import os
import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

from edge_runtime.base.errors import DeviceError
from edge_runtime.base.sizes import GIB
from edge_runtime.config.device_profile import DeviceProfile
from edge_runtime.config.limits import read_limits
from edge_runtime.config.option import AUTO
from edge_runtime.config.options import BY_NAME
from edge_runtime.config.profiles import DEFAULT_PROFILE, load_profile, packaged, packaged_profile
from edge_runtime.config.sources import Sources

_SUPER = "-super"
_RELEASE = re.compile(r"#\s*R(\d+)\s*\(release\),\s*REVISION:\s*([\d.]+)")


@dataclass(frozen=True)
class BoardFacts:
    """What a machine says about itself.

    Attributes:
        compatible: entries of the device tree, most special first, without the suffix ``-super``.
        model: the device tree's model; "" where there is no device tree.
        is_super: a device tree of NVIDIA's "Super" boards.
        l4t: release of Jetson Linux as (36, 4, 3); () where there is none.
        memory_bytes: MemTotal; 0 where it cannot be read.
        machine: as `uname -m` says it.
    """

    compatible: tuple[str, ...]
    model: str
    is_super: bool
    l4t: tuple[int, ...]
    memory_bytes: int
    machine: str

    @property
    def is_jetson(self) -> bool:
        """Whether NVIDIA's Linux for Tegra runs here, or the board is one."""
        return bool(self.l4t) or any(name.startswith("nvidia,tegra") for name in self.compatible)


@dataclass(frozen=True)
class Identified:
    """A profile chosen by `--profile auto`, and why."""

    profile: DeviceProfile
    why: str


def profile_of(sources: Sources) -> DeviceProfile:
    """Return the profile that sources name; with ``auto`` that of the board, which the log then names.

    Raises:
        ConfigError: as `load_profile`.
    """
    said = sources.said(BY_NAME["profile"])
    if said.value != AUTO:
        return load_profile(said.value, said.where)
    found = identify(read_board())
    logging.getLogger(__name__).info("profile: %s (%s)", found.profile.name, found.why)
    return found.profile


def read_board(root: Path = Path("/"), machine: str | None = None) -> BoardFacts:
    """Read what the machine says about itself.

    Args:
        root: where /proc, /sys and /etc are; tests pass a fake tree.
        machine: instead of what `uname -m` says.
    """
    entries = _text(root / "proc/device-tree/compatible").split("\0")
    compatible = [entry.strip() for entry in entries if entry.strip()]
    model = _text(root / "proc/device-tree/model").strip("\0 \n")
    model = model or _text(root / "sys/devices/soc0/machine").strip()
    return BoardFacts(
        compatible=tuple(entry.removesuffix(_SUPER) for entry in compatible),
        model=model,
        is_super=any(entry.endswith(_SUPER) for entry in compatible) or model.endswith(" Super"),
        l4t=l4t_release(_text(root / "etc/nv_tegra_release")),
        memory_bytes=_memory(root),
        machine=machine or os.uname().machine,
    )


def l4t_release(text: str) -> tuple[int, ...]:
    """Return the release that /etc/nv_tegra_release names: (36, 4, 3) for R36, revision 4.3; () if it names none."""
    found = _RELEASE.search(text)
    return (int(found[1]), *map(int, filter(None, found[2].split(".")))) if found else ()


def identify(facts: BoardFacts) -> Identified:
    """Return the profile of a machine; the generic one where none matches."""
    words = [word for word in (*facts.compatible, facts.model, facts.machine) if word]
    profiles = list(_mentioning(words))
    for found, why in (
        (_by_compatible(profiles, facts), "by its device tree's compatible"),
        (_by_model(profiles, facts), f"by its model {facts.model!r}"),
        (_by_machine(profiles, facts), f"{facts.machine}, no board that is known"),
    ):
        if found := _narrowed(found, facts):
            return Identified(found[0], why)
    return Identified(
        load_profile(DEFAULT_PROFILE), f"{facts.model or facts.machine or 'unnamed'}, of which nothing is known"
    )


def _mentioning(words: Iterable[str]) -> Iterator[DeviceProfile]:
    """Packaged profiles whose text has one of the words, or a part of one: checking all of them takes too long."""
    parts = {part for word in words for part in (word, *word.split())}
    for name, plain in packaged().items():
        text = str(plain)
        if any(part in text for part in parts):
            yield packaged_profile(name)


def _by_compatible(profiles: list[DeviceProfile], facts: BoardFacts) -> list[DeviceProfile]:
    for entry in facts.compatible:  # the most special entry comes first
        if found := [p for p in profiles if p.match and entry in p.match.compatible]:
            return found
    return []


def _by_model(profiles: list[DeviceProfile], facts: BoardFacts) -> list[DeviceProfile]:
    return [p for p in profiles if p.match and any(word in facts.model for word in p.match.models)]


def _by_machine(profiles: list[DeviceProfile], facts: BoardFacts) -> list[DeviceProfile]:
    # a device tree means a small board: a server profile would promise more than it has
    has_tree = bool(facts.compatible or facts.model) and facts.machine != "x86_64"
    return [] if has_tree else [p for p in profiles if p.match and facts.machine in p.match.machines]


def _narrowed(profiles: list[DeviceProfile], facts: BoardFacts) -> list[DeviceProfile]:
    """Of several, those whose memory and form agree; the closest memory first."""
    kept = [p for p in profiles if p.match and p.match.is_super in (None, facts.is_super)] or profiles
    fitting = [p for p in kept if _memory_agrees(p, facts)]
    return fitting if facts.memory_bytes and any(p.match and p.match.memory_gib for p in kept) else kept


def _memory_agrees(profile: DeviceProfile, facts: BoardFacts) -> bool:
    limits = profile.match.memory_gib if profile.match else []
    return not limits or limits[0] * GIB <= facts.memory_bytes <= limits[1] * GIB


def _memory(root: Path) -> int:
    try:
        return read_limits(root).total_bytes
    except DeviceError:
        return 0


def _text(path: Path) -> str:
    try:
        return path.read_text(errors="replace")
    except OSError:
        return ""
