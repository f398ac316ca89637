"""Layers that differ: in heads, rope and window, without a part, with a recurrence in place of attention."""

from __future__ import annotations

from dataclasses import replace

import pytest
from random_weights import RandomWeights
from specs import layer, model_spec
from state_dict_weights import logits_in_chunks, relative_error
from trunk_bundles import FakeQuantised, write_trunk

from edge_runtime.backends.cpu.trunk.kv_cache import HostKVCache
from edge_runtime.backends.cpu.trunk.ort import OrtTrunk
from edge_runtime.backends.cpu.trunk.reference import ReferenceTrunk
from edge_runtime.backends.cpu.trunk.supported import require_supported
from edge_runtime.base.spec import LayerSpec, LinearAttention, MlpSpec, ModelSpec, RopeSpec
from hobbit_export.trunk.linear import Precision

CHUNKS = (7, 1, 20, 1, 1, 70)


def mixed() -> ModelSpec:
    """Five layers, no two alike."""
    spec = model_spec(layer(), layer(window=9), hidden=64, num_heads=4, num_kv_heads=2, qk_norm="per_head")
    full, sliding = (one.attention for one in spec.layers)
    wide = replace(sliding, num_heads=2, num_kv_heads=1, head_dim=48, rope=RopeSpec("linear", 500.0, 12, {"factor": 2}))
    return replace(spec, layers=[
        LayerSpec(None), LayerSpec(full, sparse=False), LayerSpec(wide), LayerSpec(None, sparse=False, dense=MlpSpec(40)),
        LayerSpec(replace(full, qk_norm="full", qkv_bias=True)),
    ])  # fmt: skip


def recurrent() -> ModelSpec:
    """Gated DeltaNet with one and with several values a key, with and without a convolution, and gated attention."""
    spec = model_spec(layer(), hidden=64, num_heads=4, num_kv_heads=2, head_dim=32, qk_norm="per_head")
    full = replace(spec.attention, output_gate=True, rope=RopeSpec("default", 1e4, 8))
    first = LinearAttention("linear", "gated_delta", 2, 6, 16, 24, kernel=4)
    second = LinearAttention("linear", "gated_delta", 3, 3, 32, 16, kernel=1)
    bare = replace(full, rope=None, qkv_bias=True)
    return replace(spec, layers=[LayerSpec(first), LayerSpec(full), LayerSpec(second), LayerSpec(bare)])


SPECS = {"mixed": mixed, "recurrent": recurrent}


@pytest.mark.parametrize("name", SPECS)
def test_graphs_equal_numpy_and_chunks_equal_one_pass(tmp_path, name) -> None:
    spec = SPECS[name]()
    require_supported(spec)
    weights = RandomWeights(spec)
    write_trunk(spec, weights, tmp_path, "fp32")
    got = logits_in_chunks(OrtTrunk(tmp_path, spec, threads=1, max_chunk=100), spec, CHUNKS)
    assert relative_error(got, logits_in_chunks(ReferenceTrunk(spec, weights), spec, CHUNKS)) < 5e-6
    whole = logits_in_chunks(OrtTrunk(tmp_path, spec, threads=1, max_chunk=100), spec, (sum(CHUNKS),))
    assert relative_error(got, whole) < 5e-6


@pytest.mark.parametrize("precision", ["int8", "int4"])
def test_quantised_graphs_compute_with_their_weights(tmp_path, precision: Precision) -> None:
    """As for families: what is left is int8 rounding of activations."""
    spec = recurrent()
    weights = RandomWeights(spec)
    write_trunk(spec, weights, tmp_path, precision)
    got = logits_in_chunks(OrtTrunk(tmp_path, spec, threads=1, max_chunk=100), spec, CHUNKS)
    same_weights = logits_in_chunks(ReferenceTrunk(spec, FakeQuantised(weights, precision)), spec, CHUNKS)
    assert relative_error(got, same_weights) < 0.03


def test_a_cache_holds_what_each_layer_keeps() -> None:
    spec = mixed()
    numbers = [2 * 2 * 16, 2 * 1 * 48, 2 * 2 * 16]  # keys and values of the three layers with attention
    assert HostKVCache.bytes_for(spec, 100) == HostKVCache.of(spec, 100).nbytes == 4 * 100 * sum(numbers)
    assert HostKVCache.bytes_for(spec, 0) == 0
