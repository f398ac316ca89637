"""Counts which experts the router chooses, without changing anything: the calibration pass of the exporter."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from edge_runtime.policy.base import Policy, ResidencyView, Routing, StepPlan


class RoutingCounts(NamedTuple):
    """How often each expert was chosen.

    Attributes:
        tokens: tokens run.
        layers: sparse layer -> int64 [E].
    """

    tokens: int
    layers: dict[int, NDArray[np.int64]]


class CountingPolicy:
    """Wraps a policy and counts the router's own choices. Implements `Policy`.

    Args:
        inner: decides.
        num_experts: E.
    """

    def __init__(self, inner: Policy, num_experts: int) -> None:
        self._inner, self._num_experts = inner, num_experts
        self.name = inner.name
        self.layers: dict[int, NDArray[np.int64]] = {}

    @property
    def params(self) -> dict[str, float | int | str | bool]:
        """The wrapped policy's."""
        return self._inner.params

    def decide(self, layer_idx: int, routing: Routing, residency: ResidencyView) -> StepPlan:
        """See `Policy.decide`."""
        counts = self.layers.setdefault(layer_idx, np.zeros(self._num_experts, np.int64))
        counts += np.bincount(routing.topk_ids.ravel(), minlength=self._num_experts)
        return self._inner.decide(layer_idx, routing, residency)

    def begin_sequence(self) -> None:
        """See `Policy.begin_sequence`."""
        self._inner.begin_sequence()
