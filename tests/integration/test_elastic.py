"""Memory that changes while a model speaks: the same tokens, and the process follows."""

from __future__ import annotations

import subprocess
import sys
import threading
import time
from pathlib import Path

import numpy as np
import pytest

from edge_runtime import Engine, SamplingParams
from edge_runtime.base.errors import RequestError
from edge_runtime.config import pressure
from edge_runtime.config.pressure import Pressure
from edge_runtime.engine.elastic import follower
from edge_runtime.telemetry.process import rss_bytes

MIB = 1 << 20
PARAMS = SamplingParams(max_tokens=40, temperature=1.0, seed=3, ignore_eos=True)
PROMPT = [*range(5, 45)]


def opened(bundle: Path, **options) -> Engine:
    return Engine.open(bundle, self_check=False, context=256, threads=1, tier=8, **options)


@pytest.fixture(scope="module")
def expected(model_bundle):
    with opened(model_bundle) as engine:
        return engine.generate(PROMPT, PARAMS).token_ids


def share(engine: Engine, part: float) -> int:
    """The budget that holds a share of all experts."""
    plan = engine.plan
    return plan.planned_bytes - plan.arena_bytes + int(part * plan.all_experts) * plan.slot_bytes


def touch_all(engine: Engine) -> None:
    """Have every expert read."""
    cache, spec = engine.parts.cache, engine.spec
    cache.begin_pass()
    for layer in spec.sparse_layers:
        for _ in cache.stream(layer, np.full(spec.num_experts, engine.plan.tier, np.uint8)):
            pass
    cache.end_pass()


def test_resized_in_mid_generation_it_says_the_same_and_the_process_follows(model_bundle, expected):
    """100, 40 and 100 % of the experts."""
    with opened(model_bundle) as engine:
        touch_all(engine)
        stream = engine.stream(PROMPT, PARAMS)
        full, arena = rss_bytes(), engine.plan.arena_bytes
        for number, _ in enumerate(stream):
            if number == 10:
                small = engine.resize(memory=share(engine, 0.4))
                assert small.num_slots == int(0.4 * small.all_experts)
                started = time.monotonic()
                while rss_bytes() > full - 0.5 * arena and time.monotonic() < started + 2:
                    time.sleep(0.01)
                assert rss_bytes() <= full - 0.5 * arena, "60 % of the arena went back to the system"
            if number == 25:
                low = rss_bytes()
                engine.resize(memory="auto")
        assert engine.last_report().token_ids == expected
        touch_all(engine)
        assert rss_bytes() > low + 0.4 * arena, "and is used again"
        assert engine.plan.num_slots == engine.plan.all_experts
        assert engine.generate(PROMPT, PARAMS).token_ids == expected


def test_another_thread_may_resize_while_tokens_come(model_bundle, expected):
    with opened(model_bundle) as engine:
        sizes = [share(engine, part) for part in (0.5, 0.3, 0.8)]
        seen: list[int] = []
        over = threading.Event()

        def resize():
            number = 0
            while not over.is_set():
                seen.append(engine.resize(memory=sizes[number % 3]).num_slots)
                number += 1

        thread = threading.Thread(target=resize)
        thread.start()
        try:
            for _ in range(3):
                assert engine.generate(PROMPT, PARAMS).token_ids == expected
        finally:
            over.set()
            thread.join()
    assert len(set(seen)) == 3, "it got its turn between tokens, again and again"


def test_from_inside_a_pass_it_is_refused_and_behind_the_end_too(model_bundle):
    engine = opened(model_bundle)

    class Meddler:
        def __getattr__(self, name):
            return getattr(engine.parts.active.choice.policy, name)

        def begin_pass(self, *args, **kwargs):
            engine.resize(memory="auto")

    with engine.deciding_with(Meddler()):
        pass
    engine.parts.active.policy, policy = Meddler(), engine.parts.active.policy
    with pytest.raises(RequestError, match="inside|a pass is running"):
        engine.generate(PROMPT, PARAMS)
    engine.parts.active.policy = policy
    engine.close()
    with pytest.raises(RequestError, match="closed"):
        engine.resize(memory="auto")


class Machine:
    """What others leave of the memory, in shares of the experts; counts how often it was looked at."""

    def __init__(self) -> None:
        self.engine: Engine | None = None
        self.part, self.looks = 1.2, 0
        self.at: dict[int, float] = {}

    def look(self, *_, **__) -> Pressure:
        self.looks += 1
        self.part = self.at.get(self.looks, self.part)
        return Pressure(1 << 40 if self.engine is None else share(self.engine, self.part))


@pytest.fixture
def machine(monkeypatch):
    found = Machine()
    monkeypatch.setattr(pressure.PressureWatch, "look", found.look)
    monkeypatch.setattr(follower, "EVERY_S", 0.0)
    return found


def test_an_elastic_engine_shrinks_between_tokens_and_says_the_same(model_bundle, expected, machine):
    with opened(model_bundle, elastic=True) as engine:
        machine.engine = engine
        assert engine.generate(PROMPT, PARAMS).memory["elastic"]["shrunk"] == 0
        for number, _ in enumerate(engine.stream(PROMPT, PARAMS)):
            machine.part = 0.5 if number >= 10 else 1.2
        report = engine.last_report()
        assert report.token_ids == expected
        assert report.memory["elastic"]["shrunk"] >= 1
        assert engine.plan.num_slots < 0.5 * engine.plan.all_experts
        assert report.memory["elastic"]["budget_bytes"] == engine.plan.planned_bytes


def test_a_long_prompt_gives_memory_back_while_it_runs(model_bundle, machine):
    with opened(model_bundle) as engine:
        wanted = engine.logits([*range(5, 125)], chunk=120)
    with opened(model_bundle, elastic=True, expert_memory="16MiB") as engine:
        machine.engine = engine
        slots = []
        inner = engine.parts.trunk.run_layer

        def run_layer(*args):
            slots.append(engine.parts.cache.num_slots)
            machine.part = 0.3 if len(slots) >= 4 else 1.2
            return inner(*args)

        engine.parts.trunk.run_layer = run_layer
        got = engine.logits([*range(5, 125)], chunk=120)
    assert (got == wanted).all()
    layers = len(engine.parts.spec.layers)
    assert slots[0] > slots[layers - 1], "in the middle of the only pass"


def test_without_the_option_nothing_is_looked_at(model_bundle, machine):
    with opened(model_bundle) as engine:
        assert engine.generate(PROMPT, PARAMS).memory["elastic"] is None
    assert machine.looks == 0


def test_an_idle_engine_gives_back_what_others_need(model_bundle, machine):
    with opened(model_bundle, elastic=True) as engine:
        machine.engine = engine
        machine.part = 0.4
        deadline = time.monotonic() + 60
        while engine.plan.num_slots == engine.plan.all_experts and time.monotonic() < deadline:
            time.sleep(0.01)
        assert engine.plan.num_slots < 0.4 * engine.plan.all_experts


def test_a_script_that_ends_behind_an_elastic_engine_says_nothing(model_bundle):
    """The watch of an idle engine has ended when `close` returns: nothing of ours is left for the interpreter's end."""
    script = (
        "import sys, threading\n"
        "from edge_runtime import Engine\n"
        "with Engine.open(sys.argv[1], memory='1GiB', context=64, tier=4, self_check=False, elastic=True) as engine:\n"
        "    assert 'hobbit-elastic' in [thread.name for thread in threading.enumerate()]\n"
        "assert 'hobbit-elastic' not in [thread.name for thread in threading.enumerate()]\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", script, str(model_bundle)], capture_output=True, text=True, check=False
    )
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")
