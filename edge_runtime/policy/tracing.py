"""Keeps the router logits of a pass for whoever writes a trace, without changing anything."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from edge_runtime.policy.base import Policy, ResidencyView, Routing, StepPlan
from edge_runtime.policy.wrapping import Watching


class TracingPolicy(Watching):
    """Wraps a policy and copies the logits it is shown. Implements `Policy`.

    Args:
        inner: decides.
        layers: the sparse layers, in order.
    """

    def __init__(self, inner: Policy, layers: Sequence[int]) -> None:
        super().__init__(inner)
        self._place = {layer: i for i, layer in enumerate(layers)}
        self._seen: list[NDArray[np.float32] | None] = [None] * len(layers)

    def decide(self, layer_idx: int, routing: Routing, residency: ResidencyView) -> StepPlan:
        """See `Policy.decide`. A pass run twice keeps the logits of the second time."""
        self._seen[self._place[layer_idx]] = routing.logits.copy()
        return super().decide(layer_idx, routing, residency)

    def take(self) -> NDArray[np.float32]:
        """Return float32 [layers, T, E] of the pass that just ended, and forget it."""
        seen = [logits for logits in self._seen if logits is not None]
        assert len(seen) == len(self._seen), "a pass ended before every layer was decided"
        self._seen = [None] * len(self._seen)
        return np.stack(seen)
