"""A run remembers what it used; the next one reads it before it is asked for, and says the same."""

from __future__ import annotations

import json
import shutil
import threading
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from patience import until

from edge_runtime import Engine, SamplingParams
from edge_runtime.base.errors import BundleError
from edge_runtime.engine import api
from edge_runtime.engine.job import Job
from edge_runtime.engine.observer import SchedulerObserver
from edge_runtime.engine.reload import Reload
from edge_runtime.engine.sessions import SessionPool
from edge_runtime.engine.sync_client import SyncClient
from edge_runtime.service.ops.warmup import warm

PARAMS = SamplingParams(max_tokens=24, temperature=1.0, seed=3, ignore_eos=True)
PROMPT, OTHER_PROMPT = [*range(5, 45)], [*range(60, 100)]


@pytest.fixture(autouse=True)
def state(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path))


def opened(bundle: Path, *, self_check: bool = False, **options) -> Engine:
    return Engine.open(
        bundle, self_check=self_check, context=256, threads=1, tier=8, prefetch="off", expert_memory="8MiB", **options
    )


def remembered(state_home: Path) -> list[Any]:
    """What the files of all workloads say."""
    return [json.loads(path.read_text()) for path in sorted(state_home.glob("hobbit-edge/warm/*"))]


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


def warmed(engine: Engine) -> tuple[Any, ...]:
    """What was preloaded, what is in memory, and what the next request finds there."""
    wait_until_warm(engine)
    state = engine.parts.preload.to_json()
    residents = [engine.parts.cache.resident_tiers(layer).tolist() for layer in engine.spec.sparse_layers]
    experts = engine.generate(PROMPT, PARAMS).experts
    return state | {"seconds": None}, residents, {name: experts[name] for name in ("lookups", "hits", "misses")}


def test_a_reload_is_as_warm_as_a_restart(model_bundle, tmp_path, monkeypatch):
    with opened(model_bundle, warm_start="chat") as engine:
        engine.generate(PROMPT, PARAMS)
    shutil.copytree(tmp_path / "hobbit-edge", tmp_path / "again" / "hobbit-edge")
    with opened(model_bundle, warm_start="chat") as engine:
        engine.generate(OTHER_PROMPT, PARAMS)
    with opened(model_bundle, warm_start="chat") as engine:
        restarted = warmed(engine)

    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "again"))
    with opened(model_bundle, warm_start="chat") as engine:
        engine.generate(OTHER_PROMPT, PARAMS)
        former = engine.parts.preload.state
        engine.reload(Reload(policy="lossless"))
        until(lambda: engine.parts.preload.state is not former, "preloading begins anew")
        assert warmed(engine) == restarted
    assert remembered(tmp_path / "again") == remembered(tmp_path) != []


@pytest.fixture
def ran_once(model_bundle, tmp_path, monkeypatch) -> list[Any]:
    """What is remembered of one run of PROMPT, in another state folder; from here on nothing happens between calls."""
    with monkeypatch.context() as patch:
        patch.setenv("XDG_STATE_HOME", str(tmp_path / "once"))
        with opened(model_bundle, warm_start="chat") as engine:
            engine.generate(PROMPT, PARAMS)
    monkeypatch.setattr(SyncClient, "watch_when_idle", lambda self: None)
    found = remembered(tmp_path / "once")
    assert found
    return found


def test_a_reload_remembers_what_ran_before_it(model_bundle, tmp_path, ran_once):
    """By itself: what is forgotten after it is what ran after it."""
    with opened(model_bundle, warm_start="chat") as engine:
        engine.generate(PROMPT, PARAMS)
        engine.reload(Reload(policy="lossless"))
        assert remembered(tmp_path) == ran_once
        engine.start_over()
    assert remembered(tmp_path) == ran_once


def test_a_reload_that_cannot_write_goes_through_and_the_end_writes(model_bundle, tmp_path, ran_once):
    (tmp_path / "hobbit-edge").mkdir(exist_ok=True)
    (tmp_path / "hobbit-edge/warm").write_text("a file where a folder should be")
    with opened(model_bundle, warm_start="chat") as engine:
        engine.generate(PROMPT, PARAMS)
        engine.reload(Reload(policy="hobbit"))
        assert engine.parts.active.policy.name == "hobbit"
        (tmp_path / "hobbit-edge/warm").unlink()
    assert remembered(tmp_path) == ran_once


def test_a_service_remembers_at_a_reload_too_and_once(model_bundle, tmp_path, ran_once):
    with opened(model_bundle, warm_start="chat") as engine:
        scheduler = engine.hand_over(SessionPool.of(engine.parts), SchedulerObserver())
        scheduler.begin(Job(np.array(PROMPT, np.int32), PARAMS, lambda event: None))
        while scheduler.step():
            pass
        for _ in range(2):
            scheduler.apply(Reload(policy="lossless"))
            assert remembered(tmp_path) == ran_once
        while scheduler.tend():
            time.sleep(0.001)
        scheduler.apply(Reload(expert_memory="6MiB"))
    assert remembered(tmp_path) == ran_once


def test_what_a_start_runs_by_itself_is_not_remembered(model_bundle, tmp_path):
    with opened(model_bundle, warm_start="chat", self_check=True) as engine:
        checked = engine.parts.cache.counters.lookups
        assert checked, "the self-check ran"
        warm(engine)
        assert engine.parts.cache.counters.lookups > checked
    assert remembered(tmp_path) == []


def test_a_start_that_fails_is_not_remembered_and_leaves_no_thread(model_bundle, tmp_path, monkeypatch):
    def fail(engine: Engine, *_: object, **__: object) -> None:
        engine.generate(PROMPT, PARAMS)
        raise BundleError("self-check: no")

    monkeypatch.setattr(api, "check_once", fail)
    before = set(threading.enumerate())
    with pytest.raises(BundleError, match="self-check: no"):
        opened(model_bundle, warm_start="chat", self_check=True)
    assert remembered(tmp_path) == []
    assert set(threading.enumerate()) <= before
