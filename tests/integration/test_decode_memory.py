"""Decoding a token leaves nothing behind, and needs no large array of its own but the logits it draws from."""

from __future__ import annotations

import tracemalloc

import pytest

from edge_runtime import Engine, SamplingParams

LOGITS_COPIES = 3  # float64 candidates, their probabilities and the running sum, at most a vocabulary each
SMALL = 48 << 10  # plans, views and tickets


@pytest.mark.parametrize("policy", ["lossless", "hobbit"])
@pytest.mark.parametrize("expert_memory", ["64MiB", "2MiB"])
def test_a_decode_step_allocates_next_to_nothing(model_bundle, policy, expert_memory):
    params = SamplingParams(max_tokens=360, temperature=1.0, seed=3, ignore_eos=True)
    options = {"memory": "1GiB", "expert_memory": expert_memory, "context": 512, "threads": 1, "policy": policy}
    with Engine.open(model_bundle, self_check=False, **options) as engine:
        engine.generate([5, 6, 7], SamplingParams(max_tokens=40, ignore_eos=True))
        held: list[int] = []
        peaks: list[int] = []
        tracemalloc.start()
        try:
            for _ in engine.stream([5, 6, 7], params):
                now, peak = tracemalloc.get_traced_memory()
                held.append(now)
                peaks.append(peak - now)
                tracemalloc.reset_peak()
        finally:
            tracemalloc.stop()
        vocabulary = engine.spec.vocab_size
    # 256 and 512 tokens are bucket boundaries of the KV cache, where bindings are made anew
    steady = slice(280, 360)
    assert max(held[steady]) - held[280] < SMALL, "something is kept with every token"
    limit = vocabulary * 4 + LOGITS_COPIES * vocabulary * 8 + SMALL
    assert max(peaks[steady]) < limit, f"a step took {max(peaks[steady])} bytes"
