"""Recorded predictions: kept while a predictor makes them, and repeated from the record in a replay."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np

from edge_runtime.backends.base import Tensor
from edge_runtime.base.arrays import F32, I32
from edge_runtime.policy.base import Routing
from edge_runtime.policy.routing import Router
from edge_runtime.prefetch.prefetcher import Predictor


class RecordingPredictor:
    """Passes on what a predictor says and keeps a copy. Implements `Predictor`.

    Args:
        inner: predicts.
        sparse_layers: ascending.
        num_experts: E.
        ahead: most predictions kept for a layer.
    """

    native_depth = None

    def __init__(self, inner: Predictor, sparse_layers: Sequence[int], num_experts: int, ahead: int) -> None:
        self._inner = inner
        self._place = {layer: i for i, layer in enumerate(sparse_layers)}
        self._kept = np.zeros((len(sparse_layers), ahead, 1, num_experts + 1), np.float32)

    @property
    def predicts_logits(self) -> bool:
        """The inner one's."""
        return self._inner.predicts_logits

    def gains_by_experts(self, layer_idx: int) -> bool:
        """The inner one's."""
        return self._inner.gains_by_experts(layer_idx)

    @property
    def first(self) -> RecordingPredictor | None:
        """The inner one's, kept too."""
        return None if self._inner.first is None else self

    def predict_first(self, x: Tensor, token_ids: I32 | None) -> tuple[int, Routing] | None:
        """Predict for the first layer: it comes behind the last one."""
        assert self._inner.first is not None
        found = self._inner.first.predict_first(x, token_ids)
        if found is not None:
            self._keep(-1, 0, found[1])
        return found

    @property
    def max_tokens(self) -> int:
        """1: a trace holds one text."""
        return 1

    def predict(self, layer_idx: int, x: Tensor, routing: Routing) -> Iterator[tuple[int, Routing]]:
        """Predict everything that could be asked for, so that a replay may ask for more than this run did."""
        found, place = list(self._inner.predict(layer_idx, x, routing)), self._place[layer_idx]
        for layer, predicted in found:
            self._keep(place, self._place[layer] - place - 1, predicted)
        return iter(found)

    def _keep(self, place: int, distance: int, predicted: Routing) -> None:
        row = self._kept[place, distance, 0]
        row[0], row[1:] = predicted.topk_ids.shape[1], predicted.logits[0]

    def take(self) -> F32:
        """Return float32 [layers, ahead, 1, E + 1] of the pass that just ended (see `TracePass`), and forget it."""
        kept, self._kept = self._kept, np.zeros_like(self._kept)
        return kept


class RecordedPredictor:
    """Repeats the predictions of a recorded trace. Implements `Predictor`.

    Args:
        router: of the model.
        predicts_logits: what was recorded are logits; else frequencies.
    """

    native_depth = None

    def __init__(self, router: Router, *, predicts_logits: bool) -> None:
        self.router, self.predicts_logits = router, predicts_logits
        self._place = {layer: i for i, layer in enumerate(router.layers)}
        self._predictions: F32 | None = None

    def load(self, predictions: F32 | None) -> None:
        """Take float32 [layers, ahead, T, E + 1] of the pass that comes next."""
        self._predictions = predictions

    def gains_by_experts(self, layer_idx: int) -> bool:
        """See `Predictor.gains_by_experts`."""
        return False

    @property
    def first(self) -> RecordedPredictor:
        """See `Predictor.first`."""
        return self

    def predict_first(self, x: Tensor, token_ids: I32 | None) -> tuple[int, Routing] | None:
        """Return what was recorded when the pass began: behind its last layer."""
        row = None if self._predictions is None else self._predictions[-1, 0, 0]
        if row is None or row[0] <= 0:
            return None
        layer = self.router.layers[0]
        return layer, self._routing(layer, row[None, 1:], int(row[0]), token_ids)

    @property
    def max_tokens(self) -> int:
        """1: a trace holds one text."""
        return 1

    def predict(self, layer_idx: int, x: Tensor, routing: Routing) -> Iterator[tuple[int, Routing]]:
        """Yield what was recorded at this layer for the layers after it."""
        place = self._place[layer_idx]
        if self._predictions is None:
            return
        for layer, row in zip(self.router.layers[place + 1 :], self._predictions[place, :, 0], strict=False):
            if row[0] > 0:
                yield layer, self._routing(layer, row[None, 1:], int(row[0]), routing.token_ids)

    def _routing(self, layer_idx: int, logits: F32, top_k: int, token_ids: I32 | None) -> Routing:
        if self.predicts_logits:
            return self.router.route(layer_idx, logits, token_ids, top_k)
        return self.router.rank(logits, top_k)
