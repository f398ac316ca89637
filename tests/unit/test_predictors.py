"""Predictors by hand: FineMoE's expert maps, EdgeMoE's statistics, and predictions on record."""

from __future__ import annotations

import numpy as np
import pytest
from policy_cases import route, routed

from edge_runtime.base.spec import RouterSpec
from edge_runtime.policy.base import Routing
from edge_runtime.policy.routing import Router
from edge_runtime.prefetch.expert_map import ExpertMapMatching, ExpertMaps, map_store_bytes
from edge_runtime.prefetch.recorded import RecordedPredictor, RecordingPredictor
from edge_runtime.prefetch.statistical import StatisticalPreload, counts_bytes

E, K, D = 4, 2, 3
ROUTER = Router(RouterSpec(E, K, normalise=True), (0, 2, 5))


def likely(*probabilities: float) -> Routing:
    return routed(*probabilities, num_experts=E, top_k=K)


def state(*values: float) -> np.ndarray:
    return np.array([values], np.float32)


def run(predictor, x: np.ndarray, layers: dict[int, Routing]) -> dict[int, list[tuple[int, list[int]]]]:
    """Show a token layer by layer; return what was predicted at each: (layer, experts)."""
    return {
        layer: [(to, predicted.topk_ids[0].tolist()) for to, predicted in predictor.predict(layer, x, routing)]
        for layer, routing in layers.items()
    }


def maps(depth: int, capacity: int = 4) -> ExpertMapMatching:
    return ExpertMapMatching(ROUTER, D, np.asarray, depth=depth, capacity=capacity)


A = {0: likely(0.7, 0.2, 0.06, 0.04), 2: likely(0.7, 0.2, 0.06, 0.04), 5: likely(0.1, 0.1, 0.6, 0.2)}
B = {0: likely(0.04, 0.06, 0.2, 0.7), 2: likely(0.04, 0.06, 0.2, 0.7), 5: likely(0.6, 0.2, 0.1, 0.1)}


def test_maps_predict_what_the_nearest_token_did():
    predictor = maps(depth=1)
    assert run(predictor, state(1, 0, 0), A) == {0: [], 2: [], 5: []}, "nothing is known yet"
    run(predictor, state(0, 1, 0), B)
    # alike B in its first layers: layer 2 and 5 as B had them; the state is nearer to A, but depth 1 needs no embedding
    found = run(predictor, state(0.9, 0.1, 0), {0: B[0], 2: B[2], 5: A[5]})
    assert found == {0: [(2, [3, 2])], 2: [(5, [0, 1])], 5: []}


def test_the_first_layers_go_by_the_embedding():
    """With d = 2 the layer in place 1 is predicted by the nearest state, that in place 2 by the nearest map."""
    predictor = maps(depth=2)
    run(predictor, state(1, 0, 0), A)
    run(predictor, state(0, 1, 0), B)
    found = run(predictor, state(0.9, 0.1, 0), {0: B[0], 2: B[2], 5: A[5]})
    assert found[0] == [(2, [0, 1]), (5, [0, 1])]
    assert found[2] == [(5, [0, 1])]


def test_the_less_alike_the_more_experts():
    """Cosine of (1, 0, 0) and (0.6, 0.8, 0) is 0.6: delta 0.4, so the likeliest two (0.9) do; at 0.02 it is 0.98."""
    predictor = maps(depth=3)
    run(predictor, state(1, 0, 0), A)
    assert run(predictor, state(0.6, 0.8, 0), A)[0][0] == (2, [0, 1])
    predictor = maps(depth=3)
    run(predictor, state(1, 0, 0), A)
    found = run(predictor, state(0.02, 0.9998, 0), A)[0]
    assert found[0] == (2, [0, 1, 2, 3]), "0.7 + 0.2 + 0.06 = 0.96 < 0.98"
    assert found[1] == (5, [2, 3, 0, 1])


def test_a_full_store_gives_up_the_map_most_like_the_new_one():
    store = ExpertMaps(2, E, D, capacity=2, depth=1)
    one, two = np.zeros((2, E), np.float32), np.zeros((2, E), np.float32)
    one[:, 0], two[:, 1] = 1, 1
    store.add(state(1, 0, 0)[0], one)
    store.add(state(0, 1, 0)[0], two)
    new = 0.9 * two + 0.1 * one
    # half embedding, half map: with the first 0.5 * 1 + 0.5 * 0.11 = 0.56, with the second 0 + 0.5 * 0.99 = 0.50
    store.add(state(1, 0, 0)[0], new)
    assert (store.maps[0] == new).all()
    assert (store.maps[1] == two).all()
    assert store.count == 2
    store.add(state(0, 1, 0)[0], new)
    assert (store.maps[1] == new).all()


def test_a_token_that_was_not_shown_whole_gives_no_map():
    predictor = maps(depth=1)
    run(predictor, state(1, 0, 0), {0: A[0], 5: A[5]})
    run(predictor, state(1, 0, 0), A)
    assert predictor.store.count == 0
    run(predictor, state(1, 0, 0), A)
    assert predictor.store.count == 1


def test_memory_of_maps_is_what_is_planned():
    predictor = maps(depth=1, capacity=7)
    assert predictor.store.nbytes == map_store_bytes(3, E, D, 7)


def test_statistics_by_hand():
    """After expert 0 came 1 and 2; after expert 1, seen twice, 1 and 2 once and 2 and 3 once."""
    predictor = StatisticalPreload(Router(ROUTER.spec, (0, 3)), memory=10**9)
    assert run(predictor, state(0, 0, 0), {0: likely(0.6, 0.4)}) == {0: []}
    run(predictor, state(0, 0, 0), {0: likely(0.6, 0.4), 3: likely(1e-6, 0.6, 0.4)})
    run(predictor, state(0, 0, 0), {0: likely(1e-6, 0.6, 0.4), 3: likely(1e-6, 1e-6, 0.6, 0.4)})
    assert predictor.followed[0, :3].tolist() == [[0, 1, 1, 0], [0, 1, 2, 1], [0, 0, 1, 1]]
    # 0 and 1 by halves: expert 2 has 1/4 + 2/8, expert 1 1/4 + 1/8
    assert run(predictor, state(0, 0, 0), {0: likely(0.5, 0.5)}) == {0: [(3, [2, 1])]}
    assert predictor.followed.nbytes == counts_bytes(2, E)


def test_a_record_says_again_what_was_said():
    predictor = RecordingPredictor(maps(depth=2), (0, 2, 5), E, 2)
    run(predictor, state(1, 0, 0), A)
    predictor.take()
    said = run(predictor, state(0.02, 0.9998, 0), A)
    kept = predictor.take()
    assert kept.shape == (3, 2, 1, E + 1)
    replay = RecordedPredictor(ROUTER, predicts_logits=False)
    replay.load(kept)
    assert run(replay, np.zeros((1, 0), np.float32), A) == said
    assert not predictor.take().any()
    replay.load(None)
    assert list(replay.predict(0, state(0, 0, 0), A[0])) == []


def test_what_was_said_of_the_first_layer_is_kept_behind_the_last():
    class Foretelling:
        first = property(lambda self: self)

        def predict_first(self, x, token_ids):
            return 0, likely(0.6, 0.3, 0.1)

    predictor = RecordingPredictor(Foretelling(), (0, 2, 5), E, 2)
    layer, said = predictor.first.predict_first(state(0, 0, 0), None)
    kept = predictor.take()
    assert np.flatnonzero(kept[:, :, 0, 0].ravel()).tolist() == [4]
    replay = RecordedPredictor(ROUTER, predicts_logits=True)
    replay.load(kept)
    again = replay.first.predict_first(state(0, 0, 0), None)
    assert again[0] == layer == 0
    assert again[1].topk_ids.tolist() == said.topk_ids.tolist()
    assert list(replay.predict(5, state(0, 0, 0), A[0])) == []
    replay.load(kept * 0)
    assert replay.first.predict_first(state(0, 0, 0), None) is None
    assert RecordingPredictor(maps(depth=2), (0, 2, 5), E, 2).first is None


@pytest.mark.parametrize("predicts_logits", [True, False])
@pytest.mark.parametrize("count", [1, 3])
def test_weights_on_record_are_those_of_the_prediction(count, predicts_logits):
    logits = np.random.default_rng(count).normal(size=(1, E)).astype(np.float32)
    row = np.concatenate([[np.float32(count)], logits[0]])[None, None, None]
    replay = RecordedPredictor(Router(RouterSpec(E, K), (0, 1)), predicts_logits=predicts_logits)
    replay.load(np.concatenate([row, row]))
    [(layer, found)] = list(replay.predict(0, state(0, 0, 0), A[0]))
    expected = route(logits, count, norm_topk_prob=False)
    assert layer == 1
    assert (found.topk_weights == expected.topk_weights).all()
