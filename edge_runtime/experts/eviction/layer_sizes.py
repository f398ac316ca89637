"""AdapMoE's cache sizes: how many experts each layer may keep, by dynamic programming over expected loads.

AdapMoE, arXiv 2408.10284 (ICCAD'24): the cache is divided among layers so that a token's expected loads are fewest,
given how often a layer gets by with one expert and how often prefetching is right. Our readings: the chance that
an expert is in a cache of c is the share of uses that went to the layer's c most used in calibration (the paper has no
such counts); the division is a rule of eviction over one pool, in which layers above their size are evicted first and
each layer is least recently used within, as the paper's caches are. The sizes follow the budget.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from edge_runtime.base.arrays import F64, U8, Indices, Keys
from edge_runtime.base.errors import ConfigError
from edge_runtime.base.params import Param, per_layer
from edge_runtime.experts.eviction.base import KeepingRule, RuleContext

SUMMARY = "layers above the size that suits them first"
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


class LayerSizes(KeepingRule):
    """Layers above their share of the cache are evicted first; within a layer the least recently used goes.

    Args:
        context: the model, the cache's capacity, and a calibration, which says how often each expert was used.
        single: share of tokens a layer serves with one expert; one value, or one a layer.
        accuracy: share of a layer's loads that prefetching hides; one value, or one a layer.

    Raises:
        ConfigError: the bundle was exported without a calibration text, or a parameter is out of range.
    """

    name = "layer-sizes"

    def __init__(self, context: RuleContext, *, single: str, accuracy: str) -> None:
        num_layers, calibration = context.num_layers, context.calibration
        if calibration is None or not calibration.is_measured:
            raise ConfigError(
                "eviction 'layer-sizes': expected a bundle with counts of a calibration text. Export it again with "
                "--calibrate, or use another rule."
            )
        alone = per_layer(single, num_layers, "eviction 'layer-sizes'.single", low=0, high=1)
        hidden = per_layer(accuracy, num_layers, "eviction 'layer-sizes'.accuracy", low=0, high=1)
        self._layers = [layer.layer for layer in calibration.layers]
        self._loads = [
            expected_loads(layer.counts or [0], context.top_k, single=alone[layer.layer], accuracy=hidden[layer.layer])
            for layer in calibration.layers
        ]
        self.sizes = np.zeros(num_layers, np.intp)
        self._num_experts = context.num_experts
        self._last_use = np.zeros(num_layers * context.num_experts)
        self._uses = 0
        self.resize(context.capacity)

    def resize(self, capacity: int) -> None:
        """Divide another capacity among the layers."""
        self.sizes[self._layers] = divide(self._loads, min(capacity, len(self._layers) * self._num_experts))

    def use(self, keys: Keys, tiers: U8) -> None:
        """Number the uses."""
        self._last_use[keys] = self._uses + np.arange(1, len(keys) + 1)
        self._uses += len(keys)

    def scores(self, keys: Keys, layer_idx: int) -> F64:
        """Return the order of use, with the oldest of layers above their size before all others."""
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


def divide(loads: Sequence[F64], capacity: int) -> Indices:
    """Divide a capacity among layers so that their summed loads are least: dynamic programming, layer by layer.

    Args:
        loads: of each layer float64 [E + 1], by the experts it keeps.
        capacity: experts in all.

    Returns:
        intp [layers], summing to at most `capacity`.
    """
    best = np.zeros(capacity + 1)
    taken: list[Indices] = []
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
