"""The whole decode loop over the fake driver: the demo, streamed and resident, in every order work may run in."""

from __future__ import annotations

import ctypes
from pathlib import Path

import numpy as np
import pytest
from conftest import MODEL
from cuda.engines import ALL, FEW, TEXT, assert_close, logits, make_all_resident, opened, tokens

from edge_runtime import SamplingParams
from edge_runtime.base.errors import ConfigError
from edge_runtime.engine.job import Job, TokenEvent
from edge_runtime.engine.observer import SchedulerObserver
from edge_runtime.engine.sessions import SessionPool

LATE, RANDOM = (0, 1), (1, 1)
MODES = (LATE, *((1, seed) for seed in (1, 2, 3)))
PLACES = [("cpu", FEW), ("cuda", FEW), ("cuda", ALL), ("cuda,graph=false", FEW), ("cuda,graph=false", ALL)]
"""Where the trunk runs, whether a token may be a graph, and for how many experts there is room."""
MATRIX = [
    pytest.param(trunk, slots, mode, id=f"{trunk} {slots} {'random' if mode[0] else 'late'} {mode[1]}")
    for trunk, slots in PLACES for mode in MODES
]  # fmt: skip
"""Late finds what waits too little, random orders what comes too early."""
pytestmark = pytest.mark.usefixtures("over_fake")


@pytest.fixture(scope="module")
def of_cpu(model_bundle: Path) -> tuple[np.ndarray, list[int]]:
    with opened(model_bundle, "cpu", ALL) as engine:
        return logits(engine), tokens(engine)


@pytest.mark.parametrize(("trunk", "slots", "mode"), MATRIX)
def test_tokens_are_the_cpu_backends(
    model_bundle, of_cpu, fake: ctypes.CDLL, trunk: str, slots: int, mode: tuple[int, int]
):
    fake.fake_mode(*mode)
    before = fake.fake_live_regions()
    with opened(model_bundle, f"cuda:trunk={trunk}", slots, io_threads=4) as engine:
        assert engine.parts.backend.trunk[0] == trunk.partition(",")[0]
        if "graph=false" in trunk and slots == ALL:  # else routed by the GPU from the second time on
            make_all_resident(engine)
        first = logits(engine)
        assert_close(first, of_cpu[0])
        assert tokens(engine) == of_cpu[1]
        assert (logits(engine) == first).all(), "whatever is resident by now"
        assert engine.last_report().backend == "cuda"
        assert (engine.parts.cache.counters.evicted > 0) == (slots < ALL)
    assert fake.fake_live_regions() == before, "all memory was given back"


@pytest.mark.parametrize("mode", [LATE, RANDOM])
def test_the_gpu_routes_by_itself_once_everything_is_there(
    model_bundle, of_cpu, fake: ctypes.CDLL, monkeypatch, mode: tuple[int, int]
):
    fake.fake_mode(*mode)
    with opened(model_bundle, "cuda", ALL) as engine:
        make_all_resident(engine)
        before, tensors = engine.parts.cache.counters, engine.parts.backend.tensors

        def refuse(tensor: object) -> None:
            raise AssertionError("the host asked for router logits")

        monkeypatch.setattr(tensors, "to_host", refuse)
        assert_close(logits(engine), of_cpu[0])
        assert tokens(engine) == of_cpu[1]
        counted = engine.parts.cache.counters.since(before)
        assert (counted.hits > 0, counted.misses) == (True, 0)


def test_several_requests_at_once_get_what_each_gets_alone(model_bundle):
    prompts, params = [TEXT[:6], TEXT[40:52], "A"], SamplingParams(max_tokens=2, ignore_eos=True)
    with opened(model_bundle, "cuda", ALL) as engine:
        alone = [engine.generate(prompt, params).token_ids for prompt in prompts]
    with opened(model_bundle, "cuda", 40, parallel=3, prefetch="lookahead:adaptive=false") as engine:
        scheduler = engine.hand_over(SessionPool.of(engine.parts), SchedulerObserver())
        events: list[list] = [[] for _ in prompts]
        for prompt, seen in zip(prompts, events, strict=True):
            scheduler.begin(Job(np.array(engine.tokenizer.encode(prompt), np.int32), params, seen.append))
        while scheduler.step():
            pass
    assert [[each.delta.token_id for each in seen if isinstance(each, TokenEvent)] for seen in events] == alone


@pytest.mark.parametrize("trunk", ["int8", "int4"])
def test_a_quantised_trunk_gives_what_its_weights_stand_for(exported, trunk: str):
    """ONNX Runtime rounds activations to 8 bits here, the kernels do not: both are close to the weights' own numbers."""
    bundle, found = exported(MODEL, "--tiers", "4", "--trunk", trunk), {}
    for backend, options in (("cpu", {"trunk": "onnx"}), ("cuda:trunk=cuda", {})):
        with opened(bundle, backend, ALL, **options) as engine:
            found[backend] = logits(engine)
    cpu, cuda = found.values()
    assert (cpu.argmax(-1) == cuda.argmax(-1)).all()
    assert np.abs(cpu - cuda).max() <= 0.05 * np.abs(cpu).max()


def test_a_prefix_is_cut_and_copied(model_bundle):
    with opened(model_bundle, "cuda", ALL) as engine:
        params, ids = SamplingParams(max_tokens=2, ignore_eos=True), engine.tokenizer.encode(TEXT)[:6]
        expected = engine.generate(ids, params).token_ids
        again = engine.generate(ids, params, reuse_prefix=True)
        assert again.timings["cached_n"] > 0
        assert again.token_ids == expected
        trunk, kv = engine.parts.trunk, engine.parts.kv
        copy = trunk.new_kv_cache(kv.context)
        copy.copy_from(kv, 3)
        assert (copy.length, copy.nearest(9), copy.nbytes) == (3, 3, kv.nbytes)
        rest = [engine.parts.decoder.forward(np.array(ids[3:], np.int32), each, slice(0, 3)) for each in (kv, copy)][1:]
        assert engine.logits(ids, chunk=6)[3:].argmax(-1).tolist() == rest[0].argmax(-1).tolist()
        del copy


def test_a_model_the_gpus_trunk_does_not_know_runs_on_the_cpus(model_bundle, monkeypatch):
    from edge_runtime.backends.cuda.trunk import supported

    monkeypatch.setattr(supported, "why_not", lambda spec: "layer 3: attention of kind 'mla'")
    with pytest.raises(ConfigError, match=r"layer 3: attention of kind 'mla'\. Use --backend cuda:trunk=cpu"):
        opened(model_bundle, "cuda:trunk=cuda", FEW)
    with opened(model_bundle, "cuda", FEW) as engine:
        choices = engine.parts.backend.choices
    assert choices["trunk"] == "cpu"
    assert choices["trunk_reason"].startswith("the kernels lack layer 3: attention of kind 'mla'")


@pytest.mark.parametrize("mode", [(1, 5), *(pytest.param(mode, marks=pytest.mark.emulation) for mode in MODES)])
@pytest.mark.parametrize("kind", ["registered", "pinned", "device"])
def test_every_kind_of_memory_gives_the_same_bits(
    model_bundle, of_cpu, fake: ctypes.CDLL, kind: str, mode: tuple[int, int]
):
    fake.fake_mode(*mode)
    with opened(model_bundle, f"cuda:memory={kind}", FEW, io_threads=3) as engine:
        found = logits(engine)
        assert engine.parts.cache.space.kind == kind
        staged = engine.parts.plan.lines
    with opened(model_bundle, "cuda:memory=auto", FEW) as engine:
        assert engine.parts.cache.space.kind == "registered", "the fake GPU shares the system's memory"
        assert (logits(engine) == found).all()
        scratch = {line.name: line.bytes for line in engine.parts.plan.lines}["scratch"]
        landing = {line.name: line.bytes for line in staged}["scratch"] - scratch
        assert landing == (3 * engine.parts.plan.slot_bytes if kind == "device" else 0)
    assert_close(found, of_cpu[0])
