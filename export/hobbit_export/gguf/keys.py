"""Strict reading of an architecture's keys: every one is used, known to change nothing, or refused by name."""

from __future__ import annotations

from collections.abc import Callable, Collection
from typing import Any, TypeVar

from edge_runtime.base.errors import ConfigError
from edge_runtime.base.spec import MAX_LAYERS
from hobbit_export.gguf.metadata import Metadata

T = TypeVar("T")
_FIXED: dict[str, tuple[object, ...]] = {
    "attention.causal": (True,),
    "expert_gating_func": (1,),  # softmax
    "expert_group_count": (0, 1),
    "expert_group_used_count": (0, 1),
    "expert_shared_count": (0,),
    "expert_weights_scale": (0.0, 1.0),
    "logit_scale": (1.0,),
    "use_parallel_residual": (False,),
}
"""Keys that a family which does not read them may have with these values only."""
_IGNORED = ("rope.scaling.finetuned", "tensor_data_layout", "vocab_size")
"""Keys that change nothing: the vocabulary's size is that of the embedding."""


class Keys:
    """Hands out the keys of one architecture, such as `qwen3moe.block_count`, and remembers which were asked for."""

    def __init__(self, metadata: Metadata, architecture: str, ignored: Collection[str] = ()) -> None:
        self._metadata = metadata
        self._prefix = f"{architecture}."
        self._used = {key for key in ignored if metadata.has(key)}
        self._missing = set(ignored) - self._used
        self._hidden = frozenset(self._used)

    @property
    def where(self) -> str:
        """The file's name, for messages."""
        return self._metadata.file.name

    def count(self, name: str) -> int | None:
        """Return a whole number that is not negative, or None where there is none."""
        return self._get(name, self._metadata.count)

    def number(self, name: str) -> float | None:
        """Return a finite number, or None."""
        return self._get(name, self._metadata.number)

    def text(self, name: str) -> str | None:
        """Return a string, or None."""
        return self._get(name, self._metadata.text)

    def flag(self, name: str) -> bool | None:
        """Return true or false, or None."""
        return self._get(name, self._metadata.flag)

    def by_layer(self, name: str, num_layers: int) -> list[int | float] | None:
        """Return one number a layer, or None."""
        return self._get(name, lambda key: self._metadata.by_layer(key, num_layers))

    def numbers(self, name: str, most: int) -> list[int | float] | None:
        """Return a list of numbers, or None."""
        return self._get(name, lambda key: self._metadata.numbers(key, most))

    def required(self, name: str) -> int:
        """Return a whole number above 0 that must be there."""
        value = self.count(name)
        if not value:
            got = "nothing" if value is None else value
            raise ConfigError(f"{self.where}: {self._prefix}{name}: expected a whole number above 0, got {got}.")
        return value

    def uniform(self, name: str, num_layers: int) -> int | None:
        """Return the one whole number that all layers have, or None where there is none.

        Raises:
            ConfigError: layers differ.
        """
        values = self.by_layer(name, num_layers)
        if values is None:
            return None
        if len(set(values)) != 1 or not isinstance(values[0], int) or isinstance(values[0], bool) or values[0] < 1:
            raise self.refuse(name, sorted(set(values))[:8], "Layers of different sizes are not read.")
        return values[0]

    @property
    def num_blocks(self) -> int:
        """Layers, those that draft tokens included: bounded, since much is made for each before the rest is checked."""
        value = self.required("block_count")
        if value > MAX_LAYERS:
            raise ConfigError(f"{self.where}: {self._prefix}block_count: expected at most {MAX_LAYERS}, got {value}.")
        return value

    def fixed(self, name: str, *allowed: object) -> None:
        """Accept a key only if it is absent or has one of these values."""
        key = self._prefix + name
        self._used.add(key)
        value = self._metadata.values.get(key)
        if value is not None and key not in self._hidden and value not in allowed:
            raise self.refuse(name, value)

    def refuse(self, name: str, value: object, hint: str = "") -> ConfigError:
        """Build the error for an option this project does not implement."""
        hint = f" {hint}" if hint else ""
        return ConfigError(f"{self.where}: unsupported option {self._prefix + name!r} = {str(value)[:120]}.{hint}")

    def finish(self) -> None:
        """Refuse every key of the architecture nobody asked for and nobody listed.

        Raises:
            ConfigError: names the key and its value.
        """
        if self._missing:
            raise ConfigError(f"--ignore-key: {self.where} has no key {sorted(self._missing)[0]!r}.")
        for name, allowed in _FIXED.items():
            if self._prefix + name not in self._used:
                self.fixed(name, *allowed)
        for key, value in self._metadata.values.items():
            name = key.removeprefix(self._prefix)
            if key.startswith(self._prefix) and key not in self._used and name not in _IGNORED:
                raise self.refuse(name, value, "This exporter does not know what it changes.")

    def _get(self, name: str, read: Callable[[str], T | None]) -> T | None:
        key = self._prefix + name
        if key in self._hidden:
            return None
        self._used.add(key)
        return read(key)


def without_none(values: dict[str, Any]) -> dict[str, Any]:
    """Return what has a value; a family's adapter knows the defaults of the others."""
    return {key: value for key, value in values.items() if value is not None}
