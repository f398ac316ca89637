"""DeviceProfile: what is known or assumed about a board, loaded strictly from YAML by name or path."""

from __future__ import annotations

import importlib.resources
import os
from collections.abc import Collection, Iterator, Mapping
from dataclasses import asdict, dataclass, field, fields
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from edge_runtime.base.errors import ConfigError, did_you_mean
from edge_runtime.base.strict import convert, from_mapping
from edge_runtime.config.option import AUTO, Option
from edge_runtime.config.options import BY_NAME, ENGINE_OPTIONS
from edge_runtime.config.sources import Source

if TYPE_CHECKING:
    from importlib.abc import Traversable

DEFAULT_PROFILE = "generic"
_MAX_BYTES = 1 << 20
Basis = Literal["measured", "assumed"]


@dataclass(frozen=True)
class Setting:
    """What a profile says about an option, and how anybody knows."""

    value: Any
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
class Board:
    """The part of a profile that is no option.

    Attributes:
        name: name of the profile.
        board: what it is for.
        ran_on_hardware: whether anybody ran this runtime on that board with this profile.
        drive_read_gb_s: sequential read rate of the drive, for estimates.
        memory_read_gb_s: read rate of memory, for estimates.
        power_modes: for sweeps.
    """

    name: str
    board: str
    ran_on_hardware: bool
    drive_read_gb_s: Rate
    memory_read_gb_s: Rate
    power_modes: list[PowerMode] = field(default_factory=list)


@dataclass(frozen=True)
class DeviceProfile(Board):
    """Settings for a kind of board. Flags and environment go before them.

    Attributes:
        settings: by name of the option; an option that is left out keeps its default.
    """

    settings: Mapping[str, Setting] = field(default_factory=dict)

    def value(self, name: str) -> Any:
        """Return an option's value here, converted (a size in bytes); ``'auto'`` stays the word."""
        option = BY_NAME[name]
        value = self.settings[name].value if name in self.settings else option.default
        return value if value == AUTO else option.kind.convert(value, self._where(option))

    def source(self) -> Source:
        """Return what this profile says about the options."""
        return Source({name: s.value for name, s in self.settings.items()}, self._where, is_given=False)

    def to_json(self) -> dict[str, Any]:
        """Return plain data that `parse_profile` takes back."""
        plain = asdict(self)
        settings: dict[str, Any] = plain.pop("settings")
        return plain | settings

    def _where(self, option: Option) -> str:
        return f"profile {self.name!r}: {option.name}"


def profile_names() -> list[str]:
    """Names of the packaged profiles."""
    return sorted(entry.name.removesuffix(".yaml") for entry in _packaged() if entry.name.endswith(".yaml"))


def load_profile(name_or_path: str | os.PathLike[str] = DEFAULT_PROFILE, where: str = "profile") -> DeviceProfile:
    """Load a packaged profile by name, or a file by path (anything with a slash or ending in .yaml or .yml).

    Args:
        name_or_path: which.
        where: who asked for it, for messages.

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
        raise ConfigError(f"{where}: {text}: cannot be read: {err.strerror}.") from err
    names = profile_names()
    hint = did_you_mean(text, names)
    raise ConfigError(f"{where}: expected one of {', '.join(names)} or a path to a .yaml file, got {text!r}.{hint}")


def parse_profile(data: bytes, where: str, table: Collection[Option] = ENGINE_OPTIONS) -> DeviceProfile:
    """Parse and check the YAML of a profile.

    Raises:
        ConfigError: names the key, what was expected and what was found.
    """
    import yaml

    if len(data) > _MAX_BYTES:
        raise ConfigError(f"{where}: expected at most {_MAX_BYTES} bytes.")
    loader = getattr(yaml, "CSafeLoader", yaml.SafeLoader)  # 2 ms less at every start, where PyYAML has libyaml
    try:
        plain = yaml.load(data, loader)  # noqa: S506 - both are safe
        return _from_plain(plain, where, {option.name: option for option in table if option.in_profile})
    except (yaml.YAMLError, UnicodeDecodeError) as err:
        raise ConfigError(f"{where}: expected YAML: {err}") from err
    except ValueError as err:
        raise ConfigError(f"{str(err).rstrip('.')}.") from err


def _from_plain(data: Any, where: str, options: Mapping[str, Option]) -> DeviceProfile:
    if not isinstance(data, Mapping):
        raise ValueError(f"{where}: expected an object, got {data!r:.60}")  # noqa: TRY004 - one error kind
    known = (*options, *(f.name for f in fields(Board)))
    for key in data:
        if key not in known:
            raise ValueError(f"{where}: unknown key {key!r:.60}.{did_you_mean(str(key), known)}")
    board = from_mapping(Board, {key: value for key, value in data.items() if key not in options}, where)
    settings = {key: _setting(options[key], value, f"{where}.{key}") for key, value in data.items() if key in options}
    for name, rate in (("drive_read_gb_s", board.drive_read_gb_s), ("memory_read_gb_s", board.memory_read_gb_s)):
        if rate.value is not None and rate.value <= 0:
            raise ValueError(f"{where}.{name}: expected a number above 0, got {rate.value}.")
    return DeviceProfile(**vars(board), settings=settings)


def _setting(option: Option, data: Any, where: str) -> Setting:
    setting = from_mapping(Setting, data, where)
    if setting.value != AUTO or option.auto is None:
        convert(option.kind.profile_type, setting.value, f"{where}.value")
        option.kind.convert(setting.value, where)
    return setting


def _packaged() -> Iterator[Traversable]:
    try:
        folder: Traversable = importlib.resources.files("edge_runtime.profiles")
    except ModuleNotFoundError:
        # a source tree: the folder becomes edge_runtime.profiles only in the wheel
        folder = Path(__file__).resolve().parents[2] / "profiles"
    return iter(list(folder.iterdir()) if folder.is_dir() else [])
