"""Least costly used, of MoE-APEX."""

from __future__ import annotations

import numpy as np

from edge_runtime.base.arrays import F32, U8, Keys
from edge_runtime.experts.eviction.base import KeepingRule, RuleContext

SUMMARY = "by cost of past uses and nearness of the next, without parameters"


class Lcu(KeepingRule):
    """Least Costly Used, the parameter-free rule of MoE-APEX (ASPLOS'26; the HOBBIT authors).

    For a resident expert t while layer l_i needs room::

        C_t = H_t + (B_low / B_high) L_t          uses in this sequence at high and at low precision
        D   = ((l_t - l_i + L) mod L) + 0.1       layers until t's layer runs
        p_t = C_t / T + (1 / D if t was used in the previous forward pass else 0)

    and argmin p_t is evicted. T is the number of the current token of the sequence. Our readings where the paper is
    silent: with several tokens in a pass an expert is used once and T grows by one; with more than two tiers a use at
    a tier costs B_tier / B_full, which is the published formula for two.

    Args:
        context: the model, and the bytes of its tiers.
    """

    name = "lcu"

    def __init__(self, context: RuleContext) -> None:
        num_layers, num_experts = context.num_layers, context.num_experts
        self._cost = np.zeros(num_layers * num_experts, np.float32)
        self._used_now = np.zeros(num_layers * num_experts, np.bool_)
        self._used_before = np.zeros_like(self._used_now)
        self._num_layers = num_layers
        self._passes = 0
        self._use_cost = np.zeros(256, np.float32)
        for tier, size in context.tier_bytes.items():
            self._use_cost[tier] = size / context.tier_bytes[context.full_tier]

    def begin_sequence(self) -> None:
        """Reset every record: uses, the token count and who was used last."""
        self._cost[:] = 0
        self._used_now[:] = False
        self._used_before[:] = False
        self._passes = 0

    def begin_pass(self) -> None:
        """Remember who was used in the pass before."""
        self._passes += 1
        self._used_now, self._used_before = self._used_before, self._used_now
        self._used_now[:] = False

    def use(self, keys: Keys, tiers: U8) -> None:
        """Add what a use costs at its tier."""
        self._cost[keys] += self._use_cost[tiers]
        self._used_now[keys] = True

    def scores(self, keys: Keys, layer_idx: int) -> F32:
        """Return p_t, float32 [S]."""
        # computed for every key by broadcasting over layers, then one gather: cheaper than gathering each term
        distance = (np.arange(self._num_layers) - layer_idx) % self._num_layers
        nearness = (1 / (distance + 0.1)).astype(np.float32)
        by_key = self._used_before.reshape(self._num_layers, -1) * nearness[:, None]
        by_key += self._cost.reshape(self._num_layers, -1) * np.float32(1 / max(self._passes, 1))
        return by_key.take(keys, mode="wrap")
