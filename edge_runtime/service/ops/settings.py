"""The settings file that systemd reads at start and the service reads again at SIGHUP, and what a reload can change."""

from __future__ import annotations

import re
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from edge_runtime.base.errors import ConfigError
from edge_runtime.config.boards import profile_of
from edge_runtime.config.device_profile import DeviceProfile
from edge_runtime.config.environment import Environment, Variables, given
from edge_runtime.config.option import Option
from edge_runtime.config.options import BY_NAME, OPTIONS
from edge_runtime.config.policy_choice import POLICY_PARAMETERS, policy_with_budget
from edge_runtime.config.sources import Sources
from edge_runtime.engine.reload import Reload

_LINE = re.compile(
    r"""\s*(?P<name>[A-Za-z_][A-Za-z0-9_]*)=\s*(?:"(?P<two>[^"\\]*)"|'(?P<one>[^']*)'|(?P<plain>[^"'\\]*?))\s*"""
)
_POLICY = ("policy", *POLICY_PARAMETERS)
_NO_CAP = 1 << 60
"""An arena ceiling that never binds: how a reload takes --expert-memory back."""
_NO_FLAGS: Mapping[str, Any] = {}


@dataclass(frozen=True)
class SettingsChange:
    """What a changed settings file means for a running service.

    Attributes:
        reload: for `Controllable.reload`.
        environment: the variables as they are after the change.
        live: settings it switches now, as ``HOBBIT_POLICY=hobbit``.
        later: settings that changed but take effect with the next start.
    """

    reload: Reload
    environment: Environment
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
    """The variables in force, and the file in which they may change.

    Args:
        process: the environment at start; systemd has put the file into it already.
        path: the file; None: a reload changes nothing.
        flags: options given as flags, by name; they beat file and environment.
        table: the options there are.

    Raises:
        ConfigError: a line of the file is malformed, or a name is unknown.
    """

    def __init__(
        self,
        process: Mapping[str, str],
        path: Path | None = None,
        *,
        flags: Mapping[str, Any] = _NO_FLAGS,
        table: Collection[Option] = OPTIONS,
    ) -> None:
        self.path, self._flags, self._table = path, flags, table
        file = read_settings(path) if path is not None and path.exists() else {}
        self._outside = {name: value for name, value in process.items() if name not in file}
        self.environment = Environment(self._outside, file, path, table)

    def changes(self) -> SettingsChange:
        """Read the file again and say what it would change. `commit` it once it is applied.

        Raises:
            ConfigError: the file is unreadable or wrong.
        """
        if self.path is None:
            raise ConfigError("reload: no settings file was given. Set HOBBIT_SETTINGS, or use --settings.")
        after = Environment(self._outside, read_settings(self.path), self.path, self._table)
        return compare_settings(self.environment, after, self._flags, self._table)

    def commit(self, change: SettingsChange) -> None:
        """Note that a change is in force."""
        self.environment = change.environment


def compare_settings(
    old: Variables,
    new: Variables,
    flags: Mapping[str, Any] = _NO_FLAGS,
    table: Collection[Option] = OPTIONS,
) -> SettingsChange:
    """Compare two states of the variables.

    Args:
        old: those in force.
        new: those of the file now.
        flags: options given as flags, which beat both.
        table: the options there are.

    Raises:
        ConfigError: a value that would be switched now is wrong.
    """
    before, after = Environment.of(old), Environment.of(new)
    was, will = before.source().values, after.source().values
    changed = [option for option in table if was.get(option.name) != will.get(option.name)]
    live = [option for option in changed if option.is_live and flags.get(option.name) is None]
    later = [option.variable for option in changed if option not in live]
    change = Reload()
    if live:
        sources, were = given(flags, after), given(flags, before)
        profile, old_profile = profile_of(sources), profile_of(were)
        names = {option.name for option in live}
        change = _change(were.then(old_profile.source()), sources.then(profile.source()), names, flags)
        later += _profile_later(old_profile, profile, sources, table)
    said = tuple(f"{option.variable}={will.get(option.name) or ''}" for option in live)
    return SettingsChange(change, after, said, tuple(later))


def _change(before: Sources, after: Sources, live: Collection[str], flags: Mapping[str, Any]) -> Reload:
    """Return what a reload changes; `before` and `after` end with the profile they name."""
    policy: str | None = policy_with_budget(after)
    if not any(name in live for name in _POLICY) and policy == policy_with_budget(before):
        policy = None
    eviction, prefetch = (_if_changed(before, after, name) for name in ("eviction", "prefetch"))
    if not any(name in live for name in ("memory", "expert_memory", "profile")):
        return Reload(policy, eviction=eviction, prefetch=prefetch)
    # both, always: a memory that nobody names any more falls back to the profile's
    memory = None if flags.get("memory") else _said(after, "memory")
    expert_memory = None if flags.get("expert_memory") else _said(after, "expert_memory") or _NO_CAP
    return Reload(policy, memory, expert_memory, eviction, prefetch)


def _if_changed(before: Sources, after: Sources, name: str) -> str | None:
    value = _said(after, name)
    return None if value == before.said(BY_NAME[name]).value else str(value)


def _said(sources: Sources, name: str) -> Any:
    """Return an option as it was given, once it is known to be right."""
    sources.pick(BY_NAME[name])
    return sources.said(BY_NAME[name]).value


def _profile_later(old: DeviceProfile, new: DeviceProfile, sources: Sources, table: Collection[Option]) -> list[str]:
    """Values of a new profile that nothing overrides and only a start can apply."""
    waiting = (option for option in table if option.in_profile and not option.is_live)
    return [
        f"profile's {option.name}"
        for option in waiting
        if not sources.said(option).is_given and old.value(option) != new.value(option)
    ]
