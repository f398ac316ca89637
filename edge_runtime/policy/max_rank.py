"""Max-Rank: residents among the router's best M experts go before the others. arXiv 2412.00099."""

from __future__ import annotations

from edge_runtime.base.arrays import F32, Bools
from edge_runtime.base.errors import ConfigError
from edge_runtime.base.params import Param
from edge_runtime.policy.base import PolicyContext
from edge_runtime.policy.cache_conditional import SHARED_PARAMS, CacheConditional, from_window

PARAMS = {
    "m": Param(
        0, "ranks that may be chosen; K changes nothing; 0: 3/2 K", "2412.00099; default after colibri's J 2, M 12", 0
    ),
    **SHARED_PARAMS,
}


class MaxRank(CacheConditional):
    """A window of fixed size.

    Args:
        context: what it is built for.
        **params: see `PARAMS`.

    Raises:
        ConfigError: m is below K or above E.
    """

    name = "max-rank"
    reads_residency = True
    keeps_history = False

    def __init__(self, context: PolicyContext, **params: int) -> None:
        window = params["m"] or min(context.top_k + (context.top_k + 1) // 2, context.num_experts)
        if not context.top_k <= window <= context.num_experts:
            raise ConfigError(
                f"policy 'max-rank'.m: expected {context.top_k} (K) to {context.num_experts} (E), got {window}."
            )
        super().__init__(context, params | {"m": window})
        self._window = window

    def choose(self, layer_idx: int, preference: F32, cached: Bools, logits: F32) -> list[int]:
        """See `CacheConditional.choose`."""
        order = (-preference).argsort(kind="stable")
        return from_window(order, cached, window=self._window, protected=self._protected, top_k=self.context.top_k)
