"""The first layer is read for before it runs as long as most of what its tokens name turns out to be used."""

from __future__ import annotations

import numpy as np
import pytest
from prefetch_bench import Bench, routing_of

from edge_runtime.experts.store.base import ExpertKey, Priority
from edge_runtime.policy.joint import PassPolicies
from edge_runtime.prefetch.first_look import FirstLook


class Foretelling:
    """A predictor that names experts of the first layer and knows nothing else.

    Args:
        names: experts.
    """

    max_tokens, native_depth = 1, None

    def __init__(self, *names: int) -> None:
        self.names, self.first = names, self

    def gains_by_experts(self, layer_idx):
        return False

    def predict(self, layer_idx, x, routing):
        return iter(())

    def predict_first(self, x, token_ids):
        return 0, routing_of(*self.names)


def decode(bench: Bench, used: tuple[int, ...]) -> list[ExpertKey]:
    """Run the first layer of a token, and say what was read before it was asked for."""
    routing, state = routing_of(*used), np.zeros((1, 1), np.float32)
    before = len(bench.store.submitted)
    bench.cache.begin_pass()
    bench.prefetcher.begin_pass(1)
    bench.prefetcher.before(state, np.zeros(1, np.int32))
    stream = bench.cache.stream(0, bench.policy.decide(0, routing, bench.cache).tiers)
    bench.prefetcher.after(0, state, routing)
    for _ in stream:
        pass
    bench.cache.end_pass()
    bench.prefetcher.end_pass()
    return [key for key, priority in bench.store.submitted[before:] if priority is Priority.NEXT]


def bench_of(*names: int) -> Bench:
    bench = Bench(5, governor=None)
    bench.prefetcher.predictor = Foretelling(*names)
    return bench


def test_what_the_first_layer_lacks_is_read_before_it_runs():
    bench = bench_of(3, 4)
    assert decode(bench, (3, 4)) == [ExpertKey(0, 3), ExpertKey(0, 4)]
    assert bench.prefetcher.looks_first is True
    assert decode(bench, (3, 4)) == []
    counters = bench.cache.counters
    assert (counters.prefetch_issued, counters.misses) == (2, 0)


def test_wrong_names_are_read_once_and_right_ones_again_after_a_while():
    bench = bench_of()
    bench.cache.resize(4)  # two tokens later what a token used is not there any more

    def read(names: tuple[int, int], used: tuple[int, int]) -> int:
        bench.prefetcher.predictor.names = names
        return len(decode(bench, used))

    assert [read(names, (14, 15)) for names in ((0, 1), (2, 3), (4, 5))] == [2, 0, 0]
    right = [read((n, n + 1), (n, n + 1)) for _ in range(4) for n in (2, 4, 6, 8, 10, 12)]
    assert not any(right[:5])
    assert right[-1] == 2


def test_a_prompt_is_not_looked_at():
    bench = bench_of(3, 4)
    bench.prefetcher.begin_pass(9)
    bench.prefetcher.decide_with(PassPolicies([bench.policy], [9]))
    assert bench.prefetcher.looks_first is False
    bench.prefetcher.before(np.zeros((9, 1), np.float32), np.zeros(9, np.int32))
    assert bench.store.submitted == []


def test_while_it_is_off_it_looks_now_and_then():
    look = FirstLook()
    look.expect(0, [1])
    look.see(0, (2,))
    due = []
    for _ in range(20):
        look.begin_pass()
        due.append(look.is_due)
        if look.is_due:
            look.expect(0, [])
    assert sum(due) == 2


@pytest.mark.parametrize(("used", "is_on"), [((1, 2), True), ((1, 9), True), ((8, 9), False)])
def test_half_of_them_must_be_used(used, is_on):
    look = FirstLook()
    assert look.is_on
    look.expect(3, [1, 2])
    look.see(2, (8, 9))  # another layer says nothing
    look.expect(3, [1, 2])
    look.see(3, used)
    assert look.is_on is is_on
    look.see(3, (7, 8))  # nothing was expected any more
    assert look.is_on is is_on
