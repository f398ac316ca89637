"""Prefetcher: starts reads for predicted experts of the first coming layer that lacks some, while this saves time."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from time import perf_counter_ns
from typing import Protocol

import numpy as np

from edge_runtime.backends.base import Tensor
from edge_runtime.base.arrays import F32, I32
from edge_runtime.experts.cache import ExpertCache
from edge_runtime.policy.base import Routing
from edge_runtime.policy.joint import PassPolicies
from edge_runtime.policy.routing import Router
from edge_runtime.prefetch.first_look import FirstLook


class FirstPredictor(Protocol):
    """Says what the first layer of a pass will choose before anything ran."""

    def predict_first(self, x: Tensor, token_ids: I32 | None) -> tuple[int, Routing] | None:
        """Return (layer, predicted routing [T, E]) of the first layer; None: nothing is known.

        Args:
            x: [T, D], what would enter its router if nothing came between it and the embedding: the backend's tensor.
            token_ids: int32 [T].
        """
        ...


class Predictor(Protocol):
    """Says what coming layers will choose."""

    @property
    def predicts_logits(self) -> bool:
        """Whether its routings hold logits of the routers; else they hold what was chosen before, as frequencies."""
        ...

    @property
    def max_tokens(self) -> int:
        """Most tokens T of a pass it predicts for: 1 if it follows one text."""
        ...

    @property
    def first(self) -> FirstPredictor | None:
        """Predicts for the first layer by what a pass begins with; None: it needs a layer that has run."""
        ...

    @property
    def native_depth(self) -> int | None:
        """Layers that native code with the trunk and the router looks ahead, and predicts the same; None: it cannot."""
        ...

    def gains_by_experts(self, layer_idx: int) -> bool:
        """Whether it predicts better behind a layer from what may enter the next router."""
        ...

    def predict(self, layer_idx: int, x: Tensor, routing: Routing) -> Iterator[tuple[int, Routing]]:
        """Yield (layer, predicted routing [T, E]) of coming layers, nearest first.

        Args:
            layer_idx: the layer whose experts are being read now.
            x: [T, D], what entered its router, or what may enter the next one: the backend's tensor.
            routing: what its router chose.
        """
        ...


class Stacked(Protocol):
    """The part of a `Trunk` that looks ahead."""

    def look_ahead(self, x: Tensor, layer_idx: int, depth: int) -> F32:
        """Return router logits float32 [P, T, E] of up to `depth` sparse layers behind a layer or -1, for x [T, D]."""
        ...


@dataclass(frozen=True)
class PredictorContext:
    """What a predictor is built for.

    Attributes:
        trunk: applies routers, for those that look ahead.
        router: of the model.
        hidden: D.
        to_host: gives the numbers of a backend's tensor.
    """

    trunk: Stacked
    router: Router
    hidden: int
    to_host: Callable[[Tensor], F32]


class Switch(Protocol):
    """Says whether to read ahead now. `Governor` decides by time; a replay repeats what was recorded."""

    is_on: bool
    switches: int

    @property
    def saved_ns_per_token(self) -> float | None:
        """What reading ahead saves a token, as far as it is known."""
        ...

    def token(self, cost_ns: float) -> None:
        """Add the cost of one token."""
        ...


class Prefetcher:
    """Reads for the first coming layer that lacks a predicted expert, nearest layer first (HOBBIT's adaptive depth).

    Predicted experts of the layers before it are kept from eviction until their layer ran. Tiers are those the policy
    would ask for if the prediction were true. Only decode steps are predicted: a prompt reads most experts anyway.

    Args:
        predictor: says what comes.
        cache: reads.
        governor: switches prefetching off and on; None: always on.
        is_asked: somebody asked for this predictor; if not, passes in which a policy looks at residency are left out
            unless residents are known without reads ahead: what came in time would change their tokens.
        clock: in nanoseconds.
    """

    def __init__(
        self,
        predictor: Predictor,
        cache: ExpertCache,
        governor: Switch | None,
        *,
        is_asked: bool = True,
        clock: Callable[[], int] = perf_counter_ns,
    ) -> None:
        self.predictor, self._cache, self._is_asked = predictor, cache, is_asked
        self._policies: PassPolicies | None = None
        self._is_allowed = True
        self._is_predicted = False  # whether this pass is
        self._first_look = FirstLook()
        self.governor, self._clock = governor, clock
        self._num_tokens = 0
        self._started_ns = 0

    @property
    def is_on(self) -> bool:
        """Whether reads are made ahead now."""
        return self.governor is None or self.governor.is_on

    @property
    def is_reading(self) -> bool:
        """Whether reads may be made ahead in this pass."""
        return self._is_allowed and self.is_on

    def begin_pass(self, num_tokens: int) -> None:
        """A pass over T tokens begins."""
        self._num_tokens = num_tokens
        self._first_look.begin_pass()
        self._started_ns = self._clock()

    def decide_with(self, policies: PassPolicies) -> None:
        """These policies decide for the layers that come."""
        self._policies = policies
        sees_reads = policies.reads_residency and not self._cache.residents.keeps_without_ahead
        self._is_allowed = self._is_asked or not sees_reads
        self._is_predicted = self._is_allowed and self._num_tokens <= self.predictor.max_tokens

    @property
    def is_predicting(self) -> bool:
        """Whether anything is predicted in this pass."""
        return self._policies is not None and self._is_predicted and self.is_on

    @property
    def native_depth(self) -> int | None:
        """Layers whose routers native code may apply in place of `after` in this pass; None: only `after` knows how."""
        return self.predictor.native_depth if self.is_predicting else 0

    def before_native(self, layer_idx: int, look: Callable[[bool], list[int]]) -> None:
        """A pass begins: `before`, with native code that looks, and reads if it is told to, and says what lacked."""
        self._first_look.expect(layer_idx, look(self._first_look.is_on))

    def saw(self, layer_idx: int, experts: list[int]) -> None:
        """Native code ran a layer that used these, in place of `after`."""
        if self.is_predicting:
            self._first_look.see(layer_idx, experts)

    @property
    def looks_first(self) -> bool:
        """Whether `before` may read; false if it does nothing."""
        return self.is_predicting and self.predictor.first is not None and self._first_look.is_due

    def before(self, x: Tensor, token_ids: I32 | None) -> None:
        """A pass begins: read ahead for its first layer, while most of what is read so turns out to be used."""
        first = self.predictor.first
        if self._policies is None or first is None or not self.looks_first:
            return
        if (found := first.predict_first(x, token_ids)) is None:
            return
        layer_idx, predicted = found
        tiers = self._policies.predict_tiers(layer_idx, predicted, self._cache.residents)
        lacking = np.flatnonzero(self._cache.resident_tiers(layer_idx) < tiers).tolist()
        self._first_look.expect(layer_idx, lacking)
        if lacking and self._first_look.is_on:
            self._cache.prefetch_predicted(layer_idx, predicted.topk_ids, tiers)

    def is_better_later(self, layer_idx: int) -> bool:
        """Whether `after` gains by the experts of the layer that are in memory; false if it does nothing."""
        return self.is_predicting and self.predictor.gains_by_experts(layer_idx)

    def after(self, layer_idx: int, x: Tensor, routing: Routing) -> None:
        """A layer's own reads are under way: read ahead behind them."""
        if self._policies is None or not self.is_predicting:
            return
        self._first_look.see(layer_idx, routing.topk_ids.ravel().tolist())
        for coming, predicted in self.predictor.predict(layer_idx, x, routing):
            tiers = self._policies.predict_tiers(coming, predicted, self._cache.residents)
            if self._cache.prefetch_predicted(coming, predicted.topk_ids, tiers):
                break

    def end_pass(self) -> None:
        """The pass is over: let the governor see what it cost a token."""
        if self._is_predicted and self.governor is not None:
            self.governor.token((self._clock() - self._started_ns) / self._num_tokens)
