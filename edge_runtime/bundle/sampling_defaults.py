"""How a model wants to be sampled: what its generation_config.json says, as the manifest holds it."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

_LIMITS: dict[str, tuple[float, float]] = {
    "temperature": (0, 100),
    "top_k": (0, 1 << 20),
    "top_p": (1e-9, 1),
    "min_p": (0, 1),
    "repetition_penalty": (1e-9, 100),
}


@dataclass(frozen=True)
class SamplingDefaults:
    """What counts where a request says nothing. None: the model says nothing either.

    Attributes:
        temperature: 0 is greedy.
        top_k: 0 keeps all tokens.
        top_p: 1 keeps all.
        min_p: 0 keeps all.
        repetition_penalty: 1 changes nothing.
    """

    temperature: float | None = None
    top_k: int | None = None
    top_p: float | None = None
    min_p: float | None = None
    repetition_penalty: float | None = None

    @property
    def given(self) -> dict[str, Any]:
        """What the model says, by name of the sampling parameter."""
        return {name: value for name, value in asdict(self).items() if value is not None}

    def describe(self) -> str:
        """Return it for people: ``temperature 0.6, top-k 20``; "none" if there is nothing."""
        return ", ".join(f"{name.replace('_', '-')} {value:g}" for name, value in self.given.items()) or "none"

    def check(self, where: str) -> None:
        """Refuse values that no sampler takes.

        Raises:
            ValueError: names the field.
        """
        for name, value in self.given.items():
            low, high = _LIMITS[name]
            if not low <= value <= high:
                raise ValueError(f"{where}.{name}: expected {low:g} to {high:g}, got {value:g}")
