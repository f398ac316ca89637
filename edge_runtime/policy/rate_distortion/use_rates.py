"""The squared weight a token that each expert is expected to carry, from calibration and from the text so far."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from edge_runtime.base.arrays import F64
from edge_runtime.policy.base import Routing

if TYPE_CHECKING:
    from edge_runtime.bundle.calibration import ExpertCalibration

_LEAST_FACTOR = 1e-9
_PRIOR_TOKENS = 64.0
"""Tokens that the calibration text counts as, however long it was: it is not the text that runs."""


class UseRates:
    """Squared weight a token of every expert: a fading mean that starts from the calibration text.

    Sums are kept, not means. All sums of a layer fade alike, so one factor for each layer is enough, and a token
    touches only the experts it uses. The native code notes single tokens and holds the same arrays: they are written
    in place, never replaced.

    Args:
        num_layers: L.
        num_experts: E.
        calibration: measured on a text.
        memory: tokens after which what was seen counts 1/e.
    """

    def __init__(self, num_layers: int, num_experts: int, calibration: ExpertCalibration, memory: int) -> None:
        self.keep, self._memory = 1 - 1 / memory, float(memory)
        self.sums = np.zeros((num_layers, num_experts))
        self.factors = np.ones(num_layers)
        self.tokens = np.full(num_layers, _PRIOR_TOKENS)
        tokens = max(calibration.tokens or 1, 1)
        for layer in calibration.layers:
            counts = np.array(layer.counts or [0], np.float64) / tokens
            # without measured powers, uses are taken to weigh alike: K of them share a weight of 1
            mean = layer.powers or [1 / max(float(counts.sum()), 1.0) ** 2]
            self.sums[layer.layer] = counts * np.array(mean) * _PRIOR_TOKENS

    def note(self, layer_idx: int, routing: Routing) -> None:
        """Take the router's choice for the tokens of a layer into account."""
        count, sums = len(routing.topk_ids), self.sums[layer_idx]
        kept = self.keep**count
        tokens = min(float(count), self._memory * (1 - kept))  # many at once count for as many as the memory holds
        factor = self.factors[layer_idx] * kept
        if factor < _LEAST_FACTOR:
            sums *= factor
            factor = 1.0
        powers = routing.topk_weights.astype(np.float64) ** 2 * (tokens / (count * factor))
        np.add.at(sums, routing.topk_ids.ravel(), powers.ravel())
        self.factors[layer_idx] = factor
        self.tokens[layer_idx] = self.tokens[layer_idx] * kept + tokens

    def powers(self, layer_idx: int) -> F64:
        """Squared weight a token of every expert of a layer, float64 [E]."""
        found: F64 = self.sums[layer_idx] * (self.factors[layer_idx] / self.tokens[layer_idx])
        return found
