"""Longest expected time until the next use, from use rates over several half-lives that are weighed by themselves."""

from __future__ import annotations

import numpy as np

from edge_runtime.base.arrays import F64, I32, U8, Keys
from edge_runtime.base.params import Param
from edge_runtime.experts.eviction.base import KeepingRule, RuleContext
from edge_runtime.experts.native import UseForecast

SUMMARY = "by the expected time until the next use"
PARAMS = {
    "shortest": Param(0.1, "shortest half-life of the use rates, in tokens; each next is ten times as long", "ours", 0),
    "memory": Param(3, "tokens over which the weights of the half-lives are learnt", "ours", 1),
}


class NextUse(KeepingRule):
    """Belady's rule with an estimate in place of the future: who is expected back last goes first.

    The chance that a token uses an expert is a mixture of five forecasts: its use rates over four half-lives, and
    that of a layer that has no favourites, K / E. Nobody has to say how fast a text changes its subject: after every
    pass each forecast is credited with its share in predicting what was used (one step of expectation maximisation),
    and the weights follow over some tokens. With chance p, and layers to go until the expert's layer runs again::

        E[tokens until the next use] = layers / L + 1 / p

    and argmax goes. Records outlive a sequence; the short half-lives adapt to a new one within a few tokens. A
    chunk of a prompt counts as its tokens one by one, so that it leaves those behind that its text uses most.

    Args:
        context: the model.
        shortest: the shortest half-life, in tokens.
        memory: tokens the weights are learnt over.
    """

    name = "next-use"

    def __init__(self, context: RuleContext, *, shortest: float, memory: int) -> None:
        self.forecast = UseForecast(context.num_layers, context.num_experts, context.top_k, shortest, memory)

    def begin_pass(self) -> None:
        """Learn from the pass before; one token is next."""
        self.forecast.begin_pass(1)

    def begin_tokens(self, num_tokens: int) -> None:
        """Learn from the pass before; so many tokens are next."""
        self.forecast.begin_pass(num_tokens)

    def use(self, keys: Keys, tiers: U8) -> None:
        """Count uses of a layer's experts by one token, and let those by earlier ones fade."""
        self.forecast.use(keys)

    def use_in_order(self, layer_idx: int, tiers: U8, topk_ids: I32) -> None:
        """Count uses of a layer's experts by one token after the other. See `OrderedRule.use_in_order`."""
        self.forecast.use_in_order(layer_idx, tiers, np.ascontiguousarray(topk_ids, np.int32))

    def scores(self, keys: Keys, layer_idx: int) -> F64:
        """Return less the tokens until the next use that are expected, float64 [S]."""
        found = np.empty(len(keys))
        self.forecast.score(keys, layer_idx, found)
        return found
