"""One forward pass: trunk, policy, expert cache and expert kernels joined, layer by layer. No sampling, no text."""

from __future__ import annotations

from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from edge_runtime.experts.base import Priority
from edge_runtime.experts.cache import ExpertCache
from edge_runtime.policy.base import Hint, Policy, StepPlan
from edge_runtime.policy.routing import route
from edge_runtime.prefetch.prefetcher import Prefetcher
from edge_runtime.spec import ModelSpec
from edge_runtime.telemetry.spans import Spans
from edge_runtime.trunk.base import F32, LayerOutput, Trunk
from edge_runtime.trunk.kv_cache import KVCache


class Kernels(Protocol):
    """The part of `edge_runtime.kernels.ExpertKernels` a decoder uses."""

    def quantize(self, x: F32) -> None:
        """Take float32 [T, D] as the input of the runs that follow."""
        ...

    def run(self, tier: int, segments: NDArray[np.uint64], starts: NDArray[np.int32], pairs: NDArray[np.int32]) -> None:
        """Compute experts for their (token, rank) pairs."""
        ...

    def combine(self, weights: F32, out: F32) -> None:
        """Write the weighted sum over ranks to float32 [T, D]."""
        ...


class Decoder:
    """Runs chunks of tokens through a model whose experts are streamed.

    Args:
        spec: the model.
        trunk: its dense part.
        cache: its experts.
        kernels: expert kernels for chunks of up to `max_chunk` tokens.
        policy: decides experts and tiers.
        max_chunk: most tokens in one pass.
        prefetcher: reads ahead for single tokens; None: nothing is read before it is asked for.
    """

    def __init__(
        self,
        spec: ModelSpec,
        trunk: Trunk,
        cache: ExpertCache,
        kernels: Kernels,
        policy: Policy,
        *,
        max_chunk: int,
        prefetcher: Prefetcher | None = None,
    ) -> None:
        self.spec, self.trunk, self.cache, self.kernels, self.policy = spec, trunk, cache, kernels, policy
        self.max_chunk, self.prefetcher = max_chunk, prefetcher
        self.spans = Spans()
        self._plans: list[StepPlan] = []
        self._moe = np.zeros((max_chunk, spec.hidden), np.float32)

    def prefill(self, token_ids: NDArray[np.int32], kv: KVCache) -> F32:
        """Run int32 [N] tokens in chunks; return the logits float32 [V] after the last one."""
        for start in range(0, len(token_ids), self.max_chunk):
            chunk = token_ids[start : start + self.max_chunk]
            is_last = start + len(chunk) == len(token_ids)
            logits = self.forward(chunk, kv, slice(len(chunk) - 1, len(chunk)) if is_last else slice(0))
        last: F32 = logits[0]
        return last

    def forward(self, token_ids: NDArray[np.int32], kv: KVCache, rows: slice) -> F32:
        """Run one chunk of 1 to max_chunk tokens and return the logits float32 [rows, V] of the chosen ones.

        Raises:
            ExpertReadError: an expert could not be read; the chunk is dropped, `kv` is unchanged.
            RequestError: the chunk does not fit the context.
        """
        has_logits = len(range(*rows.indices(len(token_ids)))) > 0
        self.policy.begin_pass(len(token_ids), has_logits=has_logits)
        if self.prefetcher is not None:
            self.prefetcher.begin_pass(len(token_ids))
        logits = self._pass(token_ids, kv, rows)
        if has_logits and not self.policy.accept(logits):
            # nothing was committed, so the second pass writes its keys and values over those of the first
            self.cache.counters.fallbacks += 1
            logits = self._pass(token_ids, kv, rows)
        if self.prefetcher is not None:
            self.prefetcher.end_pass()
        for plan in self._plans:  # of the pass that stands: what a rejected one changed is not lost
            self.cache.counters.add_plan(plan)
        with self.spans.span("trunk"):
            self.trunk.commit()
        return logits

    def _pass(self, token_ids: NDArray[np.int32], kv: KVCache, rows: slice) -> F32:
        """Run every layer over the chunk; the caller commits."""
        moe: F32 | None = None
        self._plans.clear()
        with self.spans.span("trunk"):
            self.trunk.begin(token_ids, kv)
        self.cache.begin_pass()
        for layer_idx, layer in enumerate(self.spec.layers):
            with self.spans.span("trunk"):
                out = self.trunk.run_layer(layer_idx, moe)
            moe = self._run_experts(layer_idx, out) if layer.sparse else None
        self.cache.end_pass()
        with self.spans.span("trunk"):
            wants_logits = len(range(*rows.indices(len(token_ids)))) > 0
            return self.trunk.head(moe, rows) if wants_logits else np.empty((0, self.spec.vocab_size), np.float32)

    def _run_experts(self, layer_idx: int, out: LayerOutput) -> F32:
        assert out.x is not None
        assert out.router_logits is not None
        spec = self.spec
        routing = route(out.router_logits, spec.top_k, norm_topk_prob=spec.norm_topk_prob)
        plan = self.policy.decide(layer_idx, routing, self.cache)
        self._plans.append(plan)
        jobs = PairsByExpert(plan)
        moe = self._moe[: len(out.x)]
        ready = self.cache.stream(
            layer_idx, plan.tiers, plan.use_order
        )  # reads of missing experts are under way from here on
        shared = spec.layers[layer_idx].shared_intermediate is not None
        if shared:
            with self.spans.span("trunk"):
                shared_out = self.trunk.run_shared(layer_idx)
        for hint in plan.hints:  # behind this layer's own reads
            self._prefetch(hint)
        if self.prefetcher is not None:
            self.prefetcher.after(layer_idx, out.x, routing)
        with self.spans.span("experts"):
            self.kernels.quantize(out.x)
        for batch in ready:
            with self.spans.span("experts"):
                self.kernels.run(batch.tier, batch.segments, *jobs.of(batch.experts))
        with self.spans.span("experts"):
            self.kernels.combine(plan.topk_weights, moe)
        if shared:
            moe += shared_out
        return moe

    def _prefetch(self, hint: Hint) -> None:
        tiers = np.full(self.spec.num_experts, hint.tier, np.uint8)
        priority = Priority.SPECULATIVE if hint.is_spare else Priority.NEXT
        self.cache.prefetch(hint.layer_idx, hint.experts, tiers, priority)


class PairsByExpert:
    """Groups the (token, rank) pairs of a plan by expert.

    Pair index = token * K + rank; pairs whose weight is exactly 0 are skipped.
    """

    def __init__(self, plan: StepPlan) -> None:
        ids = plan.topk_ids.ravel()
        active = np.flatnonzero(plan.topk_weights.ravel())
        self._pairs = active[np.argsort(ids[active], kind="stable")].astype(np.int32)
        self._ids = ids[self._pairs]

    def of(self, experts: NDArray[np.int32]) -> tuple[NDArray[np.int32], NDArray[np.int32]]:
        """Return starts int32 [n + 1] and pairs int32 [P] for n experts, in their order."""
        left = np.searchsorted(self._ids, experts, "left")
        counts = np.searchsorted(self._ids, experts, "right") - left
        starts = np.zeros(len(experts) + 1, np.int32)
        np.cumsum(counts, out=starts[1:])
        # position of each wanted pair: its expert's first pair plus its place among that expert's pairs
        offset = np.repeat(left - starts[:-1], counts) + np.arange(starts[-1])
        return starts, np.ascontiguousarray(self._pairs[offset])
