"""Probe: between an engine's decoder, policy and kernels, to measure experts' outputs and to disturb layers."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Literal, NamedTuple

import numpy as np

from edge_runtime.base.arrays import F32, F64, I32, U64
from edge_runtime.policy.base import Decision, Policy, ResidencyView, Routing
from edge_runtime.policy.wrappers.watching import Watching

if TYPE_CHECKING:
    from edge_runtime.backends.cpu.experts import CpuKernels
    from edge_runtime.backends.kernels import Resident
    from edge_runtime.engine.api import Engine

Change = Literal["none", "quantise", "skip", "substitute"]


class Disturbance(NamedTuple):
    """What is done to the layers of `layers`, all tokens alike.

    quantise: every expert at `tier`. skip: the last-ranked expert left out. substitute: the last-ranked expert replaced
    by the one the router puts next, at that one's weight.
    """

    change: Change
    layers: frozenset[int]
    tier: int = 0


NOTHING = Disturbance("none", frozenset())


class Sums:
    """Totals over the (token, rank) uses of each expert of one layer.

    Attributes:
        uses: int64 [E].
        norm: float64 [E], squared length of the outputs at the full tier.
        error: tier -> float64 [E], squared length of what the tier changes.
    """

    def __init__(self, num_experts: int, tiers: Sequence[int]) -> None:
        self.uses = np.zeros(num_experts, np.int64)
        self.norm = np.zeros(num_experts)
        self.error = {tier: np.zeros(num_experts) for tier in tiers}


class Probe(Watching):
    """Decides as lossless does, but for a disturbance, and passes kernel calls on: a `Policy` and `ExpertKernels`.

    Args:
        inner: the engine's own policy.
        kernels: the engine's own kernels.
        engine: for its shape.
    """

    def __init__(self, inner: Policy, kernels: CpuKernels, engine: Engine) -> None:
        spec = engine.spec
        super().__init__(inner)
        self._kernels = kernels
        self._hidden, self._top_k, self._num_experts = spec.hidden, spec.top_k, spec.num_experts
        self._router, self._full = engine.parts.active.router, engine.parts.config.tier
        self.disturbance = NOTHING
        self.tiers: tuple[int, ...] = ()
        self.sums: dict[int, Sums] = {}
        self.scores: list[F32] = []
        self.routings: dict[int, list[tuple[I32, F32]]] = {}
        self._layer = -1
        self._expert_of_pair = np.empty(0, np.int32)  # expert of each pair, -1 where it is not computed

    # ---- policy

    def decide(self, layer_idx: int, routing: Routing, residency: ResidencyView) -> Decision:
        """See `Policy.decide`."""
        self._layer = layer_idx
        ids, weights = routing.topk_ids, routing.topk_weights
        if layer_idx in self.disturbance.layers:
            ids, weights = self._disturbed(layer_idx, routing)
        if self.tiers:
            self.routings.setdefault(layer_idx, []).append((ids.copy(), weights.copy()))
            share = weights / np.maximum(weights.sum(axis=1, keepdims=True), 1e-30)
            self.scores.append((np.cumsum(share, axis=1) - share).ravel().astype(np.float32))
        tiers = np.zeros(self._num_experts, np.uint8)
        tiers[ids[weights != 0]] = self._full
        return Decision(ids, weights, tiers)

    def _disturbed(self, layer_idx: int, routing: Routing) -> tuple[I32, F32]:
        ids, weights = routing.topk_ids.copy(), routing.topk_weights.copy()
        if self.disturbance.change == "skip":
            weights[:, -1] = 0
        elif self.disturbance.change == "substitute" and self._top_k < self._num_experts:
            order = np.argsort(-self._router.preference(layer_idx, routing), axis=1, kind="stable")
            ids[:, -1] = order[:, self._top_k]
            ids, weights = self._router.weigh(layer_idx, routing.logits, ids)
        return ids, weights

    # ---- kernels

    resident_router = None
    partial_sums = None

    def begin(self, x: F32, ids: I32, weights: F32) -> None:
        """See `ExpertKernels.begin`."""
        self._expert_of_pair = np.where(weights != 0, ids, -1).ravel()
        self._kernels.begin(x, ids, weights)

    def run_experts(self, tier: int, segments: U64, experts: I32) -> None:
        """Run lower tiers first if they are to be measured: the outputs of the last run stay."""
        if self.tiers:
            pairs = np.flatnonzero(np.isin(self._expert_of_pair, experts)).astype(np.int32)
            low = {}
            for other in self.tiers:
                self._kernels.run_experts(other, segments, experts)
                low[other] = self._outputs(pairs)
            self._kernels.run_experts(tier, segments, experts)
            self._measure(pairs, low, self._outputs(pairs))
        elif self.disturbance.change == "quantise" and self._layer in self.disturbance.layers:
            self._kernels.run_experts(self.disturbance.tier, segments, experts)
        else:
            self._kernels.run_experts(tier, segments, experts)

    def end(self) -> F32:
        """See `ExpertKernels.end`."""
        return self._kernels.end()

    def run_resident(self, x: F32, ids: I32, weights: F32, resident: Resident) -> F32:
        """See `ExpertKernels.run_resident`."""
        self.begin(x, ids, weights)
        experts = np.unique(self._expert_of_pair[self._expert_of_pair >= 0]).astype(np.int32)
        self.run_experts(resident.tier, resident.addresses[resident.slots[experts]], experts)
        return self.end()

    def release_scratch(self) -> None:
        """See `ExpertKernels.release_scratch`."""
        self._kernels.release_scratch()

    def _outputs(self, pairs: I32) -> F32:
        """Outputs float32 [P, D] of the pairs just run."""
        found = np.empty((len(pairs), self._hidden), np.float32)
        self._kernels.native.outputs(pairs, found)
        return found

    def _measure(self, pairs: I32, low: dict[int, F32], full: F32) -> None:
        sums = self.sums.setdefault(self._layer, Sums(self._num_experts, self.tiers))
        experts = self._expert_of_pair[pairs]
        np.add.at(sums.uses, experts, 1)
        np.add.at(sums.norm, experts, _squared(full))
        for tier, outputs in low.items():
            np.add.at(sums.error[tier], experts, _squared(outputs - full))


def _squared(rows: F32) -> F64:
    """Squared length float64 [P] of each row."""
    wide = rows.astype(
        np.float64
    )  # first: einsum casts in blocks that end anywhere, and a row's sum would depend on it
    return np.asarray(np.einsum("ij,ij->i", wide, wide))


@contextmanager
def probing(engine: Engine) -> Iterator[Probe]:
    """Put a probe into an engine for a block."""
    from edge_runtime.backends.cpu.experts import CpuKernels

    parts = engine.parts
    assert isinstance(parts.kernels, CpuKernels), "outputs of single experts are measured on the CPU"
    probe = Probe(parts.active.policy, parts.kernels, engine)
    with parts.decoder.computing_with(probe), engine.deciding_with(probe):
        yield probe
