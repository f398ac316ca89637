"""The price of a byte: what a rate-distortion policy pays, in nats of KL divergence, to read one byte less."""

from __future__ import annotations

import math

_HORIZON = 256.0
"""Tokens over which a surplus or deficit of the budget is evened out."""
_SMOOTHING = 1 / 8
_GAIN, _MAX_STEP = 0.25, 0.5
_LEAST_SHARE, _MOST_SHARE = 0.25, 2.0
_RANGE = 1e-9
"""The least price, as a share of the greatest."""


class PriceController:
    """Moves the price so that the predicted loss a token stays at a budget, as a video encoder holds its rate.

    The price rises (fewer bytes are read) while less than the budget is spent. What earlier tokens spent below or above
    the budget is spread over the next ones.

    Args:
        budget: nats a token; above 0.
        greatest: a price at which nothing is read any more. It bounds the price where no price spends the budget.
    """

    def __init__(self, budget: float, greatest: float) -> None:
        self.budget, self.greatest = budget, greatest
        self.price: float | None = None
        self._recent = budget
        self.begin_sequence()

    def begin_sequence(self) -> None:
        """A new text starts with its whole budget; the price stays, as it depends on the model and the cache."""
        self._balance = 0.0

    def start(self, price: float) -> None:
        """Set the first price."""
        self.price = min(price, self.greatest)

    def spent(self, loss: float, tokens: int) -> None:
        """Account for a pass of `tokens` tokens predicted to lose `loss` nats in all, unless that is not finite."""
        if self.price is None or not math.isfinite(loss):
            return
        limit = _HORIZON * self.budget
        self._balance = min(max(self._balance + self.budget * tokens - loss, -limit), limit)
        share = 1 - (1 - _SMOOTHING) ** tokens
        self._recent += share * (loss / tokens - self._recent)
        wanted = self.budget + self._balance / _HORIZON
        wanted = min(max(wanted, _LEAST_SHARE * self.budget), _MOST_SHARE * self.budget)
        step = _GAIN * math.log(wanted / max(self._recent, 1e-3 * self.budget))
        price = self.price * math.exp(min(max(step, -_MAX_STEP), _MAX_STEP))
        self.price = min(max(price, self.greatest * _RANGE), self.greatest)
