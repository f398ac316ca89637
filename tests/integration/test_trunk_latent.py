"""MLA: graphs against numpy, numpy against keys and values that are expanded, and what the cache keeps of a token."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from random_weights import RandomWeights
from specs import layer, model_spec
from state_dict_weights import logits_in_chunks, relative_error
from trunk_bundles import write_trunk

from edge_runtime.backends.cpu.trunk.kv_cache import HostKVCache
from edge_runtime.backends.cpu.trunk.oracles import latent
from edge_runtime.backends.cpu.trunk.oracles.base import LayerRun
from edge_runtime.backends.cpu.trunk.ort import OrtTrunk
from edge_runtime.backends.cpu.trunk.reference import ReferenceTrunk
from edge_runtime.base.spec import LatentAttention, LayerSpec, MlpSpec, ModelSpec, RopeSpec

CHUNKS = (7, 1, 20, 1, 1, 25)
YARN = RopeSpec(
    "yarn", 1e4, 8, {"factor": 4.0, "original_max_position_embeddings": 32, "mscale": 0.7, "mscale_all_dim": 0.5}
)
ATTENTIONS = {
    "compressed queries": LatentAttention("mla", 4, 24, 32, 16, 8, 24, RopeSpec("default", 1e4, 8)),
    "plain queries, yarn": LatentAttention("mla", 4, None, 32, 16, 8, 24, YARN, scale=0.3, norm_eps=1e-3),
    "biases, no rope": LatentAttention("mla", 2, 16, 48, 32, 8, 16, None, bias=True),
    "one head": LatentAttention("mla", 1, None, 16, 16, 4, 16, RopeSpec("default", 1e4, 4)),
    "more heads than a node takes": LatentAttention("mla", 70, None, 16, 16, 4, 16, RopeSpec("default", 1e4, 4)),
}  # fmt: skip


def model(attention: LatentAttention) -> ModelSpec:
    spec = model_spec(layer(), hidden=64)
    layers = [LayerSpec(attention, sparse=False, dense=MlpSpec(40)), LayerSpec(attention), LayerSpec(attention)]
    return replace(spec, layers=layers)


@pytest.mark.parametrize("kind", ATTENTIONS)
def test_graphs_equal_numpy_and_chunks_equal_one_pass(kind, tmp_path) -> None:
    spec = model(ATTENTIONS[kind])
    weights = RandomWeights(spec)
    write_trunk(spec, weights, tmp_path, "fp32")
    got = logits_in_chunks(OrtTrunk(tmp_path, spec, threads=1, max_chunk=64), spec, CHUNKS)
    assert relative_error(got, logits_in_chunks(ReferenceTrunk(spec, weights), spec, CHUNKS)) < 5e-6
    whole = logits_in_chunks(OrtTrunk(tmp_path, spec, threads=1, max_chunk=64), spec, (sum(CHUNKS),))
    assert relative_error(got, whole) < 5e-6


@pytest.mark.parametrize(("precision", "allowed"), [("int8", 0.05), ("int4", 0.5)])
def test_quantised_graphs_run_and_are_near(precision, allowed, tmp_path) -> None:
    spec = model(ATTENTIONS["compressed queries"])
    weights = RandomWeights(spec)
    write_trunk(spec, weights, tmp_path, precision)
    got = logits_in_chunks(OrtTrunk(tmp_path, spec, threads=1, max_chunk=64), spec, CHUNKS)
    error = relative_error(got, logits_in_chunks(ReferenceTrunk(spec, weights), spec, CHUNKS))
    print(f"{precision}: relative error {error:.4f}")
    assert 1e-5 < error < allowed


@pytest.mark.parametrize("kind", ATTENTIONS)
def test_the_compressed_form_is_attention_over_expanded_keys_and_values(kind) -> None:
    """The definition: every head has keys W_k c and the rotated key, and values W_v c."""
    spec = model(ATTENTIONS[kind])
    a, weights, rng = ATTENTIONS[kind], RandomWeights(spec), np.random.default_rng(3)
    past, x = (
        rng.normal(size=(5, a.kv_rank + a.rope_dim)).astype(np.float32),
        rng.normal(size=(3, 64)).astype(np.float32),
    )
    mask = np.where(np.arange(8) <= np.arange(5, 8)[:, None], 0, -30000).astype(np.float32)
    run = LayerRun(a, "layers.1.", weights, 1e-6, None, mask, {"latent": past[None]})
    out, new = latent.run(run, x)

    kept = np.concatenate((past, new["latent"][0]))
    states, turned = kept[:, : a.kv_rank], kept[:, a.kv_rank :]
    source, matrix = (x, "q") if a.query_rank is None else (run.linear(x, "q_a"), "q_b")
    if a.query_rank is not None:
        source = run.norm(source + run.get("q_a_bias") if a.bias else source, "q_a_norm")
    queries = run.linear(source, matrix).reshape(3, a.num_heads, -1)
    heads = []
    for h in range(a.num_heads):
        up = run.get("k_up").reshape(a.num_heads, a.kv_rank, a.nope_dim)[h]
        keys = np.concatenate((states @ up, turned), 1)
        values = states @ run.get("v_up").reshape(a.num_heads, a.value_dim, a.kv_rank)[h].T
        scores = queries[:, h] @ keys.T * a.score_scale + mask
        probs = np.exp(scores - scores.max(1, keepdims=True))
        heads.append(probs / probs.sum(1, keepdims=True) @ values)
    expected = run.linear(np.concatenate(heads, 1), "o") + (run.get("o_bias") if a.bias else 0)
    assert relative_error(out, expected) < 2e-6


def test_the_cache_keeps_the_compressed_state_and_one_key_of_a_token() -> None:
    attention = replace(ATTENTIONS["compressed queries"], num_heads=16, kv_rank=512, rope_dim=64)
    spec = model(replace(attention, rope=RopeSpec("default", 1e4, 64)))
    assert HostKVCache.bytes_for(spec, 100) == HostKVCache.of(spec, 100).nbytes == 3 * 100 * (512 + 64) * 4
