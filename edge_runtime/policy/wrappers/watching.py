"""What policies share: defaults for parts of the protocol, and a wrapper that only watches."""

from __future__ import annotations

import numpy as np

from edge_runtime.base.arrays import F32, U8
from edge_runtime.policy.base import Decision, NativeDecider, Policy, PolicyContext, ResidencyView, Routing


class OnePass:
    """Defaults of a policy that runs every token once and serves experts at the full tier.

    It is taken to read residency and to keep no history, unless it states something else.

    Args:
        context: what it is built for.
        params: parameters, defaults filled in.
    """

    name = ""
    reads_residency: bool = True
    follows_router: bool = False
    _native: NativeDecider | None = None
    keeps_history: bool = False
    keeps_base: bool = False

    def __init__(self, context: PolicyContext, params: dict[str, float | int | str | bool]) -> None:
        self.context, self._params = context, params

    @property
    def params(self) -> dict[str, float | int | str | bool]:
        """See `Policy.params`."""
        return dict(self._params)

    @property
    def native(self) -> NativeDecider | None:
        """See `Policy.native`: where a policy has made one."""
        return self._native

    @property
    def price(self) -> float:
        """See `Policy.price`: there is none."""
        return 0.0

    @property
    def min_tier(self) -> int:
        """See `Policy.min_tier`: the full tier."""
        return self.context.tier

    def decide(self, layer_idx: int, routing: Routing, residency: ResidencyView) -> Decision:
        """See `Policy.decide`."""
        raise NotImplementedError

    def predict_tiers(self, layer_idx: int, routing: Routing, residency: ResidencyView) -> U8:
        """See `Policy.predict_tiers`: the experts predicted, at the full tier."""
        tiers = np.zeros(self.context.num_experts, np.uint8)
        tiers[routing.topk_ids[routing.topk_weights != 0]] = self.context.tier
        return tiers

    def begin_sequence(self) -> None:
        """Nothing to forget."""

    def begin_pass(self, num_tokens: int, *, has_logits: bool) -> None:
        """Nothing to prepare."""

    def accept(self, logits: F32) -> bool:
        """Every result stands."""
        return True


class PredictsAsItDecides(OnePass):
    """Predicts tiers by `decide`, which therefore has to change nothing."""

    def predict_tiers(self, layer_idx: int, routing: Routing, residency: ResidencyView) -> U8:
        """See `Policy.predict_tiers`: what it would decide.

        A prediction that names more than K experts is not sure who comes: all of them, at the full tier.
        """
        if routing.topk_ids.shape[1] > self.context.top_k:
            return super().predict_tiers(layer_idx, routing, residency)
        return self.decide(layer_idx, routing, residency).tiers


class Watching:
    """Wraps a policy and passes everything on; subclasses watch in `decide`. Implements `Policy`.

    Args:
        inner: decides.
    """

    def __init__(self, inner: Policy) -> None:
        self._inner = inner
        self.name = inner.name

    @property
    def params(self) -> dict[str, float | int | str | bool]:
        """The wrapped policy's."""
        return self._inner.params

    @property
    def reads_residency(self) -> bool:
        """The wrapped policy's."""
        return self._inner.reads_residency

    @property
    def follows_router(self) -> bool:
        """No: what it watches for must pass by it."""
        return False

    @property
    def native(self) -> NativeDecider | None:
        """There is none, for the same reason."""
        return None

    @property
    def keeps_history(self) -> bool:
        """The wrapped policy's."""
        return self._inner.keeps_history

    @property
    def keeps_base(self) -> bool:
        """The wrapped policy's."""
        return self._inner.keeps_base

    @property
    def price(self) -> float:
        """The wrapped policy's."""
        return self._inner.price

    @property
    def min_tier(self) -> int:
        """The wrapped policy's."""
        return self._inner.min_tier

    def decide(self, layer_idx: int, routing: Routing, residency: ResidencyView) -> Decision:
        """See `Policy.decide`."""
        return self._inner.decide(layer_idx, routing, residency)

    def predict_tiers(self, layer_idx: int, routing: Routing, residency: ResidencyView) -> U8:
        """See `Policy.predict_tiers`."""
        return self._inner.predict_tiers(layer_idx, routing, residency)

    def begin_sequence(self) -> None:
        """See `Policy.begin_sequence`."""
        self._inner.begin_sequence()

    def begin_pass(self, num_tokens: int, *, has_logits: bool) -> None:
        """See `Policy.begin_pass`."""
        self._inner.begin_pass(num_tokens, has_logits=has_logits)

    def accept(self, logits: F32) -> bool:
        """See `Policy.accept`."""
        return self._inner.accept(logits)
