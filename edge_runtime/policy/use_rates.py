"""What experts are expected to carry: squared weight a token, from calibration and from what was seen since."""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np
from numpy.typing import NDArray

from edge_runtime.format.calibration import ExpertCalibration
from edge_runtime.policy.base import Routing

_LEAST_FACTOR = 1e-9
_PRIOR_TOKENS = 64.0
"""Tokens the calibration text counts for, however long it was: it is another text than the one that runs."""


class UseRates:
    """Squared weight a token of every expert: a fading mean that begins at what the calibration text had.

    Sums fade instead of means. All sums of a layer fade alike, so that one factor for each layer stands for it, and a
    token touches only the experts it uses.

    Args:
        num_layers: L.
        num_experts: E.
        calibration: measured on a text.
        memory: tokens after which what was seen counts 1/e.
    """

    def __init__(self, num_layers: int, num_experts: int, calibration: ExpertCalibration, memory: int) -> None:
        self._keep, self._memory = 1 - 1 / memory, float(memory)
        self._sums = [[0.0] * num_experts for _ in range(num_layers)]
        self._factors = [1.0] * num_layers
        self._tokens = [_PRIOR_TOKENS] * num_layers
        tokens = max(calibration.tokens or 1, 1)
        for layer in calibration.layers:
            counts = np.array(layer.counts or [0], np.float64) / tokens
            # without measured powers, uses are taken to weigh alike: K of them share a weight of 1
            mean = layer.powers or [1 / max(float(counts.sum()), 1.0) ** 2]
            self._sums[layer.layer] = (counts * np.array(mean) * _PRIOR_TOKENS).tolist()

    def note(self, layer_idx: int, routing: Routing) -> None:
        """Take the router's choice for the tokens of a layer into account."""
        ids, weights = routing.topk_ids, routing.topk_weights
        count, sums = len(ids), self._sums[layer_idx]
        kept = self._keep**count
        # many tokens at once count for as many as the memory holds
        tokens = 1.0 if count == 1 else min(float(count), self._memory * (1 - kept))
        factor = self._factors[layer_idx] * kept
        if factor < _LEAST_FACTOR:
            sums[:] = [each * factor for each in sums]
            factor = 1.0
        share = tokens / (count * factor)
        for row, of_row in zip(ids.tolist(), weights.tolist(), strict=True):
            for expert, weight in zip(row, of_row, strict=True):
                sums[expert] += weight * weight * share
        self._factors[layer_idx] = factor
        self._tokens[layer_idx] = self._tokens[layer_idx] * kept + tokens

    def expected(self, layer_idx: int, experts: Iterable[int]) -> list[float]:
        """Squared weight a token of some experts of a layer."""
        sums, scale = self._sums[layer_idx], self._factors[layer_idx] / self._tokens[layer_idx]
        return [sums[expert] * scale for expert in experts]

    def powers(self, layer_idx: int) -> NDArray[np.float64]:
        """Squared weight a token of every expert of a layer, float64 [E]."""
        return np.array(self._sums[layer_idx]) * (self._factors[layer_idx] / self._tokens[layer_idx])
