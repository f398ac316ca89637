"""Kimi Delta Attention: graphs against numpy for every way to cut a text, also where a gate forgets all at once."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from random_weights import RandomWeights
from specs import layer, model_spec
from state_dict_weights import relative_error, run_chunk, synthetic_experts
from trunk_bundles import write_trunk

from edge_runtime.backends.cpu.trunk.ort import OrtTrunk
from edge_runtime.backends.cpu.trunk.reference import ReferenceTrunk
from edge_runtime.backends.cpu.trunk.supported import require_supported
from edge_runtime.backends.trunk import Trunk
from edge_runtime.base.arrays import F32
from edge_runtime.base.errors import ConfigError
from edge_runtime.base.spec import LatentAttention, LayerSpec, LinearAttention, MlpSpec, ModelSpec

CHUNKS = (7, 1, 40, 1, 1, 25)
KDA = LinearAttention("linear", "kimi_delta", 3, 3, 16, 16, kernel=4)
MLA = LatentAttention("mla", 2, None, 32, 16, 8, 16, None)


class ForgetfulWeights(RandomWeights):
    """Gates that forget next to everything, and some next to nothing."""

    def get(self, name: str) -> F32:
        values = super().get(name)
        return values * np.float32(6) if name.endswith(("dt_bias", "a_log")) else values


def model(attention: LinearAttention) -> ModelSpec:
    spec = model_spec(layer(), hidden=64)
    return replace(
        spec, layers=[LayerSpec(attention, sparse=False, dense=MlpSpec(40)), LayerSpec(attention), LayerSpec(MLA)]
    )


def logits(trunk: Trunk, spec: ModelSpec, chunks: tuple[int, ...]) -> F32:
    tokens = np.random.default_rng(1).integers(0, spec.vocab_size, sum(CHUNKS)).astype(np.int32)
    kv, start, rows = trunk.new_kv_cache(300), 0, []
    for length in chunks:
        rows.append(run_chunk(trunk, spec, kv, tokens[start : start + length], synthetic_experts))
        start += length
    trunk.close()
    return np.concatenate(rows)


@pytest.mark.parametrize("weights", [RandomWeights, ForgetfulWeights])
@pytest.mark.parametrize("kernel", [1, 4])
def test_graphs_equal_numpy_and_chunks_equal_one_pass(kernel, weights, tmp_path) -> None:
    spec = model(replace(KDA, kernel=kernel))
    source = weights(spec)
    write_trunk(spec, source, tmp_path, "fp32")
    got = logits(OrtTrunk(tmp_path, spec, threads=1, max_chunk=80), spec, CHUNKS)
    assert np.isfinite(got).all()
    assert relative_error(got, logits(ReferenceTrunk(spec, source), spec, CHUNKS)) < 1e-5
    whole = logits(OrtTrunk(tmp_path, spec, threads=1, max_chunk=80), spec, (sum(CHUNKS),))
    assert relative_error(got, whole) < 1e-5


def test_quantised_graphs_run_and_are_near(tmp_path) -> None:
    spec = model(KDA)
    weights = RandomWeights(spec)
    write_trunk(spec, weights, tmp_path, "int8")
    got = logits(OrtTrunk(tmp_path, spec, threads=1, max_chunk=80), spec, CHUNKS)
    error = relative_error(got, logits(ReferenceTrunk(spec, weights), spec, CHUNKS))
    print(f"int8: relative error {error:.4f}")
    assert 1e-5 < error < 0.05


@pytest.mark.parametrize("change", [{"conv_bias": True}, {"value_dim": 32}, {"num_value_heads": 6}])
def test_forms_the_family_has_not_are_refused_by_name(change) -> None:
    with pytest.raises(ConfigError, match="layer 0: Kimi Delta Attention"):
        require_supported(model(replace(KDA, **change)))
