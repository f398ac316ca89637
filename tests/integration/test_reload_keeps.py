"""What a reload leaves as it was: experts if memory alone changes, all if it is impossible, requests that run."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from reload_cases import LESS_MEMORY, PROMPTS, judge_nothing_by_the_clock, opened, ran, reload, setting

from edge_runtime.engine.job import Job, Outcome
from edge_runtime.engine.observer import SchedulerObserver
from edge_runtime.engine.reload import Reload
from edge_runtime.engine.sampler import SamplingParams
from edge_runtime.engine.sessions import SessionPool


@pytest.fixture(autouse=True)
def _nothing_is_tried_by_the_clock(monkeypatch):
    judge_nothing_by_the_clock(monkeypatch)


def test_layer_sizes_follow_a_change_of_memory_which_keeps_experts(calibrated_bundle):
    with opened(calibrated_bundle, "lossless", eviction="layer-sizes", expert_memory=LESS_MEMORY) as engine:
        expected = engine.parts.active.rule.sizes.tolist()
    with opened(calibrated_bundle, "lossless", eviction="layer-sizes") as engine:
        ran(engine)
        policy, rule = engine.parts.active.policy, engine.parts.active.rule
        assert rule.sizes.tolist() != expected
        reload(engine, expert_memory=LESS_MEMORY)
        assert rule.sizes.tolist() == expected
        assert (engine.parts.active.policy, engine.parts.active.rule) == (policy, rule)
        cache = engine.parts.cache
        assert sum((cache.resident_tiers(layer) > 0).sum() for layer in engine.spec.sparse_layers) == cache.num_slots


@pytest.mark.parametrize("trunk", ["native", "onnx"])
def test_memory_for_everything_ends_looking_ahead_and_less_begins_it_again(model_bundle, trunk):
    with opened(model_bundle, "lossless", prefetch="lookahead:adaptive=false", trunk=trunk) as engine:
        bytes_before = engine.parts.trunk.weight_bytes
        assert engine.parts.decoder.prefetcher is not None
        engine.resize(expert_memory="1GiB")
        assert engine.parts.decoder.prefetcher is None
        freed = bytes_before - engine.parts.trunk.weight_bytes
        assert freed > 0 if trunk == "onnx" else freed == 0, "the native trunk has the routers in any case"
        engine.resize(expert_memory=LESS_MEMORY)
        assert engine.parts.trunk.weight_bytes == bytes_before
        assert engine.generate(PROMPTS[0], SamplingParams(max_tokens=8)).experts["prefetch"]["issued"] > 0


def test_a_change_that_is_impossible_changes_nothing(model_bundle):
    with opened(model_bundle, "lossless", prefetch="off") as engine:
        was, tokens = setting(engine), ran(engine)[0][0]
        for change in (
            {"policy": "nonsense"},
            {"policy": "rate-distortion"},
            {"policy": "skip", "expert_memory": "1KiB"},
        ):
            with pytest.raises(Exception, match=r"policy|eviction|expert-memory"):
                reload(engine, **change)
            assert setting(engine) == was
            assert ran(engine)[0][0] == tokens


def test_a_request_that_runs_goes_on_and_what_it_computed_is_not_used_again(model_bundle):
    with opened(model_bundle, "hobbit") as engine:
        scheduler = engine.hand_over(SessionPool.of(engine.parts), SchedulerObserver())

        def begin(prompt: str, max_tokens: int) -> list[Any]:
            ids, events = np.array(engine.tokenizer.encode(prompt), np.int32), []
            scheduler.begin(Job(ids, SamplingParams(max_tokens=max_tokens, ignore_eos=True), events.append))
            return events

        running = begin(PROMPTS[0], 8)
        while not running:
            scheduler.step()
        scheduler.apply(Reload(policy="lossless"))
        while scheduler.step():
            pass
        assert len(running) == 9
        assert isinstance(running[-1], Outcome)
        following = begin(PROMPTS[1], 4)
        while scheduler.step():
            pass
        assert following[-1].timings.cached_n == 0
    with opened(model_bundle, "lossless") as engine:
        expected = engine.generate(PROMPTS[1], SamplingParams(max_tokens=4, ignore_eos=True))
        assert [event.delta.token_id for event in following[:-1]] == expected.token_ids
