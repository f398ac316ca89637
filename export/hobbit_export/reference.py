"""The source model's own logits for a few tokens: a numpy forward pass that reads only the routed experts."""

from __future__ import annotations

from concurrent.futures import Executor, ThreadPoolExecutor

import numpy as np

from edge_runtime.backends.cpu.activation import expert_hidden
from edge_runtime.base.arrays import F32, I32
from edge_runtime.base.spec import Matrix, ModelSpec
from edge_runtime.policy.routing import Router, router_of
from hobbit_export.source import CheckpointWeights, SourceModel
from hobbit_export.weights import finite

_TOKENS, _FEW_TOKENS = 16, 4
_MANY_BYTES = 8 << 30
"""Above this many bytes of experts, 16 tokens would read most of the checkpoint again."""

_THREADS = 2
"""Experts read at a time at most. Each takes only its share of the memory, so that no result depends on jobs."""


def num_reference_tokens(source: SourceModel) -> int:
    """Tokens of the self-check: fewer for large models, never more than the context."""
    spec = source.spec
    total = source.expert_source_bytes * spec.num_experts * len(spec.sparse_layers)
    return min(_TOKENS if total <= _MANY_BYTES else _FEW_TOKENS, spec.max_context)


def reference_tokens(spec: ModelSpec, count: int) -> I32:
    """Token ids int32 [count], spread over the vocabulary, the same for every export of a model."""
    steps = np.arange(1, count + 1, dtype=np.int64)
    return (steps * 2654435761 % 2**32 * spec.vocab_size // 2**32).astype(np.int32)


def reference_logits(source: SourceModel, token_ids: I32, memory_bytes: int, jobs: int = 1, *, context: int = 0) -> F32:
    """Run the source model.

    Args:
        source: the checkpoint.
        token_ids: int32 [T], one chunk from an empty context.
        memory_bytes: what rows of experts may hold at a time.
        jobs: threads to use, at most `_THREADS`; never changes the result.
        context: tokens the sequence might grow to, if more than T.

    Returns:
        float32 [T, V].
    """
    from edge_runtime.backends.cpu.trunk.reference import ReferenceTrunk

    trunk = ReferenceTrunk(source.spec, CheckpointWeights(source))
    router = router_of(source.spec, source.router_data())
    threads = ThreadPoolExecutor(min(jobs, _THREADS), thread_name_prefix="hobbit-export-reference")
    try:
        chunk = trunk.begin(token_ids, trunk.new_kv_cache(max(len(token_ids), context)))
        expert_out: F32 | None = None
        for layer_idx, layer in enumerate(source.spec.layers):
            out = trunk.run_layer(chunk, layer_idx, expert_out)
            expert_out = None
            if out is not None:
                x, logits = out.x, out.router_logits
                expert_out = _routed(
                    source, router, layer_idx, x, logits, token_ids, memory_bytes // _THREADS, threads
                )  # fmt: skip
                if layer.shared is not None:
                    shared_out = trunk.run_shared(chunk, layer_idx)
                    expert_out += np.float32(0) if shared_out is None else shared_out
        return np.array(trunk.head(chunk, expert_out, slice(0, len(token_ids))), np.float32)
    finally:
        threads.shutdown(cancel_futures=True)
        trunk.close()


def _routed(
    source: SourceModel, router: Router, layer_idx: int, x: F32, logits: F32, token_ids: I32,
    memory_bytes: int, threads: Executor,
) -> F32:  # fmt: skip
    """Weighted sum [T, D] of the experts each token is routed to, each expert read once."""
    routing = router.route(layer_idx, logits, token_ids)
    chosen = [np.nonzero(routing.topk_ids == e) for e in range(source.spec.num_experts)]
    used = [e for e, (tokens, _) in enumerate(chosen) if len(tokens)]

    def output(expert_idx: int) -> F32:
        return expert_output(source, layer_idx, expert_idx, x[chosen[expert_idx][0]], memory_bytes)

    out = np.zeros_like(x)
    for expert_idx, y in zip(used, threads.map(output, used), strict=True):
        tokens, slots = chosen[expert_idx]
        out[tokens] += routing.topk_weights[tokens, slots, None] * y
    return out


def expert_output(source: SourceModel, layer_idx: int, expert_idx: int, x: F32, memory_bytes: int) -> F32:
    """Output [t, D] of one expert for x [t, D], its matrices read by row blocks."""
    gated = source.spec.experts.gated
    gate = _product(source, layer_idx, expert_idx, "gate", x, memory_bytes) if gated else None
    up = _product(source, layer_idx, expert_idx, "up", x, memory_bytes)
    hidden = expert_hidden(source.spec.experts, gate, up)
    return _product(source, layer_idx, expert_idx, "down", hidden, memory_bytes)


def _product(source: SourceModel, layer_idx: int, expert_idx: int, matrix: Matrix, x: F32, memory_bytes: int) -> F32:
    rows = source.expert_rows(layer_idx, expert_idx, matrix)
    step = max(16, memory_bytes // max(16 * x.shape[1] * rows.stride, 2 * source.read_bytes(rows)))
    out = np.empty((len(x), rows.rows), np.float32)
    for row in range(0, rows.rows, step):
        until = min(row + step, rows.rows)
        out[:, row:until] = x @ finite(source.read_rows(rows, row, until), rows.tensor, row, until).T
    if source.spec.experts.bias:
        out += source.expert_bias(layer_idx, expert_idx, matrix)
    return out
