"""What /set shows and changes: every sampling parameter that is one value, and how answers are shown."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Any

from edge_runtime.base.errors import RequestError, did_you_mean
from edge_runtime.config.kinds import SWITCH_WORDS
from edge_runtime.engine.sampler import SamplingParams

_NONE = ("none", "off", "auto")


def _whole(text: str) -> int:
    return int(text)


def _fraction(text: str) -> float:
    return float(text)


def _switch(text: str) -> bool:
    if text.lower() not in SWITCH_WORDS:
        raise ValueError(text)
    return SWITCH_WORDS[text.lower()]


_CONVERTERS: dict[str, tuple[Callable[[str], Any], str]] = {
    "int": (_whole, "a whole number"),
    "float": (_fraction, "a number"),
    "bool": (_switch, "on or off"),
}
_LOOKS = {"reasoning": "whether what the model thinks aloud is shown", "stats": "statistics after each answer"}


class ChatSettings:
    """The settings of a chat.

    Args:
        params: how answers are sampled.

    Attributes:
        params: the same, as changed since.
        looks: switches by name: what is shown.
    """

    def __init__(self, params: SamplingParams) -> None:
        self.params = params
        self.looks = {"reasoning": True, "stats": False}

    @property
    def names(self) -> list[str]:
        """What can be set."""
        return [*_kinds(), *self.looks]

    def lines(self) -> list[str]:
        """Return every setting with its value."""
        values = {name: getattr(self.params, name) for name in _kinds()} | self.looks
        return [f"  {name:<20}{_shown(value)}" for name, value in values.items()]

    def change(self, name: str, text: str) -> str:
        """Set one; return what it is now.

        Raises:
            RequestError: there is none of that name, or the value is not one.
        """
        name = name.lower().lstrip("-").replace("-", "_")
        if name in self.looks:
            self.looks[name] = bool(_converted(name, text, "bool"))
            return f"{name}: {_shown(self.looks[name])}"
        kinds = _kinds()
        if name not in kinds:
            raise RequestError(f"set: there is no {name!r}.{did_you_mean(name, self.names)} /set lists what there is.")
        changed: dict[str, Any] = {name: _converted(name, text, kinds[name])}
        self.params = dataclasses.replace(self.params, **changed)
        return f"{name}: {_shown(getattr(self.params, name))}"


def _kinds() -> dict[str, str]:
    """Parameters that are one value, or strings to stop at, by name: the type of each as it is written."""
    kinds = {f.name: str(f.type) for f in dataclasses.fields(SamplingParams)}
    return {name: kind for name, kind in kinds.items() if kind.removesuffix(" | None") in _CONVERTERS or name == "stop"}


def _converted(name: str, text: str, kind: str) -> Any:
    if name == "stop":
        return () if text.lower() == "none" else (text.replace("\\n", "\n"),)
    if kind.endswith(" | None") and text.lower() in _NONE:
        return None
    convert, expected = _CONVERTERS[kind.removesuffix(" | None")]
    try:
        return convert(text)
    except ValueError as err:
        more = ", or none" if kind.endswith(" | None") else ""
        raise RequestError(f"set: {name}: expected {expected}{more}, got {text[:40]!r}.") from err


def _shown(value: Any) -> str:
    if isinstance(value, bool):
        return "on" if value else "off"
    if isinstance(value, tuple):
        return ", ".join(map(repr, value)) or "none"
    return "none" if value is None else f"{value:g}" if isinstance(value, float) else str(value)
