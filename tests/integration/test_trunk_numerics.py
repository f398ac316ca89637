"""The ONNX Runtime trunk against plain numpy and transformers: every family, option and precision."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from state_dict_weights import (
    STATE_DICT_CASES,
    ExpertsFunction,
    TrunkCase,
    relative_error,
    run_chunk,
    synthetic_experts,
)
from trunk_bundles import FakeQuantised, TrunkBundles

from edge_runtime.backends.cpu.trunk.ort import OrtTrunk
from edge_runtime.backends.cpu.trunk.reference import ReferenceTrunk
from edge_runtime.backends.trunk import Trunk
from edge_runtime.base.arrays import F32, I32

pytestmark = pytest.mark.oracle  # random models are made by transformers

CHUNKS = (7, 1, 20, 1, 1, 25)  # 55 tokens: beyond every sliding window and beyond the dynamic case's 32 positions


@pytest.fixture(scope="module")
def bundles(tmp_path_factory: pytest.TempPathFactory) -> TrunkBundles:
    return TrunkBundles(tmp_path_factory.mktemp("trunks"))


def _open(path: Path, case: TrunkCase) -> OrtTrunk:
    return OrtTrunk(path, case.spec, threads=1, max_chunk=32)


def _tokens(case: TrunkCase) -> I32:
    return np.random.default_rng(1).integers(0, case.spec.vocab_size, sum(CHUNKS)).astype(np.int32)


def _logits(trunk: Trunk, case: TrunkCase, experts_of: ExpertsFunction, chunks: tuple[int, ...] = CHUNKS) -> F32:
    """Run the chunks over a cache whose unused slots hold garbage."""
    kv, tokens, start, logits = trunk.new_kv_cache(300), _tokens(case), 0, []
    for layer_idx in range(case.spec.num_layers):
        for past in kv.past(layer_idx):
            past[:] = np.float32(7 + layer_idx)
    for length in chunks:
        logits.append(run_chunk(trunk, case.spec, kv, tokens[start : start + length], experts_of))
        start += length
    trunk.close()
    return np.concatenate(logits)


@pytest.mark.parametrize("name", STATE_DICT_CASES)
def test_float32_equals_numpy_and_transformers(bundles: TrunkBundles, name: str) -> None:
    path, case = bundles.get(name, "fp32")
    got = _logits(_open(path, case), case, case.experts)
    numpy = _logits(ReferenceTrunk(case.spec, case.weights), case, case.experts)
    assert relative_error(got, numpy) < 5e-6
    assert relative_error(got, case.hf_logits(_tokens(case), CHUNKS)) < 5e-6


@pytest.mark.parametrize("name", ["mixtral_sliding_tied", "qwen2_moe_sliding", "qwen3_moe_bias_sliding"])
def test_decoding_far_beyond_the_sliding_window(bundles: TrunkBundles, name: str) -> None:
    path, case = bundles.get(name, "fp32")
    window = max(layer.window or 0 for layer in case.spec.layers)
    assert 0 < window < sum(CHUNKS) // 2
    one_by_one = _logits(_open(path, case), case, case.experts, (1,) * sum(CHUNKS))
    assert relative_error(one_by_one, case.hf_logits(_tokens(case), (sum(CHUNKS),))) < 5e-6


@pytest.mark.parametrize("precision", ["int8", "int4"])
@pytest.mark.parametrize("name", STATE_DICT_CASES)
def test_quantised_trunk_computes_with_its_weights(bundles: TrunkBundles, name: str, precision: str) -> None:
    """The rest is int8 rounding of activations, 0.7 % of a product's input; four layers and a head add up to 2.3 %."""
    path, case = bundles.get(name, precision)  # type: ignore[arg-type]
    weights = FakeQuantised(case.weights, precision)  # type: ignore[arg-type]
    got = _logits(_open(path, case), case, synthetic_experts)
    same_weights = _logits(ReferenceTrunk(case.spec, weights), case, synthetic_experts)
    assert relative_error(got, same_weights) < 0.03


@pytest.mark.parametrize(("precision", "low", "high"), [("int8", 0.001, 0.03), ("int4", 0.05, 0.35)])
def test_quantised_trunk_is_near_the_model(bundles: TrunkBundles, precision: str, low: float, high: float) -> None:
    for name in ("qwen3_moe", "qwen2_moe", "olmoe"):
        path, case = bundles.get(name, precision)  # type: ignore[arg-type]
        got = _logits(_open(path, case), case, synthetic_experts)
        exact = _logits(ReferenceTrunk(case.spec, case.weights), case, synthetic_experts)
        assert low < relative_error(got, exact) < high
