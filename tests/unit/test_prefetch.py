"""Prefetching: right layers at right tiers, masks, adaptive depth; and it stays on only while it saves time."""

from __future__ import annotations

import dataclasses

import numpy as np
import onnx
import pytest
from policy_cases import route
from prefetch_bench import SHAPE, Bench, E, K, L, routing_of

from edge_runtime.backends.cpu.trunk.router_stack import load_routers
from edge_runtime.base.errors import BundleError, ConfigError
from edge_runtime.base.spec import RouterSpec
from edge_runtime.bundle.bundle import Bundle
from edge_runtime.bundle.manifest_file import read
from edge_runtime.bundle.part_names import ROUTERS
from edge_runtime.experts.store.base import ExpertKey, Priority
from edge_runtime.policy import create_policy
from edge_runtime.policy.joint import PassPolicies
from edge_runtime.policy.routing import Router
from edge_runtime.prefetch import parse_prefetch
from edge_runtime.prefetch.governor import Governor
from edge_runtime.prefetch.lookahead import LookAhead
from edge_runtime.prefetch.overlap import OverlapReads
from edge_runtime.prefetch.prefetcher import Prefetcher


def test_on_a_slow_drive_that_idles_prefetching_stays_on():
    governor = Governor(window=8)
    states = Bench(10, governor=governor).decode(400)
    assert sum(states[100:]) > 0.7 * 300
    assert governor.saved_ns_per_token > 5000


def test_on_a_fast_drive_it_switches_itself_off():
    governor = Governor(window=8)
    states = Bench(1, governor=governor).decode(400)
    assert sum(states[100:]) < 0.25 * 300
    assert governor.saved_ns_per_token < 0


def test_on_a_busy_drive_wrong_guesses_switch_it_off():
    governor = Governor(window=8)
    bench = Bench(9, right=False, serial=True, governor=governor)
    states = bench.decode(400)
    assert sum(states[100:]) < 0.25 * 300
    assert bench.cache.counters.prefetch_wasted > 10


def test_prefetch_comes_back_when_the_drive_slows_down_and_stops_when_it_recovers():
    governor = Governor(window=8, max_hold=8)
    bench = Bench(1, governor=governor)
    bench.decode(300)
    assert not all(bench.decode(20))
    bench.ticks = 10
    assert sum(bench.decode(600)[300:]) > 0.7 * 300
    bench.ticks = 1
    assert sum(bench.decode(600)[300:]) < 0.4 * 300
    assert governor.switches >= 2


def test_the_first_layer_that_lacks_something_is_read_for_and_all_before_it_are_kept():
    bench = Bench(5, governor=None)
    bench.predictor.future = {layer: [1, 2] for layer in range(L)}
    kept, prefetch_predicted = [], bench.cache.prefetch_predicted

    def noted(layer, ids, tiers):
        kept.append((layer, np.flatnonzero(tiers).tolist()))
        return prefetch_predicted(layer, ids, tiers)

    bench.cache.prefetch_predicted = noted
    bench.cache.begin_pass()
    for _ in bench.cache.stream(1, bench.policy.decide(1, routing_of(1, 2), bench.cache).tiers):
        pass
    bench.prefetcher.begin_pass(1)
    bench.prefetcher.after(0, np.zeros((1, 1), np.float32), routing_of(3, 4))
    assert [key for key, priority in bench.store.submitted if priority is Priority.NEXT] == [
        ExpertKey(2, 1), ExpertKey(2, 2),
    ]  # fmt: skip
    assert (1, [1, 2]) in kept
    bench.prefetcher.begin_pass(7)
    bench.prefetcher.after(0, np.zeros((7, 1), np.float32), routing_of(3, 4))
    assert bench.store.submitted[-1][0] == ExpertKey(2, 2), "prompts are not looked ahead for"


def test_sequences_side_by_side_are_looked_ahead_for_together_the_surest_first():
    bench = Bench(5, governor=None)
    rows = [routing_of(1, 2), routing_of(3, 1)]
    joint = route(np.concatenate([row.logits for row in rows]), K, norm_topk_prob=True)
    bench.predictor.max_tokens = 2
    bench.predictor.predict = lambda layer_idx, x, routing: iter([(1, joint)])
    bench.prefetcher.begin_pass(2)
    bench.prefetcher.decide_with(PassPolicies([bench.policy] * 2, [1, 1]))
    assert bench.prefetcher.looks_first is False
    bench.prefetcher.before(np.zeros((2, 1), np.float32), None)
    bench.prefetcher.after(0, np.zeros((2, 1), np.float32), joint)
    assert [key for key, _ in bench.store.submitted] == [(1, 1), (1, 3), (1, 2)]


def test_each_policy_predicts_for_its_own_sequence():
    bench = Bench(5, governor=None)
    joint = route(np.concatenate([routing_of(1, 2).logits, routing_of(3, 4).logits]), K, norm_topk_prob=True)
    bench.predictor.max_tokens = 2
    bench.predictor.predict = lambda layer_idx, x, routing: iter([(1, joint)])
    bench.prefetcher.begin_pass(2)
    skipping = create_policy("lexi:k=1", SHAPE)
    skipping.predict_tiers = lambda layer, routing, residency: skipping.decide(layer, routing, residency).tiers
    bench.prefetcher.decide_with(PassPolicies([skipping, bench.policy], [1, 1]))
    bench.prefetcher.after(0, np.zeros((2, 1), np.float32), joint)
    assert sorted(key.expert_idx for key, _ in bench.store.submitted) == [1, 3, 4], "2 is the first one's second expert"


@pytest.mark.parametrize("is_asked", [False, True])
def test_a_pass_in_which_a_policy_reads_residency_is_left_out_unless_somebody_asked(is_asked):
    bench = Bench(5, governor=None)
    prefetcher = Prefetcher(bench.predictor, bench.cache, None, is_asked=is_asked)
    bench.predictor.future = {layer: [1, 2] for layer in range(L)}
    bench.predictor.max_tokens = 2
    for policies in ([bench.policy], [bench.policy, create_policy("max-rank", SHAPE)]):
        prefetcher.begin_pass(len(policies))
        prefetcher.decide_with(PassPolicies(policies, [1] * len(policies)))
        assert prefetcher.is_reading == (is_asked or len(policies) == 1)
    both = route(np.concatenate([routing_of(1, 2).logits] * 2), K, norm_topk_prob=True)
    bench.predictor.predict = lambda layer_idx, x, routing: iter([(1, both)])
    prefetcher.after(0, np.zeros((2, 1), np.float32), both)
    assert bool(bench.store.submitted) == is_asked


def test_hobbit_predicts_high_and_low():
    policy = create_policy("hobbit:t1=0.4,t2=0.9", SHAPE)

    class Nothing:
        def resident_tiers(self, layer_idx):
            return np.zeros(E, np.uint8)

    tiers = policy.predict_tiers(1, routing_of(5, 6), Nothing())
    assert {e: int(tiers[e]) for e in np.flatnonzero(tiers)} == {5: 8, 6: 2}


def states_of(governor: Governor, costs: list[float]) -> list[bool]:
    """The states tokens of these costs ran in."""
    states = []
    for cost in costs:
        states.append(governor.is_on)
        governor.token(cost)
    return states


def test_governor_by_hand():
    governor = Governor(window=4, hold=1, margin=0)
    assert states_of(governor, [10, 10, 6, 6, 10, 10, 6, 6]) == [False, False, True, True] * 2
    assert governor.is_on, "both ways were tried, this one was cheaper"
    assert governor.saved_ns_per_token == 4
    assert all(states_of(governor, [6] * 4)), "it is kept for a window"
    assert not governor.is_on, "time for another trial"
    states_of(governor, [10, 10, 18, 18] * 2)  # on became worse: mean of 6 and 18
    assert governor.saved_ns_per_token == -2
    assert not governor.is_on
    assert governor.switches == 2


def test_what_changes_for_all_tokens_does_not_mislead_it():
    """Costs that fall while the cache fills, and other work that comes and goes, are larger than what is judged."""
    rng = np.random.default_rng(0)
    for saved, wanted in ((0.06, True), (-0.06, False)):
        governor, states = Governor(), []
        for token in range(3000):
            states.append(governor.is_on)
            others = 1.5 if rng.random() < 0.05 or token // 24 % 3 == 0 else 1.0
            governor.token((100 + 300 * 0.98**token) * others * (1 - saved * governor.is_on))
        assert np.mean(np.array(states[32:]) == wanted) > 0.9


def test_lookahead_is_the_routers_applied_to_the_present_state():
    rng = np.random.default_rng(0)
    routers, x = rng.standard_normal((3, E, 8)).astype(np.float32), rng.standard_normal((3, 8)).astype(np.float32)

    class Stack:
        def look_ahead(self, x: np.ndarray, layer_idx: int, depth: int) -> np.ndarray:
            first = (0, 2, 3).index(layer_idx) + 1
            return np.stack([x @ router.T for router in routers[first : first + depth]])

    ahead = LookAhead(Stack(), Router(RouterSpec(E, K, normalise=True), (0, 2, 3)), depth=2)
    found = list(ahead.predict(0, x, routing_of(0, 1)))
    assert [layer for layer, _ in found] == [2, 3]
    for i, (_, predicted) in enumerate(found, 1):
        np.testing.assert_allclose(predicted.logits, x @ routers[i].T, rtol=1e-5)
    assert [layer for layer, _ in ahead.predict(2, x, routing_of(0, 1))] == [3]
    assert list(ahead.predict(3, x, routing_of(0, 1))) == []


def test_routers_of_an_older_bundle_come_out_of_its_graphs(model_bundle, tmp_path):
    """Without `trunk/routers.bin` in the manifest: what is not where the format says is named."""
    listed = read(model_bundle)
    manifest = dataclasses.replace(listed, parts=[part for part in listed.parts if part.name != ROUTERS])
    routers = load_routers(Bundle(model_bundle, manifest))
    assert routers.shape == (8, 192, 32)
    assert (routers[0] != routers[1]).any()
    (tmp_path / "trunk").mkdir()
    for name in ("layer_000.onnx", "layer_000.data"):
        (tmp_path / "trunk" / name).write_bytes((model_bundle / "trunk" / name).read_bytes())
    graph = tmp_path / "trunk" / "layer_000.onnx"
    whole = graph.read_bytes()
    graph.write_bytes(whole.replace(b"layers.0.router", b"layers.0.rooter"))
    with pytest.raises(BundleError, match=r"layer_000\.onnx: the router"):
        load_routers(Bundle(tmp_path, manifest))
    model = onnx.load_from_string(whole)
    router = next(tensor for tensor in model.graph.initializer if tensor.name == "layers.0.router")
    for entry, wrong in ((1, "1" * 7), (1, "-64"), (2, "64")):
        kept, router.external_data[entry].value = router.external_data[entry].value, wrong
        raw = model.SerializeToString()
        router.external_data[entry].value = kept
        graph.write_bytes(raw)
        sized = [
            dataclasses.replace(p, bytes=len(raw)) if p.name == "trunk/layer_000.onnx" else p for p in manifest.parts
        ]
        with pytest.raises(BundleError, match=r"layer_000\.onnx: (router: expected 24576 bytes|external data:)"):
            load_routers(Bundle(tmp_path, dataclasses.replace(manifest, parts=sized)))


def test_options():
    assert parse_prefetch("lookahead:depth=3") == ("lookahead", {"depth": 3, "adaptive": True})
    assert parse_prefetch("off") == ("off", {})
    with pytest.raises(ConfigError, match="Did you mean 'lookahead'"):
        parse_prefetch("lookahed")
    with pytest.raises(ConfigError, match="expected 1 to 16"):
        parse_prefetch("lookahead:depth=0")


def early_bench(slots: int) -> Bench:
    """A bench whose arena holds this many experts."""
    bench = Bench(5, governor=None)
    bench.cache.resize(slots)
    return bench


def test_one_sequences_reads_begin_before_the_layer_is_asked_for():
    bench = early_bench(20)
    overlap = OverlapReads(bench.cache)
    bench.cache.begin_pass()
    overlap.begin(0, routing_of(3, 4), bench.policy)
    assert sorted(key.expert_idx for key, _ in bench.store.submitted) == [3, 4]
    first, second = routing_of(3, 4), routing_of(4, 7)
    both = route(np.concatenate([first.logits, second.logits]), K, norm_topk_prob=True)
    tiers = bench.policy.decide(0, both, bench.cache).tiers
    came = [int(e) for batch in bench.cache.stream(0, tiers) for e in batch.experts]
    assert sorted(came) == [3, 4, 7]
    assert bench.store.reads == 3, "each is read once"
    counters = bench.cache.counters
    assert (counters.prefetch_issued, counters.prefetch_wasted) == (2, 0)
    assert counters.prefetch_used + counters.prefetch_late == 2
    bench.cache.end_pass()


def test_overlap_reads_do_not_evict_what_a_sequence_before_found():
    bench = early_bench(4)
    overlap = OverlapReads(bench.cache)
    for layer, experts in ((0, (1, 2)), (1, (5, 6))):  # fills the arena; 1 and 2 are the oldest
        bench.cache.begin_pass()
        for _ in bench.cache.stream(layer, bench.policy.decide(layer, routing_of(*experts), bench.cache).tiers):
            pass
        bench.cache.end_pass()
    bench.cache.begin_pass()
    overlap.begin(0, routing_of(1, 2), bench.policy)
    overlap.begin(0, routing_of(8, 9), bench.policy)
    assert bench.cache.resident_tiers(0)[[1, 2]].all()
    assert not bench.cache.resident_tiers(1)[[5, 6]].any()


def test_policies_that_look_at_residency_are_left_alone():
    bench = early_bench(20)
    OverlapReads(bench.cache).begin(0, routing_of(3, 4), create_policy("cache-prior:lambda=0.3", SHAPE))
    assert bench.store.submitted == []
