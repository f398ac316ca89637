"""The settings file that systemd reads at start and the service reads again at SIGHUP, and what a reload can change."""

from __future__ import annotations

import re
from collections.abc import Collection, Mapping
from dataclasses import dataclass, fields
from pathlib import Path

from edge_runtime.base.errors import ConfigError, did_you_mean
from edge_runtime.config.profiles import DEFAULT_PROFILE, DeviceProfile, load_profile
from edge_runtime.config.resolve import EngineOptions
from edge_runtime.engine.reload import Reload

PREFIX = "HOBBIT_"
_LINE = re.compile(
    r"""\s*(?P<name>[A-Za-z_][A-Za-z0-9_]*)=\s*(?:"(?P<two>[^"\\]*)"|'(?P<one>[^']*)'|(?P<plain>[^"'\\]*?))\s*"""
)
_LIVE = ("policy", "memory", "expert_memory", "profile")
_OWN_WORDS = ("name", "board", "ran_on_hardware", "memory", "drive_read_gb_s", "memory_read_gb_s", "power_modes")
_NO_CAP = 1 << 60
"""An arena ceiling that never binds: how a reload takes --expert-memory back."""


@dataclass(frozen=True)
class ReloadPlan:
    """What a changed settings file means for a running service.

    Attributes:
        change: for `Controllable.reload`.
        live: names of settings it switches now, as ``HOBBIT_POLICY=hobbit``.
        later: settings that changed but take effect with the next start.
        settings: all of them, as they are after the change.
    """

    change: Reload
    settings: Mapping[str, str]
    live: tuple[str, ...] = ()
    later: tuple[str, ...] = ()


def read_settings(path: Path) -> dict[str, str]:
    """Read ``NAME=value`` lines, as systemd's EnvironmentFile= does: comments, blank lines and quotes are allowed.

    Raises:
        ConfigError: the file cannot be read or a line is malformed; names the line.
    """
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as err:
        raise ConfigError(f"{path}: cannot be read: {err}. Check its owner and mode.") from err
    found: dict[str, str] = {}
    for number, line in enumerate(lines, 1):
        if not line.strip() or line.lstrip()[0] in "#;":
            continue
        match = _LINE.fullmatch(line)
        if match is None:
            raise ConfigError(f'{path}, line {number}: expected NAME=value or NAME="value", got {line.strip()[:60]!r}.')
        values = (match[group] for group in ("two", "one", "plain"))
        found[match["name"]] = next(value for value in values if value is not None)
    return found


class Settings:
    """The HOBBIT_ settings in force, and the file in which they may change.

    Args:
        env: the environment at start; systemd has put the file into it already.
        path: the file; None: a reload changes nothing.
        fixed: options given as flags, which beat environment and file: 'policy', 'memory', ...
        known: the service's own options; with them a misspelt name is refused, without them not.

    Raises:
        ConfigError: a line of the file is malformed, or a name is unknown.
    """

    def __init__(
        self,
        env: Mapping[str, str],
        path: Path | None = None,
        *,
        fixed: Collection[str] = (),
        known: Collection[str] = (),
    ) -> None:
        self.path, self._fixed, self._known = path, fixed, known
        file = self._read() if path is not None and path.exists() else {}
        self._outside = {name: v for name, v in env.items() if name.startswith(PREFIX) and name not in file}
        self._in_force = {**self._outside, **file}

    def plan(self) -> ReloadPlan:
        """Read the file again and say what it would change. `commit` the plan once it is applied.

        Raises:
            ConfigError: the file is unreadable or wrong.
        """
        if self.path is None:
            raise ConfigError("reload: no settings file was given. Set HOBBIT_SETTINGS, or use --settings.")
        settings = {**self._outside, **self._read()}
        return plan_reload(self._in_force, settings, self._fixed)

    def commit(self, plan: ReloadPlan) -> None:
        """The plan is in force now."""
        self._in_force = dict(plan.settings)

    def _read(self) -> dict[str, str]:
        assert self.path is not None
        found = {name: value for name, value in read_settings(self.path).items() if name.startswith(PREFIX)}
        if self._known:
            check_names(found, self._known)
        return found


def plan_reload(old: Mapping[str, str], new: Mapping[str, str], fixed: Collection[str] = ()) -> ReloadPlan:
    """Compare two states of the settings.

    Args:
        old: the HOBBIT_ settings in force.
        new: those of the file now.
        fixed: options given as flags, which beat the file: 'policy', 'memory', ...

    Raises:
        ConfigError: the profile does not exist.
    """
    before, after = _own(old), _own(new)
    changed = sorted(name for name in {*before, *after} if before.get(name) != after.get(name))
    live = [name for name in changed if name in _LIVE and name not in fixed]
    later = [f"{PREFIX}{name.upper()}" for name in changed if name not in live]
    policy = after.get("policy") or "lossless" if "policy" in live else None
    memory: str | None = None
    expert_memory: str | int | None = None
    if set(live) - {"policy"}:
        profile = load_profile(after.get("profile") or DEFAULT_PROFILE)
        later += _profile_later(load_profile(before.get("profile") or DEFAULT_PROFILE), profile, after)
        # both, always: what is left out would fall back to what the engine was opened with
        memory = None if "memory" in fixed else after.get("memory") or str(profile.memory.value)
        expert_memory = None if "expert_memory" in fixed else after.get("expert_memory") or _NO_CAP
    said = tuple(f"{PREFIX}{name.upper()}={after.get(name, '')}" for name in live)
    return ReloadPlan(Reload(policy, memory, expert_memory), dict(new), said, tuple(later))


def check_names(settings: Mapping[str, str], known: Collection[str]) -> None:
    """Refuse misspelt HOBBIT_ settings: a typing error must not silently mean the default.

    Raises:
        ConfigError: names the setting and the nearest known one.
    """
    names = [PREFIX + name.upper() for name in (*known, *(f.name for f in fields(EngineOptions)))]
    for name in settings:
        if name.startswith(PREFIX) and name not in names:
            raise ConfigError(f"settings: unknown name {name!r}.{did_you_mean(name, names)}")


def _own(settings: Mapping[str, str]) -> dict[str, str]:
    """HOBBIT_ settings under their option names; empty means not set."""
    return {
        name.removeprefix(PREFIX).lower(): value
        for name, value in settings.items()
        if name.startswith(PREFIX) and value
    }


def _profile_later(old: DeviceProfile, new: DeviceProfile, settings: Mapping[str, str]) -> list[str]:
    """Values of a new profile that no setting overrides and only a start can apply."""
    names = (f.name for f in fields(DeviceProfile) if f.name not in _OWN_WORDS and f.name not in settings)
    return [f"profile's {name}" for name in names if getattr(old, name).value != getattr(new, name).value]
