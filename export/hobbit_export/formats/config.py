"""`quantization_config` of config.json: read strictly, and which modules it says are not quantised."""

from __future__ import annotations

import re
from collections.abc import Iterable
from typing import Any

from edge_runtime.base.errors import BundleError, ConfigError
from hobbit_export.arch.config import ConfigReader
from hobbit_export.weights import Weight

WHERE = "config.json: quantization_config"
KEYS = ("quantization_config", "compression_config")
_MAX_PATTERN = 256
_MOST_REPEATS = 4
_INNER = ("text_config", "llm_config", "language_config")


def take(config: dict[str, Any]) -> tuple[dict[str, Any], dict[str, Any] | None]:
    """Return config.json without its quantisation, and the quantisation: None if there is none.

    Raises:
        ConfigError: there are several that differ, or it is not an object.
    """
    found: list[Any] = [config[key] for key in KEYS if config.get(key) is not None]
    rest = {key: value for key, value in config.items() if key not in KEYS}
    for name in _INNER:
        inner = rest.get(name)
        if isinstance(inner, dict):
            found += [inner[key] for key in KEYS if inner.get(key) is not None]
            rest[name] = {key: value for key, value in inner.items() if key not in KEYS}
    if any(one != found[0] for one in found):
        raise ConfigError(f"{WHERE}: is there twice and says different things. Remove the one that is wrong.")
    if found and not isinstance(found[0], dict):
        raise ConfigError(f"{WHERE}: expected an object, got {str(found[0])[:60]}.")
    return rest, found[0] if found else None


class QuantReader(ConfigReader):
    """Hands out the keys of `quantization_config`; keys that nobody asks for are refused."""

    def __init__(self, data: dict[str, Any], where: str = WHERE) -> None:
        super().__init__(data, where)

    def words(self, *keys: str) -> list[str]:
        """Return a list of names, [] where the key is missing or null; of several keys, all together."""
        found: list[str] = []
        for key in keys:
            value = self.get(key)
            value = [] if value is None else value
            if not isinstance(value, list) or not all(isinstance(name, str) for name in value):
                raise ConfigError(f"{self.where}: {key}: expected a list of names, got {str(value)[:60]}.")
            found += value
        return found

    def ignore(self, *keys: str) -> None:
        """Say that these keys change nothing in what is stored."""
        for key in keys:
            self.get(key)

    def finish(self, also_ignored: frozenset[str] = frozenset()) -> None:
        """Refuse every key that nobody asked for."""
        for key, value in self.data.items():
            if key not in self._used | also_ignored:
                raise self.refuse(key, value, "This exporter does not know what it changes.")


def pattern(text: str, where: str) -> re.Pattern[str]:
    """Compile an untrusted pattern that can be matched in bounded time.

    Raises:
        ConfigError: it is no pattern, or one that may take for ever.
    """
    repeats = len(re.findall(r"(?<!\\)[*+{?]", text))
    nested = re.search(r"(?<!\\)\)[*+{?]|\\[1-9]|\(\?[P<]", text)
    if len(text) > _MAX_PATTERN or repeats > _MOST_REPEATS or nested:
        raise ConfigError(
            f"{where}: expected a pattern of at most {_MAX_PATTERN} characters and {_MOST_REPEATS} repetitions, "
            f"none of a group, got {text[:80]!r}."
        )
    try:
        return re.compile(text)
    except re.error as err:
        raise ConfigError(f"{where}: expected a pattern, got {text[:80]!r}: {err}.") from err


def refuse_ignored(weights: Iterable[Weight], ignored: list[str], where: str = WHERE) -> None:
    """Refuse a weight that is stored quantised though the configuration names its module, or one around it, as not so.

    Args:
        weights: those that are quantised.
        ignored: module names; "re:" begins a pattern, "*" stands for anything.
        where: for messages.

    Raises:
        BundleError: names the weight.
    """
    plain = {name for name in ignored if not name.startswith("re:") and "*" not in name}
    globs = [re.escape(name).replace(r"\*", ".*") for name in ignored if "*" in name and name[:3] != "re:"]
    whole = [pattern(text, where).fullmatch for text in globs]
    matches = [pattern(name[3:], where).match for name in ignored if name.startswith("re:")]
    for weight in weights:
        module = weight.name.removesuffix(".weight")
        around = {module[:at] for at in (i for i, char in enumerate(module) if char == ".")} | {module}
        hit = around & plain or any(match(name) for match in whole for name in around)
        if hit or any(match(module) for match in matches):
            raise BundleError(
                f"{weight.file.name}: tensor {weight.parts[0]!r}: is quantised, but {where} says that {module!r} is "
                "not. Download config.json and the weights again."
            )
