"""The native trunk against numpy and ONNX Runtime, on every instruction set; a token's bits in every kind of company."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from native_trunk_cases import CASES, logits_of, run_chunk
from random_weights import RandomWeights
from state_dict_weights import relative_error
from trunk_bundles import FakeQuantised, write_trunk

from edge_runtime.backends.cpu.kernels import DenseMatrix, DenseTrunk, Frame, Team, available_isas
from edge_runtime.backends.cpu.trunk.native.forms import model_form
from edge_runtime.backends.cpu.trunk.native.layers import LayerReader
from edge_runtime.backends.cpu.trunk.native.memory import angles, frame_bytes, scratch_bytes
from edge_runtime.backends.cpu.trunk.native.supported import why_not
from edge_runtime.backends.cpu.trunk.native.trunk import NativeTrunk
from edge_runtime.backends.cpu.trunk.ort import OrtTrunk
from edge_runtime.backends.cpu.trunk.reference import ReferenceTrunk
from edge_runtime.base.errors import BundleError, RequestError
from edge_runtime.base.spec import LinearAttention, ModelSpec
from hobbit_export.trunk.linear import LinearWriter

CHUNKS = (7, 1, 20, 1, 1, 70)
TOKENS = sum(CHUNKS)


@pytest.fixture(scope="module")
def bundle(tmp_path_factory: pytest.TempPathFactory):
    made: dict[tuple[str, str], Path] = {}

    def get(name: str, precision: str) -> Path:
        if (name, precision) not in made:
            spec = CASES[name]()
            path = made[name, precision] = tmp_path_factory.mktemp(f"{name}-{precision}")
            write_trunk(spec, RandomWeights(spec), path, precision)
        return made[name, precision]

    return get


def opened(path: Path, spec, isa: str = "auto", threads: int = 1, max_chunk: int = TOKENS) -> NativeTrunk:
    return NativeTrunk(path, spec, team=Team(threads), max_chunk=max_chunk, isa=isa)


@pytest.mark.parametrize("isa", available_isas())
@pytest.mark.parametrize("name", CASES)
def test_float32_equals_numpy(bundle, name: str, isa: str) -> None:
    spec = CASES[name]()
    assert why_not(spec) == ""
    got = logits_of(opened(bundle(name, "fp32"), spec, isa), spec, CHUNKS)
    assert relative_error(got, logits_of(ReferenceTrunk(spec, RandomWeights(spec)), spec, CHUNKS)) < 5e-6


@pytest.mark.parametrize("precision", ["int8", "int4"])
@pytest.mark.parametrize("name", CASES)
def test_codes_are_computed_as_onnx_runtime_computes_them(bundle, name: str, precision: str) -> None:
    """Both round activations to int8 in the blocks of the weights; a rounding that falls otherwise is a step of 1/127."""
    spec = CASES[name]()
    got = logits_of(opened(bundle(name, precision), spec), spec, CHUNKS)
    onnx = logits_of(OrtTrunk(bundle(name, precision), spec, threads=1, max_chunk=TOKENS), spec, CHUNKS)
    weights = FakeQuantised(RandomWeights(spec), precision)
    exact = logits_of(ReferenceTrunk(spec, weights), spec, CHUNKS)
    assert relative_error(got, exact) < 1.2 * relative_error(onnx, exact) + 1e-6


@pytest.mark.parametrize("precision", ["fp32", "int8", "int4"])
@pytest.mark.parametrize("name", CASES)
def test_a_token_has_the_same_bits_however_it_is_computed(bundle, name: str, precision: str) -> None:
    spec, path = CASES[name](), bundle(name, precision)
    expected = logits_of(opened(path, spec), spec, CHUNKS)
    for chunks in ((1,) * TOKENS, (TOKENS,), (3,) * 33 + (1,)):
        np.testing.assert_array_equal(logits_of(opened(path, spec), spec, chunks), expected)
    np.testing.assert_array_equal(logits_of(opened(path, spec, threads=3), spec, CHUNKS), expected)
    for isa in available_isas():
        np.testing.assert_array_equal(logits_of(opened(path, spec, isa), spec, CHUNKS), expected)


@pytest.mark.parametrize("name", CASES)
def test_scratch_is_what_the_plan_counts_on(bundle, name: str) -> None:
    spec = CASES[name]()
    layers = LayerReader(bundle(name, "int8"), spec, "auto").read()
    for tokens, threads in ((1, 1), (100, 3)):
        takes = DenseTrunk.scratch_bytes_for(model_form(spec), layers, threads, tokens) + frame_bytes(spec, tokens)
        planned = scratch_bytes(spec, tokens, threads)
        assert takes <= planned < 1.5 * takes + (256 << 10), "it counts on blocks of 256, the largest there are"


def test_growing_buckets_change_nothing(bundle) -> None:
    spec = CASES["plain"]()
    trunk, chunks = opened(bundle("plain", "int8"), spec, max_chunk=300), (250, 6, 1, 254, 1, 88)
    grown = logits_of(trunk, spec, chunks, context=600)
    np.testing.assert_array_equal(
        logits_of(opened(bundle("plain", "int8"), spec, max_chunk=300), spec, (300, 300), 600), grown
    )


def test_sequences_side_by_side_and_dropped_chunks_leave_no_trace(bundle) -> None:
    spec = CASES["parallel"]()
    trunk = opened(bundle("parallel", "int4"), spec)
    tokens = [np.arange(n, dtype=np.int32) for n in (5, 9, 1, 1)]
    alone, together = [trunk.new_kv_cache(64) for _ in range(2)], [trunk.new_kv_cache(64) for _ in range(2)]
    expected = [run_chunk(trunk, spec, kv, ids) for kv, ids in zip(alone, tokens[:2], strict=True)]
    expected += [run_chunk(trunk, spec, kv, ids) for kv, ids in zip(alone, tokens[2:], strict=True)]
    dropped = trunk.begin(tokens[1], together[0])
    trunk.run_layer(dropped, 0, None)
    got = [run_chunk(trunk, spec, kv, ids) for kv, ids in zip(together, tokens[:2], strict=True)]
    chunks = [trunk.begin(ids, kv) for ids, kv in zip(tokens[2:], together, strict=True)]
    for i in range(spec.num_layers):
        for chunk in chunks:
            trunk.run_layer(chunk, i, None)
            if spec.layers[i].shared is not None:
                assert trunk.run_shared(chunk, i) is None
    assert (trunk.head(chunks[0], None, slice(None)) != trunk.head(chunks[1], None, slice(None))).any()
    got += [run_chunk(trunk, spec, kv, ids) for kv, ids in zip(together, tokens[2:], strict=True)]
    for one, other in zip(got, expected, strict=True):
        np.testing.assert_array_equal(one, other)
    with pytest.raises(RequestError, match="context"):
        trunk.begin(np.zeros(64, np.int32), together[0])


def test_looking_ahead_applies_the_coming_routers(bundle) -> None:
    spec = CASES["plain"]()
    trunk, weights = opened(bundle("plain", "int8"), spec), RandomWeights(spec)
    x = np.random.default_rng(3).standard_normal((5, spec.hidden), dtype=np.float32)
    coming = [layer for layer in spec.sparse_layers if layer > 0]
    found = trunk.look_ahead(x, 0, 2)
    expected = np.stack([x @ weights.get(f"layers.{layer}.router").T for layer in coming[:2]])
    assert relative_error(found, expected) < 1e-6
    assert trunk.look_ahead(x, spec.sparse_layers[-1], 3).shape == (0, 5, spec.num_experts)


class WithoutAttention(RandomWeights):
    """Attention, and layers without experts, change nothing in the residual stream."""

    def __init__(self, spec: ModelSpec) -> None:
        super().__init__(spec)
        for name, array in self._arrays.items():
            if name.endswith((".o", ".o_bias", ".linear_o", ".conv_out", ".conv_out_bias", ".dense_down_proj")):
                array[:] = 0
            elif name.endswith(".layer_scale") and not spec.layers[int(name.split(".")[1])].sparse:
                array[:] = 1


@pytest.mark.parametrize("tokens", [1, 5])
@pytest.mark.parametrize("name", CASES)
def test_without_attention_the_state_expected_is_the_one_that_comes(tmp_path, name: str, tokens: int) -> None:
    """Join, norms behind experts, shared experts and the coming norm are all in it, whatever the model has of these."""
    spec = CASES[name]()
    write_trunk(spec, WithoutAttention(spec), tmp_path, "fp32")
    trunk, rng = opened(tmp_path, spec), np.random.default_rng(4)
    chunk = trunk.begin(rng.integers(0, spec.vocab_size, tokens).astype(np.int32), trunk.new_kv_cache(16))
    first = trunk.expected_states.first_state(chunk).copy()
    expert_out, expected = None, first if spec.sparse_layers[0] == 0 else None
    for i, one in enumerate(spec.layers):
        out = trunk.run_layer(chunk, i, expert_out)
        expert_out = None
        if out is None:
            continue
        if expected is not None:
            assert relative_error(expected, out.seen) < 1e-5
        expert_out = rng.standard_normal((tokens, spec.hidden), dtype=np.float32)
        more = None if one.shared is None else trunk.run_shared(chunk, i)
        expert_out = expert_out if more is None else expert_out + more
        if i != spec.sparse_layers[-1]:
            expected = trunk.expected_states.expected_state(chunk, i, expert_out).copy()


def test_what_the_kernels_do_not_know_is_named() -> None:
    spec = CASES["plain"]()
    odd = replace(spec.layers[0], attention=replace(spec.layers[0].attention, qk_norm="by_moonlight"))
    assert why_not(replace(spec, layers=[odd, *spec.layers[1:]])) == "layer 0: attention with qk_norm 'by_moonlight'"
    linear = LinearAttention("linear", "gated_delta", 2, 2, 16, 16, kernel=4)
    odd = replace(spec.layers[0], attention=replace(linear, rule="next_year"))
    assert why_not(replace(spec, layers=[odd, *spec.layers[1:]])) == "layer 0: attention with rule 'next_year'"


@pytest.mark.parametrize("chunks", [(40,), (13, 27), (1,) * 40])
def test_states_within_a_chunk_are_kept_where_they_are_wanted(bundle, chunks: tuple[int, ...]) -> None:
    """Going back to a snapshot and on again gives the bits of never having gone on."""
    spec = CASES["recurrent"]()
    trunk = opened(bundle("recurrent", "int8"), spec)
    tokens = np.random.default_rng(5).integers(0, spec.vocab_size, 50).astype(np.int32)
    straight = trunk.new_kv_cache(64)
    run_chunk(trunk, spec, straight, tokens[:17])
    expected = run_chunk(trunk, spec, straight, tokens[40:])
    kv = trunk.new_kv_cache(64)
    kv.want([2, 17])
    start = 0
    for length in chunks:
        run_chunk(trunk, spec, kv, tokens[start : start + length])
        start += length
    assert [kv.nearest(n) for n in (1, 2, 17, 40)] == [0, 2, 17, 40]
    kv.truncate(17)
    np.testing.assert_array_equal(run_chunk(trunk, spec, kv, tokens[40:]), expected)


def test_a_pass_that_fails_leaves_the_states_before_it(bundle) -> None:
    spec = CASES["recurrent"]()
    trunk = opened(bundle("recurrent", "fp32"), spec)
    kv, tokens = trunk.new_kv_cache(32), np.arange(9, dtype=np.int32)
    run_chunk(trunk, spec, kv, tokens[:5])
    dropped = trunk.begin(tokens[5:], kv)
    trunk.run_layer(dropped, 0, None)
    trunk.run_shared(dropped, 0)
    trunk.run_layer(dropped, 1, None)
    again = run_chunk(trunk, spec, kv, tokens[5:])
    fresh = trunk.new_kv_cache(32)
    run_chunk(trunk, spec, fresh, tokens[:5])
    np.testing.assert_array_equal(again, run_chunk(trunk, spec, fresh, tokens[5:]))


def test_a_graph_of_another_model_is_refused(bundle) -> None:
    with pytest.raises(BundleError, match="trunk/"):
        opened(bundle("plain", "fp32"), CASES["parallel"]())


def test_values_that_are_not_finite_show(bundle) -> None:
    spec = CASES["plain"]()
    trunk = opened(bundle("plain", "int8"), spec)
    chunk = trunk.begin(np.array([3], np.int32), trunk.new_kv_cache(8))
    trunk.run_layer(chunk, 0, None)
    trunk.run_shared(chunk, 0)
    bad = np.full((1, spec.hidden), np.nan, np.float32)
    for i in range(1, spec.num_layers):
        trunk.run_layer(chunk, i, bad if i == 1 else None)
    assert np.isnan(trunk.head(chunk, None, slice(None))).all()


def test_a_router_of_codes_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The exporter keeps routers in float32; nobody quantises what they are applied to."""
    product, spec = LinearWriter.product, CASES["plain"]()
    monkeypatch.setattr(LinearWriter, "product", lambda self, x, matrix, exact=False: product(self, x, matrix))
    write_trunk(spec, RandomWeights(spec), tmp_path, "int8")
    with pytest.raises(BundleError, match=r"trunk/layer_000\.onnx: expected a tensor 'layers\.0\.router'"):
        opened(tmp_path, spec)


def test_calls_beyond_what_was_made_room_for_are_refused(bundle) -> None:
    spec = CASES["plain"]()
    layers = LayerReader(bundle("plain", "fp32"), spec, "auto").read()
    native = DenseTrunk(model_form(spec), layers, Team(1), "auto", 4)
    frame = Frame(8, spec.hidden, spec.num_experts, False, angles(spec))
    frame.begin(8, 0)
    with pytest.raises(ValueError, match="frame: expected at most 4 tokens, got 8"):
        native.run_layer(0, frame, None)
    frame.begin(4, 0)
    logits = np.empty((2, spec.vocab_size), np.float32)
    for first in (3, 2**64 - 1):
        with pytest.raises(ValueError, match="head: rows beyond the chunk"):
            native.head(frame, None, first, logits)
    frame.set_caches(np.full((spec.num_layers, 2), logits.ctypes.data, np.uint64), 8)
    frame.begin(4, 2**64 - 2)
    with pytest.raises(ValueError, match="frame: the cache is full"):
        native.run_layer(0, frame, None)
    layers[0].put_matrix("router", DenseMatrix(spec.num_experts, spec.hidden, 8, 32))
    with pytest.raises(ValueError, match="layer: router: expected floats"):
        DenseTrunk(model_form(spec), layers, Team(1), "auto", 4)
