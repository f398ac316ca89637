"""Look-ahead routers: the routers of the next layers, applied to the state that enters the present one.

HOBBIT, arXiv 2411.01433, layer-level adaptive prefetch ("Stacking Computer"); first in Mixtral-offloading,
arXiv 2312.17238. The residual stream changes slowly, so a later layer's router mostly says the same of this state.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np
from numpy.typing import NDArray

from edge_runtime.policy.base import Routing
from edge_runtime.policy.routing import route

F32 = NDArray[np.float32]
MAX_TOKENS = 8
"""Of a pass: with more, their union is most of a layer."""


class LookAhead:
    """Predicts routing of the next layers with one product. Implements `Predictor`.

    Args:
        routers: float32 [sparse layers, E, D].
        sparse_layers: their layers, ascending.
        top_k: K.
        norm_topk_prob: as the model.
        depth: p, layers looked ahead.
    """

    def __init__(
        self, routers: F32, sparse_layers: Sequence[int], *, top_k: int, norm_topk_prob: bool, depth: int
    ) -> None:
        self._routers, self._layers = routers, list(sparse_layers)
        self._place = {layer: i for i, layer in enumerate(self._layers)}
        self._top_k, self._norm, self._depth = top_k, norm_topk_prob, depth

    @property
    def max_tokens(self) -> int:
        """See `Predictor.max_tokens`: tokens of several sequences side by side."""
        return MAX_TOKENS

    def predict(self, layer_idx: int, x: F32, routing: Routing) -> Iterator[tuple[int, Routing]]:
        """Yield (layer, routing) of the next layers, nearest first; see `Predictor`."""
        first = self._place[layer_idx] + 1
        coming = self._layers[first : first + self._depth]
        if not coming:
            return
        block = self._routers[first : first + len(coming)]
        logits = (x @ block.reshape(-1, block.shape[2]).T).reshape(len(x), len(coming), -1)
        for i, layer in enumerate(coming):
            yield layer, route(np.ascontiguousarray(logits[:, i]), self._top_k, norm_topk_prob=self._norm)
