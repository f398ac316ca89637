"""Statistical preload: predicts the experts of the next layer that most often followed those this layer chose.

Source: EdgeMoE, arXiv 2308.14352, which profiles offline how activations of earlier layers and of the next go
together. Our reading counts pairs of experts in neighbouring layers while the model runs: nothing has to be profiled,
and the counts follow the text. The score of an expert is the mean, weighted by the router over this layer's experts, of
how often it followed each of them.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from edge_runtime.backends.base import MemoryFormulas, Tensor
from edge_runtime.base.params import Param
from edge_runtime.base.spec import ModelSpec
from edge_runtime.policy.base import Routing
from edge_runtime.policy.routing import Router
from edge_runtime.prefetch.governor import ADAPTIVE
from edge_runtime.prefetch.prefetcher import PredictorContext

SUMMARY = "which experts of the next layer followed those of this one"
PARAMS = {
    "memory": Param(1024, "uses of an expert after which what followed it counts 1/e", "ours; EdgeMoE profiles", 1),
    "adaptive": ADAPTIVE,
}
_LEAST = 1e-6


class StatisticalPreload:
    """Predicts one layer ahead from counted pairs of experts. Implements `Predictor`.

    Args:
        router: of the model.
        memory: uses of an expert after which the count of what followed it has decayed to 1/e.
    """

    predicts_logits, first, native_depth = False, None, None

    def __init__(self, router: Router, *, memory: int) -> None:
        self._router, self._layers, num_experts = router, router.layers, router.spec.num_experts
        self._place = {layer: i for i, layer in enumerate(self._layers)}
        self._fade = np.float32(np.exp(-1 / memory))
        # [place, e, f]: how often f was chosen in the layer after e was
        self.followed = np.zeros((max(len(self._layers) - 1, 0), num_experts, num_experts), np.float32)
        self._last = np.empty(0, np.intp)
        self._last_place = -1

    def gains_by_experts(self, layer_idx: int) -> bool:
        """See `Predictor.gains_by_experts`."""
        return False

    @property
    def max_tokens(self) -> int:
        """1: it follows one text."""
        return 1

    def predict(self, layer_idx: int, x: Tensor, routing: Routing) -> Iterator[tuple[int, Routing]]:
        """Return the (layer, routing) that usually comes next, if anything did before; see `Predictor`."""
        place = self._place[layer_idx]
        ids, weights = routing.topk_ids[0], routing.topk_weights[0]
        if place > 0 and self._last_place == place - 1:
            rows = self.followed[place - 1]
            rows[self._last] *= self._fade
            rows[self._last[:, None], ids[None]] += 1
        self._last, self._last_place = ids.astype(np.intp), place
        if place + 1 == len(self._layers):
            return iter(())
        rows = self.followed[place, ids]
        known = rows.sum(axis=1)
        if not known.any():
            return iter(())
        share = (weights / np.maximum(known, np.float32(_LEAST))) @ rows
        logits = np.log(np.maximum(share, np.float32(_LEAST))).astype(np.float32)[None]
        return iter([(self._layers[place + 1], self._router.rank(logits))])


def counts_bytes(num_layers: int, num_experts: int) -> int:
    """Memory of the counts."""
    return 4 * max(num_layers - 1, 0) * num_experts**2


def make(context: PredictorContext, *, memory: int) -> StatisticalPreload:
    """Build it for a model; see `PARAMS`."""
    return StatisticalPreload(context.router, memory=memory)


def nbytes(spec: ModelSpec, formulas: MemoryFormulas, *, memory: int) -> int:
    """Memory of the counts, whatever `memory` is."""
    return counts_bytes(len(spec.sparse_layers), spec.num_experts)
