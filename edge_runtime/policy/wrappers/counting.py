"""Counts which experts the router chooses, without changing anything: the calibration pass of the exporter."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from edge_runtime.base.arrays import I64
from edge_runtime.policy.base import Decision, Policy, ResidencyView, Routing
from edge_runtime.policy.wrappers.watching import Watching


class RoutingCounts(NamedTuple):
    """How often each expert was chosen.

    Attributes:
        tokens: tokens run.
        layers: sparse layer -> int64 [E].
    """

    tokens: int
    layers: dict[int, I64]


class CountingPolicy(Watching):
    """Wraps a policy and counts the router's own choices. Implements `Policy`.

    Args:
        inner: decides.
        num_experts: E.
    """

    def __init__(self, inner: Policy, num_experts: int) -> None:
        super().__init__(inner)
        self._num_experts = num_experts
        self.layers: dict[int, I64] = {}

    def decide(self, layer_idx: int, routing: Routing, residency: ResidencyView) -> Decision:
        """See `Policy.decide`."""
        counts = self.layers.setdefault(layer_idx, np.zeros(self._num_experts, np.int64))
        counts += np.bincount(routing.topk_ids.ravel(), minlength=self._num_experts)
        return super().decide(layer_idx, routing, residency)
