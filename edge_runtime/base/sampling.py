"""Sampling parameters that are one number: default, bounds and help, one entry a parameter.

Flags, the checks of `SamplingParams` and what a bundle may say of its model follow from the table.
"""

from __future__ import annotations

from typing import NamedTuple


class SamplingNumber(NamedTuple):
    """A parameter.

    Attributes:
        name: as `SamplingParams` has it; the flag has dashes.
        default: changes nothing, or is greedy; its type is the parameter's.
        low: the lowest value.
        high: the highest one; None: there is none.
        help: of the flag.
        metavar: stands for the value in help.
        above_low: whether the lowest value itself is refused.
        of_model: whether a model may have a default of its own.
    """

    name: str
    default: float
    low: float
    high: float | None
    help: str
    metavar: str = "X"
    above_low: bool = False
    of_model: bool = True

    def allows(self, value: float) -> bool:
        """Whether a value is within the bounds; not a number is not."""
        is_enough = value > self.low if self.above_low else value >= self.low
        return is_enough and (self.high is None or value <= self.high)

    @property
    def bounds(self) -> str:
        """The bounds, for a message."""
        if self.above_low:
            return f"above {self.low:g}, at most {self.high:g}"
        return f"{self.low:g} or more" if self.high is None else f"{self.low:g} to {self.high:g}"


_PENALTY = 100

NUMBERS = (
    SamplingNumber("temperature", 0.0, 0, 100, "randomness; 0 is greedy"),
    SamplingNumber("top_k", 0, 0, None, "draw from the K likeliest; 0: all", "K"),
    SamplingNumber("top_p", 1.0, 0, 1, "draw from the smallest set reaching P", "P", above_low=True),
    SamplingNumber("min_p", 0.0, 0, 1, "drop tokens below P of the likeliest", "P"),
    SamplingNumber(
        "repetition_penalty", 1.0, 0, 100, "against tokens of prompt and answer; 1 changes nothing", above_low=True
    ),
    SamplingNumber("presence_penalty", 0.0, -_PENALTY, _PENALTY, "against tokens said before", of_model=False),
    SamplingNumber(
        "frequency_penalty", 0.0, -_PENALTY, _PENALTY, "against tokens each time they were said", of_model=False
    ),
)
OF_MODEL = tuple(number for number in NUMBERS if number.of_model)
