"""Reads queued after a layer's own: experts a policy gives as hints, and experts a predictor expects."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from edge_runtime.backends.base import Tensor
from edge_runtime.base.arrays import I32
from edge_runtime.experts.cache import ExpertCache
from edge_runtime.experts.store.base import Priority
from edge_runtime.policy.base import Decision, Hint, Routing
from edge_runtime.policy.joint import PassPolicies
from edge_runtime.prefetch.prefetcher import Prefetcher


class ReadAhead:
    """Starts reads for coming layers once a layer's own are under way.

    Args:
        cache: reads.
        num_experts: E.
        prefetcher: reads what a predictor expects; None: only hints are read for.
    """

    def __init__(self, cache: ExpertCache, num_experts: int, prefetcher: Prefetcher | None = None) -> None:
        self._cache, self._num_experts, self.prefetcher = cache, num_experts, prefetcher

    def decide_with(self, policies: PassPolicies) -> None:
        """These policies decide for the layers that come."""
        if self.prefetcher is not None:
            self.prefetcher.decide_with(policies)

    def is_wanted(self, decision: Decision) -> bool:
        """Whether something may be read before this layer's experts were computed."""
        return bool(decision.hints) or self.is_reading

    @property
    def is_reading(self) -> bool:
        """Whether what a predictor expects may be read in this pass."""
        return self.prefetcher is not None and self.prefetcher.is_reading

    @property
    def native_depth(self) -> int | None:
        """Layers native code may look ahead by itself in this pass; see `Prefetcher.native_depth`."""
        return 0 if self.prefetcher is None else self.prefetcher.native_depth

    def before_native(self, layer_idx: int, look: Callable[[bool], list[int]]) -> None:
        """A pass begins, as `before`; see `Prefetcher.before_native`."""
        if self.prefetcher is not None:
            self.prefetcher.before_native(layer_idx, look)

    def saw(self, layer_idx: int, experts: list[int]) -> None:
        """Native code ran a layer that used these; see `Prefetcher.saw`."""
        if self.prefetcher is not None:
            self.prefetcher.saw(layer_idx, experts)

    def is_due(self, decision: Decision) -> bool:
        """Whether `after` has anything to do."""
        return bool(decision.hints) or (self.prefetcher is not None and self.prefetcher.is_predicting)

    @property
    def looks_first(self) -> bool:
        """Whether something may be read before the first layer runs; see `Prefetcher.before`."""
        return self.prefetcher is not None and self.prefetcher.looks_first

    def before(self, x: Tensor, token_ids: I32 | None) -> None:
        """A pass begins: start reads for its first layer; see `Prefetcher.before`."""
        if self.prefetcher is not None:
            self.prefetcher.before(x, token_ids)

    def is_better_later(self, layer_idx: int) -> bool:
        """Whether predicting behind a layer gains by its experts in memory; see `Predictor.gains_by_experts`."""
        return self.prefetcher is not None and self.prefetcher.is_better_later(layer_idx)

    def after(self, layer_idx: int, x: Tensor, routing: Routing, decision: Decision) -> None:
        """A layer's own reads are under way: start others behind them.

        Nothing is predicted where the policy gives hints for coming layers: it has seen their routers' choice.

        Args:
            layer_idx: the layer.
            x: [T, D], what entered its router, or what may enter the next one: the backend's tensor.
            routing: what its router chose.
            decision: what was decided for it.
        """
        for hint in decision.hints:
            self._read(hint)
        knows_what_comes = any(hint.layer_idx != layer_idx and not hint.is_spare for hint in decision.hints)
        if self.prefetcher is not None and not knows_what_comes:
            self.prefetcher.after(layer_idx, x, routing)

    def _read(self, hint: Hint) -> None:
        tiers = np.full(self._num_experts, hint.tier, np.uint8)
        self._cache.prefetch(
            hint.layer_idx, hint.experts, tiers, Priority.SPECULATIVE if hint.is_spare else Priority.NEXT
        )
