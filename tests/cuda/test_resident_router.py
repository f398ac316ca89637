"""Whole layers routed on the fake GPU: as the host's rule and the same kernels give them."""

from __future__ import annotations

from dataclasses import replace
from typing import cast

import numpy as np
import pytest
from cuda.bench import Bench
from cuda.test_experts import EXPERTS, HIDDEN, SPEC, TOP_K, Both

from edge_runtime.backends.cuda.resident_router import CudaResidentRouter
from edge_runtime.backends.cuda.structures import RouterTensors
from edge_runtime.backends.cuda.tensors import DeviceTensor
from edge_runtime.backends.kernels import ResidentRouter
from edge_runtime.base.spec import RouterSpec
from edge_runtime.policy.routing_reference import route

RULE = RouterSpec(EXPERTS, TOP_K, normalise=True)
BIASED = replace(RULE, score="sigmoid", selection_bias=True)
RULES = {
    "plain": RULE,
    "sigmoid, bias for the choice": BIASED,
    "bias of the logits (gpt-oss)": replace(RULE, normalise=False, softmax_over="chosen", logit_bias=True),
    "bias for the choice, a floor (ERNIE 4.5)": replace(RULE, selection_bias=True, norm_floor=0.7),
    "sparsemixer (Phi-3.5-MoE)": replace(RULE, normalise=False, softmax_over="near", near=0.5),
}


def logits_and_x(tokens: int, seed: int) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(seed)
    logits = 2 * rng.standard_normal((tokens, EXPERTS))
    return logits.astype(np.float32), rng.standard_normal((tokens, HIDDEN)).astype(np.float32)


@pytest.mark.parametrize("mode", [(0, 1), (1, 1), (1, 2)])
@pytest.mark.parametrize("tokens", [1, 5])
def test_layers_are_routed_and_computed_without_the_host(bench: Bench, tokens: int, mode: tuple[int, int]):
    bench.fake.fake_mode(*mode)
    both = Both(bench, SPEC, 4)
    bias = np.random.default_rng(9).standard_normal(EXPERTS).astype(np.float32)
    address, resident, routers = bench.put(bias), both.resident(), {}
    for name, rule in RULES.items():
        has = {field: address for field in ("logit_bias", "selection_bias") if getattr(rule, field)}
        tensors = dict.fromkeys(range(20), RouterTensors(**has)) if has else {}
        routers[name] = CudaResidentRouter(bench.module, bench.stream, both.kernels, rule, tensors)
    plain, uses, wanted_uses = routers["plain"], [], []
    for layer, name in enumerate(["plain", "plain", *RULES]):
        rule, on = RULES[name], cast("ResidentRouter[DeviceTensor]", routers[name])
        logits, x = logits_and_x(tokens, layer)
        got = both.read(on.run(layer, both.tensor(x), both.tensor(logits), resident))
        ids, weights = route(
            rule, logits + bias * rule.logit_bias, selection_bias=bias if rule.selection_bias else None
        )
        want = both.read(both.kernels.run_resident(both.tensor(x), ids, weights.astype(np.float32), resident))
        np.testing.assert_allclose(got, want, rtol=1e-5, atol=1e-5 * np.abs(want).max())
        wanted_uses.append((layer, np.unique(ids).tolist()))
    for on_device in routers.values():
        uses += [(layer, used.tolist()) for layer, used in on_device.take_uses()]
        assert on_device.take_uses() == []
    assert uses == sorted(wanted_uses)
    before = bench.fake.fake_live_regions()
    logits, x = logits_and_x(tokens, 7)
    tensor, scores = both.tensor(x), both.tensor(logits)
    plain.run(0, tensor, scores, resident)
    assert bench.fake.fake_live_regions() == before + 2, "what earlier layers used is used again"
    for each in (*routers.values(), both.kernels):
        each.close()


def test_a_number_that_is_not_finite_shows(bench: Bench):
    both = Both(bench, SPEC, 4)
    router = CudaResidentRouter(bench.module, bench.stream, both.kernels, RULE, {})
    logits, x = logits_and_x(2, 1)
    logits[1, 2] = np.inf
    got = both.read(router.run(0, both.tensor(x), both.tensor(logits), both.resident()))
    assert np.isfinite(got[0]).all()
    assert np.isnan(got[1]).all()
    router.close()
    both.kernels.close()


def test_layers_that_choose_by_token_are_for_the_host(bench: Bench):
    both = Both(bench, SPEC, 4)
    with pytest.raises(ValueError, match="Route on the host"):
        CudaResidentRouter(bench.module, bench.stream, both.kernels, replace(RULE, hashed_layers=1), {})
    both.kernels.close()
