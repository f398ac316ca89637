"""What experts are expected to carry: squared weight a token, from calibration and from what was seen since."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from edge_runtime.format.calibration import ExpertCalibration
from edge_runtime.policy.base import Routing

F32 = NDArray[np.float32]
_PRIOR_TOKENS = 64.0
"""Tokens the calibration text counts for, however long it was: it is another text than the one that runs."""


class UseRates:
    """Squared weight a token of every expert: a fading mean that begins at what the calibration text had.

    Args:
        num_layers: L.
        num_experts: E.
        calibration: measured on a text.
        memory: tokens after which what was seen counts 1/e.
    """

    def __init__(self, num_layers: int, num_experts: int, calibration: ExpertCalibration, memory: int) -> None:
        self.powers = np.zeros((num_layers, num_experts), np.float32)
        tokens = max(calibration.tokens or 1, 1)
        for layer in calibration.layers:
            counts = np.array(layer.counts or [0], np.float32) / tokens
            # without measured powers, uses are taken to weigh alike: K of them share a weight of 1
            mean = layer.powers or [1 / max(float(counts.sum()), 1.0) ** 2]
            self.powers[layer.layer] = counts * np.array(mean, np.float32)
        self._keep = 1 - 1 / memory
        self._memory = float(memory)
        # sums fade instead of means; a layer's tokens are those of its sums
        self._tokens = [_PRIOR_TOKENS] * num_layers
        self._sums = self.powers * np.float32(_PRIOR_TOKENS)

    def note(self, layer_idx: int, routing: Routing) -> None:
        """Take the router's choice for the tokens of a layer into account."""
        ids, weights = routing.topk_ids, routing.topk_weights
        sums, count = self._sums[layer_idx], len(ids)
        kept = self._keep**count
        sums *= np.float32(kept)
        if count == 1:
            used, share = ids[0], weights[0]
            sums.put(used, sums.take(used) + share * share)
            tokens = 1.0
        else:
            seen = np.bincount(ids.ravel(), (weights.astype(np.float64) ** 2).ravel(), minlength=len(sums))
            tokens = min(float(count), self._memory * (1 - kept))
            sums += (seen * (tokens / count)).astype(np.float32)
        self._tokens[layer_idx] = self._tokens[layer_idx] * kept + tokens
        np.multiply(sums, np.float32(1 / self._tokens[layer_idx]), out=self.powers[layer_idx])
