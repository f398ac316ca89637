"""Recorded predictions: kept while a predictor makes them, and repeated from the record in a replay."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np
from numpy.typing import NDArray

from edge_runtime.policy.base import Routing
from edge_runtime.policy.routing import route
from edge_runtime.prefetch.prefetcher import Predictor

F32 = NDArray[np.float32]


class RecordingPredictor:
    """Passes on what a predictor says and keeps a copy. Implements `Predictor`.

    Args:
        inner: predicts.
        sparse_layers: ascending.
        num_experts: E.
        ahead: most predictions kept for a layer.
    """

    def __init__(self, inner: Predictor, sparse_layers: Sequence[int], num_experts: int, ahead: int) -> None:
        self._inner = inner
        self._place = {layer: i for i, layer in enumerate(sparse_layers)}
        self._kept = np.zeros((len(sparse_layers), ahead, 1, num_experts + 1), np.float32)

    @property
    def max_tokens(self) -> int:
        """1: a trace holds one text."""
        return 1

    def predict(self, layer_idx: int, x: F32, routing: Routing) -> Iterator[tuple[int, Routing]]:
        """Predict everything that could be asked for, so that a replay may ask for more than this run did."""
        found, place = list(self._inner.predict(layer_idx, x, routing)), self._place[layer_idx]
        for layer, predicted in found:
            row = self._kept[place, self._place[layer] - place - 1, 0]
            row[0], row[1:] = predicted.topk_ids.shape[1], predicted.logits[0]
        return iter(found)

    def take(self) -> F32:
        """Return float32 [layers, ahead, 1, E + 1] of the pass that just ended (see `TracePass`), and forget it."""
        kept, self._kept = self._kept, np.zeros_like(self._kept)
        return kept


class RecordedPredictor:
    """Repeats the predictions of a recorded trace. Implements `Predictor`.

    Args:
        sparse_layers: ascending.
        norm_topk_prob: as the model.
    """

    def __init__(self, sparse_layers: Sequence[int], *, norm_topk_prob: bool) -> None:
        self._layers, self._norm = list(sparse_layers), norm_topk_prob
        self._place = {layer: i for i, layer in enumerate(self._layers)}
        self._predictions: F32 | None = None

    def load(self, predictions: F32 | None) -> None:
        """Take float32 [layers, ahead, T, E + 1] of the pass that comes next."""
        self._predictions = predictions

    @property
    def max_tokens(self) -> int:
        """1: a trace holds one text."""
        return 1

    def predict(self, layer_idx: int, x: F32, routing: Routing) -> Iterator[tuple[int, Routing]]:
        """Yield what was recorded at this layer for the layers after it."""
        place = self._place[layer_idx]
        if self._predictions is None:
            return
        for distance, row in enumerate(self._predictions[place, :, 0], 1):
            if row[0] > 0:
                yield self._layers[place + distance], route(row[None, 1:], int(row[0]), norm_topk_prob=self._norm)
