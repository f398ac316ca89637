"""What surrounds the experts on the device: int8 groups, the norm, the weighted sum, the router; and the self-test."""

from __future__ import annotations

import ctypes
from dataclasses import replace

import numpy as np
import pytest
from cuda.bench import Bench, act_groups

from edge_runtime.backends.cuda.launches import Norm, RouterLaunch, combine, quantize, rms_norm
from edge_runtime.backends.cuda.memory_probe.reading import Reader, WrongBytesError
from edge_runtime.backends.cuda.self_test import check_primitives, expected_outputs, make_inputs
from edge_runtime.backends.cuda.structures import ACT_GROUP, RouterTensors, make_rule
from edge_runtime.base.errors import DeviceError
from edge_runtime.base.spec import GroupSpec, RouterSpec
from edge_runtime.policy.routing_reference import route


def quantized(bench: Bench, x: np.ndarray) -> np.ndarray:
    groups = x.size // 32
    out = bench.room(ACT_GROUP, groups)
    quantize(bench.module, bench.stream, bench.put(x), out.address, groups)
    return bench.get(out, ACT_GROUP, x.shape[0], x.shape[1] // 32)


@pytest.mark.parametrize("seed", [1, 2, 3])
def test_activations_are_quantised_as_the_reference_does(bench: Bench, seed: int):
    rng = np.random.default_rng(seed)
    x = (rng.standard_t(3, (3, 288)) * 10.0 ** rng.integers(-8, 8, (3, 288))).astype(np.float32)
    x[0, :32], x[1, 32:64] = 0, 1e-31
    got, want = quantized(bench, x), act_groups(x)
    for field in ("q", "scale", "sum", "scale_sum"):
        assert np.array_equal(got[field], want[field]), field


@pytest.mark.parametrize("units", [1, 2999, 8192])
def test_memory_is_read_once_and_added_up(bench: Bench, units: int):
    words = np.random.default_rng(units).integers(0, 1 << 32, 4 * units, np.uint32)
    address, total, reader = bench.put(words), int(words.sum(dtype=np.uint32)), Reader(bench.module, bench.stream)
    assert reader.rate(address, words.nbytes, total) > 0
    with pytest.raises(WrongBytesError):
        reader.rate(address, words.nbytes, total ^ 1)
    reader.close()


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_a_number_that_is_not_finite_makes_its_group_nan_and_no_other(bench: Bench, value: float):
    x = np.ones((1, 96), np.float32)
    x[0, 40] = value
    got = quantized(bench, x)[0]
    assert np.isnan(got["scale"]).tolist() == [False, True, False]
    assert np.isnan(got["scale_sum"]).tolist() == [False, True, False]
    assert not got["q"][1].any()


@pytest.mark.parametrize(("tokens", "hidden"), [(1, 32), (2, 96), (3, 288), (2, 1056)])
def test_the_norm_agrees_with_float64(bench: Bench, tokens: int, hidden: int):
    rng = np.random.default_rng(hidden)
    x, weight = rng.standard_normal((tokens, hidden)).astype(np.float32), rng.random(hidden).astype(np.float32)
    out, groups = bench.room(np.float32, tokens, hidden), bench.room(ACT_GROUP, tokens, hidden // 32)
    norm = Norm(bench.put(weight), 1e-6, out.address, groups.address)
    rms_norm(bench.module, bench.stream, bench.put(x), norm, (tokens, hidden))
    got = bench.get(out, np.float32, tokens, hidden)
    wide = x.astype(np.float64)
    want = wide / np.sqrt((wide**2).mean(1, keepdims=True) + 1e-6) * weight
    np.testing.assert_allclose(got, want, rtol=2e-6, atol=1e-9)
    assert np.array_equal(bench.get(groups, ACT_GROUP, tokens, hidden // 32)["q"], act_groups(got)["q"])


@pytest.mark.parametrize(("tokens", "top_k", "hidden"), [(1, 8, 32), (3, 2, 288), (2, 1, 512)])
def test_outputs_are_added_up_and_a_weight_of_zero_leaves_its_pair_out(
    bench: Bench, tokens: int, top_k: int, hidden: int
):
    rng = np.random.default_rng(top_k)
    y = rng.standard_normal((tokens, top_k, hidden)).astype(np.float32)
    weights = rng.random((tokens, top_k)).astype(np.float32)
    if top_k > 1:
        weights[0, 1], y[0, 1] = 0, np.nan  # nothing was computed for it
    out = bench.room(np.float32, tokens, hidden)
    combine(bench.module, bench.stream, bench.put(y), bench.put(weights), out.address, (tokens, top_k, hidden))
    got = bench.get(out, np.float32, tokens, hidden)
    want = np.einsum("tk,tkd->td", weights.astype(np.float64), np.nan_to_num(y).astype(np.float64))
    np.testing.assert_allclose(got, want, rtol=1e-5, atol=1e-6)


SPEC = RouterSpec(num_experts=48, top_k=6)
ROUTERS = {
    "softmax": SPEC,
    "softmax, normalised": replace(SPEC, normalise=True),
    "softmax over the chosen": replace(SPEC, softmax_over="chosen"),
    "softmax, scaled, normalised with epsilon": replace(SPEC, normalise=True, norm_epsilon=1e-3, scale=2.5),
    "sigmoid": replace(SPEC, score="sigmoid", normalise=True, norm_epsilon=1e-20, scale=2.446),
    "sigmoid, bias for the choice": replace(SPEC, score="sigmoid", selection_bias=True),
    "groups by best": replace(SPEC, groups=GroupSpec(6, 3)),
    "groups by two best, bias": replace(
        SPEC, score="sigmoid", selection_bias=True, normalise=True, groups=GroupSpec(8, 4, "top2_sum")
    ),
    "sqrt(softplus), bias": replace(SPEC, score="sqrt_softplus", selection_bias=True, normalise=True),
    "softmax over the chosen, bias of the logits": replace(SPEC, softmax_over="chosen", logit_bias=True),
    "softmax, bias for the choice, a floor": replace(SPEC, selection_bias=True, normalise=True, norm_floor=0.3),
    "softmax, normalised, a floor": replace(SPEC, normalise=True, norm_floor=0.8),
    "sigmoid, a floor and epsilon": replace(SPEC, score="sigmoid", normalise=True, norm_floor=1, norm_epsilon=1e-3),
    "sparsemixer": replace(SPEC, top_k=2, softmax_over="near", near=0.02),
    "sparsemixer, many are near": replace(SPEC, softmax_over="near", near=0.5, logit_bias=True),
    "sparsemixer, all are near": RouterSpec(num_experts=1000, top_k=32, softmax_over="near", near=2.0),
    "factors of experts": replace(SPEC, softmax_over="chosen", expert_scale=True),
    "hashed": replace(SPEC, hashed_layers=1, normalise=True),
    "one expert a token": replace(SPEC, top_k=1),
    "as many as there are": RouterSpec(num_experts=5, top_k=5, normalise=True),
    "many": RouterSpec(num_experts=1000, top_k=32, normalise=True),
}


def routed(bench: Bench, spec: RouterSpec, logits: np.ndarray, arrays: dict[str, np.ndarray]) -> tuple:
    tokens = len(logits)
    ids, weights = bench.room(np.int32, tokens, spec.top_k), bench.room(np.float32, tokens, spec.top_k)
    table = arrays.get("table_rows")
    tensors = RouterTensors(
        **{name: bench.put(array) for name, array in arrays.items() if name != "table_rows"},
        table=bench.put(table[::-1]) if table is not None else 0,
        token_ids=bench.put(np.arange(tokens, dtype=np.int32)[::-1]) if table is not None else 0,
    )
    launch = RouterLaunch(bench.module, spec)
    launch.run(bench.stream, bench.put(logits), tensors, (ids.address, weights.address), tokens)
    return bench.get(ids, np.int32, tokens, spec.top_k), bench.get(weights, np.float32, tokens, spec.top_k)


def arrays_of(spec: RouterSpec, tokens: int, seed: int) -> dict[str, np.ndarray]:
    rng, found = np.random.default_rng(seed), {}
    if spec.logit_bias:
        found["logit_bias"] = rng.standard_normal(spec.num_experts).astype(np.float32)
    if spec.selection_bias:
        found["selection_bias"] = (0.3 * rng.standard_normal(spec.num_experts)).astype(np.float32)
    if spec.expert_scale:
        found["expert_scale"] = rng.standard_normal(spec.num_experts).astype(np.float32)
    if spec.hashed_layers:
        rows = [rng.permutation(spec.num_experts)[: spec.top_k] for _ in range(tokens)]
        found["table_rows"] = np.array(rows, np.int32)
    return found


@pytest.mark.parametrize("seed", [1, 2, 3])
@pytest.mark.parametrize("name", ROUTERS)
def test_routing_agrees_with_the_reference(bench: Bench, name: str, seed: int):
    bench.fake.shim_seed(seed)
    spec, tokens = ROUTERS[name], 3
    logits = (2 * np.random.default_rng(seed).standard_normal((tokens, spec.num_experts))).astype(np.float32)
    arrays = arrays_of(spec, tokens, seed)
    got_ids, got = routed(bench, spec, logits, arrays)
    want_ids, want = route(spec, logits + arrays.pop("logit_bias", np.float32(0)), **arrays)
    assert np.array_equal(got_ids, want_ids)
    np.testing.assert_allclose(got, want, rtol=3e-6, atol=1e-9)


@pytest.mark.parametrize("spread", [0.0, 0.001, 1.0])
@pytest.mark.parametrize("shift", [-3.0, 0.0, 3.0])
def test_sparsemixer_weighs_among_rivals_as_the_reference_does(bench: Bench, shift: float, spread: float):
    """Below 0 the distance counts in the rival's own size; of equal logits the lower number goes first; 0 of 0 is near."""
    spec = replace(SPEC, top_k=4, softmax_over="near", near=0.02)
    logits = np.random.default_rng(5).standard_normal((3, 48)).astype(np.float32) * np.float32(spread)
    logits = np.round(logits, 3) + np.float32(shift)  # some are equal
    got_ids, got = routed(bench, spec, logits, {})
    want_ids, want = route(spec, logits)
    assert np.array_equal(got_ids, want_ids)
    np.testing.assert_allclose(got, want, rtol=3e-6)


def test_equal_logits_are_taken_by_number(bench: Bench):
    logits = np.zeros((1, 48), np.float32)
    logits[0, [40, 7]] = 1
    ids, weights = routed(bench, ROUTERS["softmax, normalised"], logits, {})
    assert ids.tolist() == [[7, 40, 0, 1, 2, 3]]
    assert weights[0, 0] == weights[0, 1] > weights[0, 2] == weights[0, 5]


def test_a_logit_that_is_not_finite_shows_in_the_weights_of_its_token_alone(bench: Bench):
    logits = np.random.default_rng(3).standard_normal((3, 48)).astype(np.float32)
    logits[1, 20] = np.nan
    ids, weights = routed(
        bench, ROUTERS["groups by two best, bias"], logits, arrays_of(ROUTERS["groups by two best, bias"], 3, 1)
    )
    assert np.isnan(weights).all(axis=1).tolist() == [False, True, False]
    assert np.isfinite(weights[[0, 2]]).all()
    assert all(len(set(row)) == 6 and set(row) <= set(range(48)) for row in ids.tolist())


def test_logits_so_far_apart_that_others_vanish(bench: Bench):
    """Weights are a softmax over the chosen, even where a bias keeps the greatest logit out."""
    spec = replace(SPEC, normalise=True, selection_bias=True)
    logits = np.full((1, 48), -100.0, np.float32)
    logits[0, 0], logits[0, 1:7] = 100, np.arange(6)
    bias = np.zeros(48, np.float32)
    bias[0], bias[1:7] = -2, np.arange(6)
    ids, weights = routed(bench, spec, logits, {"selection_bias": bias})
    assert ids.tolist() == [[6, 5, 4, 3, 2, 1]]
    odds = np.exp(np.arange(5, -1, -1.0))
    np.testing.assert_allclose(weights[0], odds / odds.sum(), rtol=1e-6)


@pytest.mark.parametrize("spec", [RouterSpec(2000, 4), RouterSpec(64, 33)])
def test_routers_larger_than_a_warp_takes_are_refused(spec: RouterSpec):
    with pytest.raises(ValueError, match="Route on the host"):
        make_rule(spec)


@pytest.mark.parametrize("seed", [0, 1, 2])
def test_the_self_test_passes_on_what_emulates_the_primitives(bench: Bench, seed: int):
    check_primitives(bench.device, bench.module, seed)


@pytest.mark.parametrize(("word", "name"), [(5, "dot4_us"), (9, "mma_s8"), (13, "permute"), (14, "shuffles")])
def test_the_self_test_finds_a_device_that_computes_something_else(
    bench: Bench, monkeypatch: pytest.MonkeyPatch, word: int, name: str
):
    """The device is given other inputs than the host believes: as if its instruction gave another result."""
    wrong = make_inputs(0)
    wrong[:, word] ^= 0x01010101
    assert (expected_outputs(wrong) != expected_outputs(make_inputs(0))).any()
    right = expected_outputs(make_inputs(0))
    monkeypatch.setattr("edge_runtime.backends.cuda.self_test.make_inputs", lambda seed: wrong)
    monkeypatch.setattr("edge_runtime.backends.cuda.self_test.expected_outputs", lambda words: right)
    with pytest.raises(DeviceError, match=rf"{name}.* gives 0x[0-9a-f]+ in lane \d+, expected"):
        check_primitives(bench.device, bench.module)


def test_structures_have_the_sizes_the_kernels_take(bench: Bench):
    from edge_runtime.backends.cuda import structures as s

    address, number = ctypes.c_uint64, ctypes.c_uint32
    arguments = {
        "hb_gate_up_4": (s.Pairs, address, address, s.Shape, s.Variant),
        "hb_down_16": (s.Pairs, address, address, s.Shape),
        "hb_batch_gate_up_8": (s.Tiles, address, address, s.Shape, s.Variant),
        "hb_batch_down_2": (s.Tiles, address, address, s.Shape),
        "hb_quantize": (address, address, number),
        "hb_rms_norm": (address, address, ctypes.c_float, address, address, number),
        "hb_combine": (address, address, address, number, number),
        "hb_read": (address, number, address),
        "hb_route": (address, s.RouterRule, s.RouterTensors, address, address),
    }
    for name, types in arguments.items():
        sizes = (ctypes.c_size_t * 16)()
        count = bench.fake.fake_argument_sizes(name.encode(), sizes)
        assert list(sizes[:count]) == [ctypes.sizeof(t) for t in types], name
