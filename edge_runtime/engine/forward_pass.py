"""A run of all layers over one or several sequences: joins trunk, expert kernels and the loop over layers."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Generic, NamedTuple, TypeVar

import numpy as np
from numpy.typing import NDArray

from edge_runtime.backends.base import Compute
from edge_runtime.backends.trunk import KVCache, LayerOutput, TrunkChunk
from edge_runtime.base.spec import ModelSpec
from edge_runtime.engine.layer_loop import run_layers
from edge_runtime.engine.policy_pass import Attempt
from edge_runtime.experts.cache import ExpertCache
from edge_runtime.policy.base import Decision, Policy, Routing
from edge_runtime.policy.joint import PassPolicies
from edge_runtime.policy.routing import Router
from edge_runtime.prefetch.overlap import OverlapReads
from edge_runtime.prefetch.read_ahead import ReadAhead
from edge_runtime.telemetry.spans import Spans

T = TypeVar("T")
F32 = NDArray[np.float32]
I32 = NDArray[np.int32]
BeforeLayer = Callable[[], None]
"""Called before every layer of a pass; may raise to end it. A long prompt is alive as long as its layers come."""

_ALL = slice(None)


class SequenceStep(NamedTuple):
    """What one sequence runs in a pass.

    Attributes:
        token_ids: int32 [N], its next tokens.
        kv: its cache.
        rows: of which tokens logits are wanted.
        policy: decides for its tokens; None is the one in force.
    """

    token_ids: I32
    kv: KVCache
    rows: slice
    policy: Policy | None = None

    @property
    def num_rows(self) -> int:
        """Tokens whose logits are wanted."""
        return len(range(*self.rows.indices(len(self.token_ids))))


def nothing() -> None:
    """A `BeforeLayer` that lets every layer run."""


@dataclass(frozen=True)
class PassParts(Generic[T]):
    """What passes run on.

    Attributes:
        spec: the model.
        compute: what computes it.
        cache: its experts.
        router: the model's, on the host.
        overlap: reads for sequences whose router has spoken while the next one's trunk runs.
        read_ahead: reads behind a layer's own.
        spans: time by phase.
    """

    spec: ModelSpec
    compute: Compute[T]
    cache: ExpertCache
    router: Router
    overlap: OverlapReads
    read_ahead: ReadAhead
    spans: Spans


class ForwardPass(Generic[T]):
    """One run of all layers over some sequences, which the decoder commits. Implements `RoutingSource`, `ExpertServer`.

    Args:
        parts: what it runs on.
        steps: what runs.
        policies: of each step.
        before_layer: called before every layer.
    """

    def __init__(
        self, parts: PassParts[T], steps: Sequence[SequenceStep], policies: list[Policy], before_layer: BeforeLayer
    ) -> None:
        self._parts, self._steps, self._before_layer = parts, steps, before_layer
        self._cache, self._compute, self._span = parts.cache, parts.compute, parts.spans.span
        self._rows = [len(step.token_ids) for step in steps]
        self._own, self._policies = policies, PassPolicies(policies, self._rows)
        self._layers = parts.spec.layers
        self._expert_outs: list[T | None] = [None] * len(steps)
        self._outs: list[LayerOutput[T]] = []
        self._is_routed = False
        self.chunks: list[TrunkChunk] = []

    def run(self) -> Attempt:
        """Run every layer, and the head where logits are wanted."""
        trunk, cache = self._compute.trunk, self._cache
        with self._span("trunk"):
            self.chunks = [trunk.begin(step.token_ids, step.kv) for step in self._steps]
        cache.begin_pass()
        self._parts.read_ahead.decide_with(self._policies)
        self._is_routed = self._is_routed_by_backend()
        decisions = run_layers(range(len(self._layers)), self, self._decide, self)
        cache.end_pass()
        with self._span("trunk"):
            logits = [self._head(*each) for each in zip(self.chunks, self._expert_outs, self._steps, strict=True)]
        self._count_uses()
        return Attempt(logits, decisions)

    def route(self, layer_idx: int) -> Routing | None:
        """Run the dense part of a layer, sequence by sequence; the drive reads for those that have run."""
        self._before_layer()
        trunk = self._compute.trunk
        overlaps = len(self.chunks) > 1 and not (self._policies.reads_residency or self._is_routed)
        outs: list[LayerOutput[T]] = []
        for number, (chunk, expert_out) in enumerate(zip(self.chunks, self._expert_outs, strict=True)):
            with self._span("trunk"):
                out = trunk.run_layer(chunk, layer_idx, expert_out)
            if out is None:
                continue
            outs.append(out)
            if overlaps and len(outs) < len(self.chunks):
                one = slice(number, number + 1)
                self._parts.overlap.begin(layer_idx, self._routing(layer_idx, outs, one), self._own[number])
        self._outs = outs
        if not outs:
            self._expert_outs = [None] * len(self.chunks)
            return None
        if self._is_routed:
            self._run_routed(layer_idx)
            return None
        return self._routing(layer_idx, outs)

    def serve(self, layer_idx: int, routing: Routing, decision: Decision) -> None:
        """Compute the experts' combined output of each sequence, shared experts included."""
        x = self._joined([out.x for out in self._outs])
        resident = (
            None
            if self._parts.read_ahead.is_wanted(decision)
            else self._cache.take_resident(layer_idx, decision.tiers, decision.use_order)
        )
        if resident is not None:
            with self._span("experts"):
                kernels = self._compute.kernels
                expert_out = kernels.run_resident(x, decision.topk_ids, decision.topk_weights, resident)
            shared_out = self._run_shared(layer_idx)
        else:
            expert_out, shared_out = self._stream(layer_idx, routing, decision, x)
        self._take(expert_out, shared_out)

    def _stream(self, layer_idx: int, routing: Routing, decision: Decision, x: T) -> tuple[T, list[T]]:
        """Compute experts as they come; return their sum and what shared experts gave while reads flowed."""
        kernels = self._compute.kernels
        # reads of missing experts are under way from here on
        ready = self._cache.stream(layer_idx, decision.tiers, decision.use_order)
        self._parts.read_ahead.after(layer_idx, x, routing, decision)
        with self._span("experts"):
            kernels.begin(x, decision.topk_ids, decision.topk_weights)
        shared_out: list[T] = []
        for number, batch in enumerate(ready):
            with self._span("experts"):
                kernels.run_experts(batch.tier, batch.segments, batch.experts)
            if number == 0:
                shared_out = self._run_shared(layer_idx)
        if not shared_out:
            shared_out = self._run_shared(layer_idx)
        with self._span("experts"):
            return kernels.end(), shared_out

    def _run_routed(self, layer_idx: int) -> None:
        """Let the backend choose and compute a layer's experts, which are all in memory."""
        router = self._compute.kernels.resident_router
        assert router is not None
        x = self._joined([out.x for out in self._outs])
        logits = self._joined([out.router_logits for out in self._outs])
        with self._span("experts"):
            expert_out = router.run(layer_idx, x, logits, self._cache.resident_layer(layer_idx))
        self._take(expert_out, self._run_shared(layer_idx))

    def _is_routed_by_backend(self) -> bool:
        """Whether the backend may route this pass by itself; else the host decides."""
        router = self._compute.kernels.resident_router
        if router is None or self._parts.router.needs_tokens or not self._policies.follows_router:
            return False
        router.take_uses()  # what a failed pass left
        return self._cache.residents.is_permanent

    def _count_uses(self) -> None:
        """Count what the backend chose, as if each layer had asked for it."""
        router = self._compute.kernels.resident_router
        if router is not None and self._is_routed:
            for layer_idx, experts in router.take_uses():
                self._cache.residents.count_hits(layer_idx, experts)

    def _take(self, expert_out: T, shared_out: list[T]) -> None:
        """Give each sequence its part of a layer's result."""
        tensors = self._compute.tensors
        parts = [expert_out] if len(self._rows) == 1 else tensors.split(expert_out, self._rows)
        for part, more in zip(parts, shared_out, strict=bool(shared_out)):
            tensors.add(part, more)
        self._expert_outs = [*parts]

    def _joined(self, parts: list[T]) -> T:
        return parts[0] if len(parts) == 1 else self._compute.tensors.join(parts)

    def _run_shared(self, layer_idx: int) -> list[T]:
        if self._layers[layer_idx].shared is None:
            return []
        with self._span("trunk"):
            return [self._compute.trunk.run_shared(chunk, layer_idx) for chunk in self.chunks]

    def _decide(self, layer_idx: int, routing: Routing) -> Decision:
        return self._policies.decide(layer_idx, routing, self._cache)

    def _routing(self, layer_idx: int, outs: list[LayerOutput[T]], which: slice = _ALL) -> Routing:
        """The router's own choice for the tokens of sequences in order, on the host."""
        logits = self._compute.tensors.to_host(self._joined([out.router_logits for out in outs[which]]))
        router = self._parts.router
        if not router.needs_tokens:
            return router.route(layer_idx, logits)
        return router.route(layer_idx, logits, np.concatenate([step.token_ids for step in self._steps[which]]))

    def _head(self, chunk: TrunkChunk, expert_out: T | None, step: SequenceStep) -> F32:
        if not step.num_rows:
            return np.empty((0, self._parts.spec.vocab_size), np.float32)
        return self._compute.trunk.head(chunk, expert_out, step.rows)
