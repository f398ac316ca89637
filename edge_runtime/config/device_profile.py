"""DeviceProfile: what is known or assumed about a board. `profiles` loads them, `boards` chooses one."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any

from edge_runtime.base.sizes import parse_size
from edge_runtime.config.option import AUTO, Option
from edge_runtime.config.profile_values import FACTS, Board, Setting
from edge_runtime.config.sources import Source

_NOBODY_KNOWS = Setting(None, "default")


@dataclass(frozen=True)
class DeviceProfile(Board):
    """Settings for a kind of board. Flags and environment go before them.

    Attributes:
        settings: by name of the option; an option that is left out keeps its default.
        facts: by name, those of `FACTS` that the profile states.
    """

    settings: Mapping[str, Setting] = field(default_factory=dict)
    facts: Mapping[str, Setting] = field(default_factory=dict)

    def value(self, option: Option) -> Any:
        """Return an option's value here, converted (a size in bytes); ``'auto'`` stays the word."""
        value = self.settings[option.name].value if option.name in self.settings else option.default
        return value if value is None or value == AUTO else option.kind.convert(value, self._where(option))

    def fact(self, name: str) -> Setting:
        """Return a fact; its value is None where the profile does not state it."""
        assert name in FACTS, name
        return self.facts.get(name, _NOBODY_KNOWS)

    @property
    def drive_read_gb_s(self) -> Setting:
        """Read rate of the drive in GB/s (10^9 bytes)."""
        return self.fact("drive_read_gb_s")

    @property
    def memory_read_gb_s(self) -> Setting:
        """Read rate of memory in GB/s (10^9 bytes)."""
        return self.fact("memory_read_gb_s")

    @property
    def memory_bytes(self) -> int | None:
        """Memory that the board's system sees; None if the profile does not say."""
        size = self.fact("system_memory").value
        return None if size is None else parse_size(size, f"profile {self.name!r}: system_memory")

    @property
    def cores(self) -> int | None:
        """Threads that compute on the board: those the profile says, else its cores; None if it says neither."""
        threads = self.settings.get("threads", _NOBODY_KNOWS).value
        found: int | None = self.fact("cpus").value if threads in (None, AUTO) else threads
        return found

    def source(self) -> Source:
        """Return what this profile says about the options."""
        return Source({name: s.value for name, s in self.settings.items()}, self._where, is_given=False)

    def to_json(self) -> dict[str, Any]:
        """Return plain data that `parse_profile` takes back; what says nothing is left out."""
        plain = asdict(self)
        values: dict[str, Any] = {**plain.pop("settings"), **plain.pop("facts")}
        said = {name: {k: v for k, v in s.items() if k in ("value", "basis") or v} for name, s in values.items()}
        return {name: value for name, value in plain.items() if value not in (None, [])} | said

    def to_yaml(self) -> str:
        """Return the text of a file that `load_profile` reads back."""
        import yaml

        return yaml.safe_dump(self.to_json(), sort_keys=False, allow_unicode=True, width=120)

    def _where(self, option: Option) -> str:
        return f"profile {self.name!r}: {option.name}"
