"""Device profiles, loaded strictly from YAML by name or path."""

from __future__ import annotations

import importlib.resources
import json
import os
from collections.abc import Collection, Mapping
from dataclasses import fields
from functools import cache
from itertools import chain, islice
from pathlib import Path
from typing import TYPE_CHECKING, Any

from edge_runtime.base.errors import ConfigError, did_you_mean
from edge_runtime.base.strict import convert, from_mapping
from edge_runtime.config.device_profile import DeviceProfile
from edge_runtime.config.option import AUTO, Option
from edge_runtime.config.options import ENGINE_OPTIONS
from edge_runtime.config.profile_values import FACTS, FORMAT, Board, Setting, read_fact, read_setting

if TYPE_CHECKING:
    from importlib.abc import Traversable

DEFAULT_PROFILE = "generic"
"""Holds the defaults of the options; taken where no profile of a board fits."""
_MAX_BYTES, _MAX_VALUES = 1 << 20, 10_000


def profile_names() -> list[str]:
    """Names of the packaged profiles."""
    return sorted(packaged())


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
        if text in packaged():
            return packaged_profile(text)
    except OSError as err:
        raise ConfigError(f"{where}: {text}: cannot be read: {err.strerror}.") from err
    names = [AUTO, *profile_names()]
    hint = did_you_mean(text, names)
    raise ConfigError(f"{where}: expected one of {', '.join(names)} or a path to a .yaml file, got {text!r}.{hint}")


def parse_profile(data: bytes, where: str, table: Collection[Option] = ENGINE_OPTIONS) -> DeviceProfile:
    """Parse and check the YAML of a profile.

    Raises:
        ConfigError: names the key, what was expected and what was found.
    """
    return _checked(_plain(data, where), where, table)


def packaged_profile(name: str) -> DeviceProfile:
    """Return one of `packaged`."""
    return _checked(packaged()[name], f"profile {name!r}", ENGINE_OPTIONS)


def _checked(plain: Any, where: str, table: Collection[Option]) -> DeviceProfile:
    try:
        return _from_plain(plain, where, {option.name: option for option in table if option.in_profile})
    except ValueError as err:
        raise ConfigError(f"{str(err).rstrip('.')}.") from err


def _plain(data: bytes, where: str) -> Any:
    """What the YAML holds.

    Raises:
        ConfigError: it is none, or holds more than any profile: aliases make gigabytes of a few lines.
    """
    import yaml

    if len(data) > _MAX_BYTES:
        raise ConfigError(f"{where}: expected at most {_MAX_BYTES} bytes.")
    loader = getattr(yaml, "CSafeLoader", yaml.SafeLoader)  # 2 ms less at every start, where PyYAML has libyaml
    try:
        plain = yaml.load(data, loader)  # noqa: S506 - both are safe
    except (yaml.YAMLError, ValueError, ArithmeticError, AttributeError, LookupError, TypeError, RecursionError) as err:
        # a tag such as !!timestamp in front of something else raises whatever comes of it
        told = str(err)[:300] if isinstance(err, (yaml.YAMLError, ValueError)) else "a value does not fit its tag"
        raise ConfigError(f"{where}: expected YAML: {told}.") from err
    left, level = _MAX_VALUES, [plain]
    while level:
        left -= len(level)
        if left < 0:
            raise ConfigError(f"{where}: expected a profile of at most {_MAX_VALUES} values.")
        inner = (each.values() if isinstance(each, dict) else each for each in level if isinstance(each, (dict, list)))
        level = list(islice(chain.from_iterable(inner), left + 1))
    return plain


def _from_plain(data: Any, where: str, options: Mapping[str, Option]) -> DeviceProfile:
    if not isinstance(data, Mapping):
        raise ValueError(f"{where}: expected an object, got {data!r:.60}")  # noqa: TRY004 - one error kind
    known = (*options, *FACTS, *(f.name for f in fields(Board)))
    for key in data:
        if key not in known:
            raise ValueError(f"{where}: unknown key {key!r:.60}.{did_you_mean(str(key), known)}")
    board = from_mapping(Board, {k: v for k, v in data.items() if k not in options and k not in FACTS}, where)
    for name, kind in FACTS.items():
        if kind.is_required and name not in data:
            raise ValueError(f"{where}: key {name!r} is missing")
    form = board.format
    settings = {k: _setting(options[k], v, f"{where}.{k}", form) for k, v in data.items() if k in options}
    facts = {k: read_fact(k, v, f"{where}.{k}", form) for k, v in data.items() if k in FACTS}
    _check_board(board, facts, where)
    return DeviceProfile(**vars(board), settings=settings, facts=facts)


def _check_board(board: Board, facts: Mapping[str, Setting], where: str) -> None:
    limits = board.match.memory_gib if board.match else []
    if limits and not (len(limits) == 2 and 0 < limits[0] < limits[1]):
        raise ValueError(f"{where}.match.memory_gib: expected the lowest and the highest size, got {limits!r:.60}")
    mode = facts["power_mode"].value if "power_mode" in facts else None
    names = [known.name for known in board.power_modes]
    if mode is not None and mode not in names:
        raise ValueError(f"{where}.power_mode: expected one of power_modes ({', '.join(names)}), got {mode!r:.60}")


def _setting(option: Option, data: Any, where: str, form: int) -> Setting:
    setting = read_setting(data, where, form)
    is_word = setting.value == AUTO and option.auto is not None
    if not is_word:
        convert(option.kind.profile_type, setting.value, f"{where}.value")
        option.kind.convert(setting.value, where)
    if setting.basis == "default" and form >= FORMAT and not _is_default(option, setting.value, where):
        raise ValueError(
            f"{where}: expected the default {option.shown_default}, as its basis says so, got {setting.value!r:.60}"
        )
    return setting


def _is_default(option: Option, value: Any, where: str) -> bool:
    if value == AUTO or option.default in (None, AUTO):
        return bool(value == option.default)
    return bool(option.kind.convert(value, where) == option.kind.convert(option.default, where))


@cache
def packaged() -> Mapping[str, Any]:
    """Return what the packaged profiles hold, by name.

    They are kept as one JSON file beside their YAML (tools/packaged_profiles.py): starting does not load a YAML parser.
    """
    try:
        folder: Traversable = importlib.resources.files("edge_runtime.profiles")
    except ModuleNotFoundError:
        # a source tree: the folder becomes edge_runtime.profiles only in the wheel
        folder = Path(__file__).resolve().parents[2] / "profiles"
    found: dict[str, Any] = json.loads((folder / "packaged.json").read_bytes())
    return found
