"""Keeps what a policy was shown in a pass for whoever writes a trace, without changing anything."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import NamedTuple

import numpy as np

from edge_runtime.base.arrays import F32
from edge_runtime.policy.base import Decision, Policy, ResidencyView, Routing
from edge_runtime.policy.wrappers.watching import Watching


class Seen(NamedTuple):
    """What was seen of one pass.

    Attributes:
        logits: float32 [layers, T, E].
        output: float32 [rows, V], the logits of a pass that was not accepted; None of one that was.
        extra: what `on_pass` returned.
    """

    logits: F32
    output: F32 | None
    extra: F32 | None


class TracingPolicy(Watching):
    """Wraps a policy and copies the router logits it is shown. Implements `Policy`.

    Args:
        inner: decides.
        layers: the sparse layers, in order.
        on_pass: called when a pass is over, for what else belongs to it.
    """

    def __init__(self, inner: Policy, layers: Sequence[int], on_pass: Callable[[], F32 | None] = lambda: None) -> None:
        super().__init__(inner)
        self._place = {layer: i for i, layer in enumerate(layers)}
        self._now: list[F32 | None] = [None] * len(layers)
        self._on_pass = on_pass
        self._rejected: list[Seen] = []

    def decide(self, layer_idx: int, routing: Routing, residency: ResidencyView) -> Decision:
        """See `Policy.decide`."""
        self._now[self._place[layer_idx]] = routing.logits.copy()
        return super().decide(layer_idx, routing, residency)

    def accept(self, logits: F32) -> bool:
        """See `Policy.accept`. A pass that is run again is kept beside the one that stands."""
        stands = super().accept(logits)
        if not stands:
            self._rejected.append(Seen(self._stacked(), logits.copy(), self._on_pass()))
        return stands

    def take(self) -> list[Seen]:
        """Return the passes since the last call, the one that stands last, and forget them."""
        passes, self._rejected = [*self._rejected, Seen(self._stacked(), None, self._on_pass())], []
        return passes

    def _stacked(self) -> F32:
        seen = [logits for logits in self._now if logits is not None]
        assert len(seen) == len(self._now), "a pass ended before every layer was decided"
        self._now = [None] * len(self._now)
        return np.stack(seen)
