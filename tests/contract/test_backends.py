"""What every backend promises the engine. `--backend NAME` runs it for one that an installed package offers."""

from __future__ import annotations

import late_backend
import numpy as np
import pytest
from conftest import MODEL

from edge_runtime import Engine, SamplingParams, backends
from edge_runtime.bundle.manifest_file import read
from edge_runtime.engine.job import Job, TokenEvent
from edge_runtime.engine.observer import SchedulerObserver
from edge_runtime.engine.reload import Reload
from edge_runtime.engine.sessions import SessionPool

TEXT = (MODEL / "heldout_python.txt").read_text()[:400]
PROMPTS = ["Once upon a time", "import os\n" * 4, "A"]
GREEDY = SamplingParams(max_tokens=4, ignore_eos=True)
TIER, ALL_SLOTS, FEW_SLOTS = 4, 256, 12
CLOSE = 2e-3
"""Of the largest logit: the claim of docs/quality.md."""


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    asked = metafunc.config.getoption("--backend")
    metafunc.parametrize("name", [asked] if asked else ["cpu", "late"])


@pytest.fixture(autouse=True)
def _late(monkeypatch: pytest.MonkeyPatch) -> None:
    late = backends.RegisteredBackend(late_backend.make, "for tests")
    monkeypatch.setitem(backends.BACKENDS, "late", late)


def opened(bundle, name: str, slots: int, **options) -> Engine:
    memory = slots * read(bundle).layout.tier_bytes(TIER)
    settings = {"context": 128, "prefill_chunk": 16, "threads": 1, "self_check": False, "tier": TIER} | options
    return Engine.open(bundle, backend=name, expert_memory=memory, **settings)


def logits(engine: Engine, chunk: int) -> np.ndarray:
    """Of a prompt in one chunk, or of a few tokens one at a time."""
    return engine.logits(engine.tokenizer.encode(TEXT)[: max(chunk, 5)], chunk=chunk)


@pytest.fixture(scope="module")
def of_cpu(model_bundle) -> dict[int, np.ndarray]:
    with opened(model_bundle, "cpu", ALL_SLOTS) as engine:
        return {chunk: logits(engine, chunk) for chunk in (1, 16)}


@pytest.mark.parametrize("chunk", [1, 16])
def test_bits_do_not_depend_on_what_is_resident(model_bundle, name, of_cpu, chunk):
    with opened(model_bundle, name, ALL_SLOTS) as engine:
        expected = logits(engine, chunk)
        assert (logits(engine, chunk) == expected).all(), "everything is in memory by now"
    assert np.abs(expected - of_cpu[chunk]).max() <= CLOSE * np.abs(of_cpu[chunk]).max()
    with opened(model_bundle, name, FEW_SLOTS, io_threads=4) as engine:
        assert (logits(engine, chunk) == expected).all()
        assert engine.parts.cache.counters.evicted > 0


def test_several_requests_at_once_get_what_each_gets_alone(model_bundle, name):
    with opened(model_bundle, name, ALL_SLOTS) as engine:
        alone = [engine.generate(prompt, GREEDY).token_ids for prompt in PROMPTS]
    with opened(model_bundle, name, 40, parallel=len(PROMPTS)) as engine:
        scheduler = engine.hand_over(SessionPool.of(engine.parts), SchedulerObserver())
        events: list[list] = [[] for _ in PROMPTS]
        for prompt, seen in zip(PROMPTS, events, strict=True):
            scheduler.begin(Job(np.array(engine.tokenizer.encode(prompt), np.int32), GREEDY, seen.append))
        while scheduler.step():
            pass
    assert [[each.delta.token_id for each in seen if isinstance(each, TokenEvent)] for seen in events] == alone


def test_memory_and_policy_change_while_open(model_bundle, name):
    with opened(model_bundle, name, 60) as engine:
        slot_bytes = engine.parts.plan.slot_bytes
        expected = engine.generate(PROMPTS[0], GREEDY).token_ids
        for slots in (20, ALL_SLOTS, FEW_SLOTS):
            engine.resize(expert_memory=slots * slot_bytes)
            assert engine.parts.cache.nbytes <= slots * slot_bytes
            assert engine.generate(PROMPTS[0], GREEDY).token_ids == expected
        engine.reload(Reload(policy="hobbit"))
        assert len(engine.generate(PROMPTS[0], GREEDY).token_ids) == len(expected)
        engine.reload(Reload(policy="lossless"))
        assert engine.generate(PROMPTS[0], GREEDY, reuse_prefix=True).token_ids == expected


def test_a_pass_that_was_given_up_leaves_nothing(model_bundle, name):
    with opened(model_bundle, name, FEW_SLOTS) as engine:
        expected = logits(engine, 16)
        for num_layers in (0, 3, 7):
            layers, kv = iter(range(num_layers)), engine.parts.trunk.new_kv_cache(32)

            def before_layer(layers=layers) -> None:
                if next(layers, None) is None:
                    raise InterruptedError

            with pytest.raises(InterruptedError):
                engine.parts.decoder.forward(np.arange(16, dtype=np.int32), kv, slice(0), before_layer)
            assert kv.length == 0
            assert (logits(engine, 16) == expected).all()
