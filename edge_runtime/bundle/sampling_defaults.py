"""How a model wants to be sampled: what its generation_config.json says, as the manifest holds it."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

from edge_runtime.base.sampling import OF_MODEL

_MOST = 1 << 20
"""Of a whole number that has no bound of its own: no vocabulary is larger."""


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
        given = self.given
        for number in OF_MODEL:
            value = given.get(number.name, number.default)
            if not number.allows(value) or (number.high is None and value > _MOST):
                bounds = f"{number.low:g} to {_MOST:g}" if number.high is None else number.bounds
                raise ValueError(f"{where}.{number.name}: expected {bounds}, got {value:g}")
