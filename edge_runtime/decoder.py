"""One forward pass over one or several sequences: trunk, policy, expert cache and kernels joined, layer by layer."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import NamedTuple, Protocol

import numpy as np
from numpy.typing import NDArray

from edge_runtime.experts.cache import ExpertCache
from edge_runtime.policy.base import Policy, ResidencyView, Routing, StepPlan
from edge_runtime.policy.routing import route
from edge_runtime.spec import ModelSpec
from edge_runtime.telemetry.spans import Spans
from edge_runtime.trunk.base import F32, LayerOutput, Trunk, TrunkChunk
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


class Piece(NamedTuple):
    """What one sequence runs in a pass.

    Attributes:
        token_ids: int32 [T], its next tokens.
        kv: its cache.
        rows: of which tokens logits are wanted.
        policy: decides for its tokens; None is the decoder's own.
    """

    token_ids: NDArray[np.int32]
    kv: KVCache
    rows: slice
    policy: Policy | None = None


def _nothing() -> None:
    """Nobody listens."""


class Decoder:
    """Runs chunks of tokens through a model whose experts are streamed.

    Args:
        spec: the model.
        trunk: its dense part.
        cache: its experts.
        kernels: expert kernels for passes of up to `max_tokens` tokens.
        policy: decides experts and tiers.
        max_chunk: most tokens of one sequence in one pass.
        parallel: most sequences in one pass; at most one of them brings more than one token.
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
        parallel: int = 1,
    ) -> None:
        self.spec, self.trunk, self.cache, self.kernels, self.policy = spec, trunk, cache, kernels, policy
        self.max_chunk = max_chunk
        self.spans = Spans()
        self.on_layer: Callable[[], None] = _nothing
        """Called before every layer: a long prompt pass is alive as long as its layers come."""
        self._moe = np.zeros((max_tokens(max_chunk, parallel), spec.hidden), np.float32)

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
        return self.step([Piece(token_ids, kv, rows)])[0]

    def step(self, pieces: Sequence[Piece]) -> list[F32]:
        """Run the next tokens of several sequences in one pass, every expert read once for all of them.

        Each sequence gets the bits it would get alone. At most one piece may have more than one token.

        Returns:
            Of each piece the logits float32 [rows, V] of its chosen tokens.

        Raises:
            ExpertReadError: an expert could not be read; nothing of the pass is kept, no cache is changed.
            RequestError: a piece does not fit its context.
        """
        with self.spans.span("trunk"):
            chunks = [self.trunk.begin(piece.token_ids, piece.kv) for piece in pieces]
        policies = [piece.policy or self.policy for piece in pieces]
        moes: list[F32 | None] = [None] * len(chunks)
        self.cache.begin_pass()
        for layer_idx, layer in enumerate(self.spec.layers):
            self.on_layer()
            with self.spans.span("trunk"):
                outs = [self.trunk.run_layer(c, layer_idx, moe) for c, moe in zip(chunks, moes, strict=True)]
            moes = [*self._run_experts(layer_idx, outs, chunks, policies)] if layer.sparse else [None] * len(chunks)
        self.cache.end_pass()
        with self.spans.span("trunk"):
            logits = [self._head(*each) for each in zip(chunks, moes, pieces, strict=True)]
            for chunk in chunks:
                self.trunk.commit(chunk)
        return logits

    def _head(self, chunk: TrunkChunk, moe: F32 | None, piece: Piece) -> F32:
        if not len(range(*piece.rows.indices(chunk.tokens))):
            return np.empty((0, self.spec.vocab_size), np.float32)
        return self.trunk.head(chunk, moe, piece.rows)

    def _run_experts(
        self, layer_idx: int, outs: list[LayerOutput], chunks: list[TrunkChunk], policies: list[Policy]
    ) -> list[F32]:
        """Return the experts' combined output of each sequence, as views of one array."""
        x = _joined([out.x for out in outs])
        spec, stops = self.spec, np.cumsum([chunk.tokens for chunk in chunks])[:-1]
        routing = route(_joined([out.router_logits for out in outs]), spec.top_k, norm_topk_prob=spec.norm_topk_prob)
        plan = decide_together(layer_idx, routing, stops, policies, self.cache)
        self.cache.counters.add_plan(plan, self.cache.tier)
        jobs = PairsByExpert(plan)
        moe = self._moe[: len(x)]
        ready = self.cache.stream(layer_idx, plan.tiers)  # reads of missing experts are under way from here on
        shared = spec.layers[layer_idx].shared_intermediate is not None
        if shared:
            with self.spans.span("trunk"):
                shared_out = [self.trunk.run_shared(chunk, layer_idx) for chunk in chunks]
        with self.spans.span("experts"):
            self.kernels.quantize(x)
        for batch in ready:
            with self.spans.span("experts"):
                self.kernels.run(self.cache.tier, batch.segments, *jobs.of(batch.experts))
        with self.spans.span("experts"):
            self.kernels.combine(plan.topk_weights, moe)
        parts = np.split(moe, stops)
        if shared:
            for part, more in zip(parts, shared_out, strict=True):
                part += more
        return parts


def max_tokens(max_chunk: int, parallel: int) -> int:
    """Return the most tokens of one pass: a chunk of one sequence and a token of each other."""
    return max_chunk + parallel - 1


def decide_together(
    layer_idx: int, routing: Routing, stops: NDArray[np.int_], policies: list[Policy], residency: ResidencyView
) -> StepPlan:
    """Let each policy decide once for all of its sequences' tokens, and join the plans into one.

    Args:
        layer_idx: the layer.
        routing: of all tokens, sequence after sequence.
        stops: where each sequence but the last ends.
        policies: of each sequence.
        residency: what is resident.
    """
    if all(policy is policies[0] for policy in policies):
        return policies[0].decide(layer_idx, routing, residency)
    owner = np.zeros(len(routing.topk_ids), np.intp)
    owner[stops] = 1
    owner = np.cumsum(owner)
    ids, weights = routing.topk_ids.copy(), routing.topk_weights.copy()
    plans = []
    for policy in {id(policy): policy for policy in policies}.values():
        rows = np.isin(owner, [i for i, other in enumerate(policies) if other is policy])
        own = Routing(routing.logits[rows], routing.topk_ids[rows], routing.topk_weights[rows])
        plans.append(policy.decide(layer_idx, own, residency))
        ids[rows], weights[rows] = plans[-1].topk_ids, plans[-1].topk_weights
    return StepPlan(
        ids,
        weights,
        np.maximum.reduce([plan.tiers for plan in plans]),
        substituted=sum(plan.substituted for plan in plans),
        skipped=sum(plan.skipped for plan in plans),
        route_changed=sum(plan.route_changed for plan in plans),
    )


def _joined(arrays: Sequence[F32 | None]) -> F32:
    found = [array for array in arrays if array is not None]
    assert len(found) == len(arrays)
    return found[0] if len(found) == 1 else np.concatenate(found)


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
