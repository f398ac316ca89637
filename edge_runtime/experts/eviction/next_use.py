"""Longest expected time until the next use, from use rates over several half-lives that are weighed by themselves."""

from __future__ import annotations

import numpy as np

from edge_runtime.base.params import Param
from edge_runtime.experts.eviction.base import F64, U8, KeepingRule, Keys, RuleContext

SUMMARY = "by the expected time until the next use"
PARAMS = {
    "shortest": Param(0.1, "shortest half-life of the use rates, in passes; each next is ten times as long", "ours", 0),
    "memory": Param(3, "passes over which the weights of the half-lives are learnt", "ours", 1),
}
_HALF_LIVES = 4
_LEAST = 1e-3
"""Chances and weights below this are not told apart: a weight of 0 would never come back."""


class NextUse(KeepingRule):
    """Belady's rule with an estimate in place of the future: who is expected back last goes first.

    The chance that an expert is used in a pass is a mixture of five forecasts: its use rates over four half-lives, and
    that of a layer that has no favourites, K / E. Nobody has to say how fast a text changes its subject: after every
    pass each forecast is credited with its share in foreseeing what was used (one step of expectation maximisation),
    and the weights follow over some passes. With chance p, and layers to go until the expert's layer runs again::

        E[passes until the next use] = layers / L + 1 / p

    and argmax goes. Records outlive a sequence; the short half-lives adapt to a new one within a few tokens.

    Args:
        context: the model.
        shortest: the shortest half-life, in passes.
        memory: passes the weights are learnt over.
    """

    name = "next-use"

    def __init__(self, context: RuleContext, *, shortest: float, memory: int) -> None:
        half_lives = max(shortest, 1e-2) * 10.0 ** np.arange(_HALF_LIVES)
        self._kept = 2.0 ** (-1.0 / half_lives)
        self._gain = 1 - self._kept
        self._num_layers, self._num_experts = context.num_layers, context.num_experts
        self._rates = np.zeros((context.num_layers * context.num_experts, _HALF_LIVES))
        self._known = np.zeros(_HALF_LIVES)  # the rates of an expert that was used in every pass so far
        self._no_favourites = context.top_k / context.num_experts
        self._weights = np.full(_HALF_LIVES + 1, 1.0 / (_HALF_LIVES + 1))
        self._memory = memory
        self._foreseen: list[F64] = []
        layers = np.arange(context.num_layers)
        self._layers_to_go = ((layers - layers[:, None] - 1) % context.num_layers / context.num_layers)[..., None]
        self._weigh()

    def begin_pass(self) -> None:
        """Learn from the pass before."""
        if self._foreseen:
            self._learn(np.concatenate(self._foreseen))
            self._foreseen.clear()
        self._known = self._known * self._kept + self._gain
        self._weigh()

    def use(self, keys: Keys, tiers: U8) -> None:
        """Count uses of a layer's experts, and let those of its earlier passes fade."""
        before = self._rates.take(keys, axis=0)
        self._foreseen.append(before)
        first = int(keys[0]) // self._num_experts * self._num_experts
        layer = self._rates[first : first + self._num_experts]
        np.multiply(layer, self._kept, out=layer)
        before = before * self._kept
        before += self._gain
        self._rates[keys] = before

    def scores(self, keys: Keys, layer_idx: int) -> F64:
        """Return less the passes until the next use that are expected, float64 [S]."""
        chance = self._rates @ self._of_rates
        chance += self._of_all
        np.maximum(chance, _LEAST, out=chance)
        np.divide(-1.0, chance, out=chance)
        np.minimum(chance, -1.0, out=chance)
        by_layer = chance.reshape(self._num_layers, self._num_experts)
        by_layer -= self._layers_to_go[layer_idx]
        return np.asarray(chance.take(keys, mode="wrap"))

    def _weigh(self) -> None:
        """Bring what scores and shares are computed by up to date: float64 [4] for rates, and what all have alike."""
        # above 0 before the first pass too, when all rates are 0
        self._of_rates = self._weights[:-1] / np.maximum(self._known, np.finfo(np.float64).tiny)
        self._of_all = float(self._weights[-1]) * self._no_favourites

    def _learn(self, rates: F64) -> None:
        """Credit each forecast with its share in what was used; `rates` float64 [n, 4] are those before the pass."""
        forecasts = rates * self._of_rates
        in_all = 1.0 / (forecasts.sum(axis=1) + self._of_all)
        shares = np.append(in_all @ forecasts, self._of_all * in_all.sum()) / len(rates)
        learnt = self._weights + (shares - self._weights) / self._memory
        self._weights = np.maximum(learnt, _LEAST)
