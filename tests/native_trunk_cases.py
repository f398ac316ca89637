"""Models that have every option the native trunk computes, and a trunk run over chunks."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
from specs import layer, model_spec
from state_dict_weights import synthetic_experts

from edge_runtime.backends.trunk import KVCache, Trunk
from edge_runtime.base.arrays import F32, I32
from edge_runtime.base.spec import (
    LatentAttention,
    LayerSpec,
    LinearAttention,
    MlpSpec,
    ModelSpec,
    RopeSpec,
    SharedSpec,
    ShortConvolution,
)


def plain() -> ModelSpec:
    """Attention as most models have it: shared experts, a dense layer, layers without a part."""
    spec = model_spec(
        layer(shared=40), layer(window=9, dense=72), layer(), hidden=64, num_heads=4, num_kv_heads=2,
        qk_norm="per_head", shared_gate=True, vocab_size=97,
    )  # fmt: skip
    full = spec.attention
    return replace(spec, layers=[
        *spec.layers, LayerSpec(None), LayerSpec(full, sparse=False),
        LayerSpec(replace(full, num_heads=2, num_kv_heads=1, head_dim=44, rope=RopeSpec("linear", 500.0, 12, {"factor": 2}))),
        LayerSpec(None, sparse=False, dense=MlpSpec(40, gated=False, activation="relu2")),
    ])  # fmt: skip


def options() -> ModelSpec:
    """What one family or another adds to attention, and LayerNorm."""
    spec = model_spec(
        layer(), layer(window=40), hidden=96, num_heads=6, num_kv_heads=2, head_dim=16, qkv_bias=True, o_bias=True,
        norm="layer", head_bias=True, residual_scale=0.5, logit_scale=0.25, logit_softcap=3.0, vocab_size=80,
    )  # fmt: skip
    full, sliding = (one.attention for one in spec.layers)
    return replace(spec, layers=[
        LayerSpec(replace(sliding, sinks=True)),
        LayerSpec(replace(full, qk_norm="full", clip_qkv=1.5)),
        LayerSpec(replace(full, output_gate=True, rope=RopeSpec("default", 1e4, 8), qk_norm="per_head_rotated")),
        LayerSpec(replace(full, rope=None, scale=0.3, sinks=True)),
        LayerSpec(replace(full, rope=RopeSpec("default", 1e4, 12, pairs=True), output_gate=True)),
    ])  # fmt: skip


def parallel() -> ModelSpec:
    """Networks in parallel with experts, norms behind everything, scaled layers, a router with a norm of its own."""
    spec = model_spec(layer(), layer(window=12), hidden=64, num_heads=4, num_kv_heads=2, embedding_scale=8.0)
    full, sliding = (replace(one.attention, qk_norm="per_head", value_norm=True) for one in spec.layers)
    beside = SharedSpec(MlpSpec(56, activation="gelu_tanh"), parallel=True)
    dense = LayerSpec(sliding, sparse=False, dense=MlpSpec(48, activation="gelu_tanh"), output_norms=True, scaled=True)
    return replace(spec, router=replace(spec.router, norm_scale=0.125), layers=[
        LayerSpec(sliding, shared=beside, output_norms=True, scaled=True), dense,
        LayerSpec(replace(full, shared_kv=True, num_kv_heads=1, head_dim=32), shared=beside, output_norms=True, scaled=True),
    ])  # fmt: skip


def recurrent() -> ModelSpec:
    """Every recurrence, with states of widths that fill vectors and that do not, and attention between them."""
    spec = model_spec(layer(shared=40), layer(dense=72), hidden=64, num_heads=4, num_kv_heads=2, vocab_size=97)
    full = spec.attention
    delta = LinearAttention("linear", "gated_delta", 2, 4, 24, 80, kernel=4)
    return replace(spec, layers=[
        replace(spec.layers[0], attention=delta),
        LayerSpec(replace(delta, num_key_heads=3, num_value_heads=3, key_dim=16, value_dim=20, kernel=1), output_norms=True),
        LayerSpec(full),
        replace(spec.layers[1], attention=LinearAttention("linear", "kimi_delta", 3, 3, 36, 36, kernel=3)),
        LayerSpec(LinearAttention("linear", "mamba2", 2, 6, 32, 16, kernel=4, conv_bias=True)),
        LayerSpec(LinearAttention("linear", "mamba2", 1, 2, 16, 68, kernel=2)),
        LayerSpec(ShortConvolution("convolution", kernel=3)),
        LayerSpec(ShortConvolution("convolution", kernel=1, bias=True), sparse=False),
    ])  # fmt: skip


def latent() -> ModelSpec:
    """MLA with queries compressed or not, rotated or not, biases, a scale and an eps of its own, beside a recurrence."""
    spec = model_spec(layer(shared=40), layer(dense=72), hidden=64, num_heads=4, num_kv_heads=2, vocab_size=97)
    pairs = RopeSpec("default", 1e4, 16, pairs=True)
    mla = LatentAttention("mla", 5, None, kv_rank=48, nope_dim=24, rope_dim=16, value_dim=20, rope=pairs)
    return replace(spec, layers=[
        replace(spec.layers[0], attention=mla),
        replace(spec.layers[1], attention=replace(mla, query_rank=40, rope=None, norm_eps=1e-3)),
        LayerSpec(replace(mla, num_heads=34, query_rank=32, bias=True, scale=0.2), output_norms=True),
        LayerSpec(LinearAttention("linear", "kimi_delta", 2, 2, 16, 16, kernel=4)),
    ])  # fmt: skip


CASES = {"plain": plain, "options": options, "parallel": parallel, "recurrent": recurrent, "latent": latent}


def run_chunk(trunk: Trunk, spec: ModelSpec, kv: KVCache, tokens: I32) -> F32:
    """Run a chunk with a stand-in for experts; return the logits of all its tokens."""
    chunk, expert_out = trunk.begin(tokens, kv), None
    for i, one in enumerate(spec.layers):
        out = trunk.run_layer(chunk, i, expert_out)
        expert_out = None
        if out is not None:
            expert_out = synthetic_experts(i, out.x, out.router_logits)
            more = None if one.shared is None else trunk.run_shared(chunk, i)
            expert_out = expert_out if more is None else expert_out + more
    logits = trunk.head(chunk, expert_out, slice(None))
    trunk.commit(chunk)
    return logits


def logits_of(trunk: Trunk, spec: ModelSpec, chunks: Sequence[int], context: int = 300) -> F32:
    """Run random tokens, always the same ones, over a cache whose slots hold garbage; close the trunk."""
    tokens = np.random.default_rng(1).integers(0, spec.vocab_size, sum(chunks)).astype(np.int32)
    kv, start, rows = trunk.new_kv_cache(context), 0, []
    for i in range(spec.num_layers):
        for past in kv.past(i):
            past[:] = np.float32(7 + i)
    for length in chunks:
        rows.append(run_chunk(trunk, spec, kv, tokens[start : start + length]))
        start += length
    trunk.close()
    return np.concatenate(rows)
