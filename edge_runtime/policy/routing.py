"""The router: from logits to experts and weights, by a model's `RouterSpec`. The only place that knows the rule.

The rule is native code (src/route_impl.hpp) and gives the same bits on every machine; `routing_reference` is the same
in plain numpy. Look-ahead, policies, simulator and exporter ask the same object.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from edge_runtime.base.arrays import F32, F64, I32
from edge_runtime.base.spec import ModelSpec, RouterSpec, Score
from edge_runtime.bundle.router_data import RouterData
from edge_runtime.policy.native import Router as NativeRouter
from edge_runtime.policy.routed import Routing


class Router:
    """Routes at every sparse layer of a model.

    Args:
        spec: the rule.
        sparse_layers: the layers, ascending.
        data: the layers' numbers, for rules that have some.
    """

    def __init__(self, spec: RouterSpec, sparse_layers: Sequence[int], data: RouterData | None = None) -> None:
        data = data or RouterData()
        self.spec, self.layers = spec, list(sparse_layers)
        self._place = {layer: place for place, layer in enumerate(self.layers)}
        self._data, self._top_k = data, spec.top_k
        self._adds_bias = spec.logit_bias
        self.logit_bias = data.logit_bias if spec.logit_bias else None
        """What `route` adds to logits, float32 [S, E]."""
        self.prefers_logits = not (spec.selection_bias or spec.groups or spec.hashed_layers)
        """Whether the choice compares logits as they are."""
        self.needs_tokens = spec.hashed_layers > 0
        """Whether `route` must be given the tokens' ids."""
        groups = spec.groups
        self.native = NativeRouter(
            spec.num_experts,
            len(self.layers),
            score=spec.score,
            over_chosen=spec.softmax_over == "chosen",
            normalise=spec.normalise,
            epsilon=spec.norm_epsilon,
            scale=spec.scale,
            groups=0 if groups is None else groups.count,
            chosen_groups=0 if groups is None else groups.chosen,
            two_best=groups is not None and groups.score == "top2_sum",
            near=spec.near if spec.softmax_over == "near" else -1.0,
            floor=spec.norm_floor,
            selection_bias=data.selection_bias,
            expert_scale=data.expert_scale,
            table=data.hashed_experts,
        )

    def route(self, layer_idx: int, logits: F32, token_ids: I32 | None = None, top_k: int | None = None) -> Routing:
        """Choose experts as the model would.

        Args:
            layer_idx: a sparse layer.
            logits: float32 [T, E], contiguous: what the router's matrix gives.
            token_ids: int32 [T], for models with hashed layers.
            top_k: experts a token; the model's own number if left out.

        Returns:
            The heaviest expert first; equal ones by logit, then by number. A token with a logit that is not finite
            gets NaN as its weights, so that the error shows in the output.

        Raises:
            ValueError: the layer is hashed, and tokens are missing or outside the vocabulary.
        """
        place = self._place[layer_idx]
        if self._adds_bias and self._data.logit_bias is not None:
            logits = logits + self._data.logit_bias[place]
        shape = (len(logits), self._top_k if top_k is None else top_k)
        ids, weights = np.empty(shape, np.int32), np.empty(shape, np.float32)
        if self.needs_tokens:
            self.native.route(place, logits, ids, weights, token_ids)
            return Routing(logits, ids, weights, token_ids)
        self.native.route(place, logits, ids, weights)
        return Routing(logits, ids, weights)

    def route_recorded(self, logits: F32, token_ids: I32 | None = None) -> dict[int, Routing]:
        """Choose at all S sparse layers at once, by logits float32 [S, T, E] that hold the layers' biases already."""
        shape = (*logits.shape[:2], self._top_k)
        ids, weights = np.empty(shape, np.int32), np.empty(shape, np.float32)
        tokens = token_ids if self.needs_tokens else None
        self.native.route_layers(logits, ids, weights, tokens)
        of_layer = zip(self.layers, logits, ids, weights, strict=True)
        return {layer: Routing(z, chosen, share, tokens) for layer, z, chosen, share in of_layer}

    def rank(self, logits: F32, top_k: int | None = None) -> Routing:
        """Choose the greatest of float32 [T, E] that stand for what the router chose before, such as frequencies.

        Nothing a layer adds for its choice is added here: the choices that were counted had it.
        """
        shape = (len(logits), self._top_k if top_k is None else top_k)
        ids, weights = np.empty(shape, np.int32), np.empty(shape, np.float32)
        self.native.rank(logits, ids, weights)
        return Routing(logits, ids, weights)

    def weigh(self, layer_idx: int, logits: F32, ids: I32) -> tuple[I32, F32]:
        """Weigh experts somebody else chose, as the model would have.

        Args:
            layer_idx: a sparse layer.
            logits: float32 [T, E], those of a `Routing`.
            ids: int32 [T, K].

        Returns:
            The experts int32 [T, K], heaviest first, and their weights float32 [T, K].
        """
        ids, weights = ids.copy(), np.empty(ids.shape, np.float32)
        self.native.weigh(self._place[layer_idx], logits, ids, weights)
        return ids, weights

    def preference(self, layer_idx: int, routing: Routing) -> F32:
        """Return float32 [T, E], what the choice compares: of two experts it takes the greater one's.

        The routing's own logits, unless a bias for the choice, groups or a hashed layer make it something else.
        """
        if self.prefers_logits:
            return routing.logits
        place, found = self._place[layer_idx], np.empty_like(routing.logits)
        self.native.preference(place, routing.logits, found)
        if place < self.spec.hashed_layers:  # the token's own experts come first
            above = np.ptp(found, axis=1, keepdims=True) + np.float32(1)
            chosen = np.take_along_axis(found, routing.topk_ids, axis=1)
            np.put_along_axis(found, routing.topk_ids, chosen + above, axis=1)
        return found

    def odds(self, logits: F32) -> F64:
        """Return float64 [E], the score of each expert in units of the best one's; logits float32 [E] of a routing."""
        return odds(self.spec.score, logits)

    def expert_scales(self, num_layers: int) -> F64 | None:
        """Return float64 [L, E], the factor of each expert's weight, 1 in dense layers; None: there are none."""
        if self._data.expert_scale is None:
            return None
        scales = np.ones((num_layers, self.spec.num_experts))
        scales[self.layers] = self._data.expert_scale
        return scales


def odds(score: Score, logits: F32) -> F64:
    """Return float64 [E], scores in units of the greatest, for logits float32 [E]."""
    wide = logits.astype(np.float64)
    if score == "softmax":
        return np.asarray(np.exp(wide - logits.max()))
    scores = np.exp(-np.logaddexp(0, -wide)) if score == "sigmoid" else np.sqrt(np.logaddexp(0, wide))
    return np.asarray(scores / max(scores.max(), 1e-300))


def router_of(spec: ModelSpec, data: RouterData | None = None) -> Router:
    """Build the router of a model; `data` as its `RouterSpec` asks for."""
    return Router(spec.router, spec.sparse_layers, data)
