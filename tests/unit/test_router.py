"""The router's rule: the native one against numpy, every kind, every instruction set, and what policies ask of it."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from router_cases import RULES, VOCABULARY, E, K, data_for

from edge_runtime.base.spec import GroupSpec, RouterSpec
from edge_runtime.bundle.router_data import RouterData
from edge_runtime.policy import routing_reference
from edge_runtime.policy.native import Router as NativeRouter
from edge_runtime.policy.native import router_isas
from edge_runtime.policy.routing import Router

LAYERS = (1, 2, 5)


def row_of(array: np.ndarray | None, place: int) -> np.ndarray | None:
    return None if array is None else array[place]


def expected(spec: RouterSpec, data: RouterData, place: int, logits: np.ndarray, tokens: np.ndarray):
    bias = row_of(data.logit_bias, place)
    is_hashed = place < spec.hashed_layers
    return routing_reference.route(
        spec,
        logits if bias is None else logits + bias,
        selection_bias=row_of(data.selection_bias, place),
        expert_scale=row_of(data.expert_scale, place),
        table_rows=data.hashed_experts[place][tokens] if is_hashed else None,
    )


@pytest.mark.parametrize("rule", RULES)
def test_every_rule_is_that_of_the_oracle(rule):
    spec, rng = RULES[rule], np.random.default_rng(1)
    data = data_for(spec, len(LAYERS))
    router = Router(spec, LAYERS, data)
    for place, layer in enumerate(LAYERS):
        for tokens in (1, 7):
            logits = rng.normal(0, 2, (tokens, E)).astype(np.float32)
            ids = rng.integers(0, VOCABULARY, tokens).astype(np.int32)
            found = router.route(layer, logits, ids)
            chosen, weights = expected(spec, data, place, logits, ids)
            assert found.topk_ids.tolist() == chosen.tolist()
            np.testing.assert_allclose(found.topk_weights, weights, rtol=2e-6, atol=1e-30)
            assert (found.topk_ids.dtype, found.topk_weights.dtype) == (np.int32, np.float32)
            assert (found.token_ids is not None) == router.needs_tokens


@settings(max_examples=150, deadline=None)
@given(st.data())
def test_random_rules_are_those_of_the_oracle(data):
    """With random sizes. Logits and biases are multiples of 1/8, so that ties are equal in both."""
    draw = data.draw
    score = draw(st.sampled_from(["softmax", "sigmoid", "sqrt_softplus"]))
    over = draw(st.sampled_from(["all", "chosen", "near"])) if score == "softmax" else "all"
    normalise = over == "all" and draw(st.booleans())
    count, size = draw(st.integers(1, 6)), draw(st.integers(1, 6))
    top_k = draw(st.integers(1, count * size))
    groups = None
    if count > 1 and over != "near" and draw(st.booleans()):
        enough = -(-top_k // size)
        kind = draw(st.sampled_from(["max", "top2_sum"])) if size > 1 else "max"
        groups = GroupSpec(count, draw(st.integers(enough, count)), kind)
    spec = RouterSpec(
        count * size, top_k, score, over, normalise, draw(st.sampled_from([0.0, 1e-6])) if normalise else 0.0,
        draw(st.sampled_from([1.0, 0.5, 2.5])), draw(st.booleans()), over != "near" and draw(st.booleans()), groups,
        draw(st.booleans()), near=draw(st.sampled_from([0.0, 0.02, 1.0])) if over == "near" else 0.0,
    )  # fmt: skip
    spec.check("router", num_sparse=1)
    rng = np.random.default_rng(draw(st.integers(0, 1 << 20)))
    numbers = data_for(spec, 1, seed=int(rng.integers(1 << 20)))
    logits = rng.normal(0, 3, (3, spec.num_experts)).astype(np.float32)
    found = Router(spec, (0,), numbers).route(0, logits)
    chosen, weights = expected(spec, numbers, 0, logits, np.zeros(3, np.int32))
    wide = (logits if numbers.logit_bias is None else logits + numbers.logit_bias[0]).astype(np.float64)
    compared = routing_reference.compared(spec, wide, row_of(numbers.selection_bias, 0))
    for t in range(3):  # what is equal to within rounding may be chosen either way
        for ours, theirs in zip(sorted(found.topk_ids[t]), sorted(chosen[t]), strict=True):
            assert ours == theirs or compared[t][ours] == pytest.approx(compared[t][theirs], rel=1e-5, abs=1e-6)
    if found.topk_ids.tolist() == chosen.tolist():
        np.testing.assert_allclose(found.topk_weights, weights, rtol=5e-6, atol=1e-30)
    assert (np.diff(np.abs(found.topk_weights), axis=1) <= 0).all(), "heaviest first"


def native(spec: RouterSpec, data: RouterData, isa: str) -> NativeRouter:
    groups = spec.groups or GroupSpec(0, 0)
    return NativeRouter(
        E, len(LAYERS), score=spec.score, over_chosen=spec.softmax_over == "chosen", normalise=spec.normalise,
        epsilon=spec.norm_epsilon, scale=spec.scale, groups=groups.count, chosen_groups=groups.chosen,
        two_best=groups.score == "top2_sum", selection_bias=data.selection_bias, expert_scale=data.expert_scale,
        table=data.hashed_experts, near=spec.near if spec.softmax_over == "near" else -1.0, isa=isa,
    )  # fmt: skip


@pytest.mark.parametrize("rule", RULES)
def test_every_instruction_set_gives_the_same_bits(rule):
    spec, rng = RULES[rule], np.random.default_rng(2)
    data = data_for(spec, len(LAYERS))
    logits = (10 ** rng.uniform(-2, 2, (64, 1)) * rng.normal(size=(64, E))).astype(np.float32)
    tokens = rng.integers(0, VOCABULARY, 64).astype(np.int32)
    results = []
    for isa in router_isas():
        router, out = native(spec, data, isa), [np.empty((64, K), np.int32), np.empty((64, K), np.float32)]
        preference = np.empty_like(logits)
        router.route(0, logits, *out, tokens)
        router.preference(1, logits, preference)
        results.append([a.tobytes() for a in (*out, preference)])
    assert router_isas()[-1] == "base"
    assert all(result == results[0] for result in results)
    with pytest.raises(ValueError, match="no instruction set 'mmx'"):
        native(spec, data, "mmx")


@pytest.mark.parametrize("rule", RULES)
def test_all_layers_at_once_are_the_layers_one_by_one(rule):
    spec, rng = RULES[rule], np.random.default_rng(3)
    router = Router(spec, LAYERS, data_for(spec, len(LAYERS)))
    logits = rng.normal(0, 2, (len(LAYERS), 4, E)).astype(np.float32)
    tokens = rng.integers(0, VOCABULARY, 4).astype(np.int32)
    single = {layer: router.route(layer, rows, tokens) for layer, rows in zip(LAYERS, logits, strict=True)}
    recorded = np.stack([single[layer].logits for layer in LAYERS])  # a bias of the logits is in what was recorded
    for layer, together in router.route_recorded(recorded, tokens).items():
        assert together.topk_ids.tolist() == single[layer].topk_ids.tolist()
        assert (together.topk_weights == single[layer].topk_weights).all()


@pytest.mark.parametrize("rule", RULES)
def test_what_the_router_prefers_and_how_it_weighs_lead_to_its_own_choice(rule):
    """The two things policies ask for, put together, are the routing they are asked about."""
    spec, rng = RULES[rule], np.random.default_rng(4)
    router = Router(spec, LAYERS, data_for(spec, len(LAYERS)))
    for layer in LAYERS:
        logits = rng.normal(0, 2, (6, E)).astype(np.float32)
        routing = router.route(layer, logits, rng.integers(0, VOCABULARY, 6).astype(np.int32))
        preference = router.preference(layer, routing)
        assert np.isfinite(preference).all()
        order = np.argsort(-preference, axis=1, kind="stable")[:, :K].astype(np.int32)
        ids, weights = router.weigh(layer, routing.logits, order)
        assert ids.tolist() == routing.topk_ids.tolist()
        assert (weights == routing.topk_weights).all()


def test_weights_of_others_are_those_the_rule_gives_them():
    for rule, spec in RULES.items():
        data = data_for(spec, len(LAYERS))
        router, rng = Router(spec, LAYERS, data), np.random.default_rng(5)
        logits = rng.normal(0, 2, (1, E)).astype(np.float32)
        given = np.array([[3, 17, 0, 9, 11]], np.int32)
        ids, weights = router.weigh(2, logits, given)
        scale = row_of(data.expert_scale, 1)
        wanted = routing_reference.weights(spec, logits.astype(np.float64), ids, scale)
        np.testing.assert_allclose(weights, wanted, rtol=2e-6, err_msg=rule)
        assert sorted(ids[0]) == sorted(given[0])
        assert given.tolist() == [[3, 17, 0, 9, 11]], "the caller's array is left alone"


def test_frequencies_are_ranked_by_themselves():
    """Biases, groups and factors decided what was counted; they are not added to the counts once more."""
    shares = np.random.default_rng(6).random((2, E)).astype(np.float32)
    for spec in RULES.values():
        found = Router(spec, LAYERS, data_for(spec, len(LAYERS))).rank(np.log(shares), 7)
        assert found.topk_ids.tolist() == np.argsort(-shares, axis=1, kind="stable")[:, :7].tolist()
        assert (np.diff(found.topk_weights, axis=1) <= 0).all()


def test_odds_are_scores_in_units_of_the_best():
    logits = np.random.default_rng(7).normal(0, 3, E).astype(np.float32)
    for spec in RULES.values():
        odds = Router(spec, LAYERS, data_for(spec, len(LAYERS))).odds(logits)
        scores = routing_reference.scores(spec, logits[None].astype(np.float64))[0]
        np.testing.assert_allclose(odds, scores / scores.max(), rtol=1e-12)
    assert (np.diff(odds[np.argsort(logits)]) >= 0).all()


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("rule", RULES)
def test_logits_that_are_no_numbers_show_in_the_weights_of_every_rule(rule, bad):
    spec = RULES[rule]
    router = Router(spec, LAYERS, data_for(spec, len(LAYERS)))
    logits = np.zeros((2, E), np.float32)
    logits[0, 3] = bad
    for layer in LAYERS:
        found = router.route(layer, logits, np.zeros(2, np.int32))
        assert np.isnan(found.topk_weights[0]).all()
        assert np.isfinite(found.topk_weights[1]).all()
        assert len(set(found.topk_ids[0].tolist())) == K
        assert ((found.topk_ids >= 0) & (found.topk_ids < E)).all()


@pytest.mark.parametrize("size", [1e3, 1e30])
def test_huge_logits_do_not_overflow(size):
    for rule, spec in RULES.items():
        router = Router(spec, LAYERS, data_for(spec, len(LAYERS)))
        found = router.route(2, np.array([[size] * 3 + [-size] * (E - 3)], np.float32))
        assert np.isfinite(found.topk_weights).all(), rule
        if spec.groups is None:
            assert {0, 1, 2} <= set(found.topk_ids[0].tolist()), rule


def test_hashed_layers_need_tokens_of_the_vocabulary():
    spec = RULES["sqrt softplus, hashed"]
    router, logits = Router(spec, LAYERS, data_for(spec, len(LAYERS))), np.zeros((1, E), np.float32)
    with pytest.raises(ValueError, match="none were given"):
        router.route(1, logits)
    for token in (-1, VOCABULARY):
        with pytest.raises(ValueError, match="outside the vocabulary"):
            router.route(1, logits, np.array([token], np.int32))
    with pytest.raises(ValueError, match="has 5 experts a token"):
        router.route(1, logits, np.zeros(1, np.int32), 4)
    router.route(2, logits)  # this layer is not hashed


def test_wrong_arrays_are_refused_by_name():
    spec = RULES["sigmoid, normalised"]
    plain = native(spec, RouterData(), "auto")
    logits, ids, weights = np.zeros((2, E), np.float32), np.zeros((2, K), np.int32), np.zeros((2, K), np.float32)
    for wrong in (
        (logits[:, 1:].copy(), ids, weights), (logits, ids[:1], weights), (logits, ids, weights[:, 1:].copy()),
        (logits, np.zeros((2, E + 1), np.int32), np.zeros((2, E + 1), np.float32)), (logits, ids[:, :0], weights[:, :0]),
    ):  # fmt: skip
        with pytest.raises(ValueError, match="router: expected"):
            plain.route(0, *wrong)
    for place in (-1, len(LAYERS)):
        with pytest.raises(ValueError, match="no sparse layer"):
            plain.route(place, logits, ids, weights)
    with pytest.raises(ValueError, match="no expert 24"):
        plain.weigh(0, logits, np.full((2, K), E, np.int32), weights)
    with pytest.raises(ValueError, match=r"\[S, E\]"):
        native(spec, RouterData(selection_bias=np.zeros((1, E), np.float32)), "auto")
    with pytest.raises(ValueError, match="not there"):
        native(spec, RouterData(hashed_experts=np.full((1, 3, K), E, np.int32)), "auto")
