"""A run remembers what it used; the next one reads it before it is asked for, and says the same."""

from __future__ import annotations

import time
from pathlib import Path

import pytest

from edge_runtime import Engine, SamplingParams

PARAMS = SamplingParams(max_tokens=24, temperature=1.0, seed=3, ignore_eos=True)
PROMPT = [*range(5, 45)]


@pytest.fixture(autouse=True)
def state(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path))


def opened(bundle: Path, **options) -> Engine:
    return Engine.open(
        bundle, self_check=False, context=256, threads=1, tier=8, prefetch="off", expert_memory="8MiB", **options
    )


def hit_rate(report) -> float:
    return report.experts["hits"] / report.experts["lookups"]


def wait_until_warm(engine: Engine) -> None:
    deadline = time.monotonic() + 120
    while not engine.parts.preload.state.is_over and time.monotonic() < deadline:
        time.sleep(0.01)


def test_the_second_start_is_warm(model_bundle):
    with opened(model_bundle) as engine:
        cold = engine.generate(PROMPT, PARAMS)
        steady = engine.generate(PROMPT, PARAMS)
    assert cold.memory["preload"] is None
    with opened(model_bundle, warm_start="chat") as engine:
        for _ in range(3):
            assert engine.generate(PROMPT, PARAMS).token_ids == cold.token_ids
        assert engine.last_report().memory["preload"]["preloaded"] == 0, "nothing was remembered yet"
    with opened(model_bundle, warm_start="chat") as engine:
        wait_until_warm(engine)
        state = engine.parts.preload.to_json()
        assert state["is_over"], "an engine that nobody asks for anything warms up too"
        # the goal: within two points of the steady state after one filling of the cache
        assert state["nbytes"] <= engine.plan.arena_bytes
        warm = engine.generate(PROMPT, PARAMS)
        assert warm.token_ids == cold.token_ids
        assert warm.memory["preload"]["seconds"] > 0
    assert hit_rate(cold) < hit_rate(steady) - 0.02
    assert hit_rate(warm) >= hit_rate(steady) - 0.02, (hit_rate(cold), hit_rate(warm), hit_rate(steady))


def test_it_warms_while_requests_are_served(model_bundle):
    with opened(model_bundle, warm_start="chat") as engine:
        engine.generate(PROMPT, PARAMS)
    with opened(model_bundle, warm_start="chat") as engine:
        said = engine.generate(PROMPT, PARAMS)
        wait_until_warm(engine)
        assert engine.parts.preload.state.is_over
    with opened(model_bundle) as engine:
        assert engine.generate(PROMPT, PARAMS).token_ids == said.token_ids


def test_other_workloads_know_nothing_of_it(model_bundle):
    with opened(model_bundle, warm_start="chat") as engine:
        engine.generate(PROMPT, PARAMS)
    with opened(model_bundle, warm_start="code") as engine:
        wait_until_warm(engine)
        assert engine.parts.preload.to_json()["wanted"] == 0
