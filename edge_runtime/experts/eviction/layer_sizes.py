"""AdapMoE's cache sizes: how many experts each layer may keep, by dynamic programming over expected loads.

AdapMoE, arXiv 2408.10284 (ICCAD'24): the cache is divided among layers so that a token's expected loads are fewest,
given how often a layer gets by with one expert and how often prefetching is right. Our readings: the chance that
an expert is in a cache of c is the share of uses that went to the layer's c most used in calibration (the paper has no
such counts); the division is a rule of eviction over one pool, in which layers above their size give way first and
each layer is least recently used within, as the paper's caches are. The sizes are those of the budget at opening.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from edge_runtime.base.errors import ConfigError
from edge_runtime.base.params import Param, per_layer
from edge_runtime.bundle.calibration import ExpertCalibration

F64 = NDArray[np.float64]
Keys = NDArray[np.intp]
PARAMS = {
    "single": Param(
        "0", "share of tokens a layer serves with one expert; one value, or one a layer as 0.3/0.2/...",
        "AdapMoE's beta; 0: nothing is gated",
    ),
    "accuracy": Param(
        "0", "share of a layer's loads that prefetching hides; one value, or one a layer", "AdapMoE's alpha; 0: off"
    ),
}  # fmt: skip
_SURPLUS = 1e15
"""Below every score of a layer within its size."""


class LayerSizes:
    """See the module. Implements `EvictionRule`.

    Args:
        num_layers: L.
        num_experts: E.
        top_k: K.
        capacity: experts of the full tier the cache holds.
        calibration: of the bundle; says how often each expert was used.
        single: see `PARAMS`.
        accuracy: see `PARAMS`.

    Raises:
        ConfigError: the bundle was exported without a calibration text, or a parameter is out of range.
    """

    name = "layer-sizes"

    def __init__(
        self,
        num_layers: int,
        num_experts: int,
        *,
        top_k: int,
        capacity: int,
        calibration: ExpertCalibration | None,
        single: str,
        accuracy: str,
    ) -> None:
        if calibration is None or not calibration.is_measured:
            raise ConfigError(
                "eviction 'layer-sizes': expected a bundle with counts of a calibration text. Export it again with "
                "--calibrate, or use another rule."
            )
        alone = per_layer(single, num_layers, "eviction 'layer-sizes'.single", low=0, high=1)
        hidden = per_layer(accuracy, num_layers, "eviction 'layer-sizes'.accuracy", low=0, high=1)
        layers = [layer.layer for layer in calibration.layers]
        loads = [
            expected_loads(layer.counts or [0], top_k, single=alone[layer.layer], accuracy=hidden[layer.layer])
            for layer in calibration.layers
        ]
        self.sizes = np.zeros(num_layers, np.intp)
        self.sizes[layers] = divide(loads, min(capacity, len(layers) * num_experts))
        self._num_experts = num_experts
        self._last_use = np.zeros(num_layers * num_experts)
        self._uses = 0

    def begin_sequence(self) -> None:
        """Keep everything, as `Lru` does."""

    def begin_pass(self) -> None:
        """Nothing to do."""

    def use(self, keys: Keys, tiers: NDArray[np.uint8]) -> None:
        """See `EvictionRule.use`."""
        self._last_use[keys] = self._uses + np.arange(1, len(keys) + 1)
        self._uses += len(keys)

    def scores(self, keys: Keys, layer_idx: int) -> F64:
        """See `EvictionRule.scores`: order of use, with the oldest of layers above their size before all others."""
        scores = self._last_use.take(keys, mode="wrap")
        occupied = np.flatnonzero(keys >= 0)
        layers = keys[occupied] // self._num_experts
        order = occupied[np.lexsort((scores[occupied], layers))]
        held = np.bincount(layers, minlength=len(self.sizes))
        place = np.arange(len(order)) - np.repeat(np.cumsum(held) - held, held)
        surplus = np.repeat(np.maximum(held - self.sizes, 0), held)
        scores[order[place < surplus]] -= _SURPLUS
        return scores


def expected_loads(counts: Sequence[int], top_k: int, *, single: float, accuracy: float) -> F64:
    """Return float64 [E + 1]: loads a token is expected to wait for in a layer that keeps c experts.

    Args:
        counts: how often each expert was used.
        top_k: K.
        single: share of tokens that use one expert; the others use K.
        accuracy: share of the loads that were read ahead.
    """
    falling = np.sort(np.array(counts, np.float64))[::-1]
    total = falling.sum()
    share = falling / total if total > 0 else np.full(len(falling), 1 / len(falling))
    missing = np.maximum(1 - np.concatenate([[0.0], np.cumsum(share)]), 0.0)
    return np.asarray((1 - accuracy) * (single + (1 - single) * top_k) * missing)


def divide(loads: Sequence[F64], capacity: int) -> NDArray[np.intp]:
    """Divide a capacity among layers so that their summed loads are least: dynamic programming, layer by layer.

    Args:
        loads: of each layer float64 [E + 1], by the experts it keeps.
        capacity: experts in all.

    Returns:
        intp [layers], summing to at most `capacity`.
    """
    best = np.zeros(capacity + 1)
    taken: list[NDArray[np.intp]] = []
    for of_layer in loads:
        most = min(len(of_layer) - 1, capacity)
        options = np.full((most + 1, capacity + 1), np.inf)
        for kept in range(most + 1):
            options[kept, kept:] = best[: capacity + 1 - kept] + of_layer[kept]
        taken.append(options.argmin(axis=0))
        best = options.min(axis=0)
    sizes, left = [], int(best.argmin())
    for choice in reversed(taken):
        sizes.append(int(choice[left]))
        left -= sizes[-1]
    return np.array(sizes[::-1], np.intp)
