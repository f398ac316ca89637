"""Look-ahead routers: the routers of the next layers, applied to the state that enters the present one.

Where the trunk can say what enters the next router but for its attention, from the experts computed so far, that is the
state they are applied to.

HOBBIT, arXiv 2411.01433, layer-level adaptive prefetch ("Stacking Computer"); first in Mixtral-offloading,
arXiv 2312.17238. The residual stream changes slowly, so a later layer's router mostly says the same of this state.
"""

from __future__ import annotations

from collections.abc import Iterator

from edge_runtime.backends.base import MemoryFormulas, Tensor
from edge_runtime.base.arrays import I32
from edge_runtime.base.params import Param
from edge_runtime.base.spec import ModelSpec
from edge_runtime.policy.base import Routing
from edge_runtime.policy.routing import Router
from edge_runtime.prefetch.governor import ADAPTIVE
from edge_runtime.prefetch.prefetcher import PredictorContext, Stacked

SUMMARY = "the next layers' routers, applied to the present layer's state"
PARAMS = {
    "depth": Param(2, "layers looked ahead, until one lacks something", "HOBBIT 1-3, MoE-APEX 2-4", 1, 16),
    "adaptive": ADAPTIVE,
}
MAX_TOKENS = 8
"""Of a pass: with more, their union is most of a layer."""


class LookAhead:
    """Predicts routing of the next layers by what the trunk engine says of them. Implements `Predictor`.

    Args:
        trunk: applies the routers.
        router: of the model.
        depth: p, layers looked ahead.
    """

    predicts_logits = True

    def __init__(self, trunk: Stacked, router: Router, *, depth: int) -> None:
        self._trunk, self._router, self._depth = trunk, router, depth
        self.native_depth = depth
        """See `Predictor.native_depth`: all of them."""
        self._place = {layer: i for i, layer in enumerate(router.layers)}

    def gains_by_experts(self, layer_idx: int) -> bool:
        """See `Predictor.gains_by_experts`: everywhere but in the last layer, behind which nothing is predicted."""
        return layer_idx != self._router.layers[-1]

    @property
    def first(self) -> LookAhead:
        """See `Predictor.first`."""
        return self

    @property
    def max_tokens(self) -> int:
        """Tokens of several sequences side by side: with more, their union is most of a layer."""
        return MAX_TOKENS

    def predict(self, layer_idx: int, x: Tensor, routing: Routing) -> Iterator[tuple[int, Routing]]:
        """Yield (layer, routing) of the next layers, nearest first; see `Predictor`."""
        first = self._place[layer_idx] + 1
        coming = self._router.layers[first : first + self._depth]
        if not coming:
            return
        logits = self._trunk.look_ahead(x, layer_idx, self._depth)
        for layer, rows in zip(coming, logits, strict=True):
            yield layer, self._router.route(layer, rows, routing.token_ids)

    def predict_first(self, x: Tensor, token_ids: I32 | None) -> tuple[int, Routing]:
        """See `FirstPredictor.predict_first`: the first router, applied to the embedding."""
        layer = self._router.layers[0]
        return layer, self._router.route(layer, self._trunk.look_ahead(x, -1, 1)[0], token_ids)


def make(context: PredictorContext, *, depth: int) -> LookAhead:
    """Build it for a model; see `PARAMS`."""
    return LookAhead(context.trunk, context.router, depth=depth)


def nbytes(spec: ModelSpec, formulas: MemoryFormulas, *, depth: int) -> int:
    """Memory of the routers, whatever the depth."""
    return formulas.look_ahead_bytes(spec)
