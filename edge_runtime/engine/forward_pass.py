"""A run of all layers over one or several sequences: joins trunk, expert kernels and the loop over layers."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import repeat
from typing import Generic, TypeVar

import numpy as np

from edge_runtime.backends.chunks import LayerOutput, TrunkChunk
from edge_runtime.backends.kernels import Resident
from edge_runtime.base.arrays import F32
from edge_runtime.engine.backend_layers import count_uses, layers_of_backend
from edge_runtime.engine.layer_loop import run_layers
from edge_runtime.engine.pass_parts import BeforeLayer, PassParts, SequenceStep
from edge_runtime.engine.policy_pass import Attempt
from edge_runtime.engine.speculation.cut import rows_served
from edge_runtime.engine.token_calls import TokenPass, token_pass_of
from edge_runtime.experts.stream import ReadyBatch
from edge_runtime.policy.base import Decision, Policy, ResidencyView, Routing, first_rows
from edge_runtime.policy.joint import PassPolicies

T = TypeVar("T")


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
        self._cache, self._trunk, self._kernels = parts.cache, parts.compute.trunk, parts.compute.kernels
        self._in_trunk, self._in_experts = parts.spans.span("trunk"), parts.spans.span("experts")
        self._in_routing, self._in_policy, self._in_cache = map(parts.spans.host_span, ("routing", "policy", "cache"))
        self._can_expect = self._trunk.expected_states is not None and self._kernels.partial_sums is not None
        self._layers, self._rows = parts.spec.layers, [len(step.token_ids) for step in steps]
        drafts = sum([step.drafts for step in steps])
        assert not drafts or len(steps) == 1, "drafts beside another sequence"
        self._drawn = sum(self._rows) - drafts if drafts else None  # tokens that are no drafts, where some are
        self._own, self._policies = policies, PassPolicies(policies, self._rows)
        self._tokens = steps[0].token_ids if len(steps) == 1 else np.concatenate([step.token_ids for step in steps])
        self._out: LayerOutput[T] | None = None  # of the layer that runs, all sequences joined
        self._expert_outs: list[T | None] = [None] * len(steps)
        self._resident_layers: list[Resident] | None = None
        self._calls: TokenPass[T] | None = None
        self.chunks: list[TrunkChunk] = []

    def run(self) -> Attempt:
        """Run every layer, and the head where logits are wanted."""
        cache = self._cache
        with self._in_trunk:
            self.chunks = [self._trunk.begin(step.token_ids, step.kv) for step in self._steps]
        cache.begin_pass(sum(self._rows))
        self._parts.read_ahead.decide_with(self._policies)
        self._resident_layers = layers_of_backend(self._parts, self._kernels, self._policies)
        try:
            if self._drawn is None and self._resident_layers is None:
                self._calls = token_pass_of(self._parts, self.chunks, self._tokens, self._policies)
            self._look_first()
            decisions = run_layers(range(len(self._layers)), self, self._decide, cache.residents, self)
        finally:
            if self._calls is not None:
                self._calls.end()
        self._parts.spans.layer_idx = None
        cache.end_pass()
        with self._in_trunk:
            logits = [self._head(*each) for each in zip(self.chunks, self._expert_outs, self._steps, strict=True)]
        if self._resident_layers is not None:
            count_uses(self._kernels, cache.residents)
        changed = None if self._calls is None else self._calls.changed()
        return Attempt(logits, decisions, changed)

    def route(self, layer_idx: int) -> Routing | None:
        """Run the dense part of a layer and return the router's own choice for the tokens of all sequences."""
        self._before_layer()
        self._parts.spans.layer_idx = layer_idx
        if self._calls is not None and self._calls.is_whole and self._layers[layer_idx].sparse:
            self._expert_outs = [self._calls.run(layer_idx, self._expert_outs[0])]
            return None
        if len(self.chunks) == 1:
            with self._in_trunk:
                out = self._trunk.run_layer(self.chunks[0], layer_idx, self._expert_outs[0])
        else:
            out = self._run_side_by_side(layer_idx)
        self._out = out
        if out is None:
            self._expert_outs = [None] * len(self.chunks)
            return None
        if self._resident_layers is not None:
            self._run_routed(layer_idx, out, self._resident_layers[layer_idx])
            return None
        with self._in_routing:
            logits = self._parts.compute.tensors.to_host(out.router_logits)
            routing = self._parts.router.route(layer_idx, logits, self._tokens)
            return routing if self._drawn is None else self._without_misses(layer_idx, routing, self._drawn)

    def _without_misses(self, layer_idx: int, routing: Routing, drawn: int) -> Routing:
        """Leave out the drafts from the first on that would have something read; the tokens before them stay."""
        resident = self._cache.resident_tiers(layer_idx) >= self._cache.residents.tier
        kept = rows_served(routing.topk_ids, drawn, resident)
        if kept == len(routing.topk_ids):
            return routing
        cuts = self._trunk.chunk_cuts
        assert cuts is not None, "drafts need a trunk that can leave them out"
        self._out, self._rows, self._tokens = cuts.keep(self.chunks[0], kept), [kept], self._tokens[:kept]
        self._drawn = None if kept == drawn else drawn
        return first_rows(routing, kept)

    def _decide(self, layer_idx: int, routing: Routing, residency: ResidencyView) -> Decision:
        with self._in_policy:
            return self._policies.decide(layer_idx, routing, residency)

    def serve(self, layer_idx: int, routing: Routing, decision: Decision) -> None:
        """Compute the experts' combined output of each sequence, shared experts included."""
        out = self._out
        assert out is not None
        if self._calls is not None:
            self._expert_outs = [self._calls.serve(layer_idx, routing, decision, out.seen)]
            return
        ids, tiers = decision.topk_ids, decision.tiers
        with self._in_cache:
            waits = self._parts.read_ahead.is_wanted(decision)
            resident = None if waits else self._cache.take_resident(layer_idx, tiers, decision.use_order, ids)
        if resident is None:
            self._take(*self._stream(layer_idx, routing, decision, out))
            return
        with self._in_experts:
            expert_out = self._kernels.run_resident(out.x, ids, decision.topk_weights, resident)
        self._take(expert_out, self._run_shared(layer_idx))

    def _run_side_by_side(self, layer_idx: int) -> LayerOutput[T] | None:
        """Run the dense part of a layer sequence by sequence; the drive reads for those that have run."""
        outs: list[LayerOutput[T]] = []
        overlaps = not (self._policies.reads_residency or self._resident_layers)
        for number, (chunk, expert_out) in enumerate(zip(self.chunks, self._expert_outs, strict=True), 1):
            with self._in_trunk:
                out = self._trunk.run_layer(chunk, layer_idx, expert_out)
            if out is None:
                continue
            outs.append(out)
            if overlaps and number < len(self.chunks):
                logits = self._parts.compute.tensors.to_host(out.router_logits)
                routing = self._parts.router.route(layer_idx, logits, self._steps[number - 1].token_ids)
                self._parts.overlap.begin(layer_idx, routing, self._own[number - 1])
        if not outs:
            return None
        join = self._parts.compute.tensors.join
        own = [out.router_x for out in outs if out.router_x is not None]
        x, router_logits = join([out.x for out in outs]), join([out.router_logits for out in outs])
        return LayerOutput(x, router_logits, join(own) if own else None)

    def _stream(
        self, layer_idx: int, routing: Routing, decision: Decision, out: LayerOutput[T]
    ) -> tuple[T, list[T | None]]:
        """Compute experts as they come; return their sum and what shared experts gave while reads flowed."""
        kernels, in_experts = self._kernels, self._in_experts
        read_ahead = self._parts.read_ahead
        with self._in_cache:  # reads of missing experts are under way from here on
            ready = self._cache.stream(layer_idx, decision.tiers, decision.use_order, decision.topk_ids)
            looks_later = ready.has_resident and read_ahead.is_better_later(layer_idx) and self._can_expect
            if not looks_later:
                self._read_ahead(layer_idx, out.seen, routing, decision)
        with in_experts:
            kernels.begin(out.x, decision.topk_ids, decision.topk_weights)
        shared_out: list[T | None] | None = None
        while (batch := self._next(ready)) is not None:
            with in_experts:
                kernels.run_experts(batch.tier, batch.segments, batch.experts)
            if shared_out is None:
                shared_out = self._run_shared(layer_idx)
                if looks_later:
                    with self._in_cache:
                        self._read_ahead(layer_idx, self._expected_state(layer_idx, shared_out), routing, decision)
        if shared_out is None:
            shared_out = self._run_shared(layer_idx)
        with in_experts:
            return kernels.end(), shared_out

    def _read_ahead(self, layer_idx: int, state: T, routing: Routing, decision: Decision) -> None:
        """Start reads for coming layers; of drafts nobody knows whether they will count."""
        if self._drawn is not None:
            state = self._parts.compute.tensors.split(state, [self._drawn, self._rows[0] - self._drawn])[0]
            routing = first_rows(routing, self._drawn)
        self._parts.read_ahead.after(layer_idx, state, routing, decision)

    def _look_first(self) -> None:
        """Start reads for the first layer by what its tokens are; of drafts nobody knows whether they will count."""
        states, read_ahead = self._trunk.expected_states, self._parts.read_ahead
        if states is None or not read_ahead.looks_first or self._drawn is not None:
            return
        if self._calls is not None and self._calls.is_whole:
            return self._calls.look_first()
        with self._in_cache:
            found = [states.first_state(chunk) for chunk in self.chunks]
            read_ahead.before(found[0] if len(found) == 1 else self._parts.compute.tensors.join(found), self._tokens)

    def _expected_state(self, layer_idx: int, shared_out: list[T | None]) -> T:
        """Return what may enter the next router, by the experts that were computed so far: those in memory."""
        states, sums = self._trunk.expected_states, self._kernels.partial_sums
        assert states is not None
        assert sums is not None
        parts = self._parts_of(sums.so_far(), shared_out)
        found = [states.expected_state(*each) for each in zip(self.chunks, repeat(layer_idx), parts, strict=False)]
        return found[0] if len(found) == 1 else self._parts.compute.tensors.join(found)

    def _next(self, ready: Iterator[ReadyBatch]) -> ReadyBatch | None:
        with self._in_cache:
            return next(ready, None)

    def _run_routed(self, layer_idx: int, out: LayerOutput[T], resident: Resident) -> None:
        """Let the backend choose and compute a layer's experts, which are all in memory."""
        router = self._kernels.resident_router
        assert router is not None
        with self._in_experts:
            expert_out = router.run(layer_idx, out.x, out.router_logits, resident)
        self._take(expert_out, self._run_shared(layer_idx))

    def _run_shared(self, layer_idx: int) -> list[T | None]:
        """Return what each sequence's experts' output is added to; [] where the layer has no shared expert."""
        if self._layers[layer_idx].shared is None:
            return []
        with self._in_trunk:
            return [self._trunk.run_shared(chunk, layer_idx) for chunk in self.chunks]

    def _take(self, expert_out: T, shared_out: list[T | None]) -> None:
        """Give each sequence its part of a layer's result."""
        self._expert_outs = [*self._parts_of(expert_out, shared_out)]

    def _parts_of(self, expert_out: T, shared_out: list[T | None]) -> Sequence[T]:
        """Split a sum of experts by sequence, and add what shared experts gave."""
        tensors = self._parts.compute.tensors
        parts = [expert_out] if len(self._rows) == 1 else tensors.split(expert_out, self._rows)
        for part, more in zip(parts, shared_out, strict=bool(shared_out)):
            if more is not None:
                tensors.add(part, more)
        return parts

    def _head(self, chunk: TrunkChunk, expert_out: T | None, step: SequenceStep) -> F32:
        if not step.num_rows:
            return np.empty((0, self._parts.spec.vocab_size), np.float32)
        return self._trunk.head(chunk, expert_out, step.rows)
