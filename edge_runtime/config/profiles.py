"""DeviceProfile: what is known or assumed about a board, loaded strictly from YAML by name or path."""

from __future__ import annotations

import importlib.resources
import os
from collections.abc import Iterator
from dataclasses import asdict, dataclass, field, fields
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from edge_runtime.base.errors import ConfigError, did_you_mean
from edge_runtime.base.sizes import parse_size
from edge_runtime.base.strict import from_mapping

if TYPE_CHECKING:
    from importlib.abc import Traversable

DEFAULT_PROFILE = "generic"
_MAX_BYTES = 1 << 20
Basis = Literal["measured", "assumed"]
Auto = Literal["auto"]


@dataclass(frozen=True)
class Size:
    """A byte size such as '512MiB', or 'auto'."""

    value: str
    basis: Basis
    note: str = ""


@dataclass(frozen=True)
class Count:
    """A whole number of at least 1, or 'auto'."""

    value: int | Auto
    basis: Basis
    note: str = ""


@dataclass(frozen=True)
class Switch:
    """On or off."""

    value: bool
    basis: Basis
    note: str = ""


@dataclass(frozen=True)
class Eviction:
    """Name of an eviction rule."""

    value: Literal["lru", "lcu", "lfru", "mdc"]
    basis: Basis
    note: str = ""


@dataclass(frozen=True)
class Tier:
    """Default expert tier, or 'auto' for the deepest the bundle has."""

    value: Literal[2, 4, 6, 8, "auto"]
    basis: Basis
    note: str = ""


@dataclass(frozen=True)
class Rate:
    """Bandwidth in GB/s (10^9 bytes), or null if nobody knows."""

    value: float | None
    basis: Basis
    note: str = ""


@dataclass(frozen=True)
class PowerMode:
    """One of the board's power modes, as `nvpmodel -q` names it. `watts` is its nominal budget, null if it has none."""

    name: str
    watts: float | None = None


@dataclass(frozen=True)
class DeviceProfile:
    """Settings for a kind of board. Flags and environment go before them.

    Attributes:
        name: name of the profile.
        board: what it is for.
        ran_on_hardware: whether anybody ran this runtime on that board with this profile.
        memory: ceiling for the process.
        os_reserve: memory left to the rest of the machine when the ceiling is 'auto'.
        context: tokens of KV cache.
        prefill_chunk: tokens of a prompt run in one pass; 'auto': as many as the memory plan allows.
        threads: compute threads.
        io_threads: reads under way at once.
        read_chunk: largest single read.
        direct_io: read experts past the page cache.
        eviction: who leaves when room is needed.
        tier: expert tier used unless asked otherwise.
        drive_read_gb_s: sequential read rate of the drive, for estimates.
        memory_read_gb_s: read rate of memory, for estimates.
        power_modes: for sweeps.
    """

    name: str
    board: str
    ran_on_hardware: bool
    memory: Size
    os_reserve: Size
    context: Count
    prefill_chunk: Count
    threads: Count
    io_threads: Count
    read_chunk: Size
    direct_io: Switch
    eviction: Eviction
    tier: Tier
    drive_read_gb_s: Rate
    memory_read_gb_s: Rate
    power_modes: list[PowerMode] = field(default_factory=list)

    def to_json(self) -> dict[str, Any]:
        """Return plain data that `parse_profile` takes back."""
        return asdict(self)


def profile_names() -> list[str]:
    """Names of the packaged profiles."""
    return sorted(entry.name.removesuffix(".yaml") for entry in _packaged() if entry.name.endswith(".yaml"))


def load_profile(name_or_path: str | os.PathLike[str] = DEFAULT_PROFILE) -> DeviceProfile:
    """Load a packaged profile by name, or a file by path (anything with a slash or ending in .yaml or .yml).

    Raises:
        ConfigError: no such profile, or it holds something unknown or wrong.
    """
    text = os.fspath(name_or_path)
    try:
        if os.sep in text or text.endswith((".yaml", ".yml")):
            with open(text, "rb") as file:
                return parse_profile(file.read(_MAX_BYTES + 1), text)
        for entry in _packaged():
            if entry.name == f"{text}.yaml":
                return parse_profile(entry.read_bytes(), f"profile {text!r}")
    except OSError as err:
        raise ConfigError(f"profile: {text}: cannot be read: {err.strerror}.") from err
    names = profile_names()
    hint = did_you_mean(text, names)
    raise ConfigError(f"profile: expected one of {', '.join(names)} or a path to a .yaml file, got {text!r}.{hint}")


def parse_profile(data: bytes, where: str) -> DeviceProfile:
    """Parse and check the YAML of a profile.

    Raises:
        ConfigError: names the key, what was expected and what was found.
    """
    import yaml

    if len(data) > _MAX_BYTES:
        raise ConfigError(f"{where}: expected at most {_MAX_BYTES} bytes.")
    try:
        profile = from_mapping(DeviceProfile, yaml.safe_load(data), where)
    except (yaml.YAMLError, UnicodeDecodeError) as err:
        raise ConfigError(f"{where}: expected YAML: {err}") from err
    except ValueError as err:
        raise ConfigError(f"{str(err).rstrip('.')}.") from err
    for f in fields(profile):
        setting = getattr(profile, f.name)
        if isinstance(setting, Size) and (setting.value != "auto" or f.name != "memory"):
            parse_size(setting.value, f"{where}.{f.name}")
        if isinstance(setting, (Count, Rate)) and isinstance(setting.value, (int, float)) and setting.value <= 0:
            raise ConfigError(f"{where}.{f.name}: expected a number above 0, got {setting.value}.")
    return profile


def _packaged() -> Iterator[Traversable]:
    try:
        folder: Traversable = importlib.resources.files("edge_runtime.profiles")
    except ModuleNotFoundError:
        # a source tree: the folder becomes edge_runtime.profiles only in the wheel
        folder = Path(__file__).resolve().parents[2] / "profiles"
    return iter(list(folder.iterdir()) if folder.is_dir() else [])
