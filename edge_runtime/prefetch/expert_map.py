"""Expert maps: predicts coming layers from the past token whose routing is most similar to this one's.

FineMoE, arXiv 2502.05370 (EuroSys'26). A map is the router's probabilities of one token at every layer. A store keeps
maps of past tokens with the embedding each began from. For a token in flight::

    target layer < d     the map whose embedding is nearest (cosine): nothing of this token's routing is known yet
    target layer >= d    the map whose first layers are nearest to this token's, as far as it has come (cosine)
    delta = clip(1 - similarity, 0, 1)
    read ahead: the map's likeliest experts of the layer until their probabilities add up to delta, at least K

A full store replaces the map most similar to the new one, by (d / L) cos(embeddings) + (1 - d / L) cos(maps).

Our readings: the embedding is the state that enters the first router. One token is one iteration, and prompts are not
stored. Layers are read for nearest first, one at a time (`Prefetcher`); the paper has a priority that falls with
distance instead.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator

import numpy as np

from edge_runtime.backends.base import MemoryFormulas, Tensor
from edge_runtime.base.arrays import F32
from edge_runtime.base.params import Param
from edge_runtime.base.spec import ModelSpec
from edge_runtime.policy.base import Routing
from edge_runtime.policy.routing import Router
from edge_runtime.prefetch.governor import ADAPTIVE
from edge_runtime.prefetch.prefetcher import PredictorContext

SUMMARY = "past tokens routed like this one"
PARAMS = {
    "depth": Param(2, "layers looked ahead, until one lacks something", "FineMoE's d; its demo has 6", 1, 16),
    "capacity": Param(256, "maps of past tokens kept", "FineMoE; its demo has 1000", 1, 1 << 16),
    "adaptive": ADAPTIVE,
}
_LEAST_PROBABILITY = 1e-9


class ExpertMaps:
    """Maps of past tokens, and how similar each is to the token in flight.

    Args:
        num_layers: sparse layers.
        num_experts: E.
        hidden: D.
        capacity: most maps kept.
        depth: d, which weighs embeddings against maps when one is replaced.
    """

    def __init__(self, num_layers: int, num_experts: int, hidden: int, *, capacity: int, depth: int) -> None:
        self.maps = np.zeros((capacity, num_layers, num_experts), np.float32)
        self.embeddings = np.zeros((capacity, hidden), np.float32)
        self._norms = np.zeros((capacity, num_layers), np.float32)  # of the first layers together, squared
        self.count = 0
        self._share = min(depth / num_layers, 1.0)

    @property
    def nbytes(self) -> int:
        """Memory of the maps, as `map_store_bytes` says beforehand."""
        return self.maps.nbytes + self.embeddings.nbytes + self._norms.nbytes

    def add(self, embedding: F32, one: F32) -> None:
        """Keep a map float32 [layers, E] and its embedding float32 [D] of length 1."""
        slot = self.count if self.count < len(self.maps) else self._most_alike(embedding, one)
        self.count = max(self.count, slot + 1)
        self.maps[slot], self.embeddings[slot] = one, embedding
        self._norms[slot] = np.cumsum((one * one).sum(axis=1))

    def norms(self, layers: int) -> F32:
        """Return float32 [count], the length of each map's first `layers` layers."""
        return np.sqrt(self._norms[: self.count, layers - 1])

    def _most_alike(self, embedding: F32, one: F32) -> int:
        flat = self.maps.reshape(len(self.maps), -1)
        alike = (flat @ one.ravel()) / (self.norms(one.shape[0]) * np.linalg.norm(one))
        return int((self._share * (self.embeddings @ embedding) + (1 - self._share) * alike).argmax())


class ExpertMapMatching:
    """Matches the token in flight with stored expert maps. Implements `Predictor`.

    Args:
        router: of the model.
        hidden: D.
        to_host: gives the numbers of a backend's tensor.
        depth: d, layers looked ahead.
        capacity: maps kept.
    """

    predicts_logits, first, native_depth = False, None, None

    def __init__(
        self, router: Router, hidden: int, to_host: Callable[[Tensor], F32], *, depth: int, capacity: int
    ) -> None:
        self._layers, num_experts = router.layers, router.spec.num_experts
        self._place = {layer: i for i, layer in enumerate(self._layers)}
        self._router, self._depth, self._to_host = router, depth, to_host
        self.store = ExpertMaps(len(self._layers), num_experts, hidden, capacity=capacity, depth=depth)
        self._seen = np.zeros((len(self._layers), num_experts), np.float32)
        self._embedding = np.zeros(hidden, np.float32)
        self._products = np.zeros(0, np.float32)
        self._by_embedding = np.zeros(0, np.float32)
        self._num_seen = 0

    def gains_by_experts(self, layer_idx: int) -> bool:
        """See `Predictor.gains_by_experts`."""
        return False

    @property
    def max_tokens(self) -> int:
        """1: it follows one text."""
        return 1

    def predict(self, layer_idx: int, x: Tensor, routing: Routing) -> Iterator[tuple[int, Routing]]:
        """Yield (layer, routing) of the next layers, nearest first; see `Predictor`. A routing may name more than K."""
        place = self._place[layer_idx]
        self._observe(place, x, routing.logits[0])
        return self._predictions(place) if self.store.count and self._num_seen == place + 1 else iter(())

    def _observe(self, place: int, x: Tensor, logits: F32) -> None:
        """Add one layer of the token in flight; the map of a finished token is stored when the next one begins."""
        if place == 0:
            if self._num_seen == len(self._layers):
                self.store.add(self._embedding, self._seen)
            state = self._to_host(x)[0]
            self._num_seen, self._embedding = 0, state / max(float(np.linalg.norm(state)), 1e-12)
            self._products = np.zeros(self.store.count, np.float32)
            self._by_embedding = self.store.embeddings[: self.store.count] @ self._embedding
        if place != self._num_seen:  # a layer was not shown (prefetching was off): this token gives no map
            self._num_seen = -1
            return
        odds = self._router.odds(logits)
        self._seen[place] = odds / odds.sum()
        self._products += self.store.maps[: self.store.count, place] @ self._seen[place]
        self._num_seen += 1

    def _predictions(self, place: int) -> Iterator[tuple[int, Routing]]:
        length = max(float(np.linalg.norm(self._seen[: place + 1])), 1e-12)
        by_map = self._products / (self.store.norms(place + 1) * length)
        for target in range(place + 1, min(place + 1 + self._depth, len(self._layers))):
            alike = self._by_embedding if target < self._depth else by_map
            best = int(alike.argmax())
            delta = min(max(1.0 - float(alike[best]), 0.0), 1.0)
            yield self._layers[target], self._routing(self.store.maps[best, target], delta)

    def _routing(self, probabilities: F32, delta: float) -> Routing:
        """The likeliest experts up to a mass of `delta`, at least K, as if the router had said so."""
        order = np.argsort(-probabilities, kind="stable")
        enough = int(np.searchsorted(np.cumsum(probabilities[order]), delta, side="left")) + 1
        logits = np.log(np.maximum(probabilities, np.float32(_LEAST_PROBABILITY)))[None]
        return self._router.rank(logits, min(max(self._router.spec.top_k, enough), len(order)))


def map_store_bytes(num_layers: int, num_experts: int, hidden: int, capacity: int) -> int:
    """Memory of a store of `capacity` maps."""
    return 4 * capacity * (num_layers * (num_experts + 1) + hidden)


def make(context: PredictorContext, *, depth: int, capacity: int) -> ExpertMapMatching:
    """Build it for a model; see `PARAMS`."""
    return ExpertMapMatching(context.router, context.hidden, context.to_host, depth=depth, capacity=capacity)


def nbytes(spec: ModelSpec, formulas: MemoryFormulas, *, depth: int, capacity: int) -> int:
    """Memory of the maps, whatever the depth."""
    return map_store_bytes(len(spec.sparse_layers), spec.num_experts, spec.hidden, capacity)
